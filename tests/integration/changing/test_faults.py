"""Each fault in each lab that can have it: checks fail, the command that its entry names finds it, mending heals it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labctl import app
from labctl.engine.run_checks import run_check
from labctl.engine.trace import pair_between, trace
from labctl.errors import UsageError
from labctl.faults.places import Unfit
from labctl.faults.table import BY_NAME, FAULTS
from labctl.loading import load_scenario
from labctl.model.changes import NOTHING, Broken, Changes
from labctl.model.lab import CheckSpec, Lab, Pair
from labctl.model.parameters import PARAMETERS_OF
from labctl.model.result import Verdict
from labctl.planning.resolve import resolve
from labctl.providers.base import OpenLab
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.changing import NetnsChanging
from labctl.providers.netns.kinds.daemon import PROGRAMS
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.reading import compared
from labctl.store.runs import MemorySink

CHECKOUT = Path(__file__).resolve().parents[3]
PROVIDER, CHANGING = NetnsProvider(), NetnsChanging()
WITH_FRR = ("clos-bgp", "clos-ospf", "calico-bgp", "bpf-on-clos")
LABS = (
    "bpf", "bpf-native", "legacy", "legacy-native", "docker-host-routes", "flannel-vxlan", "flannel-host-gw",
    "calico-vxlan", "vxlan-p2p", "macvlan", "stp-loop", *WITH_FRR,
)  # fmt: skip
KINDS = ("ping", "tcpdump", "mtu", "routes", "arp", "bgp", "ospf")
SAMPLE = "legacy-native"
"""The lab in which `make test` tries the faults below; all of them are tried in every lab by `pytest -m thorough`."""
SAMPLED = ("xdp-drop", "strict-rp-filter", "missing-neighbour")
needs_frr = pytest.mark.skipif(not (PROGRAMS / "zebra").exists(), reason="needs FRR: make setup-networks")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


@contextmanager
def running(scenario: str, name: str, *overrides: str) -> Iterator[tuple[Lab, OpenLab]]:
    lab = resolve(load_scenario(scenario, start=CHECKOUT, overrides=overrides), name=name)
    try:
        with PROVIDER.executor(lab) as executor:
            for step in PROVIDER.plan(lab).steps:
                executor.execute(step.actions)
            executor.finish(lab)
        with PROVIDER.open(lab) as opened:
            yield lab, opened
    finally:
        PROVIDER.teardown(lab.name)


def failing(opened: OpenLab, pair: Pair) -> dict[str, str]:
    """The checks that fail, with their reasons."""
    found = {}
    for kind in KINDS:
        spec = CheckSpec(name=kind, kind=kind, parameters=PARAMETERS_OF[kind]())
        result = run_check(app.checks()[kind], opened, pair, spec, MemorySink(), lambda event: None)
        if result.verdict is Verdict.FAIL:
            found[kind] = (
                f"{result.reason} {' '.join(one.sentence for one in result.findings if one.verdict is Verdict.FAIL)}"
            )
    return found


def said_by_trace(opened: OpenLab, lab: Lab, pair: Pair) -> tuple[str, str]:
    """What is wrong, and at which tap."""
    traced = trace(opened, pair, differing=lambda parts: CHANGING.differing(lab, pair, parts))
    wrong = traced.wrong
    return " ".join((wrong.sentence if wrong else "", *traced.notes)), (wrong.tap if wrong else "") or ""


def until(is_so: Callable[[], Any], what: str, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def try_fault(lab: Lab, opened: OpenLab, name: str) -> None:
    entry = BY_NAME[name]
    text, site = CHANGING.break_(lab, name, seed=3, is_hidden=False)
    assert read_changes(lab.name) == Changes(faults=(Broken(fault=name, where=site.where, seed=3),))
    pair = pair_between(lab, *site.pair)
    if "ospf" in name or "prefix" in name:  # a dead interval, or the withdrawal, passes first
        until(lambda: failing(opened, pair), f"{name}: no check fails")
    failed = failing(opened, pair)
    assert failed, f"{name}: no check fails"
    said, tap = said_by_trace(opened, lab, pair)
    found = " ".join((said, *failed.values(), *failed))
    assert text.named.lower() in (said if entry.text.finds.startswith("labctl trace") else found).lower(), found
    if name == "xdp-drop" and lab.scenario not in WITH_FRR:  # there the hellos are dropped too, and the routes go first
        assert (tap, "was dropped on" in said, "answers XDP_DROP" in said) == (site.where, True, True), said
    differences = compared(lab, (), "").drift.differences
    # What a routing daemon can tell nobody any more is missing elsewhere, and named as well.
    parts = {one.part for one in differences if not one.name.startswith("learned route")}
    assert parts == {site.where.partition(":")[0]}, f"{name} at {site.where}: diff names {differences}"
    assert CHANGING.mend(lab, name) == (name,)
    assert read_changes(lab.name) == NOTHING
    until(lambda: not failing(opened, pair), f"{name}: mended, and a check fails: {failing(opened, pair)}")
    assert CHANGING.differing(lab, pair, [node.name for node in lab.nodes]) == ()
    until(lambda: compared(lab, (), "").drift.differences == (), f"{name}: mended, and diff names something")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[needs_frr] if name in WITH_FRR else []) for name in LABS]
)
def test_every_fault_that_a_lab_can_have_is_found_and_mended(host_as_found: str, scenario: str) -> None:
    with running(scenario, host_as_found) as (lab, opened):
        wrong = {}
        for entry in FAULTS:
            try:
                entry.sites(lab)
            except Unfit:
                with pytest.raises(UsageError, match="would show nothing"):
                    CHANGING.break_(lab, entry.name, seed=None, is_hidden=False)
                continue
            try:
                try_fault(lab, opened, entry.name)
            except AssertionError as failed:
                wrong[entry.name] = str(failed)
                CHANGING.mend(lab, None)
        assert not wrong


def test_faults_are_found_by_the_trace_and_mended(host_as_found: str) -> None:
    with running(SAMPLE, host_as_found) as (lab, opened):
        for name in SAMPLED:
            try_fault(lab, opened, name)


def test_a_hidden_fault_is_in_no_record_and_is_mended_all_the_same(host_as_found: str) -> None:
    with running("bpf-native", host_as_found) as (lab, opened):
        text, site = CHANGING.break_(lab, "any", seed=7, is_hidden=True)
        pair = pair_between(lab, *site.pair)
        assert failing(opened, pair)
        assert read_changes(lab.name) == NOTHING
        kept = "".join(path.read_text() for path in Path("/run/labctl/labs", lab.name).iterdir())
        assert text.name not in kept
        assert CHANGING.mend(lab, None) == ()
        assert not failing(opened, pair)


@pytest.mark.thorough
def test_every_fault_has_a_lab_of_the_test_above() -> None:
    labs = [resolve(load_scenario(name, start=CHECKOUT), name="x") for name in LABS]
    assert not [entry.name for entry in FAULTS if all(entry.unfit(lab) for lab in labs)]
