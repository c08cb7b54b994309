"""Netlink itself: messages, attributes, and a socket that sends many messages at once. Knows no family of messages.

Numbers are in the host's byte order, as the kernel has them. The formats are those of linux/netlink.h. Why not a
library: docs/adr/0003-own-netlink-encoder.md.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum

from labctl.values import dataclass

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1

_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLM_F_REPLACE = 0x100
_NLM_F_EXCL = 0x200
_NLM_F_CREATE = 0x400
_NLM_F_APPEND = 0x800
_NLM_F_ACK_TLVS = 0x200
CHANGE = _NLM_F_REQUEST
NEW = _NLM_F_REQUEST | _NLM_F_CREATE | _NLM_F_EXCL
APPENDED = _NLM_F_REQUEST | _NLM_F_CREATE | _NLM_F_APPEND
CREATED_OR_REPLACED = _NLM_F_REQUEST | _NLM_F_CREATE | _NLM_F_REPLACE
ALL = _NLM_F_REQUEST | _NLM_F_DUMP

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_ATTRIBUTE_TYPE = 0x3FFF

_LARGEST_SEND = 32 * 1024
_RECEIVE_BYTES = 64 * 1024
"""The kernel's dumps come in pieces of at most 32 KiB; a larger buffer would be mapped and unmapped for each."""


class NetlinkFamily(IntEnum):
    """The families of netlink that labctl talks to."""

    ROUTE = 0
    NETFILTER = 12


@dataclass(frozen=True, slots=True)
class Request:
    """One message without its header. `flags` is one of CHANGE, NEW, APPENDED, CREATED_OR_REPLACED, ALL."""

    type: int
    flags: int
    body: bytes


class NetlinkError(OSError):
    """The kernel refused request number `index` of a batch; `explanation` is its own text, which may be empty."""

    def __init__(self, number: int, index: int, explanation: str) -> None:
        super().__init__(number, explanation or os.strerror(number))
        self.index = index
        self.explanation = explanation


def attribute(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 4
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length & 3)


def number_attribute(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def text_attribute(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def mac_attribute(kind: int, value: str) -> bytes:
    return attribute(kind, bytes.fromhex(value.replace(":", "")))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The payload of each attribute that follows `offset`, by its type."""
    found: dict[int, bytes] = {}
    unpack, end = _ATTRIBUTE.unpack_from, len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & _ATTRIBUTE_TYPE] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def selected(data: bytes, offset: int, kinds: Collection[int]) -> dict[int, bytes]:
    """The payloads of the attributes of these types that follow `offset`: quicker than all of them, of which a device
    has fifty."""
    found: dict[int, bytes] = {}
    unpack, end = _ATTRIBUTE.unpack_from, len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        kind &= _ATTRIBUTE_TYPE
        if kind in kinds:
            found[kind] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


_ANSWER_S = 60
_ANSWER_WITHIN = struct.pack("@ll", _ANSWER_S, 0)
"""`struct timeval`. The kernel answers before a send returns: what takes longer is a kernel that is stuck."""


class Socket:
    """A netlink socket of the namespace that the calling thread is in when it is made; it stays there wherever
    the thread goes."""

    def __init__(self, protocol: NetlinkFamily = NetlinkFamily.ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_WITHIN)
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, requests: Sequence[Request]) -> None:
        """Carries out all requests in order. Raises NetlinkError for the first one that the kernel refuses.

        The kernel handles one send's messages before the call returns, answers those that fail whether asked or
        not, and goes on with the next; so asking the last one for an answer is enough to know of all.
        """
        for first, last in _portions(requests):
            base = self._sequence + 1
            self._sequence += last - first
            message = bytearray()
            for offset, request in enumerate(requests[first:last]):
                flags = request.flags | (_NLM_F_ACK if first + offset == last - 1 else 0)
                message += _HEADER.pack(16 + len(request.body), request.type, flags, base + offset, 0)
                message += request.body
                message += b"\0" * (-len(request.body) & 3)
            self._socket.send(message)
            self._collect(base, self._sequence, first)

    def _collect(self, base: int, last: int, first_index: int) -> None:
        """Reads answers until that of the last message; raises for the first refusal among them."""
        refused: NetlinkError | None = None
        while True:
            for kind, flags, sequence, body in _messages(self._received()):
                if kind != _NLMSG_ERROR or not base <= sequence <= last:
                    continue
                code = _refusal(body)
                if code and refused is None:
                    refused = NetlinkError(code, first_index + sequence - base, _explanation(flags, body))
                if sequence == last:
                    if refused is not None:
                        raise refused
                    return

    def _received(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError as late:
            raise OSError(errno.ETIMEDOUT, f"the kernel did not answer over netlink within {_ANSWER_S} s") from late

    def ask(self, request: Request) -> Iterator[bytes]:
        """The bodies of the kernel's answers: one, or with ALL each until it says that it is done.
        Raises NetlinkError."""
        self._sequence += 1
        header = _HEADER.pack(16 + len(request.body), request.type, request.flags, self._sequence, 0)
        self._socket.send(header + request.body)
        is_one = request.flags != ALL
        while True:
            for kind, flags, sequence, answer in _messages(self._received()):
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise NetlinkError(_refusal(answer), 0, _explanation(flags, answer))
                yield answer
                if is_one:
                    return


def _portions(requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
    """Cuts a list such that each part fits one send: (first, one past the last)."""
    first = 0
    size = 0
    for index, request in enumerate(requests):
        if size and size + len(request.body) + 20 > _LARGEST_SEND:
            yield first, index
            first, size = index, 0
        size += len(request.body) + 20
    if first < len(requests):
        yield first, len(requests)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message in a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _refusal(body: bytes) -> int:
    """The errno of an error message; 0 for an acknowledgement."""
    return -int.from_bytes(body[:4], sys.byteorder, signed=True)


def _explanation(flags: int, body: bytes) -> str:
    """The kernel's own words about a refusal (extended acknowledgement); the request is not echoed (CAP_ACK)."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    return string(attributes(body, 4 + 16).get(_NLMSGERR_ATTR_MSG, b""))
