"""docs/kind.md taken at its word: its lab.yaml is loaded as a project's, and what is planned uses nothing else."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.loading import load_scenario, validate_files
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve
from labctl.planning.show import as_script
from labctl.providers.kind.config import kind_config
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kind.settings import KindSettings

CHECKOUT = Path(__file__).resolve().parents[4]
GUIDE = (CHECKOUT / "docs" / "kind.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
WHOLE = next(text for text in EXAMPLES if "cilium:" in text and "kindCluster:" in text)
OTHER = next(text for text in EXAMPLES if 'version: "1.16.19"' in text)
AGENT, OPERATOR, TOOLS = "local/cilium:v1.13.12", "local/operator-generic:v1.13.12", "local/tools:1"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped lab.yaml and scenarios, with the guide's sections appended, as it says."""
    shutil.copytree(CHECKOUT / "scenarios", tmp_path / "scenarios")
    (tmp_path / "lab.yaml").write_text((CHECKOUT / "lab.yaml").read_text(encoding="utf-8") + "\n" + WHOLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lab_of(name: str) -> Lab:
    return resolve(load_scenario(name, overrides=("provider=kind",), trust=True))


def settings_of(project: Path, name: str = "bpf") -> KindSettings:
    return KindProvider(root=project / "state").settings(lab_of(name))


def test_the_guides_lab_yaml_is_valid(project: Path) -> None:
    assert validate_files([project / "lab.yaml", *sorted((project / "scenarios").glob("*.yaml"))], trust=True) == ()
    settings = settings_of(project)
    assert (str(settings.kubernetes), str(settings.cilium_version)) == ("1.20.2", "1.13.12")
    assert settings.images == (AGENT, OPERATOR, TOOLS)


@pytest.mark.parametrize("scenario", ["legacy", "bpf", "legacy-native", "bpf-native"])
def test_the_guides_example_plans_three_containers_and_nothing_from_a_network(scenario: str, project: Path) -> None:
    provider = KindProvider(root=project / "state")
    script = as_script(provider.plan(lab_of(scenario)))
    assert not re.search(r"\bpull\b(?!Policy)|--repo|https?://|quay\.io|docker\.io/(?!local/)|@sha256", script), script
    loaded = re.findall(r"^kind load docker-image (.+) --name ", script, re.MULTILINE)
    assert loaded == [f"{AGENT} {OPERATOR} {TOOLS}"]
    for image in ("local/node:v1.20.2", AGENT, OPERATOR, TOOLS):
        assert f"docker image inspect {image} " in script
    assert "helm template cilium /srv/charts/cilium-1.13.12.tgz " in script
    config: dict[str, Any] = yaml.safe_load(kind_config(settings_of(project, scenario)))
    assert [(node["role"], node["image"]) for node in config["nodes"]] == [
        ("control-plane", "local/node:v1.20.2"), ("worker", "local/node:v1.20.2"), ("worker", "local/node:v1.20.2"),
    ]  # fmt: skip
    patch = yaml.safe_load(config["kubeadmConfigPatches"][0])
    assert (patch["kind"], patch["cgroupDriver"]) == ("KubeletConfiguration", "cgroupfs")
    assert config["networking"]["kubeProxyMode"] == "none"
    assert config["networking"]["disableDefaultCNI"] is True


def test_every_pod_of_the_guides_example_is_of_the_local_image_and_never_pulled(project: Path) -> None:
    from labctl.providers.cilium.workloads import workloads

    pods = [one for one in yaml.safe_load_all(workloads(settings_of(project))) if one["kind"] == "Pod"]
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    assert {(one["image"], one["imagePullPolicy"]) for one in containers} == {(TOOLS, "Never")}
    # Whatever user the image names: what is measured with needs root.
    assert {one["securityContext"]["runAsUser"] for one in containers} == {0}
    assert len(pods) == 3 + 2


def test_the_guides_other_version_goes_with_the_same_nodes(project: Path) -> None:
    sections = {**yaml.safe_load(WHOLE), **yaml.safe_load(OTHER)}
    site = (CHECKOUT / "lab.yaml").read_text(encoding="utf-8") + "\n" + yaml.safe_dump(sections)
    (project / "lab.yaml").write_text(site)
    script = as_script(KindProvider(root=project / "state").plan(lab_of("bpf")))
    # The chart asks for Kubernetes 1.21, and is told so.
    assert "helm template cilium /srv/charts/cilium-1.16.19.tgz --namespace kube-system --kube-version 1.21.0" in script


def test_every_key_of_the_guides_tables_is_one_that_labctl_takes() -> None:
    from labctl.model.sections import KindCluster

    table = GUIDE[GUIDE.index("| key of `kindCluster` |") :]
    rows = [line.split("|")[1] for line in table.split("\n\n")[0].splitlines()[2:]]
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert named == {field.alias or name for name, field in KindCluster.model_fields.items()}


def test_the_chart_may_be_a_file_or_the_folder_that_it_was_packed_from(project: Path) -> None:
    from labctl.providers.cilium.chart import read_chart

    folder = project / "cilium"
    folder.mkdir()
    (folder / "Chart.yaml").write_text("name: cilium\nversion: 1.13.12\n")
    packed = project / "cilium-1.13.12.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        content = (folder / "Chart.yaml").read_bytes()
        member = tarfile.TarInfo("cilium/Chart.yaml")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    assert read_chart(folder) == read_chart(packed)
