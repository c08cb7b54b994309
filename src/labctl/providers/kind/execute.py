"""Carries out the actions of a kind plan through the command door. Every failure says what to do next.

Waiting for pods: asks until they are ready, stops where waiting is useless, says what is missing and why.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labctl.errors import HostLacks, LabError, StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.providers.base import Completed
from labctl.providers.cilium.chart import read_chart
from labctl.providers.cilium.commands import Commands, WriteFile, read_state, write_private
from labctl.providers.cilium.rendered import parse_rendered, refuse_differences, refuse_wrong_chart
from labctl.providers.cilium.workloads import PodState, parse_events, parse_pods
from labctl.providers.kind import clusters, outside
from labctl.providers.kind.actions import (
    CollectLogs,
    Command,
    CreateCluster,
    DeleteCluster,
    HaveImage,
    LoadImage,
    NodesHaveImages,
    RefuseForeign,
    RefuseOverlap,
    RenderChart,
    RestartAgents,
    VerifyChart,
    WaitForPods,
    WriteMirrors,
    stored_name,
)
from labctl.providers.kind.failures import failed_command, meaningful, remedy_for
from labctl.providers.kind.outside import RemoveOutside, StartOutside
from labctl.system import files
from labctl.system.clock import Deadline

_LOOK_S = 30.0
_LATE_S = 1.0
_FAILED = "failed-command.txt"
_LACKS_PLATFORM = re.compile(r"content digest \S+ not found", re.IGNORECASE)
_ONE_PLATFORM = (
    "docker save --platform linux/amd64 {image} -o FILE (docker 28 or later), then kindCluster.archives: [FILE]"
)
_NO_IMAGE = re.compile(r"no such (image|object)|not found|not known|image not known|no such manifest", re.IGNORECASE)


class KindExecutor:
    """`providers.base.Executor` for one lab. `overlapping` gives the names of other labs that use a range;
    `record` is called when the lab is whole; `logs` is the folder that keeps what a failed tool printed."""

    def __init__(
        self,
        commands: Commands,
        *,
        overlapping: Callable[[RefuseOverlap], Sequence[str]],
        record: Callable[[Lab], None],
        logs: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._commands = commands
        self._overlapping = overlapping
        self._record = record
        self._logs = logs
        self._sleep = sleep

    def execute(self, actions: Sequence[Action]) -> None:
        """Raises StepFailed, HostLacks or UsageError."""
        for action in actions:
            self._one(action)

    def finish(self, lab: Lab) -> None:
        self._record(lab)

    def _one(self, action: Action) -> None:
        match action:
            case WriteFile():
                write_private(action.path, action.text)
            case Command():
                self._run(action.argv, action.timeout_s, action.remedy)
            case RefuseForeign():
                nodes = clusters.nodes_of(self._commands, action.engine, action.cluster)
                clusters.refuse_foreign(nodes, action.cluster, action.lab)
            case RefuseOverlap():
                self._refuse_overlap(action)
            case HaveImage():
                self._have_image(action)
            case RenderChart():
                done = self._run(action.argv, action.timeout_s, "")
                write_private(action.output, done)
            case VerifyChart():
                verify_chart(action)
            case CreateCluster():
                self._create(action)
            case DeleteCluster():
                self._delete(action)
                # The engine may still be making a container that was asked for just before kind was stopped.
                self._sleep(_LATE_S)
                self._delete(action)
            case StartOutside():
                outside.start(self._commands, action)
            case RemoveOutside():
                outside.remove(self._commands, action)
            case CollectLogs():
                self._collect(action)
            case LoadImage():
                self._load(action)
            case NodesHaveImages():
                self._nodes_have(action)
            case WriteMirrors():
                for node in action.nodes:
                    self._run(action.argv(node), _LOOK_S, "", stdin=action.text.encode())
            case WaitForPods():
                wait_for_pods(self._commands, action, self._sleep)
            case RestartAgents():
                for argv in action.argvs:
                    self._run(argv, action.timeout_s + _LOOK_S, "")
            case _:
                raise TypeError(f"the kind provider has no action {type(action).__name__}")

    def _run(self, argv: tuple[str, ...], timeout_s: float, remedy: str, stdin: bytes = b"") -> str:
        done = self._commands.run(argv, timeout_s=timeout_s, stdin=stdin)
        if done.timed_out or done.returncode != 0:
            raise self._failed(done, timeout_s, remedy)
        return done.text

    def _failed(self, done: Completed, timeout_s: float, remedy: str = "") -> StepFailed:
        """The error, and all that the tool printed in a file of the lab that it names; without one where the disk does
        not take it."""
        log: Path | None = None
        if self._logs is not None and (done.stdout or done.stderr):
            with contextlib.suppress(LabError, OSError):
                files.make_own_folder(self._logs)
                write_private(self._logs / _FAILED, f"{shlex.join(done.argv)}\n{done.error_text}\n{done.text}")
                log = self._logs / _FAILED
        return failed_command(done, timeout_s=timeout_s, remedy=remedy, log=log)

    def _refuse_overlap(self, action: RefuseOverlap) -> None:
        others = self._overlapping(action)
        if others:
            raise UsageError(
                what=f"lab {action.lab} would use addresses of lab {', '.join(others)}",
                cause=f"its ranges: {', '.join(action.ranges)}",
                remedy="--set network.podCIDR=10.64.0.0/16 --set network.serviceCIDR=10.97.0.0/16, or labctl down "
                f"{' '.join(others)}",
            )

    def _have_image(self, action: HaveImage) -> None:
        has = self._commands.run((action.engine, "image", "inspect", action.reference), timeout_s=_LOOK_S)
        if has.returncode == 0 and not has.timed_out:
            return
        # Since 28 docker says "Error response from daemon: No such image": the daemon is not what is missing.
        if has.timed_out or not _NO_IMAGE.search(has.error_text):
            raise self._failed(has, _LOOK_S)
        if action.pull:
            self._run((action.engine, "pull", action.reference), action.timeout_s, "")
            return
        raise HostLacks(
            what=f"the image {action.reference} is not in {action.engine}, and pulling is disabled",
            cause="kindCluster.pull is false",
            remedy=f"{action.engine} load -i ARCHIVE; or name an image that is there ({action.engine} image ls)",
        )

    def _load(self, action: LoadImage) -> None:
        done = self._commands.run(action.argv, timeout_s=action.timeout_s)
        if done.returncode == 0 and not done.timed_out:
            return
        if not _LACKS_PLATFORM.search(done.error_text + done.text):
            raise self._failed(done, action.timeout_s)
        with files.temporary_folder() as folder:
            archive = str(folder / "image.tar")
            self._run(action.argv_save(archive), action.timeout_s, "")
            for node in action.nodes:
                for argv in action.argvs_import(archive, node):
                    self._run(argv, action.timeout_s, _ONE_PLATFORM.format(image=action.reference))

    def _create(self, action: CreateCluster) -> None:
        nodes = clusters.nodes_of(self._commands, action.engine, action.cluster)
        clusters.refuse_foreign(nodes, action.cluster, action.lab)
        running = {node.name for node in nodes if node.is_running}
        is_this = all(node.mark is not None and node.mark.digest == action.digest for node in nodes)
        if nodes and is_this and self._is_whole(action, nodes_running=running):
            return
        if nodes:
            clusters.delete(
                self._commands, action.engine, action.cluster, action.lab, action.kubeconfig,
                ("kind", "delete", "cluster", "--name", action.cluster, "--kubeconfig", str(action.kubeconfig)),
                180.0,
            )  # fmt: skip
        given = (f"{name}={value}" for name, value in action.environment.items())
        argv = ("env", *given, *action.argv) if action.environment else action.argv
        self._run(argv, action.timeout_s, "the logs of the nodes are kept; see docs/kind.md")
        files.keep_private(action.kubeconfig)

    def _delete(self, action: DeleteCluster) -> None:
        clusters.delete(
            self._commands, action.engine, action.cluster, action.lab, action.kubeconfig, action.argv, action.timeout_s
        )

    def _is_whole(self, action: CreateCluster, nodes_running: set[str]) -> bool:
        """True for a cluster that an earlier, cut `up` finished making: every node runs and the API server knows it."""
        if not set(action.nodes) <= nodes_running or not action.kubeconfig.exists():
            return False
        asked = self._commands.run(
            ("kubectl", "--kubeconfig", str(action.kubeconfig), "--request-timeout=10s", "get", "nodes", "-o", "name"),
            timeout_s=_LOOK_S,
        )
        known = {line.removeprefix("node/") for line in asked.text.split()}
        return asked.returncode == 0 and set(action.nodes) <= known

    def _nodes_have(self, action: NodesHaveImages) -> None:
        for node in action.nodes:
            argv = (action.engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "ls", "-q")
            listed = self._run(argv, _LOOK_S * 2, "")
            there = set(listed.split())
            missing = [reference for reference in action.references if stored_name(reference) not in there]
            if missing:
                raise StepFailed(
                    what=f"node {node} lacks {', '.join(missing)}",
                    cause="pulling is disabled, and loading did not put it there",
                    remedy=f"{action.engine} exec {node} crictl images; kind load docker-image {missing[0]} "
                    f"--nodes {node}; or kindCluster.archives",
                )

    def _collect(self, action: CollectLogs) -> None:
        """What cannot be read is left out: the failure that is being reported matters more."""
        with contextlib.suppress(OSError):
            files.make_own_folder(action.folder)
        for name, argv in action.argvs:
            with contextlib.suppress(LabError, OSError):
                done = self._commands.run(argv, timeout_s=action.timeout_s)
                write_private(action.folder / name, done.text + done.error_text)
        summary = summarise(action.folder)
        with contextlib.suppress(OSError):
            write_private(action.folder / "summary.txt", "\n".join(summary) + "\n")


def summarise(folder: Path) -> tuple[str, ...]:
    """At most three lines of collected logs: pods that are not running, the last warning, the agents' last error."""
    lines = []
    for name, pick in (("pods.txt", _not_running), ("events.txt", _warnings), ("agents.txt", None)):
        text = read_state(folder / name)
        if text is None:
            continue
        found = pick(text) if pick else meaningful("\n".join(_agent_errors(text)), 1)
        lines += [f"{name}: {line[:300]}" for line in found[-1:]]
    return tuple(lines)


def _not_running(text: str) -> tuple[str, ...]:
    bad = [line for line in text.splitlines()[1:] if " Running " not in line and " Completed " not in line]
    return (f"{len(bad)} pods are not running, the first: {' '.join(bad[0].split()[:4])}",) if bad else ()


def _warnings(text: str) -> tuple[str, ...]:
    return tuple(" ".join(line.split()) for line in text.splitlines() if " Warning " in line)


def _agent_errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if "level=error" in line or "level=fatal" in line]


def verify_chart(action: VerifyChart) -> None:
    """Raises UsageError for a chart of another version, for values without effect, and for a `cilium-config` that
    does not say what was meant."""
    refuse_wrong_chart(read_chart(Path(action.chart)), action.chart, action.wanted, action.user_values)
    rendered = parse_rendered(read_state(action.rendered) or "")
    unknown = [] if action.images is None else [image for image in rendered.images if image not in action.images]
    if unknown:
        raise UsageError(
            what=f"the chart needs images that are not preloaded: {', '.join(unknown)}",
            cause=f"kindCluster.pull is false, and the preloaded images are {', '.join(action.images or ())}",
            remedy="disable what needs them in cilium.values (envoy, hubble.relay, …), or pull them into the engine "
            f"and set kindCluster.extraImages: [{', '.join(unknown)}]",
        )
    refuse_differences(rendered, action.wanted, action.user_values)


_ASK_S = 30.0
_POLL_S = 1.0
_PATIENCE_S = 60.0
"""How long some pod may be stuck before it counts as hopeless."""


def wait_for_pods(commands: Commands, wait: WaitForPods, sleep: Callable[[float], None] = time.sleep) -> None:
    """Raises StepFailed with each missing pod's reason, its events, and the end of a crashing container's log."""
    deadline = Deadline.after(wait.timeout_s)
    patience: Deadline | None = None
    while True:
        asked = commands.run(wait.argv, timeout_s=_ASK_S)
        if asked.returncode == 0 and not asked.timed_out:
            pods = parse_pods(asked.text)
            missing = [pod for pod in pods if not pod.is_ready]
            if len(pods) >= wait.count and not missing:
                return
            patience = (patience or Deadline.after(_PATIENCE_S)) if any(pod.is_stuck for pod in missing) else None
            if any(pod.is_hopeless for pod in missing) or (patience is not None and patience.is_over()):
                raise _not_ready(commands, wait, pods, "will not become ready")
            if deadline.is_over():
                raise _not_ready(commands, wait, pods, f"are not ready after {wait.timeout_s:.0f} s")
        elif deadline.is_over():
            raise failed_command(asked, timeout_s=_ASK_S)
        sleep(_POLL_S)


def _not_ready(commands: Commands, wait: WaitForPods, pods: tuple[PodState, ...], how: str) -> StepFailed:
    missing = [pod for pod in pods if not pod.is_ready]
    reasons = [f"pod {pod.name} on {pod.node or 'no node'}: {pod.reason}" for pod in missing]
    if len(pods) < wait.count:
        reasons.append(f"{wait.count - len(pods)} of {wait.count} do not exist yet")
    explained: list[str] = []
    for pod in missing[:1]:
        events = commands.run(
            (
                *wait.kubectl, "-n", pod.namespace, "get", "events", "--field-selector",
                f"involvedObject.name={pod.name}", "-o", "json",
            ),
            timeout_s=_ASK_S,
        )  # fmt: skip
        explained += parse_events(events.text) if events.returncode == 0 else ()
        if pod.restarts:
            log = commands.run(
                (
                    *wait.kubectl, "-n", pod.namespace, "logs", pod.name, "--all-containers", "--previous", "--tail=40",
                ),
                timeout_s=_ASK_S,
            )  # fmt: skip
            explained += [f"its log: {line}" for line in meaningful(log.text, 2)]
    cause = "; ".join((*reasons[:4], *explained))
    argv = (*wait.kubectl, "-n", wait.namespace, "describe", "pods", *(("-l", wait.selector) if wait.selector else ()))
    return StepFailed(
        what=f"{wait.what}: {len(pods) - len(missing)} of {wait.count} are ready; the others {how}",
        cause=cause[:1500],
        remedy=_image_remedy(cause) or remedy_for(cause, f"{shlex.join(argv)}  # by hand"),
    )


def _image_remedy(cause: str) -> str:
    if "ErrImageNeverPull" in cause:
        return (
            "docker image ls  # the image is not in that node\n"
            "kind load docker-image IMAGE --name CLUSTER  # kind get clusters shows it\n"
            "# or in lab.yaml, kindCluster.pull: true"
        )
    if "ImagePullBackOff" in cause or "ErrImagePull" in cause:
        return "docker pull IMAGE  # by hand, to see why\n# or load it locally and set kindCluster.pull: false"
    return ""
