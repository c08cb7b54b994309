"""The mode check: the datapath mode that one pair's packets show, against the one that was asked for.

Known packets go through while the provider's witnesses count, and every tap is watched; what they show is judged here,
for this check and for the proof of a whole lab. Where a scenario allows a fallback, what must show is what Cilium falls
back to; both are said. Judging is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.outcome import (
    Judgement,
    Measured,
    RawFiles,
    WithoutFigures,
    finding,
    judge_findings,
    measure,
    unknown,
)
from labctl.checks.server import unfit_unless_pods
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.model.evidence import UNCLEAR, Evidence, ModeInForce, Silence
from labctl.model.lab import Fallback, Lab, Pair
from labctl.model.parameters import ModeParameters, TcpdumpParameters
from labctl.model.result import CheckResult, Finding, Verdict
from labctl.networks import network_of
from labctl.path.observed import observed_evidence
from labctl.path.signature import lost_on_the_way

SIGNATURE = "signature"
HOST_ROUTING = "hostRouting"
_IN_WORDS = {HOST_ROUTING: "host routing", "podNetwork": "pod network"}


def judge_mode(
    lab: str,
    asked: Mapping[str, object],
    evidence: tuple[Evidence, ...],
    results: tuple[CheckResult, ...],
    fallback: Fallback | None = None,
) -> ModeInForce:
    """Proven when at least one witness of host routing supports what was asked, none contradicts any of it, every
    capture was possible, the known packets came through, and nothing of the datapath is missing on their way.

    With `fallback`, the evidence was held against the mode that comes of it: that one is then proven.

    Pure. `found` joins what the witnesses claim; where they contradict each other the claim reads `unclear`. What could
    not be read, was lost or is missing is never held against the mode: then it is not shown. Where nothing was asked no
    witness has to support it, and it is proven when none contradicts another.
    """
    found: dict[str, object] = {}
    for piece in evidence:
        for key, claim in (piece.found or {}).items():
            found[key] = claim if found.get(key, claim) == claim else UNCLEAR
    against = [piece for piece in evidence if piece.supports is False]
    disputed = [key for key, claim in found.items() if claim == UNCLEAR] if not asked else []
    # A capture that was skipped (no tcpdump there) is as little of a proof as one that failed.
    unmeasured = [result for result in results if result.verdict in (Verdict.ERROR, Verdict.SKIP)]
    # A witness of the tunnel alone does not show the host routing.
    first = next(iter(asked), "")
    supporting = [piece for piece in evidence if piece.supports and first in (piece.found or {})]
    lost, absent = _silent(evidence, Silence.LOST), _silent(evidence, Silence.ABSENT)
    reason = ""
    if against:
        reason = "; ".join((_worst(against), *absent))
    elif lost or absent:
        reason = "; ".join((*lost, *absent))
    elif unmeasured:
        reason = "; ".join(f"the captures of {r.client} → {r.server} could not be made: {r.reason}" for r in unmeasured)
    elif disputed:
        reason = f"witnesses contradict each other about {', '.join(disputed)}"
    elif asked and not supporting:
        nobody = f"no witness could show which {_IN_WORDS.get(first, first)} is in force"
        reason = "; ".join((nobody, *_silent(evidence, Silence.UNREAD)))
    return ModeInForce(
        lab=lab,
        asked=asked,
        found=found,
        evidence=evidence,
        proven=not reason,
        reason=reason,
        remedy=_remedy(lab, against, evidence, results if lost else ()) if reason else "",
        fallback=fallback,
    )


def _silent(evidence: Iterable[Evidence], silence: Silence) -> tuple[str, ...]:
    """What is said by the witnesses that are silent for that reason, each thing once."""
    return tuple(dict.fromkeys(f"{one.where}: {one.finding}" for one in evidence if one.silence is silence))


def _worst(against: Sequence[Evidence]) -> str:
    """The strongest piece, and how many more there are: packets before counters, since people can repeat those."""
    first = min(against, key=lambda piece: piece.witness != SIGNATURE)
    others = sorted({f"{piece.where}: {piece.witness}" for piece in against if piece.witness != SIGNATURE})
    also = f" (so say also: {', '.join(others)})" if others and first.witness == SIGNATURE else ""
    knowing = next((piece for piece in against if piece.remedy and piece is not first), None)
    why = f"; {knowing.where}: {knowing.finding}" if knowing else ""
    return f"{first.where}: {first.finding}{also}{why}"


def _remedy(lab: str, against: Sequence[Evidence], evidence: Sequence[Evidence], lost: Iterable[CheckResult]) -> str:
    """What the first witness that knows the cause says; where lost packets went; or where all evidence is shown."""
    if (known := next((piece.remedy for piece in against if piece.remedy), "")) or against:
        return known or f"labctl status {lab}"
    if known := next((piece.remedy for piece in evidence if piece.silence and piece.remedy), ""):
        return known
    ways = (f"labctl trace {lab} {r.client} {r.server}" for r in lost if r.signature and lost_on_the_way(r.signature))
    return next(ways, f"labctl status {lab}")


def judge_aspects(mode: ModeInForce, meant: Mapping[str, object]) -> Iterator[Finding]:
    """Each thing that was asked for: what is in force, and who shows it. `meant` is what should be."""
    for key, asked in mode.asked.items():
        pieces = [piece for piece in mode.evidence if key in (piece.found or {})]
        if not pieces:
            if key == HOST_ROUTING:
                yield unknown(key, sentence=f"asked {_word(asked)}; {mode.reason}", lesson=_LESSONS[key])
            continue
        found, who = mode.found.get(key), ", ".join(dict.fromkeys(piece.witness for piece in pieces))
        sentence = f"asked {_word(asked)}, in force {_word(found)} (by {who})"
        if mode.fallback is not None and asked != meant.get(key):
            sentence += f": {mode.fallback.reason}"
        yield finding(
            key,
            holds=found == meant.get(key),
            sentence=sentence,
            lesson=_LESSONS.get(key, "the agents' own account"),
            command=next((piece.command for piece in pieces if piece.command), "").split(" "),
        )


_LESSONS = {
    HOST_ROUTING: "bpf_redirect_peer leaves the lxc silent towards the pod; bpf_redirect and the stack do not",
    "encapsulation": "between nodes the packets are in an envelope or they are not",
}


def _word(claim: object) -> str:
    return str(claim).lower() if isinstance(claim, bool) else str(claim)


def _evidence_of(lab: Lab, result: CheckResult) -> Evidence:
    """What packets testify; of a network of which nothing is known, what any shows."""
    return observed_evidence(result, lab) if lab.cni else network_of(lab).read_signature(lab, result)


class ModeCheck(WithoutFigures):
    """Asked against in force, of one pair."""

    kind = "mode"
    tools = ("tcpdump", "ping")

    def __init__(self, taps: TcpdumpCheck | None = None) -> None:
        self._taps = taps or TcpdumpCheck()

    def unfit(self, lab: Lab, pair: Pair) -> str:
        return unfit_unless_pods(lab, pair)

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, ModeParameters):
            raise TypeError(f"mode cannot run with {type(parameters).__name__}")
        lab, pair = context.open_lab.lab, context.pair

        def body(raw: RawFiles) -> Measured:
            seen: list[CheckResult] = []

            def send() -> None:
                observed = self._taps.observe(context, raw, TcpdumpParameters(count=parameters.count))
                seen.append(
                    CheckResult(
                        check=context.spec.name,
                        kind=self._taps.kind,
                        client=pair.client,
                        server=pair.server,
                        placement=pair.placement,
                        verdict=Verdict.PASS,
                        reason="",
                        signature=observed,
                    )
                )

            heard = context.open_lab.testimony(pair, send)
            evidence = (*heard, *(_evidence_of(lab, result) for result in seen))
            mode = judge_mode(lab.name, lab.asked(), evidence, tuple(seen), lab.fallback)
            findings = tuple(judge_aspects(mode, lab.meant()))
            judgement = judge_findings(findings)
            if judgement.verdict is Verdict.PASS and not mode.proven:
                judgement = Judgement(verdict=Verdict.ERROR, reason=mode.reason)
            signature = seen[0].signature if seen else None
            return Measured(judgement=judgement, values={}, findings=findings, signature=signature)

        return measure(context, self.metrics(parameters), body)
