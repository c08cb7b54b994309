"""Kubernetes pods as `kubectl get -o json` lists them: which are ready, which are not and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.providers.cilium.json_lines import of_known_form

HOPELESS = ("ErrImageNeverPull", "InvalidImageName")
"""Reasons that no waiting mends."""
STUCK = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
"""Reasons that a busy node mends by itself (containerd answers late) and that stay when something is wrong."""
ENDED = "status.phase!=Running,status.phase!=Pending,status.phase!=Unknown"
"""Selects pods that have ended (`Failed`, as evicted ones are, or `Succeeded`): nothing starts them again."""
_ENDED_PHASES = ("Failed", "Succeeded")
_RESTARTS = 4
_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?")
"""A DNS subdomain (RFC 1123), or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """`reason` says what it waits for, empty when ready. `is_hopeless` means that waiting longer is in vain."""

    namespace: str
    name: str
    node: str
    address: str
    is_ready: bool
    reason: str
    is_hopeless: bool
    restarts: int

    @property
    def is_stuck(self) -> bool:
        """True for what may pass, and is hopeless when it does not."""
        return any(f": {word}" in self.reason for word in STUCK)


@of_known_form("kubectl's list of pods")
def parse_pods(text: str) -> tuple[PodState, ...]:
    """Without those that have ended and belong to a controller, which has put others in their place. Raises
    MeasureFailed when the text is not a list of pods."""
    try:
        items = parse_json(text)["items"]
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="kubectl's list of pods is not JSON", cause=text.strip()[:200]) from failed
    pods = tuple(_state(item) for item in items if not _is_replaced(item))
    strange = [pod for pod in pods if not all(_NAME.fullmatch(name) for name in (pod.name, pod.namespace, pod.node))]
    if strange:
        # What is no name in Kubernetes would be an option, or a second command, where kubectl is asked for that pod.
        raise MeasureFailed(what="kubectl's list has a pod whose name is none", cause=repr(strange[0].name)[:200])
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
    if restarts >= _RESTARTS and not is_ready:
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
    )


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
            return (f"{container.get('name')}: {word}{f' ({detail})' if detail else ''}", word in HOPELESS)
        if ended and ended.get("exitCode") not in (0, None):
            has_ended = status.get("phase") in _ENDED_PHASES
            return (f"{container.get('name')}: ended with status {ended.get('exitCode')}", has_ended)
    for condition in conditions:
        if condition.get("status") == "False" and condition.get("message"):
            return (f"{condition.get('type')}: {condition.get('message')}", False)
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
