"""A scripted docker, kind, kubectl and helm: they answer as the real ones, remember every command, and fail on order.

The answers are shaped after recordings of a real cluster (tests/fixtures/cilium/README.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from labctl.errors import MeasureFailed
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
from labctl.providers.cilium.images import images_in
from labctl.providers.cilium.settings import Cluster as Settings
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
        """What a node does not have whatever is loaded."""
        self.in_nodes: dict[str, set[str]] = {}
        self.preloaded: set[str] = set()
        """What is in every node of a new cluster, as of the node image."""
        self.archived: set[str] = set()
        self.unready_nodes: dict[str, str] = {}
        self.workloads: dict[tuple[str, str], int] = {}
        """What runs for another network than Cilium, by namespace and name, and how many of its pods are not ready."""
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
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
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
                    return completed(argv, json.dumps([{"Id": id_of(reference), "RepoDigests": []}]))
                return completed(argv, "[]", f"Error: No such image: {reference}", 1)
            case ("exec", node, "crictl", "images", *_):
                return completed(argv, json.dumps({"images": [_listed(image) for image in self._there(node)]}))
            case ("exec", node, "ctr", *_, "import", "--digests", _):
                self.in_nodes.setdefault(node, set()).update(self.archived)
                return completed(argv)
            case ("exec", node, "ctr", *_):
                return completed(argv, "\n".join(f"docker.io/{image}" for image in self._there(node)))
            case ("save", "--output", archive, *references):
                Path(archive).write_text(" ".join(references))
                self.archived = set(references)
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
        role = "control-plane" if "control-plane" in name else "worker"
        mounts = [{"Type": "bind", "Source": "/dev/null", "Destination": made["mark"]}] if made["mark"] else []
        return {
            "Name": f"/{name}",
            "Config": {"Labels": {"io.x-k8s.kind.cluster": cluster, "io.x-k8s.kind.role": role}},
            "State": {"Status": made.get("status", "running"), "Running": True, "Pid": 4242},
            "Mounts": mounts,
        }

    def _kind(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        match rest:
            case ("create", "cluster", "--name", name, "--config", config, "--kubeconfig", kubeconfig, *_):
                asked = yaml.safe_load(Path(config).read_text())
                self.make_cluster(name, asked)
                if not asked["networking"].get("disableDefaultCNI"):
                    self.workloads["kube-system", "kindnet"] = 0
                Path(kubeconfig).write_text("apiVersion: v1\n")
                return completed(argv)
            case ("delete", "cluster", "--name", name, *_):
                self.clusters.pop(name, None)
                return completed(argv)
            case ("load", "docker-image", *words):
                references = set(itertools.takewhile(lambda word: word != "--name", words))
                self._load(argv, references)
                return completed(argv)
            case ("load", "image-archive", archive, *_):
                self._load(argv, {name.removeprefix("docker.io/") for name in images_in(Path(archive))})
                return completed(argv)
            case ("export", *_):
                return completed(argv)
            case ("get", "kubeconfig", "--name", name):
                if name in self.clusters:
                    return completed(argv, "apiVersion: v1\n")
                missing = f'ERROR: could not locate any control plane nodes for cluster named "{name}"'
                return completed(argv, err=missing, code=1)
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def _load(self, argv: tuple[str, ...], references: set[str]) -> None:
        cluster = argv[argv.index("--name") + 1]
        named = argv[argv.index("--nodes") + 1].split(",") if "--nodes" in argv else self.clusters[cluster]["nodes"]
        for node in named:
            self.in_nodes.setdefault(node, set()).update(references)

    def _there(self, node: str) -> list[str]:
        return sorted(self.in_nodes.get(node, set()) - self.lost_on.get(node, set()))

    def make_cluster(self, name: str, config: dict[str, Any], *, is_ours: bool = True) -> None:
        roles = [node["role"] for node in config["nodes"]]
        counts: dict[str, int] = {}
        nodes = []
        for role in roles:
            counts[role] = counts.get(role, 0) + 1
            nodes.append(f"{name}-{role}{counts[role] if counts[role] > 1 else ''}")
        mark = config["nodes"][0]["extraMounts"][0]["containerPath"] if is_ours else ""
        self.in_nodes.update({node: set(self.preloaded) for node in nodes})
        self.clusters[name] = {"nodes": nodes, "mark": mark}

    def _kubectl(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        words = tuple(word for word in rest if not word.startswith("--request-timeout"))[2:]
        match words:
            case ("apply", *_) | ("wait", *_) | ("-n", _, "delete", *_) | ("-n", _, "rollout", *_):
                return completed(argv)
            case ("get", "nodes", "-o", "json"):
                return completed(argv, json.dumps({"items": [self._node(node) for node in self._nodes_of(argv)]}))
            case ("-n", _, "get", "daemonset", "cilium", "-o", "json"):
                count = len(self._nodes_of(argv))
                fields = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
                status = {"observedGeneration": 2, **dict.fromkeys(fields, count)}
                return completed(argv, json.dumps({"metadata": {"generation": 2}, "status": status}))
            case ("get", "nodes", "-o", "name"):
                return completed(argv, "\n".join(f"node/{n}" for made in self.clusters.values() for n in made["nodes"]))
            case ("-n", namespace, "get", "pods", "-l", selector, "-o", "json"):
                return completed(argv, json.dumps({"items": self._pods(argv, namespace, selector)}))
            case ("-n", _, "get", "events", *_):
                event = {"type": "Warning", "reason": "Failed", "message": "it went wrong", "lastTimestamp": "1"}
                return completed(argv, json.dumps({"items": [event]}))
            case ("-n", namespace, "get", "daemonset" | "deployment" as kind, name, "-o", "json"):
                return self._workload(argv, kind, namespace, name)
            case ("-n", _, "logs", *_) | ("get", *_):
                return completed(argv, "level=error msg=oops\n")
        raise AssertionError(f"unexpected command: {shlex.join(argv)}")

    def _workload(self, argv: tuple[str, ...], kind: str, namespace: str, name: str) -> Completed:
        """As many pods as there are nodes, or one of a Deployment."""
        if (namespace, name) not in self.workloads:
            return completed(argv, err=f'Error from server (NotFound): {kind}s.apps "{name}" not found', code=1)
        lacking = self.workloads[namespace, name]
        if kind == "deployment":
            document = {"kind": "Deployment", "spec": {"replicas": 1}, "status": {"readyReplicas": 1 - lacking}}
        else:
            count = len(self._nodes_of(argv))
            status = {"desiredNumberScheduled": count, "numberReady": count - lacking}
            document = {"kind": "DaemonSet", "status": status}
        return completed(argv, json.dumps(document))

    def _nodes_of(self, argv: tuple[str, ...]) -> list[str]:
        cluster = Path(argv[argv.index("--kubeconfig") + 1]).parent.name
        return list(self.clusters[f"labctl-{cluster}"]["nodes"])

    def _node(self, name: str) -> dict[str, Any]:
        why = self.unready_nodes.get(name, "")
        ready = {"type": "Ready", "status": "False" if why else "True", "message": why}
        return {"metadata": {"name": name}, "status": {"conditions": [ready]}}

    def _pods(self, argv: tuple[str, ...], namespace: str, selector: str) -> list[dict[str, Any]]:
        nodes = self._nodes_of(argv)
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


def id_of(image: str) -> str:
    return f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"


def _listed(image: str) -> dict[str, Any]:
    """As `crictl images --output json` lists one."""
    return {"id": id_of(image), "repoTags": [f"docker.io/{image}"], "repoDigests": []}


def render(values_file: Path) -> str:
    """What the chart would render of these values, by way of the lab that they were made from."""
    return _rendered(RENDERS[values_file], yaml.safe_load(values_file.read_text()))


def render_text(settings: Settings) -> str:
    """What the chart would render for this lab, when nothing goes wrong."""
    return _rendered(meant(settings), yaml.safe_load(settings.values_text))


def meant(settings: Settings) -> dict[str, str]:
    """The `cilium-config` that a lab should have."""
    expected = expected_config(settings.wanted, settings.user_values)
    return {key: value for key, value in expected.items() if value is not None}


def _rendered(config: dict[str, str], values: dict[str, Any]) -> str:
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
    RENDERS[settings.files.values] = meant(settings)


FIXTURES = Path(__file__).parent / "fixtures" / "cilium"
NODES = {"labctl-bpf-worker": "node1", "labctl-bpf-worker2": "node2", "labctl-bpf-control-plane": "node3"}
PLACED = {"client": "node1", "neighbour": "node1", "server": "node2"}
TIMES = "labctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.01s\n"
LINKS = """cilium_host 3 ae:0d:d3:b0:df:58
cilium_net 2 62:ac:0b:2c:59:b1
cilium_vxlan 47 0e:6e:65:46:42:cf
eth0 27 02:42:ac:1e:00:0{n}
lo 1 00:00:00:00:00:00
"""


class Cluster(World):
    """A running lab, in a real cluster's words (1.13.12, bpf over vxlan): three nodes with agents; pods `client`,
    `neighbour` on node1 and `server` on node2 have recorded endpoints."""

    def __init__(
        self, status: str = "status-bpf-vxlan.json", log: str = "", nodes: Mapping[str, str] = NODES, lab: str = "bpf"
    ) -> None:
        super().__init__()
        self.nodes, self.lab = nodes, lab
        self.status = (FIXTURES / status).read_text()
        self.log = log
        self.node_has_tcpdump = False
        self.counters = {"client": [0, 0], "server": [0, 0]}
        self.monitor = ""
        self.monitor_fails = False
        self.monitor_dies = False
        self.log_fails = False
        self.config = {
            "enable-host-legacy-routing": "false", "kube-proxy-replacement": "strict", "tunnel": "vxlan",
            "enable-bpf-masquerade": "true", "enable-ipv4-masquerade": "true", "auto-direct-node-routes": "false",
            "ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.244.0.0/16", "cluster-pool-ipv4-mask-size": "24",
            "monitor-aggregation": "none", "debug": "true", "debug-verbose": "datapath", "enable-l7-proxy": "false",
            "tunnel-port": "8472", "devices": "eth0",
        }  # fmt: skip

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self.said.append(" ".join(argv))
        if "exec" in argv:
            out, code = self._inside(argv)
            return completed(argv, out, TIMES, code)
        words = argv[3:]
        match words:
            case ("get", "ciliumnodes.cilium.io", *_):
                items = [self._cilium_node(number, name) for number, name in enumerate(self.nodes, start=3)]
                return completed(argv, json.dumps({"items": items}))
            case ("-n", "kube-system", "get", "pods", *_):
                pods = [self._pod(f"cilium-{name[-5:]}", "kube-system", name) for name in self.nodes]
                return completed(argv, json.dumps({"items": pods}))
            case ("-n", "kube-system", "get", "configmap", *_):
                return completed(argv, json.dumps({"data": self.config}))
            case ("-n", "kube-system", "logs", *_):
                return completed(argv, self.log, "Forbidden" if self.log_fails else "", int(self.log_fails))
            case ("-n", _, "get", "pods", *_):
                kubernetes = {node: name for name, node in self.nodes.items()}
                pods = [self._pod(pod, f"labctl-{self.lab}", kubernetes[node]) for pod, node in PLACED.items()]
                return completed(argv, json.dumps({"items": pods}))
        raise AssertionError(f"unexpected command: {' '.join(argv)}")

    def _inside(self, argv: Sequence[str]) -> tuple[str, int]:
        line = " ".join(argv)
        if "status -o json" in line:
            return self.status, 0
        if "endpoint list" in line:
            return json.dumps(self._endpoints(line)), 0
        if "command -v tcpdump" in line:
            return "", 0 if self.node_has_tcpdump else 1
        if "statistics" in line:
            pod = "client" if "lxcclient" in line else "server"
            return f"{self.counters[pod][0]} {self.counters[pod][1]}\n", 0
        if "/proc/net/snmp" in line:
            pod = "client" if "labctl-client" in line or "client" in line else "server"
            return f"Ip: Forwarding InReceives\nIp: 2 {self.counters[pod][1]}\n", 0
        if "/sys/class/net" in line:
            return LINKS.replace("{n}", "4" if "worker2" in line else "3"), 0
        if "conntrack" in line:
            return "", 0
        if "kill -" in line:
            return "", 0
        if "echo " in line:
            return line.rpartition("echo ")[2].split()[0] + "\n", 0
        raise AssertionError(f"unexpected command inside: {line}")

    def _endpoints(self, line: str) -> list[dict[str, Any]]:
        template = next(e for e in json.loads((FIXTURES / "endpoints.json").read_text()) if e["id"] == 82)
        here = [node for name, node in self.nodes.items() if f"cilium-{name[-5:]} " in line]
        pods = [pod for pod, node in PLACED.items() if node in here]
        found = []
        for number, pod in enumerate(pods):
            entry = json.loads(json.dumps(template))
            entry["id"] += number
            entry["status"]["external-identifiers"] |= {"k8s-namespace": f"labctl-{self.lab}", "k8s-pod-name": pod}
            entry["status"]["networking"] |= {"interface-name": f"lxc{pod}", "mac": f"02:00:00:00:00:0{len(pod)}"}
            address = "10.244.1.67" if pod == "server" else "10.244.0.187"
            entry["status"]["networking"]["addressing"][0]["ipv4"] = address
            found.append(entry)
        return found

    def _cilium_node(self, number: int, name: str) -> dict[str, Any]:
        addresses = [
            {"type": "InternalIP", "ip": f"172.18.0.{number}"},
            {"type": "CiliumInternalIP", "ip": f"10.244.{number}.53"},
            {"type": "InternalIP", "ip": "fc00::2"},
        ]
        ipam = {"podCIDRs": [f"10.244.{number}.0/24"]}
        return {"metadata": {"name": name}, "spec": {"addresses": addresses, "ipam": ipam}}

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        self.said.append(" ".join(argv))
        return self._monitor(argv)

    @contextlib.contextmanager
    def _monitor(self, argv: Sequence[str]) -> Iterator[Running]:
        yield Monitor(tuple(argv), self)


class Monitor:
    def __init__(self, argv: tuple[str, ...], cluster: Cluster) -> None:
        self.argv, self._cluster, self._ended = argv, cluster, False

    def is_alive(self) -> bool:
        return not self._ended and not self._cluster.monitor_dies

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        if self._cluster.monitor_fails:
            raise MeasureFailed(what="monitor did not start", cause="connection refused")

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        return completed(self.argv, self._cluster.monitor, TIMES)
