"""Links by name, what a node takes with it, and the record of what was changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.loading import load_scenario
from labctl.model.changes import NOTHING, ChangeKind, Changes, Pending
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.planning.resolve import resolve
from labctl.providers.netns import power
from labctl.providers.netns.changes import acting, changes_path, read_changes, settle, update_changes
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.namespace import NamespaceAdd
from labctl.providers.netns.plan import plan
from labctl.providers.netns.wires import Wires
from labctl.testing.labs import sample_lab
from labctl.units import quantity

CHECKOUT = Path(__file__).resolve().parents[4]


def lab_of(scenario: str) -> Lab:
    return resolve(load_scenario(scenario, start=CHECKOUT), name="x")


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("bpf", {"node1", "node2", "node3", "client", "neighbour", "server"}),
        ("masquerade", {"node1", "node2", "node3", "client", "neighbour", "server", "world", "wide"}),
        ("macvlan", {"node1", "node2", "node3", "client", "neighbour", "server"}),
        ("evpn", {"node1", "node2", "node3", "client", "neighbour", "server", "rr1"}),
        ("clos-bgp", {"node1", "node2", "node3", "client", "neighbour", "server", *(
            f"leaf{leaf}-spine{spine}" for leaf in (1, 2, 3) for spine in (1, 2))}),
        ("stp-loop", {"node1", "node2", "node3", "client", "neighbour", "server", "switch2-switch1", "switch3-switch2",
                      "switch3-switch1"}),
    ],
)  # fmt: skip
def test_links_are_called_as_the_parts_are_that_they_join(scenario: str, names: set[str]) -> None:
    lab = lab_of(scenario)
    found = [wire.name for wire in Wires(lab).all]
    assert len(set(found)) == len(found)
    parts = {*(node.name for node in lab.nodes), *(pod.name for pod in lab.pods), *(host.name for host in lab.outside)}
    assert {*found} == (names if scenario != "masquerade" else parts)


@pytest.mark.parametrize("words", [("leaf1-spine2",), ("spine2-leaf1",), ("leaf1", "spine2"), ("spine2", "leaf1")])
def test_a_link_has_the_names_of_both_ends(words: tuple[str, ...]) -> None:
    assert Wires(lab_of("clos-bgp")).named(*words).name == "leaf1-spine2"


def test_a_link_that_is_not_there_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as wrong:
        Wires(lab_of("bpf")).named("clent")
    assert (wrong.value.what, wrong.value.remedy) == ("lab x has no link clent", "did you mean 'client'?")


def test_a_link_is_taken_down_where_the_fewest_settings_are() -> None:
    downs = {wire.name: wire.down.part for wire in Wires(lab_of("bpf")).all}
    assert (downs["node1"], downs["client"]) == ("underlay", "node1")


@pytest.mark.parametrize("scenario", ["bpf", "services", "clos-bgp", "macvlan", "evpn", "services-iptables"])
def test_a_node_takes_with_it_what_is_in_its_namespaces_and_the_far_ends_of_its_wires(scenario: str) -> None:
    lab = lab_of(scenario)
    actions: list[Action] = [action for step in plan(lab).steps for action in step.actions]
    objects = [action for action in actions if isinstance(action, Object)]
    gone = power.namespaces_of(lab, "node2")
    assert gone == {"labctl.x.node2", "labctl.x.server"}
    about = power.actions_about(objects, gone)
    assert [one.namespace for one in about if isinstance(one, NamespaceAdd)] == ["labctl.x.node2", "labctl.x.server"]
    kept = [one for one in objects if one not in about]
    assert not [one.shell() for one in kept if "labctl.x.node2" in one.shell() or "labctl.x.server" in one.shell()
                if "lab.json" not in one.shell()]  # fmt: skip


def test_a_pod_is_not_stopped_and_its_node_is_named() -> None:
    with pytest.raises(UsageError) as wrong:
        power.namespaces_of(sample_lab("x"), "server")
    assert (wrong.value.what, wrong.value.remedy) == ("server is a pod, on node node2", "labctl node x node2 stop")


def test_an_act_is_written_down_until_it_has_ended() -> None:
    changes_path("x").parent.mkdir(parents=True)
    act = Pending(kind=ChangeKind.LINK, name="node1")
    with acting("x", act):
        assert read_changes("x") == Changes(pending=(act,))
        update_changes("x", lambda changes: changes.with_link("node1", is_up=False))
        assert settle("x", lambda act, changes: pytest.fail("it is at work")) == ()
        with pytest.raises(UsageError, match="another labctl is changing link node1"), acting("x", act):
            pass
    assert read_changes("x") == Changes(links_down=("node1",))
    update_changes("x", lambda changes: changes.with_link("node1", is_up=True))
    assert not changes_path("x").exists()


def test_what_was_cut_off_is_finished_as_the_record_has_it() -> None:
    changes_path("x").parent.mkdir(parents=True)
    act = Pending(kind=ChangeKind.NODE, name="node2")
    update_changes("x", lambda changes: changes.with_node("node2", is_stopped=True).begun(act))
    made: list[tuple[str, Changes]] = []
    assert settle("x", lambda act, changes: made.append((str(act), changes))) == ("node node2",)
    assert made == [("node node2", Changes(nodes_stopped=("node2",), pending=(act,)))]
    assert read_changes("x") == Changes(nodes_stopped=("node2",))


def test_a_lab_that_is_gone_gets_no_record_back() -> None:
    update_changes("gone", lambda changes: changes.with_link("node1", is_up=False))
    assert not changes_path("gone").parent.exists()
    assert read_changes("gone") == NOTHING


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("20ms", "s", 0.02), ("1.5s", "s", 1.5), ("250us", "s", 0.00025), ("2", "s", 2.0), ("1%", "1", 0.01),
     ("0.01", "1", 0.01), ("10mbit", "bit/s", 10e6), ("500 kbit", "bit/s", 5e5), ("1Gbit", "bit/s", 1e9)],
)  # fmt: skip
def test_a_quantity_is_read_as_a_person_writes_it(text: str, unit: str, value: float) -> None:
    assert quantity(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit"), [("", "s"), ("fast", "s"), ("-1s", "s"), ("1%", "s"), ("3ms", "bit/s"), ("nan", "1")]
)
def test_what_is_no_quantity_is_refused(text: str, unit: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        quantity(text, unit)
