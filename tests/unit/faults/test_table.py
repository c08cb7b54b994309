"""The table of faults: what it says, where each fault can be put, and that docs/faults.md is it."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli.group import COMMANDS
from labctl.errors import UsageError
from labctl.faults.places import Unfit
from labctl.faults.table import BY_NAME, FAULTS, across, chosen, document, fitting, repairs
from labctl.loading import load_scenario
from labctl.model.lab import Fault, Lab
from labctl.planning.resolve import resolve
from labctl.testing.labs import sample_lab

CHECKOUT = Path(__file__).resolve().parents[3]
SCENARIOS = sorted(path.stem for path in (CHECKOUT / "scenarios").glob("*.yaml"))


def lab_of(scenario: str) -> Lab:
    return resolve(load_scenario(scenario, start=CHECKOUT), name="x")


def test_the_page_of_faults_is_the_table() -> None:
    page = (CHECKOUT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert document() in page, "python -c 'from labctl.faults.table import document; print(document())' prints it"


def test_every_fault_of_scenarios_can_be_put_in_later_too() -> None:
    assert {str(fault) for fault in Fault} <= set(BY_NAME)


@pytest.mark.parametrize("entry", FAULTS, ids=lambda entry: entry.name)
def test_a_fault_says_what_it_is_what_finds_it_and_what_heals_it(entry: object) -> None:
    text = BY_NAME[entry.name].text  # type: ignore[attr-defined]
    assert all((text.what, text.seen, text.finds, text.named, text.repair))
    for command in text.finds.split(";"):
        labctl, name, *_ = command.split()
        assert labctl == "labctl"
        assert name in COMMANDS


def test_every_fault_can_be_put_into_some_scenario_and_every_scenario_of_two_nodes_can_have_one() -> None:
    by_scenario = {name: {entry.name for entry in fitting(lab_of(name))} for name in SCENARIOS}
    assert set().union(*by_scenario.values()) == set(BY_NAME)
    assert not [name for name, faults in by_scenario.items() if not faults]


@pytest.mark.parametrize("scenario", ["bpf", "legacy-native", "clos-bgp", "clos-ospf", "calico-vxlan", "vxlan-p2p"])
def test_what_breaks_can_be_mended_by_acts_on_the_same_part(scenario: str) -> None:
    lab = lab_of(scenario)
    parts = {
        *(node.name for node in lab.nodes),
        *(router.name for router in lab.routers),
        *(pod.name for pod in lab.pods),
    }
    for entry in fitting(lab):
        for site in entry.sites(lab):
            assert site.breaks
            assert site.mends
            assert site.breaks != site.mends
            assert {act.part for act in (*site.breaks, *site.mends)} <= parts
            assert set(site.mends) <= set(repairs(lab))


def test_the_same_seed_chooses_the_same_place_and_the_same_fault() -> None:
    lab = lab_of("legacy-native")
    entry = BY_NAME["xdp-drop"]
    assert {entry.site(lab, seed).where for seed in range(20)} == {"node1:eth0", "node2:eth0"}
    assert entry.site(lab, 5) == entry.site(lab, 5)
    assert chosen(lab, "any", 4) is chosen(lab, "any", 4)
    assert len({chosen(lab, "any", seed).name for seed in range(50)}) > 5


def test_where_it_would_show_nothing_a_fault_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError) as wrong:
        chosen(lab_of("bpf"), "netfilter-drop", None)
    assert "eBPF programs" in wrong.value.cause
    with pytest.raises(UsageError, match="there is no fault xdp-dorp") as unknown:
        chosen(lab_of("bpf"), "xdp-dorp", None)
    assert unknown.value.remedy == "did you mean 'xdp-drop'?"


def test_a_lab_of_one_node_has_no_place_for_a_fault() -> None:
    lab = sample_lab("x", nodes=1, pods=(("client", "node1"), ("server", "node1")))
    with pytest.raises(Unfit):
        BY_NAME["xdp-drop"].sites(lab)
    assert fitting(lab) == ()


def test_a_large_lab_is_not_looked_at_pair_by_pair() -> None:
    pods = tuple((f"pod{number}", f"node{number % 50 + 1}") for number in range(1000))
    assert len(tuple(across(sample_lab("x", nodes=50, pods=pods)))) <= 200
