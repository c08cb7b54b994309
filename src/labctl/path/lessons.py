"""What a difference at one tap teaches: the sentences, from the tap's place on the way. Pure.

Which differences there are is `difference`'s to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labctl.model.datapath import Encapsulation, HostRouting
from labctl.model.signature import Role, Seen
from labctl.path.sighting import Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One tap on one half of the way, with what the sentences need to know about the rest of it."""

    way: Way
    role: Role
    tap: str
    expected_mode: HostRouting
    encapsulation: Encapsulation
    last_seen: Role | None
    is_seen_later: bool

    @property
    def name(self) -> str:
        return f"{_NAMES[self.role]} ({self.tap})" if self.tap != self.role else _NAMES[self.role]

    @property
    def is_delivery(self) -> bool:
        """Whether this is the lxc through which this half of the exchange reaches its pod."""
        return self.role is (Role.SERVER_LXC if self.way is Way.REQUEST else Role.CLIENT_LXC)

    @property
    def is_aside(self) -> bool:
        """Whether this device is beside the way: the node's own, through which pod traffic never goes."""
        return self.role in _HOST_DEVICES or self.role in _LOOPBACKS

    def is_surplus(self, want: Seen | None, got: Seen | None) -> bool:
        return want is not None and got is not None and got.packets > want.packets


def not_captured(place: Place) -> str:
    return f"{place.name} was not captured, though the {place.way} is expected there: nothing can be said about it"


def unexpected(place: Place) -> str:
    saw = f"{place.name} saw the {place.way}"
    if place.is_delivery:
        return f"{saw}: delivery did not use bpf_redirect_peer, so host routing is Legacy"
    if place.role in _HOST_DEVICES:
        return f"{saw}: it was handed to the node's own stack and came out there, instead of being redirected by eBPF"
    if place.role in _VXLAN_DEVICES:
        return f"{saw}: it was sent into the tunnel, where none was expected to be used"
    if place.role in _UPLINKS:
        return (
            f"{saw}: it left the node although both pods are on it, so the node does not know the other pod as its own"
        )
    if place.role in _LOOPBACKS:
        return f"{saw}: the node took it for its own and looped it back"
    return f"{saw}, where it was not expected"


def bypassed(place: Place) -> str:
    missed = f"{place.name} did not see the {place.way}, yet it was seen further on"
    if place.is_delivery:
        return f"{missed}: delivery used bpf_redirect_peer, which skips the lxc, so host routing is BPF"
    if place.role in _VXLAN_DEVICES:
        return f"{missed}: it crossed without the tunnel device, so encapsulation is not in force"
    return f"{missed}: it was redirected past this device"


def lost(place: Place) -> str:
    if place.last_seen is None:
        return f"the {place.way} was seen nowhere: {_NOTHING_SENT[place.way]}"
    last = _NAMES[place.last_seen]
    return (
        f"the {place.way} was last seen at {last} and did not reach {place.name}: "
        f"{_loss_lesson(place.last_seen, place.way, place.encapsulation)}"
    )


def _loss_lesson(last: Role, way: Way, encapsulation: Encapsulation) -> str:
    sender_lxc, sender_uplink, receiver_uplink, receiver_vxlan = (
        (Role.CLIENT_LXC, Role.CLIENT_UPLINK, Role.SERVER_UPLINK, Role.SERVER_CILIUM_VXLAN)
        if way is Way.REQUEST
        else (Role.SERVER_LXC, Role.SERVER_UPLINK, Role.CLIENT_UPLINK, Role.CLIENT_CILIUM_VXLAN)
    )
    if last is sender_lxc and encapsulation is Encapsulation.NATIVE:
        return "look at the program on that lxc, the node's route, its neighbour entry, and its netfilter rules"
    if last is sender_lxc:
        return "look at the program on that lxc (its drop counters) and the node's tunnel entries"
    if last is sender_uplink and encapsulation is Encapsulation.VXLAN:
        return "the envelope left for another place: look at the tunnel entry (VTEP) and the outer destination MAC"
    if last is sender_uplink:
        return "it left the node for another place: look at the destination MAC and the neighbour entry"
    if last is receiver_uplink and encapsulation is Encapsulation.VXLAN:
        return "the node did not open the envelope: look at its VTEP address, the VXLAN port, and netfilter's INPUT"
    if last in (receiver_uplink, receiver_vxlan):
        return "the node did not deliver it: look at its endpoint entries, identities (VNI) and netfilter's FORWARD"
    if last in _NODE_VXLAN_OF_SENDER[way]:
        return "the tunnel device did not send the envelope: look at the route and the neighbour entry for the VTEP"
    if last in _POD_DEVICES:
        return "it did not cross from the pod's eth0 to the lxc, or the pod does not answer"
    return "it was dropped in between"


def wrong_count(place: Place, want: Seen, got: Seen) -> str:
    if got.packets < want.packets:
        lost = want.packets - got.packets
        return (
            f"{place.name} saw {got.packets} of {want.packets} packets of the {place.way}: {lost} got lost before it, "
            "so the way is there but not reliable"
        )
    return (
        f"{place.name} saw the {place.way} {got.packets} times, not {want.packets}: packets came by more than once "
        "(a loop, or copies)"
    )


def wrong_ttl(place: Place, want: Seen, got: Seen) -> str:
    lesson = hop_lesson(got.ttl - want.ttl, place.expected_mode)
    return f"at {place.name} the {place.way} carries TTL {got.ttl}, not {want.ttl}: {lesson}"


def hop_lesson(change: int, expected_mode: HostRouting) -> str:
    hops = "1 hop" if abs(change) == 1 else f"{abs(change)} hops"
    if change < 0 and expected_mode is HostRouting.BPF:
        return f"{hops} more counted than BPF host routing has: the kernel's forwarding took part, as in Legacy"
    if change > 0 and expected_mode is HostRouting.LEGACY:
        return f"{hops} fewer counted than Legacy host routing has: the kernel's forwarding was skipped, as in BPF"
    return f"{hops} {'more' if change < 0 else 'fewer'} counted than expected on the way here"


_HOST_DEVICES = frozenset(
    (Role.CLIENT_CILIUM_HOST, Role.CLIENT_CILIUM_NET, Role.SERVER_CILIUM_HOST, Role.SERVER_CILIUM_NET)
)
_VXLAN_DEVICES = frozenset((Role.CLIENT_CILIUM_VXLAN, Role.SERVER_CILIUM_VXLAN))
_UPLINKS = frozenset((Role.CLIENT_UPLINK, Role.SERVER_UPLINK))
_LOOPBACKS = frozenset((Role.CLIENT_LO, Role.SERVER_LO))
_POD_DEVICES = frozenset((Role.CLIENT_ETH0, Role.SERVER_ETH0))
_NODE_VXLAN_OF_SENDER = {Way.REQUEST: (Role.CLIENT_CILIUM_VXLAN,), Way.REPLY: (Role.SERVER_CILIUM_VXLAN,)}
_NOTHING_SENT = {
    Way.REQUEST: "the client did not send it",
    Way.REPLY: "the server did not answer",
}
_NAMES: Mapping[Role, str] = {
    Role.CLIENT_ETH0: "the client's eth0",
    Role.CLIENT_LXC: "the client's lxc",
    Role.CLIENT_CILIUM_HOST: "cilium_host of the client's node",
    Role.CLIENT_CILIUM_NET: "cilium_net of the client's node",
    Role.CLIENT_CILIUM_VXLAN: "cilium_vxlan of the client's node",
    Role.CLIENT_UPLINK: "the uplink of the client's node",
    Role.CLIENT_LO: "lo of the client's node",
    Role.CLIENT_BRIDGE_PORT: "the bridge port of the client's node",
    Role.SERVER_BRIDGE_PORT: "the bridge port of the server's node",
    Role.SERVER_LO: "lo of the server's node",
    Role.SERVER_UPLINK: "the uplink of the server's node",
    Role.SERVER_CILIUM_VXLAN: "cilium_vxlan of the server's node",
    Role.SERVER_CILIUM_NET: "cilium_net of the server's node",
    Role.SERVER_CILIUM_HOST: "cilium_host of the server's node",
    Role.SERVER_LXC: "the server's lxc",
    Role.SERVER_ETH0: "the server's eth0",
}
