"""How the nodes of a lab reach each other: the fabric that a scenario chooses, its routers and their links. Pure data.

A router is a node without pods. It stands alone because `lab` is about what a lab is, whichever fabric it has.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from typing import Annotated

from annotated_types import Ge, Le, MaxLen, MinLen

from labctl.codec import OMITTED, Doc, Fits, Key
from labctl.names import is_device, is_mac, is_name
from labctl.values import dataclass

_Name = Annotated[str, Fits(is_name, "a name: a DNS label of at most 40 characters")]
_Device = Annotated[str, Fits(is_device, "the name of a network device")]
_Mac = Annotated[str, Fits(is_mac, "a MAC address")]
AsNumber = Annotated[int, Ge(1), Le(0xFFFF_FFFF)]


class FabricType(StrEnum):
    """What is between the nodes."""

    BRIDGE = "bridge"
    ROUTED = "routed"
    CLOS = "clos"
    CUSTOM = "custom"
    SWITCHED = "switched"


class Routing(StrEnum):
    """How routers and nodes know where to: told by labctl, or learned by a routing protocol (FRR's)."""

    STATIC = "static"
    BGP = "bgp"
    OSPF = "ospf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterChoice:
    """A router of a fabric `custom`, as a file names it."""

    name: Annotated[_Name, Doc("The router's name.")]
    asn: Annotated[
        AsNumber | None,
        Doc("With bgp: its autonomous system. Routers of one system speak internal BGP. Default: one of its own."),
        OMITTED,
    ] = None
    router_id: Annotated[
        IPv4Address | None,
        Key("routerID"),
        Doc("Its own address, reached by any of its links. Default: the next of 10.255.0.0/16."),
        OMITTED,
    ] = None
    route_reflector: Annotated[
        bool, Doc("With bgp: it passes on within its system what it learned there (RFC 4456)."), OMITTED
    ] = False


ENDPOINT_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?(:[A-Za-z0-9][A-Za-z0-9_-]{1,14})?$"
"""`r1`, or `r1:eth3` with the device's name, of two characters at least: tools read some single ones as words."""


def is_endpoint(text: str) -> bool:
    """True for what an end of a link may be written as."""
    return re.fullmatch(ENDPOINT_PATTERN, text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChoice:
    """A wire of a fabric `custom`, as a file names it. `endpoints` are two: `r1`, or `r1:eth1` with the device."""

    endpoints: Annotated[
        tuple[Annotated[str, Fits(is_endpoint, "the end of a link")], ...],
        MinLen(2),
        MaxLen(2),
        Doc("What it joins: two routers, or a router and a node; as r1, or as r1:eth1 with the device's name."),
    ]
    cost: Annotated[
        int | None,
        Ge(1),
        Le(65_535),
        Doc("With ospf and static: what a packet pays for this link. Default: 1."),
        OMITTED,
    ] = None


KEEPALIVE_S, HOLD_S, HELLO_S, DEAD_S = 1, 3, 1, 4
"""What routing daemons have where a scenario says nothing: short, since a lab is there to be watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """When routing daemons speak, and when they give a silent neighbour up, in seconds."""

    keepalive_s: Annotated[
        int | None, Ge(1), Le(65_535), Doc("With bgp: between two keepalives. Default: 1."), OMITTED
    ] = None
    hold_s: Annotated[
        int | None, Ge(3), Le(65_535), Doc("With bgp: how long a neighbour may be silent. Default: 3."), OMITTED
    ] = None
    hello_s: Annotated[int | None, Ge(1), Le(65_535), Doc("With ospf: between two hellos. Default: 1."), OMITTED] = None
    dead_s: Annotated[
        int | None, Ge(2), Le(65_535), Doc("With ospf: how long a neighbour may be silent. Default: 4."), OMITTED
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricChoice:
    """What `fabric:` says in a file, and what records hold."""

    type: Annotated[
        FabricType,
        Doc(
            "bridge: one wire. routed: a router. clos: spines and leaves. custom: routers and links as listed. "
            "switched: bridges in a ring."
        ),
    ] = FabricType.BRIDGE
    routing: Annotated[
        Routing | None,
        Doc("With routed, clos and custom: static, or by FRR's bgp or ospf. clos has no static."),
        OMITTED,
    ] = None
    spines: Annotated[int | None, Ge(1), Le(64), Doc("With clos: how many spines. Default: 2."), OMITTED] = None
    leaves: Annotated[
        int | None, Ge(1), Le(250), Doc("With clos: how many leaves; nodes are spread over them. Default: 3."), OMITTED
    ] = None
    switches: Annotated[
        int | None, Ge(3), Le(16), Doc("With switched: how many bridges the ring has. Default: 3."), OMITTED
    ] = None
    routers: Annotated[tuple[RouterChoice, ...], MinLen(1), MaxLen(256), Doc("With custom: the routers."), OMITTED] = ()
    links: Annotated[
        tuple[LinkChoice, ...], MinLen(1), MaxLen(4_096), Doc("With custom: the wires, each node's too."), OMITTED
    ] = ()
    timers: Annotated[
        Timers | None, Doc("With bgp and ospf: how often routing daemons speak, and how long they wait."), OMITTED
    ] = None

    @property
    def is_routed(self) -> bool:
        return self.type in (FabricType.ROUTED, FabricType.CLOS, FabricType.CUSTOM)

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
    is_reflector: Annotated[bool, OMITTED] = False


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
    """A wire between two routers, or between a router (the first end) and a node. `cost` is what a protocol that counts
    costs, or whoever writes static routes, takes it for."""

    ends: tuple[LinkEnd, LinkEnd]
    cost: Annotated[int, Ge(1), OMITTED] = 1
