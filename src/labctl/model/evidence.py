"""What a running lab proves about itself, as opposed to what was asked of it: the mode in force, and its evidence.

To that belongs what is attached to the lab's devices and what its maps hold, in words, as it is now. Each provider
fills it with what it has: `netns` from the kernel's objects, real Cilium from what its agent lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from labctl.codec import NULL, OMITTED, Key
from labctl.model.lab import Fallback
from labctl.values import dataclass

UNCLEAR = "unclear"
"""Claimed where one mode was seen and another one too."""


class Silence(StrEnum):
    """Why a witness has no evidence about the mode, where that is not as it should be. Never evidence against."""

    LOST = "lost"
    """The known packets did not come through; the finding says where they were last seen."""
    UNREAD = "unread"
    """It could not be read; the finding has the error and its number."""
    ABSENT = "absent"
    """What it would read is not there: a device, a program, a table."""


class Standing(StrEnum):
    """How it stands with a mode that was asked for. The two outer ones only on positive evidence."""

    IN_FORCE = "in-force"
    NOT_IN_FORCE = "not-in-force"
    NOT_SHOWN = "not-shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that was observed.

    `witness` says what kind it is (`programs`, `signature`, `netfilter`, `conntrack`, `agent-status`, …), `finding` is
    a sentence with the figures, `supports` is false when it shows something else than what was asked, and None when the
    witness has no evidence about it: what was not seen shows nothing. `silence` says why, where something is wrong.
    `command` shows the same by hand. `found` holds the claims that the witness makes about the
    mode (`{"hostRouting": "legacy"}`). A witness that knows why it is so says what mends it (`remedy`).
    """

    witness: str
    where: str
    finding: str
    supports: bool | None
    command: str = ""
    found: Mapping[str, object] | None = None
    remedy: str = ""
    silence: Silence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeInForce:
    """The verdict over all evidence of one lab. `proven` needs at least one witness for and none against, and that the
    known packets came through.

    `reason` is empty when proven; otherwise it says in one sentence which evidence stands against, or why the mode is
    not shown. With a `fallback` that the scenario allows, what is proven is the mode that comes of it.
    """

    lab: str
    asked: Mapping[str, object]
    found: Mapping[str, object]
    evidence: tuple[Evidence, ...]
    proven: bool
    reason: str = ""
    remedy: str = ""
    fallback: Annotated[Fallback | None, OMITTED] = None

    @property
    def standing(self) -> Standing:
        if self.proven:
            return Standing.IN_FORCE
        is_against = any(piece.supports is False for piece in self.evidence)
        return Standing.NOT_IN_FORCE if is_against else Standing.NOT_SHOWN

    @property
    def otherwise(self) -> str:
        """What was found otherwise than asked, in brackets; nothing where no witness says what is."""
        found = [
            f"{key} asked {asked}, found {self.found[key]}"
            for key, asked in self.asked.items()
            if key in self.found and self.found[key] != asked
        ]
        return f" ({'; '.join(found)})" if found else ""

    def aspects(self) -> dict[str, Standing]:
        """How it stands with each thing that was asked for (`hostRouting`, `encapsulation`, …). Where witnesses
        contradict each other, one of them showed another mode."""
        return {
            key: Standing.NOT_SHOWN
            if key not in self.found
            else Standing.IN_FORCE
            if self.found[key] == asked
            else Standing.NOT_IN_FORCE
            for key, asked in self.asked.items()
        }


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
    program_id: Annotated[int, Key("id")]
    tag: Annotated[str, NULL] = ""
    did: tuple[str, ...] = ()
    run_count: Annotated[int | None, Key("runs")] = None
    run_time_ns: int | None = None
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapTable:
    """One map with its entries in words, each row as long as `columns`.

    `meaning` says what the map is for, `command` shows it by hand on this lab, and `cilium_command` is what shows
    the like of it inside Cilium's agent ("" where Cilium has no such list).
    """

    name: str
    map_id: Annotated[int | None, Key("id")] = None
    kind: str
    meaning: str
    max_entries: int | None = None
    command: str
    cilium_command: Annotated[str, NULL] = ""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDatapath:
    """One node: its programs in the order of devices, and its maps. The commands list all of it by hand."""

    node: str
    commands: tuple[str, ...] = ()
    programs: tuple[AttachedProgram, ...]
    maps: tuple[MapTable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathState:
    """Every node of a lab. `counts_runs` says whether the kernel counts the runs of programs now."""

    counts_runs: Annotated[bool, Key("runsCounted")]
    nodes: tuple[NodeDatapath, ...]
