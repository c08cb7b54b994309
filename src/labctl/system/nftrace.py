"""What nf_tables tells of single packets that are marked for tracing (linux/netfilter/nf_tables.h, NFT_MSG_TRACE).

Owns the netlink group and the format. Which packets are marked, and what the steps mean, is the caller's business.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from labctl.system.netlink import Protocol, attributes, string

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_GROUP_NFTRACE = 9
_MESSAGE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_NLMSG = struct.Struct("=IHHII")
_GENERIC_BYTE = 4
_BUFFER_BYTE = 4 << 20
_DATAGRAM_BYTE = 1 << 16
_NF_DROP = 0


class Attribute(IntEnum):
    """`enum nft_trace_attributes`, as far as they are read here. CT_STATE is there since kernel 6.16."""

    TABLE = 1
    CHAIN = 2
    RULE_HANDLE = 3
    TYPE = 4
    VERDICT = 5
    ID = 6
    NETWORK_HEADER = 8
    TRANSPORT_HEADER = 9
    IIF = 10
    OIF = 12
    POLICY = 16
    CT_STATE = 21


class StepKind(IntEnum):
    """`enum nft_trace_types`."""

    POLICY = 1
    RETURN = 2
    RULE = 3


_CT_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One step of one packet. `packet` tells packets of one node apart while they live. The headers stand in the first
    step of each base chain and are empty in the others. `is_drop` holds for a rule or a policy that drops. `ct_state`
    is empty where connection tracking has not come to the packet yet, and before kernel 6.16."""

    packet: int
    table: str
    chain: str
    kind: int
    handle: int = 0
    is_drop: bool = False
    iif: int = 0
    oif: int = 0
    network_header: bytes = b""
    transport_header: bytes = b""
    ct_state: str = ""


class TraceSocket:
    """Hears the trace of the namespace that the calling thread is in when it is made. `has_lost` says that steps came
    faster than they were read."""

    def __init__(self) -> None:
        self.has_lost = False
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, Protocol.NETFILTER)
        try:
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER_BYTE)  # SO_RCVBUFFORCE
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> Iterator[TraceStep]:
        """Everything that is there; does not wait."""
        while True:
            try:
                data = self._socket.recv(_DATAGRAM_BYTE)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the kernel had to throw some away; what comes next is whole again
                self.has_lost = True
                continue
            yield from parse_trace(data)

    def close(self) -> None:
        self._socket.close()


def parse_trace(data: bytes) -> Iterator[TraceStep]:
    """The steps in one datagram; messages of other kinds are passed over."""
    offset = 0
    while offset + _NLMSG.size <= len(data):
        length, kind, *_ = _NLMSG.unpack_from(data, offset)
        if length < _NLMSG.size:
            return
        if kind == _MESSAGE:
            yield _parse(data[offset + _NLMSG.size + _GENERIC_BYTE : offset + length])
        offset += (length + 3) & ~3


def _parse(body: bytes) -> TraceStep:
    known = dict(attributes(body))

    def number(kind: Attribute) -> int:
        return int.from_bytes(known.get(kind, b""), "big")

    verdict = dict(attributes(known.get(Attribute.VERDICT, b""))).get(1)
    dropped_by_rule = verdict is not None and int.from_bytes(verdict, "big") == _NF_DROP
    kind = number(Attribute.TYPE)
    dropped_by_policy = Attribute.POLICY in known and number(Attribute.POLICY) == _NF_DROP
    return TraceStep(
        packet=number(Attribute.ID),
        table=string(known.get(Attribute.TABLE, b"")),
        chain=string(known.get(Attribute.CHAIN, b"")),
        kind=kind,
        handle=number(Attribute.RULE_HANDLE),
        is_drop=(kind == StepKind.RULE and dropped_by_rule) or (kind == StepKind.POLICY and dropped_by_policy),
        iif=number(Attribute.IIF),
        oif=number(Attribute.OIF),
        network_header=known.get(Attribute.NETWORK_HEADER, b""),
        transport_header=known.get(Attribute.TRANSPORT_HEADER, b""),
        ct_state=_CT_STATES.get(number(Attribute.CT_STATE), ""),
    )
