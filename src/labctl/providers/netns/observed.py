"""Observed against wanted: what a lab's plan makes, read back from the kernel, and what of it is not there.

Both sides are the same data, things with the names that `ip`, `tc` and `sysctl` would give them: a plan's objects say
what is wanted, the reader of each kind says what is there. What else a lab has is ignored. Entries of maps are
not read, and neither are rules that a kernel may lack the match for. It stands alone because it needs the plan,
and `labctl list` loads that only where a lab is up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field

from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.names import namespace_of
from labctl.networks.base import WatchedObjects
from labctl.providers.netns.kinds import KINDS
from labctl.providers.netns.kinds.base import Found, NamespaceReader, Object, ObjectKind, Thing
from labctl.providers.netns.plan import plan
from labctl.system import netns
from labctl.system.netlink import Socket
from labctl.values import dataclass

_MOST_READINGS = 20
"""Of a namespace whose devices come and go all the time."""
_READERS = {kind.name: kind.read for kind in KINDS if kind.read is not None}


def wanted(actions: Iterable[Action]) -> Iterator[Thing]:
    """The things that these actions make, in their order. Pure."""
    for action in actions:
        if isinstance(action, Object):
            yield from action.things()


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there of one namespace, by the keys of things. `unread` are the kinds that could not be read: nothing
    can be said of those."""

    found: Mapping[str, Found]
    unread: frozenset[ObjectKind] = field(default_factory=frozenset)

    def has(self, thing: Thing) -> bool:
        if thing.kind in self.unread:
            return True
        found = self.found.get(thing.of)
        return found is not None and found.value == thing.value


def observe(namespace: str, things: Sequence[Thing]) -> Observed | None:
    """Reads every kind that the things are of, again when devices came or went meanwhile. None when the namespace
    cannot be entered."""
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            for _ in range(_MOST_READINGS):
                reader = NamespaceReader(channel, things)
                seen = _read(reader)
                if reader.is_settled():
                    break
    except OSError:
        return None
    return seen


def _read(reader: NamespaceReader) -> Observed:
    found: dict[str, Found] = {}
    unread: set[ObjectKind] = set()
    for kind in {thing.kind: None for thing in reader.things if thing.kind in _READERS}:
        try:
            found.update((one.key, one) for one in _READERS[kind](reader))
        except OSError:
            unread.add(kind)
    return Observed(found, frozenset(unread))


def lacking(lab: Lab, marked: Iterable[str]) -> tuple[str, ...]:
    """What is missing of the lab, in the order of its plan, each as a person would name it. `marked` are the namespaces
    that carry labctl's mark: what is in others is not labctl's."""
    there = frozenset(marked)
    pods = {namespace_of(lab.name, pod.name) for pod in lab.pods}
    by_namespace: dict[str, list[Thing]] = {}
    for thing in wanted(action for step in plan(lab).steps for action in step.actions):
        # The one setting of pods keeps IPv6 out of captures. Where there are a thousand, opening it costs half a
        # millisecond in each, more than all the rest.
        if thing.kind is not ObjectKind.SYSCTL or thing.namespace not in pods:
            by_namespace.setdefault(thing.namespace, []).append(thing)
    seen = {name: observe(name, things) for name, things in by_namespace.items() if name in there}
    return tuple(map(str, missing((thing for things in by_namespace.values() for thing in things), seen)))


def watched(lab: Lab, node: str) -> tuple[WatchedObjects, ...]:
    """What the plan makes in a node and its pods, read back: by kind, in the order of the plan. Raises MeasureFailed
    when the node or a pod is gone."""
    places = {namespace_of(lab.name, part) for part in (node, *(pod.name for pod in lab.pods_on(node)))}
    by_place: dict[str, list[Thing]] = {place: [] for place in places}
    for thing in wanted(action for step in plan(lab).steps for action in step.actions):
        if thing.namespace in places and thing.kind is not ObjectKind.NAMESPACE:
            by_place[thing.namespace].append(thing)
    seen = {place: observe(place, things) for place, things in by_place.items()}
    every = [thing for things in by_place.values() for thing in things]
    found = []
    for kind in dict.fromkeys(thing.kind for thing in every):
        of_kind = [thing for thing in every if thing.kind is kind]
        gone = tuple(str(one) for one in of_kind if (there := seen[one.namespace]) is None or not there.has(one))
        is_unread = any(there is not None and kind in there.unread for there in seen.values())
        why = "could not be read" if is_unread else ""
        found.append(
            WatchedObjects(
                name=f"{kind}es" if kind.endswith("s") else f"{kind}s", count=len(of_kind), missing=gone, unread=why
            )
        )
    return tuple(found)


def missing(things: Iterable[Thing], seen: Mapping[str, Observed | None]) -> Iterator[Thing]:
    """The things that are not there, less those that went with another one that is named. Pure."""
    gone: dict[tuple[str, str], Thing] = {}
    for thing in things:
        found = seen.get(thing.namespace)
        if found is None:
            if thing.kind is ObjectKind.NAMESPACE:
                gone[thing.namespace, thing.name] = thing
        elif thing.kind is not ObjectKind.NAMESPACE and not found.has(thing):
            gone[thing.namespace, thing.name] = thing
    for thing in gone.values():
        explained = any((thing.namespace, need) in gone for need in thing.needs)
        if not explained and all(seen.get(end) is not None for end in thing.ends):
            yield thing
