"""The next hops of a route that has several, as rtnetlink carries them: struct rtnexthop and the gateway of each
(linux/rtnetlink.h, RTA_MULTIPATH).

It stands alone because `rtnetlink` is about whole messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from labctl.system.netlink import attribute, attributes

_RTA_GATEWAY = 5
_HOP = struct.Struct("=HBBi")


def encoded_hops(hops: Iterable[tuple[int, IPv4Address]]) -> bytes:
    """Each the index of a device and a gateway there."""
    body = b""
    for index, gateway in hops:
        told = attribute(_RTA_GATEWAY, gateway.packed)
        body += _HOP.pack(_HOP.size + len(told), 0, 0, index) + told
    return body


def decoded_hops(body: bytes) -> tuple[tuple[int, str], ...]:
    """The same with dotted gateways, empty where a hop has none."""
    found, offset = [], 0
    while offset + _HOP.size <= len(body):
        length, _, _, index = _HOP.unpack_from(body, offset)
        if length < _HOP.size:
            break
        gateway = attributes(body[offset + _HOP.size : offset + length]).get(_RTA_GATEWAY)
        found.append((index, "" if gateway is None else str(IPv4Address(gateway))))
        offset += (length + 3) & ~3
    return tuple(found)
