"""What the model of a node knows before any packet: the lab, first fragments, how an end of a packet is replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from packet_frames import (
    ETHERNET,
    ICMP,
    IPV4,
    SCTP,
    TCP,
    UDP,
    Dropped,
    Key,
    addresses,
    fragment_word,
    header_bytes,
    number,
    replaced,
    required,
    stored,
)

from labctl.datapath.layout import PacketVerdict
from labctl.model.interfaces import (
    CILIUM_HOST_INDEX,
    UPLINK_INDEX,
    lxc_indexes,
)
from labctl.model.lab import Encapsulation, HostRouting, Lab, Masquerade, ServiceProtocol, TrafficPolicy


@dataclass(slots=True)
class Flow:
    """What a packet of a connection becomes, and how far its connection is."""

    becomes: tuple[bytes, bytes, bytes, bytes]
    state: State
    is_reply: bool
    is_own: bool


@dataclass(slots=True)
class State:
    fins: set[bool] = field(default_factory=set)
    is_reset: bool = False

    def is_closing(self, protocol: int) -> bool:
        return protocol == TCP and (self.is_reset or len(self.fins) == 2)


@dataclass(slots=True)
class Read:
    """A packet as connections know it. `quoted` is where the header is that an ICMP error quotes, or 0."""

    key: Key | None
    transport: int
    quoted: int = 0
    flags: int = 0
    has_header: bool = True


@dataclass(slots=True)
class Known:
    """`variant` is that of the object; `look(map, key)` reads one of its maps."""

    lab: Lab
    name: str
    variant: str
    look: Callable[[str, bytes], bytes | None]
    fragments: dict[tuple[bytes, bytes, bytes, int], tuple[bytes, bytes]] = field(default_factory=dict)
    connections: dict[Key, Flow] = field(default_factory=dict)
    mappings: dict[tuple[int, Key], tuple[bytes, bytes]] = field(default_factory=dict)
    translated_by_stack: set[Key] = field(default_factory=set)
    counted: list[PacketVerdict] = field(default_factory=list)
    mark: int = 0

    # ---- what the lab says

    @property
    def is_bpf(self) -> bool:
        return self.lab.datapath.host_routing is HostRouting.BPF

    @property
    def is_tunnelled(self) -> bool:
        return self.lab.datapath.encapsulation is Encapsulation.VXLAN

    @property
    def masquerades(self) -> bool:
        return self.lab.datapath.masquerade is Masquerade.BPF

    @property
    def address(self) -> bytes:
        return self.lab.node(self.name).address.ip.packed

    @property
    def router(self) -> bytes:
        return self.lab.node(self.name).router.packed

    def pod(self, address: bytes) -> tuple[bytes, int] | None:
        """The MACs of a frame to one of the node's pods, and its device."""
        for pod in self.lab.pods_on(self.name):
            if pod.address.packed == address:
                macs = bytes.fromhex((pod.mac + pod.lxc_mac).replace(":", ""))
                return macs, lxc_indexes(self.lab, self.name)[pod.name]
        return None

    def is_any_pod(self, address: bytes) -> bool:
        return any(pod.address.packed == address for pod in self.lab.pods)

    def tunnel_to(self, address: bytes) -> IPv4Address | None:
        for node in self.lab.nodes:
            if address == node.address.ip.packed:
                return None
            if IPv4Address(address) in node.pod_cidr:
                return None if node.name == self.name else node.address.ip
        return None

    def way_out(self, address: bytes) -> int | None:
        """The device that the routes of the node's namespace lead to, None where they lead nowhere."""
        here, asked = self.lab.node(self.name), IPv4Address(address)
        own = {here.address.ip, here.router, here.address.network.broadcast_address}
        if asked in own or asked in IPv4Network("127.0.0.0/8"):
            return None
        ends = [node.pod_cidr for node in self.lab.nodes if self.is_tunnelled or node.name == self.name]
        return CILIUM_HOST_INDEX if any(asked in cidr for cidr in ends) else UPLINK_INDEX

    def service(self, key: Key, *, is_inside: bool) -> tuple[tuple[bytes, bytes], ...] | None:
        """The backends of the Service that a packet asks for."""
        _, destination, _, port, protocol = key
        for one in self.lab.services:
            if protocol != (TCP if one.protocol is ServiceProtocol.TCP else UDP):
                continue
            is_cluster = (destination, number(port)) == (one.address.packed, one.port)
            if not is_cluster and (destination, number(port)) != (self.address, one.node_port):
                continue
            is_local = not is_cluster and not is_inside and one.external_traffic_policy is TrafficPolicy.LOCAL
            pods = [self.lab.pod(name) for name in one.backends]
            target = one.target_port.to_bytes(2, "big")
            return tuple((pod.address.packed, target) for pod in pods if not is_local or pod.node == self.name)
        return None

    def ports(self, frame: bytes | bytearray) -> tuple[bytes, bytes, bool]:
        """Source and destination port, and whether they are in this packet."""
        length, protocol, word = header_bytes(frame), frame[ETHERNET + 9], fragment_word(frame)
        if length < IPV4:
            raise Dropped(PacketVerdict.INVALID)
        if protocol not in (ICMP, TCP, UDP, SCTP):
            raise Dropped(PacketVerdict.UNKNOWN_PROTOCOL)
        if protocol == ICMP:
            if word & 0x1FFF:
                raise Dropped(PacketVerdict.INVALID)
            return b"\0\0", b"\0\0", True
        whose = (*addresses(frame), bytes(frame[ETHERNET + 4 : ETHERNET + 6]), protocol)
        if word & 0x1FFF:
            if whose not in self.fragments:
                raise Dropped(PacketVerdict.FRAGMENT_NOT_FOUND)
            return (*self.fragments[whose], False)
        found = required(frame, ETHERNET + length, 4)
        if word & 0x2000:
            self.fragments[whose] = (found[:2], found[2:])
        return found[:2], found[2:], True

    def rewrite(self, frame: bytearray, key: Key, read: Read, new: tuple[bytes, bytes], *, is_source: bool) -> None:
        """Puts an address and a port in the place of one end."""
        address_at = ETHERNET + (12 if is_source else 16)
        old = (key[0], key[2]) if is_source else (key[1], key[3])
        protocol, transport = key[4], read.transport
        at = {TCP: 16, UDP: 6, ICMP: 2}.get(protocol)
        if at is None:
            raise Dropped(PacketVerdict.NAT_UNSUPPORTED)
        if read.has_header:
            keeps_zero = protocol == UDP
            if protocol != ICMP:
                replaced(frame, transport + at, old[0], new[0], keeps_zero=keeps_zero)
            if new[1] != old[1]:
                replaced(frame, transport + at, old[1], new[1], keeps_zero=keeps_zero)
                stored(frame, transport + (4 if protocol == ICMP else 0 if is_source else 2), new[1])
        replaced(frame, ETHERNET + 10, old[0], new[0])
        stored(frame, address_at, new[0])
