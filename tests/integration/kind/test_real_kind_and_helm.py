"""The real kind and helm on what labctl writes: kind's own parser and kubeadm templates, Cilium's own charts.

No container runs: `docker` and `kubectl` are stand-ins (engine_shim.py) that answer what kind asks. kind and helm are
built from their Go modules by `setup/prepare.sh test`, into .tools/bin; charts come from the folder that
LABCTL_CILIUM_CHARTS names (`cilium-VERSION.tgz`, by `helm pull cilium --repo https://helm.cilium.io`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.model.pod_network import NetworkType, PodNetworkChoice
from labctl.model.versions import Version
from labctl.planning.show import as_script
from labctl.providers.cilium.chart import read_chart
from labctl.providers.cilium.commands import WriteFile
from labctl.providers.cilium.rendered import differences, parse_rendered, wrong_values
from labctl.providers.cilium.values import helm_values
from labctl.providers.kind.actions import LoadImages, RenderChart, VerifyChart
from labctl.providers.kind.clusters import argv_inspect, parse_inspect
from labctl.providers.kind.config import kind_config
from labctl.providers.kind.endpoint import endpoint_of
from labctl.providers.kind.execute import verify_chart
from labctl.providers.kind.presence import argv_list
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kind.settings import read_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "unit" / "kind"))
from kind_world import lab_of

KIND, HELM = shutil.which("kind"), shutil.which("helm")
pytestmark = [
    pytest.mark.needs_kind,
    pytest.mark.skipif(KIND is None, reason="needs kind: setup/prepare.sh test builds it where Go is"),
]

CHART_TEMPLATE = """apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config}
data:
  enable-host-legacy-routing: {{ .Values.bpf.hostLegacyRouting | quote }}
  kube-proxy-replacement: {{ .Values.kubeProxyReplacement | quote }}
  enable-bpf-masquerade: {{ .Values.bpf.masquerade | quote }}
  enable-ipv4-masquerade: {{ .Values.enableIPv4Masquerade | quote }}
  auto-direct-node-routes: {{ .Values.autoDirectNodeRoutes | quote }}
  ipam: {{ .Values.ipam.mode | quote }}
  cluster-pool-ipv4-cidr: {{ index .Values.ipam.operator.clusterPoolIPv4PodCIDRList 0 | quote }}
  cluster-pool-ipv4-mask-size: {{ .Values.ipam.operator.clusterPoolIPv4MaskSize | quote }}
  monitor-aggregation: {{ .Values.bpf.monitorAggregation | quote }}
  debug: {{ .Values.debug.enabled | quote }}
  debug-verbose: {{ .Values.debug.verbose | quote }}
  enable-l7-proxy: {{ .Values.l7Proxy | quote }}
  tunnel: {{ .Values.tunnel | quote }}
  tunnel-port: {{ .Values.tunnelPort | quote }}
  devices: {{ .Values.devices | quote }}
"""


class Host:
    """A PATH on which docker and kubectl are stand-ins, and what was asked of them."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "shim"
        programs = tmp_path / "bin"
        for folder in (self.state, programs):
            folder.mkdir()
        source = (Path(__file__).parent / "engine_shim.py").read_text(encoding="utf-8")
        for tool in ("docker", "kubectl"):
            (programs / tool).write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
            (programs / tool).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LABCTL_SHIM_STATE": str(self.state),
            "HOME": str(tmp_path),
            "KUBECONFIG": str(tmp_path / "users-own-kubeconfig"),
        }
        self.environment.pop("KIND_EXPERIMENTAL_PROVIDER", None)

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.environment, input=text, capture_output=True, text=True, timeout=120, check=False
        )

    def calls(self, tool: str = "docker") -> list[dict[str, Any]]:
        lines = (self.state / "calls").read_text(encoding="utf-8").splitlines()
        return [call for call in map(json.loads, lines) if call["tool"] == tool]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def script(tmp_path: Path, **sections: Any) -> str:
    lab = lab_of(tmp_path, **sections)
    return as_script(KindProvider(root=tmp_path / "state").plan(lab))


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart small enough to ship that renders what Cilium's does."""
    folder = tmp_path / "cilium"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: cilium\nversion: 1.13.12\n")
    (folder / "templates" / "cilium-configmap.yaml").write_text(CHART_TEMPLATE)
    return folder


@pytest.mark.skipif(HELM is None, reason="needs helm: setup/prepare.sh test builds it where Go is")
def test_the_plans_script_runs_to_its_end_with_the_real_kind_and_helm(host: Host, tmp_path: Path, chart: Path) -> None:
    ended = host.run("sh", "-s", text=script(tmp_path, cilium={"chart": str(chart)}))
    assert ended.returncode == 0, ended.stderr[-2000:]
    started = [call["argv"] for call in host.calls() if call["argv"][0] == "run"]
    assert sorted(argv[argv.index("--name") + 1] for argv in started) == [
        "labctl-bpf-control-plane", "labctl-bpf-worker", "labctl-bpf-worker2",
    ]  # fmt: skip
    kubeadm = next(call["stdin"] for call in host.calls() if "/kind/kubeadm.conf" in call["argv"])
    documents = {document["kind"]: document for document in yaml.safe_load_all(kubeadm) if document}
    assert documents["KubeletConfiguration"]["cgroupDriver"] == "cgroupfs"
    assert documents["ClusterConfiguration"]["networking"] == {
        "podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/16",
    }  # fmt: skip
    # kube-proxy is skipped, and the user's own kubeconfig is not touched.
    init = next(call["argv"] for call in host.calls() if "init" in call["argv"])
    assert any("addon/kube-proxy" in word for word in init) or "skipPhases" in kubeadm
    assert not (tmp_path / "users-own-kubeconfig").exists()
    assert (tmp_path / "state" / "bpf" / "kubeconfig").stat().st_mode & 0o777 == 0o600


def test_kind_imports_one_archive_of_all_images_on_all_nodes_at_the_same_time(host: Host, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    provider = KindProvider(root=tmp_path / "state")
    config = tmp_path / "kind.yaml"
    config.write_text(kind_config(provider.settings(lab)))
    created = host.run(
        "kind", "create", "cluster", "--name", "labctl-bpf", "--config", str(config), "--kubeconfig",
        str(tmp_path / "kc"), "--retain",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr[-2000:]
    (action,) = [a for step in provider.plan(lab).steps for a in step.actions if isinstance(a, LoadImages)]
    host.environment["LABCTL_SHIM_MEETS"] = "3"
    loaded = host.run(*action.argv)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    calls = [call["argv"] for call in host.calls()]
    (saved,) = [argv for argv in calls if argv[0] == "save"]
    assert saved[3:] == list(action.references)
    assert len([argv for argv in calls if "import" in argv]) == 3


def test_the_mark_that_kind_passes_on_is_found_again(host: Host, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    config = tmp_path / "kind.yaml"
    config.write_text(kind_config(KindProvider(root=tmp_path / "state").settings(lab)))
    created = host.run(
        "kind", "create", "cluster", "--name", "labctl-bpf", "--config", str(config), "--kubeconfig",
        str(tmp_path / "kc"), "--retain",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr[-2000:]
    names = tuple(host.run(*argv_list("docker", "labctl-bpf")).stdout.split())
    nodes = parse_inspect(host.run(*argv_inspect("docker", names)).stdout)
    marks = {(node.mark.lab, node.mark.scenario, node.mark.digest) for node in nodes if node.mark}
    assert marks == {("bpf", "bpf", lab.digest[:16])}
    assert len(nodes) == 3


@pytest.mark.parametrize(
    "section",
    [
        {"extraMounts": [{"hostPath": "/a", "containerPath": "/b", "propagation": "Bidirectional"}]},
        {"controlPlane": "extra", "controlPlanes": 3, "featureGates": {"X": True}},
        {"registryMirrors": {"docker.io": "http://m:5000"}, "imageRepository": "m/g"},
        {"apiServerPort": 6443, "controlPlane": "first"},
        {"containerdConfigPatches": ["[plugins]\n"]},
    ],
)
def test_kinds_own_parser_takes_every_setting(host: Host, tmp_path: Path, section: dict[str, Any]) -> None:
    lab = lab_of(tmp_path, kindCluster=section)
    config = kind_config(KindProvider(root=tmp_path / "state").settings(lab))
    (host.state / "run-taken").write_text(json.dumps(["--label=io.x-k8s.kind.cluster=labctl-bpf"]))
    ended = host.run("kind", "create", "cluster", "--name", "labctl-bpf", "--config", "-", text=config)
    # kind parses and validates before it looks for a cluster of that name, and stops there.
    assert "already exist for a cluster with the name" in ended.stderr, ended.stderr


def test_kinds_own_parser_takes_a_cluster_with_its_own_network(host: Host, tmp_path: Path) -> None:
    lab = replace(lab_of(tmp_path), pod_network=PodNetworkChoice(type=NetworkType.KINDNET))
    config = kind_config(KindProvider(root=tmp_path / "state").settings(lab))
    (host.state / "run-taken").write_text(json.dumps(["--label=io.x-k8s.kind.cluster=labctl-bpf"]))
    ended = host.run("kind", "create", "cluster", "--name", "labctl-bpf", "--config", "-", text=config)
    assert "already exist for a cluster with the name" in ended.stderr, ended.stderr


def test_kind_publishes_the_api_server_at_a_remote_engines_address_at_a_port_of_its_choice(
    host: Host, tmp_path: Path
) -> None:
    """kind would look for a free port by listening at that address here, and fail: it is told to leave that."""
    settings = read_settings(lab_of(tmp_path), tmp_path / "state", endpoint_of("tcp://192.0.2.7:2376"))
    config = tmp_path / "kind.yaml"
    config.write_text(kind_config(settings))
    created = host.run(
        "kind", "create", "cluster", "--name", "labctl-bpf", "--config", str(config), "--kubeconfig",
        str(tmp_path / "kc"), "--retain",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr[-2000:]
    started = [word for call in host.calls() if call["argv"][0] == "run" for word in call["argv"]]
    assert [word for word in started if word.startswith("--publish")] == ["--publish=192.0.2.7:0:6443/TCP"]
    kubeadm = next(call["stdin"] for call in host.calls() if "/kind/kubeadm.conf" in call["argv"])
    cluster = next(d for d in yaml.safe_load_all(kubeadm) if d["kind"] == "ClusterConfiguration")
    assert "192.0.2.7" in cluster["apiServer"]["certSANs"]


def test_kinds_own_parser_refuses_what_is_not_its(host: Host) -> None:
    config = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodez: []\n"
    ended = host.run("kind", "create", "cluster", "--name", "x", "--config", "-", text=config)
    assert "field nodez not found" in ended.stderr


def containers_of(node: object) -> Iterator[dict[str, Any]]:
    """Every container of a manifest, wherever its pod template is."""
    entries = node.items() if isinstance(node, dict) else ()
    for key, value in entries:
        if key in ("containers", "initContainers") and isinstance(value, list):
            yield from value
        yield from containers_of(value)
    for value in node if isinstance(node, list) else ():
        yield from containers_of(value)


CHARTS = Path(os.environ.get("LABCTL_CILIUM_CHARTS", "/nonexistent"))
FOUND = sorted(path.name.removeprefix("cilium-").removesuffix(".tgz") for path in CHARTS.glob("cilium-*.tgz"))


@pytest.mark.skipif(HELM is None, reason="needs helm: setup/prepare.sh test builds it where Go is")
@pytest.mark.parametrize("encapsulation", ["vxlan", "native"])
@pytest.mark.parametrize("host_routing", ["legacy", "bpf"])
@pytest.mark.parametrize("version", FOUND or [pytest.param("", marks=pytest.mark.needs_charts)])
def test_a_real_chart_renders_what_was_meant(
    version: str, host_routing: str, encapsulation: str, tmp_path: Path
) -> None:
    if not version:
        pytest.skip("needs Cilium's charts: LABCTL_CILIUM_CHARTS=FOLDER with cilium-VERSION.tgz in it")
    lab = lab_of(
        tmp_path,
        host_routing=host_routing,
        encapsulation=encapsulation,
        cilium={"version": version, "chart": str(CHARTS / f"cilium-{version}.tgz"), "allowUntested": True},
        kindCluster={"kubernetes": "1.30.0"},
    )
    settings = KindProvider(root=tmp_path / "state").settings(lab)
    values = helm_values(settings.wanted)
    rendered = subprocess.run(
        ("helm", "template", "cilium", settings.cilium.chart, "--kube-version", "1.30.0", "--values", "-"),
        input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seen = parse_rendered(rendered.stdout)
    assert differences(seen, settings.wanted) == ()
    assert set(seen.images) == set(settings.images[:2])
    chart = read_chart(Path(settings.cilium.chart))
    assert wrong_values(values, chart.version, chart) == ()


@pytest.mark.skipif(HELM is None, reason="needs helm: setup/prepare.sh test builds it where Go is")
@pytest.mark.parametrize("encapsulation", ["vxlan", "native"])
@pytest.mark.parametrize("host_routing", ["legacy", "bpf"])
@pytest.mark.parametrize("version", FOUND or [pytest.param("", marks=pytest.mark.needs_charts)])
def test_local_images_are_rendered_exactly_as_given_and_no_other(
    version: str, host_routing: str, encapsulation: str, tmp_path: Path
) -> None:
    if not version:
        pytest.skip("needs Cilium's charts: LABCTL_CILIUM_CHARTS=FOLDER with cilium-VERSION.tgz in it")
    agent, operator = f"local/cilium:v{version}", f"registry.example:5000/x/operator-generic:v{version}"
    lab = lab_of(
        tmp_path,
        host_routing=host_routing,
        encapsulation=encapsulation,
        cilium={
            "version": version, "chart": str(CHARTS / f"cilium-{version}.tgz"), "allowUntested": True,
            "image": agent, "operatorImage": operator,
        },
        kindCluster={"kubernetes": "1.20.2" if Version.parse(version).series < (1, 19) else "1.32.0"},
    )  # fmt: skip
    plan = KindProvider(root=tmp_path / "state").plan(lab)
    actions = [action for step in plan.steps for action in step.actions]
    render = next(action for action in actions if isinstance(action, RenderChart))
    verify = next(action for action in actions if isinstance(action, VerifyChart))
    values = next(a for a in actions if isinstance(a, WriteFile) and str(a.path) in render.argv)
    values.path.parent.mkdir(parents=True)
    values.path.write_text(values.text)
    rendered = subprocess.run(render.argv, capture_output=True, text=True, timeout=60, check=True).stdout
    used = {
        (container["image"], container["imagePullPolicy"])
        for document in yaml.safe_load_all(rendered)
        for container in containers_of(document)
    }
    assert used == {(agent, "Never"), (operator, "Never")}
    verify.rendered.write_text(rendered)
    verify_chart(verify)
