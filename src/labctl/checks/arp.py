"""The ARP of one pod in captures: who was asked for, who answered, and where both were seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from labctl.model.signature import Role
from labctl.path.capture import TapCapture
from labctl.path.frame import Arp, decode, ip_text, mac_text

_REQUEST, _REPLY = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ArpSight:
    """One ARP message at one tap: `is_reply`, what it asks for or answers (`subject`), and the MAC that it names
    (of an answer: whose the address is said to be)."""

    role: Role
    is_reply: bool
    subject: str
    mac: str


def arp_of_pod(captures: Iterable[TapCapture], address: IPv4Address, macs: Iterable[str]) -> Iterator[ArpSight]:
    """What the pod asked, and what it was answered, at every tap. `macs` are the pod's own: others may ask for it."""
    packed = address.packed
    own = {mac.lower() for mac in macs}
    for capture in captures:
        for record in capture.records():
            frame = decode(record.frame)
            arp = frame.network if frame is not None else None
            if not isinstance(arp, Arp):
                continue
            if arp.operation == _REQUEST and arp.sender_ip == packed and mac_text(arp.sender_mac) in own:
                subject, is_reply = arp.target_ip, False
            elif arp.operation == _REPLY and arp.target_ip == packed:
                subject, is_reply = arp.sender_ip, True
            else:
                continue
            yield ArpSight(
                role=capture.tap.role, is_reply=is_reply, subject=ip_text(subject), mac=mac_text(arp.sender_mac)
            )
