"""Faults of nodes on clusters: put in and healed by the engine and by the machine, recorded, finished when cut off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import kind_world
from kind_world import TIMES, completed, lab_of
from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import StepFailed, UsageError
from labctl.faults.clusters import CLUSTER_FAULTS
from labctl.faults.table import document
from labctl.model.changes import NOTHING, Broken, ChangeKind, Changes, Pending, Power
from labctl.model.impairment import Impairment
from labctl.model.lab import Lab
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.providers.base import Completed
from labctl.providers.cilium.changing import ClusterChanging
from labctl.providers.cilium.settings import write_record
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kubeadm import ssh
from labctl.providers.kubeadm.provider import KubeadmProvider

CHECKOUT = Path(__file__).resolve().parents[4]


@dataclass
class NodePrograms:
    """systemd and containerd of one node, as far as these faults go."""

    kubelet: bool = True
    agent: bool = True
    refuses: str = ""

    def run(self, line: str) -> tuple[int, str]:
        if self.refuses and self.refuses in line:
            return 1, "Failed to connect to bus"
        if "systemctl stop kubelet" in line:
            self.kubelet = False
        elif "systemctl start kubelet" in line:
            self.kubelet = self.agent = True
        elif "crictl stop" in line:
            self.agent = self.kubelet  # one that runs starts it again
        else:
            raise AssertionError(f"nobody asks for {line}")
        return 0, ""


@dataclass
class Place:
    """A lab of one provider, and its nodes by the scenario's names."""

    changing: ClusterChanging
    lab: Lab
    nodes: dict[str, NodePrograms] = field(default_factory=dict)


class Engine(kind_world.World):
    """Its containers are nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.by_container: dict[str, NodePrograms] = {}

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        if "systemctl" in line or "crictl stop" in line:
            (container,) = set(argv) & set(self.by_container)
            code, said = self.by_container[container].run(line)
            return completed(argv, "", f"{said}\n{TIMES}", code)
        return super().run(argv, timeout_s=timeout_s, stdin=stdin)


class Fleet:
    """Machines, by node."""

    nodes: dict[str, NodePrograms] = {}  # noqa: RUF012

    def __init__(self, machines: object) -> None:
        del machines

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        """There is no connection to close."""

    def __getitem__(self, node: str) -> Any:
        return Machine(self.nodes[node])


class Machine:
    prefix: tuple[str, ...] = ("ssh", "machine")

    def __init__(self, programs: NodePrograms) -> None:
        self.programs = programs

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        code, said = self.programs.run(" ".join(argv))
        return completed(argv, "", f"{said}\n{TIMES}", code)


@pytest.fixture(params=["kind", "kubeadm"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "kind":
        world = Engine()
        provider = KindProvider(commands=world, root=tmp_path / "state")
        lab = lab_of(tmp_path)
        settings = provider.settings(lab)
        nodes = {name: NodePrograms() for name in settings.nodes}
        world.by_container = {settings.nodes[name]: programs for name, programs in nodes.items()}
        write_record(settings.files.record, lab)
        changing = provider.capabilities.changing
    else:
        machines = KubeadmProvider(root=tmp_path / "state")
        lab = make_lab(hosts=THREE_HOSTS)
        nodes = {node.name: NodePrograms() for node in lab.nodes}
        monkeypatch.setattr(ssh, "Fleet", Fleet)
        monkeypatch.setattr(Fleet, "nodes", nodes)
        write_record(machines.settings(lab).files.record, lab)
        changing = machines.capabilities.changing
    assert isinstance(changing, ClusterChanging)
    return Place(changing, lab, nodes)


def test_a_stopped_kubelet_is_recorded_and_healed(place: Place) -> None:
    text, site = place.changing.break_(place.lab, "stopped-kubelet", seed=None, is_hidden=False)
    assert (text.name, site.where) == ("stopped-kubelet", "node2")
    assert (place.nodes["node2"].kubelet, place.nodes["node2"].agent) == (False, True)
    assert all(programs.kubelet for name, programs in place.nodes.items() if name != "node2")
    assert place.changing.changes(place.lab) == Changes(faults=(Broken(fault="stopped-kubelet", where="node2"),))
    assert place.changing.changes(place.lab).sentences() == ("broken by stopped-kubelet at node2",)
    assert place.changing.mend(place.lab, "stopped-kubelet") == ("stopped-kubelet",)
    assert place.nodes["node2"].kubelet
    assert place.changing.changes(place.lab) == NOTHING
    assert place.changing.mend(place.lab, None) == ()


def test_a_stopped_agent_stays_stopped_until_it_is_mended(place: Place) -> None:
    place.changing.break_(place.lab, "stopped-agent", seed=4, is_hidden=False)
    broken = {name for name, programs in place.nodes.items() if not programs.agent}
    assert len(broken) == 1
    assert place.changing.changes(place.lab).faults[0].where in broken
    place.changing.mend(place.lab, None)
    assert all(programs.agent and programs.kubelet for programs in place.nodes.values())


def test_a_hidden_one_is_in_no_record_and_is_mended_all_the_same(place: Place) -> None:
    place.changing.break_(place.lab, "any", seed=1, is_hidden=True)
    assert not all(programs.kubelet for programs in place.nodes.values())
    assert place.changing.changes(place.lab) == NOTHING
    assert place.changing.mend(place.lab, None) == ()
    assert all(programs.kubelet for programs in place.nodes.values())


def test_one_that_fails_half_way_is_taken_back_and_names_the_node_and_the_command(place: Place) -> None:
    place.nodes["node2"].refuses = "crictl"
    with pytest.raises(StepFailed) as failed:
        place.changing.break_(place.lab, "stopped-agent", seed=None, is_hidden=False)
    assert failed.value.what.startswith("node2: sh -c ")
    assert "Failed to connect to bus" in failed.value.cause
    assert "crictl" in failed.value.remedy
    assert place.nodes["node2"].kubelet
    assert place.changing.changes(place.lab) == NOTHING


def test_one_that_was_killed_is_healed_by_the_next_command(place: Place) -> None:
    act = Pending(kind=ChangeKind.FAULT, name="stopped-kubelet")
    broken = Broken(fault="stopped-kubelet", where="node2")
    place.changing._update(place.lab, lambda changes: changes.begun(act).with_fault(broken))
    place.nodes["node2"].kubelet = False
    assert place.changing.settle(place.lab) == ("fault stopped-kubelet",)
    assert place.nodes["node2"].kubelet
    assert place.changing.changes(place.lab) == NOTHING
    assert place.changing.settle(place.lab) == ()


def test_what_is_the_engines_or_the_machines_is_refused_in_words(place: Place) -> None:
    changing, lab = place.changing, place.lab
    acts = {
        "links": (lambda: changing.links(lab), lambda: changing.set_link(lab, ("node1",), is_up=False)),
        "nodes": (lambda: changing.set_node(lab, "node1", Power.STOP),),
        "impairments": (lambda: changing.impair(lab, ("node1",), Impairment(loss=0.01)),),
    }
    for what, those in acts.items():
        for act in those:
            with pytest.raises(UsageError) as refused:
                act()
            assert f"does not change {what} of running labs of the provider {lab.provider}" in refused.value.what
            assert "labctl break" in refused.value.cause
    assert changing.differing(lab, lab.pairs[0], ["node1"]) == ()
    assert changing.impairments(lab) == {}


def test_a_fault_that_there_is_not_and_one_without_an_agent_are_refused(place: Place) -> None:
    with pytest.raises(UsageError) as unknown:
        place.changing.break_(place.lab, "stoped-kubelet", seed=None, is_hidden=False)
    assert unknown.value.remedy == "did you mean 'stopped-kubelet'?"
    foreign = replace(place.lab, pod_network=PodNetworkChoice(type=NetworkType.MANIFEST, manifest="x"), cni="mesh")
    with pytest.raises(UsageError) as idle:
        place.changing.break_(foreign, "stopped-agent", seed=None, is_hidden=False)
    assert "mesh, which has no agent of Cilium" in idle.value.cause
    unfit = {text.name: why for text, why in place.changing.faults(foreign)}
    assert not unfit["stopped-kubelet"]
    assert unfit["stopped-agent"]


def test_a_record_that_cannot_be_read_is_no_change(place: Place) -> None:
    path = place.changing.files(place.lab.name).record.with_name("changes.json")
    for text in ("{", "[]", json.dumps({"faults": 3})):
        path.write_text(text)
        path.chmod(0o600)
        assert place.changing.changes(place.lab) == NOTHING


def test_the_page_of_faults_has_this_table_too() -> None:
    page = (CHECKOUT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert document(CLUSTER_FAULTS) in page
