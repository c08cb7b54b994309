"""Helper pods on the nodes of a lab: there where the cluster lets them be, renewed when their time is over.

A helper is a pod with its node's network and all powers, in which captures run: what docker or SSH is to nodes that
are labctl's own. Where rights or policy refuse it, that is no failure of the lab: the reason is kept, and whatever
needs a capture on a node is skipped with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from labctl.errors import StepFailed, ToolMissing
from labctl.providers.base import Completed, Running, TargetKind
from labctl.providers.cilium.observed import lacking
from labctl.providers.cilium.workloads import PodState, helper_name
from labctl.providers.cluster.access import Access, Say, said
from labctl.providers.cluster.failures import is_admission, is_forbidden
from labctl.providers.cluster.manifests import helpers_text
from labctl.values import dataclass

_READY_S = 60.0
_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """The helper pods that are ready, by the scenario's node; `refused` says why there are none, empty otherwise."""

    pods: Mapping[str, PodState]
    refused: str = ""


def ensure(access: Access, pods: Mapping[str, PodState], say: Say) -> Helpers:
    """A ready helper on every node of the lab. `pods` are those of the namespace that are there. Raises LabError when
    the cluster cannot be asked."""
    settings = access.settings
    if not settings.wants_helpers:
        return Helpers(pods={}, refused="cluster.helpers is never")
    names = {node: helper_name(node) for node in settings.nodes}
    ended = [name for name in names.values() if name in pods and pods[name].is_hopeless]
    if ended:
        argv = ("-n", settings.namespace, "delete", "pod", *ended, "--wait=true", f"--timeout={_AGAIN_S:.0f}s")
        done = access.ask(*argv, timeout_s=_AGAIN_S * 2)
        if done.returncode != 0:
            return Helpers(pods={}, refused=f"the helper pods have ended, and cannot be removed: {said(done)}")
    absent = [node for node, name in names.items() if name not in pods or name in ended]
    if absent:
        text = helpers_text(settings, absent)
        done = access.ask("create", "--validate=false", "-f", "-", stdin=text.encode())
        if done.timed_out or done.returncode != 0:
            if not done.timed_out and (is_admission(done.error_text) or is_forbidden(done.error_text)):
                return Helpers(pods={}, refused=_refusal(done))
            raise access.failed(done, "the helper pods cannot be made")
    try:
        ready = access.wait_for(tuple(names.values()), timeout_s=_READY_S, say=say, what="helper pods on the nodes")
    except StepFailed as failed:
        return Helpers(pods={}, refused=f"{failed.what}: {failed.cause}")
    return Helpers(pods={node: ready[name] for node, name in names.items()})


def _refusal(done: Completed) -> str:
    """Why the cluster takes no helper, in a sentence that begins with whose refusal it is."""
    whose = "the cluster's policy refuses" if is_admission(done.error_text) else "these credentials may not make"
    return f"{whose} privileged pods: {said(done)}"


class NodeWithoutHelper:
    """`Target` of a node in which nothing can be run; asking for it gives the reason as a program that is not there,
    so that a check is skipped with it."""

    def __init__(self, name: str, refused: str) -> None:
        self.name, self._refused = name, refused
        self.kind = TargetKind.NODE

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        raise self.lacking()

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        raise self.lacking()

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        raise self.lacking()

    def lacking(self) -> ToolMissing:
        return lacking(self.name, self._refused)
