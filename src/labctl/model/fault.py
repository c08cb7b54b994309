"""A fault that can be put into a running lab: what it is for a reader, and what putting it in and taking it out does.

Pure data. Which faults there are is `faults/table.py`.
"""

from __future__ import annotations

from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultText:
    """What docs/faults.md and `labctl break LAB` say of a fault. `finds` is the labctl command that finds it, with LAB,
    CLIENT and SERVER for what the reader puts in; `named` is a phrase that this command's output has in it then."""

    name: str
    what: str
    seen: str
    finds: str
    named: str
    repair: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """argv in a part of the lab. `may_fail`: it finds nothing to do where it was done already."""

    part: str
    argv: tuple[str, ...]
    may_fail: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEntry:
    """A value of a map of the node's programs."""

    part: str
    map: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpProgram:
    """A program that drops every packet before anything else sees it, on a device, or none there."""

    part: str
    device: str
    index: int
    is_there: bool


FaultAct = Command | MapEntry | XdpProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSite:
    """Where a fault is put: `where` names it (`node1:eth0`); what breaks it there and what mends it, in order. Mending
    can be repeated, and mends what is half broken. `pair` is a client and a server between which it shows."""

    where: str
    pair: tuple[str, str]
    breaks: tuple[FaultAct, ...]
    mends: tuple[FaultAct, ...]
