"""A `Lab` as JSON-ready data and back, without loss; and the digest that equal labs have in common.

Storing the data is not its business. Reading is strict: names, devices, addresses and parameters have to be what the
loader would have let through, since a record may have been cut short, edited, or written by another version, or by
somebody who wants labctl to remove another folder than the lab's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from labctl.errors import LabError
from labctl.model.lab import (
    CheckSpec,
    Datapath,
    Encapsulation,
    Fault,
    HostRouting,
    Lab,
    Masquerade,
    Network,
    Node,
    Pair,
    Placement,
    Pod,
    Service,
    ServiceProtocol,
    ServiceType,
)
from labctl.model.parameters import PARAMETERS_OF, CheckParameters, CompareParameters
from labctl.names import is_device, is_label_key, is_label_value, is_mac, is_name

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
        _refuse_dangling(lab)
        if digest_of(lab) != lab.digest:
            raise ValueError("its digest does not fit its content")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
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
        name=_name(data, "name"),
        address=IPv4Address(_text(data, "address")),
        port=_port(data, "port"),
        target_port=_port(data, "targetPort"),
        protocol=ServiceProtocol(data["protocol"]),
        backends=tuple(_fits(is_name, name, "backends") for name in data["backends"]),
        selector=_labels(data, "selector"),
        type=ServiceType(data["type"]),
        node_port=None if data["nodePort"] is None else _port(data, "nodePort"),
    )


def _lab(data: Mapping[str, Any]) -> Lab:
    return Lab(
        name=_name(data, "name"),
        scenario=_text(data, "scenario"),
        source=_text(data, "source"),
        provider=_name(data, "provider"),
        datapath=_datapath(data["datapath"]),
        network=_network(data["network"]),
        nodes=tuple(_node(node, index) for index, node in enumerate(data["nodes"])),
        pods=tuple(_pod(pod) for pod in data["pods"]),
        pairs=tuple(
            Pair(client=_name(pair, "client"), server=_name(pair, "server"), placement=Placement(pair["placement"]))
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
        extra_iptables_rules=_within(data, "extraIptablesRules", 0, 20_000),
        extra_delay_ns=_within(data, "extraDelayNs", 0, 10_000),
        faults=tuple(Fault(fault) for fault in data["faults"]),
    )


def _network(data: Mapping[str, Any]) -> Network:
    return Network(
        underlay_cidr=IPv4Network(_text(data, "underlayCIDR")),
        pod_cidr=IPv4Network(_text(data, "podCIDR")),
        service_cidr=IPv4Network(_text(data, "serviceCIDR")),
        mtu=_within(data, "mtu", 68, 65_535),
        route_mtu=_within(data, "routeMtu", 0, 65_535),
    )


def _node(data: Mapping[str, Any], index: int) -> Node:
    return Node(
        name=_name(data, "name"),
        index=index,
        address=IPv4Interface(_text(data, "address")),
        mac=_fits(is_mac, data["mac"], "mac"),
        pod_cidr=IPv4Network(_text(data, "podCIDR")),
        router=IPv4Address(_text(data, "router")),
    )


def _pod(data: Mapping[str, Any]) -> Pod:
    return Pod(
        name=_name(data, "name"),
        node=_name(data, "node"),
        address=IPv4Address(_text(data, "address")),
        mac=_fits(is_mac, data["mac"], "mac"),
        lxc=_fits(is_device, data["lxc"], "lxc"),
        lxc_mac=_fits(is_mac, data["lxcMac"], "lxcMac"),
        identity=_within(data, "identity", 0, 0xFFFFFF),
        labels=_labels(data, "labels"),
    )


def _check(data: Mapping[str, Any]) -> CheckSpec:
    kind = _text(data, "check")
    if kind not in PARAMETERS_OF:
        raise ValueError(f"it has a check of the unknown kind '{kind}'")
    parameters: CheckParameters = _parameters_from_json(PARAMETERS_OF[kind], data["parameters"])
    return CheckSpec(name=_fits(is_name, data["name"], "name"), kind=kind, parameters=parameters)


def _parameters_to_json(parameters: CheckParameters | CompareParameters) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        made[_camel(field.name)] = list(value) if isinstance(value, tuple) else value
    return made


def _parameters_from_json(kind: Any, data: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    names = {_camel(field.name): field for field in fields(kind)}
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise ValueError(f"it has unknown parameters: {', '.join(unknown)}")
    given: dict[str, Any] = {}
    for key, field in names.items():
        if key in data or field.default is MISSING:
            value = data[key]
            given[field.name] = _conforming(hints[field.name], tuple(value) if isinstance(value, list) else value, key)
    return kind(**given)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _conforming(hint: Any, value: Any, key: str) -> Any:
    """`value`, which the parameter's type has to allow with all its bounds. Raises ValueError."""
    if get_origin(hint) is Annotated:
        inner, *bounds = get_args(hint)
        _conforming(inner, value, key)
        if not all(_is_inside(bound, value) for bound in bounds):
            raise ValueError(f"its '{key}' is out of bounds")
        return value
    allowed = get_args(hint)
    if get_origin(hint) is Literal:
        fits = value in allowed
    elif get_origin(hint) is tuple:
        fits = isinstance(value, tuple) and all(_conforming(allowed[0], item, key) == item for item in value)
    elif get_origin(hint) is UnionType:
        fits = any(_is_of(kind, value) for kind in allowed)
    else:
        fits = _is_of(hint, value)
    if not fits:
        raise ValueError(f"its '{key}' is not of the right type")
    return value


def _is_of(kind: Any, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return value is None if kind is NoneType else type(value) is kind


def _is_inside(bound: object, value: Any) -> bool:
    match bound:
        case Ge(ge=least):
            return bool(value >= least)
        case Gt(gt=below):
            return bool(value > below)
        case Le(le=most):
            return bool(value <= most)
        case _:
            return True


def _refuse_dangling(lab: Lab) -> None:
    """Raises ValueError for a pod on no node, and for a pair or Service of nothing that is there."""
    nodes, pods = {node.name for node in lab.nodes}, {pod.name for pod in lab.pods}
    if len(nodes) != len(lab.nodes) or len(pods) != len(lab.pods) or nodes & pods:
        raise ValueError("two of its nodes or pods have one name")
    for pod in lab.pods:
        if pod.node not in nodes:
            raise ValueError(f"pod {pod.name} is on no node of it")
    for pair in lab.pairs:
        if not {pair.client, pair.server} <= pods:
            raise ValueError(f"the pair {pair.client} → {pair.server} is none of its pods")
    for service in lab.services:
        if not set(service.backends) <= pods:
            raise ValueError(f"the Service {service.name} has backends that are none of its pods")


def _name(data: Mapping[str, Any], key: str) -> str:
    return _fits(is_name, data[key], key)


def _fits(is_right: Callable[[str], bool], value: Any, key: str) -> str:
    if type(value) is not str or not is_right(value):
        raise ValueError(f"its '{key}' is not the name of such a thing: {str(value)[:60]!r}")
    return value


def _port(data: Mapping[str, Any], key: str) -> int:
    return _within(data, key, 1, 65_535)


def _within(data: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = int(_exactly(int, data, key))
    if not least <= value <= most:
        raise ValueError(f"its '{key}' is out of bounds")
    return value


def _labels(data: Mapping[str, Any], key: str) -> dict[str, str]:
    labels = dict(data[key])
    for name, value in labels.items():
        if not is_label_key(name) or type(value) is not str or not is_label_value(value):
            raise ValueError(f"its '{key}' are not labels: {str(name)[:60]!r}")
    return labels


def _text(data: Mapping[str, Any], key: str) -> str:
    return str(_exactly(str, data, key))


def _exactly(kind: type, data: Mapping[str, Any], key: str) -> Any:
    value = data[key]
    if type(value) is not kind:
        raise ValueError(f"its '{key}' is not of the right type")
    return value
