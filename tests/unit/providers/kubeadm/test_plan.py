"""The plan for machines: its steps, its shell form (the notes that this project began with), what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import UsageError
from labctl.model.lab import HostRouting, KubeProxy, Masquerade
from labctl.planning.show import as_record, as_script
from labctl.providers.base import Completed
from labctl.providers.cilium.workloads import PodState
from labctl.providers.kubeadm.machines import Machine, machine_from_record, machines_of
from labctl.providers.kubeadm.open import SshWays
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh import MachineCommands

NOTES = (
    "kubeadm init --kubernetes-version=v1.20.5 --image-repository registry.aliyuncs.com/google_containers "
    "--pod-network-cidr=10.244.0.0/16 --service-cidr=10.96.0.0/12 --skip-phases=addon/kube-proxy "
    "--ignore-preflight-errors=Swap"
)


@pytest.fixture
def provider(tmp_path: Path) -> KubeadmProvider:
    return KubeadmProvider(root=tmp_path / "state")


def test_the_script_has_the_command_of_the_notes_word_for_word(provider: KubeadmProvider) -> None:
    lab = make_lab(
        kubeadm={"kubernetes": "1.20.5", "imageRepository": "registry.aliyuncs.com/google_containers"},
        cilium={"version": "1.11.0"},
    )
    lines = as_script(provider.plan(lab)).splitlines()
    assert NOTES in lines
    after = lines[lines.index(NOTES) :]
    assert any(line.startswith("helm template cilium ") for line in lines)
    assert any("apply --validate=false -f -" in line for line in after)


def test_with_real_machines_the_command_goes_on_with_what_two_interfaces_need(provider: KubeadmProvider) -> None:
    lab = make_lab(
        hosts=THREE_HOSTS,
        kubeadm={"kubernetes": "1.20.5", "imageRepository": "registry.aliyuncs.com/google_containers"},
        cilium={"version": "1.11.0"},
    )
    script = as_script(provider.plan(lab))
    assert f"{NOTES} \\\n  --apiserver-advertise-address=192.168.56.10 \\\n  --node-name=node1" in script
    assert "ssh debian@192.168.56.11 sudo sh -eu" in script


@pytest.mark.parametrize("hosts", [(), THREE_HOSTS], ids=["no machines", "three machines"])
def test_the_script_is_valid_shell(provider: KubeadmProvider, hosts: tuple[dict[str, object], ...]) -> None:
    script = as_script(provider.plan(make_lab(hosts=hosts)))
    done = subprocess.run(("sh", "-n"), input=script.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_no_token_or_password_stands_in_the_plan(provider: KubeadmProvider) -> None:
    lab = make_lab(hosts=[{**THREE_HOSTS[0], "sudoPasswordFile": "~/.config/labctl/secret"}, *THREE_HOSTS[1:]])
    plan = provider.plan(lab)
    everything = as_script(plan) + json.dumps(as_record(plan))
    assert "sha256:" not in everything
    assert "labctl/secret" not in everything


def test_the_steps_read_as_a_story_and_can_be_resumed(provider: KubeadmProvider) -> None:
    plan = provider.plan(make_lab(hosts=THREE_HOSTS))
    assert [step.title for step in plan.steps] == [
        "3 machines: reached over SSH and inspected",
        "Cilium 1.13.12 rendered for legacy/vxlan and verified",
        "3 machines: kernel, packages, containerd",
        "node1: Kubernetes 1.20.2 without kube-proxy",
        "node2, node3: join",
        "Cilium 1.13.12 on every node",
        "2 pods, and a helper on each of their nodes",
    ]
    assert plan.is_resumable
    assert not any(step.undo for step in plan.steps)


def test_one_machine_needs_no_join(provider: KubeadmProvider) -> None:
    plan = provider.plan(make_lab(hosts=THREE_HOSTS[:1], nodes=1))
    assert "join" not in [step.id for step in plan.steps]


def test_vagrant_machines_are_made_first_and_have_the_private_addresses(provider: KubeadmProvider) -> None:
    lab = make_lab(kubeadm={"machines": "vagrant", "vagrant": {"network": "192.168.60.0/24"}})
    plan = provider.plan(lab)
    assert plan.steps[0].id == "machines"
    assert [machine.address for machine in machines_of(lab)] == ["192.168.60.10", "192.168.60.11", "192.168.60.12"]
    assert provider.settings(lab).devices == ("eth1",)


def test_switching_installs_cilium_and_makes_pods_again_and_nothing_else(provider: KubeadmProvider) -> None:
    before, after = make_lab(hosts=THREE_HOSTS), make_lab(hosts=THREE_HOSTS, host_routing=HostRouting.BPF)
    plan = provider.switch(before, after)
    assert [step.id for step in plan.steps] == ["chart", "switch", "pods"]
    assert plan.steps[1].title == "Cilium: legacy/vxlan → bpf/vxlan"


def test_labs_that_differ_in_more_than_cilium_cannot_be_switched(provider: KubeadmProvider) -> None:
    before = make_lab(hosts=THREE_HOSTS)
    after = replace(before, network=replace(before.network, pod_cidr=IPv4Network("10.64.0.0/16")))
    with pytest.raises(UsageError, match="cannot be switched") as refused:
        provider.switch(before, after)
    assert refused.value.cause == "they differ in: pod range"


def test_too_few_machines_are_refused_with_what_to_do(provider: KubeadmProvider) -> None:
    with pytest.raises(UsageError) as refused:
        provider.plan(make_lab(hosts=THREE_HOSTS[:2]))
    assert refused.value.what == "the scenario has 3 nodes and lab.yaml lists 2 machines under hosts:"
    assert "--set nodes=2" in refused.value.remedy


def test_a_pair_of_versions_that_cannot_work_is_refused_before_anything_is_reached(provider: KubeadmProvider) -> None:
    with pytest.raises(UsageError, match=r"does not run on Kubernetes 1\.20\.2"):
        provider.plan(make_lab(hosts=THREE_HOSTS, cilium={"version": "1.19.6"}))


def test_building_without_machines_is_refused_before_anything_is_imported(provider: KubeadmProvider) -> None:
    with pytest.raises(UsageError, match="no machines to build on"), provider.executor(make_lab()):
        pass


def test_the_control_plane_comes_first_whatever_the_order_of_hosts() -> None:
    hosts = [{"address": "10.0.0.2"}, {"address": "10.0.0.1", "role": "control-plane"}, {"address": "10.0.0.3"}]
    assert [m.address for m in machines_of(make_lab(hosts=hosts))] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_a_machine_can_say_which_node_it_is() -> None:
    hosts = [{"address": f"10.0.0.{n}", "node": f"node{4 - n}"} for n in (1, 2, 3)]
    assert [m.address for m in machines_of(make_lab(hosts=hosts))] == ["10.0.0.3", "10.0.0.2", "10.0.0.1"]


def test_a_machine_survives_its_record() -> None:
    machine = machines_of(make_lab(hosts=THREE_HOSTS))[0]
    assert machine_from_record(json.loads(json.dumps(machine.record()))) == machine


@pytest.mark.parametrize(
    ("address", "node_address", "cluster"),
    [("10.0.0.1", "", "10.0.0.1"), ("10.0.0.1", "10.1.0.1", "10.1.0.1"), ("machine.example", "", "")],
)
def test_the_clusters_address_is_sshs_own_unless_another_is_said(address: str, node_address: str, cluster: str) -> None:
    machine = Machine(node="node1", role="worker", address=address, node_address=node_address)  # type: ignore[arg-type]
    assert machine.cluster_address == cluster


def test_pods_and_nodes_are_entered_over_the_ssh_of_their_own_machine(tmp_path: Path) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    class Scripted:
        def __init__(self, machine: Machine) -> None:
            self.machine = machine
            self.prefix = MachineCommands(machine).prefix

        def find(self, program: str) -> str | None:
            return None

        def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
            asked.append((self.machine.node, tuple(argv)))
            out = b"c0ffee\n" if argv[1] == "ps" else b'{"info": {"pid": 4711}}'
            return Completed(argv=tuple(argv), returncode=0, stdout=out, stderr=b"", duration_s=0.0)

    settings = read_settings(make_lab(hosts=THREE_HOSTS), tmp_path)
    fleet: Any = {machine.node: Scripted(machine) for machine in settings.machines}
    ways = SshWays(settings, fleet)
    state = PodState(
        namespace=settings.namespace, name="server", node="node2", address="10.244.1.10", is_ready=True, reason="",
        is_hopeless=False, restarts=0,
    )  # fmt: skip

    pod = ways.pod(state, "node2")
    assert [node for node, _ in asked] == ["node2", "node2"]
    assert asked[0][1][-1] == "io.kubernetes.container.name=tools"
    assert pod.command(("ping", "-c", "1", "10.0.0.1"))[:6] == (
        "ssh", "debian@192.168.56.11", "sudo", "nsenter", "--target=4711", "--mount",
    )  # fmt: skip
    # A node whose machine has no tcpdump is captured on in its helper pod; one without pods is left as it is.
    asked.clear()
    assert "nsenter" in ways.capture(ways.node("node1")).door.closed
    assert asked[0][1][6] == "io.kubernetes.pod.name=labctl-helper-node1"
    assert ways.capture(ways.node("node3")).door.closed == ()


@pytest.mark.parametrize("mode", list(KubeProxy))
def test_with_kube_proxy_the_script_leaves_it_in_and_gives_it_its_mode(
    provider: KubeadmProvider, mode: KubeProxy
) -> None:
    lab = make_lab(hosts=THREE_HOSTS, kubeadm={"kubernetes": "1.30.8"}, cilium={"version": "1.16.19"})
    asked = replace(lab.datapath, masquerade=Masquerade.IPTABLES, kube_proxy_replacement=False, kube_proxy=mode)
    plan = provider.plan(replace(lab, datapath=asked))
    titles = [step.title for step in plan.steps]
    assert f"node1: Kubernetes 1.30.8 with kube-proxy in {mode} mode" in titles
    script = as_script(plan)
    assert "--skip-phases=addon/kube-proxy" not in script
    change = "s/^    mode: .*/    featureGates:\\n      NFTablesProxyMode: true\\n    mode: nftables/"
    assert (change in script) is (mode is KubeProxy.NFTABLES)
    assert "registry.k8s.io/kube-proxy:v1.30.8" in provider.settings(replace(lab, datapath=asked)).images
