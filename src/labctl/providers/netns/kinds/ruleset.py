"""All of netfilter's rules of a node as a whole: listed by the host's own tools, compared, and put back.

What a rule set looks like once the kernel has it is asked of the same tools: the plan's is loaded into a namespace that
nobody else has, and listed there. The listing is kept until the next boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path

from labctl.codec import json_line, typed
from labctl.errors import StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.model.result import Completed
from labctl.planning.shell import quoted
from labctl.providers.netns.kinds.base import BuildContext, Kind, Object
from labctl.providers.netns.kinds.netfilter import IptablesRestore, NftRestore
from labctl.system import files, netns
from labctl.system.netlink import ALL, NetlinkFamily, Request, Socket, attributes, string
from labctl.values import dataclass

_SAVE = ("iptables-save",)
_TIMEOUT_S = 120.0
_KEPT = netns.RUN_DIRECTORY / "rules"
_GET_TABLES = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_GENMSG = struct.Struct("=BBH")
_TABLE_NAME, _TABLE_FLAGS = 1, 2
_OWNED = 2  # NFT_TABLE_F_OWNER: it goes with the process that made it
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}

RuleSets = tuple[IptablesRestore | NftRestore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesReplace(Object):
    """Puts all of a node's rules back: what the sets do not have goes."""

    namespace: str
    sets: RuleSets

    def shell(self) -> str:
        flushed = quoted(netns.command(self.namespace, ("nft", "flush", "ruleset")))
        return "\n".join((flushed, *(one.shell() for one in self.sets)))

    def make(self, context: BuildContext) -> None:
        for table in self._beside():
            TableDelete(namespace=self.namespace, table=table).make(context)
        for one in self.sets:
            if isinstance(one, NftRestore):
                emptied = f"table ip {one.table} {{}}\ndelete table ip {one.table}\n"
                one = replace(one, rules=emptied + one.rules)
            make, *_ = one.batch()
            make((one,), context)

    def _beside(self) -> tuple[str, ...]:
        """The tables of iptables that none of the sets has."""
        lists = [one for one in self.sets if isinstance(one, IptablesRestore)]
        named = {line[1:] for one in lists for line in one.rules.splitlines() if line.startswith("*")}
        with contextlib.suppress(OSError), netns.entered(netns.path_of(self.namespace)):
            return tuple(
                f"{family} {name}" for family, name in tables() if is_of_iptables(family, name) and name not in named
            )
        return ()


def inside(namespace: str) -> str:
    """The beginning of a command that a person types for a namespace."""
    return quoted(netns.command(namespace, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDelete(Object):
    """Removes a table of nf_tables; `table` is with its family (`inet mine`)."""

    namespace: str
    table: str

    def argv(self) -> tuple[str, ...]:
        return ("nft", "delete", "table", *self.table.split(" ", 1))

    def shell(self) -> str:
        return quoted(netns.command(self.namespace, self.argv()))

    def make(self, context: BuildContext) -> None:
        _run(self.argv(), netns.path_of(self.namespace))


def tables() -> Iterator[tuple[str, str]]:
    """(family, name) of every table of nf_tables, of the namespace that the calling thread is in; less those that go
    with the process that made them. Raises OSError."""
    with Socket(NetlinkFamily.NETFILTER) as channel:
        for body in channel.ask(Request(_GET_TABLES, ALL, _GENMSG.pack(socket.AF_UNSPEC, 0, 0))):
            known = attributes(body, _GENMSG.size)
            if not int.from_bytes(known.get(_TABLE_FLAGS, b""), "big") & _OWNED:
                yield _FAMILIES.get(body[0], str(body[0])), string(known.get(_TABLE_NAME, b""))


def is_of_iptables(family: str, name: str) -> bool:
    """Whether `iptables-save` shows that table."""
    return family == "ip" and name in _BUILT_IN


def listings(namespaces: Sequence[str]) -> dict[str, str]:
    """What iptables-save prints in each, all at the same time. Raises StepFailed."""
    from labctl.system.process import Process  # likewise

    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(Process(_SAVE, namespace=netns.path_of(name)))
            for name in dict.fromkeys(namespaces)
        }
        return {
            name: _output(_SAVE, str(netns.path_of(name)), process.wait(timeout_s=_TIMEOUT_S))
            for name, process in running.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Rules as the host's tools list them: those of iptables, and the tables of `nft` by their names."""

    rules: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)


def as_listed(sets: RuleSets) -> Listed:
    """What the tools list where these sets and nothing else were loaded. Raises LabError."""
    place = _kept(sets)
    with contextlib.suppress(OSError, ValueError, UsageError):
        return typed(Listed, parse_json(files.read_own(place)), where="the rules as they are listed")
    with netns.scratch() as inside:
        for one in sets:
            _load_into(inside, one)
        found = Listed(
            rules=_run(_SAVE, inside),
            tables={one.table: _listed_table(inside, one.table) for one in sets if isinstance(one, NftRestore)},
        )
    with contextlib.suppress(OSError), files.open_private(place.parent) as folder:
        folder.write(place.name, json_line(found))
    return found


def _load_into(inside: Path, one: IptablesRestore | NftRestore) -> None:
    try:
        _run(one.argv(), inside, one.rules)
    except StepFailed:
        if not isinstance(one, IptablesRestore) or not one.optional:
            raise
        _run(one.argv(), inside, one.without_optional())


def listed_tables(namespaces: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """The tables of `nft` of these names, by namespace; one that is not there is empty."""
    return {
        name: {table: _listed_table(netns.path_of(name), table) for table in asked}
        for name, asked in namespaces.items()
    }


def _listed_table(place: Path, table: str) -> str:
    try:
        return _run(("nft", "list", "table", "ip", table), place)
    except StepFailed:
        return ""


def _run(argv: tuple[str, ...], place: Path, text: str = "") -> str:
    from labctl.system.process import Process  # not where a lab is only planned

    with Process(argv, namespace=place, stdin=text.encode()) as process:
        return _output(argv, str(place), process.wait(timeout_s=_TIMEOUT_S))


def _output(argv: tuple[str, ...], place: str, done: Completed) -> str:
    if done.returncode:
        raise StepFailed(
            what=f"{argv[0]} failed in {place}",
            cause=done.error_text.strip() or f"it ended with status {done.returncode}",
            remedy=quoted(("nsenter", f"--net={place}", "--", *argv)),
        )
    return done.text


def _kept(sets: RuleSets) -> Path:
    """By the rules and by the program that lists them."""
    from labctl.system.process import find_program

    program = find_program(_SAVE[0]) or _SAVE[0]
    asked = "\0".join((str(Path(program).resolve()), *(f"{one.argv()}\0{one.rules}" for one in sets)))
    return _KEPT / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"


RULESETS = Kind(name="rule set", objects=(RulesReplace, TableDelete))
