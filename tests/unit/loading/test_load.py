"""Names, parents, site defaults and overrides: where a value comes from, and which one wins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid, UsageError
from labctl.loading import layers, load_scenario, scenario_names, validate_files
from labctl.loading.layers import built_in
from labctl.loading.project import Project, project_at
from labctl.model.lab import Encapsulation, HostRouting, Masquerade, Placement, Scenario
from labctl.model.parameters import IperfParameters, PingParameters
from labctl.names import is_name
from labctl.planning.resolve import resolve

CHECKOUT = Path(__file__).resolve().parents[3]
HEAD = "apiVersion: labctl/v1\nkind: Scenario\n"
SITE_HEAD = "apiVersion: labctl/v1\nkind: Site\n"
BASE = (
    HEAD
    + """pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
datapath: {hostRouting: legacy}
"""
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own, with one scenario called `base`."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "lab.yaml").write_text(SITE_HEAD)
    (tmp_path / "scenarios" / "base.yaml").write_text(BASE)
    return tmp_path


def _add(project: Path, name: str, text: str) -> None:
    (project / "scenarios" / f"{name}.yaml").write_text(HEAD + text)


def _wrong(project: Path, name: str, *overrides: str) -> list[str]:
    with pytest.raises(ScenarioInvalid) as caught:
        load_scenario(name, overrides=overrides, start=project)
    return [str(problem) for problem in caught.value.problems]


def _loaded(project: Path, *overrides: str, name: str = "base") -> Scenario:
    return load_scenario(name, overrides=overrides, start=project)


# The shipped files


@pytest.mark.parametrize(
    ("name", "routing", "encapsulation"),
    [
        ("legacy", HostRouting.LEGACY, Encapsulation.VXLAN),
        ("bpf", HostRouting.BPF, Encapsulation.VXLAN),
        ("legacy-native", HostRouting.LEGACY, Encapsulation.NATIVE),
        ("bpf-native", HostRouting.BPF, Encapsulation.NATIVE),
    ],
)
def test_a_shipped_scenario_is_what_its_name_says(
    name: str, routing: HostRouting, encapsulation: Encapsulation
) -> None:
    scenario = load_scenario(name, start=CHECKOUT)
    assert (scenario.datapath.host_routing, scenario.datapath.encapsulation) == (routing, encapsulation)
    assert scenario.datapath.masquerade is Masquerade.BPF
    assert scenario.datapath.kube_proxy_replacement
    assert scenario.nodes == ("node1", "node2", "node3")
    assert [pair.placement for pair in scenario.pairs] == [Placement.SAME_NODE, Placement.CROSS_NODE]
    assert [check.name for check in scenario.checks] == [
        "ping",
        "latency",
        "iperf",
        "iperf-many",
        "iperf-udp",
        "tcpdump",
    ]


def test_the_shipped_lab_yaml_says_what_holds_without_it(tmp_path: Path) -> None:
    file = tmp_path / "alone.yaml"
    file.write_text(BASE)
    with_site = layers.layered(file, Project(start=tmp_path, root=CHECKOUT))
    without = layers.layered(file, Project(start=tmp_path, root=None))
    assert with_site.problems == without.problems == ()
    from labctl.loading.load import scenario_of

    labs = [resolve(scenario_of(made.tree, name="alone", source="", ranks=made.ranks)) for made in (with_site, without)]
    assert labs[0] == labs[1]


def test_the_shipped_lab_yaml_writes_out_every_built_in_default() -> None:
    site = layers.read_tree(CHECKOUT / "lab.yaml", project_at(CHECKOUT))[0]
    assert site is not None
    from labctl.loading.tree import plain

    written, known = plain(site), plain(built_in())
    for section in ("provider", "nodes", "network", "datapath"):
        assert written[section] == known[section]


def test_every_shipped_file_has_the_modeline_of_an_existing_schema() -> None:
    for file in (CHECKOUT / "lab.yaml", *(CHECKOUT / "scenarios").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (file.parent / first.partition("=")[2]).is_file()


def test_every_shipped_scenario_is_a_few_lines() -> None:
    for file in (CHECKOUT / "scenarios").glob("*.yaml"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 25


# Where scenarios are found


def test_a_scenario_is_found_from_below_the_project(project: Path) -> None:
    below = project / "notes" / "monday"
    below.mkdir(parents=True)
    assert load_scenario("base", start=below).name == "base"
    assert scenario_names(below) == ("base",)


def test_a_scenario_of_the_current_directory_comes_before_that_of_the_project(project: Path) -> None:
    near = project / "near" / "scenarios"
    near.mkdir(parents=True)
    (near / "base.yaml").write_text(BASE + "nodes: 2\n")
    assert len(load_scenario("base", start=project / "near").nodes) == 2
    assert len(load_scenario("base", start=project).nodes) == 3


def test_a_path_is_relative_to_the_current_directory(project: Path) -> None:
    scenario = load_scenario("base.yaml", start=project / "scenarios")
    assert scenario.source == str(project / "scenarios" / "base.yaml")


def test_outside_of_any_project_the_shipped_scenarios_are_there(tmp_path: Path) -> None:
    assert load_scenario("bpf", start=tmp_path).datapath.host_routing is HostRouting.BPF
    assert "legacy-native" in scenario_names(tmp_path)


def test_a_missing_file_is_a_usage_error_that_lists_what_is_there(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenario("scenarios/bse.yaml", start=project)
    assert caught.value.lines() == (
        "error: there is no scenario file 'scenarios/bse.yaml'",
        "  why: looked in scenarios/",
        "  try: did you mean 'base'? there are: base",
    )


@pytest.mark.parametrize("file", ["My Scenario (2).yaml", "传统.yaml", "Base.yml", "UPPER", "a.b c"])
def test_a_file_may_be_called_anything_when_the_lab_has_a_name(project: Path, file: str) -> None:
    (project / file).write_text(BASE)
    loaded = load_scenario(file, start=project, lab_name="mine")
    assert resolve(loaded, name="mine").name == "mine"
    assert is_name(loaded.name)
    assert loaded.source == str(project / file)


def test_without_a_name_for_the_lab_such_a_file_is_refused_with_what_to_do(project: Path) -> None:
    (project / "My Scenario (2).yaml").write_text(BASE)
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario("My Scenario (2).yaml", start=project)
    assert "did you mean 'my-scenario-2'?" in str(refused.value.problems[0])


def test_the_name_in_the_file_wins_over_the_files(project: Path) -> None:
    (project / "My Scenario (2).yaml").write_text(BASE + "name: its-own\n")
    assert load_scenario("My Scenario (2).yaml", start=project, lab_name="mine").name == "its-own"
    assert load_scenario("My Scenario (2).yaml", start=project).name == "its-own"


def test_a_name_that_is_no_file_is_still_told_as_such(project: Path) -> None:
    with pytest.raises(UsageError, match="neither a scenario's name nor a path"):
        load_scenario("not there.yml", start=project, lab_name="mine")


def test_validate_takes_names_and_paths(project: Path) -> None:
    assert validate_files(["base", Path("scenarios/base.yaml"), "lab.yaml"], start=project) == ()


# Layers


def test_the_file_wins_over_its_parent_and_the_parent_over_the_site(project: Path) -> None:
    (project / "lab.yaml").write_text(SITE_HEAD + "network: {mtu: 9000, underlayCIDR: 10.0.0.0/24}\nnodes: 5\n")
    _add(project, "middle", "extends: base\nnodes: 4\nnetwork: {mtu: 1400}\n")
    _add(project, "leaf", "extends: middle\nnetwork: {mtu: 1300}\n")
    leaf = load_scenario("leaf", start=project)
    assert (leaf.mtu, leaf.underlay_cidr, len(leaf.nodes)) == (1300, IPv4Network("10.0.0.0/24"), 4)
    assert load_scenario("middle", start=project).mtu == 1400
    assert load_scenario("base", start=project).mtu == 9000


def test_a_list_replaces_the_list_of_the_parent(project: Path) -> None:
    _add(project, "leaf", "extends: base\nchecks: [{check: ping, count: 7}]\n")
    leaf = load_scenario("leaf", start=project)
    assert [(check.name, check.parameters) for check in leaf.checks] == [("ping", PingParameters(count=7))]


def test_a_name_is_not_inherited(project: Path) -> None:
    _add(project, "named", BASE.removeprefix(HEAD) + "name: other\n")
    _add(project, "leaf", "extends: named\n")
    assert load_scenario("named", start=project).name == "other"
    assert load_scenario("leaf", start=project).name == "leaf"


def test_an_error_in_a_parent_is_shown_where_it_is(project: Path) -> None:
    _add(project, "parent", BASE.removeprefix(HEAD) + "network: {mtu: big}\n")
    _add(project, "leaf", "extends: parent\nnetwork: {mtu: 1400, podCIDR: 10.0.0.0/30}\n")
    assert _wrong(project, "leaf") == [
        (
            "scenarios/leaf.yaml:4:31: network.podCIDR: 10.0.0.0/30 is too small: 3 nodes need a /24 each, "
            "it has room for 0 (allowed: /22 or larger)"
        ),
        (
            "scenarios/parent.yaml:6:16: network.mtu: must be a whole number, not the text 'big' "
            "(allowed: a whole number from 576 to 65520)"
        ),
    ]


def test_when_a_file_replaces_the_checks_those_that_are_left_are_compared(project: Path) -> None:
    (project / "lab.yaml").write_text(SITE_HEAD + "compare: {checks: [ping, iperf]}\n")
    _add(project, "some", "extends: base\nchecks: [{check: tcpdump}, {check: ping}]\n")
    _add(project, "other", "extends: base\nchecks: [{check: tcpdump}, {check: latency}]\n")
    _add(project, "only", "extends: base\nchecks: [{check: tcpdump}]\n")
    compared = {name: load_scenario(name, start=project).compare.checks for name in ("base", "some", "other", "only")}
    assert compared == {
        "base": ("ping", "iperf"), "some": ("ping",), "other": ("latency",), "only": ("tcpdump",)
    }  # fmt: skip


def test_where_a_file_replaces_the_checks_the_tools_that_it_has_stand_for_the_load_program(project: Path) -> None:
    (project / "lab.yaml").write_text(SITE_HEAD + "compare: {checks: [ping, load]}\n")
    _add(project, "tools", "extends: base\nchecks: [{check: ping}, {check: iperf}, {check: latency}]\n")
    _add(project, "own", "extends: base\nchecks: [{check: ping}, {check: load, messageByte: 100}]\n")
    _add(project, "asked", "extends: base\nchecks: [{check: ping}]\ncompare: {checks: [load]}\n")
    compared = {name: load_scenario(name, start=project).compare.checks for name in ("base", "tools", "own", "asked")}
    assert compared == {
        "base": ("ping", "load"), "tools": ("ping", "latency", "iperf"), "own": ("ping", "load"), "asked": ("load",)
    }  # fmt: skip


def test_sections_are_settings_only_for_providers_that_read_them(project: Path) -> None:
    _add(project, "cilium", 'extends: base\ncilium: {version: "1.13.12", values: {debug: {enabled: true}, x: ~}}\n')
    assert _loaded(project, name="cilium").settings == {}
    kind = _loaded(project, "provider=kind", name="cilium")
    assert kind.settings["cilium"] == {"version": "1.13.12", "values": {"debug": {"enabled": True}, "x": None}}


# Overrides


def test_an_override_wins_over_every_file(project: Path) -> None:
    scenario = _loaded(
        project, "network.mtu=1400", "nodes=2", "checks.ping.count=7", "checks[2].streams=4", "pods.server.node=node1",
        "checks.iperf-udp.expect.maxLoss=0.5", "compare.durationS=0.3", "datapath={hostRouting: bpf}",
        "pods.1.labels.app\\.kubernetes\\.io/name=web",
    )  # fmt: skip
    assert scenario.mtu == 1400
    assert scenario.checks[0].parameters == PingParameters(count=7)
    assert scenario.checks[2].parameters == IperfParameters(streams=4)
    assert scenario.checks[4].parameters == IperfParameters(protocol="udp", max_loss=0.5)
    assert scenario.pods[1].node == "node1"
    assert scenario.pods[1].labels == {"app.kubernetes.io/name": "web"}
    assert scenario.pairs[0].placement is Placement.SAME_NODE
    assert scenario.compare.duration_s == 0.3
    assert scenario.datapath.host_routing is HostRouting.BPF
    assert scenario.datapath.encapsulation is Encapsulation.VXLAN


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nodes"], ["--set:1:1: 'nodes' has no '=' (allowed: key.path=value)"]),
        (["=3"], ["--set:1:1: '=3' has no '=' (allowed: key.path=value)"]),
        (["nodes="], ["--set:1:7: nodes: has no value (allowed: key.path=value)"]),
        (["a..b=1"], ["--set:1:1: 'a..b' is not a key path (allowed: such as checks.ping.count)"]),
        (
            ["nodes=2", "network.mut=1400"],
            [
                (
                    "--set:2:1: network.mut: unknown key (allowed: underlayCIDR, podCIDR, serviceCIDR, mtu); "
                    "did you mean 'mtu'?"
                )
            ],
        ),
        (
            ["datapath.hostRouting=bfp"],
            [
                (
                    "--set:1:22: datapath.hostRouting: 'bfp' is not one of the choices (allowed: legacy, bpf); "
                    "did you mean 'bpf'?"
                )
            ],
        ),
        (
            ["checks.pnig.count=5"],
            [
                (
                    "--set:1:1: checks: no item is called 'pnig' "
                    "(allowed: ping, latency, iperf, iperf-many, iperf-udp, tcpdump); did you mean 'ping'?"
                )
            ],
        ),
        (["pods[2].node=node1"], ["--set:1:1: pods[2]: there is no item 2: the list has 2 items, counted from 0"]),
        (["network[0]=1"], ["--set:1:1: network[0]: there is no list here"]),
        (["extends=bpf"], ["--set:1:9: extends: cannot be set on the command line"]),
        (
            ["network.podCIDR=10.244.0.0/30"],
            [
                (
                    "--set:1:17: network.podCIDR: 10.244.0.0/30 is too small: 3 nodes need a /24 each, "
                    "it has room for 0 (allowed: /22 or larger)"
                )
            ],
        ),
        (["nodes=[1"], ["--set:1:9: is not YAML: a bracket is not closed, or a ',' is missing"]),
        (["name=a\x1b[0m"], ["--set:1:1: the control character U+001B is not allowed"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_an_override_that_is_wrong_is_shown_by_its_number_and_column(
    options: Sequence[str], said: list[str], project: Path
) -> None:
    assert _wrong(project, "base", *options) == said


def test_every_problem_is_told_at_once_also_across_files_and_options(project: Path) -> None:
    (project / "lab.yaml").write_text(SITE_HEAD + "nodse: 3\n")
    _add(project, "leaf", "extends: base\npods: [{name: Client, node: node9}]\n")
    places = [line.partition(" ")[0] for line in _wrong(project, "leaf", "network.mtu=1")]
    assert places == [
        "--set:1:13:", "lab.yaml:3:1:", "scenarios/base.yaml:4:18:", "scenarios/base.yaml:4:34:",
        "scenarios/leaf.yaml:4:15:", "scenarios/leaf.yaml:4:29:",
    ]  # fmt: skip


def test_importing_the_package_imports_neither_yaml_nor_pydantic() -> None:
    code = "import sys, labctl.loading; print(sorted({'yaml', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


def test_validate_tells_problems_in_the_order_of_the_paths_then_of_the_lines(project: Path) -> None:
    _add(project, "zed", "extends: base\nnodse: 3\nnetwork: {mtu: 1}\ncheks: []\n")
    _add(project, "alpha", "extends: base\npodz: []\n")
    problems = validate_files(["zed", "alpha"], start=project)
    assert [(problem.file, problem.line) for problem in problems] == [
        ("scenarios/zed.yaml", 4),
        ("scenarios/zed.yaml", 5),
        ("scenarios/zed.yaml", 6),
        ("scenarios/alpha.yaml", 4),
    ]
