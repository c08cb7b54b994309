"""What moved a packet between two taps, as it was observed: by an eBPF program, or by the kernel with its netfilter.

A provider's witness makes these (program events of the netns datapath, Cilium's monitor, netfilter's trace); the path
joins them with the sightings of the same packet. Nothing in here is derived from what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Mover(StrEnum):
    """Who acted on the packet."""

    PROGRAM = "program"
    NETFILTER = "netfilter"
    CONNTRACK = "conntrack"
    AGENT = "agent"


class Act(StrEnum):
    """The acts that `Movement.helper` names; a witness may have others, in its own words."""

    REDIRECT = "bpf_redirect"
    REDIRECT_PEER = "bpf_redirect_peer"
    REDIRECT_NEIGH = "bpf_redirect_neigh"
    TUNNEL = "tunnel redirect"
    TO_STACK = "to-stack"
    TO_ENDPOINT = "to-endpoint"
    """Given to a pod's device. Like the next two a witness's word that does not tell which redirect it was."""
    TO_NETWORK = "to-network"
    TO_OVERLAY = "to-overlay"
    SEEN = "seen"
    """The program had the packet before it; what it did with it is told by another movement, or by none."""
    PASS = "pass"  # nosec B105  # a verdict
    DROP = "drop"
    ACCEPT = "accept"
    NOT_LEFT = "not left"
    """A netfilter hook that the packet entered and did not leave, with no word about why."""


class PacketKey(NamedTuple):
    """Which packet it was, by its own content: enough to find it again at any tap. A tuple, since every packet of a
    capture is given one.

    `first` and `second` are the ICMP echo's id and sequence, or the source and destination port; 0 for other ICMP.
    `ip_id` is the IPv4 identification, 0 where the witness does not tell it.
    """

    src: str
    dst: str
    protocol: str
    first: int
    second: int
    ip_id: int = 0

    def is_of(self, other: PacketKey) -> bool:
        """Whether both keys are of one packet: identifications count where both are known."""
        return self[:-1] == other[:-1] and (not self.ip_id or not other.ip_id or self.ip_id == other.ip_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One act on one packet. `time_ns` is wall-clock time in ns since the epoch, None where the witness has no clock.

    `what` is the name of who acted (`cil_from_container`, `FORWARD`), `device` and `hook` where it did
    (`lxc948fe603f61d`, `ingress`). `helper` is the act (see `Act`), `target`
    the device that it was sent to, `reason` why it was dropped. For netfilter `device` is the device that the packet
    came in by (empty for the node's own) and `target` the one that it leaves by. TTLs are 0 where unknown.
    `encapsulated`: it acted on the packet in its envelope. `raw` is what the witness itself said or passed.
    """

    node: str
    mover: Mover
    what: str
    device: str
    hook: str
    helper: str
    packet: PacketKey
    time_ns: int | None = None
    target: str = ""
    reason: str = ""
    ttl_in: int = 0
    ttl_out: int = 0
    identity: int = 0
    encapsulated: bool = False
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshown:
    """A kind of act that the witnesses on the nodes' kernel cannot tell of, whether the packet meets it or not: that no
    such act stands on the way says nothing. `kernel` is the release, `since` the first version of Linux that can."""

    mover: Mover
    kernel: str
    since: str
