"""A packet's path, put together from its sightings at the taps and the acts upon it, in the order they happened. Pure.

Packets are identified by their content. Time only puts the sightings of one packet into order. Sightings and program
events carry times of one clock, and two things need more than sorting by it:

- the kernel stamps a packet when it is received, and keeps the stamp while the packet goes up through a tunnel or into
  a pod by `bpf_redirect_peer`: the tap there shows the time of the uplink. The act that moved it has the right one.
- netfilter's trace has no times: each step is put where it belongs by the device that the packet came in by or leaves
  by, in the order in which each node reported it.

A witness that does not report an echo's sequence number is assigned in order: the n-th event of one kind belongs to the
n-th packet, if there is exactly one for each packet that was seen of that half of the exchange. With one too few or too
many, nothing shows which one is missing: then none is assigned to a packet.

Times of two nodes that have clocks of their own are given by the clock of one of them. The offset is measured from
outside and known to some error. What was captured narrows it: no packet arrives before it was sent, neither a request
nor a reply.

The addresses that a packet carries get their names here: whose MAC, which node's VTEP, whose identity a VNI is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from labctl.model.lab import Lab, Pair
from labctl.model.pod_network import NetworkType
from labctl.model.signature import Role
from labctl.model.trace import (
    ForwardingAct,
    Hop,
    HopEnvelope,
    KnownAddress,
    Movement,
    Mover,
    PacketKey,
    PacketPath,
    TapDirection,
    TraceTap,
    Way,
)
from labctl.path.explain import carried, lost_sentence, skipped_taps
from labctl.path.sighting import Envelope, Sighting
from labctl.path.signature import vtep_roles
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PathEnd:
    """An end of the way: the taps in the pods or hosts outside that it may be; none for a node, whose stack has none.
    `name` is for a person, `sender` what it is."""

    name: str
    sender: str = "the pod"
    taps: tuple[str, ...] = ()
    node: str = ""

    def has(self, hops: Sequence[Hop]) -> bool:
        """Whether the packet came here. What came to a node was seen last entering it: its own stack took it."""
        if self.taps:
            return any(hop.tap in self.taps for hop in hops)
        return bool(hops) and hops[-1].node == self.node and hops[-1].direction is not TapDirection.OUT


def join(
    taps: Sequence[TraceTap],
    sightings: Iterable[Sighting],
    movements: Sequence[Movement],
    names: AddressBook,
    *,
    sent: int,
    ends: tuple[PathEnd, PathEnd],
) -> tuple[PacketPath, ...]:
    """The path of every packet that was sent, and of every reply, in the order of their numbers.

    `ends` are the client's and the server's. A reply that should have been there and was not seen
    anywhere has a path without hops.
    """
    by_packet: dict[tuple[int, Way], list[Sighting]] = defaultdict(list)
    for sighting in sightings:
        by_packet[sighting.number, sighting.way].append(sighting)
    paths: list[PacketPath] = []
    for number in range(1, sent + 1):
        request = _path(taps, by_packet[number, Way.REQUEST], movements, names, Way.REQUEST, number, ends)
        paths.append(request)
        reply = by_packet[number, Way.REPLY]
        if request.arrived or reply:
            paths.append(_path(taps, reply, movements, names, Way.REPLY, number, ends))
    return tuple(paths)


def _path(
    taps: Sequence[TraceTap],
    sightings: Sequence[Sighting],
    movements: Sequence[Movement],
    names: AddressBook,
    way: Way,
    number: int,
    ends: tuple[PathEnd, PathEnd],
) -> PacketPath:
    keys = keys_of(sightings)
    own = [movement for movement in movements if belongs(movement, keys)]
    nodes = {tap.node for tap in taps if tap.node}
    entries = timeline(sightings, without_copies(own, nodes), taps, way)
    source, destination = ends if way is Way.REQUEST else ends[::-1]
    hops, after = _hops(entries, {tap.name: tap for tap in taps}, names, frozenset(nodes), source)
    arrived = destination.has(hops)
    what = next((sighting.what for sighting in sightings if sighting.what), f"{way} that was not seen")
    return PacketPath(
        way=way,
        number=number,
        what=what,
        hops=hops,
        skipped=skipped_taps(taps, hops, after, way=way),
        after=after,
        arrived=arrived,
        lost="" if arrived else lost_sentence(hops, after, way=way, source=source.name, sender=source.sender),
        lost_tap="" if arrived or not hops else hops[-1].tap,
    )


def without_copies(movements: Sequence[Movement], nodes: set[str]) -> list[Movement]:
    """Leaves out what a node that is not the pair's only heard: a bridge that has not learned a MAC yet floods, and the
    stack of every other node throws the copy away. A single act at the uplink, followed by none, is such a copy."""
    counts: dict[str, int] = defaultdict(int)
    for movement in movements:
        counts[movement.node] += 1
    return [m for m in movements if m.node in nodes or counts[m.node] > 1]


def _hops(
    entries: Sequence[TimelineEntry],
    taps: dict[str, TraceTap],
    names: AddressBook,
    nodes: frozenset[str],
    source: PathEnd,
) -> tuple[tuple[Hop, ...], tuple[Movement, ...]]:
    hops: list[Hop] = []
    pending: list[Movement] = []
    previous: Sighting | None = None
    previous_ns = 0
    for entry in entries:
        if entry.movement is not None:
            pending.append(entry.movement)
        if (here := entry.sighting) is None:
            continue
        tap = taps[here.tap]
        how = carried(previous, pending, here, tap.device, nodes=nodes, sender=source.sender)
        hops.append(
            Hop(
                tap=here.tap,
                role=here.role,
                node=tap.node,
                device=tap.device,
                direction=here.direction,
                time_ns=entry.time_ns,
                since_previous_ns=None if previous is None else entry.time_ns - previous_ns,
                src=here.src,
                dst=here.dst,
                src_mac=names.mac(here.src_mac, here.role),
                dst_mac=names.mac(here.dst_mac, here.role),
                ttl=here.ttl,
                envelope=None if here.envelope is None else names.envelope(here.envelope, here.src, here.role),
                carriage=how.carriage,
                because=how.because,
                moved_by=tuple(pending),
            )
        )
        previous, previous_ns, pending = here, entry.time_ns, []
    return tuple(hops), tuple(pending)


_SKEW_NS = 200_000
"""Within this, an order that cannot be is taken for an error of the clocks, not for another passage."""
_LONGEST_KEPT_NS = 100_000_000
_APART_NS = 2
"""What two acts of a node are apart at least: a sighting fits between them."""
_LEAVING = ("output", "postrouting", "egress")
_IN_ORDER = (Mover.PROGRAM, Mover.AGENT)
"""The witness whose events of a node come in their order, apart from the events of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """A sighting or a movement; the other one is None."""

    time_ns: int
    node: str
    device: str
    sighting: Sighting | None = None
    movement: Movement | None = None

    @property
    def is_entering(self) -> bool:
        """Whether it is about a packet that comes in by the device."""
        if self.sighting is not None:
            return self.sighting.direction is not TapDirection.OUT
        return self.movement is not None and self.movement.hook not in _LEAVING


def keys_of(sightings: Iterable[Sighting]) -> frozenset[PacketKey]:
    """What other witnesses may call this packet: itself, and each envelope that it was seen in."""
    found: set[PacketKey] = set()
    for sighting in sightings:
        if sighting.key is not None:
            found.add(sighting.key)
        if sighting.envelope is not None:
            found.add(sighting.envelope.key)
    return frozenset(found)


def belongs(movement: Movement, keys: Iterable[PacketKey]) -> bool:
    return any(movement.packet.is_of(key) for key in keys)


def timeline(
    sightings: Iterable[Sighting], movements: Iterable[Movement], taps: Sequence[TraceTap], way: Way
) -> tuple[TimelineEntry, ...]:
    """Everything about one packet in its order. Sightings of one time go in the order of the taps on this way."""
    movements = tuple(movements)
    by_name = {tap.name: tap for tap in taps}
    lxc_of = _lxc_of(taps)
    order = {tap.name: number for number, tap in enumerate(taps if way is Way.REQUEST else taps[::-1])}
    stamped = []
    for sighting in sightings:
        tap = by_name[sighting.tap]
        node = tap.part if tap.part_kind == "pod" else tap.node or tap.part
        stamped.append(TimelineEntry(time_ns=sighting.time_ns, node=node, device=tap.device, sighting=sighting))
    timed = _timed(movements, stamped)
    seen = [replace(one, time_ns=_arrival_ns(one, timed, lxc_of)) for one in stamped]

    def place(entry: TimelineEntry) -> tuple[int, int]:
        return entry.time_ns, len(order) if entry.sighting is None else order[entry.sighting.tap]

    ordered = sorted((*seen, *timed), key=place)
    slots: list[list[TimelineEntry]] = [[] for _ in range(len(ordered) + 1)]
    at = 0
    teller: tuple[str, Mover | None] = ("", None)
    for movement in movements:
        if movement.time_ns is not None:
            continue
        told_by = (movement.node, movement.mover if movement.mover in _IN_ORDER else None)
        at = at if told_by == teller else 0
        teller = told_by
        at = _slot(movement, ordered, at)
        slots[at].append(_entry(movement, ordered[at - 1].time_ns if at else 0))
    result: list[TimelineEntry] = list(slots[0])
    for entry, following in zip(ordered, slots[1:], strict=True):
        result += (entry, *following)
    return tuple(result)


def _lxc_of(taps: Sequence[TraceTap]) -> dict[str, tuple[str, str]]:
    """(node, lxc) by the tap in the pod behind it."""
    lxcs = {tap.role: (tap.node, tap.device) for tap in taps}
    pods = ((Role.CLIENT_ETH0, Role.CLIENT_LXC), (Role.SERVER_ETH0, Role.SERVER_LXC))
    return {tap.name: lxcs[lxc] for tap in taps for eth0, lxc in pods if tap.role is eth0 and lxc in lxcs}


def _arrival_ns(entry: TimelineEntry, timed: Iterable[TimelineEntry], lxc_of: Mapping[str, tuple[str, str]]) -> int:
    """When a packet that kept its stamp from the uplink really came: just after the act that moved it."""
    sighting = entry.sighting
    if sighting is None or not entry.is_entering:
        return entry.time_ns
    lxc = lxc_of.get(sighting.tap)
    for act in timed:
        movement = act.movement
        if movement is None or not 0 <= act.time_ns - entry.time_ns < _LONGEST_KEPT_NS:
            continue
        into_pod = movement.helper == ForwardingAct.REDIRECT_PEER and (movement.node, movement.target) == lxc
        out_of_envelope = (
            movement.node == entry.node
            and movement.encapsulated
            and movement.hook not in _LEAVING
            and movement.device != entry.device
            and sighting.envelope is None
        )
        if into_pod or out_of_envelope:
            return act.time_ns + 1
    return entry.time_ns


def _entry(movement: Movement, time_ns: int) -> TimelineEntry:
    return TimelineEntry(time_ns=time_ns, node=movement.node, device=movement.device, movement=movement)


def _timed(movements: Iterable[Movement], stamped: Sequence[TimelineEntry]) -> list[TimelineEntry]:
    """The acts that have times, each in a time that the taps allow.

    The acts of a node were timed by one clock: whatever its difference from that of the taps, they stay in their order.
    So what must not be before a tap keeps all later acts from it too, and what must not be after one all earlier acts.
    """
    by_node: dict[str, list[tuple[int, Movement]]] = defaultdict(list)
    for movement in movements:
        if movement.time_ns is not None:
            by_node[movement.node].append((movement.time_ns, movement))
    result: list[TimelineEntry] = []
    for acts in by_node.values():
        acts.sort(key=lambda act: act[0])
        bounds = [_allowed(movement, time_ns, stamped) for time_ns, movement in acts]
        earliest = list(accumulate((low for low, _ in bounds), lambda before, low: max(before + _APART_NS, low)))
        latest = list(accumulate((high for _, high in bounds[::-1]), lambda after, high: min(after - _APART_NS, high)))
        for (time_ns, movement), low, high in zip(acts, earliest, latest[::-1], strict=True):
            result.append(_entry(movement, int(max(low, min(time_ns, high)))))
    return result


def _allowed(movement: Movement, time_ns: int, stamped: Sequence[TimelineEntry]) -> tuple[float, float]:
    """The earliest and the latest time of an act, by the sightings on its node: a tap sees what comes in before the
    ingress programs of its device do, and what goes out after the egress programs; between them nothing else is seen.
    """
    is_egress = movement.hook in _LEAVING
    here = [one for one in stamped if one.node == movement.node]
    own = [one for one in here if one.device == movement.device and one.is_entering != is_egress]
    nearest = min(own, key=lambda one: abs(one.time_ns - time_ns), default=None)
    if nearest is None or abs(nearest.time_ns - time_ns) >= _SKEW_NS:
        return -math.inf, math.inf
    at = nearest.time_ns
    if is_egress:
        return max((one.time_ns + 1 for one in here if one.time_ns < at), default=-math.inf), at - 1
    # What is seen entering later may have kept an earlier stamp; what leaves has its own.
    return at + 1, min((one.time_ns - 1 for one in here if one.time_ns > at and not one.is_entering), default=math.inf)


def _slot(movement: Movement, ordered: Sequence[TimelineEntry], earliest: int) -> int:
    """Where an act without a time belongs: after so many of the ordered entries, and not before `earliest`."""
    here = [(number, entry) for number, entry in enumerate(ordered) if entry.node == movement.node]
    if movement.hook in _LEAVING:
        device = movement.target or movement.device
        for number, entry in here:
            if number >= earliest and entry.device == device and not entry.is_entering:
                return number
    else:
        came_in = [number for number, entry in here if entry.device == movement.device and entry.is_entering]
        if came_in:
            return max(earliest, _run_end(ordered, came_in[0] if earliest <= came_in[0] else earliest - 1))
    if movement.mover in _IN_ORDER and earliest:
        # Nothing was seen at its device: right after what it reported before, and not after all that its node ever saw.
        return earliest
    return max(earliest, here[-1][0] + 1 if here else len(ordered))


def _run_end(ordered: Sequence[TimelineEntry], first: int) -> int:
    """One past the last entry that is of the same arrival as `first`: the tap and then the program at one device."""
    end = first + 1
    while (
        end < len(ordered)
        and ordered[end].is_entering
        and (ordered[end].node, ordered[end].device) == (ordered[first].node, ordered[first].device)
    ):
        end += 1
    return end


def numbered(movements: Sequence[Movement], seen: Iterable[Sighting]) -> tuple[tuple[Movement, ...], tuple[str, ...]]:
    """The movements, those of echoes without a number with that of their turn, and a sentence for each kind of event
    whose turns do not come out even."""
    echoes = _echoes(seen)
    turns: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for at, movement in enumerate(movements):
        ends = (movement.packet.src, movement.packet.dst)
        if ends in echoes and _is_numberless_echo(movement.packet):
            turns[_kind(movement)].append(at)
    result = list(movements)
    uneven: dict[str, list[str]] = defaultdict(list)
    for places in turns.values():
        one = movements[places[0]]
        keys = echoes[one.packet.src, one.packet.dst]
        if len(places) != len(keys):
            uneven[f"{one.what} on {one.node}"].append(f"{one.helper} {len(places)}× for {len(keys)}")
            continue
        for at, key in zip(places, keys, strict=True):
            result[at] = replace(movements[at], packet=key)
    return tuple(result), tuple(
        f"{who} does not report echo sequence numbers, and its events are not one per echo ({', '.join(kinds)}): "
        "not assigned to packets"
        for who, kinds in uneven.items()
    )


def _kind(movement: Movement) -> tuple[object, ...]:
    """What is the same in the events of one kind, and happens once to a packet."""
    where = (movement.node, movement.what, movement.device, movement.hook, movement.target)
    return (*where, movement.helper, movement.reason, movement.identity, movement.packet)


def _is_numberless_echo(key: PacketKey) -> bool:
    return key.protocol == "icmp" and not (key.first or key.second or key.ip_id)


def _echoes(seen: Iterable[Sighting]) -> dict[tuple[str, str], list[PacketKey]]:
    """The echoes between two addresses in the order in which they were sent."""
    found: dict[tuple[str, str], dict[PacketKey, tuple[int, int]]] = defaultdict(dict)
    for one in seen:
        if one.key is None or one.key.protocol != "icmp" or not (one.key.first or one.key.second):
            continue
        turn = (one.number, one.time_ns)
        packets = found[one.key.src, one.key.dst]
        packets[one.key] = min(turn, packets.get(one.key, turn))
    return {ends: sorted(packets, key=lambda key: packets[key]) for ends, packets in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBook:
    """What is known by address. `identities` holds pods' names and labels by security identity."""

    macs: Mapping[str, tuple[KnownAddress, ...]]
    """Several devices may have one MAC, as Calico's have."""
    vteps: Mapping[str, KnownAddress]
    identities: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]]
    identity_of: Mapping[str, int]
    has_identities: bool = True

    def mac(self, address: str, seen_at: Role) -> KnownAddress:
        """Of devices with the same MAC that of the same end of the way as the tap."""
        known = self.macs.get(address, (KnownAddress(address=address),))
        end = seen_at.partition("-")[0]
        return next((one for one in known if one.role.partition("-")[0] == end), known[0])

    def envelope(self, seen: Envelope, inner_src: str, seen_at: Role) -> HopEnvelope:
        pods, labels = self.identities.get(seen.vni, ((), ()))
        return HopEnvelope(
            src=self.vteps.get(seen.src, KnownAddress(address=seen.src)),
            dst=self.vteps.get(seen.dst, KnownAddress(address=seen.dst)),
            src_mac=self.mac(seen.src_mac, seen_at),
            dst_mac=self.mac(seen.dst_mac, seen_at),
            src_port=seen.src_port,
            dst_port=seen.dst_port,
            ttl=seen.ttl,
            vni=seen.vni,
            identity_pods=pods,
            identity_labels=labels,
            is_senders=self.identity_of.get(inner_src) == seen.vni,
            is_identity=self.has_identities,
        )


def names_of(lab: Lab, pair: Pair, taps: Sequence[TraceTap], devices: Iterable[tuple[str, str]]) -> AddressBook:
    """From the lab's facts and from `devices`: (role, MAC) as they are on the running lab, which go first."""
    by_role = {str(tap.role): tap.name for tap in taps}
    macs: dict[str, tuple[KnownAddress, ...]] = {}

    def know(mac: str, role: str, owner: str) -> None:
        known = macs.get(mac.lower(), ())
        if mac and (not known or (role and known[0].role)):
            macs[mac.lower()] = (*known, KnownAddress(address=mac.lower(), role=role, owner=owner))

    for end in (end for link in lab.links for end in link.ends if lab.is_router(end.part)):
        know(end.mac, "", f"{end.part}:{end.device}")  # many of them have one role
    for role, mac in devices:
        know(mac, role, by_role.get(role, ""))
    for pod in lab.pods:
        know(pod.mac, "", f"{pod.name}:eth0")
        know(pod.lxc_mac, "", f"{pod.node}:{pod.lxc}")
    for node in lab.nodes:
        know(node.mac, "", f"{node.name}'s uplink")
    for host in lab.outside:
        know(host.mac, "", f"{host.name}:eth0")
    roles = vtep_roles(lab, pair)
    addresses = {node.name: str(node.address.ip) for node in lab.nodes}
    identities: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for pod in lab.pods:
        pods, _ = identities.get(pod.identity, ((), ()))
        labels = tuple(f"{key}={value}" for key, value in sorted(pod.labels.items()))
        identities[pod.identity] = ((*pods, pod.name), labels)
    return AddressBook(
        macs=macs,
        vteps={ip: KnownAddress(address=ip, role=roles.get(ip, ""), owner=name) for name, ip in addresses.items()},
        identities=identities,
        identity_of={str(pod.address): pod.identity for pod in lab.pods},
        has_identities=lab.pod_network.type is NetworkType.CILIUM,
    )


_MS_NS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The clock of `node` is `offset_ns` ahead of that of `reference`, give or take `error_ns`."""

    reference: str
    node: str
    offset_ns: int
    error_ns: int

    def in_words(self) -> str:
        off, error = f"{abs(self.offset_ns) / _MS_NS:.2f}", f"{self.error_ns / _MS_NS:.2f}"
        if self.offset_ns >= 0:
            found = f"{self.node}'s clock is {off} ms ahead of {self.reference}'s (± {error} ms)"
        else:
            found = f"{self.node}'s clock is {off} ms behind {self.reference}'s (± {error} ms)"
        return found + (
            f": its times are converted to {self.reference}'s clock, and a hop from one to the other is no more "
            "precise than that"
        )

    def sightings(self, seen: Iterable[Sighting], node_of: Mapping[str, str]) -> tuple[Sighting, ...]:
        """By the reference's clock. `node_of` gives the node of each tap."""
        return tuple(
            one._replace(time_ns=one.time_ns - self.offset_ns) if node_of.get(one.tap) == self.node else one
            for one in seen
        )

    def movements(self, movements: Iterable[Movement]) -> tuple[Movement, ...]:
        return tuple(
            replace(one, time_ns=one.time_ns - self.offset_ns)
            if one.node == self.node and one.time_ns is not None
            else one
            for one in movements
        )

    def narrowed(self, seen: Sequence[Sighting], node_of: Mapping[str, str]) -> Clocks:
        """The nearest offset within the error by which every packet arrives after it was sent, or this one."""
        least, most = _bounds(seen, node_of, self.reference, self.node)
        low = self.offset_ns - self.error_ns if least is None else least
        high = self.offset_ns + self.error_ns if most is None else most
        if low > high or low <= self.offset_ns <= high:
            return self
        nearest = (low + high) // 2
        return replace(self, offset_ns=nearest) if abs(nearest - self.offset_ns) <= self.error_ns else self


def _bounds(
    seen: Sequence[Sighting], node_of: Mapping[str, str], reference: str, node: str
) -> tuple[int | None, int | None]:
    """The least and the most that the offset can be: replies leave `node` before they are at `reference`, requests
    arrive at `node` after they have left."""
    least: list[int] = []
    most: list[int] = []
    for number, way in {(one.number, one.way) for one in seen}:
        here = [
            one.time_ns for one in seen if (one.number, one.way) == (number, way) and node_of.get(one.tap) == reference
        ]
        there = [one.time_ns for one in seen if (one.number, one.way) == (number, way) and node_of.get(one.tap) == node]
        if not here or not there:
            continue
        if way is Way.REQUEST:
            most.append(min(there) - max(here))
        else:
            least.append(max(there) - min(here))
    return max(least, default=None), min(most, default=None)
