"""What routes and tunnels a lab's nodes and routers must have between the two nodes of a pair, as data.

A network and a fabric say it of themselves; checks hold it against what `ip` and `bridge` show. It stands alone because
both seams and the checks read it, and none of them may import the other.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRoute:
    """On `part`, packets to `destination` go to one of `next_hops`, all of which must be there (several are used
    together); without any, the destination is on the wire of `device`. `device` is "" where it does not matter."""

    part: str
    destination: IPv4Network
    next_hops: frozenset[IPv4Address] = frozenset()
    device: str = ""


class Told(StrEnum):
    """Who told a vxlan device where a MAC is."""

    SET = "set"
    """Whoever built the network, once and for all."""
    LEARNED = "learned"
    """What came from there."""
    BGP = "bgp"
    """FRR, by EVPN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTunnel:
    """On `part`, the vxlan device `device` knows that the other end of the pair is behind the VTEP `node`, told so by
    `told`."""

    part: str
    device: str
    node: IPv4Address
    told: Told
