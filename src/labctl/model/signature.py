"""Which taps saw the request of a packet exchange, and which saw the reply: the fingerprint of a datapath mode.

Roles name a tap by its place on the way, so that the same table describes every provider. Where a MAC is
recorded it is recorded as the role of the device that owns it, since addresses differ from lab to lab.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from labctl.codec import OMITTED
from labctl.model.lab import Encapsulation, HostRouting
from labctl.values import dataclass


class Role(StrEnum):
    """The places where packets can be seen, from the client to the server.

    Between nodes, the gateways are the ports of the routers that the nodes are attached to, `fabric` is each port
    between routers. A pod's device on the node is an lxc with Cilium, with other networks a veth, that a bridge may
    have as its port.
    """

    CLIENT_ETH0 = "client-eth0"
    CLIENT_LXC = "client-lxc"
    CLIENT_VETH = "client-veth"
    CLIENT_BRIDGE = "client-node-bridge"
    CLIENT_TUNNEL = "client-node-tunnel"
    CLIENT_CILIUM_HOST = "client-node-cilium_host"
    CLIENT_CILIUM_NET = "client-node-cilium_net"
    CLIENT_CILIUM_VXLAN = "client-node-cilium_vxlan"
    CLIENT_CILIUM_GENEVE = "client-node-cilium_geneve"
    CLIENT_UPLINK = "client-node-uplink"
    CLIENT_LO = "client-node-lo"
    CLIENT_BRIDGE_PORT = "client-node-bridge-port"
    CLIENT_GATEWAY = "client-gateway"
    FABRIC = "fabric"
    SERVER_GATEWAY = "server-gateway"
    SERVER_BRIDGE_PORT = "server-node-bridge-port"
    SERVER_LO = "server-node-lo"
    SERVER_UPLINK = "server-node-uplink"
    SERVER_CILIUM_VXLAN = "server-node-cilium_vxlan"
    SERVER_CILIUM_GENEVE = "server-node-cilium_geneve"
    SERVER_CILIUM_NET = "server-node-cilium_net"
    SERVER_CILIUM_HOST = "server-node-cilium_host"
    SERVER_TUNNEL = "server-node-tunnel"
    SERVER_BRIDGE = "server-node-bridge"
    SERVER_VETH = "server-veth"
    SERVER_LXC = "server-lxc"
    SERVER_ETH0 = "server-eth0"


CLIENT_NODE = "client-node"
SERVER_NODE = "server-node"
CLIENT = "client"
SERVER = "server"
BACKEND = "backend"
CLIENT_ROUTER = "client-node-router"
SERVER_ROUTER = "server-node-router"
GATEWAY = "gateway"
"""The roles of addresses: an end's own, a backend's of a Service, that of an end's node on the underlay and of its
cilium_host, and (of MACs) the nodes' way to the world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """The VXLAN envelope: addresses by role (`client-node`), MACs by role, the sender's identity as VNI."""

    src: str
    dst_port: int
    ttl: int
    vni: int
    src_mac: str
    dst_mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one tap saw of one direction. `ttl` and the MACs are those of the (inner) frame; MACs are roles,
    or the address itself when no device of the lab owns it. `src` and `dst` are the IPv4 addresses by role, where the
    pair's may be rewritten on the way; empty between two pods, whose addresses stay. Of what is expected, an empty MAC
    or address was not recorded."""

    packets: int
    ttl: int
    src_mac: str
    dst_mac: str
    outer: Annotated[Outer | None, OMITTED] = None
    src: Annotated[str, OMITTED] = ""
    dst: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSight:
    """One tap of a signature. `tap` is its name in this lab (`node1:lxc3f…`); `None` means: nothing was seen."""

    tap: str
    role: Role
    request: Seen | None
    reply: Seen | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What every tap of one pair saw. `host_routing` is not part of it: the signature is what shows it.

    `hindrances` say in words why nothing can have been seen somewhere, or was sent (`node2:eth0 is down`).
    """

    placement: str
    encapsulation: Encapsulation
    ping_ttl: int | None = None
    taps: tuple[TapSight, ...]
    hindrances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedSignature:
    """What every tap shows of a pair's packets in the network that was asked for, and where that is known from.

    `host_routing` is the mode of Cilium's that shows this, None for other networks.
    """

    host_routing: HostRouting | None
    signature: Signature
    source: str
