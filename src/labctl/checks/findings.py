"""What checks that look at many things have in common: they take no figures, and fail with what does not hold."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.checks.outcome import Judgement, failed, passed
from labctl.model.parameters import CheckParameters
from labctl.model.result import Finding, Metric, Verdict


class WithoutFigures:
    """The half of `Check` that checks have in common which look and measure nothing: no metrics, no hurry."""

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return ()

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None


def finding(name: str, *, holds: bool, sentence: str, lesson: str, command: Sequence[str] = ()) -> Finding:
    """A thing that was seen, and whether it is as it should be."""
    return Finding(
        name=name,
        verdict=Verdict.PASS if holds else Verdict.FAIL,
        sentence=sentence,
        lesson=lesson,
        command=" ".join(command),
    )


def unknown(name: str, *, sentence: str, lesson: str, command: Sequence[str] = ()) -> Finding:
    """A thing that could not be looked at."""
    return Finding(name=name, verdict=Verdict.ERROR, sentence=sentence, lesson=lesson, command=" ".join(command))


def judge_findings(findings: Sequence[Finding]) -> Judgement:
    """Fails with what does not hold, else is an error with what could not be seen."""
    wrong = [one for one in findings if one.verdict is Verdict.FAIL]
    unseen = [one for one in findings if one.verdict is Verdict.ERROR]
    if wrong:
        return failed(_counted(wrong, "does not hold", len(findings)))
    if unseen:
        return Judgement(verdict=Verdict.ERROR, reason=_counted(unseen, "could not be seen", len(findings)))
    return passed(f"all {len(findings)} findings are as they should be")


def _counted(chosen: Sequence[Finding], what: str, total: int) -> str:
    more = "" if len(chosen) == 1 else f" (and {len(chosen) - 1} more of {total})"
    return f"{chosen[0].name} {what}: {chosen[0].sentence}{more}"
