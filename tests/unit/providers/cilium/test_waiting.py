"""Waits of `up` on a cluster: what they say while they last, and how soon they say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kind_world import completed
from labctl.errors import StepFailed
from labctl.providers.base import Completed, Wait
from labctl.providers.cilium.waiting import (
    Usual,
    WaitForNodes,
    WaitForPods,
    Waits,
    is_rolled_out,
    parse_nodes,
)
from labctl.testing.scripted import FakeClock

KUBECTL = ("kubectl", "--kubeconfig", "/x")
AGENTS = WaitForPods(
    kubectl=KUBECTL, namespace="kube-system", selector="k8s-app=cilium", count=2, what="Cilium agents", timeout_s=600,
    daemonset="cilium",
)  # fmt: skip
PODS = WaitForPods(kubectl=KUBECTL, namespace="labctl-x", selector="l", count=1, what="pods", timeout_s=600)
NODES = WaitForNodes(kubectl=KUBECTL, count=2, timeout_s=600)
READY: Mapping[str, Any] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def waiting(reason: str, message: str = "", restarts: int = 0) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [a]"}],
        "containerStatuses": [{"name": "a", "state": state, "restartCount": restarts}],
    }


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }
    ],
}  # fmt: skip


class Cluster:
    """What kubectl says, second by second: `pods` and `nodes` at each time, the last of them from then on."""

    prefix: tuple[str, ...] = ()

    def __init__(self, clock: FakeClock, pods: Callable[[float], Sequence[Mapping[str, Any]]]) -> None:
        self.clock, self.pods = clock, pods
        self.nodes: Callable[[float], list[dict[str, Any]]] = lambda now_s: []
        self.updated: Callable[[float], int] = lambda now_s: 2
        self.silent_until_s = 0.0
        self.asked: list[str] = []

    def find(self, program: str) -> str | None:
        return program

    def start(self, *_: object, **__: object) -> Any:
        raise AssertionError("nothing is started")

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        now_s = self.clock.monotonic_s()
        self.asked.append(" ".join(argv[3:]))
        if now_s < self.silent_until_s:
            return completed(argv, err="The connection to the server 10.0.0.1:6443 was refused\n", code=1)
        if "pods" in argv:
            items = [
                {"metadata": {"name": f"p{n}", "namespace": "x"}, "spec": {"nodeName": f"n{n}"}, "status": status}
                for n, status in enumerate(self.pods(now_s))
            ]
            return completed(argv, json.dumps({"items": items}))
        if "daemonset" in argv:
            status = {
                "observedGeneration": 3, "desiredNumberScheduled": 2, "updatedNumberScheduled": self.updated(now_s),
                "numberAvailable": 2,
            }  # fmt: skip
            return completed(argv, json.dumps({"metadata": {"generation": 3}, "status": status}))
        if "nodes" in argv:
            return completed(argv, json.dumps({"items": self.nodes(now_s)}))
        if "logs" in argv:
            return completed(argv, 'starting\nlevel=fatal msg="cannot mount bpffs"\n')
        event = {"type": "Warning", "reason": "Failed", "message": "it went wrong", "lastTimestamp": "1"}
        return completed(argv, json.dumps({"items": [event]}))


class Told:
    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.waits = clock, list[tuple[float, Wait]]()

    def __call__(self, act: str | Wait, duration_s: float | None) -> None:
        assert isinstance(act, Wait)
        self.waits.append((self.clock.monotonic_s(), act))

    @property
    def seen(self) -> list[str]:
        return [wait.seen for _, wait in self.waits]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def waits(cluster: Cluster, told: Told, usual: Usual | None = None) -> Waits:
    def failed(asked: Completed) -> StepFailed:
        return StepFailed("kubectl does not answer", asked.error_text)

    return Waits(
        cluster, remedy=lambda cause: "docker pull IMAGE" if "Pull" in cause else "", failed=failed, tell=told,
        usual=usual, sleep=cluster.clock.sleep, now_s=cluster.clock.monotonic_s,
    )  # fmt: skip


def test_it_says_what_it_waits_for_and_each_time_that_something_else_is_seen(clock: FakeClock) -> None:
    def pods(now_s: float) -> list[Mapping[str, Any]]:
        return [READY, READY if now_s >= 9 else waiting("ContainerCreating")] if now_s >= 4 else []

    told = Told(clock)
    waits(Cluster(clock, pods), told).pods(AGENTS)
    assert [(at_s, wait.what, wait.seen) for at_s, wait in told.waits] == [
        (0, "Cilium agents", "0 of 2 are ready"),
        (4, "Cilium agents", "1 of 2 are ready; pod p1 on n1: Ready: containers with unready status: [a]"),
    ]
    assert [wait.waited_s for _, wait in told.waits] == [0, 4]


def test_how_long_is_usual_is_learned_from_the_last_times_here(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "state" / "usual-waits.json"
    for took_s in (10, 30, 20, 22, 24, 26):
        begun_s = clock.monotonic_s()
        cluster = Cluster(clock, lambda now_s, until=begun_s + took_s: [READY] if now_s >= until else [])  # type: ignore[misc]
        told = Told(clock)
        waits(cluster, told, Usual(path)).pods(PODS)
    assert told.waits[0][1].usual_s == 22  # the median of the five before the last: 10, 30, 20, 22, 24
    assert Usual(path).s("pods") == 24  # of the last five
    assert Usual(path).s("something else") is None
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pods": "x"}', '{"pods": [null, -1, 1e99]}', "[" * 10_000])
def test_a_file_that_is_not_as_it_was_written_says_that_nothing_is_known(text: str, tmp_path: Path) -> None:
    path = tmp_path / "usual-waits.json"
    path.write_text(text)
    path.chmod(0o600)
    assert Usual(path).s("pods") is None


def test_a_wait_that_failed_teaches_nothing(clock: FakeClock, tmp_path: Path) -> None:
    usual = Usual(tmp_path / "usual-waits.json")
    with pytest.raises(StepFailed):
        waits(Cluster(clock, lambda _: [waiting("ErrImageNeverPull")]), Told(clock), usual).pods(PODS)
    assert usual.s("pods") is None


GONE = 'failed to pull and unpack image "x": failed to resolve reference: x: not found'
TIMEOUT = 'failed to do request: Head "https://quay.io/v2/": dial tcp 1.2.3.4:443: i/o timeout'


@pytest.mark.parametrize(
    ("status", "within_s", "said"),
    [
        (waiting("ErrImagePull", GONE), 1, "a: ErrImagePull"),
        (waiting("ErrImageNeverPull", "not present"), 1, "a: ErrImageNeverPull"),
        (waiting("InvalidImageName", "x y"), 1, "a: InvalidImageName"),
        (waiting("ImagePullBackOff", 'Back-off pulling image "x"'), 21, "a: ImagePullBackOff"),
        (waiting("ErrImagePull", TIMEOUT), 21, "a: ErrImagePull"),
        (waiting("CrashLoopBackOff", "back-off 10s", restarts=1), 31, "a: CrashLoopBackOff"),
        (waiting("CrashLoopBackOff", "back-off 40s", restarts=3), 1, "cannot mount bpffs"),
        (UNSCHEDULABLE, 61, "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."),
        (waiting("CreateContainerError", "no space"), 61, "a: CreateContainerError"),
    ],
    ids=lambda value: (
        value["containerStatuses"][0]["state"]["waiting"]["reason"]
        if isinstance(value, dict) and "containerStatuses" in value
        else None
    ),
)
def test_what_will_not_pass_is_told_at_once_and_ends_in_seconds(
    status: dict[str, Any], within_s: float, said: str, clock: FakeClock
) -> None:
    """Not when the time of ten minutes is over."""
    told = Told(clock)
    with pytest.raises(StepFailed, match="0 of 1 are ready; the others will not become ready") as failed:
        waits(Cluster(clock, lambda _: [status]), told).pods(PODS)
    assert clock.monotonic_s() <= within_s
    assert said in failed.value.cause
    at_s, wait = told.waits[0]
    assert at_s == 0
    assert said in wait.seen or "CrashLoopBackOff" in wait.seen
    if "Pull" in said:
        assert failed.value.remedy == "docker pull IMAGE"


@pytest.mark.parametrize(
    "status",
    [
        waiting("ErrImagePull", TIMEOUT),
        waiting("CrashLoopBackOff", "back-off 10s", restarts=1),
        UNSCHEDULABLE,
        waiting("CreateContainerError", "context deadline exceeded"),
    ],
)
def test_what_passes_by_itself_is_waited_for(status: dict[str, Any], clock: FakeClock) -> None:
    told = Told(clock)
    waits(Cluster(clock, lambda now_s: [status if now_s < 15 else READY]), told).pods(PODS)
    assert clock.monotonic_s() == 15
    assert len(told.waits) == 1


def crashing(restarts: int, *, runs: bool, waits: bool = False) -> dict[str, Any]:
    """A pod whose container ends with status 1 again and again: while it runs, just after its end, or held back."""
    ended = {"terminated": {"exitCode": 1}}
    state: dict[str, Any] = {"running": {}} if runs else {"waiting": {"reason": "CrashLoopBackOff"}} if waits else ended
    before = ended if restarts else {}
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [agent]"}],
        "containerStatuses": [
            {"name": "agent", "state": state, "lastState": before, "restartCount": restarts, "image": "x"}
        ],
    }


def crash_loop(run_s: float) -> Callable[[float], list[Mapping[str, Any]]]:
    """As a kubelet does it: at once after the first end, then 10, 20, 40 s later."""

    def pods(now_s: float) -> list[Mapping[str, Any]]:
        begun_s = 0.0
        for restarts, pause_s in enumerate((0.0, 10.0, 20.0, 40.0, 80.0)):
            if now_s < begun_s + run_s:
                return [crashing(restarts, runs=True)]
            if now_s < begun_s + run_s + max(pause_s, 1.0):
                return [crashing(restarts, runs=False, waits=now_s >= begun_s + run_s + 1)]
            begun_s += run_s + max(pause_s, 1.0)
        raise AssertionError("it is waited for longer than that")

    return pods


@pytest.mark.parametrize(("run_s", "within_s"), [(2.0, 40.0), (8.0, 50.0), (35.0, 75.0)])
def test_a_container_that_crashes_is_told_at_its_first_end_with_its_log_and_ends_the_wait(
    run_s: float, within_s: float, clock: FakeClock
) -> None:
    """Though it runs again between two ends, and the wait may take ten minutes."""
    told, cluster = Told(clock), Cluster(clock, crash_loop(run_s))
    with pytest.raises(StepFailed, match="0 of 1 are ready; the others will not become ready") as failed:
        waits(cluster, told).pods(PODS)
    assert clock.monotonic_s() <= within_s
    first_s, first = next((at_s, wait) for at_s, wait in told.waits if "its log: " in wait.seen)
    assert first_s == run_s
    assert 'pod p0 on n0: agent: ended with status 1; its log: level=fatal msg="cannot mount bpffs"' in first.seen
    assert 'its log: level=fatal msg="cannot mount bpffs"' in failed.value.cause
    asked = [words for words in cluster.asked if " logs " in words]
    assert "logs p0 --container agent --tail=40" in asked[0], "the log of the end that was seen just now"
    assert "--previous" in asked[-1] or len(asked) == 1
    assert len(asked) <= 5, "once for each end"


def test_a_container_that_ends_once_and_then_stays_is_waited_for(clock: FakeClock) -> None:
    def pods(now_s: float) -> list[Mapping[str, Any]]:
        if now_s < 5:
            return [crashing(0, runs=True)]
        return [crashing(0, runs=False)] if now_s < 6 else [crashing(1, runs=True)] if now_s < 90 else [READY]

    told = Told(clock)
    waits(Cluster(clock, pods), told).pods(PODS)
    assert clock.monotonic_s() == 90
    assert "agent: runs again after an error" in told.seen[-1]


def test_ends_of_an_earlier_time_are_no_crash_of_now(clock: FakeClock) -> None:
    """After a reboot, or an `up` that failed: it has restarted five times, and starts well."""
    told = Told(clock)
    waits(Cluster(clock, lambda now_s: [crashing(5, runs=True) if now_s < 60 else READY]), told).pods(PODS)
    assert all("its log" not in seen for seen in told.seen)


def test_the_patience_with_a_pod_begins_anew_when_it_got_on(clock: FakeClock) -> None:
    def pods(now_s: float) -> list[Mapping[str, Any]]:
        if now_s >= 60:
            return [READY]
        return [waiting("ContainerCreating") if now_s % 20 >= 15 else waiting("ImagePullBackOff", "Back-off")]

    waits(Cluster(clock, pods), Told(clock)).pods(PODS)


def test_the_worst_pod_is_shown_and_explained_not_the_first(clock: FakeClock) -> None:
    told = Told(clock)
    statuses = [waiting("ContainerCreating"), waiting("ErrImagePull", GONE)]
    with pytest.raises(StepFailed) as failed:
        waits(Cluster(clock, lambda _: statuses), told).pods(AGENTS)
    assert told.seen[0].startswith("0 of 2 are ready; pod p1 on n1: a: ErrImagePull")
    assert "Failed: it went wrong" in failed.value.cause


def test_a_daemonset_is_waited_for_until_every_pod_runs_its_newest_configuration(clock: FakeClock) -> None:
    """After a restart the old agents are ready for a while."""
    cluster, told = Cluster(clock, lambda _: [READY, READY]), Told(clock)
    cluster.updated = lambda now_s: 2 if now_s >= 7 else 1
    waits(cluster, told).pods(AGENTS)
    assert clock.monotonic_s() == 7
    assert told.seen == ["all are ready, and some still have the configuration before"]


@pytest.mark.parametrize(
    ("seen", "updated", "available", "is_done"), [(1, 2, 2, False), (2, 1, 2, False), (2, 2, 1, False), (2, 2, 2, True)]
)
def test_a_rollout_is_over_as_kubectl_says(seen: int, updated: int, available: int, is_done: bool) -> None:
    status = {
        "observedGeneration": seen, "desiredNumberScheduled": 2, "updatedNumberScheduled": updated,
        "numberAvailable": available,
    }  # fmt: skip
    assert is_rolled_out(json.dumps({"metadata": {"generation": 2}, "status": status})) is is_done


def node(name: str, ready: bool = True, reason: str = "", **more: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready), "message": reason}]
    conditions += [{"type": kind, "status": status, "message": ""} for kind, status in more.items()]
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def test_nodes_are_waited_for_and_say_what_their_kubelets_say(clock: FakeClock) -> None:
    cluster, told = Cluster(clock, lambda _: []), Told(clock)
    why = "container runtime network not ready: cni plugin not initialized"
    cluster.nodes = lambda now_s: [node("n1"), *([node("n2", now_s >= 6, why)] if now_s >= 3 else [])]
    waits(cluster, told).nodes(NODES)
    assert told.seen == ["1 of 2 are ready", f"1 of 2 are ready; node n2: {why}"]
    assert told.waits[0][1].what == "the nodes"


def test_nodes_that_never_become_ready_are_named_with_their_reason_and_what_presses_them(clock: FakeClock) -> None:
    cluster = Cluster(clock, lambda _: [])
    cluster.nodes = lambda _: [node("n1"), node("n2", False, "PLEG is not healthy", DiskPressure="True")]
    with pytest.raises(StepFailed, match="1 of 2 nodes are ready after 600 s") as failed:
        waits(cluster, Told(clock)).nodes(NODES)
    assert failed.value.cause == "node n2: DiskPressure; PLEG is not healthy"
    assert failed.value.remedy == "kubectl --kubeconfig /x describe nodes"


def test_an_api_server_that_does_not_answer_yet_is_told_and_waited_for(clock: FakeClock) -> None:
    cluster, told = Cluster(clock, lambda _: [READY]), Told(clock)
    cluster.silent_until_s = 5
    waits(cluster, told).pods(PODS)
    assert told.seen == ["kubectl does not answer: The connection to the server 10.0.0.1:6443 was refused"]
    cluster.silent_until_s = 10_000
    with pytest.raises(StepFailed, match="kubectl does not answer"):
        waits(cluster, told).pods(PODS)


def test_pods_that_are_not_there_at_all_are_counted_when_the_time_is_over(clock: FakeClock) -> None:
    with pytest.raises(StepFailed, match="1 of 2 are ready; the others are not ready after 600 s") as failed:
        waits(Cluster(clock, lambda _: [READY]), Told(clock)).pods(AGENTS)
    assert failed.value.cause == "1 of 2 do not exist yet"


def test_a_node_without_conditions_has_not_reported(clock: FakeClock) -> None:
    (one,) = parse_nodes(json.dumps({"items": [{"metadata": {"name": "n1"}}]}))
    assert (one.is_ready, one.reason) == (False, "its kubelet has not reported yet")


@pytest.mark.parametrize("wait", [AGENTS, PODS, NODES])
def test_each_wait_has_a_record_and_a_line_for_a_shell(wait: WaitForPods | WaitForNodes) -> None:
    assert json.loads(json.dumps(wait.record()))["kind"] in ("wait-for-pods", "wait-for-nodes")
    assert "kubectl --kubeconfig /x" in wait.shell()
