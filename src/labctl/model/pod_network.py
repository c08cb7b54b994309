"""What connects a lab's pods, as a scenario chooses it, and what can be said of each choice. Pure data.

Cilium's own choices are `Datapath` in `lab`. It stands alone because `lab` is about what a lab is, whichever network
it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, Doc


class NetworkType(StrEnum):
    """The pod networks, by the names of the tools that are known for them."""

    CILIUM = "cilium"
    FLANNEL = "flannel"
    CALICO = "calico"
    DOCKER = "docker"
    VXLAN = "vxlan"
    MACVLAN = "macvlan"
    IPVLAN = "ipvlan"


class Backend(StrEnum):
    """How Flannel's and Calico's packets cross from node to node, in their own words."""

    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    BGP = "bgp"


class Flooding(StrEnum):
    """How vxlan devices know of each other, and what they send to all: each node is told of the others, they are in one
    multicast group, or BGP tells them (EVPN, RFC 8365)."""

    P2P = "p2p"
    MULTICAST = "multicast"
    EVPN = "evpn"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNetworkChoice:
    """What `podNetwork:` says in a file, and what records hold. What a network does not have is None."""

    type: Annotated[NetworkType, Doc("What connects the pods. cilium: as datapath says.")] = NetworkType.CILIUM
    backend: Annotated[
        Backend | None, Doc("How packets cross the nodes: vxlan or host-gw (flannel), vxlan or bgp (calico)."), OMITTED
    ] = None
    snat: Annotated[
        bool, Doc("With docker: packets to pods of other nodes get the node's address as source."), OMITTED
    ] = False
    mode: Annotated[
        Flooding | None,
        Doc("With vxlan: how its devices know of each other: p2p, multicast, or evpn, by BGP."),
        OMITTED,
    ] = None
    vni: Annotated[int | None, Ge(1), Le(0xFFFFFF), Doc("With vxlan: the network's number, 24 bits."), OMITTED] = None
    group: Annotated[IPv4Address | None, Doc("With vxlan, mode multicast: the group's address."), OMITTED] = None

    def asked(self) -> dict[str, object]:
        """The choice as the scenario's own words, for reports (`modeInForce[].asked`)."""
        more = {"backend": self.backend, "mode": self.mode}
        snat = {"snat": self.snat} if self.type is NetworkType.DOCKER else {}
        return {"podNetwork": str(self.type), **{key: str(one) for key, one in more.items() if one}, **snat}

    @property
    def needs_frr(self) -> bool:
        """Whether routing daemons run on the nodes."""
        return self.backend is Backend.BGP or self.mode is Flooding.EVPN

    @property
    def is_overlay(self) -> bool:
        """Whether packets cross in a VXLAN envelope, which takes 50 bytes of each."""
        return self.backend is Backend.VXLAN or self.type is NetworkType.VXLAN


CILIUM = PodNetworkChoice()
"""What a scenario has that does not choose."""
