"""A lab survives being written and read, and a record that was tampered with is refused in words."""

from __future__ import annotations

import copy
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
    with_settings = load_scenario(EVERYTHING, overrides=["provider=kind"], start=TESTS)
    return [*shipped, resolve(load_scenario(EVERYTHING, start=TESTS)), resolve(with_settings, name="other")]


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
