"""`labctl compare` as scripts see it: the document, the proof, the eight cells, and the refusal."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_running import Desk, needs_labs
from cli_running import desk_fixture as desk_fixture

pytestmark = needs_labs

CELLS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "checks" / "cells.json").read_text()
)["cells"]
QUICK = ("--rounds", "2", "--duration", "0.3", "--seed", "7")
CHECKS = ("--set", "compare.checks=[ping, latency, iperf]")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One comparison that all tests of its document look at. What it leaves behind, others of this file check."""
    desk = Desk(directory=tmp_path_factory.mktemp("compare"), prefix=f"t{secrets.token_hex(3)}")
    a, b = desk.scenario("legacy-native"), desk.scenario("bpf-native")
    ended = desk.run("compare", a, b, *QUICK, *CHECKS, "--html", "report.html", "--json")
    assert ended.code in (0, 1), ended.err
    document = ended.document
    document["page"] = (desk.directory / "report.html").read_text()
    document["progress"] = ended.err
    document["left"] = desk.labs()
    document["runs directory"] = sorted(path.name for path in (desk.directory / "runs").iterdir())
    yield document
    desk.run("down", *desk.labs())


def test_the_document_has_everything_of_the_contract(compared: dict[str, Any]) -> None:
    assert (compared["apiVersion"], compared["kind"]) == ("labctl/v1", "Comparison")
    assert compared["a"]["scenario"].endswith("-legacy-native")
    assert compared["b"]["scenario"].endswith("-bpf-native")
    assert compared["seed"] == 7
    assert "block 1:" in compared["order"]
    assert compared["environment"]
    for row in compared["metrics"]:
        assert row.keys() >= {
            "check",
            "placement",
            "metric",
            "unit",
            "better",
            "primary",
            "a",
            "b",
            "change",
            "verdict",
        }
        assert row["placement"] in {"same-node", "cross-node"}
        assert row["better"] in {"lower", "higher"}
        for side in ("a", "b"):
            assert row[side].keys() >= {"samples", "median"}


@pytest.mark.parametrize("placement", ["same-node", "cross-node"])
@pytest.mark.parametrize("check", ["ping", "latency", "iperf"])
def test_each_check_has_primary_rows_with_a_sample_of_every_block(
    compared: dict[str, Any], check: str, placement: str
) -> None:
    rows = [row for row in compared["metrics"] if (row["check"], row["placement"]) == (check, placement)]
    primary = [row for row in rows if row["primary"]]
    assert primary
    for row in primary:
        assert len(row["a"]["samples"]) == len(row["b"]["samples"]) == 2
        assert all(sample > 0 for side in ("a", "b") for sample in row[side]["samples"])


def test_too_few_blocks_give_no_verdict(compared: dict[str, Any]) -> None:
    assert {row["verdict"] for row in compared["metrics"] if row["primary"]} == {"refused"}


@pytest.mark.parametrize(("side", "mode"), [("a", "legacy"), ("b", "bpf")])
def test_both_sides_prove_their_mode_with_evidence(compared: dict[str, Any], side: str, mode: str) -> None:
    proof = next(one for one in compared["modeInForce"] if one["side"] == side)
    assert proof["proven"] is True
    assert proof["asked"]["hostRouting"] == proof["found"]["hostRouting"] == mode
    assert proof["asked"]["encapsulation"] == proof["found"]["encapsulation"] == "native"
    witnesses = {piece["witness"] for piece in proof["evidence"] if piece["supports"]}
    assert {"signature", "helpers", "lxc-counters"} <= witnesses
    assert not [piece for piece in proof["evidence"] if piece["supports"] is False]


@pytest.mark.parametrize("placement", ["same-node", "cross-node"])
@pytest.mark.parametrize(("side", "mode"), [("a", "legacy"), ("b", "bpf")])
def test_the_signatures_of_the_comparison_are_those_of_real_cilium(
    compared: dict[str, Any], side: str, mode: str, placement: str
) -> None:
    signature = next(s for s in compared["signatures"] if (s["side"], s["placement"]) == (side, placement))
    assert_is_cell(signature, mode, "native", placement)


def test_progress_tells_the_time_left_on_stderr(compared: dict[str, Any]) -> None:
    assert "block 1/2" in compared["progress"]
    assert " left" in compared["progress"]
    assert compared["progress"].count("mode in force proven") == 4  # both labs, before measuring and after it


def test_the_labs_are_gone_and_the_run_stays(compared: dict[str, Any]) -> None:
    assert compared["left"] == []
    assert len(compared["runs directory"]) == 1


def test_the_html_report_stands_alone(compared: dict[str, Any]) -> None:
    assert compared["page"].startswith("<!DOCTYPE html>") or compared["page"].startswith("<!doctype html>")
    assert "labctl&#39;s own" in compared["page"]
    assert 'src="http' not in compared["page"]


@pytest.mark.parametrize("scenario", ["legacy", "bpf", "legacy-native", "bpf-native"])
def test_every_tap_of_every_scenario_shows_what_a_real_cluster_shows(desk: Desk, scenario: str) -> None:
    ended = desk.run("check", scenario, "tcpdump", "--name", desk.prefix, "--json")
    assert ended.code == 0, ended.err
    mode, _, native = scenario.partition("-")
    signatures = [result["signature"] for result in ended.document["results"]]
    assert {signature["placement"] for signature in signatures} == {"same-node", "cross-node"}
    for signature in signatures:
        assert_is_cell(signature, mode, native or "vxlan", signature["placement"])


def test_a_side_that_is_not_in_force_is_refused_by_name(desk: Desk) -> None:
    a = desk.scenario("legacy-native")
    b = desk.scenario("bpf-native", "datapath: { faults: [no-redirect-peer] }\n")
    ended = desk.run("compare", a, b, *QUICK, "--json")
    assert (ended.code, ended.out) == (4, "")
    what, why, remedy = ended.err.splitlines()[-3:]
    assert what.startswith(f"error: side b ({desk.prefix}-bpf-native): the mode that was asked for is not in force")
    assert "(hostRouting asked bpf, found " in what
    assert "bpf_redirect" in why
    assert remedy.startswith("  try: labctl up ")
    assert f"/{desk.prefix}-bpf-native.yaml --name look" in remedy
    assert desk.labs() == []


def test_scenarios_without_a_common_pair_are_not_compared(desk: Desk) -> None:
    lonely = "pods: [{ name: one, node: node1 }, { name: two, node: node2 }]\n"
    lonely += "pairs: [{ client: one, server: two, placement: cross-node }]\n"
    ended = desk.run("compare", desk.scenario("legacy"), desk.scenario("bpf", lonely), *QUICK)
    assert ended.code == 2
    assert "error: the scenarios have no pair in common" in ended.err


def assert_is_cell(signature: dict[str, Any], mode: str, encapsulation: str, placement: str) -> None:
    """Equal to what was recorded on the real cluster, tap by tap: which taps saw what, TTLs, MACs, outer headers.

    Beyond the recording stand the taps that only labctl has (the wire itself). Identities are each lab's own."""
    cell = next(
        cell
        for cell in CELLS
        if (cell["hostRouting"], cell["encapsulation"], cell["placement"]) == (mode, encapsulation, placement)
    )
    taps = {tap["role"]: tap for tap in signature["taps"]}
    for recorded in cell["taps"]:
        for half in ("request", "reply"):
            assert without_vni(taps[recorded["tap"]][half]) == without_vni(recorded[half]), (recorded["tap"], half)
    assert signature["pingTtl"] == cell["pingTtl"]
    assert {role for role in taps if not role.endswith("-bridge-port")} == {tap["tap"] for tap in cell["taps"]}


def without_vni(seen: dict[str, Any] | None) -> dict[str, Any] | None:
    if seen is None or "outer" not in seen or seen["outer"] is None:
        return seen
    assert seen["outer"]["vni"] >= 256
    return {**seen, "outer": {key: value for key, value in seen["outer"].items() if key != "vni"}}
