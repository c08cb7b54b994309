"""What a lab is found to have, by namespace: the same kinds of data as `wanted`, read from the machine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from labctl.model.drift import Unread
from labctl.providers.netns.kinds.base import Found
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMap:
    """A map of a node's programs: its id and its entries."""

    id: int
    entries: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRules:
    """The rule sets of a node, as one tool lists them: those that are there, and those of the plan after the same tool
    and kernel had them; `…_tables` are listings of `nft`, by the table's name. `tables` are those that nobody wants,
    with their family (`inet mine`)."""

    wanted: str
    found: str
    wanted_tables: Mapping[str, str] = field(default_factory=dict)
    found_tables: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProcess:
    """A process in a namespace of the lab. One that is `left` alone has no parent that looks after it."""

    pid: int
    name: str
    is_left: bool


@dataclass(slots=True, kw_only=True)
class ObservedLab:
    """Everything that was read. A namespace that is not in `places` is gone; `strangers` have the name of a part of the
    lab and not labctl's mark; `others` have the mark and are no part of what is wanted."""

    places: dict[str, Mapping[str, Found]] = field(default_factory=dict)
    entries: dict[str, dict[str, FoundMap]] = field(default_factory=dict)
    rules: dict[str, FoundRules] = field(default_factory=dict)
    processes: dict[str, tuple[FoundProcess, ...]] = field(default_factory=dict)
    configurations: dict[str, dict[str, str]] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)
    others: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    """Those of the lab that nobody wants."""
    unread: list[Unread] = field(default_factory=list)
