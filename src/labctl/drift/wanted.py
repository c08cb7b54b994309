"""What a plan makes, by namespace, as it can be read back: things, entries of maps, rule sets, daemons. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import PurePath

from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.providers.netns.kinds.base import Object, ObjectKind, Thing
from labctl.providers.netns.kinds.cgroup import CgroupAdd, SocketAttach
from labctl.providers.netns.kinds.daemon import FrrStart, TunnelsAwait
from labctl.providers.netns.kinds.impairment import QueueAdd
from labctl.providers.netns.kinds.link import TunnelAdd
from labctl.providers.netns.kinds.namespace import RecordWrite
from labctl.providers.netns.kinds.netfilter import IptablesRestore, NftRestore
from labctl.providers.netns.kinds.program import DatapathLoad, DeviceEntry, FilterAttach, MapsFill
from labctl.providers.netns.kinds.routing import flooding_to
from labctl.values import dataclass

Tags = Mapping[PurePath, Mapping[str, str]]
"""Of each object the tags of its programs, by their names."""
_ELSEWHERE = frozenset({ObjectKind.RULE, ObjectKind.CHAIN, ObjectKind.DAEMON})
"""Kinds whose things are compared as a whole, not by the readers of a namespace."""


@dataclass(frozen=True, slots=True)
class WantedThing:
    """A thing, and the number of the action that makes it."""

    thing: Thing
    action: int


@dataclass(frozen=True, slots=True)
class WantedEntry:
    """The value of a key of a map, and the number of the action that puts it there."""

    value: bytes
    action: int


@dataclass(slots=True, kw_only=True)
class Wanted:
    """Everything that a lab's plan makes. `actions` are in the plan's order; all the rest is by namespace."""

    lab: Lab
    actions: tuple[Object, ...]
    things: dict[str, dict[str, WantedThing]] = field(default_factory=dict)
    entries: dict[str, dict[str, dict[bytes, WantedEntry]]] = field(default_factory=dict)
    loads: dict[str, DatapathLoad] = field(default_factory=dict)
    cgroups: dict[str, list[str]] = field(default_factory=dict)
    rules: dict[str, list[tuple[int, IptablesRestore | NftRestore]]] = field(default_factory=dict)
    daemons: dict[str, tuple[int, FrrStart]] = field(default_factory=dict)
    learned: set[tuple[str, str]] = field(default_factory=set)
    """Vxlan devices (namespace, device) that a routing daemon tells where to flood to."""
    record: RecordWrite | None = None

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(self.things)

    def of(self, namespace: str) -> Iterator[Thing]:
        return (one.thing for one in self.things[namespace].values())


def wanted_of(lab: Lab, actions: Iterable[Action], tags: Tags, *, has_netem: bool = True) -> Wanted:
    """What these actions make. `tags` are those of every object that they load; `has_netem`: this kernel delays packets
    itself."""
    every = tuple(action for action in actions if isinstance(action, Object))
    found = Wanted(lab=lab, actions=every)
    for number, action in enumerate(every):
        details = action.queues(has_netem=has_netem) if isinstance(action, QueueAdd) else action.details()
        for thing in (*action.things(), *details):
            if thing.kind not in _ELSEWHERE:
                found.things.setdefault(thing.namespace, {})[thing.of] = WantedThing(thing, number)
        match action:
            case DatapathLoad():
                found.loads[action.namespace] = action
                for name in action.fixed:
                    found.entries.setdefault(action.namespace, {}).setdefault(name, {})
            case MapsFill():
                of_map = found.entries.setdefault(action.namespace, {}).setdefault(action.map, {})
                of_map.update((key, WantedEntry(value, number)) for key, value in action.entries)
            case DeviceEntry():
                of_map = found.entries.setdefault(action.holder, {}).setdefault(action.map, {})
                of_map[action.key] = WantedEntry(action.index.to_bytes(4, "little"), number)
            case FilterAttach() | SocketAttach():
                tag = tags[found.loads[action.namespace].object][action.program]
                thing = action.with_tag(tag)
                found.things[action.namespace][thing.of] = WantedThing(thing, number)
            case CgroupAdd():
                found.cgroups.setdefault(action.namespace, []).append(action.cgroup)
            case IptablesRestore() | NftRestore():
                found.rules.setdefault(action.namespace, []).append((number, action))
            case FrrStart():
                found.daemons[action.namespace] = (number, action)
            case TunnelAdd() if action.tunnel.remote is not None:
                thing = flooding_to(action.namespace, action.device.name, action.tunnel.remote)
                found.things[action.namespace][thing.of] = WantedThing(thing, number)
            case TunnelsAwait():
                found.learned.add((action.namespace, action.device))
            case RecordWrite():
                found.record = action
            case _:
                pass
    return found


def objects_of(actions: Iterable[Action]) -> tuple[PurePath, ...]:
    """The eBPF objects that these actions load, each once."""
    return tuple(dict.fromkeys(action.object for action in actions if isinstance(action, DatapathLoad)))
