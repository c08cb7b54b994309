"""Comparisons and check results as JSON documents: the command line's contract, to the letter, plus what recomputes it.

Base units throughout. Every run with its samples is in the document, so that a third party can compute the rows again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labctl.codec import Part, Rest, View, viewed
from labctl.compare.thresholds import ThresholdJudgement
from labctl.model.comparison import Caution, Comparison, MetricRow, Side, SideSignature, Stopping
from labctl.model.evidence import Evidence, ModeInForce
from labctl.model.lab import Lab
from labctl.model.result import CheckResult
from labctl.model.signature import Signature
from labctl.report.sentences import caution_text, headline, refusal_text
from labctl.report.words import ENGLISH
from labctl.text import json_bytes

API_VERSION = "labctl/v1"


def comparison_document(comparison: Comparison, judgements: Sequence[ThresholdJudgement] = ()) -> dict[str, object]:
    """The comparison as JSON-ready data. Numbers that are not finite become null."""
    return {"apiVersion": API_VERSION, "kind": "Comparison"} | viewed(
        comparison, {**VIEWS, Comparison: _comparison(judgements)}
    )


def matrix_document(
    comparisons: Sequence[Comparison], judgements: Sequence[Sequence[ThresholdJudgement]] = ()
) -> dict[str, object]:
    """One comparison is its own document; several are a `ComparisonMatrix` that holds each of them whole."""
    of_each = judgements or [()] * len(comparisons)
    documents = [comparison_document(each, judged) for each, judged in zip(comparisons, of_each, strict=True)]
    if len(documents) == 1:
        return documents[0]
    return {
        "apiVersion": API_VERSION,
        "kind": "ComparisonMatrix",
        "headlines": [headline(comparison) for comparison in comparisons],
        "comparisons": documents,
    }


def comparison_json(comparison: Comparison, *, indent: int | None = 2) -> str:
    return dump(comparison_document(comparison), indent=indent)


def check_document(lab: Lab, results: Iterable[CheckResult], modes: Sequence[ModeInForce] = ()) -> dict[str, object]:
    """The results of `labctl check` as JSON-ready data."""
    return {
        "apiVersion": API_VERSION,
        "kind": "CheckReport",
        "lab": lab.name,
        "scenario": lab.scenario,
        "provider": lab.provider,
        "digest": lab.digest,
        "modeInForce": [mode_record(None, mode) for mode in modes],
        "results": [viewed(result, VIEWS) for result in results],
    }


def mode_record(side: str | None, mode: ModeInForce) -> dict[str, object]:
    """One lab's mode in force; with `side` it is an entry of `modeInForce` of a comparison."""
    return ({} if side is None else {"side": side}) | viewed(mode, VIEWS)


def dump(document: object, *, indent: int | None = 2) -> str:
    """One JSON document with a newline at its end. Raises ValueError for numbers that JSON does not know."""
    return json_bytes(document, indent=indent).decode() + "\n"


def _comparison(judgements: Sequence[ThresholdJudgement]) -> tuple[Part, ...]:
    return (
        ("headline", headline),
        ("a", lambda comparison: _side(comparison.a, comparison.origins)),
        ("b", lambda comparison: _side(comparison.b, comparison.origins)),
        "environment",
        "order",
        "seed",
        "rounds",
        "is_paired",
        ("modeInForce", lambda comparison: [mode_record(side, mode) for side, mode in comparison.modes]),
        "rows",
        "signatures",
        ("warnings", lambda comparison: comparison.cautions),
        "noise",
        "stopping",
        ("thresholds", lambda _: [_threshold(judgement) for judgement in judgements]),
        "runs",
    )


def _side(side: Side, origins: Mapping[str, str]) -> dict[str, object]:
    return viewed(side, {}) | {"run": origins.get(side.key)}


def _threshold(judgement: ThresholdJudgement) -> dict[str, object]:
    row = judgement.row
    return {
        "failIf": judgement.threshold.text,
        "check": row.check,
        "placement": row.placement,
        "client": row.client,
        "server": row.server,
        "metric": row.metric.name,
        "outcome": judgement.outcome,
    }


VIEWS: View = {
    Signature: (Rest("hindrances"),),
    SideSignature: (Rest("signature"), ("", lambda seen: seen.signature)),
    CheckResult: (Rest("is_starved"),),
    Evidence: (Rest("remedy"),),
    ModeInForce: (
        Rest("reason", "remedy"),
        ("standing", lambda mode: mode.standing),
        ("aspects", lambda mode: mode.aspects()),
        "reason",
    ),
    MetricRow: (
        "check", "kind", "placement", "client", "server", ("", lambda row: row.metric), "a", "b", "differences",
        "change", "margin", "verdict", ("reason", lambda row: refusal_text(row.refusal, ENGLISH)), "autocorrelation",
        "limit",
    ),
    Stopping: ("until", ("reached", lambda stopping: stopping.is_reached), "half_width", "after", "looks"),
    Caution: ("kind", ("message", lambda caution: caution_text(caution, ENGLISH)), "facts"),
}  # fmt: skip
"""What documents show where it is not just what there is: the rest is as the model declares it."""
