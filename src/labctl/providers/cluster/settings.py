"""A lab as the provider cluster reads it: its section, which cluster, which nodes, and its names there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from ipaddress import IPv4Network
from pathlib import Path

from labctl.codec import key_of
from labctl.errors import UsageError
from labctl.model.lab import (
    EXISTING_CLUSTER,
    Datapath,
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Network,
)
from labctl.model.parameters import CompareParameters
from labctl.model.sections import ExistingCluster, HelperUse
from labctl.providers.cilium.compatibility import refuse_networks
from labctl.providers.cilium.settings import ClusterAccess, section_of
from labctl.providers.cluster.files import ClusterFiles
from labctl.values import dataclass

MADE_BY = "labctl.io/made-by"
ID = "labctl.io/id"
SCENARIO = "labctl.io/scenario"
DIGEST = "labctl.io/digest"
"""Annotations of the namespace: who made it (user@host), by which id this host knows it, from what."""
_MODE = ("host_routing", "encapsulation", "masquerade", "kube_proxy_replacement", "observed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings(ClusterAccess):
    """Everything decided. `nodes` is empty until the cluster was asked; only nodes with pods are in it. `uplinks` is
    known once the nodes were asked, `lab_id` once the lab is being built."""

    section: ExistingCluster
    files: ClusterFiles
    nodes: Mapping[str, str] = field(default_factory=dict)
    control_planes: tuple[str, ...] = ()
    uplinks: Mapping[str, str] = field(default_factory=dict)

    @property
    def context(self) -> str:
        return self.section.context

    @property
    def image(self) -> str:
        return self.section.image

    @property
    def helper_image(self) -> str:
        return self.section.helper_image or self.section.image

    @property
    def wants_helpers(self) -> bool:
        return self.section.helpers is HelperUse.AUTO

    @property
    def needed_nodes(self) -> tuple[str, ...]:
        """The scenario's nodes that have pods: only those have to be nodes of the cluster."""
        return tuple(node.name for node in self.lab.nodes if self.lab.pods_on(node.name))

    def uplink(self, node: str) -> str:
        return self.uplinks.get(node, "")

    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        return argv_kubectl(self.section, *arguments)


def in_words(placement: Mapping[str, str]) -> str:
    """Which node of the cluster each node of the scenario is: `node1 is worker-a, node2 is worker-b`."""
    return ", ".join(" is ".join(pair) for pair in placement.items())


def bare_lab(name: str) -> Lab:
    """A lab of which no more than the name is known: enough to find its namespace by."""
    nowhere = IPv4Network("0.0.0.0/32")
    return Lab(
        name=name,
        scenario=name,
        source="",
        digest="",
        provider=EXISTING_CLUSTER,
        datapath=Datapath(
            host_routing=HostRouting.LEGACY,
            encapsulation=Encapsulation.NATIVE,
            masquerade=Masquerade.IPTABLES,
            kube_proxy_replacement=False,
            observed=True,
        ),
        network=Network(underlay_cidr=nowhere, pod_cidr=nowhere, service_cidr=nowhere, mtu=1500, route_mtu=1500),
        nodes=(),
        pods=(),
        pairs=(),
        checks=(),
        compare=CompareParameters(),
    )


def argv_kubectl(section: ExistingCluster, *arguments: str) -> tuple[str, ...]:
    """kubectl for that cluster. No time limit of its own: `exec` lasts as long as what it runs."""
    config = ("--kubeconfig", section.kubeconfig) if section.kubeconfig else ()
    context = ("--context", section.context) if section.context else ()
    return ("kubectl", *config, *context, *arguments)


def read_settings(lab: Lab, root: Path) -> ClusterSettings:
    """Raises UsageError for what the section does not have, and for what can only be asked of a lab that labctl
    makes."""
    section = section_of(ExistingCluster, lab, "cluster")
    refuse(lab, section)
    return ClusterSettings(lab=lab, section=section, files=ClusterFiles.of(root, lab.name))


def refuse(lab: Lab, section: ExistingCluster) -> None:
    """Raises UsageError, with the key at fault."""
    refuse_networks(lab)
    for each in fields(Datapath):
        if each.name not in _MODE and getattr(lab.datapath, each.name) != each.default:
            key = key_of(Datapath, each.name)
            raise UsageError(
                what=f"{key} has no effect with the provider {lab.provider}",
                cause="labctl changes nothing of a cluster that it did not make",
                remedy=f"a scenario without {key}:, or --provider netns",
                key=f"datapath.{key}",
            )
    unknown = [name for name in section.nodes if name not in {node.name for node in lab.nodes}]
    if unknown:
        raise UsageError(
            what=f"cluster.nodes places {unknown[0]}, which is no node of the scenario",
            cause=f"its nodes are: {', '.join(node.name for node in lab.nodes)}",
            remedy="cluster.nodes: {node1: NAME-IN-THE-CLUSTER, …}",
            key=f"cluster.nodes.{unknown[0]}",
        )
    if len(set(section.nodes.values())) < len(section.nodes):
        raise UsageError(
            what="cluster.nodes names one node of the cluster twice",
            cause="two nodes of the scenario would be one, and what is cross-node in it would not be",
            remedy="another node of the cluster for each",
            key="cluster.nodes",
        )
    clash = sorted({pod.name for pod in lab.pods} & {node.name for node in lab.nodes})
    if clash:
        raise UsageError(
            what=f"the name {clash[0]} is used twice in lab {lab.name}",
            cause="a pod and a node would have one name on the command line",
            remedy="rename the node or the pod in the scenario",
            key="pods",
        )
