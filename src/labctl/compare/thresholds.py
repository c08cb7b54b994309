"""`--fail-if 'cross-node latency p50 > +5%'`: thresholds on changes, for CI; reads a comparison and prints nothing.

A threshold is crossed when the change's estimate lies beyond it and the interval excludes zero: noise alone must not
break a build. A row that was refused cannot say, which is neither crossed nor held.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from labctl.errors import UsageError
from labctl.model.comparison import ChangeVerdict, CheckMetrics, Comparison, MetricRow
from labctl.model.lab import Placement
from labctl.model.result import Metric
from labctl.units import PERCENT
from labctl.values import dataclass

_FORM = re.compile(
    r"^\s*(?P<name>.+?)\s*(?P<operator>>=|<=|>|<|≥|≤)\s*(?P<number>[+\-−]?\s*\d+(?:\.\d+)?)\s*(?P<unit>%?)\s*$"
)
_EXAMPLE = "--fail-if 'cross-node rtt_p50 > +5%'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """`name` as it was typed; crossed where the change is above (`is_above`) or below `change` (relative)."""

    text: str
    name: str
    is_above: bool
    includes_equal: bool
    change: float

    def is_beyond(self, change: float) -> bool:
        if self.includes_equal and change == self.change:
            return True
        return change > self.change if self.is_above else change < self.change


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a threshold can name: one metric of one check in one placement."""

    check: str
    kind: str
    placement: Placement
    metric: Metric

    @property
    def name(self) -> str:
        return f"{self.placement} {self.metric.name}"


class ThresholdState(StrEnum):
    CROSSED = "crossed"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdJudgement:
    """What became of one threshold on one of the rows that it names."""

    threshold: Threshold
    row: MetricRow
    outcome: ThresholdState


def parse_threshold(text: str) -> Threshold:
    """The threshold that `text` describes. Raises UsageError."""
    match = _FORM.match(text)
    if match is None or not match["unit"]:
        raise UsageError(
            f"--fail-if: cannot read {text!r}",
            "a threshold is a metric, one of > >= < <=, and a relative change in percent",
            f"write it as {_EXAMPLE}",
        )
    number = float(match["number"].replace("−", "-").replace(" ", ""))
    return Threshold(
        text=text.strip(),
        name=match["name"],
        is_above=match["operator"] in (">", ">=", "≥"),
        includes_equal=match["operator"] in (">=", "<=", "≥", "≤"),
        change=number * PERCENT,
    )


def candidates(checks: Iterable[CheckMetrics], placements: Iterable[Placement]) -> tuple[Candidate, ...]:
    """Everything that a comparison of those checks will measure, so that a threshold can be refused before it runs."""
    wanted = tuple(dict.fromkeys(placements))
    return tuple(
        Candidate(check=check.check, kind=check.kind, placement=placement, metric=metric)
        for check in checks
        for metric in check.metrics
        for placement in wanted
    )


def named_by(threshold: Threshold, among: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that the threshold's name means, in any placement unless it names one.

    A family alone (`latency`, `cpu`) means its primary metrics, also where a check has the same name. Else an exact
    metric name wins over the words of check, name and label, and those over the family. Raises UsageError with a
    suggestion when it means none.
    """
    words = _words(threshold.name)
    family = words - {word for candidate in among for word in _words(candidate.placement)}
    of_family = tuple(c for c in among if family == {str(c.metric.family)} and words <= _family_words(c))
    if of_family:
        return tuple(c for c in of_family if c.metric.primary) or of_family
    for vocabulary in (_exact_words, _own_words, _family_words):
        found = tuple(candidate for candidate in among if words <= vocabulary(candidate))
        if found:
            return found
    names = list(dict.fromkeys(candidate.name for candidate in among))
    spelled = {spelling: candidate.name for candidate in among for spelling in _spellings(candidate)}
    close = difflib.get_close_matches(threshold.name.lower(), spelled, n=1, cutoff=0.5)
    raise UsageError(
        f"--fail-if: no metric is called {threshold.name!r}",
        f"this comparison measures: {', '.join(names)}" if names else "this comparison measures nothing",
        f"did you mean '{spelled[close[0]]}'?" if close else "name one of those",
    )


def require_named(texts: Iterable[str], checks: Iterable[CheckMetrics], placements: Iterable[Placement]) -> None:
    """Raises UsageError for a threshold that cannot be read or that names nothing that will be measured."""
    among = candidates(checks, placements)
    for text in texts:
        named_by(parse_threshold(text), among)


def judge(comparisons: Sequence[Comparison], texts: Sequence[str]) -> tuple[tuple[ThresholdJudgement, ...], ...]:
    """Every threshold on every comparison. Raises UsageError for one that cannot be read or names nothing."""
    thresholds = [parse_threshold(text) for text in texts]
    return tuple(judge_thresholds(thresholds, comparison) for comparison in comparisons)


def judge_thresholds(thresholds: Sequence[Threshold], comparison: Comparison) -> tuple[ThresholdJudgement, ...]:
    """Every threshold on every row that it names. Raises UsageError for a name that means no row."""
    return tuple(
        ThresholdJudgement(threshold=threshold, row=row, outcome=_outcome(threshold, row))
        for threshold in thresholds
        for row in _rows_named(threshold, comparison)
    )


def _rows_named(threshold: Threshold, comparison: Comparison) -> Iterable[MetricRow]:
    rows = [
        (
            row,
            Candidate(check=row.check, kind=row.kind, placement=row.placement, metric=row.metric),
        )
        for row in comparison.rows
    ]
    meant = named_by(threshold, [candidate for _, candidate in rows])
    return (row for row, candidate in rows if candidate in meant)


def _outcome(threshold: Threshold, row: MetricRow) -> ThresholdState:
    if row.change is None or row.refusal is not None or row.verdict is ChangeVerdict.REFUSED:
        return ThresholdState.UNKNOWN
    is_real = row.change.low > 0 or row.change.high < 0
    return ThresholdState.CROSSED if is_real and threshold.is_beyond(row.change.estimate) else ThresholdState.HELD


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _exact_words(candidate: Candidate) -> frozenset[str]:
    return frozenset((candidate.metric.name.lower(), *_words(candidate.placement), *_words(candidate.check)))


def _own_words(candidate: Candidate) -> frozenset[str]:
    metric = candidate.metric
    parts = metric.name.lower().split("_")
    return _exact_words(candidate) | _words(metric.label) | _words(candidate.kind) | frozenset(parts)


def _family_words(candidate: Candidate) -> frozenset[str]:
    return _own_words(candidate) | {str(candidate.metric.family)}


def _spellings(candidate: Candidate) -> tuple[str, ...]:
    metric = candidate.metric
    return tuple(
        f"{prefix}{name}".lower()
        for prefix in ("", f"{candidate.placement} ", f"{candidate.placement} {candidate.check} ")
        for name in (metric.name, metric.label, metric.name.replace("_", " "))
    )
