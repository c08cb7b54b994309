"""What connects a lab's pods, as a scenario chooses it, and what can be said of each choice. Pure data.

Cilium's own choices are `Datapath` in `lab`. It stands alone because `lab` is about what a lab is, whichever network
it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import PurePath
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, Doc
from labctl.values import dataclass

PLUGIN_DIRECTORY = "/usr/lib/cni"
"""Where Debian's package containernetworking-plugins has them; their own releases go to /opt/cni/bin."""


class NetworkType(StrEnum):
    """The pod networks, by the names of the tools that are known for them."""

    CILIUM = "cilium"
    FLANNEL = "flannel"
    CALICO = "calico"
    DOCKER = "docker"
    VXLAN = "vxlan"
    MACVLAN = "macvlan"
    IPVLAN = "ipvlan"
    CNI = "cni"
    KINDNET = "kindnet"
    MANIFEST = "manifest"


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
    conflist: Annotated[
        Mapping[str, object] | None,
        Doc("With cni: the list of plugins, as in /etc/cni/net.d; {{.PodCIDR}} is the node's own range."),
        OMITTED,
    ] = None
    plugin_directory: Annotated[
        str | None,
        Doc(f"With cni: the folder that the plugins are in. Default: {PLUGIN_DIRECTORY}."),
        OMITTED,
    ] = None
    manifest: Annotated[
        str | None,
        Doc("With manifest, on kind and kubeadm: the file that installs the pod network, beside the scenario."),
        OMITTED,
    ] = None
    runtime_config: Annotated[
        Mapping[str, object] | None,
        Doc("With cni: by pod, what the plugins' capabilities are given (portMappings, bandwidth, …)."),
        OMITTED,
    ] = None

    def asked(self) -> dict[str, object]:
        """The choice as the scenario's own words, for reports (`modeInForce[].asked`)."""
        more = {"backend": self.backend, "mode": self.mode}
        snat = {"snat": self.snat} if self.type is NetworkType.DOCKER else {}
        chain = {"plugins": " → ".join(self.chain)} if self.chain else {}
        manifest = {"manifest": PurePath(self.manifest).name} if self.manifest else {}
        named = {key: str(one) for key, one in more.items() if one}
        return {"podNetwork": str(self.type), **named, **snat, **chain, **manifest}

    @property
    def is_of_a_cluster(self) -> bool:
        """Whether a cluster's nodes have it by themselves or by a manifest: nothing of it is built from namespaces."""
        return self.type in (NetworkType.KINDNET, NetworkType.MANIFEST)

    @property
    def chain(self) -> tuple[str, ...]:
        """With cni the types of its plugins, in the order in which they are called; the first one makes the device."""
        listed = (self.conflist or {}).get("plugins")
        plugins = listed if isinstance(listed, list | tuple) else ()
        return tuple(str(plugin["type"]) for plugin in plugins if isinstance(plugin, Mapping) and "type" in plugin)

    @property
    def first_plugin(self) -> Mapping[str, object]:
        """With cni the configuration of that first plugin; empty for every other network."""
        listed = (self.conflist or {}).get("plugins")
        first = listed[0] if isinstance(listed, list | tuple) and listed else {}
        return first if isinstance(first, Mapping) else {}

    @property
    def is_on_uplink(self) -> bool:
        """Whether the pods' devices are on the nodes' own uplinks, on the wire between them."""
        shared = (NetworkType.MACVLAN, NetworkType.IPVLAN)
        return self.type in shared or self.first_plugin.get("type") in shared

    @property
    def translates(self) -> bool:
        """Whether packets to pods of other nodes get the node's address as source."""
        return self.snat or self.first_plugin.get("ipMasq") is True

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
