"""The kubeadm configuration documents of one cluster, by Kubernetes version. Pure: settings in, data out.

What only the machine knows (its cgroup driver, its own address) stays out of here where it is left to `auto`; the
playbook puts it in. Tokens and hashes are never part of these documents: a join gets them on its way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

import yaml

from labctl.model.sections import CgroupDriver, Kubeadm, Swap
from labctl.providers.cilium.values import merged
from labctl.providers.kubeadm.kubernetes import (
    ConfigApi,
    SkipProxy,
    config_api,
    cri_socket,
    parse_version,
    skip_proxy,
)
from labctl.values import dataclass

KUBELET_API = "kubelet.config.k8s.io/v1beta1"
PROXY_API = "kubeproxy.config.k8s.io/v1alpha1"
Document = dict[str, Any]
LEAST_FREE_PERCENT = 5
"""Of a disk's bytes and inodes: with less the kubelet of a lab reports DiskPressure, and evicts pods."""
LEAST_AVAILABLE_BYTE = 100 * 1024 * 1024
"""Of memory, for MemoryPressure; the kubelet's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """What a cluster's configuration depends on, besides the settings."""

    name: str
    pod_cidr: str
    service_cidr: str
    control_plane: str
    kube_proxy: str = ""
    """The mode of kube-proxy; empty: it is left out."""
    proxy_gates: Mapping[str, bool] = field(default_factory=dict)


def extra_args(api: ConfigApi, arguments: Mapping[str, str]) -> Any:
    """Extra arguments as this API spells them: a map until v1beta3, a list of names and values since v1beta4."""
    if api is ConfigApi.V1BETA4:
        return [{"name": name, "value": value} for name, value in arguments.items()]
    return dict(arguments)


def node_registration(settings: Kubeadm, node: str, address: str) -> Document:
    """How a machine becomes a node: under the lab's name for it, at the address the cluster uses."""
    version = parse_version(settings.kubernetes)
    arguments = {"node-ip": address} if address else {}
    registration: Document = {
        "name": node,
        "criSocket": cri_socket(version, settings.runtime.socket),
        "kubeletExtraArgs": extra_args(config_api(version), arguments),
    }
    if settings.ignore_preflight_errors:
        registration["ignorePreflightErrors"] = list(dict.fromkeys(settings.ignore_preflight_errors))
    if not settings.pulls_images and not checks_apart(settings):
        # kubeadm would want kube-proxy's image too, which is not used; labctl looks for the others itself.
        registration["imagePullPolicy"] = "Never"
    return registration


def checks_apart(settings: Kubeadm) -> bool:
    """Whether kubeadm's checks have to run apart from its start. Up to 1.21 no configuration forbids pulling, which is
    part of the checks, and only a dry run has the one without the other."""
    return not settings.pulls_images and config_api(parse_version(settings.kubernetes)) is ConfigApi.V1BETA2


def init_document(settings: Kubeadm, shape: ClusterShape, address: str) -> Document:
    version = parse_version(settings.kubernetes)
    endpoint: Document = {"bindPort": settings.api_port}
    if address:
        endpoint["advertiseAddress"] = address
    document: Document = {
        "apiVersion": str(config_api(version)),
        "kind": "InitConfiguration",
        "localAPIEndpoint": endpoint,
        "nodeRegistration": node_registration(settings, shape.control_plane, address) | {"taints": []},
    }
    if not shape.kube_proxy and skip_proxy(version) is not SkipProxy.FLAG:
        document["skipPhases"] = ["addon/kube-proxy"]
    return merged(document, settings.init)


def cluster_document(settings: Kubeadm, shape: ClusterShape) -> Document:
    version = parse_version(settings.kubernetes)
    document: Document = {
        "apiVersion": str(config_api(version)),
        "kind": "ClusterConfiguration",
        "clusterName": shape.name,
        "kubernetesVersion": f"v{version}",
        "networking": {
            "podSubnet": shape.pod_cidr,
            "serviceSubnet": shape.service_cidr,
            "dnsDomain": "cluster.local",
        },
    }
    if settings.image_repository:
        document["imageRepository"] = settings.image_repository
    if not shape.kube_proxy and skip_proxy(version) is SkipProxy.DISABLED:
        document["proxy"] = {"disabled": True}
    return merged(document, settings.cluster)


def proxy_document(shape: ClusterShape) -> Document:
    """kube-proxy's own configuration, which kubeadm keeps for its DaemonSet."""
    document: Document = {
        "apiVersion": PROXY_API,
        "kind": "KubeProxyConfiguration",
        "mode": shape.kube_proxy,
        "clusterCIDR": shape.pod_cidr,
    }
    if shape.proxy_gates:
        document["featureGates"] = dict(shape.proxy_gates)
    return document


KUBELET_IN_LABS: Document = {
    # 100 turns the garbage collection of images off: what was preloaded cannot be pulled again without a registry.
    "imageGCHighThresholdPercent": 100,
    # By default pods are evicted when 15 % of the images' disk are left, which is a third of it on a small machine. All
    # signals stand here, since naming one unsets the others' defaults.
    "evictionHard": {
        "memory.available": f"{LEAST_AVAILABLE_BYTE >> 20}Mi",
        "nodefs.available": f"{LEAST_FREE_PERCENT}%",
        "nodefs.inodesFree": f"{LEAST_FREE_PERCENT}%",
        "imagefs.available": f"{LEAST_FREE_PERCENT}%",
    },
}
"""How the kubelet of a lab's machine reacts to pressure, unless `kubeadm.kubelet` says otherwise."""


def kubelet_document(settings: Kubeadm) -> Document:
    document: Document = {"apiVersion": KUBELET_API, "kind": "KubeletConfiguration"}
    if settings.cgroup_driver is not CgroupDriver.AUTO:
        document["cgroupDriver"] = str(settings.cgroup_driver)
    if settings.swap is Swap.KEEP:
        document["failSwapOn"] = False
    return merged({**document, **copy.deepcopy(KUBELET_IN_LABS)}, settings.kubelet)


def init_documents(settings: Kubeadm, shape: ClusterShape, address: str) -> tuple[Document, ...]:
    """Everything `kubeadm init --config` reads, in the order that people expect."""
    documents = (
        init_document(settings, shape, address),
        cluster_document(settings, shape),
        kubelet_document(settings),
    )
    return (*documents, proxy_document(shape)) if shape.kube_proxy else documents


def join_document(settings: Kubeadm, node: str, address: str, endpoint: str) -> Document:
    """A JoinConfiguration without its secrets: `discovery.bootstrapToken.token` and `.caCertHashes` are put in
    by the play that joins, and the file is removed when the join is over."""
    version = parse_version(settings.kubernetes)
    return {
        "apiVersion": str(config_api(version)),
        "kind": "JoinConfiguration",
        "discovery": {"bootstrapToken": {"apiServerEndpoint": endpoint}},
        "nodeRegistration": node_registration(settings, node, address),
    }


def to_yaml(documents: Iterable[Document]) -> str:
    """The documents as one YAML file, keys in the order they were given."""
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, default_flow_style=False) for document in documents)
