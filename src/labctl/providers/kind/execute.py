"""Carries out the actions of a kind plan through the command door. Every failure says what to do next."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.providers.base import Completed, Tell, Wait, untold
from labctl.providers.cilium.chart import read_chart
from labctl.providers.cilium.commands import Commands, WriteFile, read_state, write_private
from labctl.providers.cilium.rendered import parse_rendered, refuse_differences, refuse_wrong_chart
from labctl.providers.cilium.waiting import Usual, WaitForNodes, WaitForPods, Waits
from labctl.providers.kind import clusters, load, outside
from labctl.providers.kind.actions import (
    CollectLogs,
    Command,
    CreateCluster,
    DeleteCluster,
    HaveImage,
    LoadArchives,
    LoadImages,
    NodesHaveImages,
    RefuseForeign,
    RefuseOverlap,
    RenderChart,
    RestartAgents,
    VerifyChart,
    WriteMirrors,
)
from labctl.providers.kind.failures import failed_command, meaningful, remedy_for
from labctl.providers.kind.outside import RemoveOutside, StartOutside
from labctl.system import files
from labctl.system.clock import monotonic_s

_LOOK_S = 30.0
_LATE_S = 1.0
_FAILED = "failed-command.txt"


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
        tell: Tell = untold,
        usual: Usual | None = None,
    ) -> None:
        self.commands = commands
        self.tell = tell
        self._usual = usual or Usual(None)
        self._overlapping = overlapping
        self._record = record
        self._logs = logs
        self._sleep = sleep
        self._waits = Waits(
            commands, tell=tell, usual=self._usual, sleep=sleep,
            remedy=lambda cause: _image_remedy(cause) or remedy_for(cause),
            failed=lambda asked: self.failed(asked, _LOOK_S),
        )  # fmt: skip

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
                self.must(action.argv, action.timeout_s, action.remedy)
            case RefuseForeign():
                nodes = clusters.nodes_of(self.commands, action.engine, action.cluster)
                clusters.refuse_foreign(nodes, action.cluster, action.lab)
            case RefuseOverlap():
                self._refuse_overlap(action)
            case HaveImage():
                load.have_image(self, action)
            case RenderChart():
                done = self.must(action.argv, action.timeout_s, "")
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
                outside.start(self.commands, action)
            case RemoveOutside():
                outside.remove(self.commands, action)
            case CollectLogs():
                self._collect(action)
            case LoadImages():
                load.load_images(self, action)
            case LoadArchives():
                load.load_archives(self, action)
            case NodesHaveImages():
                load.nodes_have(self, action)
            case WriteMirrors():
                for node in action.nodes:
                    self.must(action.argv(node), _LOOK_S, "", stdin=action.text.encode())
            case WaitForPods():
                self._waits.pods(action)
            case WaitForNodes():
                self._waits.nodes(action)
            case RestartAgents():
                self.must(action.argv, action.timeout_s)
            case _:
                raise TypeError(f"the kind provider has no action {type(action).__name__}")

    def must(self, argv: tuple[str, ...], timeout_s: float, remedy: str = "", stdin: bytes = b"") -> str:
        """What the tool printed. Raises StepFailed when it fails."""
        done = self.commands.run(argv, timeout_s=timeout_s, stdin=stdin)
        if done.timed_out or done.returncode != 0:
            raise self.failed(done, timeout_s, remedy)
        return done.text

    def failed(self, done: Completed, timeout_s: float, remedy: str = "") -> StepFailed:
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

    def _create(self, action: CreateCluster) -> None:
        nodes = clusters.nodes_of(self.commands, action.engine, action.cluster)
        clusters.refuse_foreign(nodes, action.cluster, action.lab)
        running = {node.name for node in nodes if node.is_running}
        is_this = all(node.mark is not None and node.mark.digest == action.digest for node in nodes)
        if nodes and is_this and self._is_whole(action, nodes_running=running):
            return
        if nodes:
            clusters.delete(
                self.commands, action.engine, action.cluster, action.lab, action.kubeconfig,
                ("kind", "delete", "cluster", "--name", action.cluster, "--kubeconfig", str(action.kubeconfig)),
                180.0,
            )  # fmt: skip
        given = (f"{name}={value}" for name, value in action.environment.items())
        argv = ("env", *given, *action.argv) if action.environment else action.argv
        seen = f"kind boots {len(action.nodes)} nodes, and kubeadm starts Kubernetes in them"
        with self._watched(f"a cluster of {len(action.nodes)} nodes", seen):
            self.must(argv, action.timeout_s, "the logs of the nodes are kept; see docs/kind.md")
        files.keep_private(action.kubeconfig)

    @contextlib.contextmanager
    def _watched(self, what: str, seen: str) -> Iterator[None]:
        """A tool that says nothing while it works: what it does, and how long that usually takes here."""
        begun_s = monotonic_s()
        self.tell(Wait(what=what, seen=seen, waited_s=0.0, usual_s=self._usual.s(what)), None)
        yield
        self._usual.learn(what, monotonic_s() - begun_s)

    def _delete(self, action: DeleteCluster) -> None:
        clusters.delete(
            self.commands, action.engine, action.cluster, action.lab, action.kubeconfig, action.argv, action.timeout_s
        )

    def _is_whole(self, action: CreateCluster, nodes_running: set[str]) -> bool:
        """True for a cluster that an earlier, cut `up` finished making: every node runs and the API server knows it."""
        if not set(action.nodes) <= nodes_running or not action.kubeconfig.exists():
            return False
        asked = self.commands.run(
            ("kubectl", "--kubeconfig", str(action.kubeconfig), "--request-timeout=10s", "get", "nodes", "-o", "name"),
            timeout_s=_LOOK_S,
        )
        known = {line.removeprefix("node/") for line in asked.text.split()}
        return asked.returncode == 0 and set(action.nodes) <= known

    def _collect(self, action: CollectLogs) -> None:
        """What cannot be read is left out: the failure that is being reported matters more."""
        with contextlib.suppress(OSError):
            files.make_own_folder(action.folder)
        for name, argv in action.argvs:
            with contextlib.suppress(LabError, OSError):
                done = self.commands.run(argv, timeout_s=action.timeout_s)
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
