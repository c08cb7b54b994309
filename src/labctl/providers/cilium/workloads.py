"""The Kubernetes objects of a lab: its namespace, one pod per scenario pod, one helper pod per node with pods. Pure.

Pods are pinned by `nodeName`, so no scheduler and no taint moves them. The helper pods share their node's network:
captures on the node's devices run there when the node image has no tcpdump.
"""

from __future__ import annotations

from typing import Any

import yaml

from labctl.model.lab import Service
from labctl.providers.cilium.settings import Cluster

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
    documents = [_namespace(settings), _service_account(settings)]
    documents += [_pod(settings, pod.name, pod.node, dict(pod.labels)) for pod in settings.lab.pods]
    documents += [_helper(settings, node) for node in nodes_with_helper(settings)]
    documents += [_service(settings, service) for service in settings.lab.services]
    return yaml.safe_dump_all(documents, sort_keys=False)


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


def _container(settings: Cluster) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.tools_image,
        "imagePullPolicy": "IfNotPresent" if settings.pulls_images else "Never",
        "command": _IDLE,
    }
