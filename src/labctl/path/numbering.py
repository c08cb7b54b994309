"""Which echo a witness speaks of that does not tell its number: told by its turn, where every turn is there. Pure.

The n-th event of one kind belongs to the n-th packet, if there is exactly one for each packet that was seen of that
half of the exchange. With one too few or too many, nothing says which one is missing: then none is put to a packet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from labctl.model.movement import Movement, PacketKey
from labctl.path.sighting import Sighting


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
        f"{who} tells no echo's number, and has not one event for each ({', '.join(kinds)}): not put to packets"
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
