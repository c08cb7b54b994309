"""The acts that put labctl's eBPF programs into a node, as frozen values with the bpftool and tc commands.

By hand, programs and maps have to be pinned to be found again by the next command; `executor` keeps descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from labctl.model.datapath import Encapsulation, HostRouting
from labctl.planning.shell import fed, word
from labctl.providers.netns.actions import Recorded
from labctl.system import netns, rtnetlink
from labctl.system.netlink import Request


class Direction(StrEnum):
    """The side of a device that a program is attached to, as tc calls it."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def hook(self) -> rtnetlink.Hook:
        return rtnetlink.Hook[self.name]


Programs = Callable[[str, str], int]
"""Gives the descriptor of a node's program: (namespace, program)."""


def pins(lab: str) -> Path:
    """Where the script of `plan --shell` mounts a bpffs while it runs. No dots: libbpf makes them underscores."""
    return netns.RUN_DIRECTORY / f"bpf-{lab}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathLoad(Recorded):
    """Loads the programs and makes the maps of one node."""

    namespace: str
    host_routing: HostRouting
    encapsulation: Encapsulation
    object: Path
    pins: Path

    def shell(self) -> str:
        programs, maps = word(self.pins / "programs"), word(self.pins / "maps")
        return f"mkdir {word(self.pins)}\nbpftool prog loadall {word(self.object)} {programs} pinmaps {maps}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsFill(Recorded):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksAdd(Recorded):
    """Gives a device its two tc hooks."""

    namespace: str
    device: str
    index: int

    def shell(self) -> str:
        return f"tc -n {word(self.namespace)} qdisc add dev {word(self.device)} clsact"

    def request(self, descriptor_of: Callable[[str], int]) -> Request:
        return rtnetlink.clsact_add(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterAttach(Recorded):
    """Attaches a program of the node to one side of a device.

    `name` is what `tc filter show` prints, as Cilium's agent gives it; the tc command has no option for it and
    shows the pin's name instead.
    """

    namespace: str
    device: str
    index: int
    direction: Direction
    program: str
    name: str
    pins: Path

    def shell(self) -> str:
        return (
            f"tc -n {word(self.namespace)} filter add dev {word(self.device)} {self.direction} "
            f"prio 1 protocol all bpf direct-action object-pinned {word(self.pins / 'programs' / self.program)}"
        )

    def request_with(self, program_of: Programs) -> Request:
        return rtnetlink.filter_add(
            self.index,
            self.direction.hook,
            program=program_of(self.namespace, self.program),
            name=self.name,
        )
