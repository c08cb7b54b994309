"""Rules of nf_tables that live as long as who made them: libnftables in this process, one handle per namespace.

A table with `flags owner` belongs to the handle's netlink socket. The kernel removes it when that socket closes, and so
also when this process is killed. What the rules say is the caller's business.
"""

from __future__ import annotations

import ctypes
from functools import cache
from types import TracebackType
from typing import Any

LIBRARY = "libnftables.so.1"


class Nftables:
    """nf_tables of the namespace that the calling thread is in when this is made. Leaving it removes what it owns.

    Raises OSError when libnftables is not on this host.
    """

    def __init__(self) -> None:
        self._library = _libnftables()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise MemoryError("nft_ctx_new")
        self._library.nft_ctx_buffer_error(self._context)  # else it prints

    def run(self, commands: str) -> str:
        """Carries out all of the commands, or none. Gives the first line of what libnftables refused, else nothing."""
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) == 0:
            return ""
        said: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return (said.decode(errors="replace").splitlines() or ["refused, without a word"])[0]

    def close(self) -> None:
        context, self._context = self._context, None
        if context:
            self._library.nft_ctx_free(context)

    def __enter__(self) -> Nftables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def _libnftables() -> Any:
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for function, result, arguments in (
        ("nft_ctx_new", pointer, (ctypes.c_uint32,)),
        ("nft_ctx_free", None, (pointer,)),
        ("nft_ctx_buffer_error", number, (pointer,)),
        ("nft_ctx_get_error_buffer", text, (pointer,)),
        ("nft_run_cmd_from_buffer", number, (pointer, text)),
    ):
        bound = getattr(library, function)
        bound.restype = result
        bound.argtypes = arguments
    return library
