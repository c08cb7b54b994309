"""The service check's commands with the real iperf3 and tcpdump, on this host's loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.server import Asked
from labctl.checks.service import argv_connections, argv_exchange, parse_connections, parse_exchange, syn_filter
from labctl.model.lab import Service, ServiceProtocol, ServiceType
from labctl.system.process import Process, run

LOOPBACK = Service(
    name="web", address=IPv4Address("127.0.0.1"), port=1, target_port=1, protocol=ServiceProtocol.TCP, backends=("x",),
    selector={"app": "x"}, type=ServiceType.CLUSTER_IP,
)  # fmt: skip


def asked(service: Service) -> Asked:
    return Asked(address=service.address, port=service.port, listening={})


@pytest.fixture
def service() -> Service:
    if shutil.which("iperf3") is None:
        pytest.skip("needs iperf3")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return replace(LOOPBACK, port=port, target_port=port)


def test_each_refused_connection_is_one_line_that_says_so(service: Service) -> None:
    done = run(argv_connections(asked(service), 5), timeout_s=120)
    assert parse_connections(done.text, 5).refused == 5


def test_an_exchange_tells_the_peer_and_whom_the_server_saw(service: Service) -> None:
    with Process(("iperf3", "-s", "-p", str(service.port), "--forceflush")) as server:
        server.wait_for_output("Server listening", timeout_s=120)
        client = run(argv_exchange(asked(service)), timeout_s=120)
        assert server.is_alive()
        ended = server.stop()
    found = parse_exchange(client.text, "x", ended.text)
    assert (found.peer, found.seen_from) == ("127.0.0.1", "127.0.0.1")


@pytest.mark.root
def test_tcpdump_takes_the_filter(service: Service) -> None:
    if shutil.which("tcpdump") is None:
        pytest.skip("needs tcpdump")
    done = subprocess.run(
        ("tcpdump", "-d", syn_filter(asked(service), service)), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
