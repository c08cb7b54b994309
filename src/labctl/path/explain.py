"""What is known of a packet's path: what brought it from tap to tap, and the hop where it goes wrong. Pure.

What brought it is named, in a word and a sentence, from what was observed between the two taps: nothing here knows
which mode a lab should be in, and where no witness reported anything, the answer is that none did.

It goes wrong where it first departs from the expected way, or where it was lost. What is expected comes from the lab's
facts (which node a pod is on) and from the recorded signature of its mode. A loss names who dropped the packet, or who
saw it last and how it was addressed. Taps of the way that a packet was not seen at come each with the observed reason
where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from labctl.model.flow import client_node_of, flows_of, server_node_of
from labctl.model.interfaces import tunnel_kind
from labctl.model.lab import Lab, Pair
from labctl.model.signature import Role
from labctl.model.trace import (
    BEFORE_TAPS,
    Carriage,
    ForwardingAct,
    Hop,
    KnownAddress,
    Movement,
    Mover,
    PacketPath,
    Skipped,
    TapDirection,
    TraceTap,
    Way,
    WrongTurn,
)
from labctl.path.difference import Difference, DifferenceKind
from labctl.path.sighting import Sighting
from labctl.values import dataclass

_CONSEQUENCES = (DifferenceKind.LOST, DifferenceKind.PACKETS, DifferenceKind.BYPASSED)
"""What says that a packet is missing, or that too many are there, says nothing about where that came from."""


def first_wrong(
    lab: Lab, pair: Pair, taps: Sequence[TraceTap], paths: Sequence[PacketPath], found: Sequence[Difference]
) -> WrongTurn | None:
    """None when every packet arrived and every tap saw what it should."""
    lost = next((path for path in paths if not path.arrived), None)
    departed = _wrong_node(lab, pair, paths) or _rewritten(lab, pair, paths) or _departed(found, lost, taps)
    if lost is None:
        return departed
    at = _lost_at(lost, taps)
    missing = WrongTurn(way=lost.way, number=lost.number, tap=at, role=_role(taps, at), sentence=lost.lost)
    came_by = {hop.tap for hop in lost.hops}
    is_before = departed is not None and (departed.way, departed.tap in came_by) == (lost.way, True)
    if departed is None or (not is_before and _place(departed, taps) > _place(missing, taps)):
        return missing
    return WrongTurn(
        way=departed.way,
        number=departed.number,
        tap=departed.tap,
        role=departed.role,
        sentence=f"{departed.sentence}; {lost.lost}",
    )


def _lost_at(path: PacketPath, taps: Sequence[TraceTap]) -> str:
    """The tap of its last sighting, or of the device at which a program took it before that device's tap."""
    early = next((act for act in path.after if act.hook == BEFORE_TAPS), None)
    taken = (tap.name for tap in taps if early is not None and (tap.part, tap.device) == (early.node, early.device))
    return next(taken, path.lost_tap)


def departure(path: PacketPath) -> Hop | None:
    """The sighting with which a packet left for a device that it was not seen at; also where it came back by the tap
    that it left by, as from a program that answers XDP_TX."""
    left = path.hops[-1:]
    if len(path.hops) > 1 and path.hops[-2].tap == path.hops[-1].tap and left[0].direction is TapDirection.IN:
        left = path.hops[-2:-1]
    return left[0] if left and left[0].direction is TapDirection.OUT else None


def next_tap(path: PacketPath, taps: Sequence[TraceTap]) -> TraceTap | None:
    """Where a packet that was last seen leaving a device should have been seen next; None for any other packet, and
    for one that something is known to have dropped."""
    last = departure(path)
    if path.arrived or last is None or any(act.helper in _ENDS for act in path.after):
        return None
    order = list(taps if path.way is Way.REQUEST else taps[::-1])
    at = next((number for number, tap in enumerate(order) if tap.name == last.tap), len(order))
    following = order[at + 1 :]
    if not following:
        return None
    if following[0].role is Role.FABRIC:  # several wires at once: the frame's address says by which
        return next((tap for tap in following if tap.name == last.dst_mac.owner), None)
    return following[0]


def taken_early(
    path: PacketPath, act: Movement, taps: Sequence[TraceTap], *, source: str, sender: str = "the pod"
) -> PacketPath:
    """The path of a packet that this act took before the tap where it should have been seen next."""
    after = (*path.after, act)
    return replace(
        path,
        after=after,
        skipped=skipped_taps(taps, path.hops, after, way=path.way),
        lost=lost_sentence(path.hops, after, way=path.way, source=source, sender=sender),
    )


def _departed(found: Sequence[Difference], lost: PacketPath | None, taps: Sequence[TraceTap]) -> WrongTurn | None:
    for one in found:
        if lost is not None and one.kind in _CONSEQUENCES:
            continue
        return WrongTurn(way=one.way, number=1, tap=one.tap, role=str(one.role), sentence=one.sentence)
    return None


def _wrong_node(lab: Lab, pair: Pair, paths: Sequence[PacketPath]) -> WrongTurn | None:
    """An envelope to another node than the one that the receiving pod is on."""
    for path in paths:
        pod = pair.server if path.way is Way.REQUEST else pair.client
        on = server_node_of(lab, pair) if path.way is Way.REQUEST else client_node_of(lab, pair)
        for hop in path.hops:
            if hop.envelope is not None and hop.envelope.dst.owner != on:
                address, owner = hop.envelope.dst.address, hop.envelope.dst.owner or "no node of this lab"
                return WrongTurn(
                    way=path.way,
                    number=path.number,
                    tap=hop.tap,
                    role=str(hop.role),
                    sentence=f"at {hop.tap} the {path.way} is in an envelope to {address} ({owner}), but {pod} is on "
                    f"{on}: the sending node's tunnel map names a wrong VTEP for it",
                )
    return None


def _rewritten(lab: Lab, pair: Pair, paths: Sequence[PacketPath]) -> WrongTurn | None:
    """Another source than the pod's own, between pods whose addresses are to be kept."""
    if not lab.is_between_pods(pair) or len(flows_of(lab, pair)) > 1:
        return None
    client, server = str(lab.client(pair).address), str(lab.server(pair).address)
    for path in paths:
        sender, own = (pair.client, client) if path.way is Way.REQUEST else (pair.server, server)
        for hop in path.hops:
            if hop.src and hop.src != own:
                node = next((one.name for one in lab.nodes if str(one.address.ip) == hop.src), "")
                found = f"{hop.src} ({node})" if node else hop.src
                return WrongTurn(
                    way=path.way,
                    number=path.number,
                    tap=hop.tap,
                    role=str(hop.role),
                    sentence=f"at {hop.tap} the {path.way} is from {found}, not from {own} ({sender}): it was "
                    "masqueraded, where pods' addresses should be kept",
                )
    return None


def _place(wrong: WrongTurn, taps: Sequence[TraceTap]) -> tuple[int, int]:
    """Where on the way: requests before replies, then in the order of the taps."""
    order = [tap.name for tap in (taps if wrong.way is Way.REQUEST else taps[::-1])]
    return (0 if wrong.way is Way.REQUEST else 1, order.index(wrong.tap) if wrong.tap in order else -1)


def _role(taps: Sequence[TraceTap], name: str) -> str:
    return next((str(tap.role) for tap in taps if tap.name == name), "")


def lost_sentence(
    hops: Sequence[Hop], after: Sequence[Movement], *, way: Way, source: str, sender: str = "the pod"
) -> str:
    """For a packet that did not come to its end. `source` is where it should have been seen first, `sender` what should
    have sent it."""
    if not hops:
        return f"the {way} was never seen, not even at {source}: {sender} did not send it"
    last = hops[-1]
    for act in after:
        if act.helper == ForwardingAct.DROP and act.mover is Mover.PROGRAM:
            return f"the {way} was dropped on {act.node} by {act.what} at {act.device} {act.hook}: {act.reason}"
        if act.helper == ForwardingAct.DROP:
            return f"the {way} was dropped on {act.node} by netfilter in {act.what}: {act.reason}"
        if act.helper == ForwardingAct.NOT_LEFT:
            taken = f"the {way} was taken by netfilter on {act.node} in {act.what}"
            return f"{taken}: it entered the hook and did not leave it"
    sentence = f"the {way} was last seen {_doing(last)} {last.tap}"
    sentence += f", addressed to MAC {last.dst_mac.address} ({_whose(last.dst_mac)})"
    if last.envelope is not None:
        wrapped = last.envelope
        sentence = (
            f"the {way} was last seen {_doing(last)} {last.tap} in an envelope to {wrapped.dst.address} "
            f"({wrapped.dst.owner or 'no node of this lab'}), MAC {wrapped.dst_mac.address} ({_whose(wrapped.dst_mac)})"
        )
    said = told(after)
    return f"{sentence}; then {said}, and no tap saw it again" if said else f"{sentence}; no tap saw it after that"


def _doing(hop: Hop) -> str:
    return {TapDirection.IN: "entering", TapDirection.OUT: "leaving", None: "at"}[hop.direction]


def _whose(mac: KnownAddress) -> str:
    """Two words at least: what is one word is a name, in every language."""
    return (
        f"that of {mac.owner}" if mac.owner and "'s " not in mac.owner else mac.owner or "no device of this lab has it"
    )


_NOT_SO_FAR = "the packet did not come this far"


def skipped_taps(
    taps: Sequence[TraceTap], hops: Sequence[Hop], after: Sequence[Movement], *, way: Way
) -> tuple[Skipped, ...]:
    seen = {hop.tap for hop in hops}
    acts = [act for hop in hops for act in hop.moved_by] + list(after)
    found = []
    for tap in taps:
        if tap.name not in seen:
            reason, is_observed = _reason(tap, taps, hops, acts, way)
            found.append(Skipped(tap=tap.name, role=tap.role, reason=reason, is_observed=is_observed))
    return tuple(found)


def _reason(
    tap: TraceTap, taps: Sequence[TraceTap], hops: Sequence[Hop], acts: Sequence[Movement], way: Way
) -> tuple[str, bool]:
    for act in acts:
        if act.hook == BEFORE_TAPS and (act.node, act.device) == (tap.part, tap.device):
            return f"{act.what} took it before any tap", True
        if act.node == tap.node and tap.part_kind == "node" and (seen := _kept_off(act, tap.device)):
            return f"never transmitted on {tap.device}: {seen}", True
    for hop in hops:
        for act in hop.moved_by if hop.carriage is Carriage.PROGRAM and hop.tap != tap.name else ():
            if act.helper == ForwardingAct.TO_ENDPOINT and (act.node, act.target) == (tap.node, tap.device):
                given = f"{act.what} on {act.device} gave it to this endpoint, and the pod had it next"
                return f"never transmitted on {tap.device}: {given}", True
    if not _is_before_last(tap, taps, hops, way):
        return _NOT_SO_FAR, bool(hops)
    if tap.role is Role.FABRIC and any(hop.role is Role.FABRIC for hop in hops):
        return "not on its way: it took another of the paths", True
    for hop in hops:
        if hop.node == tap.node and hop.carriage in (Carriage.PROGRAM, Carriage.KERNEL):
            return f"not on its way: {_past(hop)}", True
    return "nothing was seen here, and no witness reported why", False


def _kept_off(act: Movement, device: str) -> str:
    """How this act kept the packet from being transmitted on the device; empty when it did not."""
    if act.helper == ForwardingAct.REDIRECT_PEER and act.target == device:
        return f"{act.what} on {act.device} moved it into the pod with bpf_redirect_peer"
    if act.mover is not Mover.PROGRAM or act.device != device or act.hook != "egress":
        return ""
    if act.helper in REDIRECTS:
        return f"{act.what} at its egress sent it to {act.target} with {act.helper}"
    return f"{act.what} dropped it: {act.reason}" if act.helper == ForwardingAct.DROP else ""


def _past(hop: Hop) -> str:
    """How the packet went past the other devices of its node."""
    for act in reversed(hop.moved_by):
        if act.mover is Mover.PROGRAM and act.helper in REDIRECTS:
            return f"{act.what} on {act.device} sent it to {act.target} with {act.helper}"
        if act.mover is Mover.PROGRAM and act.helper in HANDED:
            return f"{act.what} on {act.device} gave it to {act.target} ({act.helper})"
    came = next((act for act in hop.moved_by if act.mover is Mover.NETFILTER), None)
    return f"the kernel forwarded it from {came.device} to {hop.device}" if came else hop.because


def _is_before_last(tap: TraceTap, taps: Sequence[TraceTap], hops: Sequence[Hop], way: Way) -> bool:
    """Whether the tap's part of the way lies before the last place where the packet was seen."""
    order = [one.name for one in (taps if way is Way.REQUEST else taps[::-1])]
    if not hops:
        return False
    return order.index(tap.name) < max(order.index(hop.tap) for hop in hops)


REDIRECTS = (ForwardingAct.REDIRECT, ForwardingAct.REDIRECT_PEER, ForwardingAct.REDIRECT_NEIGH, ForwardingAct.TUNNEL)
HANDED = (ForwardingAct.TO_ENDPOINT, ForwardingAct.TO_NETWORK, ForwardingAct.TO_OVERLAY)
"""A program gave the packet to a device, and the witness does not report how."""
_ENDS = (ForwardingAct.DROP, ForwardingAct.NOT_LEFT)
_MOVES_NOTHING = (ForwardingAct.PASS, ForwardingAct.SEEN)
_UPLINKS = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_PORTS = (Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT)
_ON_FABRIC = frozenset((*_UPLINKS, Role.CLIENT_GATEWAY, Role.FABRIC, Role.SERVER_GATEWAY))
_INTO_BRIDGE = frozenset(
    {
        (Role.CLIENT_VETH, Role.CLIENT_BRIDGE),
        (Role.SERVER_VETH, Role.SERVER_BRIDGE),
        (Role.SERVER_VETH, Role.CLIENT_BRIDGE),
        (Role.CLIENT_TUNNEL, Role.CLIENT_BRIDGE),
        (Role.SERVER_TUNNEL, Role.SERVER_BRIDGE),
    }
)
_ON_ONE_UPLINK = (
    frozenset((Role.CLIENT_ETH0, Role.CLIENT_UPLINK)),
    frozenset((Role.SERVER_ETH0, Role.SERVER_UPLINK)),
)
_PORTS_OF_PODS = frozenset({Role.CLIENT_VETH, Role.SERVER_VETH, Role.CLIENT_TUNNEL, Role.SERVER_TUNNEL})
_SWITCHED = frozenset((*_PORTS, Role.FABRIC))
_VETH_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        (Role.CLIENT_ETH0, Role.CLIENT_LXC),
        (Role.SERVER_ETH0, Role.SERVER_LXC),
        (Role.CLIENT_ETH0, Role.CLIENT_VETH),
        (Role.SERVER_ETH0, Role.SERVER_VETH),
        (Role.CLIENT_CILIUM_HOST, Role.CLIENT_CILIUM_NET),
        (Role.SERVER_CILIUM_HOST, Role.SERVER_CILIUM_NET),
        (Role.CLIENT_UPLINK, Role.CLIENT_BRIDGE_PORT),
        (Role.SERVER_UPLINK, Role.SERVER_BRIDGE_PORT),
        # Of a host outside, whose eth0 is its uplink.
        (Role.CLIENT_ETH0, Role.CLIENT_BRIDGE_PORT),
        (Role.SERVER_ETH0, Role.SERVER_BRIDGE_PORT),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    carriage: Carriage
    because: str


def carried(
    previous: Sighting | None,
    movements: Sequence[Movement],
    here: Sighting,
    device: str,
    *,
    nodes: frozenset[str] = frozenset(),
    sender: str = "the pod",
) -> Carried:
    """How the packet came to `here` (on `device`) from `previous`, with what acted on it in between. `nodes` are the
    pair's: what acted on another node is named with it. `sender` is what sent it first."""
    if previous is None:
        said = told(movements, nodes=nodes)
        return Carried(carriage=Carriage.START, because=f"sent by {sender}{f'; {said}' if said else ''}")
    how = _carried(previous, movements, here, device, nodes)
    if changed := translated(previous, movements, here):
        return replace(how, because=f"{how.because}; {changed}" if how.because else changed)
    return how


def translated(previous: Sighting, movements: Sequence[Movement], here: Sighting) -> str:
    """Which of its addresses were rewritten between the two sightings, and by whom; empty where none was."""
    parts = [
        f"{word} {old} → {new}"
        for word, old, new in (("source", previous.src, here.src), ("destination", previous.dst, here.dst))
        if old != new
    ]
    if not parts:
        return ""
    program = next((m for m in movements if m.mover is Mover.PROGRAM and m.rewrites), None)
    hooks = [m.what for m in movements if m.mover is Mover.NETFILTER and m.what in _NAT_HOOKS]
    if program is not None:
        who = f"{program.what} on {program.device} {program.hook}"
    elif hooks:
        who = f"netfilter (nat, {' or '.join(dict.fromkeys(hooks))})"
    else:
        who = "somebody that no witness saw"
    return f"{who} rewrote its {' and its '.join(parts)}"


_NAT_HOOKS = ("PREROUTING", "OUTPUT", "POSTROUTING", "INPUT")


def _carried(
    previous: Sighting, movements: Sequence[Movement], here: Sighting, device: str, nodes: frozenset[str]
) -> Carried:
    if not movements and (link := _link(previous, here)) is not None:
        return link
    # That a device's own program saw it leave is what the tap there shows too.
    told_here = [
        m for m in movements if not (m.helper == ForwardingAct.SEEN and m.hook == "egress" and m.device == device)
    ]
    said = told(told_here, nodes=nodes)
    if (previous.envelope is None) != (here.envelope is None):
        act = "put it into its envelope" if here.envelope is not None else "took it out of its envelope"
        envelope = here.envelope or previous.envelope
        kind = tunnel_kind(envelope.dst_port) if envelope is not None else "vxlan"
        return Carried(carriage=Carriage.TUNNEL, because=f"the kernel's {kind} device {act}")
    last = next((m for m in reversed(movements) if m.mover is Mover.PROGRAM and m.helper not in _MOVES_NOTHING), None)
    if last is not None and last.helper in (*REDIRECTS, *HANDED) and _fits(last, here, device):
        return Carried(carriage=Carriage.PROGRAM, because=said)
    if any(m.mover is Mover.NETFILTER for m in movements):
        return Carried(carriage=Carriage.BRIDGE if _is_bridged(movements) else Carriage.KERNEL, because=said)
    nobody = "what moved it from there was not observed" if said else "no witness saw what moved it here"
    if last is not None and last.helper == ForwardingAct.TO_STACK:
        nobody = "what the stack did with it was not observed"
    return Carried(carriage=Carriage.UNOBSERVED, because=f"{said}; {nobody}" if said else nobody)


def told(movements: Iterable[Movement], *, nodes: frozenset[str] = frozenset()) -> str:
    """What acted on a packet as one sentence without its full stop; programs that only let it pass are left out. With
    `nodes`, what acted on another node is named with it."""
    parts: list[str] = []
    hooks: list[Movement] = []
    at = ""
    for movement in (*movements, None):
        is_hook = movement is not None and movement.mover in (Mover.NETFILTER, Mover.CONNTRACK)
        if hooks and not (is_hook and movement is not None and movement.node == hooks[0].node):
            at, where = _where(hooks[0], at, nodes)
            parts.append(where + _hooks(hooks))
            hooks = []
        if movement is not None and is_hook:
            hooks.append(movement)
        elif movement is not None and movement.helper != ForwardingAct.PASS:
            at, where = _where(movement, at, nodes)
            parts.append(where + _act(movement))
    return "; ".join(parts)


def _where(movement: Movement, at: str, nodes: frozenset[str]) -> tuple[str, str]:
    """The node that the sentences are about from here on, and the words for a change to another one."""
    if not nodes or movement.node == at or (not at and movement.node in nodes):
        return at, ""
    return movement.node, f"on {movement.node}, "


def _act(movement: Movement) -> str:
    who = f"{movement.what} on {movement.device} {movement.hook}" if movement.device else movement.what
    target = movement.target or "another device"
    match movement.helper:
        case ForwardingAct.REDIRECT_PEER:
            return f"{who} moved it through {target} into the pod with bpf_redirect_peer"
        case ForwardingAct.REDIRECT:
            return f"{who} sent it to {target} with bpf_redirect"
        case ForwardingAct.REDIRECT_NEIGH:
            return f"{who} sent it to {target} with bpf_redirect_neigh"
        case ForwardingAct.TUNNEL:
            return f"{who} sent it to {target} with bpf_redirect, tunnel key set (VNI {movement.identity})"
        case ForwardingAct.TO_STACK:
            return f"{who} left it to the kernel's stack"
        case ForwardingAct.DROP:
            return f"{who} dropped it: {movement.reason}"
        case ForwardingAct.SEEN:
            return f"{who} saw it {'leave' if movement.hook == 'egress' else 'come in'}"
        case ForwardingAct.TO_OVERLAY:
            return f"{who} gave it to {target} for the tunnel, as identity {movement.identity}"
        case ForwardingAct.TO_ENDPOINT | ForwardingAct.TO_NETWORK:
            return f"{who} gave it to {target} ({movement.helper}; the redirect helper is not reported)"
        case _:
            return f"{who}: {movement.helper}"


def _hooks(movements: Sequence[Movement]) -> str:
    seen = [m for m in movements if m.mover is Mover.NETFILTER]
    states = list(dict.fromkeys(m.helper for m in movements if m.mover is Mover.CONNTRACK))
    names = [m.what for m in seen]
    ended = next((m for m in seen if m.helper in (ForwardingAct.DROP, ForwardingAct.NOT_LEFT)), None)
    subject = "its envelope" if all(m.encapsulated for m in movements) else "it"
    tracked = f" (conntrack: {', '.join(states)})" if states else ""
    if ended is not None and ended.helper == ForwardingAct.DROP:
        return f"netfilter in {', '.join(names)}{tracked} dropped {subject} by {ended.reason}"
    if ended is not None:
        return f"netfilter took {subject} in {', '.join(names)}{tracked} and did not return it"
    if _is_bridged(seen):
        return f"the bridge passed {subject} on by its destination MAC, through netfilter's {', '.join(names)}{tracked}"
    if "FORWARD" in names:
        ttls = [m.ttl_in for m in seen if m.ttl_in]
        hop = f", TTL {ttls[0]} → {ttls[-1]}" if ttls and ttls[0] != ttls[-1] else ""
        return f"the kernel forwarded {subject}: {', '.join(names)}{tracked}{hop}"
    return f"the kernel passed {subject} through {', '.join(names)}{tracked}" if names else f"conntrack: {states[0]}"


def _is_bridged(movements: Sequence[Movement]) -> bool:
    """Netfilter's FORWARD saw it come and go by one device, a bridge: br_netfilter shows it what a bridge passes on."""
    return any(m.mover is Mover.NETFILTER and m.what == "FORWARD" and m.device == m.target != "" for m in movements)


def _link(previous: Sighting, here: Sighting) -> Carried | None:
    """The wire between two taps: sent at one, received at the other, with no program in between."""
    roles = frozenset((previous.role, here.role))
    crossed = previous.direction is TapDirection.OUT and here.direction is TapDirection.IN
    if crossed and roles in _VETH_PAIRS:
        return Carried(carriage=Carriage.WIRE, because=f"over the veth pair from {previous.tap}")
    if crossed and roles <= _ON_FABRIC:
        return Carried(carriage=Carriage.WIRE, because=f"over the wire from {previous.tap}")
    if crossed and roles <= frozenset(_UPLINKS + _PORTS) and len(roles) == 2:
        return Carried(carriage=Carriage.WIRE, because=f"over the underlay from {previous.tap}")
    if previous.role in _SWITCHED and here.role in _SWITCHED and here.direction is TapDirection.OUT:
        return Carried(carriage=Carriage.BRIDGE, because="the underlay's bridge passed it on by its destination MAC")
    if (previous.role, here.role) in _INTO_BRIDGE and here.direction is TapDirection.IN:
        because = "the bridge took it up"
        return Carried(carriage=Carriage.BRIDGE, because=because)
    if (here.role, previous.role) in _INTO_BRIDGE and here.direction is TapDirection.OUT:
        because = "the bridge sent it out of the port that has the destination MAC"
        return Carried(carriage=Carriage.BRIDGE, because=because)
    if roles in _ON_ONE_UPLINK and _is_unchanged(previous, here):
        because = "the pod's device sits on this uplink (macvlan, ipvlan), and the frame is unchanged"
        return Carried(carriage=Carriage.BRIDGE, because=because)
    if previous.role in _PORTS_OF_PODS and here.role in _PORTS_OF_PODS and here.direction is TapDirection.OUT:
        because = "the pods' bridge passed it on by its destination MAC"
        return Carried(carriage=Carriage.BRIDGE, because=because)
    return None


def _is_unchanged(previous: Sighting, here: Sighting) -> bool:
    """What is routed or redirected into a pod gets other MACs and a lower TTL."""
    before, after = ((one.src_mac, one.dst_mac, one.ttl, one.direction, one.envelope) for one in (previous, here))
    return before == after


def _fits(movement: Movement, here: Sighting, device: str) -> bool:
    """Whether the redirect leads to this sighting: out of its target, or into the pod behind it."""
    if not movement.target:
        return True
    into_pod = here.role in (Role.CLIENT_ETH0, Role.SERVER_ETH0) and here.direction is not TapDirection.OUT
    if movement.helper == ForwardingAct.REDIRECT_PEER:
        return into_pod
    return movement.target == device or (movement.helper == ForwardingAct.TO_ENDPOINT and into_pod)
