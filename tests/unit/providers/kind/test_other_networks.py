"""kind clusters with another network than Cilium: kind's own, or a manifest's; observed once they run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kind_world import TIMES, World, completed, lab_of
from labctl import app
from labctl.checks.mode import judge_mode
from labctl.engine.build import build
from labctl.engine.events import silent
from labctl.errors import ScenarioInvalid, UsageError
from labctl.loading import load_scenario
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Lab, Masquerade
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.planning.record import digest_of
from labctl.planning.resolve import resolve, unknown_network
from labctl.planning.show import as_script
from labctl.providers.base import Completed
from labctl.providers.cilium.foreign import OpenForeignLab
from labctl.providers.cilium.manifest import parse_manifest
from labctl.providers.kind.config import kind_config
from labctl.providers.kind.provider import KindProvider

RECORDED = Path(__file__).resolve().parents[3] / "fixtures" / "cluster"
MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: mesh-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mesh, namespace: mesh-system}
spec:
  template:
    spec:
      initContainers: [{name: install, image: "local/mesh-cni:2"}]
      containers: [{name: mesh, image: "local/mesh:2"}, {name: again, image: "local/mesh:2"}]
---
apiVersion: v1
kind: List
items:
  - apiVersion: apps/v1
    kind: Deployment
    metadata: {name: mesh-brain, namespace: mesh-system}
    spec: {template: {spec: {containers: [{name: brain, image: "local/brain:2"}]}}}
"""
IMAGES = ("local/mesh-cni:2", "local/mesh:2", "local/brain:2")


class Foreign(World):
    """With nodes and pods that answer as those of a recorded cluster with a bridge."""

    def __init__(self) -> None:
        super().__init__()
        self.images |= set(IMAGES)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        if "exec" in argv and ("kubectl" in argv or "command -v" in line or "ip -json" in line or "ls -1" in line):
            self.said.append(line)
            return completed(argv, self._inside(line), TIMES, int("command -v" in line))
        if "exec" in argv and "KUBE-SVC" in line:
            return completed(argv, "8\n", TIMES)
        done = super().run(argv, timeout_s=timeout_s, stdin=stdin)
        if "nodes -o json" in line:
            document = json.loads(done.text)
            for number, node in enumerate(document["items"], start=1):
                node["status"]["addresses"] = [{"type": "InternalIP", "address": f"10.203.0.1{number}"}]
                node["spec"] = {"podCIDR": f"10.244.{number}.0/24"}
            return completed(argv, json.dumps(document))
        return done

    def _inside(self, line: str) -> str:
        if "/sys/class/net/eth0" in line:
            return (RECORDED / "pod-device.txt").read_text()
        if "details link show" in line:
            return (RECORDED / "node-links.json").read_text()
        if "address show" in line:
            number = 1 if "control-plane" in line else 3 if "worker2" in line else 2
            return (RECORDED / "node-addresses.json").read_text().replace("10.203.0.11", f"10.203.0.1{number}")
        if "route show" in line:
            return (RECORDED / "node-routes.json").read_text()
        return "20-other.conf\n10-mesh.conflist\nREADME\n" if "ls -1" in line else ""


@pytest.fixture
def world() -> Foreign:
    return Foreign()


@pytest.fixture
def provider(world: Foreign, tmp_path: Path) -> KindProvider:
    return KindProvider(commands=world, root=tmp_path / "state")


def lab_with(tmp_path: Path, choice: PodNetworkChoice) -> Lab:
    datapath = Datapath(
        host_routing=HostRouting.LEGACY, encapsulation=Encapsulation.NATIVE, masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=False,
    )  # fmt: skip
    lab = replace(
        lab_of(tmp_path), datapath=datapath, pod_network=choice, cni=unknown_network(choice),
        source=str(tmp_path / "mine.yaml"),
    )  # fmt: skip
    return replace(lab, digest=digest_of(lab))


def kindnet(tmp_path: Path) -> Lab:
    return lab_with(tmp_path, PodNetworkChoice(type=NetworkType.KINDNET))


def by_manifest(tmp_path: Path, text: str = MANIFEST) -> Lab:
    (tmp_path / "mesh.yaml").write_text(text, encoding="utf-8")
    return lab_with(tmp_path, PodNetworkChoice(type=NetworkType.MANIFEST, manifest="mesh.yaml"))


def test_with_kindnet_kind_keeps_its_own_network_and_nothing_of_cilium_is_fetched(
    world: Foreign, provider: KindProvider, tmp_path: Path
) -> None:
    lab = kindnet(tmp_path)
    networking = yaml.safe_load(kind_config(provider.settings(lab)))["networking"]
    assert "disableDefaultCNI" not in networking
    assert networking["kubeProxyMode"] == "iptables"
    assert [step.id for step in provider.plan(lab).steps] == ["look", "images", "cluster", "load", "network", "pods"]
    build(provider, lab, silent)
    assert not [line for line in world.said if "helm" in line or "cilium" in line]
    assert [one.name for one in provider.discover() if one.is_whole] == [lab.name]


def test_a_manifest_is_named_in_the_plan_its_images_are_loaded_and_it_is_applied_as_it_was_read(
    world: Foreign, provider: KindProvider, tmp_path: Path
) -> None:
    lab = by_manifest(tmp_path)
    plan = provider.plan(lab)
    (title,) = [step.title for step in plan.steps if step.id == "network"]
    assert str(tmp_path / "mesh.yaml") in title
    assert "DaemonSet mesh-system/mesh, Deployment mesh-system/mesh-brain" in title
    assert "mesh-brain" in as_script(plan)
    assert yaml.safe_load(kind_config(provider.settings(lab)))["networking"]["disableDefaultCNI"] is True
    build(provider, lab, silent)
    loads = [line for line in world.said if line.startswith("kind load docker-image")]
    assert all(image in loads[0] for image in (*IMAGES, "local/tools:1"))
    applied = next(line for line in world.said if "apply" in line).split()[-1]
    assert Path(applied).read_text() == MANIFEST
    (tmp_path / "mesh.yaml").unlink()
    assert [one.is_whole for one in provider.discover()] == [True], "a lab that is up needs the file no more"
    provider.teardown(lab.name)


@pytest.mark.parametrize(
    ("text", "what", "cause"),
    [
        ("kind: DaemonSet\n  x: [\n", "the manifest mesh.yaml is not YAML", "mesh.yaml:2:4: mapping values are not"),
        ("just: data\n", "the manifest mesh.yaml holds something else than Kubernetes objects", "apiVersion and kind"),
        ("", "the manifest mesh.yaml holds something else than Kubernetes objects", "it is empty"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_its_place_and_the_scenarios_key(
    provider: KindProvider, tmp_path: Path, text: str, what: str, cause: str
) -> None:
    with pytest.raises(UsageError) as refused:
        provider.refuse(by_manifest(tmp_path, text))
    assert refused.value.what == what
    assert cause in refused.value.cause
    assert refused.value.key == "podNetwork.manifest"


def test_aliases_of_a_manifest_do_not_multiply(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: X\na0: &a0 {containers: [{image: one}]}\n"
    text += "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    assert parse_manifest(text, tmp_path / "x.yaml").images == ("one",)


def test_a_lab_with_another_network_is_observed_and_its_network_is_in_force_where_its_workloads_are_ready(
    world: Foreign, provider: KindProvider, tmp_path: Path
) -> None:
    lab = by_manifest(tmp_path)
    build(provider, lab, silent)
    world.workloads |= {("mesh-system", "mesh"): 0, ("mesh-system", "mesh-brain"): 0}
    with provider.open(lab) as opened:
        assert isinstance(opened, OpenForeignLab)
        assert opened.lab.cni.startswith("what mesh.yaml installs (")
        pair = lab.pairs[-1]
        taps = [tap.name for tap in opened.taps(pair)]
        assert taps[0] == "client:eth0"
        assert taps[-1] == "server:eth0"
        assert any(name.startswith("node1:") for name in taps)
        sent: list[bool] = []
        evidence = opened.testimony(pair, lambda: sent.append(True))
        assert sent == [True]
        found = {(one.witness, one.where): one for one in evidence}
        assert found["network-workloads", "DaemonSet mesh-system/mesh"].finding == (
            "3 of 3 pods of DaemonSet mesh-system/mesh are ready"
        )
        assert found["cni-configuration", "node1"].finding.endswith("/etc/cni/net.d/10-mesh.conflist")
        mode = judge_mode(lab.name, opened.lab.asked(), evidence, (), None)
        assert mode.proven
        assert mode.found["manifest"] == "mesh.yaml"
        world.workloads["mesh-system", "mesh"] = 1
        worse = judge_mode(lab.name, opened.lab.asked(), opened.testimony(pair, lambda: None), (), None)
        assert not worse.proven


def test_kindnets_own_daemon_set_says_whether_it_is_in_force(
    world: Foreign, provider: KindProvider, tmp_path: Path
) -> None:
    lab = kindnet(tmp_path)
    build(provider, lab, silent)
    with provider.open(lab) as opened:
        assert opened.lab.cni.startswith("kindnet (")
        evidence = opened.testimony(lab.pairs[0], lambda: None)
        assert judge_mode(lab.name, opened.lab.asked(), evidence, (), None).proven
    del world.workloads["kube-system", "kindnet"]
    with provider.open(lab) as opened:
        evidence = opened.testimony(lab.pairs[0], lambda: None)
        assert not judge_mode(lab.name, opened.lab.asked(), evidence, (), None).proven


SCENARIO = """\
apiVersion: labctl/v1
kind: Scenario
provider: {provider}
pods: [{{name: client, node: node1}}, {{name: server, node: node2}}]
pairs: [{{client: client, server: server}}]
podNetwork: {network}
"""


def test_a_manifest_names_code_and_counts_after_trust(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MANIFEST, encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO.format(provider="kind", network="{type: manifest, manifest: mesh.yaml}"), encoding="utf-8")
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario(str(path), start=tmp_path)
    (problem,) = refused.value.problems
    assert (problem.line, problem.path) == (6, "podNetwork.manifest")
    lab = resolve(load_scenario(str(path), start=tmp_path, trust=True))
    assert KindProvider(commands=World(), root=tmp_path / "state").settings(lab).network_images == IMAGES


@pytest.mark.parametrize(
    ("provider", "because"),
    [("netns", "network namespaces"), ("kubeadm", "comes with kind's node image"), ("cluster", "it is observed")],
)
@pytest.mark.parametrize("network", ["{type: kindnet}", "{type: manifest, manifest: mesh.yaml}"])
def test_providers_that_do_not_have_it_refuse_it_at_its_key_and_say_why(
    tmp_path: Path, provider: str, because: str, network: str
) -> None:
    path = tmp_path / "mine.yaml"
    (tmp_path / "mesh.yaml").write_text(MANIFEST, encoding="utf-8")
    path.write_text(SCENARIO.format(provider=provider, network=network), encoding="utf-8")
    if (provider, network) == ("kubeadm", "{type: manifest, manifest: mesh.yaml}"):
        load_scenario(str(path), start=tmp_path, trust=True, refuse=app.refuse)
        return
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario(str(path), start=tmp_path, trust=True, refuse=app.refuse)
    (problem,) = refused.value.problems
    assert problem.line == 6
    assert problem.path.startswith("podNetwork")
    assert because in problem.message
    assert "--provider kind" in problem.allowed


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("{type: manifest}", "6:13 podNetwork.manifest: is missing: it is the file that installs the network"),
        ("{type: kindnet, manifest: x}", "6:39 podNetwork.manifest: podNetwork kindnet has no manifest"),
    ],
)
def test_a_manifest_belongs_to_its_type(tmp_path: Path, network: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO.format(provider="kind", network=network), encoding="utf-8")
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario(str(path), start=tmp_path, trust=True)
    assert said in [f"{one.line}:{one.column} {one.path}: {one.message}" for one in refused.value.problems]
