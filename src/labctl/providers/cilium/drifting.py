"""A lab on a cluster compared with its plan: nodes, Cilium's configuration, pods and Services, as kubectl lists them.

`differences` is pure: what was planned and what was read, to differences. `ClusterDrifting` reads, and has pods,
Services and Cilium applied again by the steps that built them. Nodes come with the cluster: none is made.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from labctl.errors import MeasureFailed, StepFailed, UsageError
from labctl.json_text import of_known_form, parse_json
from labctl.model.drift import Change, Difference, Drift, Unread
from labctl.model.lab import Lab
from labctl.model.plan import Action, Plan, Step
from labctl.planning.record import lab_to_json
from labctl.planning.shell import quoted
from labctl.providers.base import Compared, Executor
from labctl.providers.cilium.commands import Commands, LabFiles, WriteFile, read_state
from labctl.providers.cilium.settings import ClusterAccess, read_record, write_record
from labctl.providers.cilium.values import config_differences
from labctl.providers.cilium.workloads import HELPER_LABEL, parse_pods
from labctl.system import files, locks
from labctl.values import dataclass

_ASK_S = 60.0
_TARGET = "becoming.json"
NODE, VALUE, POD, SERVICE = "node", "Cilium value", "pod", "Service"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_CONFIG_MAP = ("-n", "kube-system", "get", "configmap", "cilium-config", "-o", "json")
_PATCH = ("-n", "kube-system", "patch", "configmap", "cilium-config", "--type=merge", "-p")
_RESTART = ("-n", "kube-system", "rollout", "restart", "daemonset/cilium")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is wanted of a lab's cluster. `settings` names its nodes in the cluster; `config` are keys of
    `cilium-config` (None: absent), none where labctl did not install Cilium; `objects` are the pods and Services as
    they were applied. `others`: further nodes of the cluster, None where those are not the lab's business."""

    settings: ClusterAccess
    config: Mapping[str, str | None]
    objects: tuple[Mapping[str, Any], ...]
    others: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What kubectl listed, as JSON text; None where it could not, with the reason in `unread`."""

    nodes: str | None = None
    config: str | None = None
    pods: str | None = None
    services: str | None = None
    unread: tuple[Unread, ...] = ()


def read(planned: Planned, commands: Commands) -> Listed:
    """Asks the cluster. Raises StepFailed when nothing of it answers."""
    settings = planned.settings
    unread: list[Unread] = []

    def ask(part: str, kind: str, *arguments: str) -> str | None:
        argv = settings.kubectl(*arguments)
        done = commands.run(argv, timeout_s=_ASK_S)
        if done.returncode == 0 and not done.timed_out:
            return done.text
        why = done.error_text.strip()[-300:] or f"no answer within {_ASK_S:g} s"
        unread.append(Unread(part=part, kind=kind, why=why))
        return None

    nodes = ask("cluster", NODE, "get", "nodes", "-o", "json")
    if nodes is None:
        raise StepFailed(
            what=f"lab {settings.lab.name} cannot be compared with its plan: its cluster does not answer",
            cause=unread[0].why,
            remedy=quoted(settings.kubectl("get", "nodes")),
        )
    inside = ("-n", settings.namespace, "get")
    return Listed(
        nodes=nodes,
        config=ask("cluster", VALUE, *_CONFIG_MAP) if planned.config else None,
        pods=ask("cluster", POD, *inside, "pods", "-o", "json"),
        services=ask("cluster", SERVICE, *inside, "services", "-o", "json"),
        unread=tuple(unread),
    )


def differences(planned: Planned, listed: Listed) -> Iterator[Difference]:
    """Nodes, then Cilium's values, pods, Services. Raises MeasureFailed for lists of another form."""
    if listed.nodes is not None:
        yield from _nodes(planned, _items(listed.nodes))
    if listed.config is not None:
        yield from _values(planned, listed.config)
    if listed.pods is not None:
        yield from _pods(planned, listed.pods)
    if listed.services is not None:
        yield from _services(planned, _items(listed.services))


@of_known_form("kubectl's list")
def _items(text: str) -> dict[str, Mapping[str, Any]]:
    """By name. A name that Kubernetes would not take could be an option where it is shown in a command."""
    found = {}
    for item in parse_json(text)["items"]:
        name = str(item["metadata"]["name"])
        if not _NAME.fullmatch(name):
            raise MeasureFailed(what="kubectl's list has an object with an invalid name", cause=repr(name)[:200])
        found[name] = item
    return found


def _nodes(planned: Planned, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    settings = planned.settings
    wanted = {cluster: name for name, cluster in settings.nodes.items()}
    wanted |= {name: name for name in planned.others or () if name not in wanted}
    for name, part in wanted.items():
        if name not in found:
            yield _difference(
                Change.MISSING, part, NODE, f"node {name}", key=f"nodes.{part}",
                command=f"labctl reset {settings.lab.name} --hard",
                why="nodes are made with the cluster",
            )  # fmt: skip
        elif (state := _state(found[name])) != "Ready":
            yield _difference(
                Change.CHANGED, part, NODE, f"node {name}", wanted="Ready", found=state, key=f"nodes.{part}",
                command=quoted(settings.kubectl("describe", "node", name)),
            )  # fmt: skip
    for name in found if planned.others is not None else ():
        if name not in wanted:
            command = quoted(settings.kubectl("delete", "node", name))
            yield _difference(Change.EXTRA, name, NODE, f"node {name}", key="nodes", command=command)


def _state(node: Mapping[str, Any]) -> str:
    conditions = (node.get("status") or {}).get("conditions") or ()
    is_ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    word = "Ready" if is_ready else "NotReady"
    return f"{word},SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else word


@of_known_form("kubectl's cilium-config")
def _values(planned: Planned, text: str) -> Iterator[Difference]:
    config = {str(key): str(value) for key, value in (parse_json(text).get("data") or {}).items()}
    settings = planned.settings
    for key, meant, there in config_differences(config, planned.config):
        patch = json.dumps({"data": {key: meant}})
        by_hand = settings.kubectl(*_PATCH, patch)
        yield _difference(
            Change.MISSING if there is None else Change.EXTRA if meant is None else Change.CHANGED,
            "cluster", VALUE, f"cilium-config {key}", wanted=meant or "", found=there or "", key="datapath",
            command=f"{quoted(by_hand)}; {quoted(settings.kubectl(*_RESTART))}",
        )  # fmt: skip


def _pods(planned: Planned, text: str) -> Iterator[Difference]:
    settings, found = planned.settings, _items(text)
    states = {pod.name: pod for pod in parse_pods(text)}
    wanted = {one["metadata"]["name"]: one for one in planned.objects if one["kind"] == "Pod"}
    placed = {pod.name: settings.nodes[pod.node] for pod in settings.lab.pods}
    on = ("-n", settings.namespace)
    apply = quoted(settings.kubectl("apply", "-f", str(settings.files.workloads)))
    for name, asked in wanted.items():
        there, state = found.get(name), states.get(name)
        key = f"pods.{name}" if name in placed else "nodes"
        again = f"{quoted(settings.kubectl(*on, 'delete', 'pod', name))}; {apply}"
        if there is None or state is None:
            yield _difference(Change.MISSING, name, POD, f"pod {name}", key=key, command=apply)
            continue
        if not state.is_ready:
            yield _difference(
                Change.CHANGED, name, POD, f"pod {name} state", wanted="ready", found=state.reason, key=key,
                command=again,
            )  # fmt: skip
        node = placed.get(name, asked["spec"].get("nodeName", state.node))
        for what, meant, is_so in (("node", node, state.node), ("image", _image(asked), _image(there))):
            if meant != is_so:
                yield _difference(
                    Change.CHANGED, name, POD, f"pod {name} {what}", wanted=meant, found=is_so, key=key, command=again
                )
        labels, has = asked["metadata"]["labels"], (there["metadata"].get("labels") or {})
        for label in sorted({*labels, *has}):
            if labels.get(label) != has.get(label):
                to = f"{label}={labels[label]}" if label in labels else f"{label}-"
                yield _difference(
                    _change(labels.get(label), has.get(label)), name, POD, f"pod {name} label {label}",
                    wanted=str(labels.get(label, "")), found=str(has.get(label, "")), key=f"{key}.labels",
                    command=quoted(settings.kubectl(*on, "label", "--overwrite", "pod", name, to)),
                )  # fmt: skip
    for name, there in found.items():
        is_helper = HELPER_LABEL in (there["metadata"].get("labels") or {})
        if name not in wanted and not (is_helper and planned.others is None):
            command = quoted(settings.kubectl(*on, "delete", "pod", name))
            yield _difference(Change.EXTRA, name, POD, f"pod {name}", key="pods", command=command)


def _image(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"]["containers"][0].get("image", ""))


def _services(planned: Planned, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    settings = planned.settings
    wanted = {one["metadata"]["name"]: one for one in planned.objects if one["kind"] == "Service"}
    apply = quoted(settings.kubectl("apply", "-f", str(settings.files.workloads)))
    for name, asked in wanted.items():
        key = f"services.{name}"
        if name not in found:
            yield _difference(Change.MISSING, name, SERVICE, f"Service {name}", key=key, command=apply)
            continue
        has = dict(_fields(found[name]))
        for what, meant in _fields(asked):
            if has.get(what, "") != meant:
                yield _difference(
                    _change(meant or None, has.get(what) or None), name, SERVICE, f"Service {name} {what}",
                    wanted=meant, found=has.get(what, ""), key=key, command=apply,
                )  # fmt: skip
    fillers = settings.lab.datapath.extra_services
    for name in found:
        if name not in wanted and not (fillers and name.startswith("filler-")):
            command = quoted(settings.kubectl("-n", settings.namespace, "delete", "service", name))
            yield _difference(Change.EXTRA, name, SERVICE, f"Service {name}", key="services", command=command)


def _fields(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is compared of a Service; what the API server fills in where it was not asked is left out."""
    spec = service["spec"]
    yield "type", str(spec.get("type", "ClusterIP"))
    if spec.get("clusterIP"):
        yield "clusterIP", str(spec["clusterIP"])
    yield "selector", ",".join(f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items()))
    for port in spec.get("ports") or ():
        yield "port", f"{port['port']}:{port.get('targetPort', port['port'])}/{port.get('protocol', 'TCP')}"
        if port.get("nodePort"):
            yield "nodePort", str(port["nodePort"])


def _change(wanted: object, found: object) -> Change:
    return Change.MISSING if found is None else Change.EXTRA if wanted is None else Change.CHANGED


def _difference(
    change: Change, part: str, kind: str, name: str, *, wanted: str = "", found: str = "", key: str = "",
    command: str = "", why: str = "",
) -> Difference:  # fmt: skip
    return Difference(
        change=change, part=part, kind=kind, name=name, wanted=wanted, found=found, key=key, command=command, why=why
    )


def _refuse_unknown(lab: Lab, parts: Collection[str]) -> None:
    known = {"cluster", *(node.name for node in lab.nodes), *(pod.name for pod in lab.pods)}
    known |= {service.name for service in lab.services}
    for part in parts:
        if part not in known:
            raise UsageError(
                what=f"lab {lab.name} has no part named '{part}'",
                cause=f"its parts are: {', '.join(sorted(known))}",
                remedy=f"labctl diff {lab.name}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDrifting:
    """`Drifting` of the seam for one provider. `again` gives the steps that apply a lab's pods and Services again, with
    True Cilium too; None where labctl changes nothing of what is there. `remove` is an action that runs that kubectl
    command; `unlike` raises UsageError for two labs that one cluster cannot be."""

    provider: str
    planned: Callable[[Lab], Planned]
    commands: Callable[[Lab], AbstractContextManager[Commands]]
    files: Callable[[str], LabFiles]
    executor: Callable[[Lab], AbstractContextManager[Executor]]
    again: Callable[[Lab, bool], Sequence[Step]] | None = None
    remove: Callable[[Lab, tuple[str, ...]], Action] | None = None
    unlike: Callable[[Lab, Lab], None] = lambda before, after: None
    is_quick: bool = False

    def compared(self, lab: Lab, *, parts: Collection[str] = (), scenario: str = "") -> Compared:
        before = read_record(self.files(lab.name).record)
        if before is not None and before.digest != lab.digest:
            self.unlike(before, lab)
        planned = self.planned(lab)
        _refuse_unknown(lab, parts)
        with self.commands(lab) as commands:
            listed = read(planned, commands)
        found = tuple(one for one in differences(planned, listed) if not parts or one.part in parts)
        drift = Drift(lab=lab.name, provider=self.provider, scenario=scenario, differences=found, unread=listed.unread)
        steps = tuple(self._steps(lab, planned, found))
        if before is not None and before.digest != lab.digest and not parts and self.again is not None:
            record = WriteFile(path=self.files(lab.name).record, text=json.dumps(lab_to_json(lab), indent=1) + "\n")
            steps += (Step(id="record", title="record: the lab's facts, for labctl status", actions=(record,)),)
        return Compared(drift=drift, plan=Plan(lab=lab.name, provider=self.provider, steps=steps))

    def _steps(self, lab: Lab, planned: Planned, found: Sequence[Difference]) -> Iterator[Step]:
        """Pods that are extra or not as they should be go, and what is there of the plan is applied again."""
        kinds = {one.kind for one in found}
        if self.again is None or self.remove is None or not kinds & {VALUE, POD, SERVICE}:
            return
        removed = dict.fromkeys(
            (one.kind, one.part) for one in found if one.kind in (POD, SERVICE) and one.change is not Change.MISSING
        )
        settings = planned.settings
        if removed:
            delete = partial(settings.kubectl, "-n", settings.namespace, "delete")
            actions = tuple(
                self.remove(lab, delete(kind.lower(), name, "--ignore-not-found", "--wait")) for kind, name in removed
            )
            yield Step(id="remove", title=f"remove what is extra or in the way: {len(actions)}", actions=actions)
        yield from self.again(lab, VALUE in kinds)

    def recorded(self, name: str) -> Lab | None:
        """A cluster may be gone while its record is here: it is looked for."""
        return None

    def begin_change(self, after: Lab) -> None:
        if self.again is None:
            raise UsageError(
                what=f"labs of the provider {self.provider} are not changed while they are up",
                cause="the cluster is somebody's: labctl makes its own namespace there, and removes it",
                remedy=f"labctl down {after.name}, then build the other one",
            )
        write_record(self._target(after.name), after)

    def end_change(self, lab: Lab) -> None:
        files.remove_own(self._target(lab.name))

    def cut_off(self, name: str) -> Lab | None:
        if read_state(self._target(name)) is None or locks.is_held(self._lock(name)):
            return None
        return read_record(self._target(name))

    def forget_changes(self, lab: Lab, parts: Collection[str] = ()) -> None:
        """What is changed on purpose of a cluster is faults, which `mend` heals."""

    @contextlib.contextmanager
    def mending(self, lab: Lab) -> Iterator[Executor]:
        with locks.held(self._lock(lab.name), timeout_s=0.2) as is_mine:
            if not is_mine:
                raise UsageError(what=f"the lab {lab.name} is being changed by another labctl right now")
            with self.executor(lab) as running:
                yield running

    def _target(self, name: str) -> Path:
        return self.files(name).record.with_name(_TARGET)

    def _lock(self, name: str) -> str:
        return f"change-{self.provider}-{name}"
