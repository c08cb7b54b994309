"""Comparisons and check results as JSON documents: the command line's contract, to the letter, plus what recomputes it.

Base units throughout. Every run with its samples is in the document, so that a third party can compute the rows again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from labctl.compare.thresholds import ThresholdJudgement
from labctl.model.comparison import (
    Caution,
    Change,
    Comparison,
    Limit,
    MetricRow,
    RunRecord,
    Side,
    SideSamples,
    Stopping,
)
from labctl.model.evidence import Evidence, ModeInForce
from labctl.model.lab import Lab
from labctl.model.result import CheckResult, Sample
from labctl.path.record import signature_record
from labctl.report.sentences import caution_text, headline, refusal_text
from labctl.report.words import ENGLISH
from labctl.text import json_bytes

API_VERSION = "labctl/v1"


def comparison_document(comparison: Comparison, judgements: Sequence[ThresholdJudgement] = ()) -> dict[str, object]:
    """The comparison as JSON-ready data. Numbers that are not finite become null."""
    environment = comparison.environment
    return {
        "apiVersion": API_VERSION,
        "kind": "Comparison",
        "headline": headline(comparison),
        "a": _side(comparison.a, comparison.origins),
        "b": _side(comparison.b, comparison.origins),
        "environment": {
            "kernel": environment.kernel,
            "cpuModel": environment.cpu_model,
            "cpus": environment.cpus,
            "memoryByte": environment.memory_byte,
            "versions": dict(environment.versions),
            "sysctls": dict(environment.sysctls),
            "settings": dict(environment.settings),
            "pinning": environment.pinning,
        },
        "order": comparison.order,
        "seed": comparison.seed,
        "rounds": comparison.rounds,
        "paired": comparison.is_paired,
        "modeInForce": [mode_record(side, mode) for side, mode in comparison.modes],
        "metrics": [_row(row) for row in comparison.rows],
        "signatures": [
            {
                "side": seen.side,
                "client": seen.client,
                "server": seen.server,
                "asExpected": seen.is_expected,
                "mismatch": seen.mismatch,
                **signature_record(seen.signature),
            }
            for seen in comparison.signatures
        ],
        "warnings": [_caution(caution) for caution in comparison.cautions],
        "noise": [
            {
                "block": reading.block,
                "cpuPressure": _number(reading.cpu_pressure_share),
                "steal": _number(reading.steal_share),
                "neighbours": _number(reading.neighbours_share),
                "frequencyHz": _number(reading.frequency_hz),
            }
            for reading in comparison.noise
        ],
        "stopping": None if comparison.stopping is None else _stopping(comparison.stopping),
        "thresholds": [_threshold(judgement) for judgement in judgements],
        "runs": [_run(run) for run in comparison.runs],
    }


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
        "results": [
            {
                "check": result.check,
                "kind": result.kind,
                "client": result.client,
                "server": result.server,
                "placement": str(result.placement),
                "verdict": str(result.verdict),
                "reason": result.reason,
                "samples": _samples(result.samples),
                "raw": list(result.raw),
                "retried": result.retried or None,
                "signature": None if result.signature is None else signature_record(result.signature),
                "findings": [
                    {
                        "name": finding.name,
                        "verdict": str(finding.verdict),
                        "sentence": finding.sentence,
                        "lesson": finding.lesson,
                        "command": finding.command,
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }


def mode_record(side: str | None, mode: ModeInForce) -> dict[str, object]:
    """One lab's mode in force; with `side` it is an entry of `modeInForce` of a comparison."""
    record: dict[str, object] = {} if side is None else {"side": side}
    record |= {
        "lab": mode.lab,
        "asked": dict(mode.asked),
        "found": dict(mode.found),
        "evidence": [_evidence(evidence) for evidence in mode.evidence],
        "proven": mode.proven,
        "standing": str(mode.standing),
        "aspects": {key: str(standing) for key, standing in mode.aspects().items()},
        "reason": mode.reason,
    }
    return record


def dump(document: object, *, indent: int | None = 2) -> str:
    """One JSON document with a newline at its end. Raises ValueError for numbers that JSON does not know."""
    return json_bytes(document, indent=indent).decode() + "\n"


def _side(side: Side, origins: Mapping[str, str]) -> dict[str, object]:
    return {
        "scenario": side.scenario,
        "key": side.key,
        "lab": side.lab,
        "provider": side.provider,
        "digest": side.digest,
        "datapath": dict(side.datapath),
        "source": side.source,
        "statements": list(side.statements),
        "run": origins.get(side.key),
    }


def _row(row: MetricRow) -> dict[str, object]:
    return {
        "check": row.check,
        "kind": row.kind,
        "placement": str(row.placement),
        "client": row.client,
        "server": row.server,
        "metric": row.metric.name,
        "label": row.metric.label,
        "unit": row.metric.unit,
        "better": str(row.metric.better),
        "family": str(row.metric.family),
        "primary": row.metric.primary,
        "a": _side_samples(row.a),
        "b": _side_samples(row.b),
        "differences": [_number(value) for value in row.differences],
        "change": None if row.change is None else _change(row.change),
        "margin": row.margin,
        "verdict": None if row.verdict is None else str(row.verdict),
        "reason": refusal_text(row.refusal, ENGLISH),
        "autocorrelation": _number(row.autocorrelation),
        "limit": None if row.limit is None else _limit(row.limit),
    }


def _side_samples(side: SideSamples) -> dict[str, object]:
    return {
        "samples": [_number(value) for value in side.samples],
        "median": _number(side.median),
        "blocks": list(side.blocks),
    }


def _change(change: Change) -> dict[str, object]:
    return {
        "estimate": _number(change.estimate),
        "low": _number(change.low),
        "high": _number(change.high),
        "confidence": change.confidence,
        "n": change.n,
        "detectable": _number(change.detectable),
        "pValue": change.p_value,
        "pHolm": change.p_holm,
    }


def _limit(limit: Limit) -> dict[str, object]:
    return {
        "client": limit.client,
        "server": limit.server,
        "a": None if limit.a is None else _change(limit.a),
        "b": None if limit.b is None else _change(limit.b),
    }


def _stopping(stopping: Stopping) -> dict[str, object]:
    return {
        "until": stopping.until,
        "reached": stopping.is_reached,
        "halfWidth": _number(stopping.half_width),
        "after": stopping.after,
        "looks": [{"rounds": look.rounds, "level": look.level} for look in stopping.looks],
    }


def _threshold(judgement: ThresholdJudgement) -> dict[str, object]:
    row = judgement.row
    return {
        "failIf": judgement.threshold.text,
        "check": row.check,
        "placement": str(row.placement),
        "client": row.client,
        "server": row.server,
        "metric": row.metric.name,
        "outcome": str(judgement.outcome),
    }


def _run(run: RunRecord) -> dict[str, object]:
    return {
        "block": run.block,
        "position": run.position,
        "side": run.side,
        "check": run.check,
        "kind": run.kind,
        "client": run.client,
        "server": run.server,
        "placement": str(run.placement),
        "verdict": str(run.verdict),
        "reason": run.reason,
        "startedAt": run.started_at,
        "durationS": _number(run.duration_s),
        "samples": _samples(run.samples),
        "raw": list(run.raw),
        "retried": run.retried or None,
    }


def _samples(samples: Iterable[Sample]) -> list[dict[str, object]]:
    return [{"metric": sample.metric, "value": _number(sample.value), "unit": sample.unit} for sample in samples]


def _evidence(evidence: Evidence) -> dict[str, object]:
    return {
        "witness": evidence.witness,
        "where": evidence.where,
        "finding": evidence.finding,
        "supports": evidence.supports,
        "command": evidence.command,
        "found": None if evidence.found is None else dict(evidence.found),
        "silence": None if evidence.silence is None else str(evidence.silence),
    }


def _caution(caution: Caution) -> dict[str, object]:
    return {"kind": str(caution.kind), "message": caution_text(caution, ENGLISH), "facts": dict(caution.facts)}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
