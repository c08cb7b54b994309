"""The devices, programs and maps of one node of the stand-in: labctl's own eBPF objects where Cilium has its own.

Runs in the agent's container, in the network of the node. What is loaded is what is reported: the mode comes from the
object that the kernel took, never from the configuration alone.
"""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from labctl.datapath import bpf, loader
from labctl.datapath.layout import (
    CONFIG_KEY,
    NO_ADDRESS,
    NO_FLAGS,
    Config,
    ConfigFlag,
    EndpointEntry,
    Program,
    SecurityIdentity,
    pack_address,
    pack_config,
    pack_endpoint,
    pack_ipcache,
    pack_tunnel_key,
)
from labctl.model.lab import Encapsulation, HostRouting
from labctl.system import rtnetlink
from labctl.system.netlink import Socket

HOST, NET, VXLAN, UPLINK = "cilium_host", "cilium_net", "cilium_vxlan", "eth0"
VXLAN_PORT, VXLAN_OVERHEAD = 8472, 50


def run(*argv: str, check: bool = True, stdin: str | None = None) -> str:
    """What a program prints. Raises RuntimeError with its own words."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def index_of(device: str) -> int:
    return int((Path("/sys/class/net") / device / "ifindex").read_text())


def mac_of(device: str) -> str:
    return (Path("/sys/class/net") / device / "address").read_text().strip()


def has(device: str) -> bool:
    return (Path("/sys/class/net") / device).exists()


def router_of(pod_cidr: IPv4Network) -> IPv4Address:
    return pod_cidr.network_address + 1


def identity_of(namespace: str, labels: dict[str, str]) -> int:
    """The same on every node, since there is no store of identities: from the labels themselves."""
    text = f"{namespace};" + ";".join(f"{key}={labels[key]}" for key in sorted(labels))
    return 256 + zlib.crc32(text.encode()) % 65000


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherNode:
    """A node as this one sees it."""

    address: IPv4Address
    pod_cidr: IPv4Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A pod of this node."""

    id: int
    namespace: str
    pod: str
    container: str
    address: IPv4Address
    mac: str
    lxc: str
    lxc_index: int
    lxc_mac: str
    identity: int


@dataclass(slots=True, kw_only=True)
class NodeDatapath:
    """What is loaded and attached on this node."""

    host_routing: HostRouting
    encapsulation: Encapsulation
    masquerade: bool
    address: IPv4Address
    pod_cidr: IPv4Network
    cluster_cidr: IPv4Network
    loaded: loader.LoadedDatapath = field(init=False)
    _known: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    @property
    def router(self) -> IPv4Address:
        return router_of(self.pod_cidr)

    @property
    def is_tunnelled(self) -> bool:
        return self.encapsulation is Encapsulation.VXLAN

    def build(self) -> None:
        """Devices, addresses, rules and programs of the node; what is there of an earlier agent is taken over."""
        if not has(NET):
            run("ip", "link", "add", NET, "type", "veth", "peer", "name", HOST)
        for device in (NET, HOST):
            run("ip", "link", "set", device, "arp", "off", "up")
            for key, value in (("accept_local", "1"), ("send_redirects", "0"), ("rp_filter", "0")):
                _sysctl(f"net/ipv4/conf/{device}/{key}", value)
        if self.is_tunnelled and not has(VXLAN):
            run("ip", "link", "add", VXLAN, "type", "vxlan", "external", "dstport", str(VXLAN_PORT))
        if not self.is_tunnelled and has(VXLAN):
            run("ip", "link", "delete", VXLAN)
        if self.is_tunnelled:
            run("ip", "link", "set", VXLAN, "up")
            _sysctl(f"net/ipv4/conf/{VXLAN}/rp_filter", "0")
        run("ip", "address", "replace", f"{self.router}/32", "dev", HOST)
        run("ip", "route", "replace", f"{self.router}/32", "dev", HOST, "scope", "link")
        run("ip", "route", "replace", str(self.pod_cidr), "via", str(self.router), "dev", HOST, "src", str(self.router))
        run("iptables-legacy-restore", "--noflush", stdin=_rules(self.masquerade, self.cluster_cidr))
        self.loaded = loader.load(self.host_routing, self.encapsulation)
        flags = ConfigFlag.MASQUERADE if self.masquerade else NO_FLAGS
        config = Config(
            node_address=self.address, router_address=self.router, pod_cidr=self.cluster_cidr,
            uplink_ifindex=index_of(UPLINK), cilium_net_ifindex=index_of(NET),
            cilium_vxlan_ifindex=index_of(VXLAN) if self.is_tunnelled else 0, cilium_host_mac=mac_of(HOST), flags=flags,
        )  # fmt: skip
        bpf.update(self.loaded.maps["config"], [(CONFIG_KEY, pack_config(config))])
        attached = [(NET, Program.TO_HOST), (HOST, Program.TO_HOST), (HOST, Program.FROM_HOST),
                    (UPLINK, Program.FROM_NETDEV), (UPLINK, Program.TO_NETDEV)]  # fmt: skip
        if self.is_tunnelled:
            attached += [(VXLAN, Program.FROM_OVERLAY), (VXLAN, Program.TO_OVERLAY)]
        for device, program in attached:
            self._attach(device, program)

    def _attach(self, device: str, program: Program) -> None:
        run("tc", "qdisc", "add", "dev", device, "clsact", check=False)
        run("tc", "filter", "delete", "dev", device, program.hook, check=False)
        request = rtnetlink.filter_add(
            index_of(device), rtnetlink.Hook[program.hook.upper()], program=self.loaded.programs[program.function],
            name=f"{program.function}-{device}",
        )  # fmt: skip
        with Socket() as channel:
            channel.send([request])

    def add_pod(self, endpoint: Endpoint, namespace: str) -> Endpoint:
        """The veth pair of a pod, whose network namespace is at that path, with its program; nothing if that fails."""
        try:
            return self._add_pod(endpoint, namespace)
        except (RuntimeError, OSError):
            run("ip", "link", "delete", endpoint.lxc, check=False)
            raise

    def _add_pod(self, endpoint: Endpoint, namespace: str) -> Endpoint:
        inside, mtu = f"tmp{endpoint.lxc[3:]}"[:15], 1500 - (VXLAN_OVERHEAD if self.is_tunnelled else 0)
        run("ip", "link", "add", endpoint.lxc, "type", "veth", "peer", "name", inside, "address", endpoint.mac)
        # iproute2 takes the name of a namespace, not its place.
        name = Path("/run/netns") / inside
        name.parent.mkdir(exist_ok=True)
        name.unlink(missing_ok=True)
        name.symlink_to(namespace)
        run("ip", "link", "set", inside, "netns", inside)
        name.unlink()
        enter = ("nsenter", f"--net={namespace}", "ip")
        run(*enter, "link", "set", inside, "name", "eth0", "up")
        run(*enter, "address", "add", f"{endpoint.address}/32", "dev", "eth0")
        run(*enter, "route", "add", f"{self.router}/32", "dev", "eth0", "scope", "link")
        run(*enter, "route", "add", "default", "via", str(self.router), "dev", "eth0", "mtu", str(mtu))
        run("ip", "link", "set", endpoint.lxc, "up")
        _sysctl(f"net/ipv4/conf/{endpoint.lxc}/rp_filter", "0")
        return self.take_over(endpoint)

    def take_over(self, endpoint: Endpoint) -> Endpoint:
        """Attaches the program to a pod's device that is there, and tells the maps of it."""
        self._attach(endpoint.lxc, Program.FROM_CONTAINER)
        made = replace(endpoint, lxc_index=index_of(endpoint.lxc), lxc_mac=mac_of(endpoint.lxc))
        entry = EndpointEntry(mac=made.mac, lxc_mac=made.lxc_mac, ifindex=made.lxc_index, identity=made.identity)
        bpf.update(self.loaded.maps["endpoints"], [(pack_address(made.address), pack_endpoint(entry))])
        bpf.update(self.loaded.maps["ipcache"], [(pack_address(made.address), pack_ipcache(made.identity, NO_ADDRESS))])
        return made

    def remove_pod(self, endpoint: Endpoint) -> None:
        run("ip", "link", "delete", endpoint.lxc, check=False)
        for name in ("endpoints", "ipcache"):
            bpf.delete(self.loaded.maps[name], pack_address(endpoint.address))

    def learn(self, others: Iterable[OtherNode], pods: dict[IPv4Address, tuple[int, IPv4Address]]) -> None:
        """Routes and maps follow the nodes and pods of the cluster; `pods` maps addresses to identity and node."""
        wanted: dict[bytes, bytes] = {
            pack_address(self.address): pack_ipcache(SecurityIdentity.HOST, NO_ADDRESS),
            pack_address(self.router): pack_ipcache(SecurityIdentity.HOST, NO_ADDRESS),
        }
        tunnels: dict[bytes, bytes] = {}
        for other in others:
            endpoint = other.address if self.is_tunnelled else NO_ADDRESS
            wanted[pack_address(other.address)] = pack_ipcache(SecurityIdentity.REMOTE_NODE, NO_ADDRESS)
            wanted[pack_address(router_of(other.pod_cidr))] = pack_ipcache(SecurityIdentity.REMOTE_NODE, endpoint)
            tunnels[pack_tunnel_key(other.pod_cidr)] = pack_address(endpoint)
            self._route(other)
        for address, (identity, node) in pods.items():
            is_here = node == self.address or not self.is_tunnelled
            wanted[pack_address(address)] = pack_ipcache(identity, NO_ADDRESS if is_here else node)
        self._follow("ipcache", wanted)
        if self.is_tunnelled:
            self._follow("tunnel", tunnels)

    def _route(self, other: OtherNode) -> None:
        """To the other node's pods: by cilium_host into the tunnel, or by the node itself."""
        wanted = f"{other.pod_cidr} {self.is_tunnelled}"
        known = self._known.setdefault("routes", {})
        if known.get(wanted.encode()) == other.address.packed:
            return
        if self.is_tunnelled:
            way: tuple[str, ...] = (
                "via",
                str(self.router),
                "dev",
                HOST,
                "src",
                str(self.router),
                "mtu",
                str(1500 - VXLAN_OVERHEAD),
            )
        else:
            way = ("via", str(other.address), "dev", UPLINK)
        run("ip", "route", "replace", str(other.pod_cidr), *way)
        known[wanted.encode()] = other.address.packed

    def _follow(self, name: str, wanted: dict[bytes, bytes]) -> None:
        known = self._known.setdefault(name, {})
        for key in [key for key in known if key not in wanted]:
            bpf.delete(self.loaded.maps[name], key)
            del known[key]
        changed = [(key, value) for key, value in wanted.items() if known.get(key) != value]
        if changed:
            bpf.update(self.loaded.maps[name], changed)
            known.update(changed)


def clean_up() -> None:
    """What Cilium's own clean-up removes: devices, programs, rules."""
    for path in Path("/sys/class/net").glob("lxc*"):
        run("ip", "link", "delete", path.name, check=False)
    for device in (HOST, VXLAN):
        run("ip", "link", "delete", device, check=False)
    run("tc", "qdisc", "delete", "dev", UPLINK, "clsact", check=False)


def _sysctl(name: str, value: str) -> None:
    (Path("/proc/sys") / name).write_text(value)


_JUMPS = (("filter", ("INPUT", "FORWARD", "OUTPUT")), ("raw", ("PREROUTING", "OUTPUT")),
          ("mangle", ("PREROUTING", "POSTROUTING")), ("nat", ("PREROUTING", "OUTPUT", "POSTROUTING")))  # fmt: skip


def _rules(masquerade_by_bpf: bool, cluster: IPv4Network) -> str:
    """Chains with Cilium's names and a rule or two, for iptables-restore; the kernel has each once."""
    lines: list[str] = []
    for table, hooks in _JUMPS:
        lines.append(f"*{table}")
        saved = run("iptables-legacy-save", "-t", table, check=False)
        for hook in hooks:
            chain = f"CILIUM_{hook}{'' if table == 'filter' else f'_{table}'}"
            lines.append(f":{chain} - [0:0]")
            jump = f"-A {hook} -m comment --comment cilium-feeder -j {chain}"
            if f"-j {chain}" not in saved:
                lines.append(jump)
        if table == "filter":
            lines.append(
                '-A CILIUM_FORWARD -o cilium_host -m comment --comment "any->cluster on cilium_host" -j ACCEPT'
            )
            lines.append('-A CILIUM_FORWARD -i lxc+ -m comment --comment "cluster->any on lxc+" -j ACCEPT')
        if table == "nat" and not masquerade_by_bpf:
            lines.append(
                f"-A CILIUM_POSTROUTING_nat -s {cluster} ! -d {cluster} ! -o cilium_+ -m comment "
                '--comment "cilium masquerade non-cluster" -j MASQUERADE'
            )
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"
