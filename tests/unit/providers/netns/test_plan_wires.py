"""Impairments that a scenario declares: which links they are of, what is made for them, what is refused, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labctl import app
from labctl.errors import ScenarioInvalid
from labctl.loading import load_scenario
from labctl.model.impairment import Impairment, LinkDirection
from labctl.model.lab import Lab
from labctl.model.plan import Plan, Step
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds.impairment import OffloadsSet, PacketsImpair, QueueAdd
from labctl.providers.netns.plan import plan
from labctl.providers.netns.wires import Wires

CHECKOUT = Path(__file__).resolve().parents[4]
Declared = Callable[..., Lab]


def declared(scenario: str, *settings: str) -> Lab:
    overrides = [f"impairments.{setting}" for setting in settings]
    return resolve(load_scenario(scenario, start=CHECKOUT, overrides=overrides, refuse=app.refuse), name="x")


def impairing(made: Plan) -> tuple[Step, ...]:
    return tuple(one for one in made.steps if one.id.startswith("impair-"))


def test_a_link_s_own_key_stands_in_place_of_that_of_all_nodes() -> None:
    found = Wires(declared("bpf", "uplink.loss=0.01", "node2.loss=0.05", "client.duplicate=0.1")).declared
    assert {name: (one.loss, one.duplicate) for name, one in found.items()} == {
        "node1": (0.01, 0), "node2": (0.05, 0), "node3": (0.01, 0), "client": (0, 0.1)
    }  # fmt: skip


def test_uplinks_of_a_fabric_are_the_nodes_own_links() -> None:
    assert set(Wires(declared("clos-bgp", "uplink.loss=0.01")).declared) == {"node1", "node2", "node3"}


def test_a_pod_that_is_called_uplink_has_a_link_of_its_own() -> None:
    overrides = ["pods[0].name=uplink", "pairs=[{client: uplink, server: server}]", "impairments.uplink.loss=0.1"]
    lab = resolve(load_scenario("bpf", start=CHECKOUT, overrides=overrides, refuse=app.refuse), name="x")
    assert set(Wires(lab).declared) == {"uplink"}


def test_a_value_of_zero_asks_for_nothing() -> None:
    lab = declared("bpf", "uplink.loss=0")
    assert lab.impairments == {"uplink": Impairment()}
    assert impairing(plan(lab)) == ()


def test_the_plan_puts_the_program_where_packets_come_and_the_queue_where_they_go() -> None:
    (step,) = impairing(plan(declared("bpf", "node1.loss=0.01", "node1.rateBitPerS=1000000", "node1.direction=to")))
    offloads, queue, program = step.actions
    assert isinstance(queue, QueueAdd)
    assert isinstance(offloads, OffloadsSet)
    assert isinstance(program, PacketsImpair)
    assert [(one.namespace, one.device) for one in (queue, offloads, program)] == [
        ("labctl.x.underlay", "port1"), ("labctl.x.underlay", "port1"), ("labctl.x.node1", "eth0")
    ]  # fmt: skip
    assert step.title == "impairment of link node1: loss=1% rate=1.00 Mbit/s direction=to"
    assert "tbf rate 1000000bit" in queue.shell()
    assert offloads.shell().endswith("ethtool -K port1 tx off")
    assert "qdisc add" not in program.shell()  # the uplink has its hooks by the plan


def test_what_is_not_a_hook_of_the_plan_s_is_made_and_named_with_the_impairment() -> None:
    (step,) = impairing(plan(declared("bpf", "node1.loss=0.01", "node1.direction=from")))
    program = step.actions[-1]
    assert isinstance(program, PacketsImpair)
    assert "tc -n labctl.x.underlay qdisc add dev port1 clsact" in program.shell()
    impairment, hooks = program.details()
    assert (impairment.of, impairment.value) == ("impairment of what port1 receives", "loss=1% seed=2")
    assert impairment.of in hooks.needs


def test_a_lab_without_impairments_has_the_digest_that_it_had() -> None:
    plain, impaired = declared("bpf"), declared("bpf", "uplink.loss=0.01")
    assert "impairments" not in lab_to_json(plain)
    assert plain.digest != impaired.digest
    assert lab_from_json(lab_to_json(impaired)) == impaired


def test_the_direction_and_the_seed_are_kept() -> None:
    (one,) = declared("bpf", "node1={loss: 0.5, direction: from, seed: 9}").impairments.values()
    assert one == Impairment(loss=0.5, direction=LinkDirection.FROM, seed=9)


@pytest.mark.parametrize(
    ("scenario", "setting", "said"),
    [
        ("bpf", "node9.loss=0.1", "--set:1:1: impairments.node9: lab bpf has no link node9"),
        (
            "bpf",
            "client.rateBitPerS=1000000",
            "--set:1:1: impairments.client: what comes to pod client passes no queue",
        ),
        ("ipvlan", "client.loss=0.1", "--set:1:1: impairments.client: link client is impaired in the direction to it"),
    ],
)
def test_what_no_link_of_the_lab_can_have_is_refused_at_its_key(scenario: str, setting: str, said: str) -> None:
    with pytest.raises(ScenarioInvalid) as invalid:
        declared(scenario, setting)
    assert str(invalid.value.problems[0]).startswith(said)
