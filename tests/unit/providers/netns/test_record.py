from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labctl.model.lab import CheckSpec, Encapsulation, Fault
from labctl.model.parameters import (
    CheckParameters,
    IperfParameters,
    LatencyParameters,
    PingParameters,
    TcpdumpParameters,
)
from labctl.providers.netns.record import (
    NamespaceMark,
    as_document,
    is_document,
    mark_of,
    parse_document,
    parse_mark,
)
from labctl.testing.labs import sample_lab


def test_a_mark_says_scenario_digest_and_kind() -> None:
    lab = sample_lab("marked")
    assert parse_mark(mark_of(lab, "node")) == NamespaceMark(scenario=lab.scenario, digest=lab.digest[:16], kind="node")


@pytest.mark.parametrize("scenario", ["x" * 500, "名" * 80, 'quote"and\\slash', "two\nlines"])
def test_a_mark_fits_an_interface_alias_whatever_the_scenario_is_called(scenario: str) -> None:
    mark = mark_of(replace(sample_lab("marked"), scenario=scenario), "pod")
    assert len(mark.encode()) <= 255
    assert "\n" not in mark
    assert parse_mark(mark) is not None


@pytest.mark.parametrize("alias", ["", "uplink to the office", "labctl-of-somebody", "labctlx {}", "LABCTL {}"])
def test_what_does_not_begin_with_the_mark_is_not_ours(alias: str) -> None:
    assert parse_mark(alias) is None


@pytest.mark.parametrize("alias", ["labctl", "labctl {not json", "labctl [1]", "labctl {}"])
def test_a_mark_without_readable_facts_is_still_a_mark(alias: str) -> None:
    assert parse_mark(alias) == NamespaceMark(scenario="", digest="", kind="")


def test_a_record_gives_the_same_lab_again() -> None:
    specs: dict[str, CheckParameters] = {
        "ping": PingParameters(count=3),
        "iperf": IperfParameters(protocol="udp"),
        "latency": LatencyParameters(),
        "tcpdump": TcpdumpParameters(count=2),
    }
    lab = replace(
        sample_lab("kept", encapsulation=Encapsulation.NATIVE, faults=(Fault.WRONG_VNI,)),
        checks=tuple(CheckSpec(name=f"my-{kind}", kind=kind, parameters=one) for kind, one in specs.items()),
        settings={"nested": {"list": [1, "two", None]}},
    )
    assert parse_document(as_document(lab)) == lab


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '{"version": 1}', '{"version": 1, "lab": {"name": "x"}}', '{"version": 99, "lab": {}}'],
)
def test_a_record_that_is_not_whole_is_no_lab(text: str) -> None:
    assert parse_document(text) is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [("", False), ("{", False), ("null", False), ("[]", False), ("{}", False), ("[" * 100_000, False),
     ('{"version": 99, "lab": {}}', True), ('{"apiVersion": "labctl/v9", "kind": "Lab"}', True)],
)  # fmt: skip
def test_a_record_of_another_version_is_told_from_a_damaged_one(text: str, whole: bool) -> None:
    assert is_document(text) is whole


def test_a_record_of_another_shape_is_no_lab() -> None:
    document = json.loads(as_document(sample_lab("old")))
    document["datapath"]["hostRouting"] = "something newer"
    assert parse_document(json.dumps(document)) is None


def test_a_record_is_one_line_so_that_a_script_can_carry_it() -> None:
    assert "\n" not in as_document(replace(sample_lab("line"), source="two\nlines"))
