"""`cilium monitor`: lines as Cilium's own encoder writes them, and the filter that runs inside the agent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cilium_recordings import FIXTURES, recorded

from labctl.model.movement import Act
from labctl.providers.cilium.monitor import argv_monitor_pair, lost_by_monitor, parse_monitor
from labctl.providers.cilium.monitor_acts import Devices, movements_of

VERSIONS = sorted(
    path.name.removeprefix("others.monitor.")[: -len(".txt")] for path in FIXTURES.glob("encoded/others*")
)
CLIENT, SERVER = "10.244.0.187", "10.244.1.67"
DEADLINE_S = 60.0


def others(version: str, *, is_json: bool) -> str:
    lines = recorded(f"encoded/others.monitor.{version}.txt").splitlines()
    return "\n".join(line for line in lines if line.startswith("{") is is_json)


@pytest.mark.parametrize("version", VERSIONS)
def test_json_lines_tell_ports_points_and_identifications(version: str) -> None:
    syn, rst, datagram, unreachable, drop = parse_monitor(others(version, is_json=True))
    assert [(one.point, one.what, one.first, one.second) for one in (syn, rst, datagram, unreachable)] == [
        ("from-endpoint", "tcp", 41600, 20001),
        ("to-endpoint", "tcp", 20001, 41600),
        ("from-endpoint", "udp", 43210, 20001),
        ("to-endpoint", "DestinationUnreachable(Port)", 0, 0),
    ]
    assert [one.ip_id for one in (syn, rst, datagram, unreachable)] == [0x6000, 0, 0x6001, 0x7001]
    assert [(one.teller, one.endpoint) for one in (syn, rst)] == [(2097, 2097), (2097, 2097)]
    assert (drop.point, drop.reason, drop.what, drop.second) == ("drop", "Policy denied", "EchoRequest", 9)


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_lines_say_the_same_as_far_as_they_go(version: str) -> None:
    plain, encoded = (parse_monitor(others(version, is_json=is_json)) for is_json in (False, True))
    assert len(plain) == 4
    for one, other in zip(plain, encoded[:4], strict=True):
        assert (one.point, one.endpoint, one.interface, one.state) == (
            other.point, other.endpoint, other.interface, other.state,
        )  # fmt: skip
        assert (one.source, one.first, one.destination, one.second) == (
            other.source, other.first, other.destination, other.second,
        )  # fmt: skip
        assert one.what.startswith(other.what)


@pytest.mark.parametrize(
    ("line", "point", "source"),
    [
        ("-> host from flow 0x0 , identity 9676->host state new ifindex cilium_net orig-ip 0.0.0.0", "to-host", "9676"),
        ("-> proxy port 141 flow 0x1 , identity 9676->unknown state new ifindex 0 orig-ip 0.0.0.0", "to-proxy", "9676"),
        ("<- network  encrypted  flow 0x0 , identity world->unknown state unknown ifindex eth0 orig-ip 0.0.0.0",
         "from-network", "world"),
        ("-> network flow 0x7 , identity 1->2 [ ip-trace-id = 7 ] state new ifindex eth0 orig-ip 0.0.0.0",
         "to-network", "1"),
    ],
)  # fmt: skip
def test_points_with_more_words_and_lines_with_more_parts_are_read(line: str, point: str, source: str) -> None:
    (trace,) = parse_monitor(f"{line}: {CLIENT} -> {SERVER} EchoRequest")
    assert (trace.point, trace.source_identity) == (point, source)
    assert (trace.source, trace.destination, trace.what) == (CLIENT, SERVER, "EchoRequest")


def test_a_drop_is_the_act_of_the_program_that_had_the_packet() -> None:
    (drop,) = [one for one in parse_monitor(others(VERSIONS[0], is_json=True)) if one.point == "drop"]
    (movement,) = movements_of("node1", (drop,), Devices(lxcs={2097: "lxc6a6019bdbc56"}))
    assert (movement.helper, movement.reason) == (Act.DROP, "Policy denied")
    assert (movement.what, movement.device, movement.hook) == ("cil_from_container", "lxc6a6019bdbc56", "ingress")


def test_lost_events_are_counted() -> None:
    assert lost_by_monitor("CPU 01: Lost 5 events\n{}\nUnknown payload type: 9, CPU 00: Lost 2 events\n") == 7


def test_a_line_that_is_cut_off_is_left_out() -> None:
    assert parse_monitor(others(VERSIONS[0], is_json=True)[:400]) == ()


CILIUM = """#!/bin/sh
echo "$@" >"$HERE/asked"
echo "Press Ctrl-C to quit" >&{ready}
cat "$HERE/lines"
exec sleep 60
"""


@contextlib.contextmanager
def in_agent(tmp_path: Path, lines: str, ready: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    """The filter as it runs in an agent's container, with a program `cilium-dbg` that prints these lines and waits."""
    tool = tmp_path / "cilium-dbg"
    tool.write_text(CILIUM.format(ready=ready))
    tool.chmod(0o755)
    (tmp_path / "lines").write_text(lines)
    world = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HERE": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        argv_monitor_pair(CLIENT, SERVER), env=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def until(tmp_path: Path) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (tmp_path / "asked").exists():
        assert time.monotonic() < deadline_s, "the monitor was not started"
        time.sleep(0.01)


def until_printed(running: subprocess.Popen[bytes], text: bytes) -> bytes:
    """What it printed up to there; `communicate` gives the rest."""
    assert running.stdout is not None
    printed = b""
    while text not in printed:
        piece = os.read(running.stdout.fileno(), 65_536)
        assert piece, f"ended before it printed {text!r}: {printed!r}"
        printed += piece
    return printed


@pytest.mark.parametrize("ready", [1, 2], ids=["stdout", "stderr"])
def test_only_the_pairs_events_leave_the_agent_and_a_signal_ends_the_monitor(tmp_path: Path, ready: int) -> None:
    cells = recorded("encoded/bpf-vxlan.monitor-json.1.16.0.txt")
    noise = '{"type":"trace","summary":{"l3":{"src":"10.244.0.187","dst":"10.244.11.67"}}}\n'
    with in_agent(tmp_path, f"{noise}{cells}CPU 00: Lost 3 events\n", ready) as running:
        until(tmp_path)
        printed = until_printed(running, b"Lost 3 events")
        running.send_signal(signal.SIGTERM)
        rest, err = running.communicate(timeout=DEADLINE_S)
    out = printed + rest
    assert b"Press Ctrl-C" in out + err
    told = parse_monitor(out.decode())
    assert len(told) == 30
    assert {frozenset((one.source, one.destination)) for one in told} == {frozenset((CLIENT, SERVER))}
    assert lost_by_monitor(out.decode()) == 3
    assert running.returncode == -signal.SIGTERM
    assert (tmp_path / "asked").read_text().split() == ["monitor", "-j", "-t", "trace", "-t", "drop"]


def test_the_filter_leaves_nothing_behind(tmp_path: Path) -> None:
    with in_agent(tmp_path, "") as running:
        until(tmp_path)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=DEADLINE_S)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked", "cilium-dbg", "lines"]
