"""The connect check: its client and server run for real on loopback, and every way in which they can fail."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from labctl.checks.connect import (
    CLIENT,
    SERVER,
    ConnectCheck,
    ConnectReport,
    argv_connect_client,
    argv_connect_server,
    judge_connect,
    parse_connect,
)
from labctl.errors import MeasureFailed
from labctl.model.parameters import ConnectParameters
from labctl.model.result import Verdict
from labctl.testing.scripted import Answer

from .conftest import RunCheck

PARAMETERS = ConnectParameters(duration_s=0.5)
LISTENING = Answer(argv=("python3",), stdout=b"listening\n", cpu_s=0.1)


def said(connections: int, seconds: float, error: str = "") -> bytes:
    return json.dumps({"connections": connections, "seconds": seconds, "error": error}).encode()


def client(stdout: bytes, returncode: int = 0) -> Answer:
    return Answer(argv=("python3",), stdout=stdout, cpu_s=0.3, returncode=returncode)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_client_and_server_make_connections_on_loopback() -> None:
    port = str(free_port())
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "127.0.0.1", port], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        ended = subprocess.run(
            [sys.executable, "-c", CLIENT, "127.0.0.1", port, "0.2"], capture_output=True, text=True, check=True
        )
        server.kill()
    found = parse_connect(ended.stdout)
    assert found.connections > 0
    assert found.duration_s >= 0.2
    assert found.error == ""


def test_a_client_without_a_server_says_so_in_the_systems_words() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT, "127.0.0.1", str(free_port()), "0.2"], capture_output=True, text=True, check=True
    )
    found = parse_connect(ended.stdout)
    assert (found.connections, found.error) == (0, "Connection refused")
    assert judge_connect(found, PARAMETERS).verdict is Verdict.FAIL


def test_the_commands_name_address_port_and_time() -> None:
    assert argv_connect_server("10.0.0.2")[3:] == ("10.0.0.2", "11112")
    assert argv_connect_client("10.0.0.2", PARAMETERS)[3:] == ("10.0.0.2", "11112", "0.5")


def test_the_figures_are_connections_per_second_and_own_cpu_each(run_check: RunCheck) -> None:
    ran = run_check(ConnectCheck(), PARAMETERS, [client(said(1000, 0.5))], [LISTENING])
    assert ran.result.verdict is Verdict.PASS
    assert ran.values == pytest.approx({"connections_per_s": 2000.0, "cpu_per_connection": 0.4e-3})


def test_a_connection_that_failed_fails_the_check_and_gives_no_figure(run_check: RunCheck) -> None:
    ran = run_check(ConnectCheck(), PARAMETERS, [client(said(12, 0.1, "timed out"))], [LISTENING])
    assert ran.result.verdict is Verdict.FAIL
    assert "was not reached after 12 connections: timed out" in ran.result.reason
    assert ran.values == {}


@pytest.mark.parametrize("answer", [client(b"", 1), client(b"nonsense"), client(b"{}"), client(said(5, 0.1))])
def test_a_client_that_failed_is_an_error(run_check: RunCheck, answer: Answer) -> None:
    assert run_check(ConnectCheck(), PARAMETERS, [answer], [LISTENING]).result.verdict is Verdict.ERROR


def test_a_run_of_no_connections_is_not_a_result() -> None:
    with pytest.raises(MeasureFailed, match="ended early"):
        judge_connect(ConnectReport(connections=0, duration_s=1.0), PARAMETERS)
