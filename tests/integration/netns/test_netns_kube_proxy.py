"""Services by kube-proxy's rules, on the real kernel: who answers, whom the backend sees, and what is refused."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from netns_building import needs_root, running

from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    KubeProxy,
    Lab,
    Masquerade,
    Outside,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.names import stable_mac
from labctl.providers.base import OpenLab
from labctl.providers.netns.discover import discover
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns
from labctl.testing.labs import sample_lab

pytestmark = [pytest.mark.root, needs_root]
PROVIDER = NetnsProvider()
CLIENT, NEIGHBOUR, SERVER, WORLD = "10.244.0.2", "10.244.0.3", "10.244.1.2", "172.30.0.100"
ROUTER = {"node1": "10.244.0.1", "node2": "10.244.1.1"}
WEB, LOCAL, NAMES, NONE = "10.96.0.11", "10.96.0.12", "10.96.0.13", "10.96.0.14"

SERVING = """
import socket, sys, threading
def tcp():
    server = socket.create_server(("0.0.0.0", 5205), backlog=256)
    print("listening", flush=True)
    while True:
        connection, peer = server.accept()
        connection.sendall(f"{sys.argv[1]} saw {peer[0]}".encode())
        connection.close()
def udp():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 5205))
    while True:
        _, peer = server.recvfrom(100)
        server.sendto(f"{sys.argv[1]} saw {peer[0]}".encode(), peer)
threading.Thread(target=udp, daemon=True).start()
tcp()
"""
ASKING = """
import socket, sys
kind, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as asking:
        asking.settimeout(4)
        try:
            asking.connect((address, port))
            if kind == "udp":
                asking.send(b"?")
            said = asking.recv(100).decode()
            print(said, "as", asking.getpeername()[0])
        except TimeoutError:
            print("no answer")
        except OSError as failed:
            print(failed.strerror)
"""


def service(name: str, address: str, backends: tuple[str, ...], node_port: int | None = None, **more: Any) -> Service:
    return Service(
        **{
            "name": name, "address": IPv4Address(address), "port": 80, "target_port": 5205,
            "protocol": ServiceProtocol.TCP, "backends": backends, "selector": {"app": name},
            "type": ServiceType.CLUSTER_IP if node_port is None else ServiceType.NODE_PORT, "node_port": node_port,
            **more,
        }
    )  # fmt: skip


def lab_of(name: str, mode: KubeProxy, encapsulation: Encapsulation, **datapath: Any) -> Lab:
    lab = sample_lab(
        name, host_routing=HostRouting.LEGACY, encapsulation=encapsulation, masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=False, kube_proxy=mode, **datapath,
    )  # fmt: skip
    services = (
        service("web", WEB, ("neighbour", "server"), 30205),
        service("local", LOCAL, ("server",), 30215, external_traffic_policy=TrafficPolicy.LOCAL),
        service("names", NAMES, ("neighbour", "server"), protocol=ServiceProtocol.UDP),
        service("none", NONE, (), 30216),
        service("self", "10.96.0.15", ("client",)),
    )
    outside = Outside(name="world", address=IPv4Address(WORLD), mac=stable_mac("outside", "world"))
    return replace(lab, services=services, outside=(outside,))


@contextmanager
def serving(lab: Lab) -> Iterator[OpenLab]:
    """The lab with a server in each pod, which says its name and whom it saw."""
    with running(lab), PROVIDER.open(lab) as opened, ExitStack() as standing:
        for pod in lab.pods:
            process = standing.enter_context(opened.target(pod.name).start(("python3", "-c", SERVING, pod.name)))
            process.wait_for_output("listening", timeout_s=60)
        yield opened


def ask(opened: OpenLab, who: str, address: str, port: int = 80, *, count: int = 1, kind: str = "tcp") -> Counter[str]:
    argv = ("python3", "-c", ASKING, kind, address, str(port), str(count))
    done = opened.target(who).run(argv, timeout_s=60 + 5 * count)
    assert done.returncode == 0, done.error_text
    return Counter(done.text.splitlines())


def answered(*answers: tuple[str, str], peer: str) -> set[str]:
    return {f"{pod} saw {source} as {peer}" for pod, source in answers}


@pytest.mark.parametrize(
    "encapsulation", [Encapsulation.VXLAN, pytest.param(Encapsulation.NATIVE, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("mode", KubeProxy)
def test_services_are_translated_for_pods_nodes_and_the_outside(
    host_as_found: str, mode: KubeProxy, encapsulation: Encapsulation
) -> None:
    with serving(lab_of(host_as_found, mode, encapsulation)) as opened:
        # A pod keeps its address, and both backends get their share: one of them alone has 2 in 2^40.
        by_pod = ask(opened, "client", WEB, count=40)
        assert by_pod.keys() == answered(("neighbour", CLIENT), ("server", CLIENT), peer=WEB)
        assert ask(opened, "client", NAMES, count=40, kind="udp").keys() == answered(
            ("neighbour", CLIENT), ("server", CLIENT), peer=NAMES
        )
        # A backend that is given itself sees the node.
        assert ask(opened, "client", "10.96.0.15") == Counter(answered(("client", ROUTER["node1"]), peer="10.96.0.15"))
        # What is not a pod is masqueraded.
        at_server = ROUTER["node1"] if encapsulation is Encapsulation.VXLAN else "172.30.0.2"
        masqueraded = (("neighbour", ROUTER["node1"]), ("server", at_server))
        assert ask(opened, "node1", WEB, count=40).keys() == answered(*masqueraded, peer=WEB)
        assert ask(opened, "world", "172.30.0.2", 30205, count=40).keys() == answered(*masqueraded, peer="172.30.0.2")
        assert ask(opened, "client", "172.30.0.2", 30205, count=40).keys() == answered(*masqueraded, peer="172.30.0.2")
        # Pods reach each other as ever.
        assert ask(opened, "client", SERVER, 5205) == Counter(answered(("server", CLIENT), peer=SERVER))
        assert ask(opened, "client", NEIGHBOUR, 5205) == Counter(answered(("neighbour", CLIENT), peer=NEIGHBOUR))


@pytest.mark.parametrize("mode", KubeProxy)
@pytest.mark.thorough
def test_policy_local_keeps_the_clients_address_and_a_service_without_backends_is_refused(
    host_as_found: str, mode: KubeProxy
) -> None:
    with serving(lab_of(host_as_found, mode, Encapsulation.VXLAN)) as opened:
        assert ask(opened, "world", "172.30.0.3", 30215) == Counter(answered(("server", WORLD), peer="172.30.0.3"))
        assert ask(opened, "world", "172.30.0.2", 30215) == Counter({"no answer": 1})
        assert ask(opened, "client", LOCAL) == Counter(answered(("server", CLIENT), peer=LOCAL))
        for who, address, port in (("client", NONE, 80), ("node1", NONE, 80), ("world", "172.30.0.2", 30216)):
            assert ask(opened, who, address, port) == Counter({"Connection refused": 1}), (who, port)
        at_loopback = ask(opened, "node1", "127.0.0.1", 30205)
        if mode is KubeProxy.IPTABLES:
            assert sum(count for said, count in at_loopback.items() if " saw " in said) == 1
        else:
            assert at_loopback == Counter({"Connection refused": 1})


def test_a_node_without_a_rule_of_a_service_is_named(host_as_found: str) -> None:
    lab = lab_of(host_as_found, KubeProxy.IPTABLES, Encapsulation.NATIVE, extra_services=20)
    with running(lab):
        (found,) = discover(lab.name)
        assert found.is_whole, found.missing
        inside = f"labctl.{lab.name}.node2"
        argv = ("iptables", "-t", "nat", "-F", "KUBE-NODEPORTS")
        subprocess.run(netns.command(inside, argv), check=True, timeout=60)
        (found,) = discover(lab.name)
        assert f'node2: rule "labctl-{lab.name}/web" of table nat' in {
            one.partition(", number")[0] for one in found.missing
        }


def test_a_node_without_a_chain_of_a_service_is_named(host_as_found: str) -> None:
    lab = lab_of(host_as_found, KubeProxy.NFTABLES, Encapsulation.NATIVE, extra_services=20)
    with running(lab):
        (found,) = discover(lab.name)
        assert found.is_whole, found.missing
        argv = ("nft", "delete", "table", "ip", "kube-proxy")
        subprocess.run(netns.command(f"labctl.{lab.name}.node2", argv), check=True, timeout=60)
        (found,) = discover(lab.name)
        assert "node2: chain services of table kube-proxy" in found.missing
        assert not [one for one in found.missing if "filler" in one]


@pytest.mark.parametrize("mode", KubeProxy)
@pytest.mark.thorough
def test_a_thousand_services_more_change_nothing_but_time(host_as_found: str, mode: KubeProxy) -> None:
    with serving(lab_of(host_as_found, mode, Encapsulation.VXLAN, extra_services=1_000)) as opened:
        assert ask(opened, "client", WEB, count=40).keys() == answered(
            ("neighbour", CLIENT), ("server", CLIENT), peer=WEB
        )
        assert ask(opened, "world", "172.30.0.3", 30215) == Counter(answered(("server", WORLD), peer="172.30.0.3"))
