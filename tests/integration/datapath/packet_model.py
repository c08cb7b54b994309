"""What one node's programs must make of any frame, whole or cut short: a model in Python, of every mode.

Nothing of the programs is used. The model keeps what a node keeps: first fragments, connections, masqueraded ports.
What the programs choose at random, a backend or a port, it reads from their maps (`look`), requires that it could be
chosen, and holds them to it. Nothing expires: a history is shorter than the shortest lifetime.
"""

from __future__ import annotations

from dataclasses import dataclass

from packet_frames import (
    ERRORS,
    ETHERNET,
    HOST_IDENTITY,
    ICMP,
    IPV4,
    MARK_NO_BACKEND,
    MARK_RELAYED,
    OK,
    REDIRECTED,
    SCTP,
    SHOT,
    TCP,
    UDP,
    Dropped,
    Key,
    addresses,
    ether_type,
    fragment_word,
    header_bytes,
    is_arp,
    is_first,
    is_ipv4,
    part,
    replaced,
    required,
)
from packet_masquerading import Masquerading
from packet_services import Services

from labctl.datapath.layout import PacketVerdict, Program
from labctl.model.interfaces import (
    CILIUM_HOST,
    CILIUM_NET_INDEX,
    CILIUM_TUNNEL_INDEX,
    device_mac,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """`frame` is None where the packet is dropped. `counted` are the verdicts that are counted in addition."""

    verdict: PacketVerdict
    action: int
    target: int = 0
    frame: bytes | None = None
    counted: tuple[PacketVerdict, ...] = ()


@dataclass(slots=True)
class Node(Services, Masquerading):
    """One node's programs."""

    def run(self, program: Program, device: int, frame: bytes, *, vni: int | None = None, mark: int = 0) -> Expected:
        """`vni` is None where the packet came without a tunnel's key."""
        self.counted, self.mark = [], mark
        changed = bytearray(frame)
        try:
            verdict, action, target = self.decided(program, changed, device, vni)
        except Dropped as dropped:
            verdict, action, target, changed = dropped.verdict, SHOT, 0, bytearray()
        return Expected(
            verdict=verdict,
            action=action,
            target=target,
            frame=bytes(changed) if action != SHOT else None,
            counted=tuple(self.counted),
        )

    def decided(
        self, program: Program, frame: bytearray, device: int, vni: int | None
    ) -> tuple[PacketVerdict, int, int]:
        """The verdict, the action, and the device that the frame goes to."""
        if program is Program.FROM_OVERLAY:
            return self.from_overlay(frame, vni)
        if program is Program.FROM_CONTAINER:
            return self.from_container(frame, device)
        if program is Program.FROM_NETDEV:
            return self.from_netdev(frame, device)
        if program is Program.FROM_HOST:
            return self.from_host(frame)
        if program is Program.TO_NETDEV:
            return self.to_netdev(frame)
        return (PacketVerdict.TO_STACK if program is Program.TO_HOST else PacketVerdict.PASS), OK, 0

    def from_container(self, frame: bytearray, device: int) -> tuple[PacketVerdict, int, int]:
        if is_arp(frame):
            return self.arp(frame, device)
        if not is_ipv4(frame):
            raise Dropped(PacketVerdict.UNSUPPORTED_L3)
        source, destination = addresses(frame)
        sender = self.pod(source)
        if sender is None or sender[1] != device:
            raise Dropped(PacketVerdict.INVALID_SOURCE)
        if fragment_word(frame) & 0x3FFF or frame[ETHERNET + 9] not in (ICMP, TCP, UDP, SCTP):
            self.ports(frame)
        is_reply = False
        if self.variant == "lb":
            try:
                balanced = self.balance(frame, begins=True, own=True, is_inside=True, program=Program.FROM_CONTAINER)
            except Dropped as dropped:
                if dropped.verdict is PacketVerdict.NO_BACKEND:
                    return self.refuse(frame, device)
                raise
            is_reply = balanced is not None and balanced.is_reply and not balanced.is_own
            destination = addresses(frame)[1]
        receiver = self.pod(destination)
        if receiver is not None:
            if self.variant == "kube-proxy" and self.answers_translated(frame):
                return self.to_stack(frame)
            return self.deliver(frame, receiver, at_ingress=True)
        if is_reply:
            return self.forward(frame)
        if destination in (self.address, self.router):
            return self.to_stack(frame)
        if self.is_tunnelled:
            return self.encapsulate(PacketVerdict.TUNNEL) if self.tunnel_to(destination) else self.to_stack(frame)
        return self.forward(frame) if self.is_bpf else self.to_stack(frame)

    def from_host(self, frame: bytearray) -> tuple[PacketVerdict, int, int]:
        if ether_type(frame) != 0x0800:
            return PacketVerdict.PASS, OK, 0
        source, destination = addresses(frame)
        if self.variant == "kube-proxy" and self.pod(source) is not None:
            flow = self.stack_flow(frame, is_answer=False)
            if flow is not None:
                self.translated_by_stack.add(flow)
        receiver = self.pod(destination)
        if receiver is not None:
            return self.arrive(frame, receiver, Program.FROM_HOST, at_ingress=False)
        if destination in (self.address, self.router):
            return PacketVerdict.PASS, OK, 0
        if self.is_tunnelled and self.tunnel_to(destination):
            if self.variant == "lb" and source == self.router and self.is_any_pod(destination):
                self.keep_apart(frame, Program.FROM_HOST)
            return self.encapsulate(PacketVerdict.TUNNEL)
        raise Dropped(PacketVerdict.UNROUTABLE)

    def from_netdev(self, frame: bytearray, device: int) -> tuple[PacketVerdict, int, int]:
        if ether_type(frame) != 0x0800:
            return PacketVerdict.TO_STACK, OK, 0
        destination = addresses(frame)[1]
        if self.variant == "lb" and destination == self.address:
            found = self.at_nodeport(frame, device)
            if found is not None:
                return found
        if self.masquerades and addresses(frame)[1] == self.address:
            self.unmasquerade(frame)
        receiver = self.pod(addresses(frame)[1])
        if self.is_bpf and receiver is not None:
            return self.arrive(frame, receiver, Program.FROM_NETDEV, at_ingress=True)
        return PacketVerdict.TO_STACK, OK, 0

    def to_netdev(self, frame: bytearray) -> tuple[PacketVerdict, int, int]:
        if ether_type(frame) != 0x0800:
            return PacketVerdict.PASS, OK, 0
        addresses(frame)
        if self.variant == "lb" and self.masquerades and self.mark == MARK_NO_BACKEND:
            raise Dropped(PacketVerdict.UNKNOWN_ICMP_CODE)
        is_relayed = self.variant == "lb" and self.mark == MARK_RELAYED
        if self.masquerades and not is_relayed:
            self.masquerade(frame)
        if self.variant == "lb" and not self.is_tunnelled and not is_relayed:
            source, destination = addresses(frame)
            if source == self.address and self.is_any_pod(destination):
                self.keep_apart(frame, Program.TO_NETDEV)
        return PacketVerdict.PASS, OK, 0

    def from_overlay(self, frame: bytearray, vni: int | None) -> tuple[PacketVerdict, int, int]:
        if ether_type(frame) != 0x0800:
            return PacketVerdict.TO_STACK, OK, 0
        destination = addresses(frame)[1]
        if vni is None:
            raise Dropped(PacketVerdict.INVALID)
        if vni == HOST_IDENTITY:
            raise Dropped(PacketVerdict.INVALID_IDENTITY)
        receiver = self.pod(destination)
        if receiver is not None:
            if self.variant == "kube-proxy" and self.answers_translated(frame):
                return PacketVerdict.TO_STACK, OK, 0
            return self.arrive(frame, receiver, Program.FROM_OVERLAY, at_ingress=True)
        if self.variant == "lb" and destination == self.router:
            balanced = self.balance(frame, program=Program.FROM_OVERLAY)
            if balanced is not None and not balanced.is_own:
                return self.forward(frame)
        self.hop(frame)
        mac = bytes.fromhex(device_mac(self.name, CILIUM_HOST).replace(":", ""))
        frame[:12] = mac + mac
        return PacketVerdict.TO_HOST, REDIRECTED, CILIUM_NET_INDEX

    # ---- where packets go

    def hop(self, frame: bytearray) -> None:
        if frame[ETHERNET + 8] <= 1:
            raise Dropped(PacketVerdict.TTL_EXCEEDED)
        before = bytes(frame[ETHERNET + 8 : ETHERNET + 10])
        frame[ETHERNET + 8] -= 1
        replaced(frame, ETHERNET + 10, before, bytes(frame[ETHERNET + 8 : ETHERNET + 10]))

    def deliver(
        self, frame: bytearray, receiver: tuple[bytes, int], *, at_ingress: bool
    ) -> tuple[PacketVerdict, int, int]:
        if fragment_word(frame) & 0x3FFF:
            self.ports(frame)
        self.hop(frame)
        frame[:12] = receiver[0]
        is_peer = self.is_bpf and at_ingress
        return (PacketVerdict.REDIRECT_PEER if is_peer else PacketVerdict.REDIRECT), REDIRECTED, receiver[1]

    def arrive(
        self, frame: bytearray, receiver: tuple[bytes, int], program: Program, *, at_ingress: bool
    ) -> tuple[PacketVerdict, int, int]:
        if self.variant == "lb":
            self.balance(frame, program=program)
        return self.deliver(frame, receiver, at_ingress=at_ingress)

    def to_stack(self, frame: bytearray) -> tuple[PacketVerdict, int, int]:
        self.hop(frame)
        return PacketVerdict.TO_STACK, OK, 0

    def encapsulate(self, verdict: PacketVerdict) -> tuple[PacketVerdict, int, int]:
        return verdict, REDIRECTED, CILIUM_TUNNEL_INDEX

    def forward(self, frame: bytearray) -> tuple[PacketVerdict, int, int]:
        device = self.way_out(addresses(frame)[1])
        if device is None:
            raise Dropped(PacketVerdict.NO_FIB)
        self.hop(frame)
        return PacketVerdict.REDIRECT_NEIGH, REDIRECTED, device

    def arp(self, frame: bytearray, device: int) -> tuple[PacketVerdict, int, int]:
        request = required(frame, ETHERNET, 28)
        if request[:6] != bytes.fromhex("000108000604"):
            raise Dropped(PacketVerdict.INVALID)
        sender, target = request[14:18], request[24:28]
        if request[6:8] != b"\0\1" or sender == target:
            return PacketVerdict.TO_STACK, OK, 0
        asking = self.pod(sender)
        if asking is None or asking[1] != device:
            raise Dropped(PacketVerdict.INVALID_SOURCE)
        mac, lxc_mac = asking[0][:6], asking[0][6:]
        frame[:12] = asking[0]
        frame[ETHERNET + 6 : ETHERNET + 28] = b"\0\2" + lxc_mac + target + mac + sender
        return PacketVerdict.ARP_REPLY, REDIRECTED, device

    def at_nodeport(self, frame: bytearray, device: int) -> tuple[PacketVerdict, int, int] | None:
        try:
            balanced = self.balance(
                frame,
                begins=True,
                program=Program.FROM_NETDEV,
                node_source=self.router if self.is_tunnelled else self.address,
            )
        except Dropped as dropped:
            if dropped.verdict is PacketVerdict.NO_BACKEND:
                return self.refuse(frame, device)
            raise
        if balanced is None or balanced.is_own:
            return None
        if balanced.is_reply:
            return self.forward(frame)
        destination = addresses(frame)[1]
        if self.pod(destination) is not None:
            return None
        if self.is_tunnelled and self.tunnel_to(destination):
            self.hop(frame)
            return self.encapsulate(PacketVerdict.TUNNEL)
        return self.forward(frame)

    # ---- beside kube-proxy

    def stack_flow(self, frame: bytearray, *, is_answer: bool) -> Key | None:
        source, destination = addresses(frame)
        protocol, transport = frame[ETHERNET + 9], ETHERNET + header_bytes(frame)
        if protocol == ICMP:
            if not is_answer or not is_first(frame):
                return None
            kind, quoted = part(frame, transport, 1), part(frame, transport + 8, IPV4)
            if kind is None or kind[0] not in ERRORS or quoted is None or quoted[0] >> 4 != 4:
                return None
            ports = part(frame, transport + 8 + (quoted[0] & 0xF) * 4, 4)
            return None if ports is None else (quoted[12:16], quoted[16:20], ports[:2], ports[2:], quoted[9])
        try:
            one, other, _ = self.ports(frame)
        except Dropped:
            return None
        return (destination, source, other, one, protocol) if is_answer else (source, destination, one, other, protocol)

    def answers_translated(self, frame: bytearray) -> bool:
        return self.stack_flow(frame, is_answer=True) in self.translated_by_stack
