"""What pods and nodes of a cluster say of their devices: `ip -json` and /sys read into values. Pure.

The host's end of a pod's veth pair is the device of the node whose index the pod's eth0 names as its peer (`iflink`).
Which CNI made it is told by the names and kinds of devices, as the CNIs themselves choose them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Interface

from labctl.errors import MeasureFailed
from labctl.json_text import mapping_of, number_of, of_known_form, parse_json
from labctl.model.sections import DEVICE_PATTERN
from labctl.names import is_mac
from labctl.values import dataclass

POD_SCRIPT = (
    'cd /sys/class/net/eth0 && echo "$(cat address) $(cat iflink) $(cat ifindex)"; '
    "ip -4 route show default 2>/dev/null | head -n 1"
)
ARGV_LINKS = ("ip", "-json", "-details", "link", "show")
ARGV_ADDRESSES = ("ip", "-json", "-4", "address", "show")
ARGV_ROUTES = ("ip", "-json", "-4", "route", "show")
KUBE_PROXY_SCRIPT = (
    "for save in iptables-save iptables-legacy-save iptables-nft-save; do "
    '$save -t nat 2>/dev/null; done | grep -c -e "-A KUBE-SVC" -e "-A KUBE-SERVICES"; true'
)
"""How many rules of kube-proxy the node's nat tables have, in either kind of iptables."""
TUNNELS = ("vxlan", "geneve", "ipip", "sit", "gre")
_DEVICE = re.compile(DEVICE_PATTERN)
_GATEWAY = re.compile(r"default via ([0-9.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDevice:
    """A pod's eth0: its MAC, the index of its other end (its own where it has none), its default gateway or ""."""

    mac: str
    peer: int
    index: int
    gateway: str


@of_known_form("what the pod says of its eth0")
def parse_pod_device(text: str) -> PodDevice:
    lines = text.splitlines()
    mac, peer, index = lines[0].split()
    if not is_mac(mac):
        raise MeasureFailed(what="the pod's eth0 has an invalid MAC address", cause=repr(mac)[:80])
    route = _GATEWAY.search("\n".join(lines[1:]))
    return PodDevice(mac=mac, peer=int(peer), index=int(index), gateway=route[1] if route else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDevice:
    """A device of a node. `kind` is the kernel's word (`veth`, `bridge`, `vxlan`, …; empty for hardware and lo),
    `master` the bridge that it is a port of."""

    name: str
    index: int
    mac: str
    kind: str
    master: str
    port: int = 0
    """Of a vxlan device: its UDP port."""


@of_known_form("ip's list of links")
def parse_devices(text: str) -> dict[str, NodeDevice]:
    """By name, from `ip -json -details link show`; devices whose names no tool should get are left out."""
    found = {}
    for link in parse_json(text):
        name, info = str(link.get("ifname", "")), mapping_of(link.get("linkinfo"))
        if not _DEVICE.fullmatch(name):
            continue
        found[name] = NodeDevice(
            name=name,
            index=number_of(link.get("ifindex")),
            mac=str(link.get("address", "")).lower(),
            kind=str(info.get("info_kind", "")),
            master=str(link.get("master", "")),
            port=number_of(mapping_of(info.get("info_data")).get("port")),
        )
    return found


@of_known_form("ip's list of addresses")
def parse_addresses(text: str) -> dict[str, IPv4Interface]:
    """The first IPv4 address of each device, from `ip -json -4 address show`."""
    found: dict[str, IPv4Interface] = {}
    for link in parse_json(text):
        for entry in link.get("addr_info") or ():
            try:
                address = IPv4Interface(f"{entry['local']}/{entry['prefixlen']}")
            except (AddressValueError, ValueError, KeyError):
                continue
            found.setdefault(str(link.get("ifname", "")), address)
    return found


@of_known_form("ip's list of routes")
def parse_routes(text: str) -> tuple[tuple[str, str, str], ...]:
    """(destination, gateway or "", device) of each route, from `ip -json -4 route show`."""
    return tuple(
        (str(route.get("dst", "")), str(route.get("gateway", "")), str(route.get("dev", "")))
        for route in parse_json(text)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node as its helper shows it. `uplink` is the device that carries the node's address."""

    devices: Mapping[str, NodeDevice]
    addresses: Mapping[str, IPv4Interface]
    routes: tuple[tuple[str, str, str], ...]
    uplink: str
    kube_proxy_rules: int

    def peer_of(self, pod: PodDevice) -> NodeDevice | None:
        """The host's end of the pod's veth pair; None where it has none (macvlan, ipvlan, SR-IOV)."""
        return next(
            (one for one in self.devices.values() if one.index == pod.peer and one.kind in ("veth", "netkit")), None
        )

    @property
    def tunnel(self) -> NodeDevice | None:
        """The node's tunnel device, if it has one."""
        return next((one for one in self.devices.values() if one.kind in TUNNELS and one.name not in _FALLBACKS), None)


_FALLBACKS = ("tunl0", "sit0", "gre0", "ip6tnl0")
"""The kernel makes them by itself when a module is loaded; Calico's IPIP uses tunl0, and then gives it an address."""


def uplink_of(addresses: Mapping[str, IPv4Interface], address: str) -> str:
    """The device with that address; empty where none has it."""
    try:
        wanted = IPv4Address(address)
    except AddressValueError:
        return ""
    return next((device for device, has in addresses.items() if has.ip == wanted), "")


_MARKS = (
    ("cilium", re.compile(r"cilium_(host|net|vxlan)|lxc[0-9a-f]{6,}")),
    ("calico", re.compile(r"cali[0-9a-f]{6,}|vxlan\.calico")),
    ("flannel", re.compile(r"flannel\.\d+|flannel-wg")),
    ("antrea", re.compile(r"antrea-(gw|tun)0")),
    ("ovn-kubernetes", re.compile(r"ovn-k8s-mp\d+")),
    ("kube-ovn", re.compile(r"ovn0")),
    ("weave", re.compile(r"weave|vethwe\S*")),
    ("kube-router", re.compile(r"kube-bridge")),
    ("aws-vpc", re.compile(r"eni[0-9a-f]{8,}")),
)
"""Names that these CNIs give their devices; the first that fits."""


def cni_of(devices: Iterable[NodeDevice], pods: Iterable[NodeDevice | None]) -> str:
    """What connects the pods, by its devices: a CNI's name, or what its devices are (`bridge cni0`, `routed veth`).
    `pods` are the host's ends of the lab's own pods."""
    names = {one.name for one in devices}
    for cni, mark in _MARKS:
        if any(mark.fullmatch(name) for name in names):
            return cni
    ends = list(pods)
    if any(end is None for end in ends):
        return "a CNI without veth pairs"
    masters = {end.master for end in ends if end is not None and end.master}
    return f"bridge {min(masters)}" if masters else "routed veth pairs"
