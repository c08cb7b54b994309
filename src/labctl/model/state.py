"""What is attached to a running lab's devices and what its maps hold, in words: as it is now, not as it was asked.

Each provider fills it with what it has: `netns` from the kernel's objects, real Cilium from what its agent lists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedProgram:
    """One program at one hook of one device.

    `attach` says how it hangs there (`tc clsact`, `tcx`), `did` what the program's own counters say that it did with
    packets so far. `run_count` and `run_time_ns` are the kernel's, None while it does not count. `command` shows the
    program by hand.
    """

    device: str
    hook: str
    attach: str
    name: str
    program_id: int
    tag: str = ""
    did: tuple[str, ...] = ()
    run_count: int | None = None
    run_time_ns: int | None = None
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapTable:
    """One map with its entries in words, each row as long as `columns`.

    `meaning` says what the map is for, `command` shows it by hand on this lab, and `cilium_command` is what shows
    the like of it inside Cilium's agent ("" where Cilium has no such list).
    """

    name: str
    meaning: str
    kind: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    command: str
    cilium_command: str = ""
    map_id: int | None = None
    max_entries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDatapath:
    """One node: its programs in the order of devices, and its maps. The commands list all of it by hand."""

    node: str
    programs: tuple[AttachedProgram, ...]
    maps: tuple[MapTable, ...]
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathState:
    """Every node of a lab. `counts_runs` says whether the kernel counts the runs of programs now."""

    nodes: tuple[NodeDatapath, ...]
    counts_runs: bool
