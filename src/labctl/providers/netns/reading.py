"""Reads everything of a running lab that its plan, or another one, makes: what `labctl diff` compares.

Each namespace is entered once; programs' maps are read through the programs, rules by the host's own tools, routing
daemons by their sockets, processes in one walk through /proc.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG_KEY, NO_ADDRESS, ConfigFlag, pack_config, unpack_config
from labctl.drift.compare import compare, drift_of
from labctl.drift.observed import FoundMap, FoundProcess, FoundRules, ObservedLab
from labctl.drift.repairs import repairs
from labctl.drift.wanted import Wanted, objects_of, wanted_of
from labctl.errors import LabError, NeedsRoot, UsageError
from labctl.model.drift import Change, Unread
from labctl.model.interfaces import LO_INDEX
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.model.snapshot import ExtraAddress
from labctl.names import cgroup_of, is_device, split_namespace
from labctl.providers.base import Compared
from labctl.providers.netns.discover import read_mark
from labctl.providers.netns.kinds import KINDS
from labctl.providers.netns.kinds.base import Found, NamespaceReader, ObjectKind, Thing
from labctl.providers.netns.kinds.daemon import running_configuration
from labctl.providers.netns.kinds.impairment import QueueAdd, has_netem
from labctl.providers.netns.kinds.netfilter import NftRestore
from labctl.providers.netns.kinds.plugin import PluginsAdd
from labctl.providers.netns.kinds.program import running_programs, tags_of
from labctl.providers.netns.kinds.routing import AddressDelete
from labctl.providers.netns.kinds.ruleset import as_listed, is_of_iptables, listed_tables, listings, tables
from labctl.providers.netns.plan import plan
from labctl.providers.netns.record import parse_mark
from labctl.system import cgroups, netns
from labctl.system.files import read_own
from labctl.system.netlink import Socket

_MOST_READINGS = 20
_APART = frozenset({ObjectKind.RULE, ObjectKind.CHAIN, ObjectKind.DAEMON})
_READERS = tuple((kind.name, kind.read) for kind in KINDS if kind.read is not None and kind.name not in _APART)
_CONFIG = "config"
_INIT = frozenset({"systemd", "init"})


def wanted(lab: Lab) -> Wanted:
    """What the lab's plan makes, with the tags that its programs have on this kernel. Raises LabError."""
    actions = tuple(action for step in plan(lab).steps for action in step.actions)
    tags = {path: tags_of(Path(path)) for path in objects_of(actions)}
    delays = any(isinstance(action, QueueAdd) and action.asked.delay_s for action in actions)
    return wanted_of(lab, actions, tags, has_netem=delays and has_netem())


def compared(
    lab: Lab, parts: Collection[str], scenario: str, wanted_of_lab: Callable[[Lab], Wanted] | None = None
) -> Compared:
    """`Drifting.compared` of the seam. `wanted_of_lab` gives what the lab's plan makes, by default from the plan."""
    if os.geteuid() != 0:
        raise NeedsRoot(what="comparing a lab with its plan needs root", cause="only root may look into its namespaces")
    with _uncollected():
        return _compared((wanted_of_lab or wanted)(lab), parts, scenario)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: a lab of a thousand pods is half a million objects that all stay, and looking through
    them again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _compared(asked: Wanted, parts: Collection[str], scenario: str) -> Compared:
    lab = asked.lab
    if any(isinstance(action, PluginsAdd) for action in asked.actions):
        raise UsageError(
            what=f"lab {lab.name} is not compared with its plan: plugins attach its pods",
            cause="which devices, addresses and rules there are is decided by the plugins, not by the plan",
            remedy=f"labctl status {lab.name}; labctl check {lab.name}",
        )
    known = {_part(name) for name in asked.namespaces}
    if strange := [part for part in parts if part not in known]:
        raise _no_part(lab, strange[0], known)
    observed = read(asked)
    deltas = [one for one in compare(asked, observed) if not parts or one.difference.part in parts]
    record = asked.record if not parts and asked.record is not None and _is_other(asked) else None
    steps = repairs(asked, observed, deltas, record=record, is_whole=not parts)
    return Compared(
        drift=drift_of(asked, observed, deltas, scenario=scenario),
        plan=Plan(lab=lab.name, provider="netns", steps=steps),
    )


def extra_addresses(lab: Lab) -> tuple[ExtraAddress, ...]:
    """Those that somebody gave to devices of the lab. Of devices with names that labctl has none of, none."""
    asked = wanted(lab)
    removed = [
        (delta.difference.part, one)
        for delta in compare(asked, read(asked))
        if delta.difference.change is Change.EXTRA
        for one in delta.removes
        if isinstance(one, AddressDelete) and is_device(one.device)
    ]
    return tuple(ExtraAddress(part=part, device=one.device, address=one.address) for part, one in removed)


def _is_other(asked: Wanted) -> bool:
    """Whether the lab's file says something else than it would."""
    assert asked.record is not None
    try:
        return read_own(asked.record.path).decode().rstrip("\n") != asked.record.document
    except (OSError, ValueError):
        return True


def _no_part(lab: Lab, name: str, known: Collection[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        what=f"lab {lab.name} has no part named '{name}'",
        cause=f"its parts are: {', '.join(sorted(known))}",
        remedy=f"did you mean '{near[0]}'?" if near else f"labctl diff {lab.name}",
    )


def read(asked: Wanted, only: Collection[str] | None = None) -> ObservedLab:
    """The lab of that name, as it is. With `only` these namespaces, without netfilter's rules; the others are there
    and empty. Raises LabError where the whole of it cannot be read; what cannot be read of one namespace is noted."""
    name = asked.lab.name
    there = {one for one in netns.names() if (split := split_namespace(one)) is not None and split[0] == name}
    found = ObservedLab()
    if only is None:
        found.others = tuple(sorted(one for one in there - {*asked.things} if netns.is_mounted(one) and read_mark(one)))
        found.cgroups = tuple(_cgroups_beside(asked))
    beside: dict[str, list[tuple[str, str]]] = {}
    for namespace in asked.namespaces:
        if namespace not in there:
            continue
        if only is not None and namespace not in only:
            found.places[namespace] = {}
            continue
        things = tuple(asked.of(namespace))
        try:
            place = _place(namespace, things, found.unread, beside)
        except OSError as refused:
            if netns.is_mounted(namespace):  # else the file alone is left
                found.unread.append(Unread(part=_part(namespace), kind="namespace", why=str(refused)))
            continue
        if place is None:
            found.strangers.add(namespace)
        else:
            found.places[namespace] = place
    if only is None:
        _rules(asked, found, beside)
    for namespace in asked.loads if only is None else (one for one in asked.loads if one in only):
        if namespace in found.places:
            try:
                found.entries[namespace] = _maps(asked, namespace)
            except OSError as refused:
                found.unread.append(Unread(part=_part(namespace), kind=ObjectKind.ENTRY, why=str(refused)))
    _processes(asked, found, {*found.places} if only is None else {*only})
    return found


def _part(namespace: str) -> str:
    split = split_namespace(namespace)
    return split[1] if split else namespace


def _place(
    namespace: str, things: Sequence[Thing], unread: list[Unread], beside: dict[str, list[tuple[str, str]]]
) -> Mapping[str, Found] | None:
    """Everything that the readers of all kinds find there; again when devices came or went meanwhile. None where it has
    not labctl's mark. `beside` gets the tables of nf_tables."""
    with netns.entered(netns.path_of(namespace)), Socket() as channel:
        for _ in range(_MOST_READINGS):
            reader = NamespaceReader(channel, things, namespace=namespace, closely=True)
            if LO_INDEX not in reader.links or parse_mark(reader.links[LO_INDEX].alias) is None:
                return None
            found: dict[str, Found] = {}
            failed: list[Unread] = []
            for kind, each in _READERS:
                try:
                    found.update((one.key, one) for one in each(reader))
                except OSError as refused:
                    failed.append(Unread(part=_part(namespace), kind=str(kind), why=str(refused)))
            if reader.is_settled():
                break
        with contextlib.suppress(OSError):  # a kernel without nf_tables has none
            if there := list(tables()):
                beside[namespace] = there
    unread += failed
    return found


def _rules(asked: Wanted, found: ObservedLab, beside: Mapping[str, list[tuple[str, str]]]) -> None:
    places = [one for one in found.places if one in asked.rules or any(is_of_iptables(*t) for t in beside.get(one, ()))]
    try:
        shown = listings(places)
        own = {
            name: [one.table for _, one in asked.rules.get(name, ()) if isinstance(one, NftRestore)]
            for name in found.places
        }
        blocks = listed_tables({name: names for name, names in own.items() if names})
        for name in dict.fromkeys((*places, *beside)):
            wanted_there = as_listed(tuple(one for _, one in asked.rules.get(name, ())))
            others = tuple(
                f"{family} {table}"
                for family, table in beside.get(name, ())
                if not is_of_iptables(family, table) and not (family == "ip" and table in own.get(name, ()))
            )
            found.rules[name] = FoundRules(
                wanted=wanted_there.rules,
                found=shown.get(name, ""),
                wanted_tables=wanted_there.tables,
                found_tables=blocks.get(name, {}),
                tables=others,
            )
    except LabError as refused:
        found.unread.append(Unread(part="the nodes", kind=ObjectKind.RULE, why=f"{refused.what}: {refused.cause}"))


def _maps(asked: Wanted, namespace: str) -> dict[str, FoundMap]:
    """The maps with fixed entries of the programs on a node. Raises OSError."""
    names = asked.entries.get(namespace, {})
    found: dict[str, FoundMap] = {}
    for number in running_programs(namespace, asked.cgroups.get(namespace, ())):
        if len(found) == len(names):
            break
        program = bpf.program_descriptor(number)
        try:
            opened = bpf.maps_of_program(program)
        finally:
            bpf.close_all((program,))
        try:
            for name, descriptor in opened.items():
                if name in names and name not in found:
                    entries = bpf.contents(descriptor)
                    if name == _CONFIG:
                        entries = {key: _untraced(key, value) for key, value in entries.items()}
                    found[name] = FoundMap(id=bpf.map_info(descriptor).id, entries=entries)
        finally:
            bpf.close_all([*opened.values()])
    return found


def _untraced(key: bytes, value: bytes) -> bytes:
    """The node's configuration without what a trace that is under way puts into it."""
    if key != CONFIG_KEY:
        return value
    config = unpack_config(value)
    return pack_config(
        replace(config, flags=config.flags & ~ConfigFlag.TRACE, trace_source=NO_ADDRESS, trace_destination=NO_ADDRESS)
    )


def _processes(asked: Wanted, found: ObservedLab, places: AbstractSet[str]) -> None:
    if places.isdisjoint(asked.daemons) and places != {*found.places}:
        return  # of some namespaces only their daemons matter
    keys = {key: name for name in places if name in found.places and (key := netns.key_of(name)) is not None}
    inside = netns.processes_by_namespace(keys)
    for key, processes in inside.items():
        found.processes[keys[key]] = tuple(
            FoundProcess(pid=one.pid, name=one.name, is_left=one.parent <= 1 or one.parent_name in _INIT)
            for one in processes
        )
    for namespace, (_, start) in asked.daemons.items():
        if namespace not in places:
            continue
        running = {process.name for process in found.processes.get(namespace, ())}
        for daemon in start.daemons:
            if daemon.name in running:
                try:
                    text = running_configuration(namespace, daemon.name)
                except OSError as refused:
                    why = f"{daemon.name} does not say what it goes by: {refused}"
                    found.unread.append(Unread(part=_part(namespace), kind=ObjectKind.CONFIGURATION, why=why))
                    continue
                found.configurations.setdefault(namespace, {})[daemon.name] = text


def _cgroups_beside(asked: Wanted) -> Iterable[str]:
    """The cgroups of the lab that nobody wants, the outermost ones: of a node that is no part of it, or of pods whose
    sockets translate nothing. What a person makes in one that is wanted is not labctl's."""
    top = cgroup_of(asked.lab.name)
    if not cgroups.is_there(top):
        return
    groups = {group for each in asked.cgroups.values() for group in each}
    parents = {group.rpartition("/")[0] for group in groups}
    if not parents:
        yield top
        return
    for node in cgroups.within(top):
        if node not in parents:
            yield node
            continue
        yield from (group for group in cgroups.within(node) if group not in groups)
