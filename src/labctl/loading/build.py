"""The merged and checked tree → a `Scenario`. Nothing can go wrong here: every rule has been checked before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import IPv4Network
from typing import Any

from labctl.loading.meaning import is_as_specific, node_names
from labctl.loading.tree import Tree, find, plain
from labctl.model.datapath import Datapath, Encapsulation, Fault, HostRouting, Masquerade
from labctl.model.document_sections import PROVIDER_SECTIONS
from labctl.model.lab import CheckSpec, Pair, Placement
from labctl.model.parameters import PARAMETERS_OF, CompareParameters
from labctl.model.scenario import Scenario, ScenarioPod
from labctl.model.service import Protocol, ScenarioService, ServiceType
from labctl.planning.selectors import selected, selector_of

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def scenario_of(tree: Tree, *, name: str, source: str, ranks: Mapping[str, int]) -> Scenario:
    """The scenario that a valid tree says."""
    data: dict[str, Any] = plain(tree)
    nodes, network = data["nodes"], data["network"]
    pods = tuple(
        ScenarioPod(name=pod["name"], node=pod["node"], labels=pod.get("labels") or {"app": pod["name"]})
        for pod in data["pods"]
    )
    checks = tuple(_check(entry) for entry in data["checks"])
    labels = {pod.name: pod.labels for pod in pods}
    return Scenario(
        name=name,
        source=source,
        provider=data["provider"],
        nodes=node_names(nodes) if isinstance(nodes, int) else tuple(node["name"] for node in nodes),
        pods=pods,
        pairs=_pairs(data["pairs"], {pod.name: pod.node for pod in pods}),
        datapath=_datapath(data["datapath"]),
        underlay_cidr=IPv4Network(network["underlayCIDR"]),
        pod_cidr=IPv4Network(network["podCIDR"]),
        service_cidr=IPv4Network(network["serviceCIDR"]),
        mtu=network["mtu"],
        checks=checks,
        compare=_compare(data.get("compare", {}), checks, is_strict=_names_are_binding(tree, ranks)),
        settings={
            section: data[section]
            for section, part in PROVIDER_SECTIONS.items()
            if section in data and data["provider"] in part.providers
        },
        services=tuple(_service(entry, labels) for entry in data.get("services", ())),
    )


def snake_case(key: str) -> str:
    """The Python name of a key: `durationS` → `duration_s`."""
    return _HUMP.sub("_", key).lower()


def _pairs(entries: list[dict[str, str]], node_of: Mapping[str, str]) -> tuple[Pair, ...]:
    return tuple(
        Pair(
            client=entry["client"],
            server=entry["server"],
            placement=Placement.SAME_NODE
            if node_of[entry["client"]] == node_of[entry["server"]]
            else Placement.CROSS_NODE,
        )
        for entry in entries
    )


def _service(entry: dict[str, Any], labels: Mapping[str, Mapping[str, str]]) -> ScenarioService:
    selector = entry.get("selector") or selector_of(entry["backends"], labels) or {}
    return ScenarioService(
        name=entry["name"],
        port=entry["port"],
        target_port=entry.get("targetPort", entry["port"]),
        protocol=Protocol(entry.get("protocol", Protocol.TCP)),
        backends=tuple(entry["backends"]) if "backends" in entry else selected(selector, labels),
        selector=dict(selector),
        type=ServiceType(entry.get("type", ServiceType.CLUSTER_IP)),
        node_port=entry.get("nodePort"),
    )


def _datapath(section: dict[str, Any]) -> Datapath:
    return Datapath(
        host_routing=HostRouting(section["hostRouting"]),
        encapsulation=Encapsulation(section["encapsulation"]),
        masquerade=Masquerade(section["masquerade"]),
        kube_proxy_replacement=section["kubeProxyReplacement"],
        extra_iptables_rules=section.get("extraIptablesRules", 0),
        extra_delay_ns=section.get("extraDelayNs", 0),
        faults=tuple(Fault(fault) for fault in section.get("faults", ())),
    )


def _check(entry: dict[str, Any]) -> CheckSpec:
    kind = entry["check"]
    written = {key: value for key, value in entry.items() if key not in ("check", "name", "expect")}
    parameters = {snake_case(key): value for key, value in (written | entry.get("expect", {})).items()}
    return CheckSpec(name=entry.get("name", kind), kind=kind, parameters=_typed(PARAMETERS_OF[kind], parameters))


def _typed(kind: Any, values: Mapping[str, Any]) -> Any:
    """The parameters, with 1 made 1.0 where the default is a float: equal labs must have equal digests."""
    floats = {field.name for field in fields(kind) if isinstance(field.default, float)}
    return kind(**{name: float(value) if name in floats else value for name, value in values.items()})


def _names_are_binding(tree: Tree, ranks: Mapping[str, int]) -> bool:
    checks, compared = find(tree, "checks"), find(tree, "compare", "checks")
    return checks is not None and compared is not None and is_as_specific(compared, checks, ranks)


def _compare(section: dict[str, Any], checks: tuple[CheckSpec, ...], *, is_strict: bool) -> CompareParameters:
    """Where the checks were replaced by a file that does not say which to compare, those that are left are compared;
    when none is, every check that measures."""
    chosen = tuple(section.get("checks", CompareParameters().checks))
    if not is_strict:
        known = [check.name for check in checks]
        measuring = tuple(check.name for check in checks if check.kind != "tcpdump")
        chosen = tuple(name for name in chosen if name in known) or measuring or tuple(known)
    margins = {f"margin_{key}": value for key, value in section.get("margins", {}).items()}
    ping = {f"ping_{snake_case(key)}": value for key, value in section.get("ping", {}).items()}
    given = {snake_case(key): value for key, value in section.items() if key not in ("checks", "margins", "ping")}
    made: CompareParameters = _typed(CompareParameters, {**given, **margins, **ping, "checks": chosen})
    return made
