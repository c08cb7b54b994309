"""Scenario → Lab: every address, MAC, name and number decided. Pure, and the same for the same scenario everywhere."""

from __future__ import annotations

import dataclasses
from collections import Counter
from ipaddress import IPv4Network

from labctl import names
from labctl.errors import UsageError
from labctl.model.datapath import Encapsulation
from labctl.model.interfaces import VXLAN_OVERHEAD_BYTE
from labctl.model.lab import Lab, Network, Node, Pod
from labctl.model.scenario import Scenario
from labctl.model.service import Service
from labctl.planning import addresses
from labctl.planning.identities import identities, label_key
from labctl.planning.record import digest_of


def resolve(scenario: Scenario, *, name: str | None = None) -> Lab:
    """The lab that the scenario describes, called `name` or as the scenario is.

    Raises UsageError when `name` is not a name, or when there are more sets of labels than identities.
    """
    if name is not None and not names.is_name(name):
        raise UsageError(
            f"'{name[:60]}' is not a lab's name" if name.isprintable() else "that is not a lab's name",
            "names have lower-case letters, digits and hyphens, at most 40 characters",
            "choose another: --name my-lab",
        )
    nodes = _nodes(scenario)
    lab = Lab(
        name=name or scenario.name,
        scenario=scenario.name,
        source=scenario.source,
        provider=scenario.provider,
        datapath=scenario.datapath,
        network=_network(scenario),
        nodes=nodes,
        pods=_pods(scenario, {node.name: node.pod_cidr for node in nodes}),
        pairs=scenario.pairs,
        checks=scenario.checks,
        compare=scenario.compare,
        digest="",
        settings=scenario.settings,
        services=_services(scenario),
    )
    return dataclasses.replace(lab, digest=digest_of(lab))


def _services(scenario: Scenario) -> tuple[Service, ...]:
    return tuple(
        Service(
            name=service.name,
            address=addresses.service_address(scenario.service_cidr, number),
            port=service.port,
            target_port=service.target_port,
            protocol=service.protocol,
            backends=service.backends,
            selector=service.selector,
            type=service.type,
            node_port=service.node_port,
        )
        for number, service in enumerate(scenario.services)
    )


def _network(scenario: Scenario) -> Network:
    overhead = VXLAN_OVERHEAD_BYTE if scenario.datapath.encapsulation is Encapsulation.VXLAN else 0
    return Network(
        underlay_cidr=scenario.underlay_cidr,
        pod_cidr=scenario.pod_cidr,
        service_cidr=scenario.service_cidr,
        mtu=scenario.mtu,
        route_mtu=scenario.mtu - overhead,
    )


def _nodes(scenario: Scenario) -> tuple[Node, ...]:
    nodes = []
    for index, name in enumerate(scenario.nodes):
        pod_cidr = addresses.pod_network(scenario.pod_cidr, index)
        nodes.append(
            Node(
                name=name,
                index=index,
                address=addresses.node_address(scenario.underlay_cidr, index),
                mac=names.stable_mac("node", name),
                pod_cidr=pod_cidr,
                router=addresses.router_address(pod_cidr),
            )
        )
    return tuple(nodes)


def _pods(scenario: Scenario, pod_cidrs: dict[str, IPv4Network]) -> tuple[Pod, ...]:
    try:
        identity_of = identities(pod.labels for pod in scenario.pods)
    except ValueError as error:
        raise UsageError("the lab has too many identities", str(error), "give pods the same labels") from None
    placed: Counter[str] = Counter()
    pods = []
    for pod in scenario.pods:
        pods.append(
            Pod(
                name=pod.name,
                node=pod.node,
                address=addresses.pod_address(pod_cidrs[pod.node], placed[pod.node]),
                mac=names.stable_mac("pod", pod.name),
                lxc=names.lxc_name(pod.name),
                lxc_mac=names.stable_mac("lxc", pod.name),
                identity=identity_of[label_key(pod.labels)],
                labels=dict(pod.labels),
            )
        )
        placed[pod.node] += 1
    return tuple(pods)
