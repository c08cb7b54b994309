"""The kind configuration of a lab, with the lab's mark in every node. Pure: data in, YAML out.

The mark is a mount: `/dev/null` at `/labctl/LAB/SCENARIO/DIGEST`. It is there from the moment a container exists, is
kept by the engine (no state file), survives a crash and a reboot, and no other cluster has it.

Address ranges that no other kind lab on this host has: found by arithmetic, moved only where they overlap. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import yaml

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.pod_network import NetworkType
from labctl.model.sections import Propagation
from labctl.providers.cilium.compatibility import proxy_gates
from labctl.providers.kind.settings import KindSettings
from labctl.values import dataclass

MARK_FOLDER = "/labctl"
_DIGEST_DIGITS = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMark:
    """What a node container says about itself. `digest` is the beginning of the lab's digest."""

    lab: str
    scenario: str
    digest: str


def mark_of(lab: Lab) -> ContainerMark:
    """What the nodes of this lab say."""
    scenario = _UNSAFE.sub("_", lab.scenario)[:80] or "_"
    return ContainerMark(lab=lab.name, scenario=scenario, digest=lab.digest[:_DIGEST_DIGITS] or "_")


def mark_path(lab: Lab) -> str:
    """The mount point that marks a node of this lab."""
    mark = mark_of(lab)
    return f"{MARK_FOLDER}/{mark.lab}/{mark.scenario}/{mark.digest}"


def parse_mark(destination: str) -> ContainerMark | None:
    """The mark in a mount's destination, or None when it is not one."""
    parts = destination.split("/")
    if len(parts) != 5 or f"/{parts[1]}" != MARK_FOLDER:
        return None
    return ContainerMark(lab=parts[2], scenario=parts[3], digest=parts[4])


def kind_config(settings: KindSettings) -> str:
    """The YAML for `kind create cluster --config`."""
    lab, cluster = settings.lab, settings.cluster
    # kind brings kindnet to every node unless it is told not to.
    own = {} if lab.pod_network.type is NetworkType.KINDNET else {"disableDefaultCNI": True}
    networking: dict[str, Any] = {
        **own,
        "kubeProxyMode": "none" if lab.datapath.kube_proxy_replacement else str(lab.datapath.kube_proxy),
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
    gates = proxy_gates(lab, settings.kubernetes) | dict(cluster.feature_gates)
    if gates:
        config["featureGates"] = gates
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


def _mounts(settings: KindSettings) -> list[dict[str, Any]]:
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

Ranges = tuple[IPv4Network, ...]

_PODS_FROM = IPv4Network("10.0.0.0/8")
_SERVICES_FROM = IPv4Network("10.96.0.0/12")


def ranges_of(kind_config: str) -> Ranges:
    """The pods' and the Services' range out of a kind configuration; nothing where it has none."""
    networking = (yaml.safe_load(kind_config) or {}).get("networking") or {}
    return tuple(IPv4Network(networking[key]) for key in ("podSubnet", "serviceSubnet") if networking.get(key))


def overlapping(wanted: Iterable[IPv4Network], others: Iterable[tuple[str, Ranges]]) -> tuple[str, ...]:
    """Names of the labs whose pods or Services share an address with one of these ranges."""
    ranges = tuple(wanted)
    return tuple(name for name, theirs in others if any(mine.overlaps(other) for mine in ranges for other in theirs))


def settle(lab: Lab, others: Iterable[tuple[str, Ranges]]) -> Lab:
    """The lab with ranges that no other lab has. What does not overlap stays as it is, so the first lab always keeps
    the scenario's own ranges. Raises UsageError when there is no room left."""
    taken = [network for _, ranges in others for network in ranges]
    network = lab.network
    pods, services = network.pod_cidr, network.service_cidr
    if _is_taken(services, taken):
        services = _first_free(services, _SERVICES_FROM, [*taken, pods, network.underlay_cidr])
    if _is_taken(pods, taken):
        pods = _first_free(pods, _PODS_FROM, [*taken, services, network.underlay_cidr, _SERVICES_FROM])
    return moved(lab, pods, services)


def moved(lab: Lab, pods: IPv4Network, services: IPv4Network) -> Lab:
    """The lab with these ranges, and every address in them moved along."""
    network = lab.network
    if (pods, services) == (network.pod_cidr, network.service_cidr):
        return lab
    shift = int(pods.network_address) - int(network.pod_cidr.network_address)
    service_shift = int(services.network_address) - int(network.service_cidr.network_address)
    return replace(
        lab,
        network=replace(network, pod_cidr=pods, service_cidr=services),
        nodes=tuple(
            replace(
                node,
                pod_cidr=IPv4Network((int(node.pod_cidr.network_address) + shift, node.pod_cidr.prefixlen)),
                router=node.router + shift,
            )
            for node in lab.nodes
        ),
        pods=tuple(replace(pod, address=pod.address + shift) for pod in lab.pods),
        services=tuple(replace(service, address=service.address + service_shift) for service in lab.services),
    )


def _is_taken(network: IPv4Network, taken: Iterable[IPv4Network]) -> bool:
    return any(network.overlaps(other) for other in taken)


def _first_free(wanted: IPv4Network, pool: IPv4Network, taken: list[IPv4Network]) -> IPv4Network:
    """The next range of that size after the wanted one, then from the pool's beginning."""
    for candidate in _candidates(wanted, pool):
        if not _is_taken(candidate, taken):
            return candidate
    raise UsageError(
        what=f"no free range of the size of {wanted} is left in {pool}",
        cause="other labs use them all",
        remedy="labctl list, then labctl down those that are not needed",
    )


def _candidates(wanted: IPv4Network, pool: IPv4Network) -> Iterator[IPv4Network]:
    if wanted.prefixlen < pool.prefixlen:
        return
    size = wanted.num_addresses
    first, count = int(pool.network_address), pool.num_addresses // size
    begin = (int(wanted.network_address) - first) // size + 1 if wanted.subnet_of(pool) else 0
    for number in range(count):
        yield IPv4Network((first + (begin + number) % count * size, wanted.prefixlen))
