"""Building a kind lab with scripted tools: the documented commands in order, and every failure undone and explained."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from kind_world import World, expect_rendering, lab_of
from labctl.engine.build import build
from labctl.engine.events import silent
from labctl.errors import HostLacks, LabError, StepFailed, UsageError
from labctl.model.lab import Lab, Service, ServiceProtocol, ServiceType
from labctl.providers.cilium.commands import INSTALL, HostCommands, as_run
from labctl.providers.cilium.waiting import WaitForPods
from labctl.providers.cilium.workloads import ENDED
from labctl.providers.kind.actions import DeleteCluster
from labctl.providers.kind.config import kind_config
from labctl.providers.kind.execute import KindExecutor
from labctl.providers.kind.provider import KindProvider

IMAGES = ("local/cilium:v1.13.12", "local/operator-generic:v1.13.12", "local/tools:1")
NODES = ("labctl-bpf-control-plane", "labctl-bpf-worker", "labctl-bpf-worker2")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def provider(world: World, tmp_path: Path) -> KindProvider:
    return KindProvider(commands=world, root=tmp_path / "state")


def built(provider: KindProvider, lab: Lab) -> None:
    expect_rendering(provider, lab)
    build(provider, lab, silent)


def test_up_issues_exactly_the_documented_commands_in_order(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    state = tmp_path / "state" / "bpf"
    kubectl = f"kubectl --kubeconfig {state}/kubeconfig"
    look = "docker ps --all --filter label=io.x-k8s.kind.cluster=labctl-bpf --format '{{.Names}}'"
    assert of_all_nodes_in_order(world.said) == [
        look,
        *(f"docker image inspect {image}" for image in ("local/node:v1.20.2", *IMAGES)),
        (
            f"helm template cilium {tmp_path}/chart --namespace kube-system --kube-version 1.20.2 "
            f"--values {state}/cilium-values.yaml"
        ),
        look,
        f"kind create cluster --name labctl-bpf --config {state}/kind.yaml --kubeconfig {state}/kubeconfig --retain",
        *(f"docker image inspect {image}" for image in IMAGES),
        *(f"docker exec {node} crictl images --output json" for node in NODES),
        f"kind load docker-image {' '.join(IMAGES)} --name labctl-bpf",
        *(f"docker exec {node} ctr --namespace k8s.io images ls -q" for node in NODES),
        f"{kubectl} apply --validate=false -f {state}/cilium.yaml",
        f"{kubectl} -n kube-system get pods -l k8s-app=cilium -o json",
        f"{kubectl} -n kube-system get daemonset cilium -o json",
        f"{kubectl} -n kube-system get pods -l name=cilium-operator -o json",
        f"{kubectl} get nodes -o json",
        f"{kubectl} -n labctl-bpf delete pods '--field-selector={ENDED}' --ignore-not-found",
        f"{kubectl} apply --validate=false -f {state}/workloads.yaml",
        f"{kubectl} -n labctl-bpf get pods -l labctl.io/lab -o json",
    ]


def of_all_nodes_in_order(said: list[str]) -> list[str]:
    """What is asked of all nodes at once comes in any order."""
    ordered: list[str] = []
    for _, lines in itertools.groupby(said, key=lambda line: re.sub(r"^(docker exec) \S+", r"\1", line)):
        ordered += sorted(lines)
    return ordered


def test_two_labs_side_by_side_share_no_address(world: World, provider: KindProvider, tmp_path: Path) -> None:
    legacy, bpf = lab_of(tmp_path, "legacy", "legacy"), lab_of(tmp_path, "bpf", "bpf")
    built(provider, legacy)
    built(provider, bpf)
    first, second = provider.settings(legacy).lab.network, provider.settings(bpf).lab.network
    assert not first.pod_cidr.overlaps(second.pod_cidr)
    assert not first.service_cidr.overlaps(second.service_cidr)
    assert (str(first.pod_cidr), str(first.service_cidr)) == ("10.244.0.0/16", "10.96.0.0/16")
    assert sorted(world.clusters) == ["labctl-bpf", "labctl-legacy"]


def test_the_kubeconfig_is_the_labs_own_and_private(world: World, provider: KindProvider, tmp_path: Path) -> None:
    built(provider, lab_of(tmp_path))
    kubeconfig = tmp_path / "state" / "bpf" / "kubeconfig"
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert all("--kubeconfig" in line for line in world.said if line.startswith("kubectl"))


def test_a_built_lab_is_found_whole_and_taken_down(world: World, provider: KindProvider, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    built(provider, lab)
    (found,) = provider.discover()
    assert (found.name, found.is_whole, found.digest, found.lab) == ("bpf", True, lab.digest, lab)
    provider.teardown("bpf")
    assert world.clusters == {}
    assert provider.discover() == ()
    assert not (tmp_path / "state" / "bpf").exists()


def test_taking_down_what_is_not_there_does_nothing(world: World, provider: KindProvider) -> None:
    provider.teardown("bpf")
    assert not [line for line in world.said if "delete" in line or " rm " in line]


def test_a_half_made_lab_is_found_by_its_mark_without_a_record(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    (tmp_path / "state" / "bpf" / "lab.json").unlink()
    (found,) = provider.discover()
    assert (found.name, found.scenario, found.is_whole, found.lab) == ("bpf", "bpf", False, None)
    provider.teardown("bpf")
    assert world.clusters == {}


def test_a_lab_whose_node_is_gone_is_not_whole(world: World, provider: KindProvider, tmp_path: Path) -> None:
    built(provider, lab_of(tmp_path))
    world.clusters["labctl-bpf"]["nodes"].remove("labctl-bpf-worker2")
    (found,) = provider.discover()
    assert (found.is_whole, found.missing) == (False, ("node labctl-bpf-worker2",))


def test_a_foreign_cluster_is_refused_and_never_deleted(world: World, provider: KindProvider, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    world.make_cluster("labctl-bpf", {"nodes": [{"role": "control-plane"}]}, is_ours=False)
    with pytest.raises(UsageError, match="a kind cluster named labctl-bpf exists, and labctl did not make it"):
        built(provider, lab)
    assert "labctl-bpf" in world.clusters
    provider.teardown("bpf")
    assert not [line for line in world.said if "delete cluster" in line or "docker rm" in line]
    assert provider.discover() == ()


def test_a_cluster_that_a_cut_up_left_whole_is_kept(world: World, provider: KindProvider, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    built(provider, lab)
    world.said.clear()
    built(provider, lab)
    assert not [line for line in world.said if "kind create" in line]


def test_a_cluster_that_a_cut_up_left_half_is_made_again(world: World, provider: KindProvider, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    built(provider, lab)
    world.clusters["labctl-bpf"]["nodes"].pop()
    world.said.clear()
    built(provider, lab)
    acts = [line.split()[1] for line in world.said if re.match(r"kind (create|delete)", line)]
    assert acts == ["delete", "create"]


def test_a_container_that_the_engine_makes_after_kind_was_stopped_is_removed_too(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    lab = lab_of(tmp_path)
    expect_rendering(provider, lab)
    step = next(step for step in provider.plan(lab).steps if step.id == "cluster")
    undo = next(action for action in step.undo if isinstance(action, DeleteCluster))
    config = yaml.safe_load(kind_config(provider.settings(lab)))

    def late(duration_s: float) -> None:
        if not world.clusters and len(sleeps) == 0:
            world.make_cluster("labctl-bpf", config)
        sleeps.append(duration_s)

    sleeps: list[float] = []
    executor = KindExecutor(world, overlapping=lambda _: (), record=lambda _: None, sleep=late)
    executor.execute([undo])
    assert world.clusters == {}
    assert len(sleeps) == 1


def test_a_whole_cluster_that_was_made_from_another_content_is_made_again(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    world.said.clear()
    built(provider, lab_of(tmp_path, kindCluster={"image": "local/node:v1.20.2", "readyTimeoutS": 6.0}))
    acts = [line.split()[1] for line in world.said if re.match(r"kind (create|delete)", line)]
    assert acts == ["delete", "create"]


FAILURES = {
    "docker stopped": ("docker ps", "Cannot connect to the Docker daemon at unix:///x", "systemctl start docker"),
    "no right to the socket": ("docker ps", "permission denied ... /var/run/docker.sock", "run labctl as root"),
    "chart does not render": ("helm template", "Error: chart requires kubeVersion: >= 1.21.0-0", "kindCluster.kubern"),
    "name taken meanwhile": (
        "kind create", 'ERROR: node(s) already exist for a cluster with the name "labctl-bpf"', "another --name",
    ),
    "port taken": ("kind create", "Bind for 127.0.0.1:6443 failed: port is already allocated", "apiServerPort: 0"),
    "disk full while loading": ("kind load", "write /tmp/x: no space left on device", "docker system df"),
    "inotify exhausted": ("kind create", "Failed to create inotify object: Too many open files", "fs.inotify"),
    "a node does not boot": ("kind create", "could not find a log line that matches \"Reached target\"", "inotify"),
    "kubelet on cgroup v1": (
        "kind create", "[kubelet-check] The kubelet is not running or healthy", "cgroupDriver: cgroupfs",
    ),
    "image lost": ("kind load", 'ERROR: image: "local/tools:1" not present locally', "docker load -i"),
    "image that no node takes": ("kind load|images import", "ctr: content digest sha256:1: not found", "archives: ["),
    "API server gone": (
        "apply .*cilium.yaml", "The connection to the server 127.0.0.1:1 was refused", "apiServerAddress",
    ),
    "pods refused": ("apply .*workloads.yaml", "Error from server (Forbidden): pods is forbidden", "  # by hand"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_is_undone_and_says_what_to_do(
    case: str, world: World, provider: KindProvider, tmp_path: Path
) -> None:
    pattern, words, remedy = FAILURES[case]
    world.fail(pattern, words, happens="kind create" in pattern)
    expected = HostLacks if pattern == "docker ps" else StepFailed
    with pytest.raises(expected) as failed:
        built(provider, lab_of(tmp_path))
    assert remedy in failed.value.remedy
    assert words.split(":")[-1].strip()[:20] in failed.value.cause
    assert world.clusters == {}
    if expected is StepFailed:
        kept = tmp_path / "state" / "logs" / "bpf" / "failed-command.txt"
        assert f"less {kept}" in failed.value.remedy
        assert words in kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600


def test_a_tool_that_hangs_is_reported_with_its_deadline(world: World, provider: KindProvider, tmp_path: Path) -> None:
    world.fail("kind create", "", code=-9, timed_out=True, happens=True)
    with pytest.raises(StepFailed, match=r"kind create cluster labctl-bpf did not end in 900 s"):
        built(provider, lab_of(tmp_path))
    assert world.clusters == {}


def test_the_logs_of_a_failure_are_kept_before_the_cluster_goes(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("apply .*workloads", "error: timed out")
    with pytest.raises(StepFailed):
        built(provider, lab_of(tmp_path))
    order = [line.split()[1] for line in world.said if re.match(r"kind (export|delete)", line)]
    assert order == ["export", "delete"]
    summary = (tmp_path / "state" / "logs" / "bpf" / "summary.txt").read_text()
    assert "agents.txt: level=error msg=oops" in summary


def test_retain_leaves_everything(world: World, provider: KindProvider, tmp_path: Path) -> None:
    world.fail("apply .*workloads", "error: timed out")
    lab = lab_of(tmp_path)
    expect_rendering(provider, lab)
    with pytest.raises(StepFailed):
        build(provider, lab, silent, retain=True)
    assert "labctl-bpf" in world.clusters
    (found,) = provider.discover()
    assert found.is_whole is False


@pytest.mark.parametrize(
    "at", ["image inspect", "helm", "kind create", "crictl images", "kind load", "apply", "get pods", "get nodes"]
)
def test_ctrl_c_at_any_point_leaves_nothing(at: str, world: World, provider: KindProvider, tmp_path: Path) -> None:
    real, pressed = world.run, False

    def run(argv: tuple[str, ...], *, timeout_s: float, stdin: bytes = b"") -> object:
        nonlocal pressed
        if at in " ".join(argv) and not pressed:
            pressed = True
            real(argv, timeout_s=timeout_s, stdin=stdin)
            raise KeyboardInterrupt
        return real(argv, timeout_s=timeout_s, stdin=stdin)

    world.run = run  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        built(provider, lab_of(tmp_path))
    assert pressed
    assert world.clusters == {}


def test_an_image_that_may_not_be_fetched_is_a_lack_of_the_host(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.images.remove("local/cilium:v1.13.12")
    with pytest.raises(HostLacks) as lacks:
        built(provider, lab_of(tmp_path))
    assert lacks.value.what == "the image local/cilium:v1.13.12 is not in docker, and pulling is disabled"
    assert not [line for line in world.said if line.startswith("kind create")]


def test_an_image_that_is_missing_is_pulled_where_that_is_allowed(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.images.remove("local/cilium:v1.13.12")
    built(provider, lab_of(tmp_path, kindCluster={"pull": True}))
    assert "docker pull local/cilium:v1.13.12" in world.said


def test_an_image_of_which_the_engine_has_one_platform_only_is_loaded_without_kind(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("kind load docker-image", "Command Output: ctr: content digest sha256:1: not found")
    built(provider, lab_of(tmp_path))
    imported = sorted(line for line in world.said if "images import" in line)
    inside = "/kind/labctl-images.tar"
    assert imported == [f"docker exec {node} ctr --namespace k8s.io images import --digests {inside}" for node in NODES]
    copied = sorted(line.split()[-1] for line in world.said if line.startswith("docker cp"))
    assert copied == sorted(f"{node}:{inside}" for node in NODES)
    removed = sorted(line for line in world.said if "rm -f" in line)
    assert removed == [f"docker exec {node} rm -f {inside}" for node in NODES]
    assert len([line for line in world.said if line.startswith("docker save")]) == 1


@pytest.mark.parametrize(
    "words", ["Error: No such image: x", "Error response from daemon: No such image: x:latest", "x: image not known"]
)
def test_every_engines_words_for_a_missing_image_are_understood(
    words: str, world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("docker image inspect local/tools:1", words)
    with pytest.raises(HostLacks, match="the image local/tools:1 is not in docker, and pulling is disabled"):
        built(provider, lab_of(tmp_path))


def test_an_image_missing_on_one_node_is_named_with_the_node(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.lost_on["labctl-bpf-worker2"] = {"local/tools:1"}
    with pytest.raises(StepFailed) as failed:
        built(provider, lab_of(tmp_path))
    assert failed.value.what == "node labctl-bpf-worker2 lacks local/tools:1"
    assert "--nodes labctl-bpf-worker2" in failed.value.remedy


def test_a_pod_that_can_never_start_is_reported_at_once_with_its_events(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    waiting = {"reason": "ErrImageNeverPull", "message": 'image "local/tools:1" is not present'}
    world.unready["server"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "tools", "state": {"waiting": waiting}, "restartCount": 0}],
    }
    with pytest.raises(StepFailed) as failed:
        built(provider, lab_of(tmp_path))
    assert failed.value.what.endswith("4 of 5 are ready; the others will not become ready")
    assert "server on labctl-bpf-worker2: tools: ErrImageNeverPull" in failed.value.cause
    assert "Failed: it went wrong" in failed.value.cause
    assert "the image is not in that node" in failed.value.remedy


@pytest.mark.parametrize("reason", ["CreateContainerError", "RunContainerError"])
def test_a_container_that_a_busy_node_makes_late_is_waited_for(
    reason: str, world: World, provider: KindProvider, tmp_path: Path
) -> None:
    waiting = {"reason": reason, "message": "context deadline exceeded"}
    world.unready["server"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "tools", "state": {"waiting": waiting}, "restartCount": 0}],
    }
    sleeps: list[float] = []

    def asleep(duration_s: float) -> None:
        sleeps.append(duration_s)
        if len(sleeps) == 3:
            del world.unready["server"]

    executor = KindExecutor(
        world_with_lab(world, provider, tmp_path), overlapping=lambda _: (), record=lambda _: None, sleep=asleep
    )
    executor.execute([pods_of_the_lab(provider, tmp_path)])
    assert len(sleeps) == 3


def world_with_lab(world: World, provider: KindProvider, tmp_path: Path) -> World:
    """The cluster is there; the pods are as `unready` says."""
    unready, world.unready = world.unready, {}
    built(provider, lab_of(tmp_path))
    world.unready = unready
    return world


def pods_of_the_lab(provider: KindProvider, tmp_path: Path) -> WaitForPods:
    actions = provider.plan(lab_of(tmp_path)).steps[-1].actions
    return next(action for action in actions if isinstance(action, WaitForPods))


def test_an_image_that_the_chart_needs_and_is_not_preloaded_is_refused_before_any_cluster(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.also_rendered = """---
kind: Deployment
metadata: {name: hubble-relay}
spec: {template: {spec: {containers: [{name: relay, image: "quay.io/cilium/hubble-relay:v1.13.12"}]}}}
"""
    with pytest.raises(UsageError, match=r"are not preloaded: quay\.io/cilium/hubble-relay") as refused:
        built(provider, lab_of(tmp_path))
    assert "kindCluster.extraImages: [quay.io/cilium/hubble-relay:v1.13.12]" in refused.value.remedy
    assert not world.clusters
    world.images.add("quay.io/cilium/hubble-relay:v1.13.12")
    built(provider, lab_of(tmp_path, kindCluster={"pull": True}))
    assert world.clusters


def test_an_agent_that_crashes_is_reported_with_the_end_of_its_log(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    ended = {"exitCode": 1, "message": "starting\nBPF masquerade requires NodePort"}
    world.unready["cilium-1"] = {
        "phase": "Running",
        "containerStatuses": [
            {
                "name": "cilium-agent",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ended},
                "restartCount": 3,
            }
        ],
    }
    with pytest.raises(StepFailed) as failed:
        built(provider, lab_of(tmp_path))
    assert "cilium-agent: CrashLoopBackOff (BPF masquerade requires NodePort)" in failed.value.cause
    assert "its log: level=error msg=oops" in failed.value.cause


def test_kubectl_is_run_without_websockets_and_shown_without_ado() -> None:
    assert as_run(("kubectl", "exec")) == ("env", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "kubectl", "exec")
    assert as_run(("docker", "ps")) == ("docker", "ps")
    done = HostCommands("kind").run(("true", "x"), timeout_s=60)
    assert (done.argv, done.returncode) == (("true", "x"), 0)


@pytest.mark.parametrize("tool", ["docker", "kind", "kubectl", "helm"])
def test_a_tool_that_is_not_there_is_named_with_how_to_get_it(tool: str, tmp_path: Path) -> None:
    class Without(HostCommands):
        def find(self, program: str) -> str | None:
            return None

    with pytest.raises(HostLacks) as lacks:
        Without("kind").run((tool, "version"), timeout_s=1)
    assert (lacks.value.what, lacks.value.remedy) == (
        f"the kind provider needs {tool}, which is not on this host", INSTALL[tool],
    )  # fmt: skip


def test_without_an_engine_there_are_no_labs(world: World, provider: KindProvider) -> None:
    world.absent_tools = {"docker", "podman", "nerdctl"}
    assert provider.discover() == ()
    assert world.said == []


def test_with_a_silent_daemon_nothing_is_said_to_be_missing_of_labs_on_record(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    world.daemon_is_up = False
    (found,) = provider.discover()
    assert (found.name, found.is_whole, found.missing) == ("bpf", False, ())
    assert found.unasked is not None
    assert found.unasked.what == "docker does not answer"
    assert provider.discover("another") == ()


def test_without_an_engine_labs_on_record_are_not_asked_for_either(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    world.absent_tools = {"docker", "podman", "nerdctl"}
    (found,) = provider.discover()
    assert (found.is_whole, found.missing) == (False, ())
    assert found.unasked is not None
    assert found.unasked.what == "docker is not on this host"


def test_a_daemon_that_cannot_describe_the_nodes_leaves_labs_unknown(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    world.fail("inspect", "error during connect: context deadline exceeded")
    (found,) = provider.discover()
    assert found.missing == ()
    assert found.unasked is not None
    assert "deadline exceeded" in found.unasked.cause


def test_a_chart_of_another_version_is_refused_before_any_cluster(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    lab = lab_of(tmp_path, cilium={"version": "1.13.11"})
    with pytest.raises(UsageError) as refused:
        built(provider, lab)
    assert (refused.value.remedy, world.clusters) == ('cilium.version: "1.13.12"', {})


def test_a_value_that_the_chart_ignores_is_refused_before_any_cluster(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="1 value does not take effect"):
        built(provider, lab_of(tmp_path, cilium={"values": {"bpf": {"masqerade": True}}}))
    assert not [line for line in world.said if line.startswith("kind create")]


def test_a_name_of_another_version_is_refused_before_any_command(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        provider.plan(lab_of(tmp_path, cilium={"values": {"routingMode": "native"}}))
    assert "use tunnel: vxlan | geneve | disabled" in refused.value.cause
    assert world.said == []


def test_one_cluster_is_switched_by_configuration_restart_and_new_pods(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    before, after = lab_of(tmp_path, "cmp", "legacy"), lab_of(tmp_path, "cmp", "bpf")
    built(provider, before)
    world.said.clear()
    plan = provider.switch(before, after)
    expect_rendering(provider, after)
    with provider.executor(after) as executor:
        for step in plan.steps:
            executor.execute(step.actions)
    state = tmp_path / "state" / "cmp"
    kubectl = f"kubectl --kubeconfig {state}/kubeconfig"
    assert world.said[1:] == [
        f"{kubectl} apply --validate=false -f {state}/cilium.yaml",
        f"{kubectl} -n kube-system rollout restart daemonset/cilium",
        f"{kubectl} -n kube-system get pods -l k8s-app=cilium -o json",
        f"{kubectl} -n kube-system get daemonset cilium -o json",
        f"{kubectl} -n labctl-cmp delete pods -l labctl.io/lab --wait --timeout=120s",
        f"{kubectl} -n labctl-cmp delete pods '--field-selector={ENDED}' --ignore-not-found",
        f"{kubectl} apply --validate=false -f {state}/workloads.yaml",
        f"{kubectl} -n labctl-cmp get pods -l labctl.io/lab -o json",
    ]
    assert "hostLegacyRouting: false" in (state / "cilium-values.yaml").read_text()


def test_labs_that_differ_in_more_than_the_datapath_cannot_share_a_cluster(
    provider: KindProvider, tmp_path: Path
) -> None:
    before = lab_of(tmp_path, "one", "legacy")
    with pytest.raises(UsageError) as refused:
        provider.switch(before, lab_of(tmp_path, "two", "bpf"))
    assert "name" in refused.value.cause


def test_every_error_of_this_provider_is_one_that_labctl_can_show(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("helm template", "")
    with pytest.raises(LabError) as failed:
        built(provider, lab_of(tmp_path))
    assert failed.value.lines()[1] == "  why: it printed nothing"


def test_services_become_kubernetes_services_with_the_addresses_of_the_labs_own_range(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    web = Service(
        name="web",
        address=IPv4Address("10.96.0.11"),
        port=80,
        target_port=5205,
        protocol=ServiceProtocol.TCP,
        backends=("server",),
        selector={"app": "server"},
        type=ServiceType.NODE_PORT,
        node_port=30205,
    )
    built(provider, lab_of(tmp_path, "first"))
    lab = replace(lab_of(tmp_path), services=(web,))
    built(provider, lab)
    documents = list(yaml.safe_load_all((tmp_path / "state" / "bpf" / "workloads.yaml").read_text()))
    (made,) = [document for document in documents if document["kind"] == "Service"]
    assert made["spec"] == {
        "type": "NodePort",
        "clusterIP": "10.97.0.11",
        "selector": {"labctl.io/lab": "bpf", "app": "server"},
        "ports": [{"port": 80, "targetPort": 5205, "protocol": "TCP", "nodePort": 30205}],
    }
    assert str(provider.settings(lab).lab.services[0].address) == "10.97.0.11"


@pytest.mark.parametrize(("free_gib", "switches"), [(1.0, True), (64.0, False)])
def test_there_is_one_cluster_where_memory_is_short_and_the_reason_has_the_figures(
    free_gib: float, switches: bool, provider: KindProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("labctl.providers.kind.provider.free_memory_byte", lambda: int(free_gib * 2**30))
    monkeypatch.setattr("labctl.providers.kind.provider.inotify_instances", lambda: 512)
    choice = provider.strategy(lab_of(tmp_path))
    assert (choice.switches, choice.is_asked) == (switches, False)
    assert choice.because == f"2 clusters with 6 nodes in total need about 4.1 GiB, {free_gib:.1f} GiB are free"


@pytest.mark.parametrize(("instances", "switches"), [(128, True), (512, False), (None, False)])
def test_there_is_one_cluster_where_the_kernel_would_not_let_six_nodes_boot(
    instances: int | None, switches: bool, provider: KindProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("labctl.providers.kind.provider.free_memory_byte", lambda: 2**40)
    monkeypatch.setattr("labctl.providers.kind.provider.inotify_instances", lambda: instances)
    choice = provider.strategy(lab_of(tmp_path))
    assert (choice.switches, choice.is_asked) == (switches, False)
    if switches:
        assert choice.because == (
            "fs.inotify.max_user_instances is 128, and kind advises 512 for 2 clusters with 6 nodes in total"
        )


@pytest.mark.parametrize(("word", "switches"), [("switch", True), ("parallel", False)])
def test_the_scenarios_word_about_the_strategy_counts(
    word: str, switches: bool, provider: KindProvider, tmp_path: Path
) -> None:
    choice = provider.strategy(lab_of(tmp_path, kindCluster={"strategy": word}))
    assert (choice.switches, choice.is_asked, choice.because) == (switches, True, f"kindCluster.strategy is {word}")


def test_a_cluster_made_otherwise_cannot_be_switched_to(provider: KindProvider, tmp_path: Path) -> None:
    before = lab_of(tmp_path, "cmp", "legacy")
    with pytest.raises(UsageError, match="one cluster cannot be switched") as refused:
        provider.switch(before, lab_of(tmp_path, "cmp", "bpf", kindCluster={"apiServerPort": 7000}))
    assert refused.value.cause == "they differ in: kindCluster"
    assert provider.switch(before, lab_of(tmp_path, "cmp", "bpf", kindCluster={"strategy": "switch"})).steps


def test_a_daemon_that_hangs_is_told_as_such_and_nothing_is_said_to_be_missing(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    built(provider, lab_of(tmp_path))
    world.fail("docker ps", "", code=-9, timed_out=True)
    (found,) = provider.discover()
    assert (found.is_whole, found.missing) == (False, ())
    assert found.unasked is not None
    assert found.unasked.what == "docker does not answer"
    assert found.unasked.cause == "it did not list its containers within 10 s"
    assert "delete" not in found.unasked.remedy
