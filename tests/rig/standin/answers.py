"""What the stand-in's `cilium` prints, in the forms of Cilium 1.13's own."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from node_datapath import UPLINK

if TYPE_CHECKING:
    from agent import Agent

VERSION = "1.13.12-stand-in"
Say = Callable[[dict[str, object]], None]


def answer(agent: Agent, argv: Sequence[str], say: Say, connection: socket.socket) -> None:
    """Answers one command; `connection` ends when the one who asks does."""
    match list(argv):
        case ["status", "--brief"]:
            say({"out": "OK\n"} if agent.is_ready else {"err": "not ready\n", "code": 1})
        case ["status", "-o", "json"]:
            say({"out": json.dumps(status(agent)) + "\n"})
        case ["status", *_]:
            say({"out": _verbose(agent)})
        case ["endpoint", "list", "-o", "json"]:
            say({"out": json.dumps(endpoints(agent)) + "\n"})
        case ["bpf", "endpoint", "list"]:
            say({"out": _endpoint_map(agent)})
        case ["bpf", "ipcache", "list"]:
            say({"out": _ipcache_map(agent)})
        case ["bpf", "tunnel", "list"]:
            say({"out": _tunnel_map(agent)})
        case ["monitor", *options]:
            agent.monitor.serve(options, say, connection)
        case [("cleanup" | "post-uninstall-cleanup"), *_]:
            agent.clean_up()
            say({"out": "cleaned up\n"})
        case _:
            say({"err": f"Error: the stand-in does not know: cilium {' '.join(argv)}\n", "code": 1})


def status(agent: Agent) -> dict[str, dict[str, object]]:
    mode = agent.datapath
    replaces = agent.config.get("kube-proxy-replacement", "disabled")
    return {
        "cilium": {"state": "Ok", "msg": f"{VERSION} (labctl's stand-in, not Cilium)"},
        "host-routing": {"mode": "Legacy" if mode.host_routing == "legacy" else "BPF"},
        "kube-proxy-replacement": {"mode": replaces.capitalize(), "devices": [UPLINK]},
        "masquerading": {
            "enabled": agent.config.get("enable-ipv4-masquerade") == "true",
            "mode": "BPF" if mode.masquerade else "IPTables",
        },
        "kubernetes": {"state": "Ok"},
    }


def _verbose(agent: Agent) -> str:
    said = status(agent)
    replacement, routing, masquerading = (
        said[block]["mode"] for block in ("kube-proxy-replacement", "host-routing", "masquerading")
    )
    return (
        f"Cilium:  Ok   {VERSION} (labctl's stand-in, not Cilium)\n"
        f"KubeProxyReplacement:  {replacement}   [{UPLINK}]\n"
        f"Host Routing:  {routing}\n"
        f"Masquerading:  {masquerading}   [{UPLINK}]   {agent.datapath.cluster_cidr}\n"
    )


def endpoints(agent: Agent) -> list[dict[str, object]]:
    return [
        {
            "id": one.id,
            "status": {
                "external-identifiers": {
                    "container-id": one.container, "k8s-namespace": one.namespace, "k8s-pod-name": one.pod,
                    "pod-name": f"{one.namespace}/{one.pod}",
                },
                "identity": {"id": one.identity},
                "networking": {
                    "addressing": [{"ipv4": str(one.address)}], "host-mac": one.lxc_mac,
                    "interface-index": one.lxc_index,
                    "interface-name": one.lxc, "mac": one.mac,
                },
                "state": "ready",
            },
        }
        for one in agent.endpoints.values()
    ]  # fmt: skip


def _endpoint_map(agent: Agent) -> str:
    lines = ["IP ADDRESS       LOCAL ENDPOINT INFO"]
    lines += [
        f"{one.address}:0    id={one.id}   flags=0x0000 ifindex={one.lxc_index}  mac={one.mac.upper()} "
        f"nodemac={one.lxc_mac.upper()}   "
        for one in agent.endpoints.values()
    ]
    lines += [f"{address}:0     (localhost)    " for address in (agent.datapath.address, agent.datapath.router)]
    return "\n".join(lines) + "\n"


def _ipcache_map(agent: Agent) -> str:
    lines = ["IP PREFIX/ADDRESS   IDENTITY"]
    here = agent.datapath.address
    rows = [(str(here), 1, "0.0.0.0"), (str(agent.datapath.router), 1, "0.0.0.0")]
    rows += [(str(other.address), 6, "0.0.0.0") for other in agent.others]
    rows += [
        (str(address), identity, "0.0.0.0" if node == here or not agent.datapath.is_tunnelled else str(node))
        for address, (identity, node) in agent.pods.items()
    ]
    lines += [
        f"{address}/32      identity={identity} encryptkey=0 tunnelendpoint={node}   "
        for address, identity, node in rows
    ]
    return "\n".join(lines) + "\n"


def _tunnel_map(agent: Agent) -> str:
    lines = ["TUNNEL       VALUE"]
    if agent.datapath.is_tunnelled:
        lines += [f"{other.pod_cidr.network_address}   {other.address}:0   " for other in agent.others]
    return "\n".join(lines) + "\n"
