"""A lab's name while it is being built: an abstract socket that ends with its process, so that no lock stays behind."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from labctl.errors import UsageError


@contextlib.contextmanager
def claimed(lab: str) -> Iterator[None]:
    """Holds the name. Raises UsageError while another labctl has it."""
    with _socket() as claim:
        try:
            claim.bind(_address(lab))
        except OSError as taken:
            raise UsageError(
                what=f"the lab {lab} is being built by another labctl right now",
                remedy="wait for it, or choose another name: labctl up … --name OTHER",
            ) from taken
        yield


def is_claimed(lab: str) -> bool:
    """True while a labctl that is alive builds the lab of that name."""
    with _socket() as asking:
        try:
            asking.connect(_address(lab))
        except OSError as refused:
            return refused.errno != errno.ECONNREFUSED
    return True


def _address(lab: str) -> str:
    return f"\0labctl/{lab}"


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
