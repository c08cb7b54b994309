"""Loads a prebuilt object with libbpf: programs and maps as file descriptors, nothing pinned.

What is loaded lives as long as a file descriptor or a tc filter holds it. Attaching is not done here.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from labctl.datapath import bpf
from labctl.errors import HostLacks, StepFailed
from labctl.model.lab import Encapsulation, HostRouting
from labctl.values import dataclass

LIBBPF = "libbpf.so.1"

_WARN = 0
_LOG_BYTES = 64 * 1024
_LOG_LINES = 30


def object_path(host_routing: HostRouting, encapsulation: Encapsulation, variant: str = "") -> Path:
    """The prebuilt object of that mode, shipped beside this module. `variant` is "", `lb` for a node whose programs
    translate Services, or `kube-proxy` for one whose netfilter does (Legacy alone). Programs hand a packet and its
    tunnel's key to a device: whether that makes VXLAN or Geneve of it is the device's."""
    carried = Encapsulation.VXLAN if encapsulation.is_tunnel else encapsulation
    name = "-".join(filter(None, (host_routing, carried, variant)))
    return Path(__file__).with_name("objects") / f"{name}.o"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDatapath:
    """One loaded copy of an object: file descriptors by program name and by map name. Close it once the programs
    are attached: the filters keep them, and they keep the maps."""

    path: Path
    programs: Mapping[str, int]
    maps: Mapping[str, int]

    def close(self) -> None:
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)

    def __enter__(self) -> LoadedDatapath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def load(host_routing: HostRouting, encapsulation: Encapsulation, variant: str = "") -> LoadedDatapath:
    """A new copy of that mode's programs, with maps of their own. Raises StepFailed with libbpf's own words."""
    return load_object(object_path(host_routing, encapsulation, variant))


def load_object(
    path: Path,
    *,
    only: Collection[str] | None = None,
    reuse: Mapping[str, int] | None = None,
    netfilter: Collection[str] = (),
) -> LoadedDatapath:
    """Loads any object that libbpf takes; of its programs those of `only`, where given. The maps of `reuse`
    (descriptors by name) take the place of maps of its own, with what is in them, where name, type and sizes are the
    same. `netfilter` are programs for its hooks, whatever section they are in: libbpf knows one since 1.2 only. Raises
    HostLacks without libbpf, StepFailed with what libbpf said, whose cause is the kernel's OSError."""
    library, said = _libbpf()
    said.lines = []
    library.libbpf_set_print(library.printer)  # other code in this process may have set another
    handle = library.bpf_object__open_file(os.fsencode(path), None)
    if not handle:
        refused = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        raise _failed(path, refused, said.lines) from refused
    try:
        for item, name in _items(library, handle, "program"):
            if only is not None and name not in only:
                library.bpf_program__set_autoload(item, False)
            if name in netfilter:
                library.bpf_program__set_type(item, bpf.NETFILTER)
                library.bpf_program__set_expected_attach_type(item, bpf.AT_NETFILTER)
        for item, name in _items(library, handle, "map"):
            if reuse and name in reuse and _shape(library, item) == _shape_of(reuse[name]):
                library.bpf_map__reuse_fd(item, reuse[name])
        result = library.bpf_object__load(handle)
        if result:
            refused = OSError(-result, os.strerror(-result))
            raise _failed(path, refused, said.lines) from refused
        return LoadedDatapath(
            path=path,
            programs=_descriptors(library, handle, "program", only),
            maps=_descriptors(library, handle, "map"),
        )
    finally:
        library.bpf_object__close(handle)


def _items(library: Any, handle: int, kind: str) -> Iterator[tuple[int, str]]:
    """The programs or maps of an object, each with its name."""
    step, name = getattr(library, f"bpf_object__next_{kind}"), getattr(library, f"bpf_{kind}__name")
    item = step(handle, None)
    while item:
        yield item, name(item).decode()
        item = step(handle, item)


def _descriptors(library: Any, handle: int, kind: str, only: Collection[str] | None = None) -> dict[str, int]:
    """Duplicates, since those of libbpf are closed with its object."""
    descriptor = getattr(library, f"bpf_{kind}__fd")
    return {
        name: os.dup(descriptor(item)) for item, name in _items(library, handle, kind) if only is None or name in only
    }


def _shape(library: Any, item: int) -> tuple[int, int, int, int]:
    return (
        library.bpf_map__type(item),
        library.bpf_map__key_size(item),
        library.bpf_map__value_size(item),
        library.bpf_map__max_entries(item),
    )


def _shape_of(descriptor: int) -> tuple[int, int, int, int]:
    info = bpf.map_info(descriptor)
    return info.type, info.key_size, info.value_size, info.max_entries


def _failed(path: Path, refused: OSError, said: list[str]) -> StepFailed:
    """Of a long log the end, where the verifier gives its reason."""
    lines = "".join(said).strip().splitlines() or [str(refused.strerror)]
    return StepFailed(
        what=f"the eBPF programs of {path.name} could not be loaded",
        cause="\n".join(lines[-_LOG_LINES:]),
        remedy="labctl doctor",
    )


class _Said(threading.local):
    """What libbpf warned of in this thread, the verifier's log among it: several threads may load at the same time."""

    def __init__(self) -> None:
        self.lines: list[str] = []


_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@cache
def _libbpf() -> tuple[Any, _Said]:
    """libbpf 1.x with the types of what is used of it, and what it prints."""
    try:
        library: Any = ctypes.CDLL(LIBBPF, use_errno=True)
    except OSError as error:
        raise HostLacks(
            what=f"{LIBBPF} cannot be loaded", cause=str(error), remedy="apt-get install libbpf1"
        ) from error
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for function, result, arguments in (
        ("bpf_object__open_file", pointer, (text, pointer)),
        ("bpf_object__load", number, (pointer,)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__next_program", pointer, (pointer, pointer)),
        ("bpf_object__next_map", pointer, (pointer, pointer)),
        ("bpf_program__name", text, (pointer,)),
        ("bpf_program__fd", number, (pointer,)),
        ("bpf_map__name", text, (pointer,)),
        ("bpf_map__fd", number, (pointer,)),
        ("bpf_map__type", number, (pointer,)),
        ("bpf_map__key_size", number, (pointer,)),
        ("bpf_map__value_size", number, (pointer,)),
        ("bpf_map__max_entries", number, (pointer,)),
        ("bpf_map__reuse_fd", number, (pointer, number)),
        ("bpf_program__set_autoload", number, (pointer, ctypes.c_bool)),
        ("bpf_program__set_type", number, (pointer, number)),
        ("bpf_program__set_expected_attach_type", number, (pointer, number)),
        ("libbpf_set_print", pointer, (pointer,)),
    ):
        bound = getattr(library, function)
        bound.restype = result
        bound.argtypes = arguments
    said = _Said()
    formatter = ctypes.CDLL(None).vsnprintf

    def keep(level: int, template: bytes, arguments: int) -> int:
        # A va_list is handed on as it came: as a pointer, on x86-64 as on arm64.
        if level == _WARN:
            buffer = ctypes.create_string_buffer(_LOG_BYTES)
            formatter(buffer, ctypes.c_size_t(_LOG_BYTES), template, ctypes.c_void_p(arguments))
            said.lines.append(buffer.value.decode(errors="replace"))
        return 0

    library.printer = _PRINTER(keep)  # must live as long as libbpf may call it
    return library, said
