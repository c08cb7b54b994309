"""eBPF programs of a node, the entries of their maps, and what they are attached to: the tc hooks of devices.

By hand, programs and maps have to be pinned to be found again by the next command; `BuildContext` keeps descriptors.
Which maps hold nothing but what labctl put there, a load says (`fixed`): entries of others change while packets go
through.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

from labctl.codec import json_line, typed
from labctl.datapath import bpf, loader
from labctl.datapath.layout import CONFIG, unpack_config
from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.model.lab import Encapsulation, HostRouting
from labctl.planning.shell import fed, word
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    Object,
    ObjectKind,
    Thing,
    failed,
    replacement,
)
from labctl.providers.netns.kinds.link import OnDevice, device_name
from labctl.system import cgroups, files, netns, rtnetlink, rtnetlink_changes, rtnetlink_readings
from labctl.system.netlink import NetlinkError, Request, Socket
from labctl.values import dataclass

IMPAIR, IMPAIR_QUEUE = "impair", 0x1AB0000
"""The program and the handle of the queue of an impairment, which is a kind of its own (`impairment`)."""
_ROOT, _CLSACT = 0xFFFFFFFF, 0xFFFFFFF1
"""Parents of qdiscs: the device itself, and its two hooks."""


class Direction(StrEnum):
    """The side of a device that a program is attached to, as tc calls it."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def hook(self) -> rtnetlink.Hook:
        return rtnetlink.Hook[self.name]


def pins(lab: str) -> Path:
    """Where the script of `plan --shell` mounts a bpffs while it runs. No dots: libbpf makes them underscores."""
    return netns.RUN_DIRECTORY / f"bpf-{lab}"


CONFIG_MAP = "config"
_CONFIG_WORDS = {"pod_cidr": "native routing CIDR", "flags": "flags", "node_address": "node address"}


def entry_words(name: str, wanted: bytes, found: bytes | None) -> tuple[str, str]:
    """Both values of an entry of that map: of the node's configuration what differs of it, of any other the bytes."""
    if name == CONFIG_MAP and found is not None and len(found) == len(wanted) == CONFIG.size:
        both = unpack_config(wanted), unpack_config(found)
        differing = [field for field in _CONFIG_WORDS if len({getattr(one, field) for one in both}) > 1]
        if differing:
            said = [", ".join(f"{_CONFIG_WORDS[field]} {getattr(one, field):}" for field in differing) for one in both]
            return said[0], said[1]
    return wanted.hex(" "), "" if found is None else found.hex(" ")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathLoad(Object):
    """Loads the programs and makes the maps of one node. The maps that are `fixed` have the plan's entries and no
    others as long as the lab is up."""

    namespace: str
    host_routing: HostRouting
    encapsulation: Encapsulation
    object: Path
    pins: Path
    fixed: tuple[str, ...] = ()

    def shell(self) -> str:
        programs, maps = word(self.pins / "programs"), word(self.pins / "maps")
        return f"mkdir {word(self.pins)}\nbpftool prog loadall {word(self.object)} {programs} pinmaps {maps}"

    def make(self, context: BuildContext) -> None:
        loaded = loader.load_object(self.object)
        context.datapaths[self.namespace] = loaded
        remember_tags(self.object, {name: bpf.program_info(one).tag for name, one in loaded.programs.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsFill(Object):
    """Entries (key, value) of one map of one node."""

    namespace: str
    map: str
    entries: tuple[tuple[bytes, bytes], ...]
    pins: Path

    def shell(self) -> str:
        lines = "".join(
            f"map update pinned {self.pins}/maps/{self.map} key hex {key.hex(' ')} value hex {value.hex(' ')}\n"
            for key, value in self.entries
        )
        return fed("bpftool batch file - >/dev/null", lines, end="ENTRIES")

    def make(self, context: BuildContext) -> None:
        bpf.update(context.datapaths[self.namespace].maps[self.map], self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesDelete(Object):
    """Removes entries of one map of one node, by their keys."""

    namespace: str
    map: str
    keys: tuple[bytes, ...]

    def shell(self) -> str:
        place = word(f"--net={netns.path_of(self.namespace)}")
        return "\n".join(
            f"nsenter {place} bpftool map delete name {word(self.map)} key hex {key.hex(' ')}" for key in self.keys
        )

    def make(self, context: BuildContext) -> None:
        for key in self.keys:
            bpf.delete(context.datapaths[self.namespace].maps[self.map], key)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry(Object):
    """An entry of a map of devices (`BPF_MAP_TYPE_DEVMAP_HASH`) of one node, `holder`: this device, which may be on
    another. The kernel removes the entry when the device is gone."""

    namespace: str
    device: str
    index: int
    holder: str
    map: str
    key: bytes
    pins: Path

    @property
    def _value(self) -> bytes:
        return self.index.to_bytes(4, "little")

    def shell(self) -> str:
        place = word(f"--net={netns.path_of(self.namespace)}")
        pinned = word(self.pins / "maps" / self.map)
        entry = f"key hex {self.key.hex(' ')} value hex {self._value.hex(' ')}"
        return f"nsenter {place} bpftool map update pinned {pinned} {entry}"

    def make(self, context: BuildContext) -> None:
        with netns.entered(context.namespaces.descriptor(self.namespace)):
            bpf.update(context.datapaths[self.holder].maps[self.map], ((self.key, self._value),))


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksAdd(OnDevice):
    """Gives a device its two tc hooks."""

    def shell(self) -> str:
        return f"tc -n {word(self.namespace)} qdisc add dev {word(self.device)} clsact"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.clsact_add(self.index)

    def details(self) -> Iterator[Thing]:
        yield Thing(self.namespace, ObjectKind.QDISC, hooks_name(self.device), (device_name(self.device),))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterAttach(OnDevice):
    """Attaches a program of the node to one side of a device.

    `name` is what `tc filter show` prints; the tc command has no option for it and shows the pin's name instead.
    """

    direction: Direction
    program: str
    name: str
    pins: Path

    def shell(self) -> str:
        return (
            f"tc -n {word(self.namespace)} filter add dev {word(self.device)} {self.direction} "
            f"prio 1 protocol all bpf direct-action object-pinned {word(self.pins / 'programs' / self.program)}"
        )

    def request(self, context: BuildContext) -> Request:
        program = context.datapaths[self.namespace].programs[self.program]
        return rtnetlink.filter_add(self.index, self.direction.hook, program=program, name=self.name)

    def things(self) -> Iterator[Thing]:
        name = _program_name(self.program, self.device, self.direction)
        needs = (device_name(self.device), hooks_name(self.device))
        yield Thing(self.namespace, ObjectKind.PROGRAM, name, needs)

    def with_tag(self, tag: str) -> Thing:
        """The digest that the program's instructions must have."""
        name = _program_name(self.program, self.device, self.direction)
        needs = (device_name(self.device), name)
        key = f"{name} tag"
        return Thing(self.namespace, ObjectKind.PROGRAM, f"{key} {tag}", needs, (), key, tag, self.mends)

    def in_place(self) -> FilterReplace:
        return replacement(self, FilterReplace)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterReplace(FilterAttach):
    """The program in place of the one that is attached there: no packet finds none."""

    def shell(self) -> str:
        return FilterAttach.shell(self).replace(" filter add ", " filter replace ", 1)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.replacing(FilterAttach.request(self, context))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterDelete(OnDevice):
    """Takes a filter off one side of a device. `info` is its priority and protocol, as the kernel lists them."""

    direction: Direction
    kind: str
    info: int
    handle: int

    def shell(self) -> str:
        handle = f"handle {self.handle:#x} " if self.handle else ""
        what = f"pref {self.info >> 16} {handle}{word(self.kind)}"
        return f"tc -n {word(self.namespace)} filter delete dev {word(self.device)} {self.direction} {what}"

    def batch(self) -> Batch:
        return (_remove_all, self.namespace)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.filter_delete(self.index, self.direction.hook, info=self.info, handle=self.handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class QdiscDelete(OnDevice):
    """Removes a queueing discipline, and with it its classes and filters."""

    kind: str
    parent: int

    def shell(self) -> str:
        return f"tc -n {word(self.namespace)} qdisc delete dev {word(self.device)} {_place(self.kind, self.parent)}"

    def batch(self) -> Batch:
        return (_remove_all, self.namespace)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.qdisc_delete(self.index, parent=self.parent)


def _remove_all(objects: Sequence[FilterDelete | QdiscDelete], context: BuildContext) -> None:
    """What is gone already, with its hooks or its device, is no error."""
    for one in objects:
        try:
            context.namespaces.channel(one.namespace).send([one.request(context)])
        except NetlinkError as refused:
            if refused.errno not in rtnetlink.NO_HOOKS:
                raise failed(one, refused) from refused


def _place(kind: str, parent: int) -> str:
    if kind in ("clsact", "ingress"):
        return kind
    return "root" if parent == _ROOT else f"parent {parent >> 16:x}:{parent & 0xFFFF:x}"


def hooks_name(device: str) -> str:
    return f"qdisc clsact dev {device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathReopen(Object):
    """Opens the programs and maps of a node that is up, for what is put on it next: those that run are taken as they
    are, and those of `programs` that do not run, or are others, are loaded beside them, on the same maps."""

    load: DatapathLoad
    cgroups: tuple[str, ...]
    programs: tuple[str, ...]

    def shell(self) -> str:
        names = ", ".join(self.programs)
        return self.load.shell() + (f"  # for {names}, on the maps that are there" if names else "")

    def make(self, context: BuildContext) -> None:
        context.datapaths[self.load.namespace] = reopened(self.load, self.cgroups, self.programs)


def reopened(load: DatapathLoad, groups: Sequence[str], needed: Sequence[str]) -> loader.LoadedDatapath:
    """As `DatapathReopen` says. Raises OSError, LabError. The caller closes it."""
    wanted = tags_of(load.object)
    programs: dict[str, int] = {}
    maps: dict[str, int] = {}
    try:
        for number in running_programs(load.namespace, groups):
            descriptor = bpf.program_descriptor(number)
            try:
                info = bpf.program_info(descriptor)
                for name, tag in wanted.items():
                    if tag == info.tag and name[:15] == info.name and name not in programs:
                        programs[name] = os.dup(descriptor)
                for name, opened in bpf.maps_of_program(descriptor).items():
                    if name in maps:
                        os.close(opened)
                    else:
                        maps[name] = opened
            finally:
                os.close(descriptor)
        missing = [name for name in needed if name not in programs]
        if missing or not maps:
            loaded = loader.load_object(load.object, only=missing if maps else None, reuse=maps)
            for name, descriptor in loaded.programs.items():
                if name in programs:
                    os.close(programs[name])
                programs[name] = descriptor
            bpf.close_all([*maps.values()])
            maps = dict(loaded.maps)
    except BaseException:
        bpf.close_all([*programs.values(), *maps.values()])
        raise
    return loader.LoadedDatapath(path=load.object, programs=programs, maps=maps)


def running_programs(namespace: str, groups: Sequence[str]) -> tuple[int, ...]:
    """The ids of the programs on a node's devices and cgroups, each once. Raises OSError."""
    found: dict[int, None] = {}
    with netns.entered(netns.path_of(namespace)), Socket() as channel:
        for link in [rtnetlink.parse_link(answer) for answer in channel.ask(rtnetlink.all_links())]:
            for filters in attached_to(channel, link.index).values():
                found.update(dict.fromkeys(one.program_id for one in filters))
    for group in groups:
        if cgroups.is_there(group):
            with cgroups.opened(group) as descriptor:
                for hook in bpf.CgroupHook:
                    found.update(dict.fromkeys(bpf.attached_to_cgroup(descriptor, hook)))
    return tuple(found)


_TAGS = netns.RUN_DIRECTORY / "tags"


def _tags_file(path: Path) -> Path:
    return _TAGS / f"{files.digest_of(path)}.json"


def remember_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Keeps what the kernel called the programs of an object: to ask again takes as long as to load it. Until the next
    boot, since another kernel may have other tags."""
    place = _tags_file(path)
    if not place.exists():
        with contextlib.suppress(OSError), files.open_private(place.parent) as folder:
            folder.write(place.name, json_line(dict(tags)))


def tags_of(path: Path) -> dict[str, str]:
    """The tag of each program of an object, by its name. Raises LabError where it has to be loaded for that and cannot
    be."""
    with contextlib.suppress(OSError, ValueError, UsageError):
        return typed(dict[str, str], parse_json(files.read_own(_tags_file(path))), where="the tags of programs")
    with loader.load_object(path) as loaded:
        tags = {name: bpf.program_info(one).tag for name, one in loaded.programs.items()}
    remember_tags(path, tags)
    return tags


def attached_to(channel: Socket, index: int) -> Mapping[Direction, tuple[rtnetlink.Filter, ...]]:
    """The eBPF programs on each side of a device that has tc hooks, in the namespace of the channel. Raises OSError."""
    found: dict[Direction, tuple[rtnetlink.Filter, ...]] = {}
    for direction in Direction:
        try:
            answers = [*map(rtnetlink.parse_filter, channel.ask(rtnetlink.filters_of(index, direction.hook)))]
        except NetlinkError as refused:
            if refused.errno not in rtnetlink.NO_HOOKS:
                raise
            continue
        found[direction] = tuple(answer for answer in answers if answer is not None)
    return found


def _program_name(program: str, device: str, direction: Direction) -> str:
    return f"program {program} on {device} {direction}"


def _programs(look: NamespaceReader) -> Iterator[Found]:
    if look.closely:
        yield from _every_filter(look)
        return
    for link in look.links.values():
        for direction, filters in attached_to(look.channel, link.index).items():
            for found in filters:
                yield Found(_program_name(_function(found.name, link.name), link.name, direction))


def _function(name: str, device: str) -> str:
    """Of a filter's name. `tc` names what it attaches by its pin, which is the program's: `to_host:[*fsobj]`."""
    return name.partition(":")[0].removesuffix(f"-{device}")


def _every_filter(look: NamespaceReader) -> Iterator[Found]:
    for qdisc in _qdiscs_of(look):
        if qdisc.kind not in ("clsact", "ingress") or not (device := look.device(qdisc.index)):
            continue
        for direction in Direction:
            for one in look.filters(qdisc.index, direction.hook):
                if one.kind == "bpf" and one.name.partition(":")[0] == IMPAIR:
                    continue
                remove = partial(
                    FilterDelete,
                    namespace=look.namespace,
                    device=device,
                    index=qdisc.index,
                    direction=direction,
                    kind=one.kind,
                    info=one.info,
                    handle=one.handle if one.kind == "bpf" else 0,  # else all that make up that one
                )
                place = "" if (one.priority, one.handle) == (1, 1) else f" pref {one.priority}"
                if one.kind != "bpf":
                    yield Found(f"filter {one.kind} on {device} {direction}{place}", "", remove)
                    continue
                key = _program_name(_function(one.name, device), device, direction) + place
                yield Found(key, "", remove)
                yield Found(f"{key} tag", one.tag)


def _qdiscs_of(look: NamespaceReader) -> Sequence[rtnetlink_readings.Qdisc]:
    """Those that somebody made, less those of impairments."""
    return [qdisc for qdisc in look.qdiscs if qdisc.handle != IMPAIR_QUEUE]


def _qdiscs(look: NamespaceReader) -> Iterator[Found]:
    """The outermost of each device: what is within one goes with it."""
    if not look.closely:
        return
    for qdisc in _qdiscs_of(look):
        if (device := look.device(qdisc.index)) and qdisc.parent in (_ROOT, _CLSACT):
            place = "" if qdisc.parent == _CLSACT else " root"
            remove = partial(
                QdiscDelete,
                namespace=look.namespace,
                device=device,
                index=qdisc.index,
                kind=qdisc.kind,
                parent=qdisc.parent,
            )
            yield Found(f"qdisc {qdisc.kind} dev {device}{place}", "", remove)


PROGRAMS = Kind(
    name=ObjectKind.PROGRAM,
    objects=(DatapathLoad, DatapathReopen, FilterAttach, FilterReplace, FilterDelete),
    read=_programs,
)
QDISCS = Kind(name=ObjectKind.QDISC, objects=(HooksAdd, QdiscDelete), read=_qdiscs)
ENTRIES = Kind(name=ObjectKind.ENTRY, objects=(MapsFill, DeviceEntry, EntriesDelete))
