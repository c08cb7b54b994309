"""A captured packet as one line for people, like `tcpdump -pne` prints it, with envelopes opened. Pure.

It stands alone because a command prints, and what a packet says is known without one; it is loaded for a live capture
only.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from labctl.model.interfaces import tunnel_kind
from labctl.path.frame import Arp, Frame, Icmp, Ipv4, Tcp, Transport, Udp, decode, ip_text, mac_text
from labctl.path.probe_packets import quoted_udp_port

_ICMP = {0: "echo reply", 3: "destination unreachable", 8: "echo request", 11: "time exceeded"}
_UNREACHABLE = {0: "net", 1: "host", 2: "protocol", 3: "port", 4: "need to fragment", 13: "prohibited"}
_FLAGS = ((0x02, "S"), (0x01, "F"), (0x08, "P"), (0x04, "R"), (0x20, "U"), (0x10, "."))
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}


def time_text(time_ns: int) -> str:
    """Local time of day to the microsecond, as tcpdump has it."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{rest // 1000:06d}"


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")


def packet_text(data: bytes, wire_byte: int) -> str:
    """Everything but the time and the tap."""
    frame = decode(data)
    if frame is None:
        return f"{len(data)} bytes, too short for an Ethernet header"
    if frame.inner is not None and isinstance(frame.network, Ipv4) and isinstance(frame.transport, Udp):
        envelope = f"{_macs(frame)} {_ends(frame.network, frame.transport)} ttl {frame.network.ttl}"
        kind = tunnel_kind(frame.transport.dst_port).upper()
        return f"{envelope} {kind} vni {frame.vni} length {wire_byte} | {_macs(frame.inner)} {_network(frame.inner)}"
    return f"{_macs(frame)} {_network(frame)} length {wire_byte}"


def _macs(frame: Frame) -> str:
    return f"{mac_text(frame.src_mac)} > {mac_text(frame.dst_mac)}"


def _ends(network: Ipv4, transport: Transport) -> str:
    src, dst = ip_text(network.src), ip_text(network.dst)
    if isinstance(transport, (Tcp, Udp)):
        return f"{src}.{transport.src_port} > {dst}.{transport.dst_port}"
    return f"{src} > {dst}"


def _network(frame: Frame) -> str:
    network = frame.network
    if isinstance(network, Arp):
        return _arp(network)
    if not isinstance(network, Ipv4):
        return f"ethertype 0x{frame.ether_type:04x}"
    what = _transport(frame.transport, network)
    return f"{_ends(network, frame.transport)} ttl {network.ttl} {what}"


def _arp(arp: Arp) -> str:
    if arp.operation == 1:
        return f"ARP who has {ip_text(arp.target_ip)}, tell {ip_text(arp.sender_ip)}"
    if arp.operation == 2:
        return f"ARP {ip_text(arp.sender_ip)} is at {mac_text(arp.sender_mac)}"
    return f"ARP operation {arp.operation}"


def _transport(transport: Transport, network: Ipv4) -> str:
    if isinstance(transport, Icmp):
        return _icmp(transport)
    if isinstance(transport, Tcp):
        letters = "".join(letter for bit, letter in _FLAGS if transport.flags & bit) or "none"
        return f"TCP [{letters}] seq {transport.sequence} ack {transport.acknowledgement}"
    if isinstance(transport, Udp):
        return "UDP"
    protocol = _PROTOCOLS.get(network.protocol, f"protocol {network.protocol}")
    return f"{protocol}, fragment at byte {network.fragment_byte}" if network.fragment_byte else protocol


def _icmp(icmp: Icmp) -> str:
    name = _ICMP.get(icmp.kind, f"type {icmp.kind} code {icmp.code}")
    if icmp.kind in (0, 8):
        return f"ICMP {name} id {icmp.identifier} seq {icmp.sequence}"
    if icmp.kind == 3:
        port = quoted_udp_port(icmp)
        return f"ICMP {_UNREACHABLE.get(icmp.code, f'code {icmp.code}')} unreachable" + (
            f" (udp {port})" if port else ""
        )
    return f"ICMP {name}"
