"""The whole command line of the kind provider, from `up` to `down`, with the real kind and helm.

No container runs: nodes and pods are those of a netns lab, reached through stand-ins for docker and kubectl
(cluster_shim.py). What is tried is everything between labctl and a cluster: doors, signals, captures, waiting, proof.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.providers.netns.provider import NetnsProvider

CHECKOUT = Path(__file__).resolve().parents[3]
CHART = """apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config}
data:
"""
KEYS = {
    "enable-host-legacy-routing": "bpf.hostLegacyRouting", "kube-proxy-replacement": "kubeProxyReplacement",
    "enable-bpf-masquerade": "bpf.masquerade", "enable-ipv4-masquerade": "enableIPv4Masquerade",
    "auto-direct-node-routes": "autoDirectNodeRoutes", "ipam": "ipam.mode",
    "cluster-pool-ipv4-mask-size": "ipam.operator.clusterPoolIPv4MaskSize", "debug": "debug.enabled",
    "monitor-aggregation": "bpf.monitorAggregation", "debug-verbose": "debug.verbose", "enable-l7-proxy": "l7Proxy",
    "tunnel": "tunnel", "devices": "devices",
}  # fmt: skip
OPTIONAL = {"tunnel-port": "tunnelPort", "ipv4-native-routing-cidr": "ipv4NativeRoutingCIDR"}
AGENT = """---
kind: DaemonSet
metadata: {name: cilium}
spec:
  containers:
    - name: cilium-agent
      image: {{ .Values.image.override }}
      env:
        - {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.k8sServiceHost | quote }}}
        - {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.k8sServicePort | quote }}}
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs_kind,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nodes and pods are network namespaces"),
    pytest.mark.skipif(
        shutil.which("kind") is None or shutil.which("helm") is None,
        reason="needs kind and helm: setup/prepare.sh test builds them where Go is",
    ),
]


def write_chart(folder: Path) -> None:
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: cilium\nversion: 1.13.12\n")
    lines = [f"  {key}: {{{{ .Values.{value} | quote }}}}\n" for key, value in KEYS.items()]
    lines += [
        f"  {{{{- if .Values.{value} }}}}\n  {key}: {{{{ .Values.{value} | quote }}}}\n  {{{{- end }}}}\n"
        for key, value in OPTIONAL.items()
    ]
    pool = "  cluster-pool-ipv4-cidr: {{ index .Values.ipam.operator.clusterPoolIPv4PodCIDRList 0 | quote }}\n"
    (folder / "templates" / "all.yaml").write_text(CHART + "".join(lines) + pool + AGENT)


class Project:
    """A project of its own with labs of its own, and a PATH on which docker and kubectl are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"w{secrets.token_hex(3)}"
        self.state, programs = folder / "shim", folder / "bin"
        for made in (self.state, programs):
            made.mkdir()
        source = f"#!{sys.executable}\nimport runpy, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        for tool in ("docker", "kubectl", "cilium"):
            (programs / tool).write_text(source + 'runpy.run_module("cluster_shim", run_name="__main__")\n')
            (programs / tool).chmod(0o755)
        write_chart(folder / "chart")
        shutil.copytree(CHECKOUT / "scenarios", folder / "scenarios")
        sections = {
            "cilium": {
                "version": "1.13.12", "chart": str(folder / "chart"), "image": "local/cilium:v1.13.12",
                "operatorImage": "local/operator-generic:v1.13.12",
            },
            "kindCluster": {"image": "local/node:v1.20.2", "pull": False, "toolsImage": "local/tools:1"},
        }  # fmt: skip
        site = (CHECKOUT / "lab.yaml").read_text(encoding="utf-8")
        (folder / "lab.yaml").write_text(site + "".join(f"{key}: {json.dumps(sections[key])}\n" for key in sections))
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state"),
            "DOCKER_CONFIG": str(folder),
            "LABCTL_SHIM_STATE": str(self.state),
            "LABCTL_SHIM_LAB": str(folder / "netns-lab.json"),
        }
        for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "KIND_EXPERIMENTAL_PROVIDER"):
            self.environment.pop(name, None)

    def labctl(self, *argv: str) -> subprocess.CompletedProcess[str]:
        trust = (
            ("--trust",) if argv[0] in ("plan", "up", "check", "compare") else ()
        )  # lab.yaml names a chart and images
        return subprocess.run(
            (sys.executable, "-m", "labctl", *argv, *trust), cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip

    def stand_on(self, mode: str, scenario: str) -> None:
        """Makes the netns lab whose namespaces stand for the cluster's nodes and pods."""
        self.must("up", scenario, "--provider", "netns", "--name", self.name)
        lab = next(running.lab for running in NetnsProvider().discover() if running.name == self.name)
        assert lab is not None
        pods = {pod.name: {"node": pod.node, "identity": pod.identity} for pod in lab.pods}
        (self.folder / "netns-lab.json").write_text(json.dumps({"lab": self.name, "mode": mode, "pods": pods}))

    def must(self, *argv: str) -> Any:
        ended = self.labctl(*argv, "--json")
        assert ended.returncode == 0, f"{' '.join(argv)}: {ended.stderr[-3000:]}"
        return json.loads(ended.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.labctl("down", made.name)


@pytest.mark.parametrize(
    ("mode", "scenario"),
    [("legacy-vxlan", "legacy"), pytest.param("bpf-native", "bpf-native", marks=pytest.mark.thorough)],
)
def test_a_lab_comes_up_is_proven_shows_the_recorded_signature_and_is_gone_again(
    mode: str, scenario: str, project: Project
) -> None:
    project.stand_on(mode, scenario)
    up = project.must("up", scenario, "--provider", "kind", "--name", "real")
    assert up["modeInForce"]["proven"]
    assert up["modeInForce"]["found"]["hostRouting"] == mode.partition("-")[0]
    checked = project.must("check", "real", "tcpdump")
    assert [(result["placement"], result["verdict"]) for result in checked["results"]] == [
        ("same-node", "pass"), ("cross-node", "pass"),
    ]  # fmt: skip
    project.must("down", "real")
    assert list(project.state.glob("run-*")) == []


@pytest.mark.thorough
def test_another_mode_than_the_one_asked_for_is_reported_with_exit_code_4_and_the_lab_stays(project: Project) -> None:
    project.stand_on("legacy-vxlan", "legacy")
    up = project.labctl("up", "bpf", "--provider", "kind", "--name", "real", "--json")
    assert up.returncode == 4, up.stderr[-2000:]
    assert "mode" in up.stderr
    assert len(list(project.state.glob("run-*"))) == 3
    project.must("down", "real")


@pytest.mark.thorough
def test_a_fallback_that_is_allowed_is_proven_with_the_agents_own_line(project: Project) -> None:
    project.stand_on("masq-iptables", "fallback")
    up = project.must("up", "fallback", "--provider", "kind", "--name", "real")
    assert (up["modeInForce"]["proven"], up["modeInForce"]["asked"]["hostRouting"]) == (True, "bpf")
    assert (up["modeInForce"]["found"]["hostRouting"], up["modeInForce"]["found"]["masquerade"]) == (
        "legacy",
        "iptables",
    )
    assert up["fallback"]["line"].startswith("BPF host routing requires enable-bpf-masquerade. Falling back")
    assert up["fallback"]["version"] == "1.13.12"
    project.must("down", "real")


@pytest.mark.thorough
def test_status_in_ciliums_words_is_the_agents_own_with_the_pods_range_of_kubeadm_beside(project: Project) -> None:
    project.stand_on("bpf-vxlan", "bpf")
    project.must("up", "bpf", "--provider", "kind", "--name", "real")
    nodes = project.must("status", "real", "--cilium")["cilium"]
    assert [node["node"] for node in nodes] == ["node1", "node2", "node3"]
    first = nodes[0]
    lines = {line["label"]: line for line in first["lines"]}
    assert (lines["Host Routing"]["value"], lines["Host Routing"]["shown"]) == ("BPF", "proven")
    assert lines["Hubble"]["value"] == "Disabled"
    assert lines["Pod range asked of kubeadm"]["value"] == "10.244.0.0/16"
    assert (first["ranges"]["used"], first["ranges"]["kubernetes"]) == ("10.244.0.0/24", "10.244.0.0/24")
    assert (first["ranges"]["allocated"], first["ranges"]["free"]) == (4, 250)
    assert {one["name"].partition("/")[2] for one in first["endpoints"]} == {"client", "neighbour"}
    plain = project.labctl("status", "real")
    assert "Host Routing:           BPF" in plain.stdout
    project.must("down", "real")
