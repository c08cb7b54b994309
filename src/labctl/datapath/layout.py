"""The bytes of every map key and value, of metrics and of events; `source/layout.h` has the same in C.

Pure packing and unpacking. What a lab puts into the maps is decided in `networks/cilium`. Addresses and ports are in
network order, other numbers in the host's (the objects are little-endian, as are the hosts that labctl runs on).

The counters of a node's programs: how many packets and bytes, for each program, device and verdict.

The programs count every packet once by where it went or why it was dropped. Evidence is a difference of two readings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network

from labctl.datapath import bpf
from labctl.values import dataclass

CONFIG = struct.Struct("<Q4s4s4s4sIIII4s4s6s2x")
ENDPOINT = struct.Struct("<6s6sII")
IPCACHE = struct.Struct("<I4s")
TUNNEL_KEY = struct.Struct("<I4s")
SNAT_KEY = struct.Struct("<4s4s2s2sBB2x")
SNAT_ENTRY = struct.Struct("<QQ4s2sH")
FRAGMENT_KEY = struct.Struct("<4s4s2sBx")
PORTS = struct.Struct("<2s2s")
METRIC_KEY = struct.Struct("<IBB2x")
METRIC = struct.Struct("<QQ")
EVENT = struct.Struct("<QII4s4s4s4sII2s2s2sBBBBBBBxH2s2s4x")

CONFIG_KEY = struct.pack("<I", 0)
NO_ADDRESS = IPv4Address(0)

MAX_EXTRA_DELAY_NS = 10_000
"""The longest busy-wait. It ends after at most some 4,200 readings of the clock (5 ns each on one machine, 36 ns
on another). What it adds was measured to be the delay and 0.05 to 0.1 µs more."""


class ConfigFlag(IntFlag):
    """`enum config_flag`."""

    TRACE = 1
    MASQUERADE = 2
    NO_REDIRECT_PEER = 4
    WRONG_VNI = 8
    PACKET_LB = 512
    NODEPORT = 1024


class SecurityIdentity(IntEnum):
    """`enum identity`: Cilium's reserved identities, as far as they occur here."""

    HOST = 1
    WORLD = 2
    REMOTE_NODE = 6
    KUBE_APISERVER = 7


class Program(IntEnum):
    """`enum program`: the number by which a program signs metrics and events."""

    FROM_CONTAINER = 1
    FROM_HOST = 2
    TO_HOST = 3
    FROM_NETDEV = 4
    TO_NETDEV = 5
    FROM_OVERLAY = 6
    TO_OVERLAY = 7
    SOCKET_CONNECT = 8
    SOCKET_SENDMSG = 9
    SOCKET_RECVMSG = 10
    SOCKET_GETPEERNAME = 11
    SOCKET_RELEASE = 12

    @property
    def is_at_socket(self) -> bool:
        """It runs on a system call of a process, not on packets of a device."""
        return self >= Program.SOCKET_CONNECT

    @property
    def function(self) -> str:
        """The program's name in the object: `cil_from_container`."""
        if self is Program.SOCKET_RELEASE:
            return "cil_sock_release"
        name = self.name.lower()
        return f"cil_{name.replace('socket', 'sock4') if self.is_at_socket else name}"

    @property
    def hook(self) -> str:
        """Where it is attached: `ingress` or `egress` of its device, or the system call of a cgroup's processes."""
        if self is Program.SOCKET_RELEASE:
            return "sock_release"
        if self.is_at_socket:
            return f"{self.name.removeprefix('SOCKET_').lower()}4"
        return "egress" if self in (Program.FROM_HOST, Program.TO_NETDEV, Program.TO_OVERLAY) else "ingress"


class PacketVerdict(IntEnum):
    """`enum verdict`: what became of a packet. From 64 on it was dropped, and the name is the reason.

    Those from MASQUERADED up to the first reason are counted in addition to where the packet went.
    """

    TO_STACK = 1
    REDIRECT = 2
    REDIRECT_PEER = 3
    REDIRECT_NEIGH = 4
    TUNNEL = 5
    ARP_REPLY = 6
    TO_HOST = 7
    PASS = 8
    MASQUERADED = 32
    UNMASQUERADED = 33
    SERVICE_TO_BACKEND = 34
    BACKEND_TO_SERVICE = 35
    INVALID_SOURCE = 64
    UNROUTABLE = 65
    TTL_EXCEEDED = 66
    UNSUPPORTED_L3 = 67
    INVALID = 68
    FRAGMENT_NOT_FOUND = 69
    NO_FIB = 70
    INVALID_IDENTITY = 71
    NAT_NO_PORT = 72
    NAT_UNSUPPORTED = 73
    WRITE = 74
    UNKNOWN_PROTOCOL = 75
    NAT_FULL = 76
    NO_BACKEND = 80
    NO_BACKEND_ANSWERED = 81
    UNKNOWN_ICMP_CODE = 82

    @property
    def is_drop(self) -> bool:
        return self >= PacketVerdict.INVALID_SOURCE

    @property
    def words(self) -> str:
        """For people: the helper's name, or the reason."""
        return _WORDS[self]


NO_FLAGS = ConfigFlag(0)

_WORDS = {
    PacketVerdict.TO_STACK: "to the stack",
    PacketVerdict.REDIRECT: "bpf_redirect",
    PacketVerdict.REDIRECT_PEER: "bpf_redirect_peer",
    PacketVerdict.REDIRECT_NEIGH: "bpf_redirect_neigh",
    PacketVerdict.TUNNEL: "bpf_skb_set_tunnel_key, bpf_redirect",
    PacketVerdict.ARP_REPLY: "ARP answered",
    PacketVerdict.TO_HOST: "bpf_redirect to cilium_net",
    PacketVerdict.PASS: "passed on",
    PacketVerdict.MASQUERADED: "source rewritten to the node's address",
    PacketVerdict.UNMASQUERADED: "destination rewritten to the pod's address",
    PacketVerdict.SERVICE_TO_BACKEND: "the Service's address replaced by a backend's",
    PacketVerdict.BACKEND_TO_SERVICE: "the backend's address replaced by the Service's",
    PacketVerdict.INVALID_SOURCE: "dropped: source address is not the pod's",
    PacketVerdict.UNROUTABLE: "dropped: no pod has the destination address",
    PacketVerdict.TTL_EXCEEDED: "dropped: TTL exceeded",
    PacketVerdict.UNSUPPORTED_L3: "dropped: neither IPv4 nor ARP",
    PacketVerdict.INVALID: "dropped: invalid packet",
    PacketVerdict.FRAGMENT_NOT_FOUND: "dropped: first fragment was not seen",
    PacketVerdict.NO_FIB: "dropped: no route",
    PacketVerdict.INVALID_IDENTITY: "dropped: reserved identity as VNI",
    PacketVerdict.NAT_NO_PORT: "dropped: no port left to masquerade with",
    PacketVerdict.NAT_UNSUPPORTED: "dropped: cannot be masqueraded",
    PacketVerdict.WRITE: "dropped: packet could not be rewritten",
    PacketVerdict.NAT_FULL: "dropped: no room left for another masqueraded connection",
    PacketVerdict.UNKNOWN_PROTOCOL: "dropped: neither TCP, UDP, SCTP nor ICMP",
    PacketVerdict.NO_BACKEND: "dropped: the Service has no backend",
    PacketVerdict.NO_BACKEND_ANSWERED: "dropped: the Service has no backend; answered with ICMP port unreachable",
    PacketVerdict.UNKNOWN_ICMP_CODE: "dropped: ICMP code that masquerading does not know",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`struct config`: what one node's programs know of the node and of the run."""

    node_address: IPv4Address
    router_address: IPv4Address
    pod_cidr: IPv4Network
    uplink_ifindex: int
    cilium_net_ifindex: int
    cilium_vxlan_ifindex: int
    cilium_host_mac: str
    flags: ConfigFlag = NO_FLAGS
    extra_delay_ns: int = 0
    trace_source: IPv4Address = NO_ADDRESS
    trace_destination: IPv4Address = NO_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEntry:
    """`struct endpoint`: a pod of the node."""

    mac: str
    lxc_mac: str
    ifindex: int
    identity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKey:
    """`struct metric_key`. `ifindex` is the device that the program ran on."""

    ifindex: int
    program: Program
    verdict: PacketVerdict


def pack_address(address: IPv4Address) -> bytes:
    """The key of `endpoints` and `ipcache`, and the value of `tunnel`."""
    return address.packed


def pack_mac(mac: str) -> bytes:
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return octets


def pack_config(config: Config) -> bytes:
    if not 0 <= config.extra_delay_ns <= MAX_EXTRA_DELAY_NS:
        raise ValueError(f"extra_delay_ns must be between 0 and {MAX_EXTRA_DELAY_NS}, not {config.extra_delay_ns}")
    return CONFIG.pack(
        config.extra_delay_ns,
        config.node_address.packed,
        config.router_address.packed,
        config.pod_cidr.network_address.packed,
        config.pod_cidr.netmask.packed,
        config.uplink_ifindex,
        config.cilium_net_ifindex,
        config.cilium_vxlan_ifindex,
        config.flags,
        config.trace_source.packed,
        config.trace_destination.packed,
        pack_mac(config.cilium_host_mac),
    )


def unpack_config(data: bytes) -> Config:
    delay, node, router, cidr, mask, uplink, net, vxlan, flags, source, destination, mac = CONFIG.unpack(data)
    return Config(
        node_address=IPv4Address(node),
        router_address=IPv4Address(router),
        pod_cidr=IPv4Network((cidr, str(IPv4Address(mask)))),
        uplink_ifindex=uplink,
        cilium_net_ifindex=net,
        cilium_vxlan_ifindex=vxlan,
        cilium_host_mac=mac.hex(":"),
        flags=ConfigFlag(flags),
        extra_delay_ns=delay,
        trace_source=IPv4Address(source),
        trace_destination=IPv4Address(destination),
    )


def pack_endpoint(endpoint: EndpointEntry) -> bytes:
    return ENDPOINT.pack(pack_mac(endpoint.mac), pack_mac(endpoint.lxc_mac), endpoint.ifindex, endpoint.identity)


def unpack_endpoint(data: bytes) -> EndpointEntry:
    mac, lxc_mac, ifindex, identity = ENDPOINT.unpack(data)
    return EndpointEntry(mac=mac.hex(":"), lxc_mac=lxc_mac.hex(":"), ifindex=ifindex, identity=identity)


def pack_ipcache(identity: int, tunnel_endpoint: IPv4Address) -> bytes:
    return IPCACHE.pack(identity, tunnel_endpoint.packed)


def unpack_ipcache(data: bytes) -> tuple[int, IPv4Address]:
    identity, tunnel_endpoint = IPCACHE.unpack(data)
    return identity, IPv4Address(tunnel_endpoint)


def pack_tunnel_key(prefix: IPv4Network) -> bytes:
    return TUNNEL_KEY.pack(prefix.prefixlen, prefix.network_address.packed)


def unpack_tunnel_key(data: bytes) -> IPv4Network:
    length, address = TUNNEL_KEY.unpack(data)
    return IPv4Network((address, length))


def unpack_metric_key(data: bytes) -> MetricKey:
    ifindex, program, verdict = METRIC_KEY.unpack(data)
    return MetricKey(ifindex=ifindex, program=Program(program), verdict=PacketVerdict(verdict))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCounter:
    """One counter: `packets` and `bytes` that `program` on the device `ifindex` gave this verdict."""

    ifindex: int
    program: Program
    verdict: PacketVerdict
    packets: int
    bytes: int

    @property
    def words(self) -> str:
        """For a person: `cil_from_container: 3 packets, bpf_redirect_peer`."""
        if self.packets == 1:
            return f"{self.program.function}: 1 packet, {self.verdict.words}"
        return f"{self.program.function}: {self.packets} packets, {self.verdict.words}"


def read_metrics(descriptor: int) -> tuple[ProgramCounter, ...]:
    """Every counter of the map `metrics`, summed over the CPUs, in the order of device, program, verdict."""
    return decode_metrics(bpf.dump(descriptor))


def decode_metrics(entries: Iterable[tuple[bytes, tuple[bytes, ...]]]) -> tuple[ProgramCounter, ...]:
    found = []
    for key, values in entries:
        name = unpack_metric_key(key)
        counted = [METRIC.unpack(value) for value in values]
        found.append(
            ProgramCounter(
                ifindex=name.ifindex,
                program=name.program,
                verdict=name.verdict,
                packets=sum(packets for packets, _ in counted),
                bytes=sum(size for _, size in counted),
            )
        )
    return tuple(sorted(found, key=lambda metric: (metric.ifindex, metric.program, metric.verdict)))


def difference(before: Iterable[ProgramCounter], after: Iterable[ProgramCounter]) -> tuple[ProgramCounter, ...]:
    """What was counted between two readings; counters that stood still are left out."""
    start = {(m.ifindex, m.program, m.verdict): m for m in before}
    grown = []
    for metric in after:
        first = start.get((metric.ifindex, metric.program, metric.verdict))
        packets = metric.packets - (first.packets if first else 0)
        size = metric.bytes - (first.bytes if first else 0)
        if packets:
            grown.append(
                ProgramCounter(
                    ifindex=metric.ifindex,
                    program=metric.program,
                    verdict=metric.verdict,
                    packets=packets,
                    bytes=size,
                )
            )
    return tuple(grown)
