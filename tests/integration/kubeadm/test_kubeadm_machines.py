"""The playbooks, run for real by ansible-runner over real sshd: up, up again, check, down; and what can go wrong.

Kubernetes programs on the machines are stand-ins; everything else (SSH, files, sysctls, services, state) is real.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeadm_farm import IMAGES, PASSWORD, USER, Farm, let_user_in, two_machines
from kubeadm_labs import make_lab
from labctl.errors import StepFailed
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Lab, Masquerade
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.providers.base import Wait
from labctl.providers.cilium.commands import write_private
from labctl.providers.kubeadm.actions import RenderCilium
from labctl.providers.kubeadm.events import TaskEnded, TaskEvent, TaskOutcome
from labctl.providers.kubeadm.execute import KubeadmExecutor
from labctl.providers.kubeadm.inventory import inventory, join_documents
from labctl.providers.kubeadm.machines import site_machines
from labctl.providers.kubeadm.plan import play_variables
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.runner import AnsibleRunner
from labctl.providers.kubeadm.sessions import OWNER, owner
from labctl.providers.kubeadm.settings import KubeadmSettings

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Two machines for all tests of this module."""
    yield from two_machines(tmp_path_factory.mktemp("machines"))


DEBIANS_CONTAINERD = """version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Farm]:
    """Two machines of this test's own."""
    directory = tmp_path / "machines"
    directory.mkdir()
    yield from two_machines(directory)


def lab_on(grown: Farm, count: int = 2, **kubeadm: Any) -> Lab:
    settings = {"kubernetes": "1.20.2", "offline": True, "kernelChecks": False, **kubeadm}
    return make_lab(hosts=grown.hosts()[:count], nodes=count, kubeadm=settings)


class Story:
    """Hears every task."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    def __call__(self, event: TaskEvent) -> None:
        self.events.append(event)

    def ended(self, *outcomes: TaskOutcome) -> list[str]:
        return [f"{e.node}: {e.task}" for e in self.events if isinstance(e, TaskEnded) and e.outcome in outcomes]


def build(provider: KubeadmProvider, lab: Lab) -> None:
    """Every step of the plan, but for helm and the chart, which are not on every host."""
    settings = provider.settings(lab)
    with provider.executor(lab) as executor:
        assert isinstance(executor, KubeadmExecutor)
        for step in provider.plan(lab).steps:
            for action in step.actions:
                if isinstance(action, RenderCilium):
                    write_private(settings.files.rendered, "kind: ConfigMap\n")
                else:
                    executor.execute((action,))
        executor.finish(lab)


@pytest.mark.thorough
def test_up_twice_changes_nothing_the_second_time_and_down_gives_the_machines_back(fresh: Farm, tmp_path: Path) -> None:
    for each in fresh.machines:
        each.write("/var/standin/images", IMAGES)
    fresh.machines[1].write("/etc/containerd/config.toml", DEBIANS_CONTAINERD)
    # A kernel without br_netfilter.
    hide = "if [ -d /proc/sys/net/bridge ]; then mount -t tmpfs tmpfs /proc/sys/net/bridge; fi"
    fresh.machines[0].run("sh", "-c", hide)
    # A machine that no name server knows and whose name is not in its own /etc/hosts.
    fresh.machines[1].run("hostname", "nobody-knows")
    archive = tmp_path / "tools.tar"
    with tarfile.open(archive, "w") as tar:
        manifest = tarfile.TarInfo("manifest.json")
        said = json.dumps([{"RepoTags": ["tools.tar:1"]}]).encode()
        manifest.size = len(said)
        tar.addfile(manifest, io.BytesIO(said))
    before = [machine.state() for machine in fresh.machines]
    lab, root = lab_on(fresh, images={"archives": [str(archive)]}), tmp_path / "state"
    first, second, third, last = Story(), Story(), Story(), Story()

    build(KubeadmProvider(root=root, observer=first), lab)
    assert "node1: Kubernetes starts (kubeadm init)" in first.ended(TaskOutcome.CHANGED)
    assert "node2: The worker joins (kubeadm join)" in first.ended(TaskOutcome.CHANGED)
    for each in fresh.machines:
        assert "docker.io/library/tools.tar:1" in each.read("/var/standin/images")
    assert "127.0.1.1 nobody-knows" in fresh.machines[1].read("/etc/hosts").splitlines()
    # Debian's containerd looks for CNI plugins elsewhere, and the sandbox image of its defaults is not there.
    for each in fresh.machines:
        config = each.read("/etc/containerd/config.toml")
        assert 'sandbox_image = "k8s.gcr.io/pause:3.2"' in config
        assert "/usr/lib/cni" not in config
    assert 'bin_dir = "/opt/cni/bin"' in fresh.machines[1].read("/etc/containerd/config.toml")
    # With cgroup v1 the driver that containerd uses by itself, and without br_netfilter no check of it.
    # kubeadm refuses a document without a kind, even one that holds nothing but a comment.
    init, _, kubelet = yaml.safe_load_all(fresh.machines[0].read("/etc/labctl/kubeadm.yaml"))
    assert (init["kind"], kubelet["kind"]) == ("InitConfiguration", "KubeletConfiguration")
    assert not re.search(r"\A(#.*\n)*---", fresh.machines[0].read("/etc/labctl/kubeadm.yaml"))
    assert kubelet["cgroupDriver"] == "cgroupfs"
    waived = init["nodeRegistration"]
    assert waived["ignorePreflightErrors"] == ["Swap", "FileContent--proc-sys-net-bridge-bridge-nf-call-iptables"]
    provider = KubeadmProvider(root=root, observer=second)
    found = provider.discover()
    assert [(one.name, one.is_whole, one.is_resumable) for one in found] == [("legacy", True, True)]
    kubeconfig = root / "legacy" / "kubeconfig"
    assert kubeconfig.stat().st_mode & 0o777 == 0o600

    host, boot, numbers, _, _ = owner().split(".")
    killed, elsewhere = f"{host}.{boot}.{numbers}.4194304.1", f"{'0' * 16}.{boot}.{numbers}.1.1"
    left = [
        subprocess.Popen((*fresh.machines[1].enter(), "env", f"{OWNER}={mark}", "setsid", "sleep", "4501"))
        for mark in (killed, elsewhere)
    ]

    build(provider, lab)
    # What a labctl of this host left when it was killed; another host's may be alive, and ends with the lab below.
    left[0].wait(timeout=60)
    assert left[1].poll() is None
    assert second.ended(TaskOutcome.CHANGED, TaskOutcome.FAILED, TaskOutcome.UNREACHABLE) == []
    assert len(second.ended(TaskOutcome.OK)) > 30
    # The kubelet's garbage collection took an image away: what was loaded once is asked for, and loaded again.
    fresh.machines[1].write("/var/standin/images", IMAGES)
    build(KubeadmProvider(root=root, observer=third), lab)
    assert third.ended(TaskOutcome.CHANGED) == ["node2: Load the archive tools.tar"]
    assert "docker.io/library/tools.tar:1" in fresh.machines[1].read("/var/standin/images")

    inits = [call for call in fresh.machines[0].calls() if call.startswith("kubeadm init")]
    # First its checks, without those that pull images; then its start, without the checks.
    checks, start = inits
    assert checks.startswith(
        "kubeadm init --config /etc/labctl/kubeadm.yaml --dry-run --skip-token-print --skip-phases="
    )
    assert not re.search(r"preflight|certs|kubeconfig", checks.rpartition("=")[2].replace("upload-certs", ""))
    assert start == (
        "kubeadm init --config /etc/labctl/kubeadm.yaml --skip-token-print --skip-phases=addon/kube-proxy,preflight"
    )
    assert fresh.machines[0].run("cat", "/var/standin/tokens") == ""
    assert not fresh.machines[1].exists("/etc/labctl/join.yaml")
    kept = "".join(p.read_text(errors="replace") for p in (root / "logs").rglob("*") if p.is_file())
    assert "abcdef.0123456789abcdef" not in kept
    assert "5eec7e7" not in kept

    # This host forgets the lab; its machines do not.
    shutil.rmtree(root / "legacy")
    teller = KubeadmProvider(root=root, observer=last, site=lambda: site_machines(fresh.hosts()))
    sought = teller.seek("legacy")
    assert sought is not None
    assert (sought.scenario, sought.digest, sought.is_whole) == ("legacy", lab.digest, False)
    assert teller.seek("another") is None
    told: list[tuple[str | Wait, float | None]] = []
    with teller.telling(lambda text, duration_s: told.append((text, duration_s))):
        teller.teardown("legacy")
    left[1].wait(timeout=60)
    assert ("See which lab the machine belongs to", None) in told
    assert any(t == "The node leaves Kubernetes (kubeadm reset) (changed: node1, node2)" and s for t, s in told)
    assert "node1: The node leaves Kubernetes (kubeadm reset)" in last.ended(TaskOutcome.CHANGED)
    assert [machine.state() for machine in fresh.machines] == before
    assert teller.discover() == ()
    assert not (root / "legacy").exists()
    teller.teardown("legacy")


MESH = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mesh, namespace: kube-system}
spec:
  template:
    spec:
      containers: [{name: mesh, image: "local/mesh:2"}]
      volumes:
        - {name: plugins, hostPath: {path: /usr/lib/cni}}
        - {name: state, hostPath: {path: /var/lib/mesh}}
"""
MESHS = """
ip link add mesh0 type bridge; ip address add 10.244.0.1/24 dev mesh0; ip link set mesh0 up
ip link add mesh.1 type vxlan id 77 dstport 4799; ip rule add fwmark 0x77 lookup 77 preference 777
iptables -t nat -N MESH-POST; iptables -t nat -A POSTROUTING -s 10.244.0.0/16 -j MESH-POST; iptables -P FORWARD DROP
mkdir -p /var/lib/mesh /usr/lib/cni /etc/cni/net.d
touch /var/lib/mesh/x /usr/lib/cni/mesh /etc/cni/net.d/10-mesh.conflist
"""


@pytest.mark.thorough
def test_a_manifest_s_network_is_applied_and_down_takes_away_what_it_added(fresh: Farm, tmp_path: Path) -> None:
    for each in fresh.machines:
        each.write("/var/standin/images", f"{IMAGES}docker.io/local/mesh:2\nk8s.gcr.io/kube-proxy:v1.20.2\n")
    before = [machine.state() for machine in fresh.machines]
    (tmp_path / "mesh.yaml").write_text(MESH, encoding="utf-8")
    choice = PodNetworkChoice(type=NetworkType.MANIFEST, manifest="mesh.yaml")
    made = lab_on(fresh)
    datapath = Datapath(
        host_routing=HostRouting.LEGACY, encapsulation=Encapsulation.NATIVE, masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=False,
    )  # fmt: skip
    lab = replace(made, datapath=datapath, pod_network=choice, cni="mesh", source=str(tmp_path / "mine.yaml"))
    root, story, again = tmp_path / "state", Story(), Story()
    build(KubeadmProvider(root=root, observer=story), lab)
    assert "node1: The network is what the manifest says" in story.ended(TaskOutcome.CHANGED)
    assert fresh.machines[0].read("/var/standin/applied-network.yaml") == MESH
    assert not any("Cilium" in task for task in story.ended(TaskOutcome.CHANGED))
    for each in fresh.machines:
        each.run("sh", "-euc", MESHS)
    provider = KubeadmProvider(root=root, observer=again)
    (tmp_path / "mesh.yaml").unlink()
    provider.teardown(lab.name)
    assert [machine.state() for machine in fresh.machines] == before


class Play:
    """One playbook at a time against machines of this test."""

    def __init__(self, settings: KubeadmSettings, runner: AnsibleRunner) -> None:
        self.settings, self.runner = settings, runner

    def __call__(self, playbook: str, **keys: Any) -> tuple[str, ...]:
        """Runs it; gives the tasks that changed something."""
        documents = join_documents(self.settings.kubeadm, self.settings.machines)
        result = self.runner.play(
            playbook, inventory(self.settings.machines, documents), play_variables(self.settings), **keys
        )
        return result.changed_tasks


def playing(lab: Lab, tmp_path: Path) -> Iterator[Play]:
    settings = KubeadmProvider(root=tmp_path / "state").settings(lab)
    with AnsibleRunner(tmp_path / "ansible", settings.machines) as runner:
        yield Play(settings, runner)


@pytest.fixture
def play(machines: Farm, tmp_path: Path) -> Iterator[Play]:
    """On the first machine of the module, which is cleaned of traces afterwards."""
    yield from playing(lab_on(machines, 1), tmp_path)
    machines.machines[0].run("sh", "-c", "rm -rf /etc/labctl /etc/kubernetes /var/standin/port-taken /var/lib/kubelet")


@pytest.mark.thorough
def test_check_mode_says_what_would_change_and_changes_nothing(machines: Farm, play: Play) -> None:
    before = machines.machines[0].state()
    assert "node1: The machine carries the lab's mark" in play("prepare", check=True, tags=["look"])
    assert machines.machines[0].state() == before


def test_a_taken_port_ends_with_machine_reason_and_remedy(machines: Farm, play: Play) -> None:
    machines.machines[0].write("/var/standin/port-taken", "")
    machines.machines[0].run("mkdir", "-p", "/etc/labctl")
    with pytest.raises(StepFailed) as failed:
        play("control-plane")
    assert failed.value.what == "node1 (127.0.0.1): kubeadm's own checks pass: failed"
    assert "port 6443 is taken" in failed.value.cause
    assert "sport = :6443" in failed.value.remedy


@pytest.mark.thorough
def test_a_start_that_was_interrupted_is_cleared_away_and_made_again(machines: Farm, play: Play) -> None:
    machines.machines[0].write("/var/standin/init-cut-off", "")
    machines.machines[0].run("mkdir", "-p", "/etc/labctl")
    with pytest.raises(StepFailed) as failed:
        play("control-plane")
    assert "the kubelet says: etcd does not like the disk" in failed.value.cause
    changed = play("control-plane")
    assert "node1: What an interrupted start left behind is removed" in changed
    assert "node1: Kubernetes starts (kubeadm init)" in changed


@pytest.mark.thorough
def test_notes_of_an_earlier_labctl_are_not_believed_and_what_was_made_again_is_joined_again(
    fresh: Farm, tmp_path: Path
) -> None:
    leader, worker = fresh.machines
    for each in fresh.machines:
        each.write("/etc/labctl/initialised", "1.20.2\n")
        each.write("/etc/labctl/joined", "1.20.2\n")
    started, joined = "node1: Kubernetes starts (kubeadm init)", "node2: The worker joins (kubeadm join)"
    for play in playing(lab_on(fresh), tmp_path):
        assert started in play("control-plane")
        assert joined in play("join")
        assert started not in play("control-plane")
        assert joined not in play("join")
        # The worker's part is gone, then the cluster is another one: its authority is.
        worker.run("rm", "/etc/kubernetes/kubelet.conf")
        assert joined in play("join")
        leader.write("/etc/kubernetes/pki/ca.crt", "of another cluster")
        again = play("join")
        assert {"node2: What an interrupted join left behind is removed", joined} <= set(again)


def test_a_machine_of_another_cluster_is_left_alone(machines: Farm, play: Play) -> None:
    machines.machines[0].write("/etc/kubernetes/kubelet.conf", "somebody else's")
    with pytest.raises(StepFailed) as failed:
        play("prepare", tags=["look"])
    assert "labctl leaves it alone" in failed.value.cause
    assert play("reset") == ()
    assert machines.machines[0].read("/etc/kubernetes/kubelet.conf") == "somebody else's"
    assert not machines.machines[0].exists("/etc/labctl")


def test_a_machine_of_another_lab_is_not_reset(machines: Farm, play: Play) -> None:
    machines.machines[0].write("/etc/labctl/lab.json", '{"lab": "bpf"}', 0o600)
    with pytest.raises(StepFailed) as failed:
        play("reset")
    assert failed.value.remedy.startswith("labctl down bpf")
    assert machines.machines[0].exists("/etc/labctl/lab.json")


def debs(directory: Path, *names: str) -> Path:
    """Packages of Kubernetes 1.20.2 with nothing inside."""
    for name in names:
        control = directory / name / "DEBIAN" / "control"
        control.parent.mkdir(parents=True)
        control.write_text(
            f"Package: {name}\nVersion: 1.20.2-00\nArchitecture: all\nMaintainer: a <a@b>\nDescription: {name}\n"
        )
        built = ("dpkg-deb", "--build", str(control.parent.parent), str(directory / f"{name}.deb"))
        subprocess.run(built, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(control.parent.parent)
    return directory


@pytest.mark.thorough
def test_a_bundle_is_installed_without_sources_and_removed_again(machines: Farm, tmp_path: Path) -> None:
    machine = machines.machines[0]
    bundle = debs(tmp_path / "bundle", "kubeadm", "kubelet", "kubectl")
    machine.run("mv", "/usr/local/bin/crictl", "/usr/local/bin/crictl.away")
    machine.run("dpkg", "--purge", "kubeadm", "kubelet", "kubectl")
    listing = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${db:Status-Want}\n")
    before = machine.run(*listing)
    lab = lab_on(machines, 1, offline=False, packages={"source": "bundle", "bundle": str(bundle)})
    for on in playing(lab, tmp_path):
        changed = on("prepare", tags=["look", "packages"])
        assert "node1: The bundle is installed, and nothing is downloaded" in changed
        assert "kubelet 1.20.2-00 hold" in machine.run(*listing).splitlines()
        assert "node1: The machine's previous state is restored" in on("reset")
    assert machine.run(*listing) == before
    machine.run("mv", "/usr/local/bin/crictl.away", "/usr/local/bin/crictl")


def test_swap_is_refused_where_that_is_asked(machines: Farm, tmp_path: Path) -> None:
    machine = machines.machines[0]
    machine.run("sh", "-c", "cp /proc/swaps /tmp/s && echo '/dev/vdb partition 1024 0 -2' >> /tmp/s")
    machine.run("mount", "--bind", "/tmp/s", "/proc/swaps")
    for on in playing(lab_on(machines, 1, swap="refuse"), tmp_path):
        with pytest.raises(StepFailed) as failed:
            on("prepare", tags=["swap"])
        assert "swap is on" in failed.value.cause
        assert "kubeadm.swap: keep" in failed.value.remedy
    machine.run("umount", "/proc/swaps")


@pytest.mark.thorough
def test_a_machine_that_drops_is_named_and_the_other_is_finished(machines: Farm, tmp_path: Path) -> None:
    machines.machines[1].drop.set()
    try:
        for on in playing(lab_on(machines), tmp_path):
            with pytest.raises(StepFailed) as failed:
                on("prepare", tags=["look"])
    finally:
        machines.machines[1].drop.clear()
    assert failed.value.what == "node2 (127.0.0.1): cannot be reached"
    assert "dropped the connection" in failed.value.cause
    assert machines.machines[0].exists("/etc/labctl/lab.json")
    machines.machines[0].run("rm", "-rf", "/etc/labctl")


@pytest.mark.thorough
def test_ansible_recognises_a_wrong_sudo_password_as_well(machines: Farm, tmp_path: Path) -> None:
    machine, password = machines.machines[0], tmp_path / "password"
    password.write_text("wrong")
    password.chmod(0o600)
    let_user_in(machine, machines.key)
    lab = make_lab(
        hosts=[machines.hosts()[0] | {"user": USER, "sudoPasswordFile": str(password)}], nodes=1,
        kubeadm={"offline": True},
    )  # fmt: skip
    for on in playing(lab, tmp_path):
        with pytest.raises(StepFailed) as failed:
            on("prepare", tags=["look"])
        assert f"sudo rejects the password of {USER}" in failed.value.cause
        password.write_text(PASSWORD)
        assert "node1: The machine carries the lab's mark" in on("prepare", tags=["look"])
    kept = "".join(p.read_text(errors="replace") for p in (tmp_path / "ansible").rglob("*") if p.is_file())
    assert PASSWORD not in kept
    machine.run("rm", "-rf", "/etc/labctl")


@pytest.mark.thorough
def test_without_the_programs_offline_work_is_refused_with_what_is_there(machines: Farm, play: Play) -> None:
    machines.machines[0].run("mv", "/usr/local/bin/kubelet", "/usr/local/bin/kubelet.away")
    try:
        with pytest.raises(StepFailed) as failed:
            play("prepare", tags=["look", "packages"])
    finally:
        machines.machines[0].run("mv", "/usr/local/bin/kubelet.away", "/usr/local/bin/kubelet")
    assert "downloading is disabled" in failed.value.cause
