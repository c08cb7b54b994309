"""The sentences of a trace that every view of it shares: what moved a packet, whose a MAC is, what the envelope says.

Names and words only, with the places of the trace as lanes: client pod, its node, the wire, the server's node, server
pod. Where they stand is `trace_text`'s, `trace_html`'s and `trace_svg`'s. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labctl import units
from labctl.model.interfaces import tunnel_kind
from labctl.model.lab import HostRouting, Placement
from labctl.model.signature import Role
from labctl.model.trace import (
    Carriage,
    Hop,
    HopEnvelope,
    KnownAddress,
    Movement,
    Mover,
    PacketPath,
    Skipped,
    TapDirection,
    Trace,
    TraceTap,
    Translation,
    Translator,
    Unshown,
    Way,
)
from labctl.values import dataclass

HELPERS = {"to-stack": "to the stack", "drop": "dropped", "pass": "passed on"}  # nosec B105  # no secret
_CARRIED = {
    Carriage.WIRE: "veth: what one end sends, the other receives",
    Carriage.BRIDGE: "the underlay's bridge passes it on",
    Carriage.TUNNEL: "the kernel's tunnel device",
    Carriage.KERNEL: "the kernel's stack forwards it",
    Carriage.UNOBSERVED: "no witness saw what moved it",
}
_ORDER = {role: number for number, role in enumerate(Role)}


def way_words(way: Way) -> str:
    return "request" if way is Way.REQUEST else "reply"


def path_title(path: PacketPath) -> str:
    """`request 1: ICMP echo request`."""
    numbered = f"request {path.number}" if path.way is Way.REQUEST else f"reply {path.number}"
    return f"{numbered}: {path.what}" if path.what else numbered


def owner(named: KnownAddress) -> str:
    """The owner of the address; the address itself when it has none in the lab."""
    return named.owner or named.role or named.address


def mac_words(hop: Hop) -> str:
    return f"MAC {owner(hop.src_mac)} → {owner(hop.dst_mac)}"


def direction_words(hop: Hop) -> str:
    return {TapDirection.IN: "in", TapDirection.OUT: "out", None: ""}[hop.direction]


def since_words(hop: Hop) -> str:
    """`+12.3 µs`, empty for the first hop."""
    if hop.since_previous_ns is None:
        return ""
    return f"+{units.readable(hop.since_previous_ns * units.NANO, 's')}"


_RESERVED = {1: "host", 2: "world", 6: "remote-node", 7: "kube-apiserver"}
"""Cilium's identities of what is no pod."""


def vni_words(envelope: HopEnvelope) -> str:
    """`VNI 51130 = identity of client (app=client)`; the number alone where it is no identity."""
    if not envelope.is_identity:
        return f"VNI {envelope.vni}"
    if not envelope.identity_pods and envelope.vni in _RESERVED:
        return f"VNI {envelope.vni} = {_RESERVED[envelope.vni]}, a reserved identity"
    if not envelope.identity_pods:
        return f"VNI {envelope.vni}: no pod of this lab has that identity"
    labels = f" ({', '.join(envelope.identity_labels)})" if envelope.identity_labels else ""
    whose = "the sender's identity" if envelope.is_senders else "NOT the sender's identity"
    return f"VNI {envelope.vni} = {', '.join(envelope.identity_pods)}{labels}, {whose}"


def envelope_lines(envelope: HopEnvelope) -> tuple[str, ...]:
    """The outer header in three lines: addresses, ports and TTL, then the VNI, then the MACs."""
    ports = f"UDP {envelope.src_port} → {envelope.dst_port}, outer TTL {envelope.ttl}"
    return (
        f"{tunnel_kind(envelope.dst_port).upper()} {_with_owner(envelope.src)} → {_with_owner(envelope.dst)}, {ports}",
        vni_words(envelope),
        f"outer MAC {owner(envelope.src_mac)} → {owner(envelope.dst_mac)}",
    )


def _with_owner(named: KnownAddress) -> str:
    return f"{named.address} ({named.owner})" if named.owner else f"{named.address} (not of this lab)"


def movement_words(movement: Movement, trace: Trace) -> str:
    """`cil_from_container @ lxc… ingress: bpf_redirect_peer → eth0, TTL 64 → 63`; a node that is neither the
    client's nor the server's is named first."""
    is_elsewhere = movement.node and movement.node not in (trace.client_node, trace.server_node)
    return (f"on {movement.node}: " if is_elsewhere else "") + _act_words(movement)


def _act_words(movement: Movement) -> str:
    did = HELPERS.get(movement.helper, movement.helper)
    if movement.mover in (Mover.NETFILTER, Mover.CONNTRACK):
        return _kernel_words(movement, did)
    where = " ".join(part for part in (movement.device, movement.hook) if part)
    if movement.target:
        did += f" → {movement.target}"
    if movement.reason:
        did += f" ({movement.reason})"
    if movement.ttl_in and movement.ttl_out and movement.ttl_in != movement.ttl_out:
        did += f", TTL {movement.ttl_in} → {movement.ttl_out}"
    who = f"{movement.what} @ {where}" if where else movement.what
    return f"{who}: {did}" if did else who


def _kernel_words(movement: Movement, did: str) -> str:
    """`netfilter FORWARD: accept (lxc… → eth0)`; the device that it came by, and the one that it leaves by."""
    hook = movement.what.upper() if movement.mover is Mover.NETFILTER else movement.hook.upper()
    who = " ".join(part for part in (str(movement.mover), hook) if part)
    devices = f"{movement.device} → {movement.target}".strip(" →") if movement.target else movement.device
    rest = "; ".join(part for part in (devices, movement.reason) if part)
    return f"{who}: {did}" + (f" ({rest})" if rest else "")


def carried_words(hop: Hop) -> str:
    """What brought the packet here, in a sentence; empty for its first sighting."""
    if hop.carriage is Carriage.START:
        return ""
    return hop.because or _CARRIED.get(hop.carriage, "")


def brought_words(hop: Hop, trace: Trace) -> tuple[str, ...]:
    """What happened between the hop before and this one, a sentence each, in the order in which it happened.

    The vxlan device stands where it worked: what acted on the packet in its envelope did so after the envelope was put
    on, and before it was taken off.
    """
    acts = [movement_words(act, trace) for act in hop.moved_by]
    words = carried_words(hop)
    by = tuple(one.words for one in hop.lookups)
    if hop.carriage is Carriage.BRIDGE and by and not acts:
        return by  # it names the bridge, its port and the MAC
    if not words or (acts and hop.carriage not in (Carriage.KERNEL, Carriage.TUNNEL, Carriage.UNOBSERVED)):
        return (*acts, *by)
    at = len(acts)
    wrapped = [number for number, act in enumerate(hop.moved_by) if act.encapsulated]
    if hop.carriage is Carriage.TUNNEL and wrapped:
        at = wrapped[0] if hop.envelope is not None else wrapped[-1] + 1
    return (*acts[:at], words, *acts[at:], *by)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSeen:
    """Neighbouring taps of the way that did not see the packet, all for one reason."""

    taps: tuple[str, ...]
    roles: tuple[Role, ...]
    reason: str


Step = Hop | NotSeen


def steps(path: PacketPath) -> tuple[Step, ...]:
    """Hops in the order of time, with what was skipped put where it lies on the way."""
    left = sorted(path.skipped, key=lambda one: _place(one.role, path.way))
    found: list[Step] = []
    for hop in path.hops:
        here = _place(hop.role, path.way)
        before = [one for one in left if _place(one.role, path.way) < here]
        left = [one for one in left if one not in before]
        found += [*_grouped(before), hop]
    return (*found, *_grouped(left))


def _grouped(skipped: Sequence[Skipped]) -> list[NotSeen]:
    groups: dict[str, list[Skipped]] = {}
    for one in skipped:
        groups.setdefault(one.reason, []).append(one)
    return [
        NotSeen(taps=tuple(one.tap for one in group), roles=tuple(one.role for one in group), reason=reason)
        for reason, group in groups.items()
    ]


def _place(role: Role, way: Way) -> int:
    return _ORDER[role] if way is Way.REQUEST else -_ORDER[role]


def shape(path: PacketPath) -> tuple[object, ...]:
    """What makes two packets' ways the same: places, TTLs, movers and the end; not times, ports or packet ids."""
    hops = tuple(
        (
            hop.tap,
            hop.ttl,
            hop.carriage,
            hop.src_mac,
            hop.dst_mac,
            hop.envelope.vni if hop.envelope else None,
            tuple((m.what, m.device, m.hook, m.helper, m.target) for m in hop.moved_by),
        )
        for hop in path.hops
    )
    return (path.way, path.what, hops, tuple(one.tap for one in path.skipped), path.lost)


def different(trace: Trace) -> tuple[tuple[PacketPath, tuple[int, ...]], ...]:
    """Each way that differs from those before it, with the numbers of the packets that went it."""
    found: dict[tuple[object, ...], tuple[PacketPath, list[int]]] = {}
    for path in trace.paths:
        found.setdefault(shape(path), (path, []))[1].append(path.number)
    return tuple((path, tuple(numbers)) for path, numbers in found.values())


def headline(trace: Trace) -> str:
    """The outcome in one sentence."""
    if trace.wrong is not None:
        place = trace.wrong.tap or trace.wrong.role
        where = f" at {place}" if place and place not in trace.wrong.sentence else ""
        return f"the {way_words(trace.wrong.way)} goes wrong{where}: {trace.wrong.sentence}"
    if any(path.arrived and not path.is_sent for path in trace.paths):
        return (
            f"{trace.sent} sent, none left {trace.client}: {trace.server} gave it its own address, and no tap shows "
            "such packets"
        )
    return f"{trace.sent} sent, {trace.replied} answered: {_as_it_should(trace)}"


def seen_words(trace: Trace) -> str:
    """The mode that the packets themselves show."""
    if "hostRouting" not in trace.asked:
        return ""
    if not trace.host_routing:
        return f"the sightings do not show the host routing: {trace.recognised}" if trace.recognised else ""
    return f"host routing as the packets show it: {trace.host_routing} ({trace.recognised})"


def translation_words(one: Translation) -> str:
    """Who put which backend in place of the Service, or the Service back in place of the backend, and where."""
    backend = one.backend or "a backend"
    match one.by:
        case Translator.SOCKET:
            who = f"at the client's socket on {one.node}, by {one.what} ({one.hook})"
        case Translator.TC:
            who = f"in the packet on {one.node}, by {one.what} on {one.device} {one.hook}"
        case Translator.NETFILTER:
            who = f"by the netfilter of {one.node}"
    if one.way is Way.REPLY:
        return f"reply: {backend} becomes Service {one.service} again {who}: {one.before} is now {one.after}"
    return f"request: Service {one.service} becomes {backend} {who}: {one.before} is now {one.after}"


def unshown_words(one: Unshown) -> str:
    """What this kernel cannot show, and since when others can: absent steps must not be read as steps not taken."""
    return (
        f"this kernel ({one.kernel}) does not report {one.mover} steps in nft traces, so the path shows none: "
        f"Linux {one.since} and later do"
    )


def _as_it_should(trace: Trace) -> str:
    if not trace.expected_source:
        return "every packet arrived; no signature is known of what connects these pods, so its way is not judged"
    if "hostRouting" not in trace.asked:
        asked = ", ".join(f"{key} {value}" for key, value in trace.asked.items())
        return f"every tap shows what it should with {asked}, {trace.placement}"
    host_routing, encapsulation = trace.asked.get("hostRouting"), trace.asked.get("encapsulation")
    if trace.fallback is not None:
        host_routing = HostRouting.LEGACY
    return f"every tap shows what it should with host routing {host_routing}, {encapsulation}, {trace.placement}"


_WIRE = frozenset(
    {Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT, Role.CLIENT_GATEWAY, Role.FABRIC, Role.SERVER_GATEWAY}
)
_ENDS = frozenset({Role.CLIENT_ETH0, Role.SERVER_ETH0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One place. `title` is its name in the lab, `kind` what it is (`pod`, `node`, `wire`)."""

    title: str
    kind: str


def lanes(trace: Trace) -> tuple[Lane, ...]:
    return tuple(lane for lane, _ in _placed_lanes(trace))


def lane_of(role: Role, trace: Trace) -> int:
    """The index in `lanes` of the place where taps of this role are."""
    return next((number for number, (_, roles) in enumerate(_placed_lanes(trace)) if role in roles), 0)


def _placed_lanes(trace: Trace) -> Iterator[tuple[Lane, frozenset[Role]]]:
    """Each with the roles of its taps; an end that is a node itself has no lane beside the node's."""
    there = {tap.role: tap for tap in trace.taps}
    if Role.CLIENT_ETH0 in there:
        yield Lane(title=trace.client, kind=end_kind(there[Role.CLIENT_ETH0])), frozenset((Role.CLIENT_ETH0,))
    is_one = trace.placement is Placement.SAME_NODE
    on_client = frozenset(role for role in Role if is_one or role.value.startswith("client")) - _ENDS - _WIRE
    on_server = frozenset(Role) - on_client - _ENDS - _WIRE
    if on_client & there.keys():
        yield Lane(title=trace.client_node, kind="node"), on_client
    if not is_one:
        yield Lane(title="wire", kind="wire"), _WIRE
    if on_server & there.keys():
        yield Lane(title=trace.server_node, kind="node"), on_server
    if Role.SERVER_ETH0 in there:
        yield Lane(title=trace.server, kind=end_kind(there[Role.SERVER_ETH0])), frozenset((Role.SERVER_ETH0,))


def end_kind(tap: TraceTap) -> str:
    """What has the tap at the end of the way: a pod, or a host outside."""
    return "host outside" if tap.part_kind == "outside" else "pod"
