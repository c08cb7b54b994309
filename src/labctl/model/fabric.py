"""How the nodes of a lab reach each other: the fabric that a scenario chooses, its routers and their links. Pure data.

A router is a node without pods. It stands alone because `lab` is about what a lab is, whichever fabric it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, Doc, Fits
from labctl.names import is_device, is_mac, is_name

_Name = Annotated[str, Fits(is_name, "a name: a DNS label of at most 40 characters")]
_Device = Annotated[str, Fits(is_device, "the name of a network device")]
_Mac = Annotated[str, Fits(is_mac, "a MAC address")]
AsNumber = Annotated[int, Ge(1), Le(0xFFFF_FFFF)]


class FabricType(StrEnum):
    """What is between the nodes."""

    BRIDGE = "bridge"
    ROUTED = "routed"
    CLOS = "clos"
    SWITCHED = "switched"


class Routing(StrEnum):
    """How routers and nodes know where to: told by labctl, or learned by a routing protocol (FRR's)."""

    STATIC = "static"
    BGP = "bgp"
    OSPF = "ospf"


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricChoice:
    """What `fabric:` says in a file, and what records hold."""

    type: Annotated[
        FabricType, Doc("bridge: one wire. routed: a router. clos: spines and leaves. switched: bridges in a ring.")
    ] = FabricType.BRIDGE
    routing: Annotated[
        Routing | None, Doc("With routed and clos: static, or by FRR's bgp or ospf. clos has no static."), OMITTED
    ] = None
    spines: Annotated[int | None, Ge(1), Le(64), Doc("With clos: how many spines. Default: 2."), OMITTED] = None
    leaves: Annotated[
        int | None, Ge(1), Le(250), Doc("With clos: how many leaves; nodes are spread over them. Default: 3."), OMITTED
    ] = None
    switches: Annotated[
        int | None, Ge(3), Le(16), Doc("With switched: how many bridges the ring has. Default: 3."), OMITTED
    ] = None

    @property
    def is_routed(self) -> bool:
        return self.type in (FabricType.ROUTED, FabricType.CLOS)

    @property
    def learns(self) -> bool:
        """Whether routing daemons run, on the routers and on the nodes."""
        return self.routing in (Routing.BGP, Routing.OSPF)


ONE_BRIDGE = FabricChoice()
"""What a scenario has that does not choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A router, or a switch of a fabric `switched`. `router_id` is its own address, reached by any of its links; `asn`
    its autonomous system's number (0: it speaks no BGP)."""

    name: _Name
    router_id: IPv4Address
    asn: Annotated[int, Ge(0), Le(0xFFFF_FFFF)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEnd:
    """One end of a link: the router's or node's device. `address` is on a /31 with that of the other end, None for a
    switch's port."""

    part: _Name
    device: _Device
    index: Annotated[int, Ge(1)]
    mac: _Mac
    address: IPv4Interface | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A wire between two routers, or between a router (the first end) and a node."""

    ends: tuple[LinkEnd, LinkEnd]
