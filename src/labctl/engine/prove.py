"""Proves which datapath a running lab really has, before any number is taken from it.

Two independent kinds of witness are heard: what the provider can read from the machinery (programs, counters,
netfilter, an agent's status) while known packets go through, and what the packets themselves show at the taps.

Where labctl makes the datapath itself a built lab is the planned one, and `check`, `status` and `compare` prove it.
Real Cilium may have fallen back to another mode silently: there `up` has it proven, too (`arrival`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labctl.checks.base import Check
from labctl.checks.mode import judge_mode
from labctl.engine.events import ModeProven, Observer
from labctl.engine.run_checks import Sinks, run_check
from labctl.errors import NotInForce
from labctl.model.evidence import Evidence, ModeInForce, Standing
from labctl.model.lab import CheckSpec, Lab, Pair, placement_of
from labctl.model.parameters import TcpdumpParameters
from labctl.model.result import CheckResult
from labctl.networks import network_of
from labctl.path.observed import observed_evidence
from labctl.providers.base import OpenLab
from labctl.values import dataclass

TCPDUMP = "tcpdump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """The proof of one lab, and the tcpdump results (with signatures) that it rests on, one per placement."""

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
    for pair in one_pair_a_placement(proving_pairs(lab)):
        seen: list[CheckResult] = []

        def send(pair: Pair = pair, seen: list[CheckResult] = seen) -> None:
            sink = sinks(f"proof-{pair.client}-{pair.destination}")
            seen.append(run_check(checks[TCPDUMP], open_lab, pair, spec, sink, observer))

        evidence.extend(open_lab.testimony(pair, send))
        results.extend(seen)
        network = network_of(lab)
        evidence.extend(
            observed_evidence(result, lab) if lab.cni else network.read_signature(lab, result) for result in seen
        )
    mode = judge_mode(lab.name, lab.asked(), tuple(evidence), tuple(results), lab.fallback)
    observer(ModeProven(proof=mode))
    return Proven(mode=mode, results=tuple(results))


def proving_pairs(lab: Lab) -> tuple[Pair, ...]:
    """The lab's pairs of pods, whose packets tell the modes apart; where it has none, its first pod and each other
    one; where there is one pod, the pairs that it has."""
    between = tuple(pair for pair in lab.pairs if lab.is_between_pods(pair))
    return between or pairs_of_pods(lab) or lab.pairs


def pairs_of_pods(lab: Lab) -> tuple[Pair, ...]:
    """From the first pod to each of the others."""
    first = lab.pods[:1]
    return tuple(
        Pair(client=one.name, server=other.name, placement=placement_of(one.node, (other.node,)))
        for one in first
        for other in lab.pods[1:]
    )


def one_pair_a_placement(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The first pair of each placement, in the order of the scenario."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(str(pair.placement), pair)
    return tuple(first.values())


def refuse_unless_proven(mode: ModeInForce, side: str, *, again: str) -> None:
    """Raises NotInForce that names the side, what was asked, what was found, and the evidence against it, or why the
    mode is not shown.

    `again` is the command that builds the same lab to look at.
    """
    if mode.proven:
        return
    if mode.standing is Standing.NOT_SHOWN:
        what = f"{side}: it is not shown whether the mode that was asked for is in force"
    else:
        what = f"{side}: the mode that was asked for is not in force{mode.otherwise}"
    raise NotInForce(what=what, cause=mode.reason, remedy=again)
