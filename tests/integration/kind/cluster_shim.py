"""Stands in for `docker`, `kubectl` and the agents' `cilium`, on a cluster whose nodes and pods are a netns lab's.

What kind asks is answered by engine_shim.py. Whatever labctl itself runs in a node, a pod, a helper or an agent is run
in the network namespace that stands for it: captures, signals, counters and traffic are real, through the same doors as
on a cluster. Addresses, MACs and devices are read there; what an agent says of its mode is a recording of that mode
(tests/fixtures/cilium). `LABCTL_SHIM_LAB` is the file that describes the netns lab: its name, and each pod's node and
identity.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import engine_shim
import yaml

DESCRIBED: dict[str, Any] = json.loads(Path(os.environ["LABCTL_SHIM_LAB"]).read_text(encoding="utf-8"))
FALLBACK = "masq-iptables"
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "cilium"


def parts(cluster: str) -> dict[str, str]:
    """The scenario's node of each node container."""
    return {f"{cluster}-worker": "node1", f"{cluster}-worker2": "node2", f"{cluster}-control-plane": "node3"}


def enter(part: str, argv: list[str], **environment: str) -> None:
    """Becomes argv in the namespace of a node or a pod of the netns lab."""
    os.environ.update(environment)
    os.execvp("ip", ["ip", "netns", "exec", f"labctl.{DESCRIBED['lab']}.{part}", *argv])


def links(part: str) -> dict[str, dict[str, Any]]:
    argv = ("ip", "-n", f"labctl.{DESCRIBED['lab']}.{part}", "-j", "addr")
    listed = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return {link["ifname"]: link for link in listed}


def ipv4(link: dict[str, Any]) -> str:
    return next(str(entry["local"]) for entry in link["addr_info"] if entry["family"] == "inet")


def docker(argv: list[str]) -> int:
    # kind asks for privileges when it runs something in a node; labctl does not.
    if argv[0] == "exec" and "--privileged" not in argv and "ctr" not in argv:
        node, *inside = [word for n, word in enumerate(argv[1:]) if n or word != "-i"]
        if "command -v tcpdump" in " ".join(inside):  # kindest/node has none
            return subprocess.run(("sh", "-c", "echo labctl-times >&2; times >&2; exit 1"), check=False).returncode
        part = parts(node.rpartition("-worker")[0] or node.removesuffix("-control-plane"))[node]
        enter(part, inside)
    return engine_shim.docker(argv)


def pod_of(name: str, namespace: str, node: str) -> dict[str, Any]:
    ready = {"phase": "Running", "podIP": "10.244.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}, "status": ready}


def kubectl(argv: list[str]) -> int:
    place = argv.index("--kubeconfig")
    state = Path(argv[place + 1]).parent
    cluster, namespace = f"labctl-{state.name}", "default"
    rest = [word for word in argv[:place] + argv[place + 2 :] if not word.startswith("--request-timeout")]
    if rest[0] == "-n":
        namespace, rest = rest[1], rest[2:]
    if rest[0] == "exec":
        return execute(cluster, [word for n, word in enumerate(rest[1:]) if n or word != "-i"])
    if rest[0] == "logs" and DESCRIBED["mode"] == FALLBACK:
        print("\n".join(line for line in fallback_lines() if line.startswith("level=")))
    if rest[0] == "get":
        print(json.dumps(got(rest, cluster, namespace, state)))
    return 0


def got(rest: list[str], cluster: str, namespace: str, state: Path) -> dict[str, Any]:
    if rest[1] == "pods":
        selector = rest[rest.index("-l") + 1]
        if selector == "k8s-app=cilium":
            return {"items": [pod_of(f"cilium-{part}", namespace, node) for node, part in parts(cluster).items()]}
        if selector == "name=cilium-operator":
            return {"items": [pod_of("cilium-operator-0", namespace, f"{cluster}-worker")]}
        made = yaml.safe_load_all((state / "workloads.yaml").read_text(encoding="utf-8"))
        pods = [(one["metadata"]["name"], one["spec"]["nodeName"]) for one in made if one["kind"] == "Pod"]
        return {"items": [pod_of(name, namespace, node) for name, node in pods]}
    if rest[1] == "daemonset":
        fields = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
        status = {"observedGeneration": 1, **dict.fromkeys(fields, len(parts(cluster)))}
        return {"metadata": {"generation": 1}, "status": status}
    if rest[1] == "configmap":
        rendered = yaml.safe_load_all((state / "cilium.yaml").read_text(encoding="utf-8"))
        found: dict[str, Any] = next(one for one in rendered if one and one["metadata"]["name"] == rest[2])
        return found
    if rest[1] == "nodes":
        nodes = enumerate(parts(cluster))
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        return {
            "items": [
                {"metadata": {"name": node}, "spec": {"podCIDR": f"10.244.{n}.0/24"}, "status": ready}
                for n, node in nodes
            ]
        }
    return {"items": [cilium_node(node, part) for node, part in parts(cluster).items()]}


def cilium_node(node: str, part: str) -> dict[str, Any]:
    here = links(part)
    router = ipv4(here["cilium_host"])
    addresses = [{"type": "InternalIP", "ip": ipv4(here["eth0"])}, {"type": "CiliumInternalIP", "ip": router}]
    spec = {"addresses": addresses, "ipam": {"podCIDRs": [f"{router.rpartition('.')[0]}.0/24"]}}
    return {"metadata": {"name": node}, "spec": spec}


def execute(cluster: str, rest: list[str]) -> int:
    pod, inside = rest[0], rest[rest.index("--") + 1 :]
    if pod.startswith("cilium-"):
        part = pod.removeprefix("cilium-")
        programs = f"{Path(sys.argv[0]).parent}:{os.environ['PATH']}"
        enter(part, inside, LABCTL_SHIM_NODE=part, LABCTL_SHIM_NAMESPACE=cluster, PATH=programs)
    enter(pod.removeprefix("labctl-helper-"), inside)
    return 1


def cilium(argv: list[str]) -> int:
    if argv[0] == "status" and "--verbose" in argv:
        print((FIXTURES / "status-verbose-bpf-vxlan.txt").read_text(encoding="utf-8"))
    elif argv[0] == "status":
        print(status_text(DESCRIBED["mode"]))
    elif argv[:2] == ["endpoint", "list"]:
        here = [name for name, pod in DESCRIBED["pods"].items() if pod["node"] == os.environ["LABCTL_SHIM_NODE"]]
        print(json.dumps([endpoint(number, name) for number, name in enumerate(here, start=100)]))
    elif argv[0] == "monitor":
        print("Listening for events on 2 CPUs with 64x4096 of shared memory\nPress Ctrl-C to quit", flush=True)
        while True:
            time.sleep(60)
    return 0


def status_text(mode: str) -> str:
    """The recording of that mode; of a fallback what was recorded of one, in place of what Legacy by choice says."""
    if mode != FALLBACK:
        return (FIXTURES / f"status-{mode}.json").read_text(encoding="utf-8")
    chosen = json.loads((FIXTURES / "status-legacy-vxlan.json").read_text(encoding="utf-8"))
    fell_back = json.loads(fallback_lines()[-1])
    return json.dumps({**chosen, "host-routing": fell_back["host-routing"], "masquerading": fell_back["masq"]})


def fallback_lines() -> list[str]:
    return (FIXTURES / "fallback" / f"{FALLBACK}.txt").read_text(encoding="utf-8").splitlines()


def endpoint(number: int, name: str) -> dict[str, Any]:
    pod = DESCRIBED["pods"][name]
    inside, outside = links(name)["eth0"], links(pod["node"])
    lxc = next(link for link in outside.values() if link["ifindex"] == inside["link_index"])
    networking = {
        "addressing": [{"ipv4": ipv4(inside)}], "mac": inside["address"], "interface-name": lxc["ifname"],
        "interface-index": lxc["ifindex"], "host-mac": lxc["address"],
    }  # fmt: skip
    names = {"k8s-namespace": os.environ["LABCTL_SHIM_NAMESPACE"], "k8s-pod-name": name}
    status = {"external-identifiers": names, "identity": {"id": pod["identity"]}, "networking": networking}
    return {"id": number, "status": {**status, "state": "ready"}}


if __name__ == "__main__":
    TOOL = {"docker": docker, "kubectl": kubectl, "cilium": cilium}[Path(sys.argv[0]).name]
    sys.exit(TOOL(sys.argv[1:]))
