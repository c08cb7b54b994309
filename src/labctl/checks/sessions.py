"""The checks `bgp` and `ospf`: whether every routing daemon of the lab talks to its neighbours, as FRR's shell says.

Parsing and judging are pure; the forms are FRR 8 to 10's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure
from labctl.errors import MeasureFailed
from labctl.fabrics.frr import speaks
from labctl.json_text import parse_json
from labctl.model.fabric import Routing
from labctl.model.lab import Lab, Pair
from labctl.model.result import CheckResult, Finding
from labctl.model.tools import require_output
from labctl.values import dataclass

_TIMEOUT_S = 20.0
_ESTABLISHED = "Established"
ARGV = {
    Routing.BGP: ("vtysh", "-c", "show bgp summary json"),
    Routing.OSPF: ("vtysh", "-c", "show ip ospf neighbor json"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One neighbour: its address, the state that FRR names, and the prefixes that came from it (None: not told)."""

    peer: str
    state: str
    is_up: bool
    prefixes: int | None = None


def parse_bgp(text: str) -> tuple[Session, ...]:
    """`show bgp summary json`: peers by address family; one that is up in any of them is up. Raises MeasureFailed."""
    found: dict[str, Session] = {}
    for family in _objects(text).values():
        peers = family.get("peers") if isinstance(family, Mapping) else None
        for peer, said in (peers or {}).items():
            state = str(said.get("state", "?"))
            session = Session(
                peer=peer, state=state, is_up=state == _ESTABLISHED, prefixes=int(said.get("pfxRcd", 0) or 0)
            )
            if peer not in found or session.is_up:
                found[peer] = session
    return tuple(found.values())


def parse_ospf(text: str) -> tuple[Session, ...]:
    """`show ip ospf neighbor json`: neighbours by router id, a list of adjacencies each. Raises MeasureFailed."""
    neighbours = _objects(text).get("neighbors", _objects(text))
    if not isinstance(neighbours, Mapping):
        raise MeasureFailed("the output of vtysh cannot be read", text.strip()[:200])
    found = []
    for peer, adjacencies in neighbours.items():
        for said in adjacencies if isinstance(adjacencies, list) else [adjacencies]:
            if not isinstance(said, Mapping):
                raise MeasureFailed("the output of vtysh cannot be read", f"neighbor {peer}: it is no object")
            state = str(said.get("nbrState") or said.get("state") or "?")
            found.append(Session(peer=peer, state=state, is_up=state.startswith("Full")))
    return tuple(found)


def _objects(text: str) -> dict[str, Any]:
    try:
        document = parse_json(text)
    except ValueError as failed:
        raise MeasureFailed("the output of vtysh cannot be read", text.strip()[:200]) from failed
    if not isinstance(document, dict):
        raise MeasureFailed("the output of vtysh cannot be read", "it is no object")
    return document


def judge_sessions(
    part: str, protocol: Routing, sessions: Sequence[Session], expected: int, command: Sequence[str]
) -> Finding:
    """As many neighbours as there are, all of them up. Pure."""
    up = [session for session in sessions if session.is_up]
    down = ", ".join(f"{session.peer} is {session.state}" for session in sessions if not session.is_up)
    prefixes = [session.prefixes for session in up if session.prefixes is not None]
    told = f", {sum(prefixes)} prefixes received" if prefixes else ""
    sentence = f"{part} talks {protocol} with {len(up)} of {expected} neighbours{told}{f'; {down}' if down else ''}"
    return finding(
        f"{protocol} {part}",
        holds=len(up) == expected and not down,
        sentence=sentence,
        lesson="A neighbour that is not up tells nothing, and is told nothing: its routes are missing everywhere.",
        command=command,
    )


class SessionsCheck(WithoutFigures):
    """One protocol's sessions, on every router and node that speaks it."""

    tools = ("vtysh",)

    def __init__(self, protocol: Routing) -> None:
        self._protocol = protocol

    @property
    def kind(self) -> str:
        return str(self._protocol)

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return "" if speaks(lab, self._protocol) else f"nothing in this lab speaks {self._protocol}"

    def run(self, context: CheckContext) -> CheckResult:
        def body(raw: RawFiles) -> Measured:
            findings = tuple(self._look(context, raw))
            return Measured(judgement=judge_findings(findings), values={}, findings=findings)

        return measure(context, self.metrics(context.spec.parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles) -> Iterator[Finding]:
        parse, argv = (parse_bgp if self._protocol is Routing.BGP else parse_ospf), ARGV[self._protocol]
        for part, neighbours in speaks(context.open_lab.lab, self._protocol).items():
            target = context.open_lab.target(part)
            done = raw.save_completed(f"sessions-{part}", target.run(argv, timeout_s=_TIMEOUT_S))
            text = require_output(done, f"vtysh failed on {part}")
            command = ("labctl", "exec", context.open_lab.lab.name, part, "--", shlex.join(argv))
            yield judge_sessions(part, self._protocol, parse(text), neighbours, command)
