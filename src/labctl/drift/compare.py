"""What differs between what is wanted of a lab and what is there, each with what would mend it. Pure.

What went with something else that is gone (the routes of a device) is not named beside it, but is mended with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace

from labctl.drift.frr_lines import commands, configuration_differences
from labctl.drift.observed import FoundRules, ObservedLab
from labctl.drift.rule_lines import differences, first_difference, parse_blocks, parse_listing
from labctl.drift.wanted import Wanted, WantedThing
from labctl.model.drift import Change, Difference, Drift
from labctl.model.lab import Lab
from labctl.names import MARK, UNDERLAY, split_namespace
from labctl.planning.shell import quoted
from labctl.providers.netns.kinds.base import Found, Object, ObjectKind, Thing
from labctl.providers.netns.kinds.cgroup import CgroupDelete
from labctl.providers.netns.kinds.daemon import FrrConfigure, FrrRestart, ProcessEnd
from labctl.providers.netns.kinds.delay import PROCESS
from labctl.providers.netns.kinds.link import TunnelAdd
from labctl.providers.netns.kinds.namespace import NamespaceDrop
from labctl.providers.netns.kinds.program import EntriesDelete, MapsFill, entry_words
from labctl.providers.netns.kinds.routing import KERNELS, LEARNED, TunnelEntryDelete
from labctl.providers.netns.kinds.ruleset import RulesReplace, TableDelete, inside
from labctl.values import dataclass

_CANNOT_CHANGE = {
    "index": "the kernel gives a device its index when it is made",
    "type": "the kernel sets these of a device when it is made",
    "peer": "the other end of a veth is given when the pair is made",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A difference and its repair: actions of the plan to carry out again (by number), objects that set what is wanted,
    and objects that remove what is there. `remade` is the device or namespace (namespace, key) that the repair makes
    again. One that is `explained` follows from another one, and is not listed."""

    difference: Difference
    namespace: str
    key: str
    makes: tuple[int, ...] = ()
    mends: tuple[Object, ...] = ()
    removes: tuple[Object, ...] = ()
    remade: tuple[str, str] | None = None
    is_explained: bool = False


@dataclass(slots=True)
class _Naming:
    """What one comparison needs to name things."""

    wanted: Wanted
    deltas: list[Delta] = field(default_factory=list)

    def part(self, namespace: str) -> str:
        split = split_namespace(namespace)
        return split[1] if split else namespace

    def add(
        self,
        change: Change,
        namespace: str,
        kind: ObjectKind,
        name: str,
        *,
        key: str = "",
        wanted: str = "",
        found: str = "",
        command: str = "",
        why: str = "",
        makes: tuple[int, ...] = (),
        mends: Sequence[Object] = (),
        removes: Sequence[Object] = (),
        remade: tuple[str, str] | None = None,
        is_explained: bool = False,
    ) -> None:
        part = self.part(namespace)
        self.deltas.append(
            Delta(
                difference=Difference(
                    change=change,
                    part=part,
                    kind=str(kind),
                    name=name,
                    wanted=wanted,
                    found=found,
                    key=scenario_key(self.wanted.lab, part, kind, name),
                    command=command,
                    why=why,
                ),
                namespace=namespace,
                key=key or name,
                makes=makes,
                mends=tuple(mends),
                removes=tuple(removes),
                remade=remade,
                is_explained=is_explained,
            )
        )


def compare(wanted: Wanted, observed: ObservedLab, only: Collection[str] | None = None) -> tuple[Delta, ...]:
    """In the order of the plan; what is extra comes last in each namespace. With `only` of these namespaces alone,
    whatever the others have."""
    naming = _Naming(wanted)
    for namespace in wanted.namespaces if only is None else (one for one in wanted.namespaces if one in only):
        if namespace in observed.places:
            _things(naming, namespace, observed.places[namespace])
        elif namespace in observed.strangers:
            _stranger(naming, namespace)
        else:
            _gone(naming, namespace)
        if namespace in observed.rules:
            _rules(naming, namespace, observed.rules[namespace])
        if namespace in wanted.loads:
            _entries(naming, namespace, observed)
        _daemons(naming, namespace, observed)
    for namespace in observed.others:
        drop = NamespaceDrop(namespace=namespace)
        naming.add(
            Change.EXTRA, namespace, ObjectKind.NAMESPACE, "namespace", command=drop.shell().replace("\n", "; "),
            removes=(drop,),
        )  # fmt: skip
    for cgroup in observed.cgroups:
        delete = CgroupDelete(cgroup=cgroup)
        where = wanted.namespaces[0]
        naming.add(
            Change.EXTRA, where, ObjectKind.CGROUP, f"cgroup {cgroup}", command=delete.shell(), removes=(delete,)
        )
    return tuple(_explained(wanted, observed, naming.deltas))


def drift_of(wanted: Wanted, observed: ObservedLab, deltas: Iterable[Delta], *, scenario: str = "") -> Drift:
    """The difference as a person sees it."""
    return Drift(
        lab=wanted.lab.name,
        provider=wanted.lab.provider,
        scenario=scenario,
        differences=tuple(delta.difference for delta in deltas if not delta.is_explained),
        unread=tuple(observed.unread),
    )


def _gone(naming: _Naming, namespace: str) -> None:
    """A namespace that is not there: all that is made in it has to be made."""
    wanted = naming.wanted
    made = {one.action for one in wanted.things[namespace].values()}
    made |= {number for number, _ in wanted.rules.get(namespace, ())}
    if namespace in wanted.daemons:
        made.add(wanted.daemons[namespace][0])
    naming.add(
        Change.MISSING,
        namespace,
        ObjectKind.NAMESPACE,
        "namespace",
        command=f"labctl reset {wanted.lab.name} {naming.part(namespace)}",
        makes=tuple(sorted(made)),
        remade=(namespace, ""),
    )


def _stranger(naming: _Naming, namespace: str) -> None:
    naming.add(
        Change.CHANGED,
        namespace,
        ObjectKind.NAMESPACE,
        "namespace",
        wanted="labctl's, by the mark on its loopback device",
        found="without that mark: labctl leaves it alone",
        command=f"ip netns delete {namespace}",
    )


def _things(naming: _Naming, namespace: str, found: Mapping[str, Found]) -> None:
    asked = naming.wanted.things[namespace]
    for key, one in asked.items():
        if not key:  # the namespace itself
            continue
        there = found.get(key)
        if there is None:
            if not one.thing.may_be_absent:
                _missing(naming, namespace, one, found)
        elif there.value != one.thing.value:
            _changed(naming, namespace, one, there)
    for key, there in found.items():
        if there.remove is not None and key not in asked:
            remove = there.remove()
            kind, value = _kind_of(key), there.value
            if isinstance(remove, TunnelEntryDelete) and (namespace, remove.device) in naming.wanted.learned:
                continue
            naming.add(Change.EXTRA, namespace, kind, key, found=value, command=remove.shell(), removes=(remove,))


_FIRST_WORDS = {
    "device": ObjectKind.DEVICE,
    "XDP": ObjectKind.PROGRAM,
    "address": ObjectKind.ADDRESS,
    "route": ObjectKind.ROUTE,
    "rule": ObjectKind.POLICY_RULE,
    "neighbour": ObjectKind.NEIGHBOUR,
    "tunnel": ObjectKind.TUNNEL,
    "qdisc": ObjectKind.QDISC,
    "filter": ObjectKind.PROGRAM,
    "impairment": ObjectKind.IMPAIRMENT,
    "program": ObjectKind.PROGRAM,
    "sysctl": ObjectKind.SYSCTL,
}


def _kind_of(key: str) -> ObjectKind:
    if key.startswith("program") and " on cgroup " in key:
        return ObjectKind.CGROUP
    return _FIRST_WORDS[key.partition(" ")[0]]


def _missing(naming: _Naming, namespace: str, one: WantedThing, found: Mapping[str, Found]) -> None:
    thing, action = one.thing, naming.wanted.actions[one.action]
    if _is_device(thing):
        naming.add(
            Change.MISSING, namespace, thing.kind, thing.name, key=thing.of, command=action.shell(),
            makes=(one.action,), remade=(namespace, thing.of),
        )  # fmt: skip
        return
    if thing.kind is ObjectKind.TUNNEL and isinstance(action, TunnelAdd):
        naming.add(
            Change.MISSING, namespace, thing.kind, thing.name, makes=(one.action,), remade=(namespace, thing.needs[0]),
            command=f"labctl reset {naming.wanted.lab.name} {naming.part(namespace)}",
            why="the kernel adds it when the device is made",
        )  # fmt: skip
        return
    if thing.of.startswith(LEARNED):
        _unlearned(naming, namespace, one)
        return
    mends: Sequence[Object] = ()
    makes: tuple[int, ...] = (one.action,)
    asked = naming.wanted.things[namespace]
    if thing.of.endswith(KERNELS):
        # The kernel adds it with its address and when the device is taken up: it is replaced where both are in order.
        makes = ()
        mends = thing.mend() if thing.mend and all(_is_so(asked, found, need) for need in thing.needs) else ()
    elif thing.mend is not None and thing.kind in (ObjectKind.DEVICE, ObjectKind.SYSCTL):
        # A device that is gone gets its properties when it is made again.
        devices = (need for need in thing.needs if need.startswith("device ") and not need.endswith(" up"))
        mends = thing.mend() if all(need in found for need in devices) else ()
    command = _command(naming, namespace, thing, mends[0] if mends else action)
    naming.add(
        Change.MISSING, namespace, thing.kind, thing.name, key=thing.of, command=command, mends=mends,
        makes=() if mends else makes,
    )  # fmt: skip


def _is_so(asked: Mapping[str, WantedThing], found: Mapping[str, Found], need: str) -> bool:
    """Whether what a thing needs is there as it is wanted."""
    key = f"{need.removesuffix(' up')} state" if need.endswith(" up") else need
    there = found.get(key)
    return there is not None and (key not in asked or there.value == asked[key].thing.value)


def _unlearned(naming: _Naming, namespace: str, one: WantedThing) -> None:
    """A route that the daemons do not know, or that was taken out of the kernel behind their back: they put it there
    again when they start."""
    _, start = naming.wanted.daemons.get(namespace, (-1, None))
    mends = (FrrRestart(namespace=namespace, daemons=start.daemons),) if start is not None else ()
    naming.add(
        Change.MISSING, namespace, ObjectKind.ROUTE, one.thing.name, mends=mends,
        command=f"labctl reset {naming.wanted.lab.name} {naming.part(namespace)}",
    )  # fmt: skip


def _changed(naming: _Naming, namespace: str, one: WantedThing, there: Found) -> None:
    thing, action = one.thing, naming.wanted.actions[one.action]
    if thing.kind is ObjectKind.NAMESPACE:
        # The mark says which scenario the lab was made from; another scenario has another one.
        mends = thing.mend() if thing.mend else ()
        naming.add(
            Change.CHANGED, namespace, thing.kind, thing.key, wanted=thing.value, found=there.value, mends=mends,
            is_explained=there.value.partition(" ")[0] == MARK,
        )  # fmt: skip
        return
    if thing.mend is not None:
        mends = thing.mend()
        naming.add(
            Change.CHANGED, namespace, thing.kind, thing.of, wanted=thing.value, found=there.value, mends=mends,
            command=_command(naming, namespace, thing, mends[0]),
        )  # fmt: skip
        return
    if thing.kind is ObjectKind.DEVICE:
        device, what = thing.needs[0], thing.of.rpartition(" ")[2]
        naming.add(
            Change.CHANGED, namespace, thing.kind, thing.of, wanted=thing.value, found=there.value,
            makes=(one.action,), command=action.shell(), remade=(namespace, device), why=_CANNOT_CHANGE[what],
        )  # fmt: skip
        return
    removes = (there.remove(),) if there.remove is not None else ()
    naming.add(
        Change.CHANGED, namespace, thing.kind, thing.of, wanted=thing.value, found=there.value, removes=removes,
        makes=(one.action,), command=_command(naming, namespace, thing, action, *removes),
    )  # fmt: skip


def _is_device(thing: Thing) -> bool:
    return thing.kind is ObjectKind.DEVICE and not thing.value


def _command(naming: _Naming, namespace: str, thing: Thing, makes: Object, *removes: Object) -> str:
    """Programs are handed over by descriptors: what a person can type for them is labctl's own command."""
    if thing.kind in (ObjectKind.PROGRAM, ObjectKind.CGROUP, ObjectKind.IMPAIRMENT):
        return f"labctl reset {naming.wanted.lab.name} {naming.part(namespace)}"
    return "; ".join(one.shell().replace("\n", "; ") for one in (*removes, makes))


def _rules(naming: _Naming, namespace: str, rules: FoundRules) -> None:
    asked = naming.wanted.rules.get(namespace, [])
    whole = RulesReplace(namespace=namespace, sets=tuple(one for _, one in asked))
    for one in differences(parse_listing(rules.wanted), parse_listing(rules.found)):
        by_hand = "; ".join(f"{inside(namespace)} {quoted(argv)}" for argv in one.commands)
        naming.add(
            one.change, namespace, ObjectKind.RULE, one.name, wanted=one.wanted, found=one.found, mends=(whole,),
            command=by_hand or whole.shell(),
        )  # fmt: skip
    for table, text in rules.wanted_tables.items():
        asked_blocks, there = parse_blocks(text), parse_blocks(rules.found_tables.get(table, ""))
        for block in dict.fromkeys((*asked_blocks, *there)):
            if asked_blocks.get(block) == there.get(block):
                continue
            change = Change.MISSING if block not in there else Change.CHANGED if block in asked_blocks else Change.EXTRA
            line, other = first_difference(asked_blocks.get(block, ()), there.get(block, ()))
            naming.add(
                change, namespace, ObjectKind.CHAIN, f"{block} of table {table}", wanted=line, found=other,
                mends=(whole,), command=f"labctl reset {naming.wanted.lab.name} {naming.part(namespace)}",
            )  # fmt: skip
    for table in rules.tables:
        delete = TableDelete(namespace=namespace, table=table)
        naming.add(
            Change.EXTRA, namespace, ObjectKind.CHAIN, f"nft table {table}", command=delete.shell(), removes=(delete,)
        )


def _entries(naming: _Naming, namespace: str, observed: ObservedLab) -> None:
    found = observed.entries.get(namespace, {})
    for name, asked in naming.wanted.entries.get(namespace, {}).items():
        there = found.get(name)
        entries = there.entries if there is not None else {}
        if len(entries) == len(asked) and all(
            (value := entries.get(key)) is not None and value[: len(one.value)] == one.value
            for key, one in asked.items()
        ):
            continue
        update = f"bpftool map update id {there.id}" if there is not None else f"bpftool map update name {name}"
        for key, one in asked.items():
            value, shown = entries.get(key), f"map {name} key {key.hex(' ')}"
            if value is not None and value[: len(one.value)] == one.value:
                continue
            is_filled = isinstance(naming.wanted.actions[one.action], MapsFill)
            fill = MapsFill(
                namespace=namespace, map=name, entries=((key, one.value),), pins=naming.wanted.loads[namespace].pins
            )
            meant, is_so = entry_words(name, one.value, value)
            naming.add(
                Change.MISSING if value is None else Change.CHANGED, namespace, ObjectKind.ENTRY, shown,
                wanted=meant, found=is_so,
                command=f"{update} key hex {key.hex(' ')} value hex {one.value.hex(' ')}",
                mends=(fill,) if is_filled else (), makes=() if is_filled else (one.action,),
                is_explained=there is None,
            )  # fmt: skip
        for key, value in entries.items():
            if key not in asked:
                delete = EntriesDelete(namespace=namespace, map=name, keys=(key,))
                naming.add(
                    Change.EXTRA, namespace, ObjectKind.ENTRY, f"map {name} key {key.hex(' ')}", found=value.hex(" "),
                    command=f"bpftool map delete id {there.id if there else 0} key hex {key.hex(' ')}",
                    removes=(delete,),
                )  # fmt: skip


def _daemons(naming: _Naming, namespace: str, observed: ObservedLab) -> None:
    """The routing daemons that are wanted, what they go by, and processes that nobody looks after."""
    number, start = naming.wanted.daemons.get(namespace, (-1, None))
    running = {process.name: process for process in observed.processes.get(namespace, ())}
    asked = {daemon.name for daemon in start.daemons} if start is not None else set()
    if start is not None and namespace in observed.places:
        restart = FrrRestart(namespace=namespace, daemons=start.daemons)
        for daemon in start.daemons:
            if daemon.name not in running:
                naming.add(
                    Change.MISSING, namespace, ObjectKind.DAEMON, f"daemon {daemon.name}", mends=(restart,),
                    command=start.by_hand(daemon),
                )  # fmt: skip
                continue
            text = observed.configurations.get(namespace, {}).get(daemon.name)
            if text is not None:
                lacking, beside = configuration_differences(daemon.configuration, text)
                _statements(naming, namespace, daemon.name, lacking, beside)
    del number
    for process in observed.processes.get(namespace, ()):
        if process.is_left and process.name not in asked and not PROCESS.fullmatch(process.name):
            end = ProcessEnd(namespace=namespace, pid=process.pid, name=process.name)
            naming.add(
                Change.EXTRA, namespace, ObjectKind.PROCESS, f"process {process.name} ({process.pid})",
                command=end.shell(), removes=(end,),
            )  # fmt: skip


def _statements(naming: _Naming, namespace: str, daemon: str, lacking: list[str], beside: list[str]) -> None:
    for change, these in ((Change.MISSING, lacking), (Change.EXTRA, beside)):
        for statement in these:
            lines = tuple(commands([statement], []) if change is Change.MISSING else commands([], [statement]))
            told = FrrConfigure(namespace=namespace, daemon=daemon, commands=lines)
            naming.add(
                change, namespace, ObjectKind.CONFIGURATION, f"{daemon}: {statement}", command=told.shell(),
                mends=(told,),
            )  # fmt: skip


def _explained(wanted: Wanted, observed: ObservedLab, deltas: list[Delta]) -> Iterator[Delta]:
    """Marks what went with another one that is named: with its device, its hooks, or the other end's namespace."""
    gone = {(delta.namespace, delta.key) for delta in deltas if delta.difference.change is not Change.EXTRA}
    others = _other_devices(deltas)
    gone |= set(others)
    # What needs a device that is up is gone with one that is down.
    gone |= {(place, f"{key.removesuffix(' state')} up") for place, key in gone if key.endswith(" state")}
    bare = {
        (delta.namespace, wanted.things[delta.namespace][delta.key].thing.needs)
        for delta in deltas
        if delta.difference.kind == ObjectKind.ADDRESS and delta.difference.change is Change.MISSING
    }
    ends: dict[int, Delta] = {}
    for delta in deltas:
        if delta.remade is not None and delta.remade[1] and delta.difference.change is Change.MISSING:
            ends[delta.makes[0]] = delta
    ends.update((other.makes[0], other) for other in others.values())
    for delta in deltas:
        if delta.difference.kind == ObjectKind.DEVICE and delta.difference.change is Change.CHANGED:
            own = (delta.namespace, wanted.things[delta.namespace][delta.key].thing.needs[0])
            yield replace(delta, is_explained=delta.is_explained or others.get(own, delta) is not delta)
            continue
        if delta.is_explained or delta.difference.change is not Change.MISSING:
            yield delta
            continue
        one = wanted.things.get(delta.namespace, {}).get(delta.key)
        is_explained = one is not None and (
            any((delta.namespace, need) in gone for need in one.thing.needs)
            or (
                any(end not in observed.places for end in one.thing.ends) and one.thing.kind is not ObjectKind.NAMESPACE
            )
        )
        if not is_explained and delta.difference.kind == ObjectKind.ENTRY and delta.makes:
            # The kernel removes an entry with the device that it names.
            action = wanted.actions[delta.makes[0]]
            place, device = getattr(action, "namespace", ""), getattr(action, "device", "")
            is_explained = (place, f"device {device}") in gone or place not in observed.places
        if one is not None and one.thing.kind is ObjectKind.ROUTE:
            # With the last address of a device the kernel removes its routes, with any address those from it.
            is_explained = is_explained or (delta.namespace, one.thing.needs[:1]) in bare
        # Of a pair, the end that is further out stands for both.
        is_explained = is_explained or (delta.remade is not None and ends.get(delta.makes[0], delta) is not delta)
        yield replace(delta, is_explained=is_explained)


_OTHER_DEVICE = ("type", "peer", "index")
"""What makes a device another one, the plainest first."""


def _other_devices(deltas: Iterable[Delta]) -> dict[tuple[str, str], Delta]:
    """By namespace and key the devices that have the name of one of the plan and are others: the one difference that
    stands for all that such a device has not."""
    found: dict[tuple[str, str], Delta] = {}
    for delta in deltas:
        if delta.remade is None or delta.difference.change is not Change.CHANGED or not delta.remade[1]:
            continue
        before, what = found.get(delta.remade), delta.key.rpartition(" ")[2]
        if before is None or _OTHER_DEVICE.index(what) < _OTHER_DEVICE.index(before.key.rpartition(" ")[2]):
            found[delta.remade] = delta
    return found


_OF_SERVICES = ("services", "backends", "alive")


def scenario_key(lab: Lab, part: str, kind: ObjectKind, name: str) -> str:
    """The path of that key, dotted (`pods.client`, `datapath.hostRouting`)."""
    match kind:
        case ObjectKind.PROGRAM:
            return "datapath.hostRouting"
        case ObjectKind.IMPAIRMENT:
            return "impairments"
        case ObjectKind.CGROUP:
            return "datapath.socketLB"
        case ObjectKind.ENTRY:
            return "services" if name.split()[1] in _OF_SERVICES else "datapath"
        case ObjectKind.RULE | ObjectKind.CHAIN:
            return _of_rules(lab, name)
        case ObjectKind.DAEMON | ObjectKind.CONFIGURATION:
            return "fabric.routing" if lab.fabric.learns else "podNetwork"
        case ObjectKind.DEVICE if name.endswith(" mtu"):
            return "network.mtu"
        case _:
            return _of_part(lab, part)


def _of_rules(lab: Lab, name: str) -> str:
    if "KUBE-" in name or "kube-proxy" in name:
        return "datapath.kubeProxy" if not lab.in_force.kube_proxy_replacement else "datapath"
    return "datapath.masquerade" if "asquerade" in name else "podNetwork"


def _of_part(lab: Lab, part: str) -> str:
    if any(pod.name == part for pod in lab.pods):
        return f"pods.{part}"
    if any(node.name == part for node in lab.nodes):
        return f"nodes.{part}"
    if any(host.name == part for host in lab.outside):
        return f"outside.{part}"
    return "fabric" if part == UNDERLAY or lab.is_router(part) else ""
