"""A cluster as it is asked: kubectl run for one lab, what its namespace says, its pods waited for.

Every question has a deadline. What kubectl complains of becomes an error in labctl's words (`failures.py`).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace

from labctl.errors import LabError, MeasureFailed, StepFailed, UsageError
from labctl.json_text import mapping_of, of_known_form, parse_json
from labctl.providers.base import Completed
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.crashes import Crashes
from labctl.providers.cilium.workloads import LAB_LABEL, PodState, parse_events, parse_pods
from labctl.providers.cluster.failures import ClusterWords, failed_kubectl, is_gone, said_by, stuck_namespace
from labctl.providers.cluster.nodes import ClusterNode, argv_nodes, parse_nodes
from labctl.providers.cluster.settings import DIGEST, ID, MADE_BY, SCENARIO, ClusterSettings
from labctl.system.clock import Deadline
from labctl.values import dataclass

ASK_S = 30.0
"""For one question; kubectl itself gives up a connection after 30 s or so."""
GONE_S = 120.0
"""How long a namespace may be Terminating while nothing of it goes."""
_POLL_S = 1.0
_HOPELESS_AFTER_S = {"ErrImagePull": 5.0, "ImagePullBackOff": 0.0, "nodes are available": 20.0, "CreateContainer": 30.0}
"""What a pod waits for that seldom passes by itself, and how long it may be seen before waiting ends."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFacts:
    """A namespace that is there. `lab` is empty where it is not labctl's; `conditions` are (type, status, message)."""

    name: str
    lab: str
    lab_id: str
    made_by: str
    scenario: str
    digest: str
    is_terminating: bool
    conditions: tuple[tuple[str, str, str], ...] = ()


@of_known_form("kubectl's account of a namespace")
def parse_namespace(text: str) -> NamespaceFacts:
    item = parse_json(text)
    metadata, status = mapping_of(item["metadata"]), mapping_of(item.get("status"))
    labels, notes = mapping_of(metadata.get("labels")), mapping_of(metadata.get("annotations"))
    conditions = status.get("conditions")
    return NamespaceFacts(
        name=str(metadata["name"]),
        lab=str(labels.get(LAB_LABEL, "")),
        lab_id=str(notes.get(ID, "")),
        made_by=str(notes.get(MADE_BY, "")),
        scenario=str(notes.get(SCENARIO, "")),
        digest=str(notes.get(DIGEST, "")),
        is_terminating=status.get("phase") == "Terminating" or "deletionTimestamp" in metadata,
        conditions=tuple(
            (str(one.get("type", "")), str(one.get("status", "")), str(one.get("message", "")))
            for one in (conditions if isinstance(conditions, list) else [])
            if isinstance(one, dict)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One cluster, for one lab. `sleep` is for tests."""

    settings: ClusterSettings
    commands: Commands
    sleep: Callable[[float], None] = time.sleep
    _known: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def ask(self, *arguments: str, timeout_s: float = ASK_S, stdin: bytes = b"") -> Completed:
        """kubectl with these arguments, whatever comes of it."""
        return self.commands.run(self.settings.kubectl(*arguments), timeout_s=timeout_s, stdin=stdin)

    def must(self, *arguments: str, what: str, timeout_s: float = ASK_S, stdin: bytes = b"", acts: bool = False) -> str:
        """What it printed. Raises as `failed`."""
        done = self.ask(*arguments, timeout_s=timeout_s, stdin=stdin)
        if done.timed_out or done.returncode != 0:
            raise self.failed(done, what, acts=acts)
        return done.text

    def failed(self, done: Completed, what: str, *, acts: bool = False) -> LabError:
        lab = self.settings.lab
        rights = f"labctl plan {shlex.quote(lab.source or lab.scenario)} --provider cluster --name {lab.name} --rbac"
        return failed_kubectl(done, self._words(), what=what, acts=acts, rights=rights)

    def _words(self) -> ClusterWords:
        """The contexts are asked for once, when something has failed."""
        if "contexts" not in self._known:
            config = ("--kubeconfig", self.settings.section.kubeconfig) if self.settings.section.kubeconfig else ()
            try:
                argv = ("kubectl", *config, "config", "get-contexts", "-o", "name")
                listed = self.commands.run(argv, timeout_s=ASK_S).text
            except LabError:
                listed = ""
            self._known["contexts"] = tuple(listed.split())
        return ClusterWords(context=self.settings.context, contexts=self._known["contexts"])

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Those that the section's selector lets through. Raises MeasureFailed, UsageError."""
        argv = argv_nodes(self.settings.section.node_selector)
        return parse_nodes(self.must(*argv, what="the nodes cannot be listed", timeout_s=60.0))

    def namespace(self) -> NamespaceFacts | None:
        """None when there is none of that name. Raises as `must`."""
        done = self.ask("get", "namespace", self.settings.namespace, "-o", "json")
        if is_gone(done):
            return None
        if done.timed_out or done.returncode != 0:
            raise self.failed(done, f"namespace {self.settings.namespace} cannot be read")
        return parse_namespace(done.text)

    def pods(self) -> dict[str, PodState]:
        """The lab's pods and helpers that are there, by name."""
        argv = (
            "-n",
            self.settings.namespace,
            "get",
            "pods",
            "-l",
            f"{LAB_LABEL}={self.settings.lab.name}",
            "-o",
            "json",
        )
        return {pod.name: pod for pod in parse_pods(self.must(*argv, what="the lab's pods cannot be listed"))}

    def placed(self, pods: Mapping[str, PodState]) -> Access:
        """With the node of the cluster that each node of the scenario is, by where its pods are. Raises
        MeasureFailed."""
        found: dict[str, str] = {}
        for pod in self.settings.lab.pods:
            there = pods[pod.name].node if pod.name in pods else ""
            if found.setdefault(pod.node, there) != there or not there:
                raise MeasureFailed(
                    what=f"the pods of {pod.node} are not on one node of the cluster",
                    cause=f"{pod.name} is on {there or 'none'}, others are on {found[pod.node] or 'none'}",
                    remedy=f"labctl down {self.settings.lab.name}, then labctl up again",
                )
        return replace(self, settings=replace(self.settings, nodes=found))

    def wait_for(self, names: Sequence[str], *, timeout_s: float, say: Say, what: str) -> dict[str, PodState]:
        """Those pods, once they are ready; meanwhile `say` hears what is waited for and what was last seen. Raises
        StepFailed with each missing pod's reason: at once for one that will not become ready."""
        deadline, last = Deadline.after(timeout_s), ""
        since: dict[str, float] = {}
        begun_s = time.monotonic()
        crashes = Crashes(lambda words: self.ask("-n", self.settings.namespace, *words))
        while True:
            pods = self.pods()
            missing = [name for name in names if name not in pods or not pods[name].is_ready]
            if not missing:
                return {name: pods[name] for name in names}
            waited_s = time.monotonic() - begun_s
            crashes.look((pods[name] for name in names if name in pods), waited_s)
            reasons = {name: _reason(pods.get(name), crashes) for name in missing}
            told = "; ".join(f"{name}: {_short(reason)}" for name, reason in reasons.items())
            if told != last:
                say(f"{what}: {told}")
                last = told
            since = {name: since.get(name, waited_s) for name in missing if _doubt(reasons[name]) is not None}
            hopeless = [
                name
                for name in missing
                if (name in pods and (pods[name].is_hopeless or crashes.is_hopeless(pods[name], waited_s)))
                or ((limit := _doubt(reasons[name])) is not None and waited_s - since[name] >= limit)
            ]
            if hopeless or deadline.is_over():
                chosen = hopeless or missing
                raise self._not_ready(what, chosen, reasons, pods, "" if hopeless else f" after {timeout_s:.0f} s")
            self.sleep(_POLL_S)

    def _not_ready(
        self, what: str, names: Sequence[str], reasons: Mapping[str, str], pods: Mapping[str, PodState], when: str
    ) -> StepFailed:
        explained: list[str] = []
        for name in names[:2]:
            listed = self.ask(
                "-n", self.settings.namespace, "get", "events", "--field-selector", f"involvedObject.name={name}",
                "-o", "json",
            )  # fmt: skip
            explained += parse_events(listed.text) if listed.returncode == 0 else ()
        each = [f"pod {name} on {_place(name, pods)}: {reasons[name]}" for name in names[:4]]
        cause = "; ".join(dict.fromkeys((*each, *explained)))[:1500]
        describe = self.settings.kubectl("-n", self.settings.namespace, "describe", "pod", names[0])
        return StepFailed(
            what=f"{what}: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not ready{when}",
            cause=cause,
            remedy=_remedy(cause, self.settings) or f"{shlex.join(describe)}  # by hand",
        )

    def refuse_foreign(self, facts: NamespaceFacts, lab_id: str) -> None:
        """Raises UsageError for a namespace that is not this lab's: without labctl's label, of another lab, or made by
        another labctl. One without an id was made in advance for it (`plan --rbac`)."""
        lab = self.settings.lab.name
        if facts.lab != lab:
            raise UsageError(
                what=f"namespace {facts.name} is there, and labctl did not make it for lab {lab}",
                cause=f"it has no label {LAB_LABEL}={lab}" + (f", but {facts.lab}" if facts.lab else ""),
                remedy="give the lab another --name",
            )
        if facts.lab_id and facts.lab_id != lab_id:
            who = facts.made_by or "somebody else"
            raise UsageError(
                what=f"namespace {facts.name} belongs to a lab {lab} of another labctl",
                cause=f"{who} made it, and this host has no record of it",
                remedy="give the lab another --name; to remove it yourself, when nobody needs it: "
                + shlex.join(self.settings.kubectl("delete", "namespace", facts.name)),
            )

    def remove_namespace(self, lab_id: str, say: Say, *, timeout_s: float = GONE_S) -> None:
        """Deletes the lab's namespace and waits until it is gone; none there is no error. Raises UsageError for one
        that is not the lab's, StepFailed with Kubernetes' own reason when it does not go."""
        facts = self.namespace()
        if facts is None:
            return
        self.refuse_foreign(facts, lab_id)
        if not facts.is_terminating:
            # Kubernetes begins with a namespace's content late, and asks again seldom: pods that go at once, where
            # that is allowed, save most of the wait.
            self.ask("-n", facts.name, "delete", "pods", "-l", LAB_LABEL, "--wait=false", "--ignore-not-found")
            done = self.ask("delete", "namespace", facts.name, "--wait=false")
            if (done.timed_out or done.returncode != 0) and not is_gone(done):
                raise self.failed(done, f"namespace {facts.name} cannot be deleted", acts=True)
        deadline, last = Deadline.after(timeout_s), facts.conditions
        say(f"namespace {facts.name} is being deleted (usually 5 to 40 s)")
        while (left := self.namespace()) is not None:
            if left.conditions != last:  # it tells how many objects are left: fewer than before
                deadline, last = Deadline.after(timeout_s), left.conditions
            if deadline.is_over():
                kubectl = shlex.join(self.settings.kubectl())
                raise stuck_namespace(left.name, left.conditions, timeout_s, kubectl)
            self.sleep(_POLL_S)


def _doubt(reason: str) -> float | None:
    """How long a pod may wait for that; None for what is the usual course."""
    return next((limit for word, limit in _HOPELESS_AFTER_S.items() if word in reason), None)


def _reason(pod: PodState | None, crashes: Crashes) -> str:
    """What it waits for; of one that crashes, what its log says last as well."""
    if pod is None:
        return "it does not exist yet"
    if not crashes.is_one(pod):
        return pod.reason
    how = pod.reason if pod.crashing else f"{pod.crashed}: runs again after an error"
    return "; ".join((how, *(f"its log: {line}" for line in crashes.log(pod))))


def _short(reason: str) -> str:
    return reason if len(reason) <= 200 else f"{reason[:199]}…"


def _place(name: str, pods: Mapping[str, PodState]) -> str:
    return (pods[name].node if name in pods else "") or "no node"


def _remedy(cause: str, settings: ClusterSettings) -> str:
    if any(word in cause for word in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")):
        return (
            f"cluster.image in lab.yaml, or --set cluster.image=IMAGE  # the nodes cannot get {settings.image}\n"
            "# or load the image into the nodes' containerd, and set cluster.pull: false"
        )
    if "nodes are available" in cause:
        return "cluster.nodeSelector or cluster.nodes in lab.yaml  # other nodes; or cluster.tolerateTaints: true"
    return ""


def said(done: Completed) -> str:
    return said_by(done)
