"""eBPF programs of a node, the entries of their maps, and what they are attached to: the tc hooks of devices.

By hand, programs and maps have to be pinned to be found again by the next command; `BuildContext` keeps descriptors.
Entries are not read back: those of several maps change while packets go through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from labctl.datapath import bpf, loader
from labctl.model.lab import Encapsulation, HostRouting
from labctl.planning.shell import fed, word
from labctl.providers.netns.kinds.base import (
    BuildContext,
    Kind,
    NamespaceReader,
    Object,
    ObjectKind,
    Thing,
)
from labctl.providers.netns.kinds.link import OnDevice, device_name
from labctl.system import netns, rtnetlink
from labctl.system.netlink import NetlinkError, Request, Socket


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathLoad(Object):
    """Loads the programs and makes the maps of one node."""

    namespace: str
    host_routing: HostRouting
    encapsulation: Encapsulation
    object: Path
    pins: Path

    def shell(self) -> str:
        programs, maps = word(self.pins / "programs"), word(self.pins / "maps")
        return f"mkdir {word(self.pins)}\nbpftool prog loadall {word(self.object)} {programs} pinmaps {maps}"

    def make(self, context: BuildContext) -> None:
        context.datapaths[self.namespace] = loader.load_object(self.object)


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
        yield Thing(self.namespace, ObjectKind.PROGRAM, name, (device_name(self.device),))


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


def _programs(look: NamespaceReader) -> Iterator[str]:
    for link in look.links.values():
        for direction, filters in attached_to(look.channel, link.index).items():
            for found in filters:
                # `tc` names what it attaches by its pin, which is the program's: `to_host:[*fsobj]`.
                program = found.name.partition(":")[0].removesuffix(f"-{link.name}")
                yield _program_name(program, link.name, direction)


PROGRAMS = Kind(name=ObjectKind.PROGRAM, objects=(DatapathLoad, HooksAdd, FilterAttach), read=_programs)
ENTRIES = Kind(name="map entries", objects=(MapsFill, DeviceEntry))
