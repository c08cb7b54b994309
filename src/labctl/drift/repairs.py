"""From differences to the steps that mend them: the least that has to be done, in an order that can be carried out.

Removed is from the inside out, made in the order of the plan. What a device or namespace that is made again takes with
it is made again too; everything else is left alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from labctl.drift.compare import Delta
from labctl.drift.observed import ObservedLab
from labctl.drift.wanted import Wanted
from labctl.model.plan import Step
from labctl.names import split_namespace
from labctl.providers.netns.kinds.base import Object, ObjectKind
from labctl.providers.netns.kinds.cgroup import SocketAttach, SocketDetach
from labctl.providers.netns.kinds.daemon import (
    DAEMONS,
    FrrConfigure,
    FrrRestart,
    FrrStart,
    NextHopsAwait,
    RoutesAwait,
    SessionsAwait,
    SessionsClear,
    TunnelsAwait,
    addresses_told,
)
from labctl.providers.netns.kinds.impairment import IMPAIRMENTS
from labctl.providers.netns.kinds.link import DeviceDelete, DeviceSet, OnDevice, PortsAwait, device_name
from labctl.providers.netns.kinds.namespace import NamespaceAdd, NamespaceDrop, RecordWrite
from labctl.providers.netns.kinds.netfilter import IptablesRestore, NftRestore
from labctl.providers.netns.kinds.program import (
    DatapathLoad,
    DatapathReopen,
    DeviceEntry,
    EntriesDelete,
    FilterAttach,
    FilterDelete,
    MapsFill,
    QdiscDelete,
)
from labctl.providers.netns.kinds.routing import LEARNED
from labctl.providers.netns.kinds.ruleset import RulesReplace, TableDelete

_WAITS = (RoutesAwait, TunnelsAwait, PortsAwait)
_WAITS_OF_ALL = (*_WAITS, NextHopsAwait)
"""Every next hop is there only where all of the lab is as it should be."""
_LAST_REMOVED = (DeviceDelete, NamespaceDrop)
_OF_ROUTING = frozenset({ObjectKind.DAEMON, ObjectKind.CONFIGURATION, ObjectKind.DEVICE, ObjectKind.ADDRESS,
                         ObjectKind.NAMESPACE})  # fmt: skip


@dataclass(slots=True)
class _Repair:
    wanted: Wanted
    observed: ObservedLab
    is_whole: bool = True
    removes: dict[Object, None] = field(default_factory=dict)
    makes: set[int] = field(default_factory=set)
    mends: dict[Object, int] = field(default_factory=dict)
    """With the number of the action whose place in the order each takes."""
    remade: set[tuple[str, str]] = field(default_factory=set)


def repairs(
    wanted: Wanted,
    observed: ObservedLab,
    deltas: Iterable[Delta],
    *,
    record: RecordWrite | None = None,
    is_whole: bool = True,
) -> tuple[Step, ...]:
    """The steps that mend these differences; none where there are none. `record` is what the lab's file says from then
    on, where that changes. `is_whole`: they are all that there are."""
    chosen = tuple(deltas)
    repair = _Repair(wanted, observed, is_whole=is_whole)
    for delta in chosen:
        repair.removes.update(dict.fromkeys(delta.removes))
        repair.makes.update(delta.makes)
        if delta.remade is not None:
            repair.remade.add(delta.remade)
        place = min(delta.makes, default=_place(wanted, delta))
        for mend in delta.mends:
            repair.mends[mend] = max(place, repair.mends.get(mend, 0))
    _follow(repair)
    return tuple(_steps(repair, chosen, record))


def _place(wanted: Wanted, delta: Delta) -> int:
    """Where in the order of the plan the thing of a difference is made."""
    thing = wanted.things.get(delta.namespace, {}).get(delta.key)
    if thing is not None:
        return thing.action
    if delta.difference.kind in (ObjectKind.RULE, ObjectKind.CHAIN) and (rules := wanted.rules.get(delta.namespace)):
        return rules[0][0]
    if delta.difference.kind in (ObjectKind.CONFIGURATION, ObjectKind.DAEMON) and delta.namespace in wanted.daemons:
        return wanted.daemons[delta.namespace][0]  # before anybody waits for what the daemons learn
    load = wanted.loads.get(delta.namespace)
    if delta.difference.kind == ObjectKind.ENTRY and load is not None:
        return wanted.actions.index(load)
    return len(wanted.actions)


def _follow(repair: _Repair) -> None:
    """What is made again takes what is on it along, and what is on that."""
    wanted, observed = repair.wanted, repair.observed
    done: set[tuple[str, str]] = set()
    while fresh := repair.remade - done:
        done |= fresh
        for namespace, key in sorted(fresh):
            if not key:
                _free_far_ends(repair, namespace)
                continue
            one = wanted.things.get(namespace, {}).get(key)
            if one is None:
                continue
            # Both ends of a pair come from one action: what is left of either goes first.
            repair.makes.add(one.action)
            for thing in wanted.actions[one.action].things():
                if thing.kind is ObjectKind.DEVICE and not thing.value:
                    repair.remade.add((thing.namespace, thing.of))
                    _remove_device(repair, thing.namespace, thing.of)
        for namespace, things in wanted.things.items():
            for thing, number in ((one.thing, one.action) for one in things.values()):
                if not any((namespace, need) in fresh for need in thing.needs):
                    continue
                if thing.kind is ObjectKind.DEVICE and thing.value:
                    own = (namespace, thing.needs[0])
                    if own in repair.remade:
                        repair.makes.add(number)  # a device's own properties; a later `up` is an action of its own
                    elif thing.mend is not None:
                        repair.mends.update(dict.fromkeys(thing.mend(), number))
                    continue
                repair.makes.add(number)
                if thing.kind is ObjectKind.DEVICE:
                    repair.remade.add((namespace, thing.of))
    for number, action in enumerate(wanted.actions):
        if isinstance(action, DeviceEntry) and (action.namespace, f"device {action.device}") in done:
            repair.makes.add(number)
    del observed


def _free_far_ends(repair: _Repair, namespace: str) -> None:
    """What is made with a namespace has ends in others, where the devices of another lab may have their names."""
    for number in sorted(repair.makes):
        for thing in repair.wanted.actions[number].things():
            is_device = thing.kind is ObjectKind.DEVICE and not thing.value
            if is_device and namespace in thing.ends and thing.of in repair.observed.places.get(thing.namespace, {}):
                repair.remade.add((thing.namespace, thing.of))
                _remove_device(repair, thing.namespace, thing.of)


def _remove_device(repair: _Repair, namespace: str, key: str) -> None:
    found = repair.observed.places.get(namespace, {}).get(key)
    if found is not None and found.remove is not None:
        repair.removes[found.remove()] = None


def _steps(repair: _Repair, deltas: Sequence[Delta], record: RecordWrite | None) -> Iterator[Step]:
    wanted = repair.wanted
    gone = {delta.namespace for delta in deltas if delta.remade is not None and not delta.remade[1]}
    inner = [one for one in repair.removes if not isinstance(one, _LAST_REMOVED)]
    devices = [one for one in repair.removes if isinstance(one, DeviceDelete)]
    reopened = tuple(_reopened(repair, (*inner, *repair.mends)))
    if actions := (*_openings(reopened, inner), *inner, *devices):
        yield Step(
            id="remove", title=f"remove what is extra or in the way: {len(inner) + len(devices)}", actions=actions
        )
    made: list[tuple[int, int, Object]] = []
    for number in repair.makes:
        action = wanted.actions[number]
        if isinstance(action, DatapathLoad):
            continue
        made.append((number, 1, _again(action, observed=repair.observed)))
    again = {one for _, _, one in made}
    made += [(number, 0, mend) for mend, number in repair.mends.items() if not _is_made_again(repair, again, mend)]
    # What a daemon is to forget goes first: `no timers bgp 1 3` takes what was said of timers before, too.
    made.sort(key=lambda one: (*one[:2], isinstance(one[2], FrrConfigure) and not one[2].is_removal))
    ordered = [one for _, _, one in made]
    starting = {one.namespace for one in ordered if isinstance(one, FrrStart)}
    ordered += addresses_told(ordered, {*wanted.daemons} & {*repair.observed.places} - starting)
    told = [(one.namespace, one.timers) for one in ordered if isinstance(one, FrrConfigure) and one.timers is not None]
    for renews in (SessionsClear, SessionsAwait) if repair.is_whole else (SessionsClear,):
        ordered += [renews(namespace=place, keepalive_s=timers[0], hold_s=timers[1]) for place, timers in told]
    if any(delta.difference.kind in _OF_ROUTING or delta.key.startswith(LEARNED) for delta in deltas):
        waits = _WAITS_OF_ALL if repair.is_whole else _WAITS
        ordered += [one for one in wanted.actions if isinstance(one, waits) and one not in ordered]
    if ordered:
        yield from _by_part(ordered, reopened, gone)
    dropped = tuple(one for one in repair.removes if isinstance(one, NamespaceDrop))
    if dropped:
        yield Step(id="drop", title=f"remove namespaces that are extra: {len(dropped)}", actions=dropped)
    if record is not None:
        yield Step(id="record", title="record: the lab's facts, for labctl status", actions=(record,))


def _again(action: Object, *, observed: ObservedLab) -> Object:
    """An action of the plan for a lab that is up: daemons that still run are ended first; a route, neighbour or program
    takes the place of what is there."""
    if isinstance(action, FrrStart) and action.namespace in observed.places:
        return FrrRestart(namespace=action.namespace, daemons=action.daemons)
    return action.in_place()


def _is_made_again(repair: _Repair, again: set[Object], mend: Object) -> bool:
    """What mends something that is made again anyway, or that is of a device that is."""
    is_of_device = isinstance(mend, DeviceSet) and (mend.namespace, device_name(mend.device)) in repair.remade
    return is_of_device or mend in again


_WITH_PROGRAMS = (FilterAttach, SocketAttach)
_WITH_MAPS = (MapsFill, EntriesDelete)


def _reopened(repair: _Repair, others: Iterable[Object]) -> Iterator[DatapathReopen]:
    """Of each node whose programs or maps are touched."""
    wanted = repair.wanted
    needed: dict[str, dict[str, None]] = {}
    for one in (*(wanted.actions[number] for number in sorted(repair.makes)), *others):
        if isinstance(one, _WITH_PROGRAMS):
            needed.setdefault(one.namespace, {})[one.program] = None
        elif isinstance(one, _WITH_MAPS):
            needed.setdefault(one.namespace, {})
        elif isinstance(one, DeviceEntry):
            needed.setdefault(one.holder, {})
    for namespace, programs in needed.items():
        if (load := wanted.loads.get(namespace)) is not None:
            groups = tuple(wanted.cgroups.get(namespace, ()))
            yield DatapathReopen(load=load, cgroups=groups, programs=tuple(programs))


def _openings(reopened: Iterable[DatapathReopen], removes: Sequence[Object]) -> Iterator[DatapathReopen]:
    """Before entries are removed, their maps are opened; before the last program goes, so that its maps stay."""
    touched = {one.namespace for one in removes if isinstance(one, EntriesDelete | FilterDelete | QdiscDelete)}
    cut = any(isinstance(one, SocketDetach) for one in removes)
    for one in reopened:
        if one.load.namespace in touched or cut:
            yield one


def _by_part(ordered: Sequence[Object], reopened: Sequence[DatapathReopen], gone: set[str]) -> Iterator[Step]:
    """One step for what follows each other in one namespace."""
    opening = {one.load.namespace: one for one in reopened}
    pending: list[Object] = []
    current = ""
    number = 0
    for one in ordered:
        place = getattr(one, "namespace", "") or current
        holder = one.holder if isinstance(one, DeviceEntry) else place
        if place != current and pending:
            number += 1
            yield _step(number, current, pending)
            pending = []
        current = place
        if isinstance(one, (*_WITH_PROGRAMS, MapsFill, DeviceEntry)) and holder in opening:
            pending.append(opening.pop(holder))
        pending.append(one)
    if pending:
        yield _step(number + 1, current, pending)
    del gone


def _step(number: int, namespace: str, actions: Sequence[Object]) -> Step:
    split = split_namespace(namespace)
    part = split[1] if split else namespace
    return Step(id=f"mend-{number}", title=f"{part}: {_what(actions)}", actions=tuple(actions))


_NOUNS: tuple[tuple[tuple[type[Object], ...], str], ...] = (
    ((NamespaceAdd,), "namespace"),
    ((IptablesRestore, NftRestore, RulesReplace, TableDelete), "rules"),
    ((FilterAttach, SocketAttach, DatapathReopen), "programs"),
    ((MapsFill, DeviceEntry), "map entries"),
    (DAEMONS.objects, "routing"),
    (IMPAIRMENTS.objects, "impairments"),
    ((DeviceSet, OnDevice), "devices, addresses, routes"),
)


def _what(actions: Sequence[Object]) -> str:
    found = dict.fromkeys(
        next((noun for kinds, noun in _NOUNS if isinstance(action, kinds)), "settings") for action in actions
    )
    return ", ".join(found)
