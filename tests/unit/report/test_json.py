"""The JSON document against the contract of the command line, name by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from comparison_example import example_comparison, example_runs, example_schedule, example_with_parts
from labctl.compare.statistics import log_ratios, paired_estimate, relative
from labctl.model.result import Sample, Verdict
from labctl.report.json import comparison_document, comparison_json, dump

NUMBER_OR_NULL = {"type": ["number", "null"]}
SEEN = {
    "type": ["object", "null"],
    "required": ["packets", "ttl", "srcMac", "dstMac"],
    "properties": {
        "packets": {"type": "integer"},
        "ttl": {"type": "integer"},
        "outer": {"type": "object", "required": ["src", "dstPort", "ttl", "vni", "srcMac", "dstMac"]},
    },
}
SIDE = {"type": "object", "required": ["scenario"], "properties": {"scenario": {"type": "string"}}}
SAMPLES = {
    "type": "object",
    "required": ["samples", "median"],
    "properties": {"samples": {"type": "array", "items": NUMBER_OR_NULL}, "median": NUMBER_OR_NULL},
}
CHANGE = {
    "type": ["object", "null"],
    "required": ["estimate", "low", "high", "confidence", "n", "detectable"],
    "properties": {"n": {"type": "integer"}, "confidence": {"type": "number"}, "detectable": NUMBER_OR_NULL},
}
DIFFERENCE = {
    "type": ["object", "null"],
    "required": ["estimate", "low", "high", "confidence", "n"],
    "properties": {name: {"type": "number"} for name in ("estimate", "low", "high", "confidence")},
}
EXPLANATION = {
    "type": "object",
    "required": [
        "check", "placement", "client", "server", "metric", "unit", "difference", "parts", "explained", "rest",
        "reason",
    ],
    "properties": {
        "difference": DIFFERENCE,
        "explained": DIFFERENCE,
        "rest": DIFFERENCE,
        "reason": {"type": ["string", "null"]},
        "parts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["part", "a", "b", "difference"],
                "properties": {
                    "part": {"enum": ["netfilter", "stack", "devices", "tunnel", "wire", "ends"]},
                    "a": {"type": "number"},
                    "b": {"type": "number"},
                    "difference": DIFFERENCE,
                },
            },
        },
    },
}  # fmt: skip
WORDS = ["faster", "slower", "cheaper", "dearer", "negligible", "same", "undetected", "refused"]
CONTRACT: dict[str, Any] = {
    "type": "object",
    "required": [
        "apiVersion", "kind", "a", "b", "environment", "order", "seed", "modeInForce", "metrics", "signatures",
        "explanations",
    ],
    "properties": {
        "explanations": {"type": "array", "items": EXPLANATION},
        "apiVersion": {"const": "labctl/v1"},
        "kind": {"const": "Comparison"},
        "a": SIDE,
        "b": SIDE,
        "environment": {"type": "object"},
        "order": {"type": "string"},
        "seed": {"type": "integer"},
        "modeInForce": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["side", "asked", "found", "evidence", "proven"],
                "properties": {
                    "side": {"enum": ["a", "b"]},
                    "asked": {"type": "object"},
                    "found": {"type": "object"},
                    "evidence": {"type": "array", "minItems": 1},
                    "proven": {"type": "boolean"},
                },
            },
        },
        "metrics": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    "check", "placement", "metric", "unit", "better", "primary", "a", "b", "change", "verdict",
                ],
                "properties": {
                    "placement": {"enum": ["same-node", "cross-node"]},
                    "better": {"enum": ["lower", "higher"]},
                    "primary": {"type": "boolean"},
                    "a": SAMPLES,
                    "b": SAMPLES,
                    "change": CHANGE,
                    "verdict": {"enum": [*WORDS, None]},
                },
                "if": {"properties": {"primary": {"const": True}}},
                "then": {"properties": {"verdict": {"enum": WORDS}}},
                "else": {"properties": {"verdict": {"const": None}}},
            },
        },
        "signatures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["side", "placement", "encapsulation", "taps"],
                "properties": {
                    "side": {"enum": ["a", "b"]},
                    "encapsulation": {"enum": ["vxlan", "native"]},
                    "taps": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["tap", "role", "request", "reply"],
                            "properties": {"request": SEEN, "reply": SEEN},
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("rounds", [1, 5, 10])
def test_the_document_keeps_the_contract(rounds: int) -> None:
    document = json.loads(comparison_json(example_comparison(rounds=rounds)))
    jsonschema.Draft202012Validator(CONTRACT).validate(document)


def test_explanations_keep_the_contract_with_and_without_parts() -> None:
    why = "the taps could not be put on"
    runs = tuple(replace(run, unparted=why) for run in example_runs(example_schedule()))
    for comparison, reasons in ((example_with_parts(), {None}), (example_comparison(runs=runs), {why})):
        document = json.loads(comparison_json(comparison))
        jsonschema.Draft202012Validator(CONTRACT).validate(document)
        assert {each["reason"] for each in document["explanations"]} == reasons


def test_a_refused_comparison_keeps_the_contract_too() -> None:
    document = json.loads(comparison_json(example_comparison(proven=False)))
    jsonschema.Draft202012Validator(CONTRACT).validate(document)
    assert [mode["proven"] for mode in document["modeInForce"]] == [True, False]
    judged = [row for row in document["metrics"] if row["primary"]]
    assert {row["verdict"] for row in judged} == {"refused"}
    assert judged[0]["reason"] == "the mode in force of bpf-native is not proven: the programs say legacy"


def test_the_contract_would_catch_a_missing_name_and_a_wrong_word() -> None:
    document = json.loads(comparison_json(example_comparison()))
    validator = jsonschema.Draft202012Validator(CONTRACT)
    renamed = json.loads(json.dumps(document).replace('"modeInForce"', '"mode_in_force"'))
    assert list(validator.iter_errors(renamed))
    document["metrics"][0]["verdict"] = "better"
    assert list(validator.iter_errors(document))


def test_a_third_party_can_compute_every_change_from_the_samples_in_the_document() -> None:
    document = json.loads(comparison_json(example_comparison()))
    recomputed = 0
    for row in document["metrics"]:
        if row["change"] is None:
            continue
        found = paired_estimate(log_ratios(row["a"]["samples"], row["b"]["samples"]))
        assert relative(found.estimate) == row["change"]["estimate"]
        assert relative(found.low) == row["change"]["low"]
        recomputed += 1
    assert recomputed == 10


def test_every_sample_of_a_row_is_in_the_runs_with_its_raw_file() -> None:
    document = json.loads(comparison_json(example_comparison()))
    row = document["metrics"][0]
    runs = [
        run
        for run in document["runs"]
        if (run["check"], run["placement"], run["side"]) == (row["check"], row["placement"], "a")
    ]
    values = [s["value"] for run in runs for s in run["samples"] if s["metric"] == row["metric"]]
    assert values == row["a"]["samples"]
    assert all(run["raw"] for run in runs)


def test_what_is_not_a_finite_number_becomes_null() -> None:
    runs = list(example_runs(example_schedule()))
    first = next(i for i, run in enumerate(runs) if run.check == "ping")
    runs[first] = replace(runs[first], samples=(Sample(metric="rtt_p50", value=math.nan, unit="s"),))
    document = json.loads(comparison_json(example_comparison(runs=tuple(runs))))
    row = next(
        row for row in document["metrics"] if row["metric"] == "rtt_p50" and row["placement"] == runs[first].placement
    )
    assert None in row[runs[first].side]["samples"]
    assert row["reason"] == "a sample is not a finite number"


def test_the_reason_of_a_bad_run_names_side_and_block() -> None:
    runs = list(example_runs(example_schedule()))
    first = next(i for i, run in enumerate(runs) if run.check == "latency" and run.side == "b")
    runs[first] = replace(runs[first], verdict=Verdict.ERROR, reason="the server died", samples=())
    document = json.loads(comparison_json(example_comparison(runs=tuple(runs))))
    reasons = {row["reason"] for row in document["metrics"] if row["verdict"] == "refused"}
    assert reasons == {
        f"1 of 20 runs did not pass; the first, side b in block {runs[first].block}, ended with error: the server died"
    }


def test_numbers_that_json_does_not_know_are_an_error_and_not_a_broken_document() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump({"value": math.nan})


def test_the_signature_has_the_shape_of_the_ground_truth() -> None:
    document: Any = comparison_document(example_comparison())
    lxc = document["signatures"][1]["taps"][1]
    assert lxc == {
        "tap": "node1:lxc3f",
        "role": "client-lxc",
        "request": {"packets": 3, "ttl": 64, "srcMac": "client-eth0", "dstMac": "client-lxc"},
        "reply": None,
    }
