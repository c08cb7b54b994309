"""A scripted docker, kind, kubectl and helm: they answer as the real ones, remember every command, and fail on order.

The answers are shaped after recordings of a real cluster (tests/fixtures/cilium/README.md).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from labctl.model.lab import (
    Datapath,
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Pair,
    Placement,
    Scenario,
    ScenarioPod,
)
from labctl.model.parameters import CompareParameters
from labctl.planning.resolve import resolve
from labctl.providers.base import Completed, Running
from labctl.providers.cilium.values import expected_config
from labctl.providers.kind.provider import KindProvider

CHART = {
    "Chart.yaml": "name: cilium\nversion: 1.13.12\nkubeVersion: '>= 1.16.0-0'\n",
    "values.yaml": "bpf: {masquerade: ~, monitorAggregation: medium}\ndebug: {enabled: false}\n",
}
CLUSTER_SECTION: dict[str, object] = {
    "image": "local/node:v1.20.2",
    "pull": False,
    "toolsImage": "local/tools:1",
    "kubeadmConfigPatches": ["kind: KubeletConfiguration\ncgroupDriver: cgroupfs\n"],
    "readyTimeoutS": 5.0,
}
CILIUM_SECTION: dict[str, object] = {
    "version": "1.13.12",
    "image": "local/cilium:v1.13.12",
    "operatorImage": "local/operator-generic:v1.13.12",
}


def lab_of(
    tmp_path: Path, name: str = "bpf", host_routing: str = "bpf", encapsulation: str = "vxlan", **sections: Any
) -> Lab:
    """The shipped scenario's lab on kind: `client` and `neighbour` on node1, `server` on node2, nothing on node3."""
    chart = tmp_path / "chart"
    chart.mkdir(exist_ok=True)
    for file, text in CHART.items():
        (chart / file).write_text(text)
    settings = {
        "kindCluster": {**CLUSTER_SECTION, **sections.get("kindCluster", {})},
        "cilium": {**CILIUM_SECTION, "chart": str(chart), **sections.get("cilium", {})},
    }
    return resolve(
        Scenario(
            name=name,
            source=f"scenarios/{name}.yaml",
            provider="kind",
            nodes=("node1", "node2", "node3"),
            pods=tuple(
                ScenarioPod(name=pod, node=node, labels={"app": pod})
                for pod, node in (("client", "node1"), ("neighbour", "node1"), ("server", "node2"))
            ),
            pairs=(
                Pair(client="client", server="neighbour", placement=Placement.SAME_NODE),
                Pair(client="client", server="server", placement=Placement.CROSS_NODE),
            ),
            datapath=Datapath(
                host_routing=HostRouting(host_routing),
                encapsulation=Encapsulation(encapsulation),
                masquerade=Masquerade.BPF,
                kube_proxy_replacement=True,
            ),
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network("10.96.0.0/16"),
            mtu=1500,
            checks=(),
            compare=CompareParameters(),
            settings=settings,
        )
    )


Answer = Callable[[tuple[str, ...], bytes], Completed]


def completed(argv: Sequence[str], out: str = "", err: str = "", code: int = 0, timed_out: bool = False) -> Completed:
    return Completed(
        argv=tuple(argv), returncode=code, stdout=out.encode(), stderr=err.encode(), duration_s=0.0, timed_out=timed_out
    )


class World:
    """`Commands` over scripted tools. `said` is every command in order; `fail` makes the one that matches fail."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.clusters: dict[str, dict[str, Any]] = {}
        self.images = {
            "local/node:v1.20.2", "local/cilium:v1.13.12", "local/operator-generic:v1.13.12", "local/tools:1",
        }  # fmt: skip
        self.absent_tools: set[str] = set()
        self.daemon_is_up = True
        self.also_rendered = ""
        self.unready: dict[str, dict[str, Any]] = {}
        self.lost_on: dict[str, set[str]] = {}
        self._failures: list[tuple[re.Pattern[str], Completed, bool]] = []

    def fail(self, pattern: str, err: str, code: int = 1, *, timed_out: bool = False, happens: bool = False) -> None:
        """The commands that match fail. `happens`: what they do is done all the same (a node boots, then kubeadm
        fails)."""
        self._failures.append((re.compile(pattern), completed((), err=err, code=code, timed_out=timed_out), happens))

    # Commands

    prefix: tuple[str, ...] = ()

    def find(self, program: str) -> str | None:
        return None if program in self.absent_tools else f"/usr/bin/{program}"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        assert timeout_s > 0, "every command has a deadline"
        line = shlex.join(argv)
        self.said.append(line)
        for pattern, failure, happens in self._failures:
            if pattern.search(line):
                if happens:
                    self._answer(tuple(argv), stdin)
                return completed(argv, err=failure.error_text, code=failure.returncode, timed_out=failure.timed_out)
        return self._answer(tuple(argv), stdin)

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        raise AssertionError(f"nothing is started in the background while building: {shlex.join(argv)}")

    # The tools

    def _answer(self, argv: tuple[str, ...], stdin: bytes) -> Completed:
        match argv:
            case ("docker", *rest):
                return self._docker(argv, tuple(rest))
            case ("kind", *rest):
                return self._kind(argv, tuple(rest))
            case ("env", *rest):
                return self._answer(tuple(word for word in rest if "=" not in word), stdin)
            case ("kubectl", *rest):
                return self._kubectl(argv, tuple(rest))
            case ("helm", "template", *_):
                return completed(argv, render(Path(argv[argv.index("--values") + 1])) + self.also_rendered)
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def _docker(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        if not self.daemon_is_up:
            return completed(argv, err="Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", code=1)
        match rest:
            case ("context", "inspect", *_):
                return completed(argv, "unix:///var/run/docker.sock\n")
            case ("ps", "--all", "--filter", chosen, *_):
                cluster = chosen.removeprefix("label=io.x-k8s.kind.cluster").removeprefix("=")
                chosen_ones = [made for name, made in self.clusters.items() if cluster in ("", name)]
                names = [node for made in chosen_ones for node in made["nodes"]]
                return completed(argv, "\n".join(names))
            case ("inspect", "--type", "container", *names):
                return completed(argv, json.dumps([self._container(name) for name in names]))
            case ("image", "inspect", reference):
                if reference in self.images:
                    return completed(argv, json.dumps([{"Id": "sha256:" + "1" * 64, "RepoDigests": []}]))
                return completed(argv, "[]", f"Error: No such image: {reference}", 1)
            case ("exec", node, "ctr", *_):
                there = sorted(f"docker.io/{image}" for image in self.images - self.lost_on.get(node, set()))
                return completed(argv, "\n".join(there))
            case ("save", "--output", archive, reference):
                Path(archive).write_text(reference)
                return completed(argv)
            case ("cp", archive, _):
                assert Path(archive).exists()
                return completed(argv)
            case ("exec", _, "rm", "-f", _):
                return completed(argv)
            case ("pull", reference):
                self.images.add(reference)
                return completed(argv)
            case ("rm", "--force", "--volumes", *names):
                for made in self.clusters.values():
                    made["nodes"] = [node for node in made["nodes"] if node not in names]
                self.clusters = {name: made for name, made in self.clusters.items() if made["nodes"]}
                return completed(argv)
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def _container(self, name: str) -> dict[str, Any]:
        cluster, made = next((c, made) for c, made in self.clusters.items() if name in made["nodes"])
        mounts = [{"Type": "bind", "Source": "/dev/null", "Destination": made["mark"]}] if made["mark"] else []
        return {
            "Name": f"/{name}",
            "Config": {"Labels": {"io.x-k8s.kind.cluster": cluster, "io.x-k8s.kind.role": "worker"}},
            "State": {"Status": made.get("status", "running"), "Running": True, "Pid": 4242},
            "Mounts": mounts,
        }

    def _kind(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        match rest:
            case ("create", "cluster", "--name", name, "--config", config, "--kubeconfig", kubeconfig, *_):
                self.make_cluster(name, yaml.safe_load(Path(config).read_text()))
                Path(kubeconfig).write_text("apiVersion: v1\n")
                return completed(argv)
            case ("delete", "cluster", "--name", name, *_):
                self.clusters.pop(name, None)
                return completed(argv)
            case ("load", *_) | ("export", *_):
                return completed(argv)
            case ("get", "kubeconfig", "--name", name):
                if name in self.clusters:
                    return completed(argv, "apiVersion: v1\n")
                missing = f'ERROR: could not locate any control plane nodes for cluster named "{name}"'
                return completed(argv, err=missing, code=1)
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def make_cluster(self, name: str, config: dict[str, Any], *, is_ours: bool = True) -> None:
        roles = [node["role"] for node in config["nodes"]]
        counts: dict[str, int] = {}
        nodes = []
        for role in roles:
            counts[role] = counts.get(role, 0) + 1
            nodes.append(f"{name}-{role}{counts[role] if counts[role] > 1 else ''}")
        mark = config["nodes"][0]["extraMounts"][0]["containerPath"] if is_ours else ""
        self.clusters[name] = {"nodes": nodes, "mark": mark}

    def _kubectl(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        words = tuple(word for word in rest if not word.startswith("--request-timeout"))[2:]
        match words:
            case ("apply", *_) | ("wait", *_) | ("-n", _, "delete", *_) | ("-n", _, "rollout", *_):
                return completed(argv)
            case ("get", "nodes", "-o", "name"):
                return completed(argv, "\n".join(f"node/{n}" for made in self.clusters.values() for n in made["nodes"]))
            case ("-n", namespace, "get", "pods", "-l", selector, "-o", "json"):
                return completed(argv, json.dumps({"items": self._pods(argv, namespace, selector)}))
            case ("-n", _, "get", "events", *_):
                event = {"type": "Warning", "reason": "Failed", "message": "it went wrong", "lastTimestamp": "1"}
                return completed(argv, json.dumps({"items": [event]}))
            case ("-n", _, "logs", *_) | ("get", *_):
                return completed(argv, "level=error msg=oops\n")
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def _pods(self, argv: tuple[str, ...], namespace: str, selector: str) -> list[dict[str, Any]]:
        cluster = Path(argv[argv.index("--kubeconfig") + 1]).parent.name
        nodes = self.clusters[f"labctl-{cluster}"]["nodes"]
        if selector == "k8s-app=cilium":
            names = [(f"cilium-{n}", node) for n, node in enumerate(nodes)]
        elif selector == "name=cilium-operator":
            names = [("cilium-operator-0", nodes[0])]
        else:
            names = [(pod, nodes[1]) for pod in ("client", "neighbour", "labctl-helper-node1")]
            names += [(pod, nodes[2]) for pod in ("server", "labctl-helper-node2")]
        return [self._pod(name, namespace, node) for name, node in names]

    def _pod(self, name: str, namespace: str, node: str) -> dict[str, Any]:
        status = self.unready.get(name) or {
            "phase": "Running",
            "podIP": "10.244.0.5",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        return {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}, "status": status}


def render(values_file: Path) -> str:
    """What the chart would render of these values, by way of the lab that they were made from."""
    values = yaml.safe_load(values_file.read_text())
    config = dict(RENDERS[values_file])
    environment = {"KUBERNETES_SERVICE_HOST": values["k8sServiceHost"], "KUBERNETES_SERVICE_PORT": "6443"}
    agent = {
        "name": "cilium-agent",
        "image": values["image"].get("override", ""),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
    }
    return yaml.safe_dump_all(
        [
            {"kind": "ConfigMap", "metadata": {"name": "cilium-config"}, "data": config},
            {"kind": "DaemonSet", "metadata": {"name": "cilium"}, "spec": {"containers": [agent]}},
        ]
    )


RENDERS: dict[Path, dict[str, str]] = {}


def expect_rendering(provider: KindProvider, lab: Lab) -> None:
    """The scripted helm renders for this lab what a real chart does."""
    settings = provider.settings(lab)
    expected = expected_config(settings.wanted, settings.cilium.values)
    RENDERS[settings.files.values] = {key: value for key, value in expected.items() if value is not None}
