"""The Kubernetes objects of a lab on a cluster that is there: one namespace, its pods and Services, its helpers. Pure.

Pods are brought to their nodes by Kubernetes' own means: a required node affinity on the node's name, as a DaemonSet's
pods have it, so that the scheduler places them and says why when it cannot. They are plain pods that a namespace of the
level `baseline` takes, unless helpers are wanted. A helper shares its node's network, stands where taints are, and is
ended by Kubernetes when its time is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from labctl.model.lab import Pod, Service
from labctl.providers.cilium.workloads import ACCOUNT, CONTAINER, HELPER_LABEL, LAB_LABEL, helper_name
from labctl.providers.cluster.settings import DIGEST, ID, MADE_BY, SCENARIO, ClusterSettings

_IDLE = ["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]
"""Ends at once on SIGTERM; `sleep` as process 1 would be waited for until the grace period is over."""
LEVEL = "pod-security.kubernetes.io/enforce"
_POD_POWERS = ("NET_ADMIN", "NET_RAW", "SYS_NICE")


def namespace_text(settings: ClusterSettings, *, lab_id: str = "", made_by: str = "") -> str:
    """The lab's namespace with its mark, as YAML. Without an id it is one that an administrator makes in advance."""
    annotations = {SCENARIO: settings.lab.scenario, DIGEST: settings.lab.digest[:16]}
    if lab_id:
        annotations |= {ID: lab_id, MADE_BY: made_by}
    labels = {LAB_LABEL: settings.lab.name}
    if settings.wants_helpers:
        labels[LEVEL] = "privileged"  # Pod Security admission (1.23 and later) would keep out the helpers
    metadata = {"name": settings.namespace, "labels": labels, "annotations": annotations}
    return dumped([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])


def workloads_text(settings: ClusterSettings) -> str:
    """The account, pods and Services of the lab, as YAML."""
    # An account of the lab's own: a new namespace's `default` one is made with a delay, and pods are refused before.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(settings, ACCOUNT)}
    return dumped([account, *objects(settings)])


def objects(settings: ClusterSettings) -> Iterator[dict[str, Any]]:
    """The pods and Services."""
    yield from (_pod(settings, pod) for pod in settings.lab.pods)
    yield from (_service(settings, service) for service in settings.lab.services)


def helpers_text(settings: ClusterSettings, nodes: Iterable[str]) -> str:
    """The helper pods of those nodes of the scenario, as YAML."""
    return dumped([_helper(settings, node) for node in nodes])


def on_node(name: str) -> dict[str, Any]:
    """The affinity of a pod that the scheduler shall place on that node of the cluster."""
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    required = {"nodeSelectorTerms": [field]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def dumped(documents: Iterable[Mapping[str, Any]]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def _metadata(settings: ClusterSettings, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    own = {LAB_LABEL: settings.lab.name, **(labels or {})}
    return {"name": name, "namespace": settings.namespace, "labels": own}


def _spec(settings: ClusterSettings, node: str, image: str, security: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "affinity": on_node(settings.nodes[node]),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": False,
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent" if settings.section.pull else "Never",
                "command": _IDLE,
                "securityContext": dict(security),
            }
        ],
    }


def _pod(settings: ClusterSettings, pod: Pod) -> dict[str, Any]:
    # As root, whatever user the image names: ping and tcpdump need it. Further powers only where the namespace is of
    # the level that takes them; without them checks that change a pod's neighbour table are an error, not the lab.
    security: dict[str, Any] = {"runAsUser": 0}
    if settings.wants_helpers:
        security["capabilities"] = {"add": list(_POD_POWERS)}
    spec = _spec(settings, pod.node, settings.image, security)
    if settings.section.tolerate_taints:
        spec["tolerations"] = [{"operator": "Exists"}]
    metadata = _metadata(settings, pod.name, pod.labels)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _helper(settings: ClusterSettings, node: str) -> dict[str, Any]:
    spec = _spec(settings, node, settings.helper_image, {"privileged": True, "runAsUser": 0})
    spec |= {
        "hostNetwork": True,
        "activeDeadlineSeconds": settings.section.helper_lifetime_s,
        "tolerations": [{"operator": "Exists"}],
    }
    metadata = _metadata(settings, helper_name(node), {HELPER_LABEL: node})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _service(settings: ClusterSettings, service: Service) -> dict[str, Any]:
    """With an address of the cluster's own choice: the scenario's range is not this cluster's."""
    port: dict[str, Any] = {
        "port": service.port, "targetPort": service.target_port, "protocol": service.protocol.upper(),
    }  # fmt: skip
    if service.node_port is not None:
        port["nodePort"] = service.node_port
    selector = {LAB_LABEL: settings.lab.name, **service.selector}
    spec = {"type": str(service.type), "selector": selector, "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(settings, service.name), "spec": spec}
