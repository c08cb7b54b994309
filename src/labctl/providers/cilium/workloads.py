"""The Kubernetes objects of a lab, and pods as `kubectl get -o json` lists them: ready or not, and why. Pure.

One pod per scenario pod, one helper pod per node with pods, in the lab's namespace. Pods are pinned by `nodeName`, so
no scheduler and no taint moves them. The helper pods share their node's network: captures on the node's devices run
there when the node image has no tcpdump.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from labctl.errors import MeasureFailed
from labctl.json_text import of_known_form, parse_json
from labctl.model.lab import Service
from labctl.providers.cilium.settings import Cluster
from labctl.services.frontends import fillers
from labctl.values import dataclass

CONTAINER = "tools"
ACCOUNT = "labctl"
HELPER_LABEL = "labctl.io/helper"
LAB_LABEL = "labctl.io/lab"
_IDLE = ["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]
"""Ends at once on SIGTERM; `sleep` as process 1 would be waited for until the grace period is over."""


def nodes_with_helper(settings: Cluster) -> tuple[str, ...]:
    """The nodes that packets of the lab pass: those that have pods."""
    return tuple(node for node in settings.nodes if settings.lab.pods_on(node))


def helper_name(node: str) -> str:
    """The pod that shares the network of the scenario's node `node`."""
    return f"labctl-helper-{node}"


def workloads(settings: Cluster) -> str:
    """All objects as YAML for `kubectl apply`."""
    documents = (_namespace(settings), _service_account(settings), *objects(settings))
    text: str = yaml.safe_dump_all(documents, sort_keys=False)
    return text + "".join(f"---\n{json.dumps(document)}\n" for document in _fillers(settings))


def objects(settings: Cluster) -> Iterator[dict[str, Any]]:
    """The pods, the helpers and the scenario's Services."""
    yield from (_pod(settings, pod.name, pod.node, dict(pod.labels)) for pod in settings.lab.pods)
    yield from (_helper(settings, node) for node in nodes_with_helper(settings))
    yield from (_service(settings, service) for service in settings.lab.services)


def _namespace(settings: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": settings.namespace,
            # Pod Security admission (1.23 and later) would keep out the helpers.
            "labels": {LAB_LABEL: settings.lab.name, "pod-security.kubernetes.io/enforce": "privileged"},
        },
    }


def _service_account(settings: Cluster) -> dict[str, Any]:
    """One of the lab's own: a new namespace's `default` account is made with a delay, and pods are refused before."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "namespace": settings.namespace},
    }


def _pod(settings: Cluster, name: str, node: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": {LAB_LABEL: settings.lab.name, **labels}},
        "spec": {
            "nodeName": settings.nodes[node],
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    **_container(settings),
                    # As root, whatever user the image names: ping, tcpdump and neighbour tables need it.
                    "securityContext": {
                        "runAsUser": 0,
                        "capabilities": {"add": ["NET_ADMIN", "NET_RAW", "SYS_NICE"]},
                    },
                }
            ],
            "tolerations": [{"operator": "Exists"}],
        },
    }


def _helper(settings: Cluster, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": helper_name(node),
            "namespace": settings.namespace,
            "labels": {LAB_LABEL: settings.lab.name, HELPER_LABEL: node},
        },
        "spec": {
            "nodeName": settings.nodes[node],
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "containers": [{**_container(settings), "securityContext": {"privileged": True, "runAsUser": 0}}],
            "tolerations": [{"operator": "Exists"}],
        },
    }


def _service(settings: Cluster, service: Service) -> dict[str, Any]:
    """The endpoints follow from the selector: Kubernetes keeps them."""
    port: dict[str, Any] = {
        "port": service.port,
        "targetPort": service.target_port,
        "protocol": service.protocol.upper(),
    }
    if service.node_port is not None:
        port["nodePort"] = service.node_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.name,
            "namespace": settings.namespace,
            "labels": {LAB_LABEL: settings.lab.name},
        },
        "spec": {
            "type": str(service.type),
            "clusterIP": str(service.address),
            "selector": {LAB_LABEL: settings.lab.name, **service.selector},
            "ports": [port],
        },
    }


_SLICES_V1 = (1, 21)
"""The first Kubernetes with EndpointSlices in discovery.k8s.io/v1."""


def _fillers(settings: Cluster) -> Iterator[dict[str, Any]]:
    """A Service without a selector each, and its one endpoint by hand: an address that nobody has. One line each, since
    PyYAML would take a minute for ten thousand."""
    api = "discovery.k8s.io/v1" if settings.kubernetes.series >= _SLICES_V1 else "discovery.k8s.io/v1beta1"
    for filler in fillers(settings.lab):
        name = {"name": filler.name, "namespace": settings.namespace}
        protocol = filler.protocol.upper()
        (backend,) = filler.backends
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**name, "labels": {LAB_LABEL: settings.lab.name}},
            "spec": {
                "clusterIP": str(filler.address),
                "ports": [{"port": filler.port, "targetPort": backend.port, "protocol": protocol}],
            },
        }
        yield {
            "apiVersion": api,
            "kind": "EndpointSlice",
            "metadata": {
                **name,
                "labels": {LAB_LABEL: settings.lab.name, "kubernetes.io/service-name": filler.name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [str(backend.address)], "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": backend.port, "protocol": protocol}],
        }


def _container(settings: Cluster) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.tools_image,
        "imagePullPolicy": "IfNotPresent" if settings.pulls_images else "Never",
        "command": _IDLE,
    }


HOPELESS = ("ErrImageNeverPull", "InvalidImageName")
_PULLS = ("ErrImagePull", "ImagePullBackOff")
"""Reasons that do not pass by waiting."""
STUCK: Mapping[str, float] = {
    "CreateContainerConfigError": 60.0, "CreateContainerError": 60.0, "RunContainerError": 60.0,
    "ErrImagePull": 20.0, "ImagePullBackOff": 20.0, "ImageInspectError": 20.0, "RegistryUnavailable": 20.0,
    "Unschedulable": 60.0,
}  # fmt: skip
"""Reasons that may pass by themselves (containerd answers late on a busy node, a registry drops one connection), and
how many seconds one of them may last before it counts as hopeless; of crashes see `crashes.py`. The kubelet tries a
pull again after 10 s, then 20 s: what lasts longer has failed twice."""
NEVER_PULLED = re.compile(
    r"manifest unknown|manifest for .* not found|: not found\b|repository does not exist|pull access denied"
    r"|unauthorized|authorization failed|no match for platform|x509: |invalid reference|server gave HTTP response",
    re.IGNORECASE,
)
"""What a registry, or the way to it, says of an image that no second try will bring."""
ENDED = "status.phase!=Running,status.phase!=Pending,status.phase!=Unknown"
"""Selects pods that have ended (`Failed`, as evicted ones are, or `Succeeded`): nothing starts them again."""
_ENDED_PHASES = ("Failed", "Succeeded")
_RESTARTS = 3
"""After the third the kubelet waits 40 s and more: what has crashed three times crashes again."""
_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?")
"""A DNS subdomain (RFC 1123), or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """`reason` says what it waits for, empty when ready. `is_hopeless` means that waiting longer does not help.
    `crashed` is the container whose last run ended with an error; `crashing` the same one while it does not run again.
    `has_just_ended`: the kubelet has not put that end away yet, and its log is not yet the previous one."""

    namespace: str
    name: str
    node: str
    address: str
    is_ready: bool
    reason: str
    is_hopeless: bool
    restarts: int
    crashing: str = ""
    crashed: str = ""
    has_just_ended: bool = False

    @property
    def is_stuck(self) -> bool:
        """True for what may pass, and is hopeless when it does not."""
        return self._stuck_in is not None

    @property
    def patience_s(self) -> float:
        """How long what it is stuck in may last."""
        return STUCK[self._stuck_in] if self._stuck_in is not None else 0.0

    @property
    def _stuck_in(self) -> str | None:
        return next((word for word in STUCK if re.search(rf"(^|: ){word}\b", self.reason)), None)


@of_known_form("kubectl's list of pods")
def parse_pods(text: str) -> tuple[PodState, ...]:
    """Without those that have ended and belong to a controller, which has replaced them. Raises MeasureFailed when the
    text is not a list of pods."""
    try:
        items = parse_json(text)["items"]
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="kubectl's list of pods is not JSON", cause=text.strip()[:200]) from failed
    pods = tuple(_state(item) for item in items if not _is_replaced(item))
    strange = [pod for pod in pods if not all(_NAME.fullmatch(name) for name in (pod.name, pod.namespace, pod.node))]
    if strange:
        # What is not a name in Kubernetes could be an option, or a second command, where kubectl gets it as a name.
        raise MeasureFailed(what="kubectl's list has a pod with an invalid name", cause=repr(strange[0].name)[:200])
    return pods


def _is_replaced(item: Mapping[str, object]) -> bool:
    owners = _list(_inner(item, "metadata"), "ownerReferences")
    has_ended = _inner(item, "status").get("phase") in _ENDED_PHASES
    return has_ended and any(owner.get("controller") is True for owner in owners)


def _state(item: Mapping[str, object]) -> PodState:
    meta, spec, status = (_inner(item, key) for key in ("metadata", "spec", "status"))
    conditions = _list(status, "conditions")
    is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    containers = [*_list(status, "initContainerStatuses"), *_list(status, "containerStatuses")]
    restarts = sum(count for c in containers if isinstance(count := c.get("restartCount"), int))
    reason, hopeless = ("", False) if is_ready else _reason(status, conditions, containers)
    crashing, crashed = (next(filter(None, map(look, containers)), "") for look in (_crashing, _crashed))
    if restarts >= _RESTARTS and crashing and not is_ready:
        hopeless = True
    if meta.get("deletionTimestamp"):
        is_ready, reason = False, "terminating"
    return PodState(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        node=str(spec.get("nodeName", "")),
        address=str(status.get("podIP", "")),
        is_ready=is_ready,
        reason=reason,
        is_hopeless=hopeless,
        restarts=restarts,
        crashing=crashing,
        crashed=crashing or crashed,
        has_just_ended=any(_failed(_inner(_inner(c, "state"), "terminated")) for c in containers),
    )


def _crashing(container: Mapping[str, object]) -> str:
    """Its name while it is down after an error."""
    state = _inner(container, "state")
    is_down = _inner(state, "waiting").get("reason") == "CrashLoopBackOff" or _failed(_inner(state, "terminated"))
    return str(container.get("name", "")) if is_down else ""


def _crashed(container: Mapping[str, object]) -> str:
    """Its name when the run before this one ended with an error."""
    return str(container.get("name", "")) if _failed(_inner(_inner(container, "lastState"), "terminated")) else ""


def _failed(ended: Mapping[str, object]) -> bool:
    return bool(ended) and ended.get("exitCode") not in (0, None)


def _reason(
    status: Mapping[str, object], conditions: list[dict[str, object]], containers: list[dict[str, object]]
) -> tuple[str, bool]:
    if status.get("phase") in _ENDED_PHASES and (status.get("reason") or status.get("message")):
        # Evicted, Terminated, NodeLost, UnexpectedAdmissionError…: its containers' ends only follow from that.
        words = (str(status[key]).strip() for key in ("reason", "message") if status.get(key))
        return ": ".join(words), True
    for container in containers:
        state = _inner(container, "state")
        waiting, ended = _inner(state, "waiting"), _inner(state, "terminated")
        word = str(waiting.get("reason", ""))
        if word and word not in ("PodInitializing", "ContainerCreating"):
            last = _inner(_inner(container, "lastState"), "terminated")
            detail = str(waiting.get("message", ""))
            if last.get("message"):
                detail = str(last["message"]).strip().splitlines()[-1]
            is_hopeless = word in HOPELESS or (word in _PULLS and NEVER_PULLED.search(detail) is not None)
            return (f"{container.get('name')}: {word}{f' ({detail})' if detail else ''}", is_hopeless)
        if ended and ended.get("exitCode") not in (0, None):
            has_ended = status.get("phase") in _ENDED_PHASES
            return (f"{container.get('name')}: ended with status {ended.get('exitCode')}", has_ended)
    for condition in conditions:
        if condition.get("status") == "False" and condition.get("message"):
            kind = "Unschedulable" if condition.get("reason") == "Unschedulable" else condition.get("type")
            return (f"{kind}: {condition.get('message')}", False)
    return (str(status.get("message") or status.get("phase") or "no status yet"), status.get("phase") in _ENDED_PHASES)


def _inner(item: Mapping[str, object], key: str) -> dict[str, object]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _list(item: Mapping[str, object], key: str) -> list[dict[str, object]]:
    value = item.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def parse_events(text: str, limit: int = 3) -> tuple[str, ...]:
    """The last warnings of `kubectl get events -o json`, newest last, as `Reason: message`."""
    try:
        items = parse_json(text)["items"]
        warnings = [item for item in items if item.get("type") == "Warning"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    warnings.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))
    return tuple(dict.fromkeys(f"{item.get('reason')}: {str(item.get('message', '')).strip()}" for item in warnings))[
        -limit:
    ]
