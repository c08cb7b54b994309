"""The devices of a netns lab: their names and the interface indexes that they are created with.

The kernel takes an index at creation, per namespace. Because labctl chooses them, everything that refers to a device
(eBPF maps, redirects) is known before anything exists, and a plan is complete data.
"""

from __future__ import annotations

from labctl.model.lab import Encapsulation, Lab
from labctl.names import stable_mac

LO = "lo"
UPLINK = "eth0"
CILIUM_NET = "cilium_net"
CILIUM_HOST = "cilium_host"
CILIUM_VXLAN = "cilium_vxlan"
CILIUM_GENEVE = "cilium_geneve"
POD_DEVICE = "eth0"
BRIDGE = "underlay"

LO_INDEX = 1
POD_BRIDGE_INDEX = 2
TUNNEL_INDEX = 5
CILIUM_NET_INDEX = 2
CILIUM_HOST_INDEX = 3
UPLINK_INDEX = 4
CILIUM_TUNNEL_INDEX = 5
FIRST_LXC_INDEX = 10
POD_DEVICE_INDEX = 2
BRIDGE_INDEX = 2
FIRST_PORT_INDEX = 10
FIRST_ROUTER_PORT_INDEX = 400
FIRST_OUTSIDE_INDEX = 300
"""Beyond the ports of 250 nodes."""

VXLAN_PORT = 8472
REGISTERED_VXLAN_PORT = 4789
VXLAN_PORTS = (VXLAN_PORT, REGISTERED_VXLAN_PORT)
"""Linux's own, which Cilium and Flannel keep, and the one that IANA has registered since (RFC 7348)."""
GENEVE_PORT = 6081
TUNNEL_PORTS = (*VXLAN_PORTS, GENEVE_PORT)
TUNNEL_OVERHEAD_BYTE = 50
"""Outer IPv4, UDP and VXLAN headers, and the inner Ethernet header: 20 + 8 + 8 + 14. Geneve's header has 8 bytes too,
without options."""


def cilium_tunnel(encapsulation: Encapsulation) -> str:
    """Cilium's tunnel device."""
    return CILIUM_GENEVE if encapsulation is Encapsulation.GENEVE else CILIUM_VXLAN


def tunnel_kind(port: int) -> str:
    """What the kernel calls the device whose envelopes go to that UDP port."""
    return "geneve" if port == GENEVE_PORT else "vxlan"


def cilium_tunnel_port(encapsulation: Encapsulation) -> int:
    """The UDP port of its envelopes."""
    return GENEVE_PORT if encapsulation is Encapsulation.GENEVE else VXLAN_PORT


def bridge_port(node_index: int) -> str:
    """The underlay bridge's port that node number `node_index` (from 0) hangs on."""
    return f"port{node_index + 1}"


def bridge_port_index(node_index: int) -> int:
    return FIRST_PORT_INDEX + node_index


def router_port(number: int) -> str:
    """The underlay bridge's port that router number `number` (from 0) hangs on."""
    return f"router{number + 1}"


def router_port_index(number: int) -> int:
    return FIRST_ROUTER_PORT_INDEX + number


def outside_port(number: int) -> str:
    """The underlay's end of the wire to host outside number `number` (from 0)."""
    return f"outside{number + 1}"


def outside_port_index(number: int) -> int:
    return FIRST_OUTSIDE_INDEX + number


def lxc_indexes(lab: Lab, node: str) -> dict[str, int]:
    """Interface index of each pod's lxc on that node, by pod name, in the lab's order of pods."""
    return {pod.name: FIRST_LXC_INDEX + number for number, pod in enumerate(lab.pods_on(node))}


def device_mac(part: str, device: str) -> str:
    """The MAC address of a device that the scenario does not name one for (`cilium_host`, `port1`, …). It depends on
    the node and the device alone, so that equal labs are equal under any name."""
    return stable_mac(part, device)
