"""The kind configuration of a lab, with the lab's mark in every node. Pure: data in, YAML out.

The mark is a mount: `/dev/null` at `/labctl/LAB/SCENARIO/DIGEST`. It is there from the moment a container exists, is
kept by the engine (no state file), survives a crash and a reboot, and no other cluster has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from labctl.model.lab import Lab
from labctl.model.sections_kind import Propagation
from labctl.providers.kind.settings import Settings

MARK_FOLDER = "/labctl"
_DIGEST_DIGITS = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a node container says of itself. `digest` is the beginning of the lab's digest."""

    lab: str
    scenario: str
    digest: str


def mark_of(lab: Lab) -> Mark:
    """What the nodes of this lab say."""
    scenario = _UNSAFE.sub("_", lab.scenario)[:80] or "_"
    return Mark(lab=lab.name, scenario=scenario, digest=lab.digest[:_DIGEST_DIGITS] or "_")


def mark_path(lab: Lab) -> str:
    """The mount point that marks a node of this lab."""
    mark = mark_of(lab)
    return f"{MARK_FOLDER}/{mark.lab}/{mark.scenario}/{mark.digest}"


def parse_mark(destination: str) -> Mark | None:
    """The mark in a mount's destination, or None when it is not one."""
    parts = destination.split("/")
    if len(parts) != 5 or f"/{parts[1]}" != MARK_FOLDER:
        return None
    return Mark(lab=parts[2], scenario=parts[3], digest=parts[4])


def kind_config(settings: Settings) -> str:
    """The YAML for `kind create cluster --config`."""
    lab, cluster = settings.lab, settings.cluster
    networking: dict[str, Any] = {
        "disableDefaultCNI": True,
        "kubeProxyMode": "none" if lab.datapath.kube_proxy_replacement else "iptables",
        "podSubnet": str(lab.network.pod_cidr),
        "serviceSubnet": str(lab.network.service_cidr),
        "apiServerAddress": settings.api_server_address,
    }
    if settings.api_server_port:
        networking["apiServerPort"] = settings.api_server_port
    config: dict[str, Any] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": settings.cluster_name,
        "networking": networking,
    }
    if cluster.feature_gates:
        config["featureGates"] = dict(cluster.feature_gates)
    patches = [*cluster.kubeadm_config_patches]
    if cluster.image_repository:
        patches.append(f"kind: ClusterConfiguration\nimageRepository: {cluster.image_repository}\n")
    if patches:
        config["kubeadmConfigPatches"] = patches
    containerd = [*cluster.containerd_config_patches]
    if cluster.registry_mirrors and settings.kubernetes.series < (1, 32):
        # Node images since kind 0.27 look there by themselves.
        containerd.append('[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d"\n')
    if containerd:
        config["containerdConfigPatches"] = containerd
    workers = len(settings.all_nodes) - len(settings.control_planes)
    roles = ["control-plane"] * len(settings.control_planes) + ["worker"] * workers
    config["nodes"] = [{"role": role, "image": settings.node_image, "extraMounts": _mounts(settings)} for role in roles]
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=1000)


def _mounts(settings: Settings) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"hostPath": "/dev/null", "containerPath": mark_path(settings.lab), "readOnly": True}
    ]
    for mount in settings.cluster.extra_mounts:
        entry: dict[str, Any] = {"hostPath": mount.host_path, "containerPath": mount.container_path}
        if mount.read_only:
            entry["readOnly"] = True
        if mount.propagation is not Propagation.NONE:
            entry["propagation"] = str(mount.propagation)
        mounts.append(entry)
    return mounts


class _Dumper(yaml.SafeDumper):
    """Multi-line text as a block, so that patches read as their author wrote them; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
