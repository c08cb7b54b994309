"""Where an observed signature departs from the expected one, and what that teaches, in words. Pure.

Differences come in the order of the packet's way: the request from client to server, then the reply back. The first one
is where the packet began to go another way; those after it mostly follow from it. What a difference at one tap teaches
follows from the tap's place on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from labctl.model.lab import Encapsulation, HostRouting
from labctl.model.signature import (
    BACKEND,
    CLIENT,
    CLIENT_NODE,
    CLIENT_ROUTER,
    SERVER,
    SERVER_NODE,
    SERVER_ROUTER,
    ExpectedSignature,
    Outer,
    Role,
    Seen,
    Signature,
    TapSight,
)
from labctl.path.sighting import Way
from labctl.values import dataclass


class DifferenceKind(StrEnum):
    """The ways in which two signatures can differ at one tap, in the order in which they are looked at."""

    NOT_CAPTURED = "not-captured"
    UNEXPECTED = "unexpected"
    LOST = "lost"
    BYPASSED = "bypassed"
    PACKETS = "packets"
    OUTER_UNEXPECTED = "outer-unexpected"
    OUTER_MISSING = "outer-missing"
    VNI = "vni"
    OUTER_SRC = "outer-src"
    OUTER_MAC = "outer-mac"
    OUTER_PORT = "outer-port"
    OUTER_TTL = "outer-ttl"
    TTL = "ttl"
    SRC = "src"
    DST = "dst"
    SRC_MAC = "src-mac"
    DST_MAC = "dst-mac"
    PING_TTL = "ping-ttl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference. `tap` is its name in this lab; `sentence` says what was seen and what it means."""

    kind: DifferenceKind
    way: Way
    role: Role
    tap: str
    sentence: str


def first_difference(expected: ExpectedSignature, observed: Signature) -> Difference | None:
    """The first difference along the way, or None when the two agree."""
    return next(differences(expected, observed), None)


def differences(expected: ExpectedSignature, observed: Signature) -> Iterator[Difference]:
    """Every difference, in the order of the packet's way, those that follow from others at the end of each half.

    Taps that the expected signature does not know (the underlay's bridge ports: a lab's own, not Cilium's) are passed
    over. A tap that is expected to be silent may be absent.
    """
    sights = {sight.role: sight for sight in observed.taps}
    for way in Way:
        consequences: list[Difference] = []
        is_lost = False
        for difference, is_consequence in _on_way(way, expected, sights):
            if difference.kind is DifferenceKind.LOST and is_lost:
                continue  # lost is lost: the taps after the first add nothing
            is_lost |= difference.kind is DifferenceKind.LOST
            if is_consequence:
                consequences.append(difference)
            else:
                yield difference
        yield from consequences
    yield from _ping_ttl(expected, observed, sights)


def _on_way(
    way: Way, expected: ExpectedSignature, sights: Mapping[Role, TapSight]
) -> Iterator[tuple[Difference, bool]]:
    """The differences of one half, tap by tap, and whether each one follows from another that comes later.

    A packet that went its way and was seen at a side device or too often besides came around again: what sent it around
    comes first.
    """
    ordered = expected.signature.taps if way is Way.REQUEST else expected.signature.taps[::-1]
    roles = [sight.role for sight in ordered]
    for position, want in enumerate(ordered):
        last_seen = _last_seen(roles[:position], sights, way)
        place = TapOnWay(
            way=way,
            role=want.role,
            tap=sights[want.role].tap if want.role in sights else str(want.role),
            expected_mode=expected.host_routing,
            encapsulation=expected.signature.encapsulation,
            last_seen=last_seen,
            is_addressed=last_seen is not None
            and _next_mac(_of(sights[last_seen], way)) == _next_mac(_of(ordered[roles.index(last_seen)], way)),
            is_seen_later=any(_of(sights.get(role), way) is not None for role in roles[position + 1 :]),
        )
        wanted = _of(want, way)
        if want.role not in sights:
            if wanted is not None:
                yield _at(place, DifferenceKind.NOT_CAPTURED, not_captured(place)), False
            continue
        seen = _of(sights[want.role], way)
        for difference in _at_tap(place, wanted, seen):
            came_around = difference.kind is DifferenceKind.UNEXPECTED and place.is_aside and place.is_seen_later
            too_often = difference.kind is DifferenceKind.PACKETS and place.is_surplus(wanted, seen)
            yield difference, came_around or too_often


def _at(place: TapOnWay, kind: DifferenceKind, sentence: str) -> Difference:
    return Difference(kind=kind, way=place.way, role=place.role, tap=place.tap, sentence=sentence)


def _of(sight: TapSight | None, way: Way) -> Seen | None:
    if sight is None:
        return None
    return sight.request if way is Way.REQUEST else sight.reply


def _next_mac(seen: Seen | None) -> str | None:
    """Whose frame it is on the wire."""
    if seen is None:
        return None
    return seen.dst_mac if seen.outer is None else seen.outer.dst_mac


def _last_seen(roles: list[Role], sights: Mapping[Role, TapSight], way: Way) -> Role | None:
    return next((role for role in reversed(roles) if _of(sights.get(role), way) is not None), None)


def _at_tap(place: TapOnWay, want: Seen | None, got: Seen | None) -> Iterator[Difference]:
    if want is None and got is not None:
        yield _at(place, DifferenceKind.UNEXPECTED, unexpected(place))
    elif want is not None and got is None and place.is_seen_later:
        yield _at(place, DifferenceKind.BYPASSED, bypassed(place))
    elif want is not None and got is None:
        yield _at(place, DifferenceKind.LOST, lost(place))
    elif want is not None and got is not None:
        yield from _in_frame(place, want, got)


def _in_frame(place: TapOnWay, want: Seen, got: Seen) -> Iterator[Difference]:
    way, name = place.way, place.name
    if got.packets != want.packets:
        yield _at(place, DifferenceKind.PACKETS, wrong_count(place, want, got))
    if want.outer is None and got.outer is not None:
        yield _at(
            place,
            DifferenceKind.OUTER_UNEXPECTED,
            f"at {name} the {way} is inside an envelope (VNI {got.outer.vni}) where none was expected: "
            "the node has a tunnel in use, so routing is not native",
        )
    elif want.outer is not None and got.outer is None:
        yield _at(
            place,
            DifferenceKind.OUTER_MISSING,
            f"at {name} the {way} has no envelope: it was routed as it is, so encapsulation is not in force",
        )
    elif want.outer is not None and got.outer is not None:
        yield from _in_envelope(place, want.outer, got.outer)
    if got.ttl != want.ttl:
        yield _at(place, DifferenceKind.TTL, wrong_ttl(place, want, got))
    if want.src and got.src and got.src != want.src:
        yield _at(place, DifferenceKind.SRC, wrong_address(place, "from", want.src, got.src))
    if want.dst and got.dst and got.dst != want.dst:
        yield _at(place, DifferenceKind.DST, wrong_address(place, "to", want.dst, got.dst))
    if want.src_mac and got.src_mac != want.src_mac:
        yield _at(
            place,
            DifferenceKind.SRC_MAC,
            f"at {name} the {way} comes from MAC {got.src_mac}, not {want.src_mac}: another device rewrote or sent it",
        )
    if want.dst_mac and got.dst_mac != want.dst_mac:
        yield _at(
            place,
            DifferenceKind.DST_MAC,
            f"at {name} the {way} is addressed to MAC {got.dst_mac}, not {want.dst_mac}: the sender's neighbour entry, "
            "or the program that rewrites addresses, names another next hop",
        )


def _in_envelope(place: TapOnWay, want: Outer, got: Outer) -> Iterator[Difference]:
    way, name = place.way, place.name
    sender = "client" if way is Way.REQUEST else "server"
    if got.vni != want.vni:
        yield _at(
            place,
            DifferenceKind.VNI,
            f"at {name} the {way}'s VNI is {got.vni}, not {want.vni}, which is the {sender} pod's security identity: "
            "the receiving node takes the packet for another sender's",
        )
    if got.src != want.src:
        yield _at(
            place,
            DifferenceKind.OUTER_SRC,
            f"at {name} the {way}'s envelope comes from {got.src}, not {want.src}: another node encapsulated it",
        )
    if want.src_mac and (got.src_mac, got.dst_mac) != (want.src_mac, want.dst_mac):
        yield _at(
            place,
            DifferenceKind.OUTER_MAC,
            f"at {name} the {way}'s envelope goes from MAC {got.src_mac} to {got.dst_mac}, expected was {want.src_mac} "
            f"to {want.dst_mac}: the tunnel entry names another node (VTEP), or the neighbour entry another device",
        )
    if got.dst_port != want.dst_port:
        yield _at(
            place,
            DifferenceKind.OUTER_PORT,
            f"at {name} the {way}'s envelope goes to UDP port {got.dst_port}, not {want.dst_port}: the nodes do not "
            "agree on the tunnel's port",
        )
    if got.ttl != want.ttl:
        yield _at(
            place,
            DifferenceKind.OUTER_TTL,
            f"at {name} the {way}'s envelope carries TTL {got.ttl}, not {want.ttl}: the underlay routes it, or the "
            "tunnel sets a TTL of its own",
        )


def _ping_ttl(
    expected: ExpectedSignature, observed: Signature, sights: Mapping[Role, TapSight]
) -> Iterator[Difference]:
    want, got = expected.signature.ping_ttl, observed.ping_ttl
    if want is None or got is None or got == want:
        return
    tap = sights[Role.CLIENT_ETH0].tap if Role.CLIENT_ETH0 in sights else str(Role.CLIENT_ETH0)
    yield Difference(
        kind=DifferenceKind.PING_TTL,
        way=Way.REPLY,
        role=Role.CLIENT_ETH0,
        tap=tap,
        sentence=f"ping printed ttl={got}, expected was ttl={want}: {hop_lesson(got - want, expected.host_routing)}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TapOnWay:
    """One tap on one half of the way, with what the sentences need to know about the rest of it."""

    way: Way
    role: Role
    tap: str
    expected_mode: HostRouting | None
    encapsulation: Encapsulation
    last_seen: Role | None
    is_addressed: bool
    """Whether the frame had the expected destination MAC where it was seen last."""
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


def not_captured(place: TapOnWay) -> str:
    return f"{place.name} was not captured, though the {place.way} is expected there: nothing can be said about it"


def unexpected(place: TapOnWay) -> str:
    saw = f"{place.name} saw the {place.way}"
    if place.is_delivery:
        return f"{saw}: delivery did not use bpf_redirect_peer, so host routing is Legacy"
    if place.role in _HOST_DEVICES:
        return f"{saw}: it was handed to the node's own stack and came out there, instead of being redirected by eBPF"
    if place.role in _TUNNEL_DEVICES:
        return f"{saw}: it was sent into the tunnel, where none was expected to be used"
    if place.role in _UPLINKS:
        return (
            f"{saw}: it left the node although both pods are on it, so the node does not know the other pod as its own"
        )
    if place.role in _LOOPBACKS:
        return f"{saw}: the node took it for its own and looped it back"
    return f"{saw}, where it was not expected"


def bypassed(place: TapOnWay) -> str:
    missed = f"{place.name} did not see the {place.way}, yet it was seen further on"
    if place.is_delivery:
        return f"{missed}: delivery used bpf_redirect_peer, which skips the lxc, so host routing is BPF"
    if place.role in _TUNNEL_DEVICES:
        return f"{missed}: it crossed without the tunnel device, so encapsulation is not in force"
    return f"{missed}: it was redirected past this device"


def lost(place: TapOnWay) -> str:
    if place.last_seen is None:
        return f"the {place.way} was seen nowhere: {_NOTHING_SENT[place.way]}"
    last = _NAMES[place.last_seen]
    return (
        f"the {place.way} was last seen at {last} and did not reach {place.name}: "
        f"{_loss_lesson(place.last_seen, place.way, place.encapsulation, is_addressed=place.is_addressed)}"
    )


def _loss_lesson(last: Role, way: Way, encapsulation: Encapsulation, *, is_addressed: bool) -> str:
    sender_lxc, sender_uplink, receiver_uplink, receiver_tunnels = (
        (Role.CLIENT_LXC, Role.CLIENT_UPLINK, Role.SERVER_UPLINK, _CILIUM_TUNNELS[1])
        if way is Way.REQUEST
        else (Role.SERVER_LXC, Role.SERVER_UPLINK, Role.CLIENT_UPLINK, _CILIUM_TUNNELS[0])
    )
    if last is sender_lxc and encapsulation is Encapsulation.NATIVE:
        return "look at the program on that lxc, the node's route, its neighbour entry, and its netfilter rules"
    if last is sender_lxc:
        return "look at the program on that lxc (its drop counters) and the node's tunnel entries"
    if last is sender_uplink and is_addressed:
        return (
            "it had the right destination MAC, so the wire lost it, or the other node dropped it before its tap: look "
            "for an XDP program there"
        )
    if last is sender_uplink and encapsulation.is_tunnel:
        return "the envelope was sent elsewhere: look at the tunnel entry (VTEP) and the outer destination MAC"
    if last is sender_uplink:
        return "it left the node for elsewhere: look at the destination MAC and the neighbour entry"
    if last is receiver_uplink and encapsulation.is_tunnel:
        return "the node did not decapsulate it: look at its VTEP address, the tunnel's port, and netfilter's INPUT"
    if last in (receiver_uplink, *receiver_tunnels):
        return "the node did not deliver it: look at its endpoint entries, identities (VNI) and netfilter's FORWARD"
    if last in _ON_SENDERS_NODE[way]:
        return "look at the node's route, its neighbour and forwarding entries, and its netfilter rules"
    if last in _ON_RECEIVERS_NODE[way]:
        return "the node did not deliver it: look at its route to the pod, its bridge, and netfilter's FORWARD"
    if last in _NODE_TUNNELS_OF_SENDER[way]:
        return "the tunnel device did not send the envelope: look at the route and the neighbour entry for the VTEP"
    if last in _POD_DEVICES:
        return "it did not cross from the pod's eth0 to the lxc, or the pod does not answer"
    return "it was dropped in between"


def wrong_count(place: TapOnWay, want: Seen, got: Seen) -> str:
    if got.packets < want.packets:
        lost = want.packets - got.packets
        return (
            f"{place.name} saw {got.packets} of {want.packets} packets of the {place.way}: {lost} were lost before it: "
            "the path works but loses packets"
        )
    return (
        f"{place.name} saw the {place.way} {got.packets} times, not {want.packets}: packets came by more than once "
        "(a loop, or copies)"
    )


def wrong_ttl(place: TapOnWay, want: Seen, got: Seen) -> str:
    lesson = hop_lesson(got.ttl - want.ttl, place.expected_mode)
    return f"at {place.name} the {place.way} carries TTL {got.ttl}, not {want.ttl}: {lesson}"


def wrong_address(place: TapOnWay, where: str, want: str, got: str) -> str:
    saw = f"at {place.name} the {place.way} is {where} {_whose(got)}, not {where} {_whose(want)}"
    if (want, got) in ((CLIENT_NODE, CLIENT), (CLIENT_NODE, CLIENT_ROUTER)) and where == "from":
        lesson = "it left without being masqueraded: whoever answers has no way back to a pod's address"
        return f"{saw}: {lesson}, unless a route leads there"
    if (want, got) == (CLIENT, CLIENT_NODE) and where == "from":
        return f"{saw}: it was masqueraded, where pods' addresses should be kept"
    return f"{saw}: it was translated differently on the way here"


def _whose(role: str) -> str:
    return _ADDRESSES.get(role, role)


def hop_lesson(change: int, expected_mode: HostRouting | None) -> str:
    hops = "1 hop" if abs(change) == 1 else f"{abs(change)} hops"
    if change < 0 and expected_mode is HostRouting.BPF:
        return f"{hops} more counted than BPF host routing has: the kernel's forwarding took part, as in Legacy"
    if change > 0 and expected_mode is HostRouting.LEGACY:
        return f"{hops} fewer counted than Legacy host routing has: the kernel's forwarding was skipped, as in BPF"
    if change < 0:
        return f"{hops} more counted than expected on the way here"
    return f"{hops} fewer counted than expected on the way here"


_HOST_DEVICES = frozenset(
    (Role.CLIENT_CILIUM_HOST, Role.CLIENT_CILIUM_NET, Role.SERVER_CILIUM_HOST, Role.SERVER_CILIUM_NET)
)
_CILIUM_TUNNELS = (
    (Role.CLIENT_CILIUM_VXLAN, Role.CLIENT_CILIUM_GENEVE),
    (Role.SERVER_CILIUM_VXLAN, Role.SERVER_CILIUM_GENEVE),
)
_TUNNEL_DEVICES = frozenset((*_CILIUM_TUNNELS[0], *_CILIUM_TUNNELS[1], Role.CLIENT_TUNNEL, Role.SERVER_TUNNEL))
_UPLINKS = frozenset((Role.CLIENT_UPLINK, Role.SERVER_UPLINK))
_LOOPBACKS = frozenset((Role.CLIENT_LO, Role.SERVER_LO))
_POD_DEVICES = frozenset((Role.CLIENT_ETH0, Role.SERVER_ETH0))
_NODE_TUNNELS_OF_SENDER = {
    Way.REQUEST: (*_CILIUM_TUNNELS[0], Role.CLIENT_TUNNEL),
    Way.REPLY: (*_CILIUM_TUNNELS[1], Role.SERVER_TUNNEL),
}
_ON_SENDERS_NODE = {
    Way.REQUEST: (Role.CLIENT_VETH, Role.CLIENT_BRIDGE),
    Way.REPLY: (Role.SERVER_VETH, Role.SERVER_BRIDGE),
}
_ON_RECEIVERS_NODE = {
    Way.REQUEST: (Role.SERVER_TUNNEL, Role.SERVER_BRIDGE, Role.SERVER_VETH),
    Way.REPLY: (Role.CLIENT_TUNNEL, Role.CLIENT_BRIDGE, Role.CLIENT_VETH),
}
_NOTHING_SENT = {
    Way.REQUEST: "the client did not send it",
    Way.REPLY: "the server did not answer",
}
_ADDRESSES: Mapping[str, str] = {
    CLIENT: "the client's own address",
    SERVER: "the server's address",
    BACKEND: "a backend's address",
    CLIENT_NODE: "the address of the client's node",
    SERVER_NODE: "the address of the server's node",
    CLIENT_ROUTER: "the cilium_host address of the client's node",
    SERVER_ROUTER: "the cilium_host address of the server's node",
}
_NAMES: Mapping[Role, str] = {
    Role.CLIENT_ETH0: "the client's eth0",
    Role.CLIENT_LXC: "the client's lxc",
    Role.CLIENT_VETH: "the client's veth on the node",
    Role.CLIENT_BRIDGE: "the pods' bridge of the client's node",
    Role.CLIENT_TUNNEL: "the vxlan device of the client's node",
    Role.CLIENT_CILIUM_HOST: "cilium_host of the client's node",
    Role.CLIENT_CILIUM_NET: "cilium_net of the client's node",
    Role.CLIENT_CILIUM_VXLAN: "cilium_vxlan of the client's node",
    Role.CLIENT_CILIUM_GENEVE: "cilium_geneve of the client's node",
    Role.CLIENT_BRIDGE: "the bridge of the client's node",
    Role.CLIENT_TUNNEL: "the tunnel device of the client's node",
    Role.CLIENT_UPLINK: "the uplink of the client's node",
    Role.CLIENT_LO: "lo of the client's node",
    Role.CLIENT_BRIDGE_PORT: "the bridge port of the client's node",
    Role.SERVER_BRIDGE_PORT: "the bridge port of the server's node",
    Role.SERVER_LO: "lo of the server's node",
    Role.SERVER_UPLINK: "the uplink of the server's node",
    Role.SERVER_TUNNEL: "the tunnel device of the server's node",
    Role.SERVER_BRIDGE: "the bridge of the server's node",
    Role.SERVER_CILIUM_VXLAN: "cilium_vxlan of the server's node",
    Role.SERVER_CILIUM_GENEVE: "cilium_geneve of the server's node",
    Role.SERVER_CILIUM_NET: "cilium_net of the server's node",
    Role.SERVER_CILIUM_HOST: "cilium_host of the server's node",
    Role.SERVER_TUNNEL: "the vxlan device of the server's node",
    Role.SERVER_BRIDGE: "the pods' bridge of the server's node",
    Role.SERVER_VETH: "the server's veth on the node",
    Role.SERVER_LXC: "the server's lxc",
    Role.SERVER_ETH0: "the server's eth0",
}
