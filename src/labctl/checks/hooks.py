"""Counts one pair's packets at netfilter's hooks, with rules that match them and do nothing, and reads conntrack.

Argv, rules and parsers, pure. The rules are in the mangle table, which has a chain for each of the five hooks,
whichever of iptables' two kinds (legacy or nft) the node has; each carries a comment that no other rule has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from labctl.errors import MeasureFailed
from labctl.model.interfaces import VXLAN_PORT
from labctl.model.process import Completed
from labctl.model.tools import require_success, said

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_TABLE = "mangle"
_COUNTED = re.compile(r'^\[(?P<packets>\d+):\d+\] -A (?P<hook>[A-Z]+) .*--comment "?(?P<comment>[^" ]+)"?')
_ENTRY = re.compile(r"^(?:ipv4\s+2\s+)?(?P<protocol>[a-z]\w*)\s+\d+\s")
_SHOWN = re.compile(r"(\d+) flow entries have been shown")
_FIELD = re.compile(r"(?P<key>src|dst|sport|dport|id)=(?P<value>\S+)")


class Layer(StrEnum):
    """Which packets a rule counts: the pods' own, or the envelopes between their nodes."""

    INNER = "inner"
    OUTER = "outer"


class Way(StrEnum):
    """From client to server, or back."""

    REQUEST = "request"
    REPLY = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """What is counted on a node: ICMP between two pods, and UDP of VXLAN between their nodes. `mark` is in the comments
    of the rules and nowhere else."""

    mark: str
    client: str
    server: str
    client_node: str
    server_node: str

    def ways(self) -> Mapping[tuple[Layer, Way], str]:
        """The match of each kind of packet."""
        inner, outer = "-s {} -d {} -p icmp", f"-s {{}} -d {{}} -p udp --dport {VXLAN_PORT}"
        ends = {(Layer.INNER, Way.REQUEST): inner.format(self.client, self.server)}
        ends[Layer.INNER, Way.REPLY] = inner.format(self.server, self.client)
        if self.client_node != self.server_node:
            ends[Layer.OUTER, Way.REQUEST] = outer.format(self.client_node, self.server_node)
            ends[Layer.OUTER, Way.REPLY] = outer.format(self.server_node, self.client_node)
        return MappingProxyType(ends)

    def rules(self) -> tuple[str, ...]:
        """Each rule as iptables writes it, after `-I` or `-D`."""
        return tuple(
            f"{hook} {match} -m comment --comment {self.comment(layer, way)}"
            for hook in HOOKS
            for (layer, way), match in self.ways().items()
        )

    def comment(self, layer: Layer, way: Way) -> str:
        return f"{self.mark}-{layer}-{way}"


def argv_change() -> tuple[str, ...]:
    """Takes `insert_rules` or `delete_rules` on standard input; what else there is stays as it is."""
    return ("iptables-restore", "--noflush", "--wait", "5")


def insert_rules(counting: Counting) -> bytes:
    return _change("-I", counting.rules())


def delete_rules(counting: Counting) -> bytes:
    return _change("-D", counting.rules())


def _change(verb: str, rules: Iterable[str]) -> bytes:
    lines = (f"*{_TABLE}", *(f"{verb} {rule}" for rule in rules), "COMMIT", "")
    return "\n".join(lines).encode()


def argv_counters() -> tuple[str, ...]:
    return ("iptables-save", "-c", "-t", _TABLE)


def argv_connections(source: str, destination: str, protocol: str) -> tuple[str, ...]:
    return ("conntrack", "-L", "-s", source, "-d", destination, "-p", protocol)


Counts = Mapping[tuple[Layer, Way], Mapping[str, int]]
"""Packets by kind of packet and hook."""


def parse_counters(text: str, counting: Counting) -> Counts:
    """The counters of `counting`'s rules from `iptables-save -c`. A rule that is not there has no count."""
    names = {counting.comment(layer, way): (layer, way) for layer, way in counting.ways()}
    found: dict[tuple[Layer, Way], dict[str, int]] = {kind: {} for kind in names.values()}
    for line in text.splitlines():
        match = _COUNTED.match(line)
        if match is not None and match["comment"] in names:
            found[names[match["comment"]]][match["hook"]] = int(match["packets"])
    return MappingProxyType({kind: MappingProxyType(counts) for kind, counts in found.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One entry of conntrack, by its first direction. `first` and `second` are ports, or the ICMP id twice."""

    protocol: str
    source: str
    destination: str
    first: str
    second: str
    is_replied: bool

    @property
    def words(self) -> str:
        ports = f" id {self.first}" if self.protocol.startswith("icmp") else f" {self.first} → {self.second}"
        return f"{self.protocol} {self.source} → {self.destination}{ports}{'' if self.is_replied else ' [UNREPLIED]'}"


def parse_connections(text: str) -> tuple[Connection, ...]:
    """From `conntrack -L` (conntrack-tools 1.4; the closing line about how many were shown is on stderr)."""
    found = []
    for line in text.splitlines():
        entry = _ENTRY.match(line.strip())
        if entry is None:
            continue
        fields: dict[str, str] = {}
        for field in _FIELD.finditer(line):
            fields.setdefault(field["key"], field["value"])
        found.append(
            Connection(
                protocol=entry["protocol"],
                source=fields.get("src", ""),
                destination=fields.get("dst", ""),
                first=fields.get("sport", fields.get("id", "")),
                second=fields.get("dport", fields.get("id", "")),
                is_replied="[UNREPLIED]" not in line,
            )
        )
    return tuple(found)


def read_connections(completed: Completed, node: str) -> tuple[Connection, ...]:
    """What `conntrack -L` listed on a node. Raises MeasureFailed when it failed, for an entry that cannot be read, and
    when it does not say itself how many it has shown: no entry must not be what a tool made of it."""
    what = f"conntrack on {node} cannot be read"
    text = require_success(completed, what).text
    found = parse_connections(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = _SHOWN.search(completed.error_text)
    if len(found) != len(lines):
        unread = next(line for line in lines if _ENTRY.match(line) is None)
        raise MeasureFailed(what, f"conntrack printed a line that is no entry: {unread[:200]}")
    if shown is None if not found else shown is not None and int(shown[1]) != len(found):
        raise MeasureFailed(what, f"conntrack printed {len(found)} entries, and of their number {said(completed)}")
    return found
