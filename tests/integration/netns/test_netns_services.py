"""Services on a real lab: translated at the sockets of what runs in it, by nothing else, and gone with it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from netns_building import needs_root, running

from labctl.datapath import bpf
from labctl.datapath.service_maps import SocketEntry, unpack_socket
from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    Lab,
    Outside,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.names import cgroup_of, namespace_of, stable_mac
from labctl.planning.show import as_script
from labctl.providers.base import OpenLab, Running
from labctl.providers.netns.discover import discover
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.watch import node_maps
from labctl.system import cgroups
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = [pytest.mark.root, needs_root]
PROVIDER = NetnsProvider()
TCP_PORT, UDP_PORT = 5205, 5353
SAMPLE = (HostRouting.BPF, Encapsulation.VXLAN)
ORDERS = (("world", "node1"), ("node1", "world"))

SERVER = textwrap.dedent(
    """
    import socket, sys, threading
    name = sys.argv[1]
    tcp = socket.create_server(("0.0.0.0", 5205), backlog=512)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", 5353))
    def datagrams():
        while True:
            data, peer = udp.recvfrom(65536)
            udp.sendto(f"{name} {peer[0]} {len(data)}".encode(), peer)
    threading.Thread(target=datagrams, daemon=True).start()
    print("ready", flush=True)
    while True:
        one, peer = tcp.accept()
        one.sendall(f"{name} {peer[0]} {one.getsockname()[0]}".encode())
        one.close()
    """
)
CLIENT = textwrap.dedent(
    """
    import socket, sys
    how, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for number in range(count):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM)
        one.settimeout(20)
        try:
            if how == "datagram":
                one.sendto(b"x" * 40, (host, port))
                said, peer = one.recvfrom(999)
            else:
                one.connect((host, port))
                if how == "udp":
                    one.send(b"x" * 40)
                said, peer = one.recv(999), one.getpeername()
            print(said.decode(), peer[0], peer[1])
        except OSError as failed:
            print("errno", failed.errno)
        one.close()
    """
)

KEEPS_ANSWERING = textwrap.dedent(
    """
    import socket, threading
    tcp = socket.create_server(("0.0.0.0", 5205), backlog=64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", 5353))
    def datagrams():
        while True:
            data, peer = udp.recvfrom(999)
            udp.sendto(data, peer)
    def answers(one):
        while data := one.recv(999):
            one.sendall(data)
        one.close()
    threading.Thread(target=datagrams, daemon=True).start()
    print("ready", flush=True)
    while True:
        threading.Thread(target=answers, args=(tcp.accept()[0],), daemon=True).start()
    """
)
KEEPS_ASKING = textwrap.dedent(
    """
    import socket, sys, time
    kind, host, port, source, seconds = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    one.settimeout(10)
    one.bind(("0.0.0.0", source))
    one.connect((host, port))
    begun, number = time.monotonic(), 0
    while not number or time.monotonic() - begun < seconds:
        number += 1
        sent = f"{sys.argv[1:]} {number}".encode()
        one.send(sent)
        assert one.recv(999) == sent
        if number == 1:
            print("answered", flush=True)
        time.sleep(0.05)
    """
)


def service(number: int, name: str, backends: tuple[str, ...], *, udp: bool = False, **more: Any) -> Service:
    return Service(
        name=name,
        address=IPv4Address("10.96.0.10") + number,
        port=53 if udp else 80,
        target_port=UDP_PORT if udp else TCP_PORT,
        protocol=ServiceProtocol.UDP if udp else ServiceProtocol.TCP,
        backends=backends,
        selector={},
        **{"type": ServiceType.CLUSTER_IP, **more},
    )


SERVICES = (
    service(1, "both", ("neighbour", "server")),
    service(2, "near", ("neighbour",)),
    service(3, "self", ("client",)),
    service(4, "names", ("neighbour", "server"), udp=True),
    service(5, "nobody", ()),
    service(6, "ports", ("server",), type=ServiceType.NODE_PORT, node_port=30205),
    service(
        7,
        "local",
        ("server",),
        type=ServiceType.NODE_PORT,
        node_port=30215,
        external_traffic_policy=TrafficPolicy.LOCAL,
    ),
)


def make_lab(name: str, **more: Any) -> Lab:
    asked = {"host_routing": HostRouting.BPF, "encapsulation": Encapsulation.VXLAN, **more}
    return replace(sample_lab(name, **asked), services=SERVICES)


@contextmanager
def served(lab: Lab) -> Iterator[OpenLab]:
    """The lab, up, with a server in each pod."""
    with running(lab), PROVIDER.open(lab) as open_lab, ExitStack() as stack:
        for pod in lab.pods:
            one: Running = stack.enter_context(
                open_lab.target(pod.name).start((sys.executable, "-c", SERVER, pod.name))
            )
            one.wait_for_output("ready", timeout_s=60)
        yield open_lab


def ask(open_lab: OpenLab, part: str, how: str, host: object, port: int, count: int = 1) -> list[str]:
    argv = (sys.executable, "-c", CLIENT, how, str(host), str(port), str(count))
    done = open_lab.target(part).run(argv, timeout_s=120)
    assert done.returncode == 0, done.error_text
    return done.text.splitlines()


def address(name: str) -> IPv4Address:
    return next(one.address for one in SERVICES if one.name == name)


def sockets_of(lab: Lab, node: str) -> list[SocketEntry]:
    place = cgroups.path_of(cgroup_of(lab.name, node, "pods"))
    found: list[SocketEntry] = []
    with cgroups.opened(str(place.relative_to(cgroups.top() or ""))) as descriptor:
        for hook in bpf.CgroupHook:
            for number in bpf.attached_to_cgroup(descriptor, hook):
                program = bpf.program_descriptor(number)
                maps = bpf.maps_of_program(program)
                if "reverse_sk" in maps:
                    found = [unpack_socket(key, values[0]) for key, values in bpf.dump(maps["reverse_sk"])]
                bpf.close_all((program, *maps.values()))
    return found


@pytest.mark.parametrize(
    "encapsulation", [Encapsulation.VXLAN, pytest.param(Encapsulation.NATIVE, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_services_are_reached_from_pods_and_nodes(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    lab = make_lab(host_as_found, host_routing=host_routing, encapsulation=encapsulation)
    client, server, node1 = lab.pod("client").address, lab.pod("server"), lab.node("node1")
    far_source = node1.router if encapsulation is Encapsulation.VXLAN else node1.address.ip
    vip, near, own, names = (str(address(name)) for name in ("both", "near", "self", "names"))
    with served(lab) as open_lab:
        said = Counter(line.split()[0] for line in ask(open_lab, "client", "tcp", vip, 80, 60))
        assert set(said) == {"neighbour", "server"}
        assert min(said.values()) >= 10  # of 60 a share below 10 has a chance below one in ten million
        (one,) = ask(open_lab, "client", "tcp", near, 80)
        assert one == f"neighbour {client} {lab.pod('neighbour').address} {near} 80"  # getpeername: the Service
        assert ask(open_lab, "client", "tcp", own, 80) == [f"client {client} {client} {own} 80"]  # hairpin
        for how in ("udp", "datagram"):
            for line in ask(open_lab, "client", how, names, 53, 8):
                assert line.split()[1:] == [str(client), "40", names, "53"]
        from_node = {line.split()[0]: line.split()[1] for line in ask(open_lab, "node1", "tcp", vip, 80, 40)}
        assert from_node == {"neighbour": str(node1.router), "server": str(far_source)}
        # Node ports from inside: at any node's address, at 127.0.0.1 for the node itself, with all backends.
        for part, host in (("client", node1.address.ip), ("client", lab.node("node2").address.ip)):
            for port in (30205, 30215):
                assert ask(open_lab, part, "tcp", host, port)[0].split()[:2] == ["server", str(client)]
        assert ask(open_lab, "node1", "tcp", "127.0.0.1", 30205)[0].split()[:2] == ["server", str(far_source)]
        assert ask(open_lab, "client", "tcp", "127.0.0.1", 30205) == ["errno 111"]
        assert server.node == "node2"


@pytest.mark.parametrize(
    ("host_routing", "encapsulation"),
    [
        pytest.param(
            host_routing,
            encapsulation,
            marks=[] if (host_routing, encapsulation) == SAMPLE else [pytest.mark.thorough],
        )
        for host_routing in HostRouting
        for encapsulation in RECORDED
    ],
)
def test_a_nodes_own_connection_and_a_relayed_one_from_the_same_port_are_both_answered(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    """Both come to the backend from the node's one address. The first keeps its port, and goes on while the second is
    there."""
    plain = make_lab(host_as_found, host_routing=host_routing, encapsulation=encapsulation)
    world = Outside(name="world", address=IPv4Address("172.30.0.200"), mac=stable_mac("world", "eth0"))
    names = service(8, "name-ports", ("server",), udp=True, type=ServiceType.NODE_PORT, node_port=30253)
    lab = replace(plain, services=(*SERVICES, names), outside=(world,))
    node1 = str(lab.node("node1").address.ip)
    ways = {
        ("world", "tcp"): (node1, "30205"),
        ("world", "udp"): (node1, "30253"),
        ("node1", "tcp"): (str(address("ports")), "80"),
        ("node1", "udp"): (str(names.address), "53"),
    }
    with running(lab), PROVIDER.open(lab) as open_lab:
        server = open_lab.target("server").start((sys.executable, "-c", KEEPS_ANSWERING))
        with server as answering:
            answering.wait_for_output("ready", timeout_s=60)
            for source, (first, second, protocol) in enumerate(
                ((first, second, protocol) for first, second in ORDERS for protocol in ("tcp", "udp")), start=40000
            ):
                asks = [
                    (sys.executable, "-c", KEEPS_ASKING, protocol, *ways[part, protocol], str(source))
                    for part in (first, second)
                ]
                with open_lab.target(first).start((*asks[0], "1.5")) as begun:
                    begun.wait_for_output("answered", timeout_s=60)
                    done = open_lab.target(second).run((*asks[1], "0.3"), timeout_s=60)
                    assert done.returncode == 0, f"{second}, {protocol}: {done.error_text}"
                    ended = begun.wait(timeout_s=60)
                    assert ended.returncode == 0, f"{first}, {protocol}: {ended.error_text}"


def test_without_a_backend_connect_is_refused_at_once(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with served(lab) as open_lab:
        for part in ("client", "node2"):
            # EPERM is connect's own answer: what waited for one from the network would say that it timed out.
            assert ask(open_lab, part, "tcp", address("nobody"), 80) == ["errno 1"]
            assert ask(open_lab, part, "tcp", address("nobody"), 80, 20) == ["errno 1"] * 20


def test_a_backend_that_goes_away_is_not_chosen_any_more_on_any_node(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with served(lab) as open_lab:
        subprocess.run(("ip", "-n", namespace_of(lab.name, "neighbour"), "link", "delete", "eth0"), check=True)
        begun = time.monotonic()
        for part in ("client", "node1", "node2"):
            lines = ask(open_lab, part, "tcp", address("both"), 80, 30)
            assert {line.split()[0] for line in lines} == {"server"}
            assert ask(open_lab, part, "tcp", address("near"), 80) == ["errno 1"]
            lines = ask(open_lab, part, "datagram", address("names"), 53, 10)
            assert {line.split()[0] for line in lines} == {"server"}
        assert time.monotonic() - begun < 60
        nodes = open_lab.services()
        for node in nodes:
            states = {one.pod: one.active for front in node.frontends for one in front.backends}
            assert states == {"neighbour": False, "server": True, "client": True}


def test_programs_see_their_own_cgroup_and_a_connections_entry_goes_with_its_socket(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with served(lab) as open_lab:
        for part, group in (("client", "node1/pods"), ("server", "node2/pods"), ("node2", "node2/node")):
            done = open_lab.target(part).run(("cat", "/proc/self/cgroup"), timeout_s=60)
            assert f"0::/{cgroup_of(lab.name)}/{group}" in done.text.splitlines()
        ask(open_lab, "client", "tcp", address("both"), 80, 40)
        assert sockets_of(lab, "node1") == []
        ask(open_lab, "client", "datagram", address("names"), 53, 5)
        left = sockets_of(lab, "node1")
        assert all((one.service, one.service_port) == (address("names"), 53) for one in left)
        pasted = open_lab.target("client").command(("cat", "/proc/self/cgroup"))
        assert pasted == ("labctl", "exec", lab.name, "client", "--", "cat", "/proc/self/cgroup")
        exec_argv = (sys.executable, "-m", "labctl", "exec", lab.name, "client", "--")
        for extra in ((), ("--privileged",)):
            argv = (
                *exec_argv[:4],
                *extra,
                *exec_argv[4:],
                sys.executable,
                "-c",
                CLIENT,
                "tcp",
                str(address("near")),
                "80",
                "1",
            )
            said = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
            assert said.stdout.startswith("neighbour "), said.stderr


def test_without_socket_translation_pods_sockets_are_left_alone(host_as_found: str) -> None:
    lab = make_lab(host_as_found, socket_lb=False)
    client = lab.pod("client").address
    with served(lab) as open_lab:
        done = open_lab.target("client").run(("cat", "/proc/self/cgroup"), timeout_s=60)
        assert cgroup_of(lab.name) not in done.text
        lines = ask(open_lab, "client", "tcp", address("both"), 80, 40)
        assert {tuple(line.split()[:2]) for line in lines} == {("neighbour", str(client)), ("server", str(client))}
        assert ask(open_lab, "client", "tcp", address("self"), 80)[0].split()[:2] == ["client", "169.254.42.1"]
        assert ask(open_lab, "client", "tcp", address("nobody"), 80) == ["errno 111"]  # told by ICMP
        with node_maps(namespace_of(lab.name, "node1"), "ct") as (ct,):
            assert len(list(bpf.dump(ct))) >= 80


def test_nothing_is_in_netfilter_for_a_service(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with running(lab), PROVIDER.open(lab) as open_lab:
        for argv in (("iptables-save",), ("nft", "list", "ruleset")):
            said = open_lab.target("node1").run(argv, timeout_s=60).text
            assert "10.96.0." not in said
            assert "30205" not in said


def test_a_missing_program_of_a_cgroup_is_named(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with running(lab):
        (found,) = discover(lab.name)
        assert found.is_whole, found.missing
        group = cgroup_of(lab.name, "node1", "pods")
        cgroups.remove(group)
        (found,) = discover(lab.name)
    assert found.missing == (f"node1: cgroup {group}",)


def test_the_script_makes_the_same_and_down_removes_it(host_as_found: str, tmp_path: Path) -> None:
    lab = make_lab(host_as_found)
    script = tmp_path / "build.sh"
    script.write_text(as_script(PROVIDER.plan(lab)))
    try:
        done = subprocess.run(("sh", str(script)), capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        (found,) = discover(lab.name)
        assert found.is_whole, found.missing
        with PROVIDER.open(lab) as open_lab, ExitStack() as stack:
            one = stack.enter_context(open_lab.target("server").start((sys.executable, "-c", SERVER, "server")))
            one.wait_for_output("ready", timeout_s=60)
            assert ask(open_lab, "client", "tcp", address("ports"), 80)[0].startswith("server ")
            assert ask(open_lab, "client", "tcp", address("nobody"), 80) == ["errno 1"]
    finally:
        PROVIDER.teardown(lab.name)
    assert not cgroups.is_there(cgroup_of(lab.name))


def test_what_a_person_left_in_a_cgroup_goes_on_outside_it(host_as_found: str) -> None:
    lab = make_lab(host_as_found)
    with running(lab), subprocess.Popen(("sleep", "600")) as stranger:
        place = cgroups.path_of(cgroup_of(lab.name, "node1", "pods"))
        (place / cgroups.MEMBERS).write_text(str(stranger.pid))
        PROVIDER.teardown(lab.name)
        assert stranger.poll() is None
        assert not cgroups.is_there(cgroup_of(lab.name))
        stranger.kill()


def test_fillers_are_in_the_maps_of_every_node(host_as_found: str) -> None:
    lab = make_lab(host_as_found, extra_services=300)
    with running(lab), PROVIDER.open(lab) as open_lab:
        for node in open_lab.services():
            fillers = [one for one in node.frontends if not one.service]
            assert len(fillers) == 300
            assert all(len(one.backends) == 1 and one.backends[0].active for one in fillers)
