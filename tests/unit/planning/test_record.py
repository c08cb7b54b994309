"""A lab survives being written and read, and a record that was tampered with is refused in words."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.loading import load_scenario, scenario_names
from labctl.model.lab import Lab
from labctl.planning.record import digest_of, lab_from_json, lab_to_json
from labctl.planning.resolve import resolve

TESTS = Path(__file__).resolve().parents[2]
EVERYTHING = "corpus/valid/all-keys.yaml"


def _labs() -> list[Lab]:
    shipped = [resolve(load_scenario(name, start=TESTS)) for name in scenario_names(TESTS)]
    with_settings = load_scenario(EVERYTHING, overrides=["provider=kind"], start=TESTS, trust=True)
    impaired = resolve(load_scenario("corpus/valid/impairments.yaml", start=TESTS))
    return [*shipped, impaired, resolve(load_scenario(EVERYTHING, start=TESTS)), resolve(with_settings, name="other")]


LABS = _labs()


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_comes_back_as_it_was_written(lab: Lab) -> None:
    text = json.dumps(lab_to_json(lab))
    assert lab_from_json(json.loads(text)) == lab
    assert digest_of(lab) == lab.digest


def _refused(data: Any) -> LabError:
    with pytest.raises(LabError) as caught:
        lab_from_json(data)
    return caught.value


def test_a_record_that_was_edited_is_refused() -> None:
    data = lab_to_json(LABS[0])
    data["pods"][0]["address"] = "10.244.0.99"
    assert _refused(data).lines() == (
        "error: the lab's record cannot be read",
        "  why: its digest does not fit its content",
        "  try: remove the lab and build it again: labctl down LAB",
    )


def test_a_record_of_another_version_is_refused() -> None:
    assert _refused(lab_to_json(LABS[0]) | {"apiVersion": "labctl/v9"}).cause == (
        "it is a Lab of labctl/v9, not a Lab of labctl/v1"
    )


def test_a_record_with_an_unknown_check_is_refused() -> None:
    data = lab_to_json(LABS[0])
    data["checks"][0]["check"] = "telepathy"
    assert _refused(data).cause == "it has a check of the unknown kind 'telepathy'"


def test_a_record_with_an_unknown_parameter_is_refused() -> None:
    data = lab_to_json(LABS[0])
    data["checks"][0]["parameters"]["colour"] = "blue"
    assert _refused(data).cause == "it has unknown parameters: colour"


@pytest.mark.parametrize("key", sorted(lab_to_json(LABS[0])))
def test_a_record_that_lacks_a_key_is_refused(key: str) -> None:
    data = lab_to_json(LABS[0])
    del data[key]
    assert key in _refused(data).cause


@pytest.mark.parametrize("seed", range(4))
def test_a_record_changed_at_random_is_refused_or_the_same_lab(seed: int) -> None:
    random_of = random.Random(seed)
    strange: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", [], {}, [1], {"a": 1})
    for _ in range(200):
        lab = random_of.choice(LABS)
        data = copy.deepcopy(lab_to_json(lab))
        at: Any = data
        while True:
            step: Any = random_of.choice(list(at)) if isinstance(at, dict) else random_of.randrange(len(at))
            if isinstance(at[step], (dict, list)) and at[step] and random_of.random() < 0.8:
                at = at[step]
                continue
            at[step] = random_of.choice(strange)
            break
        try:
            read = lab_from_json(data)
        except LabError as error:
            assert error.cause  # noqa: PT017
        else:
            assert read.digest == lab.digest


@pytest.mark.parametrize("data", [{}, {"apiVersion": "labctl/v1"}, {"apiVersion": None, "kind": []}])
def test_what_is_no_record_is_refused(data: dict[str, Any]) -> None:
    assert _refused(data).what == "the lab's record cannot be read"


def _sealed(data: dict[str, Any]) -> dict[str, Any]:
    """With the digest that its content has: what somebody would write who knows the format."""
    content = {key: value for key, value in data.items() if key not in DESCRIPTION}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return data | {"digest": hashlib.sha256(text.encode()).hexdigest()}


DESCRIPTION = ("apiVersion", "kind", "name", "scenario", "source", "digest")
HOSTILE: tuple[object, ...] = (
    "../../../etc",
    "/etc",
    "..",
    "",
    "-rf",
    "a/b",
    "a.b",
    "a\nb",
    "$(id)",
    "{{ 7*7 }}",
    "<b>",
    "x" * 41,
    7,
    None,
    [],
)
NAMES: tuple[tuple[str | int, ...], ...] = (
    ("name",), ("provider",), ("nodes", 0, "name"), ("pods", 0, "name"), ("pods", 0, "node"), ("pairs", 0, "client"),
    ("pairs", 0, "server"), ("checks", 0, "name"), ("checks", 0, "check"),
)  # fmt: skip
DEVICES: tuple[tuple[str | int, ...], ...] = (
    ("nodes", 0, "mac"),
    ("pods", 0, "mac"),
    ("pods", 0, "lxc"),
    ("pods", 0, "lxcMac"),
    ("nodes", 0, "address"),
)


def _with(data: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    changed: Any = copy.deepcopy(data)
    *steps, last = path
    at = changed
    for step in steps:
        at = at[step]
    at[last] = value
    return _sealed(changed)


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize("path", NAMES + DEVICES, ids=lambda path: ".".join(map(str, path)))
def test_a_record_whose_names_lead_elsewhere_is_refused_though_its_digest_fits(
    path: tuple[str | int, ...], value: object
) -> None:
    data = lab_to_json(LABS[0])
    assert lab_from_json(_sealed(data)) == LABS[0]
    assert _refused(_with(data, path, value)).what == "the lab's record cannot be read"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("checks", 0, "parameters", "count"), 10**12),
        (("checks", 0, "parameters", "count"), "-f"),
        (("checks", 0, "parameters", "count"), True),
        (("compare", "rounds"), 10**9),
        (("compare", "rounds"), "many"),
        (("network", "mtu"), -1),
        (("datapath", "extraIptablesRules"), 10**9),
        (("pods", 0, "identity"), 2**32),
        (("pods", 0, "labels"), {"$(id)": "x"}),
        (("pods", 0, "labels"), {"app": "a\nb"}),
        (("pairs", 0, "server"), "nobody"),
        (("pods", 1, "name"), "client"),
    ],
    ids=str,
)
def test_a_record_with_values_that_no_scenario_could_have_is_refused(
    path: tuple[str | int, ...], value: object
) -> None:
    assert _refused(_with(lab_to_json(LABS[0]), path, value)).cause
