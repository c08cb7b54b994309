"""Loads what a name or path stands for: a scenario, a matrix, or one section of lab.yaml; and validates files.

Every problem of a file is reported at once, those of a matrix's scenarios too, or there is a `Scenario`. What the
scenario's provider cannot build is a problem as well; loading knows no provider: `refuse` asks it. Making a `Scenario`
of the merged tree is the last step, in which nothing can go wrong: every rule has been checked before. One section of
lab.yaml by itself is for commands without a scenario: `labctl down` of a lab that only machines carry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from labctl.codec import typed
from labctl.errors import Problem, ScenarioInvalid, UsageError
from labctl.loading.code_keys import PROVIDER, PROVIDER_SECTION, code_problems
from labctl.loading.endpoints import EndFacts, counted_nodes, end_facts, outside_hosts
from labctl.loading.layers import Layered, layered, not_as_its_code, once, override, read_tree, site_layer
from labctl.loading.messages import as_name, listed, nearest, path_text, problem_at, shown
from labctl.loading.network_rules import fabric_problems, pod_network_problems
from labctl.loading.project import SUFFIX, Project, project_at
from labctl.loading.rules import cilium_of, is_as_specific, meaning_problems, site_problems
from labctl.loading.service_rules import warnings_of
from labctl.loading.shape import structure_problems
from labctl.loading.tree import Place, Tree, find, items_of, merge, place_of, plain, text_of
from labctl.model.document import PROVIDER_SECTIONS, MatrixDocument
from labctl.model.fabric import FabricChoice
from labctl.model.fallback import fallback_of
from labctl.model.impairment import Impairment
from labctl.model.lab import (
    CheckSpec,
    Datapath,
    Encapsulation,
    EndpointKind,
    HostRouting,
    Masquerade,
    Matrix,
    Pair,
    Scenario,
    ScenarioOutside,
    ScenarioPod,
    ScenarioService,
)
from labctl.model.parameters import LOAD, CompareParameters, with_tools_of_the_field
from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.model.section import MATRIX, SITE
from labctl.names import is_name
from labctl.planning.resolve import selected, selector_of
from labctl.units import PERCENT

Refuse = Callable[[Scenario], None]
"""Raises UsageError for a scenario that its provider cannot build, with the key at fault."""


def load_scenario(
    name_or_path: str | Path,
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    lab_name: str | None = None,
    trust: bool = False,
) -> Scenario:
    """The scenario of that name or file, with `key.path=value` overrides applied.

    `start` is where names and lab.yaml are looked for (by default the current directory). With `lab_name`, which the
    lab will have, the file may be called anything: the scenario's name is then what can be made of the file's.

    Raises UsageError for an unknown name and, without `trust`, for a file that root does not trust, ScenarioInvalid
    with every problem of every file that it consists of.
    """
    project = project_at(start, trust=trust)
    path = name_or_path if isinstance(name_or_path, Path) else project.scenario(name_or_path)
    scenario = layered(path, project, tuple(overrides))
    problems = _all_problems(scenario, path, project, may_be_nameless=lab_name is not None)
    problems = problems or _refused(scenario, path, refuse, lab_name)
    if problems:
        raise ScenarioInvalid(problems)
    return _scenario(scenario, path, lab_name)


def validate_files(
    paths: Iterable[str | Path],
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    trust: bool = False,
) -> tuple[Problem, ...]:
    """Every problem of scenarios (names or files) and lab.yaml files, each with the files that it builds on; warnings
    are among them.

    The overrides go to scenarios, and to those of matrix files.

    In the order of the paths, and for each by file, line and column. Raises UsageError as `load_scenario`.
    """
    project = project_at(start, trust=trust)
    problems: list[Problem] = []
    for path in paths:
        file = project.start / path
        if is_name(str(path)) and not os.path.lexists(file):
            file = project.scenario(str(path))
        found = _file_problems(file, project, tuple(overrides), refuse)
        problems.extend(sorted(found, key=lambda problem: (problem.file, problem.line, problem.column, problem.path)))
    return once(problems)


def where_of(name_or_path: str | Path, key: str, *, overrides: Sequence[str] = (), start: Path | None = None) -> str:
    """The place of a key of a scenario that was loaded (`podNetwork.conflist.plugins.0.type`), or of the nearest one
    above it: `lab.yaml:3:5: podNetwork.conflist.plugins[0].type`."""
    project = project_at(start, trust=True)
    path = name_or_path if isinstance(name_or_path, Path) else project.scenario(name_or_path)
    at = tuple(int(step) if step.isdigit() else step for step in key.split("."))
    place = place_of(layered(path, project, tuple(overrides)).tree, at)
    return f"{place.file}:{place.line}:{place.column}: {path_text(at)}"


def scenario_names(start: Path | None = None) -> tuple[str, ...]:
    """The names of the scenarios that can be loaded, sorted."""
    return project_at(start).names()


def _file_problems(
    path: Path, project: Project, overrides: tuple[str, ...], refuse: Refuse | None
) -> tuple[Problem, ...]:
    tree, problems = read_tree(path, project)
    if tree is not None and text_of(find(tree, "kind")) == SITE:
        told = (*problems, *structure_problems(tree, SITE))
        around = Project(start=project.start, root=None)
        found = (*told, *site_problems(merge(site_layer(around)[0], tree)))
        return found or _code_of_site(tree, overrides, not_as_its_code([path], project))
    if tree is not None and text_of(find(tree, "kind")) == MATRIX:
        return (*problems, *matrix_problems(tree, path, project, overrides, refuse)[1])
    scenario = layered(path, project, overrides, first=(tree, problems))
    found = _all_problems(scenario, path, project) or _refused(scenario, path, refuse)
    return (*found, *(warnings_of(scenario.tree) if scenario.is_whole else ()))


def _code_of_site(site: Tree, overrides: tuple[str, ...], folders: Mapping[str, Path | None]) -> tuple[Problem, ...]:
    """The code that a lab.yaml names for its labs of kind. One that leaves the provider to the scenarios is for such
    labs when it has their section."""
    is_open = find(site, "provider") is None and find(site, PROVIDER_SECTION) is not None
    options = (f"provider={PROVIDER}", *overrides) if is_open else overrides
    return code_problems(override(site, options)[0], folders)


def _all_problems(
    scenario: Layered, path: Path, project: Project, *, may_be_nameless: bool = False
) -> tuple[Problem, ...]:
    problems = list(scenario.problems)
    if scenario.is_whole:
        problems.extend(meaning_problems(scenario.tree, scenario.ranks))
        problems.extend(pod_network_problems(scenario.tree))
        problems.extend(fabric_problems(scenario.tree))
        problems.extend(() if may_be_nameless else _name_problems(scenario, path, project))
    if not problems:
        problems.extend(code_problems(scenario.tree, scenario.folders))
    return once(problems)


def _scenario(scenario: Layered, path: Path, lab_name: str | None = None) -> Scenario:
    """`lab_name` names a scenario whose file is called what no scenario can be."""
    name = _name(scenario, path)
    if not is_name(name) and lab_name is not None:
        name = as_name(name) or lab_name
    made = scenario_of(scenario.tree, name=name, source=str(path.absolute()), ranks=scenario.ranks)
    return replace(made, warnings=warnings_of(scenario.tree))


def _refused(scenario: Layered, path: Path, refuse: Refuse | None, lab_name: str | None = None) -> tuple[Problem, ...]:
    """Why the provider cannot build a scenario without any other problem, at the key that is at fault."""
    if refuse is None:
        return ()
    try:
        refuse(_scenario(scenario, path, lab_name))
    except UsageError as refused:
        at = tuple(int(step) if step.isdigit() else step for step in refused.key.split(".")) if refused.key else ()
        message = ": ".join(" ".join(text.split()) for text in (refused.what, refused.cause) if text)
        return (problem_at(place_of(scenario.tree, at), at, message, refused.remedy),)
    return ()


def _name(scenario: Layered, path: Path) -> str:
    return text_of(find(scenario.tree, "name")) or path.name.partition(".")[0]


def _name_problems(scenario: Layered, path: Path, project: Project) -> tuple[Problem, ...]:
    """A scenario without `name` is called after its file, whose name must then be one."""
    if find(scenario.tree, "name") is not None or is_name(stem := _name(scenario, path)):
        return ()
    place = Place(project.shown(path), 0, 0)
    message = f"the file's name {shown(stem)} is not a scenario's name; rename the file, or give it a name:"
    allowed = "lower-case letters, digits and hyphens, at most 40 characters"
    return (problem_at(place, ("name",), message, allowed, as_name(stem)),)


def scenario_of(tree: Tree, *, name: str, source: str, ranks: Mapping[str, int]) -> Scenario:
    """The scenario that a valid tree says."""
    data: dict[str, Any] = plain(tree)
    nodes, network = data["nodes"], data["network"]
    pods = tuple(
        ScenarioPod(name=pod["name"], node=pod["node"], labels=pod.get("labels") or {"app": pod["name"]})
        for pod in data["pods"]
    )
    checks = tuple(_check(entry) for entry in data["checks"])
    datapath = _datapath(data, source)
    labels = {pod.name: pod.labels for pod in pods}
    return Scenario(
        name=name,
        source=source,
        provider=data["provider"],
        nodes=counted_nodes(nodes) if isinstance(nodes, int) else tuple(node["name"] for node in nodes),
        pods=pods,
        pairs=_pairs(data["pairs"], end_facts(tree)),
        datapath=datapath,
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
        pod_network=typed(PodNetworkChoice, data.get("podNetwork", {}), where=source),
        fabric=typed(FabricChoice, data.get("fabric", {}), where=source),
        fallback=fallback_of(datapath, cilium_of(tree)) if datapath.allow_fallback else None,
        outside=tuple(
            ScenarioOutside(name=name, address=None if address is None else IPv4Address(address))
            for name, address in outside_hosts(tree)
        ),
        impairments=typed(dict[str, Impairment], data.get("impairments", {}), where=source),
    )


def _datapath(data: dict[str, Any], source: str) -> Datapath:
    """As the file says for Cilium. Of another pod network, how packets cross follows from it: the kernel carries them,
    by netfilter and through an envelope or not."""
    said = data["datapath"]
    choice = typed(PodNetworkChoice, data.get("podNetwork", {}), where=source)
    if choice.type is NetworkType.CILIUM:
        return typed(Datapath, said, where=source)
    carried = {
        "hostRouting": str(HostRouting.LEGACY),
        "encapsulation": str(Encapsulation.VXLAN if choice.is_overlay else Encapsulation.NATIVE),
        "masquerade": str(Masquerade.IPTABLES),
        "kubeProxyReplacement": False,
    }
    of_any = {key: said[key] for key in ("extraIptablesRules", "faults") if key in said}
    return typed(Datapath, carried | of_any, where=source)


def _pairs(entries: list[dict[str, str]], facts: EndFacts) -> tuple[Pair, ...]:
    """A Service is asked from outside at a node's port, where no other is written at the first node's."""
    found = []
    for entry in entries:
        client, server, via = entry["client"], entry["server"], entry.get("via")
        if via is None and facts.kinds[client] is EndpointKind.OUTSIDE and facts.kinds[server] is EndpointKind.SERVICE:
            via = facts.first_node
        found.append(Pair(client=client, server=server, placement=facts.placement(client, server), via=via))
    return tuple(found)


def _service(entry: dict[str, Any], labels: Mapping[str, Mapping[str, str]]) -> ScenarioService:
    selector = entry.get("selector") or selector_of(entry["backends"], labels) or {}
    backends = entry["backends"] if "backends" in entry else list(selected(selector, labels))
    data = {"targetPort": entry["port"], **entry, "backends": backends, "selector": dict(selector)}
    return typed(ScenarioService, data, where=entry["name"])


def _check(entry: dict[str, Any]) -> CheckSpec:
    kind, expected = entry["check"], entry.get("expect", {})
    written = {key: value for key, value in entry.items() if key not in ("check", "name", "expect")}
    data = {"name": entry.get("name", kind), "check": kind, "parameters": written | expected}
    return typed(CheckSpec, data, where=kind)


def _names_are_binding(tree: Tree, ranks: Mapping[str, int]) -> bool:
    checks, compared = find(tree, "checks"), find(tree, "compare", "checks")
    return checks is not None and compared is not None and is_as_specific(compared, checks, ranks)


def _compare(section: dict[str, Any], checks: tuple[CheckSpec, ...], *, is_strict: bool) -> CompareParameters:
    """Where the checks were replaced by a file that does not say which to compare, those that are left are compared
    (of the load program's, what asks the same with the field's tools); when none is, every check that measures."""
    chosen = tuple(section.get("checks", CompareParameters().checks))
    if not is_strict:
        known = [check.name for check in checks]
        chosen = chosen if LOAD in known else with_tools_of_the_field(chosen)
        measuring = tuple(check.name for check in checks if check.kind != "tcpdump")
        chosen = tuple(name for name in chosen if name in known) or measuring or tuple(known)
    margins = {f"margin{key.capitalize()}": value for key, value in section.get("margins", {}).items()}
    ping = {f"ping{key[0].upper()}{key[1:]}": value for key, value in section.get("ping", {}).items()}
    return typed(CompareParameters, {**section, **margins, **ping, "checks": list(chosen)}, where="compare")


def load_matrix(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    refuse: Refuse | None = None,
    start: Path | None = None,
    trust: bool = False,
) -> Matrix:
    """The matrix in that file, with its scenarios loaded (`overrides` go to each of them).

    A path in it is relative to the file. Raises ScenarioInvalid with every problem of every file, and UsageError for
    one that root does not trust without `trust`.
    """
    project = project_at(start, trust=trust)
    tree, problems = read_tree(path, project)
    found, told = matrix_problems(tree, path, project, tuple(overrides), refuse)
    if problems or told or tree is None:
        raise ScenarioInvalid([*problems, *told])
    data = MatrixDocument.model_validate_json(_json(tree))
    return Matrix(
        name=data.name or _stem(path),
        source=str(path.absolute()),
        scenarios=found,
        checks=data.checks or (),
        placements=data.placements or (),
        rounds=data.rounds,
        duration_s=data.duration_s,
        seed=data.seed,
        until=None if data.until_percent is None else data.until_percent * PERCENT,
        max_rounds=data.max_rounds,
        reference=bool(data.reference),
        fail_if=data.fail_if or (),
    )


def matrix_problems(
    tree: Tree | None, path: Path, project: Project, overrides: tuple[str, ...] = (), refuse: Refuse | None = None
) -> tuple[tuple[Scenario, ...], tuple[Problem, ...]]:
    """The scenarios of a matrix, and everything that is wrong with it and with them."""
    if tree is None:
        return (), ()
    problems = list(structure_problems(tree, MATRIX))
    scenarios: list[Scenario] = []
    for index, item in items_of(find(tree, "scenarios")):
        reference = text_of(item)
        if reference is None or not (reference.endswith(SUFFIX) or is_name(reference)):
            continue  # the structure check has reported it
        try:
            file = project.scenario(_file(reference, path))
        except UsageError as unknown:
            names = project.names()
            message = unknown.what
            at = ("scenarios", index)
            problems.append(problem_at(item.place, at, message, listed(names), nearest(reference, names)))
            continue
        try:
            scenarios.append(
                load_scenario(file, overrides=overrides, refuse=refuse, start=project.start, trust=project.trust)
            )
        except ScenarioInvalid as invalid:
            problems.extend(invalid.problems)
    problems.extend(_meaning(tree, scenarios, path))
    return tuple(scenarios), once(problems)


def _meaning(tree: Tree, scenarios: Sequence[Scenario], path: Path) -> Iterator[Problem]:
    seen: set[str] = set()
    first = _checks(scenarios[0]) if scenarios else []
    common = [name for name in first if all(name in _checks(each) for each in scenarios)]
    for index, item in items_of(find(tree, "checks")):
        name = text_of(item)
        if name in seen:
            yield problem_at(item.place, ("checks", index), f"{shown(name)} is listed twice")
        elif name is not None and scenarios and name not in common:
            message = f"not every scenario has a check {shown(name)}"
            yield problem_at(item.place, ("checks", index), message, listed(common), nearest(name, common))
        seen.add(name or "")
    most = find(tree, "maxRounds")
    if most is not None and find(tree, "untilPercent") is None:
        yield problem_at(most.place, ("maxRounds",), "has no meaning without untilPercent")
    if find(tree, "name") is None and not is_name(stem := _stem(path)):
        message = f"the file's name {shown(stem)} is not a matrix's name; rename the file, or give it a name:"
        allowed = "lower-case letters, digits and hyphens, at most 40 characters"
        yield problem_at(Place(tree.place.file, 0, 0), ("name",), message, allowed, as_name(stem))


def _checks(scenario: Scenario) -> list[str]:
    return [spec.name for spec in scenario.checks]


def _file(reference: str, matrix: Path) -> str:
    """A path is relative to the file that has it; a name is a scenario's."""
    return os.path.normpath(Path.cwd() / matrix.parent / reference) if reference.endswith(SUFFIX) else reference


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _json(tree: Tree) -> str:
    return json.dumps(plain(tree))


def site_section(name: str, *, start: Path | None = None, trust: bool = False) -> Any:
    """The plain value of that section, None where lab.yaml has none. Raises ScenarioInvalid for a faulty lab.yaml, and
    UsageError for one that root does not trust without `trust`."""
    tree, problems, _ = site_layer(project_at(start, trust=trust))
    if problems:
        raise ScenarioInvalid(problems)
    found = find(tree, name)
    return None if found is None else plain(found)
