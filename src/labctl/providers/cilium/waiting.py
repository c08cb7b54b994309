"""Waits of `up` on a cluster: what is waited for, what was seen of it last, and how long it usually takes here.

One mechanism for kind and kubeadm: `kubectl` is asked every second; each time that something else is seen it is told,
with its reason (a pull that fails, a container that crashes, a pod that no node takes) and not only at the end of the
time. A wait ends at once where waiting is useless, and after the patience of that reason where it may pass by itself.
How long is usual is learned: the times of this host's last waits, in a file beside the labs'.
"""

from __future__ import annotations

import json
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labctl.errors import LabError, MeasureFailed, StepFailed
from labctl.json_text import of_known_form, parse_json
from labctl.planning.shell import quoted, word
from labctl.providers.base import Completed, Tell, Wait, untold
from labctl.providers.cilium.commands import Commands, read_state, write_private
from labctl.providers.cilium.crashes import Crashes
from labctl.providers.cilium.workloads import PodState, parse_events, parse_pods
from labctl.system.clock import monotonic_s
from labctl.system.signals import stop_if_asked
from labctl.values import dataclass

USUAL_FILE = "usual-waits.json"
_KEPT = 5
"""Times of one wait from which the usual one is taken."""
_ASK_S = 30.0
_POLL_S = 1.0
_LONGEST_CAUSE = 1500
_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitForPods:
    """Waits until `count` pods are ready (all containers), and says which are not and why. With `daemonset` its newest
    configuration must be the one that they run."""

    kubectl: tuple[str, ...]
    namespace: str
    selector: str
    count: int
    what: str
    timeout_s: float
    daemonset: str = ""

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self.kubectl, "-n", self.namespace, "get", "pods", "-l", self.selector, "-o", "json")

    @property
    def argv_daemonset(self) -> tuple[str, ...]:
        return (*self.kubectl, "-n", self.namespace, "get", "daemonset", self.daemonset, "-o", "json")

    def argv_events(self, pod: str) -> tuple[str, ...]:
        chosen = f"--field-selector=involvedObject.name={pod}"
        return (*self.kubectl, "-n", self.namespace, "get", "events", chosen, "-o", "json")

    def argv_of(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return (*self.kubectl, "-n", self.namespace, *arguments)

    def shell(self) -> str:
        pods = (*self.kubectl, "-n", self.namespace, "get", "pods", "-l", self.selector, "-o", "name")
        ready = ("--for=condition=Ready", f"--timeout={self.timeout_s:.0f}s")
        wait = quoted((*self.kubectl, "-n", self.namespace, "wait", "pod", "-l", self.selector, *ready))
        missing = word(f"{self.what}: not all there")
        rollout = ""
        if self.daemonset:
            status = ("rollout", "status", f"daemonset/{self.daemonset}", f"--timeout={self.timeout_s:.0f}s")
            rollout = f"{quoted((*self.kubectl, '-n', self.namespace, *status))}\n"
        return (
            f'{rollout}n=0; until [ "$({quoted(pods)} | wc -l)" -ge {self.count} ]; do n=$((n + 1))\n'
            f"  [ $n -lt {self.timeout_s:.0f} ] || {{ printf '%s\\n' {missing} >&2; exit 1; }}\n"
            f"  sleep 1; done\n{wait}"
        )

    def record(self) -> Mapping[str, object]:
        return {
            "kind": "wait-for-pods", "kubectl": list(self.kubectl), "namespace": self.namespace,
            "selector": self.selector, "count": self.count, "what": self.what, "timeout_s": self.timeout_s,
            "daemonset": self.daemonset,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitForNodes:
    """Waits until `count` nodes are Ready, and says which are not and why."""

    kubectl: tuple[str, ...]
    count: int
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self.kubectl, "get", "nodes", "-o", "json")

    def shell(self) -> str:
        return quoted(
            (*self.kubectl, "wait", "node", "--all", "--for=condition=Ready", f"--timeout={self.timeout_s:.0f}s")
        )

    def record(self) -> Mapping[str, object]:
        return {
            "kind": "wait-for-nodes", "kubectl": list(self.kubectl), "count": self.count, "timeout_s": self.timeout_s,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node as Kubernetes knows it. `reason` says why it is not ready, or what presses it; empty when all is well."""

    name: str
    is_ready: bool
    reason: str


@of_known_form("kubectl's list of nodes")
def parse_nodes(text: str) -> tuple[NodeState, ...]:
    """From `kubectl get nodes -o json`. Raises MeasureFailed when the text is no list of nodes."""
    try:
        items = parse_json(text)["items"]
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="kubectl's list of nodes is not JSON", cause=text.strip()[:200]) from failed
    return tuple(_node(item) for item in items)


def _node(item: Mapping[str, object]) -> NodeState:
    status, meta = item.get("status"), item.get("metadata")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    named = {str(one.get("type")): one for one in conditions or () if isinstance(one, dict)}
    ready = named.get("Ready", {})
    is_ready = ready.get("status") == "True"
    pressed = [kind for kind, one in named.items() if kind.endswith("Pressure") and one.get("status") == "True"]
    reason = "" if is_ready else str(ready.get("message") or ready.get("reason") or "its kubelet has not reported yet")
    return NodeState(
        name=str(meta.get("name", "")) if isinstance(meta, dict) else "",
        is_ready=is_ready,
        reason="; ".join((*pressed, *([reason] if reason else []))),
    )


@of_known_form("kubectl's answer about a daemonset")
def is_rolled_out(text: str) -> bool:
    """Whether every pod of the daemonset runs its newest configuration: what `rollout status` waits for."""
    said = parse_json(text)
    status, wanted = said["status"], said["metadata"].get("generation", 0)
    desired = status.get("desiredNumberScheduled", 0)
    return bool(
        status.get("observedGeneration", 0) >= wanted
        and status.get("updatedNumberScheduled", 0) >= desired
        and status.get("numberAvailable", 0) >= desired
    )


class Usual:
    """How long each wait took here the last times; the median of them is what is usual."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def s(self, what: str) -> float | None:
        times = self._known().get(what)
        return statistics.median(times) if times else None

    def learn(self, what: str, took_s: float) -> None:
        """A disk that does not take it, or a file that another user could have written, is no reason to stop."""
        if self._path is None:
            return
        known = self._known()
        known[what] = [*known.get(what, []), round(took_s, 1)][-_KEPT:]
        try:
            write_private(self._path, json.dumps(known, indent=1) + "\n")
        except (LabError, OSError):
            return

    def _known(self) -> dict[str, list[float]]:
        try:
            said = parse_json((read_state(self._path) if self._path else None) or "{}")
        except (ValueError, RecursionError):
            return {}
        return {
            str(what): [float(one) for one in times if isinstance(one, int | float) and 0 <= one < 1e6]
            for what, times in (said.items() if isinstance(said, dict) else ())
            if isinstance(times, list)
        }


class Waits:
    """Carries out waits. `remedy` gives what to try from the whole cause, `failed` an error for a kubectl that never
    answered; both know the provider's tools."""

    def __init__(
        self,
        commands: Commands,
        *,
        remedy: Callable[[str], str],
        failed: Callable[[Completed], StepFailed],
        tell: Tell = untold,
        usual: Usual | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self._commands, self._remedy, self._failed, self._tell = commands, remedy, failed, tell
        self._usual = usual or Usual(None)
        self._sleep, self._now_s = sleep, now_s

    def pods(self, wait: WaitForPods) -> None:
        """Raises StepFailed with each missing pod's reason, its events, and the end of a crashing container's log."""
        stuck: dict[str, float] = {}
        crashes = Crashes(lambda words: self._commands.run(wait.argv_of(words), timeout_s=_ASK_S))
        with_wait = _Watched(wait.what, wait.timeout_s, self._usual, self._tell, self._now_s)
        while True:
            asked = self._commands.run(wait.argv, timeout_s=_ASK_S)
            if asked.returncode == 0 and not asked.timed_out:
                pods = parse_pods(asked.text)
                missing = [pod for pod in pods if not pod.is_ready]
                is_old = not missing and len(pods) >= wait.count and not self._is_rolled_out(wait)
                if len(pods) >= wait.count and not missing and not is_old:
                    with_wait.done()
                    return
                now_s = self._now_s()
                crashes.look(pods, now_s)
                with_wait.sees(_seen_of_pods(wait, pods, crashes, is_old=is_old))
                if _is_useless(missing, stuck, now_s) or any(crashes.is_hopeless(pod, now_s) for pod in missing):
                    raise self._not_ready(wait, pods, crashes, "will not become ready")
                if with_wait.is_over():
                    raise self._not_ready(wait, pods, crashes, f"are not ready after {wait.timeout_s:.0f} s")
            else:
                with_wait.sees(_silence(asked))
                if with_wait.is_over():
                    raise self._failed(asked)
            self._sleep(_POLL_S)
            stop_if_asked()

    def nodes(self, wait: WaitForNodes) -> None:
        """Raises StepFailed that names each node that is not ready, with its kubelet's reason."""
        watched = _Watched("the nodes", wait.timeout_s, self._usual, self._tell, self._now_s)
        while True:
            asked = self._commands.run(wait.argv, timeout_s=_ASK_S)
            if asked.returncode == 0 and not asked.timed_out:
                nodes = parse_nodes(asked.text)
                missing = [f"node {node.name}: {node.reason}" for node in nodes if not node.is_ready]
                if len(nodes) >= wait.count and not missing:
                    watched.done()
                    return
                ready = len(nodes) - len(missing)
                watched.sees("; ".join((f"{ready} of {wait.count} are ready", *missing[:1])))
                if watched.is_over():
                    cause = "; ".join(missing[:_NAMED]) or f"{wait.count - len(nodes)} nodes have not joined"
                    raise StepFailed(
                        what=f"{ready} of {wait.count} nodes are ready after {wait.timeout_s:.0f} s",
                        cause=cause[:_LONGEST_CAUSE],
                        remedy=self._remedy(cause) or f"{shlex.join((*wait.kubectl, 'describe', 'nodes'))}",
                    )
            else:
                watched.sees(_silence(asked))
                if watched.is_over():
                    raise self._failed(asked)
            self._sleep(_POLL_S)
            stop_if_asked()

    def _is_rolled_out(self, wait: WaitForPods) -> bool:
        if not wait.daemonset:
            return True
        asked = self._commands.run(wait.argv_daemonset, timeout_s=_ASK_S)
        return asked.returncode == 0 and not asked.timed_out and is_rolled_out(asked.text)

    def _not_ready(self, wait: WaitForPods, pods: tuple[PodState, ...], crashes: Crashes, how: str) -> StepFailed:
        missing = [pod for pod in pods if not pod.is_ready]
        reasons = [f"pod {pod.name} on {pod.node or 'no node'}: {pod.reason}" for pod in missing]
        if len(pods) < wait.count:
            reasons.append(f"{wait.count - len(pods)} of {wait.count} do not exist yet")
        explained: list[str] = []
        # The one that is the worst off, since the others may only be late.
        for pod in _worst(missing, crashes):
            if pod.crashed:
                explained += [f"its log: {line}" for line in crashes.log(pod)]
            events = self._commands.run(wait.argv_events(pod.name), timeout_s=_ASK_S)
            explained += parse_events(events.text) if events.returncode == 0 else ()
        cause = "; ".join((*reasons[:_NAMED], *explained))
        argv = (*wait.kubectl, "-n", wait.namespace, "describe", "pods", "-l", wait.selector)
        return StepFailed(
            what=f"{wait.what}: {len(pods) - len(missing)} of {wait.count} are ready; the others {how}",
            cause=cause[:_LONGEST_CAUSE],
            remedy=self._remedy(cause) or f"{shlex.join(argv)}  # by hand",
        )


class _Watched:
    """One wait while it lasts: tells what is new, knows when its time is over, learns how long it took."""

    def __init__(self, what: str, timeout_s: float, usual: Usual, tell: Tell, now_s: Callable[[], float]) -> None:
        self._what, self._usual, self._tell, self._now_s = what, usual, tell, now_s
        self._begun_s = now_s()
        self._until_s = self._begun_s + timeout_s
        self._seen = ""

    def sees(self, seen: str) -> None:
        if seen != self._seen:
            self._seen = seen
            waited_s = self._now_s() - self._begun_s
            self._tell(Wait(what=self._what, seen=seen, waited_s=waited_s, usual_s=self._usual.s(self._what)), None)

    def is_over(self) -> bool:
        return self._now_s() >= self._until_s

    def done(self) -> None:
        self._usual.learn(self._what, self._now_s() - self._begun_s)


def _is_useless(missing: list[PodState], stuck: dict[str, float], now_s: float) -> bool:
    """Whether some pod will not become ready. `stuck`: since when each has been in a state that may pass by itself."""
    for name in [name for name in stuck if not any(pod.name == name and pod.is_stuck for pod in missing)]:
        del stuck[name]
    for pod in missing:
        if pod.is_hopeless:
            return True
        if pod.is_stuck and now_s - stuck.setdefault(pod.name, now_s) >= pod.patience_s:
            return True
    return False


def _worst(missing: Sequence[PodState], crashes: Crashes) -> list[PodState]:
    """The one that has most to say for itself: what is wrong is told before what is merely late."""
    return sorted(missing, key=lambda pod: (not pod.is_hopeless, not crashes.is_one(pod), not pod.is_stuck))[:1]


def _seen_of_pods(wait: WaitForPods, pods: tuple[PodState, ...], crashes: Crashes, *, is_old: bool) -> str:
    missing = [pod for pod in pods if not pod.is_ready]
    if is_old:
        return "all are ready, and some still have the configuration before"
    said = [f"{len(pods) - len(missing)} of {wait.count} are ready"]
    for pod in _worst(missing, crashes):
        reason = pod.reason
        if crashes.is_one(pod) and not pod.crashing:
            reason = f"{pod.crashed}: runs again after an error"
        said.append(f"pod {pod.name} on {pod.node or 'no node'}: {reason[:200]}")
        if crashes.is_one(pod):
            said += [f"its log: {line[:200]}" for line in crashes.log(pod)[-1:]]
    return "; ".join(said)


def _silence(asked: Completed) -> str:
    lines = asked.error_text.strip().splitlines()
    return f"kubectl does not answer: {lines[-1][:200] if lines else 'nothing'}"
