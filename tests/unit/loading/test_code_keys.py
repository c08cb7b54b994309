"""What a scenario or lab.yaml names that would run as root on the container engine's host: refused at its place, but in
the clone that labctl runs from, on the command line, and after --trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labctl.cli import group
from labctl.errors import ScenarioInvalid
from labctl.loading import load_scenario, project, validate_files

SCENARIO = """apiVersion: labctl/v1
kind: Scenario
provider: kind
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
datapath: {hostRouting: legacy}
"""
CODE: dict[str, tuple[str, Any]] = {
    "a patch of kubeadm": ("kindCluster.kubeadmConfigPatches", ["kind: ClusterConfiguration"]),
    "a patch of containerd": ("kindCluster.containerdConfigPatches", ["[plugins]"]),
    "an image for the nodes": ("kindCluster.image", "docker.io/evil/node:v1.32.2"),
    "one whose name begins as kind's": ("kindCluster.image", "evil.example/kindest/node:v1.32.2"),
    "an image for the pods": ("kindCluster.toolsImage", "evil/tools:1"),
    "a registry": ("kindCluster.registryMirrors", {"docker.io": "http://192.0.2.1:5000"}),
    "a repository": ("kindCluster.imageRepository", "evil.example/k8s"),
    "an archive": ("kindCluster.archives", ["images.tar"]),
    "a chart": ("cilium.chart", "oci://evil.example/cilium"),
    "a mirror of Cilium": ("cilium.imageRepository", "evil.example/cilium"),
    "the root of the host": ("kindCluster.extraMounts[0]", [{"hostPath": "/", "containerPath": "/host"}]),
    "it, read-only": ("kindCluster.extraMounts[0]", [{"hostPath": "/", "containerPath": "/host", "readOnly": True}]),
    "a container": ("cilium.values.extraInitContainers[0].name", {"extraInitContainers": [{"name": "x"}]}),
    "an image in values": ("cilium.values.image.override", {"image": {"override": "evil"}}),
    "a directory in values": ("cilium.values.cni.binPath", {"cni": {"binPath": "/usr/local/sbin"}}),
    "a command": ("cilium.values.hubble.export.args[1]", {"hubble": {"export": {"args": [1, "sh"]}}}),
    "a mode that is a path": ("cilium.values.loadBalancer.mode", {"loadBalancer": {"mode": "/bin/sh"}}),
}
DATA: tuple[tuple[str, Any], ...] = (
    ("kindCluster.image", "kindest/node:v1.32.2@sha256:" + "a" * 64),
    ("kindCluster.image", "docker.io/kindest/node:v1.32.2"),
    ("kindCluster.featureGates", {"InPlacePodVerticalScaling": True}),
    ("kindCluster.archives", []),
    ("cilium.version", "1.16.5"),
    ("cilium.values", {"hubble": {"enabled": True}, "mtu": 1400, "debug": {"enabled": "false"}}),
    ("cilium.values", {"loadBalancer": {"mode": "dsr", "algorithm": "maglev"}, "x": ["10.0.0.0/8", "fd00::1"]}),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("apiVersion: labctl/v1\nkind: Site\nnodes: 2\n")
    return tmp_path


def written(path: str, value: Any) -> str:
    section, key = path.split("[")[0].split(".")[:2]
    return SCENARIO + f"{section}:\n  {key}: {json.dumps(value)}\n"


@pytest.mark.parametrize("kind", CODE)
def test_what_names_code_is_refused_at_its_place_by_every_command_and_taken_after_trust(
    here: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, value = CODE[kind]
    (here / "mine.yaml").write_text(written(path, value))
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario("mine.yaml")
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.path) == ("mine.yaml", 8, path)
    assert "--trust" in problem.allowed
    assert group.run(["plan", "mine.yaml"]) == 2
    assert f"mine.yaml:8:{problem.column}: {path}: names what runs as root" in capsys.readouterr().err
    assert load_scenario("mine.yaml", trust=True).provider == "kind"
    assert validate_files(["mine.yaml"], trust=True) == ()


@pytest.mark.parametrize("kind", ["a patch of kubeadm", "a chart", "the root of the host", "an image in values"])
def test_it_is_refused_in_a_parent_in_lab_yaml_and_in_a_matrix_too(here: Path, kind: str) -> None:
    path, value = CODE[kind]
    (here / "parent.yaml").write_text(written(path, value))
    (here / "child.yaml").write_text("apiVersion: labctl/v1\nkind: Scenario\nextends: parent.yaml\n")
    (here / "many.yaml").write_text("apiVersion: labctl/v1\nkind: Matrix\nscenarios: [child.yaml, parent.yaml]\n")
    for file in ("child.yaml", "many.yaml"):
        assert ("parent.yaml", path) in {(one.file, one.path) for one in validate_files([file])}
    site = written(path, value).removeprefix(SCENARIO)
    (here / "lab.yaml").write_text(f"apiVersion: labctl/v1\nkind: Site\nnodes: 2\n{site}")
    (here / "plain.yaml").write_text(SCENARIO)
    assert {(one.file, one.path) for one in validate_files(["plain.yaml"])} == {("lab.yaml", path)}


@pytest.mark.parametrize("kind", CODE)
def test_a_lab_yaml_that_is_validated_by_itself_is_told_too(
    here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, value = CODE[kind]

    def problems(before: str = "", folder: Path = here, **more: Any) -> list[tuple[str, str]]:
        text = f"apiVersion: labctl/v1\nkind: Site\n{before}" + written(path, value).removeprefix(SCENARIO)
        (folder / "lab.yaml").write_text(text)
        return [(one.path, one.allowed) for one in validate_files([folder / "lab.yaml"], **more)]

    told = [(path, "read the file, then the same command with --trust")]
    assert problems("provider: kind\n") == told
    assert problems("nodes: 2\n", overrides=["provider=kind"]) == told
    assert problems() == (told if path.startswith("kindCluster") else [])  # the scenarios choose the provider
    assert problems("provider: kind\n", trust=True) == problems("provider: netns\n") == []
    assert problems("provider: kind\n", overrides=["provider=kubeadm"]) == []
    (here / "away").mkdir()
    assert problems("provider: kind\n", here / "away") == told
    monkeypatch.setattr(project, "_CHECKOUT", here)
    assert problems("provider: kind\n") == []


@pytest.mark.parametrize("kind", CODE)
def test_the_clone_that_labctl_runs_from_and_the_command_line_may_name_it(
    here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, value = CODE[kind]
    (here / "plain.yaml").write_text(SCENARIO)
    key = ".".join(path.split("[")[0].split(".")[:2])
    assert load_scenario("plain.yaml", overrides=[f"{key}={json.dumps(value)}"]).provider == "kind"
    (here / "scenarios").mkdir()
    (here / "scenarios" / "mine.yaml").write_text(written(path, value))
    (here / "lab.yaml").write_text(SCENARIO.splitlines()[0] + "\nkind: Site\nnodes: 2\n")
    monkeypatch.setattr(project, "_CHECKOUT", here)
    assert load_scenario("mine").provider == "kind"


@pytest.mark.parametrize(("path", "value"), DATA, ids=str)
def test_what_describes_a_network_needs_no_trust(here: Path, path: str, value: Any) -> None:
    (here / "mine.yaml").write_text(written(path, value))
    assert validate_files(["mine.yaml"]) == ()


def test_another_provider_is_not_asked(here: Path) -> None:
    for kind in ("a patch of kubeadm", "a chart"):
        (here / "mine.yaml").write_text(written(*CODE[kind]).replace("provider: kind", "provider: netns"))
        assert validate_files(["mine.yaml"]) == ()
        with pytest.raises(ScenarioInvalid) as refused:
            load_scenario("mine.yaml", overrides=["provider=kind"])
        assert [one.path for one in refused.value.problems] == [CODE[kind][0]]


def test_a_folder_beside_the_file_may_be_mounted_to_be_read(here: Path) -> None:
    (here / "data").mkdir()
    (here / "away").symlink_to("/etc")

    def problems(host: str, **more: Any) -> list[str]:
        mount = {"hostPath": host, "containerPath": "/data", "readOnly": True, **more}
        (here / "mine.yaml").write_text(written("kindCluster.extraMounts", [mount]))
        return [one.path for one in validate_files(["mine.yaml"])]

    assert problems(str(here / "data")) == []
    refused = ["kindCluster.extraMounts[0]"]
    for host in (here / "away", here / "away" / "ssl", here / "data" / ".." / "..", here.parent, "data", "/etc/ssl"):
        assert problems(str(host)) == refused, host
    assert problems(str(here / "data"), readOnly=False) == refused
    assert problems(str(here / "data"), propagation="Bidirectional") == refused


OF_A_CLUSTER = {"context": "prod", "kubeconfig": "evil.conf", "image": "evil/tools:1", "helperImage": "evil/tools:1"}


@pytest.mark.parametrize("key", OF_A_CLUSTER)
def test_what_runs_on_the_nodes_of_which_cluster_is_not_a_files_to_say(here: Path, key: str) -> None:
    text = SCENARIO.replace("provider: kind", "provider: cluster")
    value = json.dumps(OF_A_CLUSTER[key])
    (here / "mine.yaml").write_text(f"{text}cluster:\n  {key}: {value}\n")
    (problem,) = validate_files(["mine.yaml"])
    assert (problem.line, problem.path) == (8, f"cluster.{key}")
    assert "--trust" in problem.allowed
    assert validate_files(["mine.yaml"], trust=True) == ()
    (here / "mine.yaml").write_text(text)
    assert load_scenario("mine.yaml", overrides=[f"cluster.{key}={value}"]).provider == "cluster"


def test_where_pods_go_on_a_cluster_is_a_files_to_say(here: Path) -> None:
    text = SCENARIO.replace("provider: kind", "provider: cluster")
    more = "cluster: {nodeSelector: pool=lab, helpers: never, image: docker.io/nicolaka/netshoot:v0.13}\n"
    (here / "mine.yaml").write_text(text + more)
    assert validate_files(["mine.yaml"]) == ()


def test_observing_is_for_clusters_that_labctl_did_not_make(here: Path) -> None:
    text = SCENARIO.replace("{hostRouting: legacy}", "{hostRouting: legacy, observed: true}")
    (here / "mine.yaml").write_text(text)
    (problem,) = validate_files(["mine.yaml"])
    assert (problem.path, problem.line) == ("datapath.observed", 6)
    assert "provider: cluster" in problem.allowed
    (here / "mine.yaml").write_text(text.replace("provider: kind", "provider: cluster"))
    assert validate_files(["mine.yaml"]) == ()
