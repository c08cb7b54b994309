"""A scripted kubectl: one cluster with nodes, namespaces and pods that it remembers, and what runs inside its pods.

It answers as the API server of the recorded cluster does (tests/fixtures/cluster/README.md): the same JSON, the same
words of refusal, the same exit status. What kubectl sends to it is remembered in `said`.
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

FIXTURES = Path(__file__).parent / "fixtures" / "cluster"
TIMES = "labctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.01s\n"
CONTEXT = "kubernetes-admin@kubernetes"


def lab_of(name: str = "bpf", *, nodes: Sequence[str] = ("node1", "node2"), **keys: Any) -> Lab:
    """`client` and `neighbour` on node1, `server` on node2. `keys` are those of `cluster:`, and `observed`."""
    observed = bool(keys.pop("observed", False))
    return resolve(
        Scenario(
            name=name,
            source=f"scenarios/{name}.yaml",
            provider="cluster",
            nodes=tuple(nodes),
            pods=tuple(
                ScenarioPod(name=pod, node=node, labels={"app": pod})
                for pod, node in (("client", "node1"), ("neighbour", "node1"), ("server", "node2"))
            ),
            pairs=(
                Pair(client="client", server="neighbour", placement=Placement.SAME_NODE),
                Pair(client="client", server="server", placement=Placement.CROSS_NODE),
            ),
            datapath=Datapath(
                host_routing=HostRouting.BPF,
                encapsulation=Encapsulation.VXLAN,
                masquerade=Masquerade.BPF,
                kube_proxy_replacement=True,
                observed=observed,
            ),
            underlay_cidr=IPv4Network("172.30.0.0/24"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            service_cidr=IPv4Network("10.96.0.0/16"),
            mtu=1500,
            checks=(),
            compare=CompareParameters(),
            settings={"cluster": keys} if keys else {},
        )
    )


def completed(argv: Sequence[str], out: str = "", err: str = "", code: int = 0, timed_out: bool = False) -> Completed:
    return Completed(
        argv=tuple(argv), returncode=code, stdout=out.encode(), stderr=err.encode(), duration_s=0.0, timed_out=timed_out
    )


def error(name: str) -> str:
    return (FIXTURES / "errors" / f"{name}.txt").read_text()


class KubeWorld:
    """`Commands` over one scripted cluster. `refuses` fails the kubectl calls that match a pattern, with that text;
    `unready` is the status of pods that do not become ready, by name; `agents` are Cilium's, by node."""

    prefix: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.said: list[str] = []
        self.nodes = (FIXTURES / "nodes.txt").read_text()
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, dict[str, Any]]] = {}
        self.unready: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, str] = {}
        self.agent_status = ""
        self.inside: dict[str, str] = {}
        self.lists: dict[str, str] = {}
        self.cannot: set[str] = set()
        self.kubectl_is_there = True
        self.stuck_in_terminating = False
        self.goes_in = 0
        """How often a namespace that is being deleted is still there, with one object less each time."""
        self._refusals: list[tuple[re.Pattern[str], str, bool]] = []
        self._next_address = 10

    def refuses(self, pattern: str, text: str, *, timed_out: bool = False) -> None:
        self._refusals.append((re.compile(pattern), text, timed_out))

    # Commands

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if self.kubectl_is_there else None

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        assert timeout_s > 0, "every question has a deadline"
        line = shlex.join(argv)
        self.said.append(line)
        for pattern, text, timed_out in self._refusals:
            if pattern.search(line):
                return completed(argv, err=text, code=1, timed_out=timed_out)
        words = _without_options(argv)
        for answer in (self._config, self._namespace, self._nodes, self._pods, self._rights):
            if (done := answer(tuple(argv), words, stdin)) is not None:
                return done
        raise AssertionError(f"unexpected command: {line}")

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        self.said.append(shlex.join(argv))
        raise MeasureFailed(what="nothing is started in a scripted cluster", cause=shlex.join(argv)[-200:])

    # What kubectl answers

    def _config(self, argv: tuple[str, ...], words: tuple[str, ...], stdin: bytes) -> Completed | None:
        match words:
            case ("config", "current-context"):
                return completed(argv, f"{CONTEXT}\n")
            case ("config", "get-contexts", "-o", "name"):
                return completed(argv, f"{CONTEXT}\nother\n")
            case ("get", "--raw", "/version"):
                return completed(argv, '{"major": "1", "gitVersion": "v1.20.2"}')
            case ("get", kind, "-o", "json") if kind in self.lists:
                return completed(argv, self.lists[kind])
        return None

    def _namespace(self, argv: tuple[str, ...], words: tuple[str, ...], stdin: bytes) -> Completed | None:
        match words:
            case ("get", "namespace", name, "-o", "json"):
                if name not in self.namespaces:
                    return completed(argv, err=error("not-found").replace("labctl-none", name), code=1)
                said = json.dumps(self.namespaces[name])
                if self.goes_in and '"Terminating"' in said:
                    self.goes_in -= 1
                    self._terminating(name, f"pods. has {self.goes_in} resource instances")
                    if not self.goes_in:
                        self.namespaces.pop(name)
                return completed(argv, said)
            case ("delete", "namespace", name, "--wait=false"):
                if self.stuck_in_terminating:
                    self._terminating(name, "widgets.example.com has 1 resource instances")
                elif self.goes_in:
                    self._terminating(name, f"pods. has {self.goes_in} resource instances")
                else:
                    self.namespaces.pop(name, None)
                    self.pods.pop(name, None)
                return completed(argv)
        return None

    def _terminating(self, name: str, left: str) -> None:
        message = f"Some resources are remaining: {left}"
        told = {"type": "NamespaceContentRemaining", "status": "True", "message": message}
        self.namespaces[name]["status"] = {"phase": "Terminating", "conditions": [told]}

    def _nodes(self, argv: tuple[str, ...], words: tuple[str, ...], stdin: bytes) -> Completed | None:
        match words:
            case ("get", "nodes", *_, field) if field.startswith("jsonpath="):
                return completed(argv, self.nodes)
        return None

    def _pods(self, argv: tuple[str, ...], words: tuple[str, ...], stdin: bytes) -> Completed | None:
        match words:
            case ("create", "--validate=false", "-f", place):
                text = stdin.decode() if place == "-" else Path(place).read_text()
                for document in yaml.safe_load_all(text):
                    self._create(document)
                return completed(argv)
            case ("-n", "kube-system", "get", "pods", "-l", "k8s-app=cilium", "-o", _):
                return completed(argv, "".join(f"{node}\t{pod}\tTrue\n" for node, pod in self.agents.items()))
            case ("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-proxy", "-o", _):
                return completed(argv, "".join(f"{line.split()[0]}\tRunning\n" for line in self.nodes.splitlines()))
            case ("-n", "kube-system", "get", "configmap", *_):
                return completed(argv, json.dumps({"data": {"routing-mode": "tunnel", "tunnel-protocol": "vxlan"}}))
            case ("-n", namespace, "get", "pods", "-o", "name"):
                return completed(argv, "\n".join(f"pod/{name}" for name in self.pods.get(namespace, {})))
            case ("-n", namespace, "get", "pods", *_):
                return completed(argv, json.dumps({"items": list(self.pods.get(namespace, {}).values())}))
            case ("-n", "kube-system", "logs", *_):
                return completed(argv, "level=info msg=ready\n")
            case ("-n", _, "get", "events", *_):
                event = {"type": "Warning", "reason": "Failed", "message": "it went wrong", "lastTimestamp": "1"}
                return completed(argv, json.dumps({"items": [event]}))
            case ("-n", namespace, "delete", "pod", *names):
                for name in names:
                    self.pods.get(namespace, {}).pop(name, None)
                return completed(argv)
            case ("-n", _, "delete", "pods", *_):
                return completed(argv)
            case ("-n", namespace, "exec", *rest):
                return self._exec(argv, namespace, [word for word in rest if word != "-i"])
        return None

    def _create(self, document: dict[str, Any]) -> None:
        name, kind = document["metadata"]["name"], document["kind"]
        if kind == "Namespace":
            assert name not in self.namespaces, "kubectl would say AlreadyExists"
            self.namespaces[name] = document | {"status": {"phase": "Active"}}
        elif kind == "Pod":
            namespace = document["metadata"]["namespace"]
            assert namespace in self.namespaces
            assert name not in self.pods.get(namespace, {}), "kubectl would say AlreadyExists"
            self.pods.setdefault(namespace, {})[name] = self._started(document)

    def _started(self, document: dict[str, Any]) -> dict[str, Any]:
        terms = document["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (node,) = terms["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        self._next_address += 1
        status = self.unready.get(document["metadata"]["name"]) or {
            "phase": "Running",
            "podIP": f"10.244.0.{self._next_address}",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        spec = document["spec"] | ({"nodeName": node} if status.get("phase") != "Pending" else {})
        return document | {"spec": spec, "status": status}

    def _exec(self, argv: tuple[str, ...], namespace: str, rest: Sequence[str]) -> Completed:
        pod, line = rest[0], " ".join(rest)
        for pattern, text in self.inside.items():
            if re.search(pattern, line):
                return completed(argv, text, TIMES)
        answers: tuple[tuple[str, Callable[[], str]], ...] = (
            ("/sys/class/net/eth0", lambda: self._pod_device(namespace, pod)),
            ("-details link show", lambda: (FIXTURES / "node-links.json").read_text()),
            ("address show", lambda: self._addresses(pod)),
            ("route show", lambda: (FIXTURES / "node-routes.json").read_text()),
            ("KUBE-SVC", lambda: "8\n"),
            ("status -o json", lambda: self.agent_status),
            ("+%s.%N", lambda: "1.0\n"),
            ("kill -", lambda: ""),
            ("statistics", lambda: "10 10\n"),
            ("/proc/net/snmp", lambda: "Ip: Forwarding InReceives\nIp: 2 10\n"),
        )
        for words, answer in answers:
            if words in line:
                return completed(argv, answer(), TIMES)
        if " echo " in line:
            return completed(argv, line.rpartition("echo ")[2] + "\n", TIMES)
        raise AssertionError(f"unexpected command inside {pod}: {line}")

    def _addresses(self, pod: str) -> str:
        """As recorded on node1, with the address of the node that the helper or agent is on."""
        there = {name: node for node, name in self.agents.items()} | {
            f"labctl-helper-node{n}": f"node{n}" for n in (1, 2)
        }
        own = next(line.split("\t")[1] for line in self.nodes.splitlines() if line.split("\t")[0] == there[pod])
        return (FIXTURES / "node-addresses.json").read_text().replace("10.203.0.11", own)

    def _pod_device(self, namespace: str, pod: str) -> str:
        """As recorded; the pods of a node have the devices of that node one after the other as their peers."""
        links = json.loads((FIXTURES / "node-links.json").read_text())
        veths = [link for link in links if link.get("linkinfo", {}).get("info_kind") == "veth" and link.get("master")]
        number = sorted(name for name in self.pods[namespace] if "helper" not in name).index(pod)
        peer = veths[number % len(veths)]["ifindex"]
        return f"5a:83:56:f9:64:{number:02x} {peer} 2\ndefault via 10.244.0.1 dev eth0\n"

    def _rights(self, argv: tuple[str, ...], words: tuple[str, ...], stdin: bytes) -> Completed | None:
        match words:
            case ("auth", "can-i", verb, resource, *more):
                sub = next((word.partition("=")[2] for word in more if word.startswith("--subresource=")), "")
                asked = f"{verb} {resource.partition('/')[0]}{f'/{sub}' if sub else ''}"
                refused = asked in self.cannot
                return completed(argv, "no\n" if refused else "yes\n", code=int(refused))
        return None


def _without_options(argv: Sequence[str]) -> tuple[str, ...]:
    """kubectl's words without those that say which cluster."""
    words = list(argv[1:])
    for option in ("--kubeconfig", "--context"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return tuple(words)
