"""Stands in for Cilium's agent on one node: pods' networks by labctl's own eBPF objects, and the agent's answers.

Not Cilium. It takes the agent's configuration, makes what an agent makes under the same names, and answers what
labctl asks of `cilium`. Its version ends in `-stand-in`, so every result that rests on it says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

sys.path.insert(0, "/opt/standin")

import answers
from monitor import Monitor
from node_datapath import Endpoint, NodeDatapath, OtherNode, clean_up, has, identity_of

from labctl.model.lab import Encapsulation, HostRouting

CONFIG = Path("/tmp/cilium/config-map")
RUN = Path("/var/run/cilium")
STATE = RUN / "state" / "endpoints.json"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SYNC_S = 1.0
_CNI = {"cniVersion": "0.3.1", "name": "cilium", "type": "cilium-cni"}
_HOST_ROOT = "/proc/1/root"


class Api:
    """The API server, as the agent's service account."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
        self._host, self._port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON. Raises OSError with the status where the server refuses."""
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {(_ACCOUNT / 'token').read_text()}"}
            if body is not None:
                headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise OSError(answer.status, f"{method} {path}: {answer.status} {content[:300]!r}")
            return json.loads(content)
        finally:
            connection.close()


class Agent:
    """One node's agent."""

    def __init__(self) -> None:
        self.api, self.name = Api(), os.environ["K8S_NODE_NAME"]
        self.config = {path.name: path.read_text() for path in CONFIG.iterdir() if path.is_file()}
        self.lock = threading.Lock()
        self.endpoints: dict[str, Endpoint] = {}
        self.others: tuple[OtherNode, ...] = ()
        self.pods: dict[IPv4Address, tuple[int, IPv4Address]] = {}
        self.datapath = self._node()
        self.monitor = Monitor(self)
        self.is_ready = False

    def _node(self) -> NodeDatapath:
        while True:
            node = self.api.ask("GET", f"/api/v1/nodes/{self.name}")
            if cidr := node["spec"].get("podCIDR"):
                break
            print('level=info msg="waiting for the node\'s podCIDR"')
            time.sleep(1)
        legacy = self.config.get("enable-host-legacy-routing") == "true"
        tunnel = self.config.get("tunnel", "vxlan") != "disabled"
        masquerade = self.config.get("enable-bpf-masquerade") == "true"
        if not legacy and not masquerade:
            print(
                'level=info msg="BPF host routing requires enable-bpf-masquerade. Falling back to legacy host routing."'
            )
            legacy = True
        return NodeDatapath(
            host_routing=HostRouting.LEGACY if legacy else HostRouting.BPF,
            encapsulation=Encapsulation.VXLAN if tunnel else Encapsulation.NATIVE,
            masquerade=masquerade,
            address=IPv4Address(next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")),
            pod_cidr=IPv4Network(cidr), cluster_cidr=IPv4Network(self.config["cluster-pool-ipv4-cidr"]),
        )  # fmt: skip

    def start(self) -> None:
        """The datapath, the pods of an earlier agent, the CNI plugin; then whoever asks is answered."""
        self.datapath.build()
        print(f'level=info msg="loaded {self.datapath.loaded.path.name} (labctl stand-in, not Cilium)"')
        STATE.parent.mkdir(parents=True, exist_ok=True)
        if STATE.exists():
            for entry in json.loads(STATE.read_text()):
                endpoint = Endpoint(**{**entry, "address": IPv4Address(entry["address"])})
                if has(endpoint.lxc):
                    self.endpoints[endpoint.container] = self.datapath.take_over(endpoint)
        self._register()
        self.sync()
        self._install()
        self.is_ready = True

    def _register(self) -> None:
        node = {
            "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": self.name},
            "spec": {
                "addresses": [
                    {"type": "InternalIP", "ip": str(self.datapath.address)},
                    {"type": "CiliumInternalIP", "ip": str(self.datapath.router)},
                ],
                "ipam": {"podCIDRs": [str(self.datapath.pod_cidr)]},
            },
        }  # fmt: skip
        try:
            self.api.ask("POST", "/apis/cilium.io/v2/ciliumnodes", node)
        except OSError as refused:
            if refused.errno != 409:
                raise

    def _install(self) -> None:
        """The plugin first, then the configuration that names it: with that the kubelet calls the node ready."""
        loopback, binaries = Path(f"{_HOST_ROOT}/usr/lib/cni/loopback"), Path("/host/cni-bin")
        if loopback.exists() and not (binaries / "loopback").exists():
            shutil.copy(loopback, binaries / "loopback")
        shutil.copy("/opt/standin/cilium-cni", binaries / "cilium-cni")
        fresh = Path("/host/cni-conf/05-cilium.conf.new")
        fresh.write_text(json.dumps(_CNI, indent=1))
        fresh.rename("/host/cni-conf/05-cilium.conf")

    def sync(self) -> None:
        """What the other nodes and their pods are now."""
        nodes: dict[str, tuple[IPv4Address, str]] = {}
        for item in self.api.ask("GET", "/api/v1/nodes")["items"]:
            address = next((a["address"] for a in item["status"]["addresses"] if a["type"] == "InternalIP"), "")
            nodes[item["metadata"]["name"]] = (IPv4Address(address), item["spec"].get("podCIDR", ""))
        self.others = tuple(
            OtherNode(address=address, pod_cidr=IPv4Network(cidr))
            for name, (address, cidr) in nodes.items() if name != self.name and cidr
        )  # fmt: skip
        pods = {}
        for item in self.api.ask("GET", "/api/v1/pods")["items"]:
            address, node = item["status"].get("podIP"), item["spec"].get("nodeName", "")
            if (
                address
                and not item["spec"].get("hostNetwork")
                and node in nodes
                and item["status"]["phase"] == "Running"
            ):
                meta = item["metadata"]
                pods[IPv4Address(address)] = (identity_of(meta["namespace"], meta.get("labels") or {}), nodes[node][0])
        with self.lock:
            for endpoint in self.endpoints.values():
                pods[endpoint.address] = (endpoint.identity, self.datapath.address)
            self.pods = pods
            self.datapath.learn(self.others, pods)

    def follow(self) -> None:
        while True:
            time.sleep(_SYNC_S)
            try:
                self.sync()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as failed:
                print(f'level=warning msg="cannot follow the cluster: {failed}"')

    def add(self, asked: dict[str, str]) -> dict[str, object]:
        """CNI ADD: the pod's network, and the plugin's result."""
        arguments = dict(word.partition("=")[::2] for word in asked["CNI_ARGS"].split(";"))
        namespace, pod = arguments["K8S_POD_NAMESPACE"], arguments["K8S_POD_NAME"]
        labels = self.api.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"].get("labels") or {}
        with self.lock:
            taken = {endpoint.address for endpoint in self.endpoints.values()} | {self.datapath.router}
            address = next(one for one in self.datapath.pod_cidr.hosts() if one not in taken)
            made = Endpoint(
                id=2 + secrets.randbelow(4000), namespace=namespace, pod=pod, container=asked["CNI_CONTAINERID"],
                address=address, mac=_mac(), lxc=f"lxc{secrets.token_hex(6)}", lxc_index=0, lxc_mac="",
                identity=identity_of(namespace, labels),
            )  # fmt: skip
            # /var/run is a link to /run, which would lead into this container.
            path = f"{_HOST_ROOT}{asked['CNI_NETNS'].replace('/var/run/', '/run/', 1)}"
            made = self.datapath.add_pod(made, path)
            self.endpoints[made.container] = made
            self._save()
        return {
            "interfaces": [{"name": asked["CNI_IFNAME"], "mac": made.mac, "sandbox": asked["CNI_NETNS"]}],
            "ips": [{"version": "4", "interface": 0, "address": f"{address}/32", "gateway": str(self.datapath.router)}],
        }

    def remove(self, asked: dict[str, str]) -> None:
        """CNI DEL; a pod that is not known is gone already."""
        with self.lock:
            endpoint = self.endpoints.pop(asked["CNI_CONTAINERID"], None)
            if endpoint is not None:
                self.datapath.remove_pod(endpoint)
                self._save()

    def _save(self) -> None:
        entries = [{**dataclasses.asdict(one), "address": str(one.address)} for one in self.endpoints.values()]
        STATE.with_suffix(".new").write_text(json.dumps(entries))
        STATE.with_suffix(".new").rename(STATE)

    def clean_up(self) -> None:
        with self.lock:
            clean_up()


def _mac() -> str:
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return bytes(octets).hex(":")


class Answer(socketserver.StreamRequestHandler):
    """One question: of the CNI plugin, or of the command-line tool."""

    def handle(self) -> None:
        agent: Agent = self.server.agent  # type: ignore[attr-defined]
        asked = json.loads(self.rfile.readline() or "{}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if "cni" in asked:
                self._say(self._cni(agent, asked["cni"]))
            else:
                answers.answer(agent, asked.get("argv", []), self._say, self.connection)

    def _cni(self, agent: Agent, asked: dict[str, str]) -> dict[str, object]:
        try:
            match asked["CNI_COMMAND"]:
                case "ADD":
                    return {"result": agent.add(asked)}
                case "DEL":
                    agent.remove(asked)
            return {}
        except Exception as failed:  # whatever it was, the runtime gets to know
            return {"error": f"{type(failed).__name__}: {failed}"}

    def _say(self, answer: dict[str, object]) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")
        self.wfile.flush()


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    agent = Agent()
    place = RUN / "cilium.sock"
    RUN.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    agent.start()
    with Server(str(place), Answer) as server:
        server.agent = agent  # type: ignore[attr-defined]
        threading.Thread(target=agent.follow, daemon=True).start()
        print('level=info msg="ready"')
        server.serve_forever()


if __name__ == "__main__":
    socket.setdefaulttimeout(None)
    main()
