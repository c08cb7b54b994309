"""Impairs the links of a running lab, and says what was done to their packets so far."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.model.impairment import ImpairCounts, ImpairedWay, Impairment
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.kinds.impairment import OffloadsSet, PacketsLeave, QueueRemove, RelayEnd, counts_at
from labctl.providers.netns.plan_wires import Wire, WireEnd, impairing_objects, ways_of
from labctl.providers.netns.wires import Wires, with_context
from labctl.system import link_state, netns, rtnetlink
from labctl.system.netlink import Socket


def in_force(wires: Wires) -> Mapping[str, Impairment]:
    """What is asked of each link: as the scenario says, or as it was changed since."""
    asked = {**wires.declared, **read_changes(wires.lab.name).impairments}
    return {name: one for name, one in asked.items() if not one.is_nothing}


def impair(wires: Wires, wire: Wire, asked: Impairment) -> None:
    """Sets it in place of what was set; nothing is set when nothing is asked, and when a part of it fails. Raises
    UsageError, HostLacks, StepFailed."""
    objects = tuple(impairing_objects(wires.lab, wires.actions, wire, asked))
    clear(wire)
    try:
        with_context(objects)
    except BaseException:
        clear(wire)
        raise


def clear(wire: Wire) -> None:
    """Idempotent. Raises StepFailed."""
    for end in wire.ends:
        if _state(end) is not None:
            place, device, index = end.namespace, end.device, end.index
            with_context(
                (
                    PacketsLeave(namespace=place, device=device, index=index),
                    RelayEnd(namespace=place, device=device, index=index),
                    QueueRemove(namespace=place, device=device, index=index),
                    OffloadsSet(namespace=place, device=device, index=index, is_on=True),
                )
            )


def counts(wire: Wire) -> Mapping[str, ImpairCounts]:
    """By the part that receives, what its program did. Ends without a program are left out."""
    found = {}
    for end in wire.ends:
        try:
            with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
                done = counts_at(channel, end.index)
        except OSError:
            continue
        if done is not None:
            found[end.part] = done
    return found


def impaired_ways(wires: Wires) -> tuple[ImpairedWay, ...]:
    """Each direction of each link that is impaired, with the counters as they are now."""
    found, asked = [], in_force(wires)
    for wire in wires.all:
        if wire.name not in asked:
            continue
        one, done = asked[wire.name], counts(wire)
        for way in ways_of(wire, one.direction):
            sent = _state(way.sender)
            found.append(
                ImpairedWay(
                    link=wire.name,
                    sender=way.sender.part,
                    receiver=way.receiver.part,
                    asked=one,
                    counts=done.get(way.receiver.part, ImpairCounts()),
                    sent_packets=sent.tx_packets if sent else 0,
                    sent_bytes=sent.tx_bytes if sent else 0,
                )
            )
    return tuple(found)


def _state(end: WireEnd) -> link_state.DeviceState | None:
    """None when the device is gone."""
    try:
        with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
            return next(map(link_state.parse_state, channel.ask(rtnetlink.one_link(end.index))), None)
    except OSError:
        return None


def words(wire: Wire, asked: Impairment) -> tuple[str, ...]:
    """What is asked, and what the programs did so far at each end."""
    done = [
        f"{part}: " + ", ".join(f"{count} {what}" for what, count in _done(one)) + f" of {one.seen}"
        for part, one in counts(wire).items()
        if _done(one)
    ]
    return (asked.words(), *done)


def _done(one: ImpairCounts) -> tuple[tuple[str, int], ...]:
    every = (
        ("lost", one.lost),
        ("duplicated", one.duplicated),
        ("corrupted", one.corrupted),
        ("reordered", one.reordered),
    )
    return tuple((what, count) for what, count in every if count)
