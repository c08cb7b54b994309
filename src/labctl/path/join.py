"""Sightings of the same packet and the acts upon it become the packet's path. Pure.

Packets are told apart by their content. Time only puts the sightings of one packet into order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from labctl.model.movement import Movement
from labctl.model.path import Hop, PacketPath, TraceTap, Way
from labctl.path.carried import carried
from labctl.path.losing import lost_sentence
from labctl.path.naming import Names
from labctl.path.sighting import Sighting
from labctl.path.skipping import skipped_taps
from labctl.path.timeline import Entry, belongs, keys_of, timeline


def join(
    taps: Sequence[TraceTap],
    sightings: Iterable[Sighting],
    movements: Sequence[Movement],
    names: Names,
    *,
    sent: int,
    ends: tuple[str, str],
) -> tuple[PacketPath, ...]:
    """The path of every packet that was sent, and of every reply, in the order of their numbers.

    `ends` are the taps in the client's and in the server's pod. A reply that should have been there and was not seen
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
    names: Names,
    way: Way,
    number: int,
    ends: tuple[str, str],
) -> PacketPath:
    keys = keys_of(sightings)
    own = [movement for movement in movements if belongs(movement, keys)]
    nodes = {tap.node for tap in taps if tap.node}
    entries = timeline(sightings, without_copies(own, nodes), taps, way)
    hops, after = _hops(entries, {tap.name: tap for tap in taps}, names, frozenset(nodes))
    source, destination = ends if way is Way.REQUEST else ends[::-1]
    arrived = any(hop.tap == destination for hop in hops)
    what = next((sighting.what for sighting in sightings if sighting.what), f"{way} of which nothing was seen")
    return PacketPath(
        way=way,
        number=number,
        what=what,
        hops=hops,
        skipped=skipped_taps(taps, hops, after, way=way),
        after=after,
        arrived=arrived,
        lost="" if arrived else lost_sentence(hops, after, way=way, source=source),
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
    entries: Sequence[Entry], taps: dict[str, TraceTap], names: Names, nodes: frozenset[str]
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
        how = carried(previous, pending, here, tap.device, nodes=nodes)
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
                src_mac=names.mac(here.src_mac),
                dst_mac=names.mac(here.dst_mac),
                ttl=here.ttl,
                envelope=None if here.envelope is None else names.envelope(here.envelope, here.src),
                carriage=how.carriage,
                because=how.because,
                moved_by=tuple(pending),
            )
        )
        previous, previous_ns, pending = here, entry.time_ns, []
    return tuple(hops), tuple(pending)
