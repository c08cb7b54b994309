"""The connections that a namespace's netfilter tracks, read over netlink (linux/nfnetlink_conntrack.h)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from labctl.system.netlink import ALL, Protocol, Request, Socket, attributes

_GET_CONNECTIONS = 1 << 8 | 1
_HEADER = struct.Struct("=BBH")
_TUPLE_ORIGINAL = 1
_TUPLE_IP = 1
_TUPLE_PROTOCOL = 2
_IP_SOURCE = 1
_IP_DESTINATION = 2
_PROTOCOL_NUMBER = 1
_STATUS = 3
_SEEN_REPLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One entry, by its first direction. `protocol` is the IP protocol's number."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    is_answered: bool


def connections() -> tuple[Connection, ...]:
    """Every IPv4 entry of the namespace that the calling thread is in. Raises OSError where the kernel has no
    CONFIG_NF_CT_NETLINK."""
    with Socket(Protocol.NETFILTER) as channel:
        request = Request(_GET_CONNECTIONS, ALL, _HEADER.pack(socket.AF_INET, 0, 0))
        return tuple(found for found in map(_parse, channel.ask(request)) if found is not None)


def _parse(body: bytes) -> Connection | None:
    known = dict(attributes(body, _HEADER.size))
    original = dict(attributes(known.get(_TUPLE_ORIGINAL, b"")))
    addresses = dict(attributes(original.get(_TUPLE_IP, b"")))
    protocol = dict(attributes(original.get(_TUPLE_PROTOCOL, b""))).get(_PROTOCOL_NUMBER, b"\0")
    if _IP_SOURCE not in addresses or _IP_DESTINATION not in addresses:
        return None
    return Connection(
        source=IPv4Address(addresses[_IP_SOURCE]),
        destination=IPv4Address(addresses[_IP_DESTINATION]),
        protocol=protocol[0],
        is_answered=bool(int.from_bytes(known.get(_STATUS, b"\0"), "big") & _SEEN_REPLY),
    )
