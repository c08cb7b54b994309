"""The JSON Schema and the parser agree on what a file may say, and the shipped copies are current."""

from __future__ import annotations

import copy
import importlib.util
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from labctl.loading.schema import schema
from labctl.loading.shape import structure_problems
from labctl.loading.tree import Place, Tree, find, plain, planted, text_of
from labctl.loading.yaml_files import UnreadableFile, compose, read_text
from labctl.model.parameters import CompareParameters
from labctl.model.section import MATRIX, SCENARIO, SITE

CHECKOUT = Path(__file__).resolve().parents[3]
CORPUS = CHECKOUT / "tests" / "corpus"
FILES = sorted([*CORPUS.glob("*/*.yaml"), *(CHECKOUT / "scenarios").glob("*.yaml"), CHECKOUT / "lab.yaml"])

# Wrong in ways that JSON Schema cannot say: what values mean together, or what YAML is.
PARSER_ONLY = {
    "Not A Name", "bpf-masquerade-without-replacement", "bpf-with-iptables-masquerade", "bpf-without-replacement",
    "check-duplicate-name", "check-rate-for-tcp", "cidr-of-loopback", "cidr-with-host-bits", "compare-unknown-check",
    "cilium-alone", "duplicate-node", "duplicate-pair", "native-cidr-with-host-bits",
    "outside-in-use", "outside-named-like-a-pod", "outside-on-machines", "pairs-without-a-way",
    "duplicate-pod", "extends-in-a-circle", "extends-in-a-circle-too",
    "extends-itself", "extends-unknown", "extra-services-without-room", "false-placement",
    "fallback-that-does-not-start",
    "fault-that-cannot-show", "impairments-of-a-cluster", "mtu-too-small-for-vxlan",
    "no-host-routing", "no-pairs", "no-pods", "overlapping-cidrs", "pair-of-unknown-pod", "pair-with-itself",
    "ping-faster-than-ping",
    "pod-cidr-too-small", "pod-named-like-a-node", "pod-on-misspelt-node", "pod-on-unknown-node", "reserved-name",
    "service-cidr-too-small", "site-as-parent", "underlay-too-small",
    "service-named-twice", "service-node-port-missing", "service-node-port-of-cluster-ip", "service-node-port-twice",
    "service-of-unknown-pod", "service-that-begins-with-a-digit", "service-that-no-label-says",
    "service-with-backends-and-selector", "service-with-one-backend-twice",
    "service-without-backends", "services-without-room",
}  # fmt: skip


def _refresh() -> Any:
    spec = importlib.util.spec_from_file_location("refresh", CORPUS / "refresh.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tree(file: Path) -> Tree | None:
    """The tree of a file that is YAML without a fault, else None."""
    try:
        tree, problems = compose(read_text(file, file.name, is_trusted=lambda *_: True), Place(file.name, 1, 1))
    except UnreadableFile:
        return None
    return None if problems else tree


def _kind(tree: Tree) -> str:
    return SITE if text_of(find(tree, "kind")) == SITE else SCENARIO


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(kind))


VALIDATORS = {kind: _validator(kind) for kind in (SCENARIO, SITE)}
TREES = {file: tree for file in FILES if (tree := _tree(file)) is not None}


@pytest.mark.parametrize("kind", [SCENARIO, SITE, MATRIX])
def test_the_schema_is_a_schema(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))


@pytest.mark.parametrize("kind", [SCENARIO, SITE, MATRIX])
def test_the_copy_in_docs_is_current(kind: str) -> None:
    refresh = _refresh()
    shipped = (CHECKOUT / "docs" / "schema" / refresh.SCHEMAS[kind]).read_text(encoding="utf-8")
    assert shipped == refresh.schema_text(kind), "run: python tests/corpus/refresh.py"


@pytest.mark.parametrize("file", TREES, ids=lambda file: file.stem)
def test_schema_and_parser_agree_on_the_structure_of_each_file(file: Path) -> None:
    tree = TREES[file]
    kind = _kind(tree)
    schema_says = VALIDATORS[kind].is_valid(plain(tree))
    parser_says = not structure_problems(tree, kind)
    assert schema_says == parser_says


def test_the_files_that_only_the_parser_refuses_are_known() -> None:
    refused = {
        file.stem
        for file, tree in TREES.items()
        if file.parent.name == "invalid" and VALIDATORS[_kind(tree)].is_valid(plain(tree))
    }
    assert refused == PARSER_ONLY


STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**40, 0.5, 1.0, "", "a", "no", "legacy", "10.0.0.0/8", "x" * 50, "ping", [], {}, [1],
    {"a": 1}, [{}], "netns", "1.2.3", "a\u00e9",
)  # fmt: skip


def _mutated(data: Any, random_of: random.Random) -> Any:
    """One value somewhere in a copy of `data` replaced, removed, or given a strange neighbour."""
    data = copy.deepcopy(data)
    at = data
    while True:
        steps: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not steps:
            return data
        step = random_of.choice(steps)
        if isinstance(at[step], (dict, list)) and at[step] and random_of.random() < 0.8:
            at = at[step]
            continue
        act = random_of.random()
        if act < 0.5:
            at[step] = copy.deepcopy(random_of.choice(STRANGE))
        elif act < 0.75:
            del at[step]
        elif isinstance(at, dict):
            at[random_of.choice(("extra", str(step) + "s", "name", "check", "expect"))] = random_of.choice(STRANGE)
        else:
            at.append(copy.deepcopy(random_of.choice(STRANGE)))
        return data


@pytest.mark.parametrize("seed", range(8))
def test_schema_and_parser_agree_on_files_changed_at_random(seed: int) -> None:
    random_of = random.Random(seed)
    bases = [plain(tree) for file, tree in TREES.items() if file.parent.name != "invalid"]
    for _ in range(150):
        data = _mutated(random_of.choice(bases), random_of)
        kind = SITE if data.get("kind") == SITE else SCENARIO
        tree = planted(data, Place("made", 1, 1))
        problems = structure_problems(tree, kind)
        # Contradictions inside one section (value errors of provider sections) are beyond JSON Schema.
        assert VALIDATORS[kind].is_valid(plain(tree)) == (not problems), (data, problems)


def test_the_reference_in_docs_names_every_key_and_no_check_parameter_is_undescribed() -> None:
    reference = (CHECKOUT / "docs" / "scenario.md").read_text(encoding="utf-8")
    whole = schema(SCENARIO)
    parts = [whole, *(whole["$defs"][name] for name in ("NetworkSection", "DatapathSection", "CompareSection"))]
    parts += [whole["$defs"][name] for name in ("NodeEntry", "PodEntry", "PairEntry", "MarginsSection")]
    parts += [part for name, part in whole["$defs"].items() if name.endswith(("Check", "Expect"))]
    for part in parts:
        for key, value in part["properties"].items():
            assert key in reference, f"docs/scenario.md does not name {key}"
            assert value.get("description") or "$ref" in value, f"{key} has no description"


def test_the_bounds_of_compare_are_those_of_its_parameters() -> None:
    written = schema(SCENARIO)["$defs"]["CompareSection"]["properties"]
    margins = schema(SCENARIO)["$defs"]["MarginsSection"]["properties"]
    parameters = TypeAdapter(CompareParameters).json_schema()["properties"]
    for key, name in (("rounds", "rounds"), ("durationS", "duration_s")):
        for bound in ("minimum", "exclusiveMinimum", "maximum", "type"):
            assert written[key].get(bound) == parameters[name].get(bound)
    for key in ("latency", "cpu", "throughput"):
        for bound in ("minimum", "maximum", "type"):
            assert margins[key].get(bound) == parameters[f"margin_{key}"].get(bound)
