"""Waiting for pods: asks until they are ready, stops where waiting is in vain, says what is missing and why."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from labctl.errors import StepFailed
from labctl.providers.cilium.pods import PodState, parse_events, parse_pods
from labctl.providers.kind.actions import WaitForPods
from labctl.providers.kind.failures import failed_command, meaningful, remedy_for
from labctl.providers.kind.tools import Commands
from labctl.system.clock import Deadline

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
    reasons = [f"{pod.name} on {pod.node or 'no node'}: {pod.reason}" for pod in missing]
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
        return "docker pull IMAGE  # by hand, to see why\n# or have it locally, with kindCluster.pull: false"
    return ""
