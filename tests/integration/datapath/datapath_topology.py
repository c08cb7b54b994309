"""A small cluster of namespaces for testing the eBPF datapath alone: built with `ip`, without labctl's provider.

Two nodes and an outside host hang on a bridge in an underlay namespace; pods a and b are on node1, c is on node2.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from itertools import count
from typing import Any, TypeVar

from labctl.datapath import bpf
from labctl.datapath.loader import LoadedDatapath, load
from labctl.model.interfaces import (
    CILIUM_HOST,
    CILIUM_HOST_INDEX,
    CILIUM_NET,
    CILIUM_NET_INDEX,
    CILIUM_TUNNEL_INDEX,
    CILIUM_VXLAN,
    UPLINK,
    UPLINK_INDEX,
    device_mac,
    lxc_indexes,
)
from labctl.model.lab import Encapsulation, HostRouting, Lab, Node
from labctl.names import stable_mac
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.network import Attachment, attachments
from labctl.testing import labs

T = TypeVar("T")
_serial = count()
_LIBC = ctypes.CDLL(None, use_errno=True)
OUTSIDE = IPv4Address("172.30.0.5")


def make_lab(host_routing: HostRouting, encapsulation: Encapsulation, **datapath: Any) -> Lab:
    pods = (
        labs.make_pod("a", "node1", "10.244.0.10", identity=16843),
        labs.make_pod("b", "node1", "10.244.0.11", identity=11528),
        labs.make_pod("c", "node2", "10.244.1.10", identity=23579),
    )
    nodes = (labs.make_node(index, host=index + 3) for index in range(2))
    return labs.make_lab(
        "datapath-test", nodes, pods, host_routing=host_routing, encapsulation=encapsulation, **datapath
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A built lab. `prefix` makes its namespaces unique on the host; `loaded` is by node."""

    lab: Lab
    prefix: str
    loaded: dict[str, LoadedDatapath]

    def namespace(self, part: str) -> str:
        return f"{self.prefix}-{part}"

    def run(self, part: str, *argv: str, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ("nsenter", f"--net=/run/netns/{self.namespace(part)}", *argv),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )

    def ping(self, part: str, target: IPv4Address, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(part, "ping", "-n", "-c", "3", "-i", "0.05", "-W", "1", *options, str(target))


def inside(namespace: str, act: Callable[[], T]) -> T:
    """Runs `act` in a thread of its own that has joined the namespace, and ends with it."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                if _LIBC.setns(descriptor, 0x40000000):
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            finally:
                os.close(descriptor)
            outcome.append(act())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@contextmanager
def cluster(lab: Lab) -> Iterator[Cluster]:
    """Builds the lab, gives it, and removes its namespaces whatever happens."""
    prefix = f"dptest-{os.getpid()}-{next(_serial)}"
    parts = ("underlay", "outside", *(n.name for n in lab.nodes), *(p.name for p in lab.pods))
    loaded: dict[str, LoadedDatapath] = {}
    built = Cluster(lab=lab, prefix=prefix, loaded=loaded)
    try:
        for part in parts:
            _check("ip", "netns", "add", built.namespace(part))
        for part in parts:
            _batch(built.namespace(part), ("link set lo up",))
            _sysctls(built, part, forward=part not in ("outside", *(p.name for p in lab.pods)))
        _batch(
            built.namespace("underlay"),
            ("link add underlay type bridge", "link set underlay up", "addr add 172.30.0.1/24 dev underlay"),
        )
        _hang(built, "outside", 90, IPv4Interface(f"{OUTSIDE}/24"), stable_mac("outside", UPLINK))
        for node in lab.nodes:
            _hang(built, node.name, 10 + node.index, node.address, node.mac)
            _build_node(built, node)
            loaded[node.name] = _load(built, node)
        yield built
    finally:
        for datapath in loaded.values():
            datapath.close()
        for part in parts:
            subprocess.run(("ip", "netns", "del", built.namespace(part)), capture_output=True, check=False)


def _hang(cluster: Cluster, part: str, port: int, address: IPv4Interface, mac: str) -> None:
    namespace = cluster.namespace(part)
    peer = f"peer name {UPLINK} index {UPLINK_INDEX} address {mac} netns {namespace}"
    _batch(
        cluster.namespace("underlay"),
        (
            f"link add port{port} index {port} type veth {peer}",
            f"link set port{port} master underlay up",
        ),
    )
    _batch(
        namespace,
        (
            f"addr add {address} dev {UPLINK}",
            f"link set {UPLINK} up",
            "route add default via 172.30.0.1",
        ),
    )


def _build_node(cluster: Cluster, node: Node) -> None:
    lab, namespace = cluster.lab, cluster.namespace(node.name)
    is_vxlan = lab.datapath.encapsulation is Encapsulation.VXLAN
    host = f"{CILIUM_HOST} index {CILIUM_HOST_INDEX} address {device_mac(node.name, CILIUM_HOST)}"
    net = f"{CILIUM_NET} index {CILIUM_NET_INDEX} address {device_mac(node.name, CILIUM_NET)}"
    lines = [
        f"link add {host} type veth peer name {net}",
        f"link set {CILIUM_HOST} arp off up",
        f"link set {CILIUM_NET} arp off up",
        f"addr add {node.router}/32 dev {CILIUM_HOST}",
        f"route add {node.router} dev {CILIUM_HOST} scope link",
        f"route add {node.pod_cidr} via {node.router} dev {CILIUM_HOST} src {node.router}",
    ]
    for other in lab.nodes:
        if other.name == node.name:
            continue
        lines.append(
            f"route add {other.pod_cidr} via {node.router} dev {CILIUM_HOST} src {node.router} mtu 1450"
            if is_vxlan
            else f"route add {other.pod_cidr} via {other.address.ip} dev {UPLINK}"
        )
    if is_vxlan:
        lines += [
            f"link add {CILIUM_VXLAN} index {CILIUM_TUNNEL_INDEX} type vxlan external dstport 8472 nolearning",
            f"link set {CILIUM_VXLAN} up",
        ]
    for pod in lab.pods_on(node.name):
        lxc = f"{pod.lxc} index {lxc_indexes(lab, node.name)[pod.name]} address {pod.lxc_mac}"
        peer = f"eth0 address {pod.mac} netns {cluster.namespace(pod.name)}"
        lines += [
            f"link add {lxc} type veth peer name {peer}",
            f"link set {pod.lxc} up",
        ]
    _batch(namespace, lines)
    for pod in lab.pods_on(node.name):
        _batch(
            cluster.namespace(pod.name),
            (
                f"addr add {pod.address}/32 dev eth0",
                "link set eth0 up",
                f"route add {node.router} dev eth0 scope link",
                f"route add default via {node.router} dev eth0 mtu {lab.network.route_mtu}",
            ),
        )


def _load(cluster: Cluster, node: Node) -> LoadedDatapath:
    lab = cluster.lab
    loaded = load(lab.datapath.host_routing, lab.datapath.encapsulation)
    for name, entries in map_contents(lab, node.name).items():
        bpf.update(loaded.maps[name], entries)
    wanted = attachments(lab, node.name)

    def attach_all() -> None:
        for one in wanted:
            attach(one, loaded.programs[one.program])

    inside(cluster.namespace(node.name), attach_all)
    return loaded


class _Hook(ctypes.Structure):
    _fields_ = (("sz", ctypes.c_size_t), ("ifindex", ctypes.c_int), ("attach_point", ctypes.c_int))


class _Options(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


def attach(attachment: Attachment, program: int) -> None:
    """libbpf's own way to a clsact qdisc and a direct-action filter, in the namespace of the calling thread."""
    library = ctypes.CDLL("libbpf.so.1")
    point = 1 if attachment.hook == "ingress" else 2
    hook = _Hook(ctypes.sizeof(_Hook), attachment.ifindex, point)
    both = _Hook(ctypes.sizeof(_Hook), attachment.ifindex, 3)
    created = library.bpf_tc_hook_create(ctypes.byref(both))
    assert created in (0, -17), f"clsact on {attachment.device}: {os.strerror(-created)}"
    options = _Options(ctypes.sizeof(_Options), program, 0, 0, 1, 1)
    attached = library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
    assert attached == 0, f"{attachment.program} on {attachment.device}: {os.strerror(-attached)}"


@contextmanager
def capturing(
    cluster: Cluster, taps: list[tuple[str, str]]
) -> Iterator[dict[tuple[str, str], Callable[[], list[bytes]]]]:
    """Packet sockets on every (part, device): the place in the kernel where tcpdump listens."""
    sockets: dict[tuple[str, str], socket.socket] = {}

    def listen(device: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind((device, 0))
        opened.setblocking(False)
        return opened

    def drain(opened: socket.socket) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(opened.recv(65536))
            except BlockingIOError:
                return frames

    try:
        for part, device in taps:
            sockets[part, device] = inside(cluster.namespace(part), partial(listen, device))
        yield {tap: partial(drain, opened) for tap, opened in sockets.items()}
    finally:
        for opened in sockets.values():
            opened.close()


def _sysctls(cluster: Cluster, part: str, *, forward: bool) -> None:
    settings = (
        "net.ipv6.conf.all.disable_ipv6=1",
        "net.ipv6.conf.default.disable_ipv6=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
        f"net.ipv4.ip_forward={int(forward)}",
    )
    done = cluster.run(part, "sysctl", "-qw", *settings)
    assert done.returncode == 0, done.stderr


def _batch(namespace: str, lines: list[str] | tuple[str, ...]) -> None:
    _check("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def _check(*argv: str, stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}\n{stdin}"
