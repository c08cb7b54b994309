"""Machines with another pod network than Cilium: planned, its images known, opened and observed, switched, refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kind_world import TIMES
from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.checks.mode import judge_mode
from labctl.errors import UsageError
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Lab, Masquerade
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.planning.record import digest_of
from labctl.planning.resolve import unknown_network
from labctl.planning.show import as_record, as_script
from labctl.providers.base import ClockOffset, Completed
from labctl.providers.cilium.commands import HostCommands, WriteFile, write_private
from labctl.providers.cilium.foreign import OpenForeignLab
from labctl.providers.cilium.settings import write_record
from labctl.providers.kubeadm import open as kubeadm_open
from labctl.providers.kubeadm.actions import Play
from labctl.providers.kubeadm.images import Doors, wanted
from labctl.providers.kubeadm.provider import KubeadmProvider

RECORDED = Path(__file__).resolve().parents[3] / "fixtures" / "cluster"
MANIFEST = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mesh, namespace: mesh-system}
spec:
  template:
    spec:
      containers: [{name: mesh, image: "local/mesh:2"}]
      volumes:
        - {name: plugins, hostPath: {path: /usr/lib/cni}}
        - {name: lists, hostPath: {path: /etc/cni/net.d}}
        - {name: state, hostPath: {path: /var/lib/mesh/, type: DirectoryOrCreate}}
        - {name: runtime, hostPath: {path: /run/containerd/containerd.sock}}
        - {name: kernel, hostPath: {path: /sys/fs/bpf}}
        - {name: up, hostPath: {path: /var/lib/mesh/../../etc}}
        - {name: all, hostPath: {path: /}}
"""


def manifest_lab(tmp_path: Path, text: str = MANIFEST) -> Lab:
    """Three machines with the network of a manifest, as a scenario file gives it."""
    (tmp_path / "mesh.yaml").write_text(text, encoding="utf-8")
    return of_network(tmp_path, PodNetworkChoice(type=NetworkType.MANIFEST, manifest="mesh.yaml"))


def of_network(tmp_path: Path, choice: PodNetworkChoice) -> Lab:
    datapath = Datapath(
        host_routing=HostRouting.LEGACY, encapsulation=Encapsulation.NATIVE, masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=False,
    )  # fmt: skip
    lab = replace(
        make_lab(hosts=THREE_HOSTS), datapath=datapath, pod_network=choice, cni=unknown_network(choice),
        source=str(tmp_path / "mine.yaml"),
    )  # fmt: skip
    return replace(lab, digest=digest_of(lab))


@pytest.fixture
def provider(tmp_path: Path) -> KubeadmProvider:
    return KubeadmProvider(root=tmp_path / "state")


def test_a_manifest_takes_cilium_s_place_in_the_plan_and_nothing_of_cilium_is_rendered(
    provider: KubeadmProvider, tmp_path: Path
) -> None:
    plan = provider.plan(manifest_lab(tmp_path))
    assert [step.id for step in plan.steps] == ["look", "prepare", "control-plane", "join", "network", "pods"]
    (network,) = [step for step in plan.steps if step.id == "network"]
    assert network.title == f"what {tmp_path / 'mesh.yaml'} installs on every node (DaemonSet mesh-system/mesh)"
    written, play = network.actions
    assert isinstance(written, WriteFile)
    assert written.text == MANIFEST
    assert isinstance(play, Play)
    assert (play.playbook, len(play.waits)) == ("network", 1)
    script = as_script(plan)
    assert subprocess.run(("sh", "-n"), input=script.encode(), capture_output=True, check=False).returncode == 0
    assert "helm" not in script.replace("has helm", "")
    assert "override_cilium" not in script
    assert "kubectl --kubeconfig /etc/kubernetes/admin.conf wait --for condition=Ready nodes" in script
    statements = provider.statements(manifest_lab(tmp_path))
    assert any("what mesh.yaml installs is not known: it is observed" in one for one in statements)


def test_what_the_playbooks_get_is_the_manifests(provider: KubeadmProvider, tmp_path: Path) -> None:
    plan = provider.plan(manifest_lab(tmp_path))
    (play,) = [
        one for step in plan.steps for one in step.actions if isinstance(one, Play) and one.playbook == "network"
    ]
    said = play.variables["labctl"]
    assert said["cilium_manifest"] == ""
    assert said["network_manifest"] == str(provider.settings(manifest_lab(tmp_path)).files.rendered)
    assert said["rp_filter"] == ""
    assert said["cni_directory"] == "/usr/lib/cni", "where the manifest puts its plugins is where containerd looks"
    assert "local/mesh:2" in said["images"]
    assert not [image for image in said["images"] if "cilium" in image]
    assert "/usr/lib/cni" in said["remember"]["directories"]
    # What is the kernel's, the cluster's, the runtime's or not plain is not the network's to lose.
    assert said["remember"]["network"] == {"paths": ["/var/lib/mesh"]}
    json.dumps(as_record(plan))


def test_a_manifest_that_mounts_no_plugin_directory_leaves_the_runtimes_own(
    provider: KubeadmProvider, tmp_path: Path
) -> None:
    lab = manifest_lab(tmp_path, MANIFEST.replace("/usr/lib/cni", "/var/lib/mesh-plugins"))
    assert provider.settings(lab).cni_directory == ""


def test_cilium_s_machines_remember_no_network_to_take_away(provider: KubeadmProvider) -> None:
    plan = provider.plan(make_lab(hosts=THREE_HOSTS))
    plays = [one for step in plan.steps for one in step.actions if isinstance(one, Play)]
    assert all("network" not in one.variables["labctl"]["remember"] for one in plays)
    assert all(one.variables["labctl"]["network_manifest"] == "" for one in plays)


def test_its_images_are_listed_by_number_and_not_packed(provider: KubeadmProvider, tmp_path: Path) -> None:
    lab = manifest_lab(tmp_path)
    settings = provider.settings(lab)
    parts = wanted(settings, Doors(here=HostCommands("kubeadm")))
    named = [(part.role, part.reference) for part in parts][-3:]
    assert named == [
        ("network1", "local/mesh:2"), ("tools", settings.tools_image), ("kube-proxy", settings.extra_images[0]),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="podNetwork manifest is not packed"):
        provider.pack(lab, tmp_path / "bundle.tar")


def test_switching_makes_pods_again_and_says_that_there_is_nothing_to_switch(
    provider: KubeadmProvider, tmp_path: Path
) -> None:
    lab = manifest_lab(tmp_path)
    plan = provider.switch(lab, lab)
    assert [step.id for step in plan.steps] == ["switch", "pods"]
    assert plan.steps[0].title == "manifest stays: there is nothing of Cilium to switch, pods are made again"
    with pytest.raises(UsageError, match="cannot be switched") as refused:
        provider.switch(make_lab(hosts=THREE_HOSTS), lab)
    assert "pod network" in refused.value.cause


def test_kindnet_is_refused_with_the_way_that_there_is(provider: KubeadmProvider, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        provider.refuse(of_network(tmp_path, PodNetworkChoice(type=NetworkType.KINDNET)))
    assert refused.value.key == "podNetwork"
    assert "podNetwork: {type: manifest, manifest: FILE}" in refused.value.cause


def test_a_file_that_is_gone_is_refused_before_it_is_applied_and_not_missed_afterwards(
    provider: KubeadmProvider, tmp_path: Path
) -> None:
    lab = manifest_lab(tmp_path)
    files = provider.settings(lab).files
    (tmp_path / "mesh.yaml").unlink()
    for ask in (provider.refuse, provider.plan):
        with pytest.raises(UsageError) as refused:
            ask(lab)
        assert refused.value.key == "podNetwork.manifest"
    write_private(files.rendered, MANIFEST)
    assert provider.settings(lab).images[0] == "local/mesh:2"
    with pytest.raises(UsageError):
        provider.plan(lab)


class Machine:
    """A machine of a recorded cluster with a bridge, and what is asked of its API server."""

    prefix: tuple[str, ...] = ()

    def __init__(self, node: str, ready: dict[str, int]) -> None:
        self.node, self.ready, self.said = node, ready, list[str]()

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        self.said.append(line)
        return Completed(
            argv=tuple(argv), returncode=0, stdout=self._answer(line).encode(), stderr=TIMES.encode(), duration_s=0.0,
            timed_out=False,
        )  # fmt: skip

    def _answer(self, line: str) -> str:
        number = self.node[-1]
        if line.startswith("kubectl"):
            return self._asked(line)
        if line.startswith("crictl ps"):
            return "1f00\n"
        if line.startswith("crictl inspect"):
            return json.dumps({"info": {"pid": 4242}})
        if "/sys/class/net/eth0" in line:
            return (RECORDED / "pod-device.txt").read_text()
        if "details link show" in line:
            return (RECORDED / "node-links.json").read_text()
        if "address show" in line:
            return (RECORDED / "node-addresses.json").read_text().replace("10.203.0.11", f"10.203.0.1{number}")
        if "route show" in line:
            return (RECORDED / "node-routes.json").read_text()
        if "KUBE-SVC" in line:
            return "8\n"
        return "10-mesh.conflist\n" if "ls -1" in line else ""

    def _asked(self, line: str) -> str:
        if "daemonset" in line:
            return json.dumps(
                {"kind": "DaemonSet", "status": {"numberReady": self.ready["mesh"], "desiredNumberScheduled": 3}}
            )
        if "get nodes" in line:
            items = [
                {
                    "metadata": {"name": f"node{n}"}, "spec": {"podCIDR": f"10.244.{n}.0/24"},
                    "status": {"addresses": [{"type": "InternalIP", "address": f"10.203.0.1{n}"}]},
                }
                for n in (1, 2, 3)
            ]  # fmt: skip
            return json.dumps({"items": items})
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        pods = [
            {
                "metadata": {"name": name, "namespace": "labctl-legacy"}, "spec": {"nodeName": node},
                "status": {**status, "podIP": address},
            }
            for name, node, address in (("client", "node1", "10.244.1.7"), ("server", "node2", "10.244.2.7"))
        ]  # fmt: skip
        return json.dumps({"items": pods})


class Fleet:
    """`Fleet` without machines behind it."""

    ready: dict[str, int] = {"mesh": 3}  # noqa: RUF012

    def __init__(self, machines: object) -> None:
        self.made = {f"node{n}": Machine(f"node{n}", self.ready) for n in (1, 2, 3)}
        self.control_plane = self.made["node1"]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        """There is no connection to close."""

    def __getitem__(self, node: str) -> Machine:
        return self.made[node]

    def end_strays(self, *, every: bool = False) -> None:
        """Nothing was started."""

    def own_traffic(self) -> str:
        return "tcp port 2222 and host 192.0.2.1"


@pytest.mark.parametrize(("ready", "is_proven"), [(3, True), (2, False)])
def test_a_lab_with_a_manifest_s_network_is_observed_and_in_force_where_its_workloads_are_ready(
    provider: KubeadmProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: int, is_proven: bool
) -> None:
    lab = manifest_lab(tmp_path)
    files = provider.settings(lab).files
    write_private(files.rendered, MANIFEST)
    write_record(files.record, lab)
    (tmp_path / "mesh.yaml").unlink()
    monkeypatch.setattr(Fleet, "ready", {"mesh": ready})
    monkeypatch.setattr(kubeadm_open, "Fleet", Fleet)
    monkeypatch.setattr(kubeadm_open, "measure", lambda node, _: ClockOffset(node=node, offset_s=0.5, error_s=0.001))
    with provider.open(lab) as opened:
        assert isinstance(opened, OpenForeignLab)
        assert opened.lab.cni.startswith("what mesh.yaml installs (")
        pair = lab.pairs[0]
        taps = {tap.name: tap for tap in opened.taps(pair)}
        assert next(iter(taps)) == "client:eth0"
        assert list(taps)[-1] == "server:eth0"
        # labctl's own connections pass the machines' uplinks, and are no packets of the lab.
        assert {tap.own for name, tap in taps.items() if tap.own} == {"tcp port 2222 and host 192.0.2.1"}
        assert opened.clock_offsets(["node2"]) == (ClockOffset(node="node2", offset_s=0.5, error_s=0.001),)
        evidence = opened.testimony(pair, lambda: None)
        found = {(one.witness, one.where): one.finding for one in evidence}
        assert found["network-workloads", "DaemonSet mesh-system/mesh"].startswith(f"{ready} of 3 pods")
        assert found["cni-configuration", "node1"].endswith("/etc/cni/net.d/10-mesh.conflist")
        assert judge_mode(lab.name, opened.lab.asked(), evidence, (), None).proven is is_proven
