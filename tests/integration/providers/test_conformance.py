"""What a person does with labs, done with every provider: one table of acts, and each provider does them all.

netns and the toy of CONTRIBUTING.md build for real. kind runs against scripted tools (kind_world.py), kubeadm by real
Ansible against machines made on the spot (kubeadm_farm.py), with a stand-in for helm; what runs on a cluster that is up
is a real cluster's recording for both. cluster runs against a scripted kubectl (cluster_world.py), with the words of
another real cluster.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import cluster_world
from kind_world import CHART, Cluster, World, completed, expect_rendering, lab_of, render_text
from kubeadm_farm import IMAGES, Farm, two_machines
from kubeadm_labs import make_lab
from labctl import app
from labctl.engine.build import BuildOutcome, build, find, remove, up
from labctl.engine.events import Event, StepStarted, silent
from labctl.engine.run_checks import run_check
from labctl.errors import Interrupted, LabError, UsageError
from labctl.model.lab import CheckSpec, Fault, Lab
from labctl.model.parameters import PingParameters
from labctl.model.result import Completed, Verdict
from labctl.planning.record import digest_of
from labctl.providers.base import OpenLab, Probe, Provider, RunningLab, TargetKind
from labctl.providers.cluster.provider import ClusterProvider
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kubeadm import open as kubeadm_open
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import MemoryRaw
from toy_provider import ToyProvider

PROVIDERS = ("toy", "netns", "kind", "kubeadm", "cluster")
REAL = ("toy", "netns")
"""Whose commands in pods and on nodes really run."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A provider and labs for it. `damage` takes a part from under the lab; `left` is what there is of any of its labs,
    empty once they are down; `opened` opens the lab that is up."""

    provider: Provider
    lab: Lab
    damage: Callable[[], None]
    left: Callable[[], Sequence[object]]
    opened: Callable[[], AbstractContextManager[OpenLab]]
    refused: Lab
    expect: Callable[[Lab], None] = lambda lab: None
    """Tells the stand-ins which lab comes next."""
    on_this_host: Provider | None = None
    """The provider without stand-ins, where it has some."""

    @property
    def listed(self) -> list[RunningLab]:
        """What `labctl list` shows of it; others have labs on this host too."""
        return [lab for lab in self.provider.discover() if lab.name == self.lab.name]

    def up(self, lab: Lab | None = None) -> BuildOutcome:
        self.expect(lab or self.lab)
        return up(self.provider, lab or self.lab, silent)

    def down(self) -> None:
        remove(self.provider, self.lab.name, silent)


def other_content(lab: Lab) -> Lab:
    """Another lab of the same name."""
    changed = replace(lab, network=replace(lab.network, mtu=lab.network.mtu - 100))
    return replace(changed, digest=digest_of(changed))


def _toy(tmp_path: Path) -> Contender:
    provider, lab = ToyProvider(tmp_path), replace(sample_lab("toys"), provider="toy")
    lab = replace(lab, digest=digest_of(lab))
    return Contender(
        provider=provider,
        lab=lab,
        damage=lambda: (tmp_path / "toys" / "server").rmdir(),
        left=lambda: list(tmp_path.iterdir()),
        opened=lambda: provider.open(lab),
        refused=replace(lab, datapath=replace(lab.datapath, faults=(Fault.WRONG_VNI,))),
    )


def _netns(prefix: str) -> Contender:
    provider, lab = NetnsProvider(), sample_lab(f"{prefix}-c")
    return Contender(
        provider=provider,
        lab=lab,
        damage=lambda: netns.delete(f"labctl.{lab.name}.server"),
        left=lambda: [name for name in netns.names() if name.startswith(f"labctl.{lab.name}.")],
        opened=lambda: provider.open(lab),
        refused=replace(lab, datapath=replace(lab.datapath, kube_proxy_replacement=False, socket_lb=False)),
    )


def _kind(tmp_path: Path) -> Contender:
    world, state = World(), tmp_path / "state"
    provider, lab = KindProvider(commands=world, root=state), lab_of(tmp_path)
    return Contender(
        provider=provider,
        lab=lab,
        damage=lambda: world.clusters["labctl-bpf"]["nodes"].remove("labctl-bpf-worker2"),
        left=lambda: [*world.clusters, *(folder for folder in state.glob("*") if folder.name != "logs")],
        opened=lambda: KindProvider(commands=Cluster(), root=state).open(lab),
        refused=replace(lab, datapath=replace(lab.datapath, extra_iptables_rules=7)),
        expect=lambda lab: expect_rendering(provider, lab),
        on_this_host=KindProvider(root=state),
    )


def _cluster(tmp_path: Path) -> Contender:
    world, state = cluster_world.KubeWorld(), tmp_path / "state"
    provider, lab = ClusterProvider(commands=world, root=state), cluster_world.lab_of()
    return Contender(
        provider=provider,
        lab=lab,
        damage=lambda: operator.delitem(world.pods["labctl-bpf"], "server"),
        left=lambda: [*world.namespaces, *state.glob("*")],
        opened=lambda: provider.open(lab),
        refused=replace(lab, datapath=replace(lab.datapath, extra_iptables_rules=7)),
        on_this_host=ClusterProvider(root=state),
    )


class Machine(Cluster):
    """One machine of a recorded cluster: what is run there is run on its own node, or in a container of it."""

    def __init__(self, node: str) -> None:
        super().__init__(nodes={"node1": "node1", "node2": "node2"}, lab="legacy")
        self.node = node

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        match argv:
            case ("crictl", "ps", *_):
                return completed(argv, "1f00\n")
            case ("crictl", "inspect", *_):
                return completed(argv, json.dumps({"info": {"pid": 4242}}))
            case ("ip", "-json", *_):
                return completed(argv, "[]")
            case ("kubectl", *_):
                return super().run(argv, timeout_s=timeout_s, stdin=stdin)
        return super().run(("exec", *argv, f"worker{self.node[-1]}"), timeout_s=timeout_s, stdin=stdin)


class RecordedFleet:
    """`Fleet` without a machine behind it."""

    def __init__(self, machines: object) -> None:
        self.control_plane = Machine("node1")

    def __enter__(self) -> RecordedFleet:
        return self

    def __exit__(self, *_: object) -> None:
        """There is no connection to close."""

    def __getitem__(self, node: str) -> Machine:
        return Machine(node)

    def end_strays(self, *, every: bool = False) -> None:
        """Nothing was started on a machine."""

    def own_traffic(self) -> str:
        return ""


def _kubeadm(farm: Farm, folder: Path) -> Contender:
    chart, state, programs = folder / "chart", folder / "state", folder / "bin"
    provider = KubeadmProvider(root=state)
    for made in (chart, programs):
        made.mkdir(exist_ok=True)
    for name, text in CHART.items():
        (chart / name).write_text(text)
    lab = make_lab(
        hosts=farm.hosts(),
        nodes=2,
        kubeadm={"kubernetes": "1.20.2", "offline": True, "kernelChecks": False},
        cilium={"chart": str(chart)},
    )

    def expect(lab: Lab) -> None:
        settings = provider.settings(lab)
        (folder / "rendered.yaml").write_text(render_text(settings))
        (programs / "helm").write_text(f"#!/bin/sh\ncat {folder / 'rendered.yaml'}\n")
        (programs / "helm").chmod(0o755)

    @contextlib.contextmanager
    def opened() -> Iterator[OpenLab]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(kubeadm_open, "Fleet", RecordedFleet)
            with provider.open(lab) as running:
                yield running

    return Contender(
        provider=provider,
        lab=lab,
        damage=lambda: (state / lab.name / "lab.json").unlink(),
        left=lambda: (
            [path for path in state.glob("*") if path.name != "logs"]
            + [machine.name for machine in farm.machines if machine.exists("/etc/labctl")]
        ),
        opened=opened,
        refused=replace(lab, datapath=replace(lab.datapath, extra_iptables_rules=7)),
        expect=expect,
    )


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    for grown in two_machines(tmp_path_factory.mktemp("conformance")):
        for machine in grown.machines:
            machine.write("/var/standin/images", IMAGES)
        yield grown


@pytest.fixture
def contender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Contender]:
    """The labs of kubeadm, which take long, stay up from one act to the next; the others' do not."""
    match request.param:
        case "toy":
            made = _toy(tmp_path)
        case "netns":
            made = _netns(request.getfixturevalue("host_as_found"))
        case "kind":
            made = _kind(tmp_path)
        case "cluster":
            made = _cluster(tmp_path)
        case _:
            grown = request.getfixturevalue("farm")
            monkeypatch = request.getfixturevalue("monkeypatch")
            made = _kubeadm(grown, grown.directory)
            monkeypatch.setenv("PATH", f"{grown.directory / 'bin'}:{os.environ['PATH']}")
    yield made
    if request.param != "kubeadm":
        made.down()


def asks_what_the_host_has(one: Contender) -> None:
    probes = list((one.on_this_host or one.provider).probes())
    assert probes
    assert [probe for probe in probes if not _tells(probe)] == []


def _tells(probe: Probe) -> bool:
    """What was looked for, what was found and what it is needed for; of a lack, what mends it."""
    has_remedy = probe.present or bool(probe.remedy) or not probe.is_looked_at
    return bool(probe.name and probe.found and probe.needed_for) and has_remedy


def reads_what_labs_are(one: Contender) -> None:
    assert one.provider.statements(one.lab)[0] == one.provider.statement
    assert one.lab.provider == one.provider.name


def looks_at_a_plan(one: Contender) -> None:
    before = list(one.left())
    plan = one.provider.plan(one.lab)
    assert plan == one.provider.plan(one.lab)
    assert (plan.lab, plan.provider) == (one.lab.name, one.provider.name)
    assert len({step.id for step in plan.steps}) == len(plan.steps)
    for step in plan.steps:
        assert step.title
        for action in (*step.actions, *step.undo):
            assert action.shell()
            assert json.loads(json.dumps(action.record()))["kind"]
    assert list(one.left()) == before


def asks_for_what_cannot_be_built(one: Contender) -> None:
    one.provider.refuse(one.lab)
    said = []
    for act in (one.provider.refuse, one.provider.plan):
        with pytest.raises(UsageError) as refused:
            act(one.refused)
        said.append((refused.value.what, refused.value.key))
    assert said[0] == said[1]
    assert said[0][1].startswith("datapath.")


def builds_a_lab_and_finds_it_whole(one: Contender) -> None:
    assert one.up() in (BuildOutcome.BUILT, BuildOutcome.UNCHANGED)
    found = find([one.provider], one.lab.name)
    assert found is not None
    running = found.running
    assert (running.name, running.provider, running.scenario) == (one.lab.name, one.provider.name, one.lab.scenario)
    assert (running.is_whole, running.missing, running.digest) == (True, (), one.lab.digest)
    assert running.lab == one.lab
    assert one.listed == [*one.provider.discover(one.lab.name)] == [running]
    assert one.provider.discover("nobody") == ()


def builds_it_once_more(one: Contender) -> None:
    one.up()
    before = list(one.left())
    assert one.up() is BuildOutcome.UNCHANGED
    assert list(one.left()) == before


def builds_another_under_its_name(one: Contender) -> None:
    one.up()
    with pytest.raises(UsageError, match=f"a lab named {one.lab.name} is already up and differs from this one"):
        one.up(other_content(one.lab))
    assert one.up() is BuildOutcome.UNCHANGED


def goes_into_pods_and_nodes(one: Contender) -> None:
    one.up()
    with one.opened() as open_lab:
        pods, nodes = {pod.name for pod in one.lab.pods}, {node.name for node in one.lab.nodes}
        assert {pod.name for pod in open_lab.lab.pods} == pods
        kinds = {target.name: target.kind for target in open_lab.targets() if target.kind is not TargetKind.UNDERLAY}
        assert kinds == dict.fromkeys(pods, TargetKind.POD) | dict.fromkeys(nodes, TargetKind.NODE)
        for name in kinds:
            target = open_lab.target(name)
            assert target.name == name
            assert target.command(("echo", "hello"))[-2:] == ("echo", "hello")
            done = target.run(("echo", "hello"), timeout_s=60)
            assert (done.returncode, done.text) == (0, "hello\n")
        with pytest.raises(UsageError):
            open_lab.target("nobody")


def looks_where_packets_go(one: Contender) -> None:
    one.up()
    with one.opened() as open_lab:
        for pair in open_lab.lab.pairs:
            taps = open_lab.taps(pair)
            assert len({tap.name for tap in taps}) == len(taps)
            assert (taps[0].role, taps[-1].role) == ("client-eth0", "server-eth0")
            assert (taps[0].target.name, taps[-1].target.name) == (pair.client, pair.server)
            roles = [tap.role for tap in taps]
            assert {device.role for device in open_lab.devices(pair)} <= set(roles)
        assert open_lab.clock_offsets(()) == ()


def measures(one: Contender) -> None:
    one.up()
    spec = CheckSpec(name="ping", kind="ping", parameters=PingParameters(count=3))
    with one.opened() as open_lab:
        for pair in open_lab.lab.pairs:
            result = run_check(app.checks()["ping"], open_lab, pair, spec, MemoryRaw(), silent)
            assert result.verdict is Verdict.PASS, result.reason
            assert any(sample.value > 0 for sample in result.samples)


def loses_a_part_and_builds_again(one: Contender) -> None:
    one.up()
    one.damage()
    (hurt,) = one.provider.discover(one.lab.name)
    assert not hurt.is_whole
    assert hurt.missing
    assert one.up() is BuildOutcome.BUILT
    (mended,) = one.provider.discover(one.lab.name)
    assert mended.is_whole


def presses_ctrl_c(one: Contender) -> None:
    """In the middle of building: nothing is left, or what `up` goes on with."""
    one.down()
    one.expect(one.lab)
    middle = len(one.provider.plan(one.lab).steps) // 2 + 1

    def stop(event: Event) -> None:
        if isinstance(event, StepStarted) and event.number == middle:
            raise Interrupted(what="Ctrl-C")

    with pytest.raises(Interrupted):
        build(one.provider, one.lab, stop)
    if one.provider.plan(one.lab).is_resumable:
        (half,) = one.provider.discover(one.lab.name)
        assert (half.is_whole, half.is_resumable) == (False, True)
    else:
        assert one.provider.discover(one.lab.name) == ()
        assert list(one.left()) == []


def asks_what_else_its_labs_can(one: Contender) -> None:
    can = one.provider.capabilities
    assert can.seek("nobody") is None
    assert can.processes("nobody") == ()
    assert [probe for probe in can.machine_probes() if not _tells(probe)] == []
    with can.telling(lambda text, duration_s: None):
        pass
    if can.packing is not None:
        parts = can.packing.images(one.lab)
        assert {"agent", "operator", "tools", "chart"} <= {part.role for part in parts}
        assert all(part.reference for part in parts)
    if can.switching is not None:
        assert can.switching.strategy(one.lab).because
        with pytest.raises(UsageError, match="cannot be switched"):
            can.switching.switch(one.lab, replace(one.lab, name="another"))


def takes_it_down(one: Contender) -> None:
    one.up()
    one.down()
    assert one.listed == []
    assert list(one.left()) == []
    one.down()
    with pytest.raises(LabError), one.provider.open(one.lab):
        pass


ACTS: dict[str, Callable[[Contender], None]] = {
    act.__name__: act
    for act in (
        asks_what_the_host_has,
        reads_what_labs_are,
        looks_at_a_plan,
        asks_for_what_cannot_be_built,
        presses_ctrl_c,
        builds_a_lab_and_finds_it_whole,
        builds_it_once_more,
        builds_another_under_its_name,
        goes_into_pods_and_nodes,
        looks_where_packets_go,
        asks_what_else_its_labs_can,
        loses_a_part_and_builds_again,
        takes_it_down,
    )
}


THOROUGH = (presses_ctrl_c, builds_it_once_more, builds_another_under_its_name, loses_a_part_and_builds_again)
"""What takes a minute with Ansible; `make test-machines` does these with kubeadm as well."""


def _cells() -> Iterator[Any]:
    for provider in PROVIDERS:
        for name, act in ACTS.items():
            marks = [pytest.mark.root] if provider in ("netns", "kubeadm") else []
            if provider == "kubeadm" and act in THOROUGH:
                marks.append(pytest.mark.thorough)
            yield pytest.param(provider, name, marks=marks, id=f"{provider} {name.replace('_', ' ')}")


# Before the machines of kubeadm are there, whose connections end by themselves some time after their last use.
@pytest.mark.parametrize("contender", [pytest.param(name, marks=pytest.mark.root) for name in REAL], indirect=True)
def test_a_check_runs_unchanged(contender: Contender) -> None:
    measures(contender)


@pytest.mark.parametrize(("contender", "act"), _cells(), indirect=["contender"])
def test_a_person(contender: Contender, act: str) -> None:
    ACTS[act](contender)
