"""Comparisons, check results and traces as JSON documents: the command line's contract, to the letter. Pure.

Base units throughout, but times of a trace are in ns, since a hop takes microseconds. Every run with its samples is
in a comparison's document, so that a third party can compute the rows again; addresses come with the device that has
them.
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
from labctl.model.trace import Movement, PacketPath, Trace, Unshown
from labctl.report.sentences import caution_text, headline, refusal_text
from labctl.report.trace_words import unshown_words
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
        "explanations",
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


def trace_document(trace: Trace) -> dict[str, object]:
    """`{"apiVersion", "kind": "Trace", "lab", …, "taps", "paths": [{"way", "number", "hops", …}], "signature", …}`."""
    return {"apiVersion": "labctl/v1", "kind": "Trace"} | viewed(trace, _VIEWS)


def _end(pod: str, address: str, node: str) -> dict[str, object]:
    return {"pod": pod, "address": address, "node": node}


_ENDS = ("client", "server", "client_address", "server_address", "client_node", "server_node")
_VIEWS: View = {
    Signature: (Rest("hindrances"),),
    Evidence: ("witness", "where", "finding", "command"),
    Movement: (Rest("packet"),),
    PacketPath: (
        "way", "number", "what", "arrived", ("sent", lambda path: path.is_sent), "lost", "lost_tap", "hops",
        "skipped", "after",
    ),
    Unshown: (Rest(), ("sentence", unshown_words)),
    Trace: (
        "lab",
        "scenario",
        "provider",
        "statement",
        ("client", lambda trace: _end(trace.client, trace.client_address, trace.client_node)),
        ("server", lambda trace: _end(trace.server, trace.server_address, trace.server_node)),
        Rest("lab", "scenario", "provider", "statement", *_ENDS),
    ),
}  # fmt: skip
