"""What a provider cannot build is refused by every command alike, with its place, before anything is planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster_world import FIXTURES
from labctl import app
from labctl.cli.options import load_lab
from labctl.errors import ScenarioInvalid, UsageError
from labctl.loading import load_scenario, validate_files
from labctl.planning.resolve import resolve
from labctl.providers.cluster.nodes import parse_nodes

from .conftest import Bench

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
SCENARIOS = [
    file
    for folder in ("valid", "invalid")
    for file in sorted((CORPUS / folder).glob("*.yaml"))
    if "kind: Site" not in file.read_text(encoding="utf-8", errors="replace")
]


MANY_NODES = tuple(
    replace(node, name=f"{node.name}-{number}")
    for node in parse_nodes((FIXTURES / "nodes.txt").read_text())
    for number in range(100)
)
"""Those of a cluster that is there: how many it has is no scenario's fault."""


def planned(file: Path, provider: str) -> str:
    """What the planning of `up` says, without asking beforehand: empty when there is a plan."""
    try:
        lab = resolve(load_scenario(str(file), overrides=[f"provider={provider}"], start=CORPUS), name="some")
        app.provider(provider).plan(lab)
    except ScenarioInvalid as invalid:
        return "".join(map(str, invalid.problems))
    except UsageError as refused:
        return refused.what
    return ""


@pytest.mark.parametrize("provider", app.PROVIDERS)
@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_validate_plan_and_up_refuse_the_same_scenarios(
    file: Path, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")  # no engine is asked where it is
    monkeypatch.setattr("labctl.providers.cluster.provider.located_in", lambda settings, commands: settings)
    monkeypatch.setattr("labctl.providers.cluster.access.Access.nodes", lambda self: MANY_NODES)
    monkeypatch.chdir(CORPUS)
    found = validate_files([file], overrides=[f"provider={provider}"], refuse=app.refuse)
    problems = [problem for problem in found if not problem.is_warning]
    try:
        load_lab(str(file), provider=provider, name=None, overrides=())
        loaded: tuple[str, ...] = ()
    except ScenarioInvalid as invalid:
        loaded = tuple(map(str, invalid.problems))
    except UsageError:  # a file whose name is no path of a scenario
        loaded = ("refused",)
    assert bool(problems) == bool(loaded) == bool(planned(file, provider))
    if planned(file, provider) and not validate_files([file], overrides=[f"provider={provider}"]):
        assert planned(file, provider) in str(problems[0]), "the provider's own words are told"
        assert (problems[0].line, problems[0].column) != (0, 0)


@pytest.mark.parametrize(
    ("provider", "setting", "key"),
    [
        ("kind", "datapath.extraDelayNs=100", "datapath.extraDelayNs"),
        ("kind", "datapath.extraIptablesRules=100", "datapath.extraIptablesRules"),
        ("kind", "kindCluster.kubernetes=1.19.0", "kindCluster.kubernetes"),
        ("kind", "cilium.version=1.9.0", "cilium.version"),
        ("kind", "podNetwork={type: docker}", "podNetwork"),
        ("kubeadm", "fabric={type: routed, routing: static}", "fabric"),
        ("cluster", "podNetwork={type: flannel, backend: vxlan}", "podNetwork"),
        ("kubeadm", "datapath.faults=[netfilter-drop]", "datapath.faults"),
        ("kubeadm", "kubeadm.kubernetes=1.19.0", "kubeadm.kubernetes"),
    ],
)  # fmt: skip
def test_every_command_that_reads_a_scenario_says_the_same_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str, setting: str, key: str
) -> None:
    monkeypatch.setattr(app, "provider", PROVIDER)  # the real ones: the bench scripts what is behind them
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    options = ("--provider", provider, "--set", setting)
    said = [
        bench.run(command, *scenarios, *options)
        for command, scenarios in (("validate", ["legacy"]), ("plan", ["legacy"]), ("up", ["legacy"]),
                                   ("check", ["legacy"]), ("compare", ["legacy", "legacy"]))
    ]  # fmt: skip
    assert [one.code for one in said] == [2] * 5
    places = {next(line for line in one.err.splitlines() if line.startswith("--set:1:")) for one in said}
    assert len(places) == 1
    assert f": {key}: " in places.pop()


PROVIDER = app.provider


def test_validate_takes_the_provider_and_settings_of_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "provider", PROVIDER)
    file = str(CORPUS / "valid" / "services.yaml")
    assert bench.run("validate", file).code == 0
    assert bench.run("validate", file, "--provider", "kind").code == 0
    costly = ("--set", "datapath.extraDelayNs=100")  # netns alone has rules that cost time
    assert bench.run("validate", file, *costly, "--json").document["valid"] is True
    assert bench.run("validate", file, "--provider", "kind", *costly).code == 2
    refused = bench.run("validate", file, "--provider", "kind", *costly, "--json").document["problems"]
    assert [(one["path"], one["line"], one["column"]) for one in refused] == [("datapath.extraDelayNs", 1, 23)]
    assert json.dumps(refused)
    assert bench.run("validate", file, "--provider", "nets").code == 2
