"""Proves which datapath a running lab really has, before any number is taken from it.

Two independent kinds of witness are heard: what the provider can read from the machinery (programs, counters,
netfilter, an agent's status) while known packets go through, and what the packets themselves show at the taps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labctl.checks.base import Check
from labctl.engine.events import ModeProven, Observer
from labctl.engine.inspect import Sinks, run_check
from labctl.errors import NotInForce
from labctl.model.lab import CheckSpec, Pair
from labctl.model.parameters import TcpdumpParameters
from labctl.model.proof import Evidence, ModeInForce
from labctl.model.result import CheckResult, Verdict
from labctl.path.recognise import signature_evidence
from labctl.providers.base import OpenLab

TCPDUMP = "tcpdump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """The proof of one lab, and the tcpdump results (with signatures) that it rests on, one a placement."""

    mode: ModeInForce
    results: tuple[CheckResult, ...]


def prove(checks: Mapping[str, Check], open_lab: OpenLab, sinks: Sinks, observer: Observer) -> Proven:
    """Sends known packets over one pair of every placement and hears all witnesses."""
    lab = open_lab.lab
    spec = next((s for s in lab.checks if s.kind == TCPDUMP), None) or CheckSpec(
        name=TCPDUMP, kind=TCPDUMP, parameters=TcpdumpParameters()
    )
    evidence: list[Evidence] = []
    results: list[CheckResult] = []
    for pair in one_pair_a_placement(lab.pairs):
        seen: list[CheckResult] = []

        def send(pair: Pair = pair, seen: list[CheckResult] = seen) -> None:
            sink = sinks(f"proof-{pair.client}-{pair.server}")
            seen.append(run_check(checks[TCPDUMP], open_lab, pair, spec, sink, observer))

        evidence.extend(open_lab.testimony(pair, send))
        results.extend(seen)
        evidence.extend(signature_evidence(result, lab.datapath) for result in seen)
    mode = judge_mode(lab.name, lab.datapath.asked(), tuple(evidence), tuple(results))
    observer(ModeProven(proof=mode))
    return Proven(mode=mode, results=tuple(results))


def one_pair_a_placement(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The first pair of each placement, in the order of the scenario."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(str(pair.placement), pair)
    return tuple(first.values())


def judge_mode(
    lab: str, asked: Mapping[str, object], evidence: tuple[Evidence, ...], results: tuple[CheckResult, ...]
) -> ModeInForce:
    """Proven when at least one witness supports what was asked, none contradicts it, and every capture was possible.

    Pure. `found` joins what the witnesses claim; where they contradict each other the claim reads `unclear`.
    """
    found: dict[str, object] = {}
    for piece in evidence:
        for key, claim in (piece.found or {}).items():
            found[key] = claim if found.get(key, claim) == claim else "unclear"
    against = [piece for piece in evidence if piece.supports is False]
    unmeasured = [result for result in results if result.verdict is Verdict.ERROR]
    supporting = [piece for piece in evidence if piece.supports]
    reason = ""
    if against:
        reason = "; ".join(dict.fromkeys(f"{piece.where}: {piece.finding}" for piece in against))
    elif unmeasured:
        reason = "; ".join(f"the captures of {r.client} → {r.server} could not be made: {r.reason}" for r in unmeasured)
    elif not supporting:
        reason = "no witness could tell which mode is in force"
    return ModeInForce(
        lab=lab,
        asked=asked,
        found=found,
        evidence=evidence,
        proven=not reason,
        reason=reason,
        remedy=f"labctl status {lab} --evidence" if reason else "",
    )


def refuse_unless_proven(mode: ModeInForce, side: str) -> None:
    """Raises NotInForce that names the side, what was asked, what was found, and the evidence against it."""
    if mode.proven:
        return
    differing = [
        f"{key} asked {asked}, found {mode.found[key]}"
        for key, asked in mode.asked.items()
        if key in mode.found and mode.found[key] != asked
    ]
    raise NotInForce(
        what=f"{side}: the mode that was asked for is not in force"
        + (f" ({'; '.join(differing)})" if differing else ""),
        cause=mode.reason,
        remedy=f"look at it: labctl up {side.split(' ')[-1]}, then {mode.remedy}" if mode.remedy else "",
    )
