"""One packet's sightings and the acts upon it, in the order in which they happened. Pure.

Sightings and program events carry times of one clock. Two things need more than sorting by it:

- the kernel stamps a packet when it is received, and keeps the stamp while the packet goes up through a tunnel or into
  a pod by `bpf_redirect_peer`: the tap there shows the time of the uplink. The act that moved it tells the right one.
- netfilter's trace has no times: each step is put where it belongs by the device that the packet came in by or leaves
  by, in the order in which each node told it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from labctl.model.movement import Act, Movement, Mover, PacketKey
from labctl.model.path import Direction, TraceTap, Way
from labctl.model.signature import Role
from labctl.path.sighting import Sighting

_SKEW_NS = 200_000
"""Within this, an order that cannot be is taken for an error of the clocks, not for another passage."""
_LONGEST_KEPT_NS = 100_000_000
_LEAVING = ("output", "postrouting", "egress")
_IN_ORDER = (Mover.PROGRAM, Mover.AGENT)
"""Who tells all that it has to tell of a node in its order, apart from what others tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
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
            return self.sighting.direction is not Direction.OUT
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
) -> tuple[Entry, ...]:
    """Everything about one packet in its order. Sightings of one time go in the order of the taps on this way."""
    movements = tuple(movements)
    by_name = {tap.name: tap for tap in taps}
    lxc_of = _lxc_of(taps)
    order = {tap.name: number for number, tap in enumerate(taps if way is Way.REQUEST else taps[::-1])}
    seen = []
    for sighting in sightings:
        tap = by_name[sighting.tap]
        entry = Entry(
            time_ns=sighting.time_ns,
            node=tap.part if tap.part_kind == "pod" else tap.node or tap.part,
            device=tap.device,
            sighting=sighting,
        )
        seen.append(replace(entry, time_ns=_arrival_ns(entry, movements, lxc_of.get(tap.name))))
    timed = [_entry(m, _possible(m, m.time_ns, seen)) for m in movements if m.time_ns is not None]

    def place(entry: Entry) -> tuple[int, int]:
        return entry.time_ns, len(order) if entry.sighting is None else order[entry.sighting.tap]

    ordered = sorted((*seen, *timed), key=place)
    slots: list[list[Entry]] = [[] for _ in range(len(ordered) + 1)]
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
    result: list[Entry] = list(slots[0])
    for entry, following in zip(ordered, slots[1:], strict=True):
        result += (entry, *following)
    return tuple(result)


def _lxc_of(taps: Sequence[TraceTap]) -> dict[str, tuple[str, str]]:
    """(node, lxc) by the tap in the pod behind it."""
    lxcs = {tap.role: (tap.node, tap.device) for tap in taps}
    pods = ((Role.CLIENT_ETH0, Role.CLIENT_LXC), (Role.SERVER_ETH0, Role.SERVER_LXC))
    return {tap.name: lxcs[lxc] for tap in taps for eth0, lxc in pods if tap.role is eth0 and lxc in lxcs}


def _arrival_ns(entry: Entry, movements: Iterable[Movement], lxc: tuple[str, str] | None) -> int:
    """When a packet that kept its stamp from the uplink really came: just after the act that moved it."""
    sighting = entry.sighting
    if sighting is None or not entry.is_entering:
        return entry.time_ns
    for movement in movements:
        if movement.time_ns is None or not 0 <= movement.time_ns - entry.time_ns < _LONGEST_KEPT_NS:
            continue
        into_pod = movement.helper == Act.REDIRECT_PEER and (movement.node, movement.target) == lxc
        out_of_envelope = (
            movement.node == entry.node
            and movement.encapsulated
            and movement.hook not in _LEAVING
            and movement.device != entry.device
            and sighting.envelope is None
        )
        if into_pod or out_of_envelope:
            return movement.time_ns + 1
    return entry.time_ns


def _entry(movement: Movement, time_ns: int) -> Entry:
    return Entry(time_ns=time_ns, node=movement.node, device=movement.device, movement=movement)


def _possible(movement: Movement, time_ns: int, seen: Sequence[Entry]) -> int:
    """The movement's time, or a nanosecond to the possible side of the sighting at its device: a tap sees what comes
    in before the ingress programs do, and what goes out after the egress programs."""
    is_egress = movement.hook in _LEAVING
    for entry in seen:
        near = abs(entry.time_ns - time_ns) < _SKEW_NS
        if near and (entry.node, entry.device) == (movement.node, movement.device) and entry.is_entering != is_egress:
            return min(time_ns, entry.time_ns - 1) if is_egress else max(time_ns, entry.time_ns + 1)
    return time_ns


def _slot(movement: Movement, ordered: Sequence[Entry], earliest: int) -> int:
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
        # Nothing was seen at its device: right after what it told before, and not after all that its node ever saw.
        return earliest
    return max(earliest, here[-1][0] + 1 if here else len(ordered))


def _run_end(ordered: Sequence[Entry], first: int) -> int:
    """One past the last entry that is of the same arrival as `first`: the tap and then the program at one device."""
    end = first + 1
    while (
        end < len(ordered)
        and ordered[end].is_entering
        and (ordered[end].node, ordered[end].device) == (ordered[first].node, ordered[first].device)
    ):
        end += 1
    return end
