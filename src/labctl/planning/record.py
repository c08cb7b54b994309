"""A `Lab` as JSON-ready data and back, without loss; and the digest that equal labs have in common.

Storing the data is not its business. Reading is strict: data of another form is refused in words, since a record may
have been cut short, edited, or written by another version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from labctl.errors import LabError
from labctl.model.datapath import Datapath, Encapsulation, Fault, HostRouting, Masquerade
from labctl.model.lab import CheckSpec, Lab, Network, Node, Pair, Placement, Pod
from labctl.model.parameters import PARAMETERS_OF, CheckParameters, CompareParameters
from labctl.model.service import Protocol, Service, ServiceType

API_VERSION = "labctl/v1"
KIND = "Lab"


def lab_to_json(lab: Lab) -> dict[str, Any]:
    """Everything about the lab. Quantities keep their Python names in camelCase."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": lab.name,
        "scenario": lab.scenario,
        "source": lab.source,
        "digest": lab.digest,
        **_content(lab),
    }


def digest_of(lab: Lab) -> str:
    """SHA-256 over what the lab is. What it is called, and which file it came from, is left out."""
    text = json.dumps(_content(lab), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lab_from_json(data: Mapping[str, Any]) -> Lab:
    """The lab that `lab_to_json` wrote. Raises LabError when the data is not such a record."""
    try:
        if (data["apiVersion"], data["kind"]) != (API_VERSION, KIND):
            raise ValueError(f"it is a {data['kind']} of {data['apiVersion']}, not a {KIND} of {API_VERSION}")
        lab = _lab(data)
        if digest_of(lab) != lab.digest:
            raise ValueError("its digest does not fit its content")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        cause = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise LabError(
            "the lab's record cannot be read", cause, "remove the lab and build it again: labctl down LAB"
        ) from None
    return lab


def _content(lab: Lab) -> dict[str, Any]:
    return {
        "provider": lab.provider,
        "datapath": lab.datapath.asked()
        | {
            "extraIptablesRules": lab.datapath.extra_iptables_rules,
            "extraDelayNs": lab.datapath.extra_delay_ns,
            "faults": [str(fault) for fault in lab.datapath.faults],
        },
        "network": {
            "underlayCIDR": str(lab.network.underlay_cidr),
            "podCIDR": str(lab.network.pod_cidr),
            "serviceCIDR": str(lab.network.service_cidr),
            "mtu": lab.network.mtu,
            "routeMtu": lab.network.route_mtu,
        },
        "nodes": [
            {
                "name": node.name,
                "address": str(node.address),
                "mac": node.mac,
                "podCIDR": str(node.pod_cidr),
                "router": str(node.router),
            }
            for node in lab.nodes
        ],
        "pods": [
            {
                "name": pod.name,
                "node": pod.node,
                "address": str(pod.address),
                "mac": pod.mac,
                "lxc": pod.lxc,
                "lxcMac": pod.lxc_mac,
                "identity": pod.identity,
                "labels": dict(pod.labels),
            }
            for pod in lab.pods
        ],
        "pairs": [
            {"client": pair.client, "server": pair.server, "placement": str(pair.placement)} for pair in lab.pairs
        ],
        "checks": [
            {"name": check.name, "check": check.kind, "parameters": _parameters_to_json(check.parameters)}
            for check in lab.checks
        ],
        "compare": _parameters_to_json(lab.compare),
        "settings": dict(lab.settings),
        # Left out where there are none: what labs without Services are has not changed, nor have their digests.
        **({"services": [_service_to_json(service) for service in lab.services]} if lab.services else {}),
    }


def _service_to_json(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "address": str(service.address),
        "port": service.port,
        "targetPort": service.target_port,
        "protocol": str(service.protocol),
        "backends": list(service.backends),
        "selector": dict(service.selector),
        "type": str(service.type),
        "nodePort": service.node_port,
    }


def _service(data: Mapping[str, Any]) -> Service:
    return Service(
        name=_text(data, "name"),
        address=IPv4Address(_text(data, "address")),
        port=_exactly(int, data, "port"),
        target_port=_exactly(int, data, "targetPort"),
        protocol=Protocol(data["protocol"]),
        backends=tuple(data["backends"]),
        selector=dict(data["selector"]),
        type=ServiceType(data["type"]),
        node_port=None if data["nodePort"] is None else _exactly(int, data, "nodePort"),
    )


def _lab(data: Mapping[str, Any]) -> Lab:
    return Lab(
        name=_text(data, "name"),
        scenario=_text(data, "scenario"),
        source=_text(data, "source"),
        provider=_text(data, "provider"),
        datapath=_datapath(data["datapath"]),
        network=_network(data["network"]),
        nodes=tuple(_node(node, index) for index, node in enumerate(data["nodes"])),
        pods=tuple(_pod(pod) for pod in data["pods"]),
        pairs=tuple(
            Pair(client=_text(pair, "client"), server=_text(pair, "server"), placement=Placement(pair["placement"]))
            for pair in data["pairs"]
        ),
        checks=tuple(_check(check) for check in data["checks"]),
        compare=_parameters_from_json(CompareParameters, data["compare"]),
        digest=_text(data, "digest"),
        settings=dict(data["settings"]),
        services=tuple(_service(service) for service in data.get("services", ())),
    )


def _datapath(data: Mapping[str, Any]) -> Datapath:
    return Datapath(
        host_routing=HostRouting(data["hostRouting"]),
        encapsulation=Encapsulation(data["encapsulation"]),
        masquerade=Masquerade(data["masquerade"]),
        kube_proxy_replacement=_exactly(bool, data, "kubeProxyReplacement"),
        extra_iptables_rules=_exactly(int, data, "extraIptablesRules"),
        extra_delay_ns=_exactly(int, data, "extraDelayNs"),
        faults=tuple(Fault(fault) for fault in data["faults"]),
    )


def _network(data: Mapping[str, Any]) -> Network:
    return Network(
        underlay_cidr=IPv4Network(_text(data, "underlayCIDR")),
        pod_cidr=IPv4Network(_text(data, "podCIDR")),
        service_cidr=IPv4Network(_text(data, "serviceCIDR")),
        mtu=_exactly(int, data, "mtu"),
        route_mtu=_exactly(int, data, "routeMtu"),
    )


def _node(data: Mapping[str, Any], index: int) -> Node:
    return Node(
        name=_text(data, "name"),
        index=index,
        address=IPv4Interface(_text(data, "address")),
        mac=_text(data, "mac"),
        pod_cidr=IPv4Network(_text(data, "podCIDR")),
        router=IPv4Address(_text(data, "router")),
    )


def _pod(data: Mapping[str, Any]) -> Pod:
    return Pod(
        name=_text(data, "name"),
        node=_text(data, "node"),
        address=IPv4Address(_text(data, "address")),
        mac=_text(data, "mac"),
        lxc=_text(data, "lxc"),
        lxc_mac=_text(data, "lxcMac"),
        identity=_exactly(int, data, "identity"),
        labels=dict(data["labels"]),
    )


def _check(data: Mapping[str, Any]) -> CheckSpec:
    kind = _text(data, "check")
    if kind not in PARAMETERS_OF:
        raise ValueError(f"it has a check of the unknown kind '{kind}'")
    parameters: CheckParameters = _parameters_from_json(PARAMETERS_OF[kind], data["parameters"])
    return CheckSpec(name=_text(data, "name"), kind=kind, parameters=parameters)


def _parameters_to_json(parameters: CheckParameters | CompareParameters) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        made[_camel(field.name)] = list(value) if isinstance(value, tuple) else value
    return made


def _parameters_from_json(kind: Any, data: Mapping[str, Any]) -> Any:
    names = {_camel(field.name): field for field in fields(kind)}
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise ValueError(f"it has unknown parameters: {', '.join(unknown)}")
    given: dict[str, Any] = {}
    for key, field in names.items():
        if key in data or field.default is MISSING:
            value = data[key]
            given[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**given)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _text(data: Mapping[str, Any], key: str) -> str:
    return str(_exactly(str, data, key))


def _exactly(kind: type, data: Mapping[str, Any], key: str) -> Any:
    value = data[key]
    if type(value) is not kind:
        raise ValueError(f"its '{key}' is not of the right type")
    return value
