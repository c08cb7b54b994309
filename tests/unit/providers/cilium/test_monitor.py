"""`cilium monitor`: lines as Cilium's own encoder writes them, and the filter that runs inside the agent.

Monitor lines of a real cluster stand in the paths of single echoes: each at the packet and at the place that it is of.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.trace import Carriage, ForwardingAct, Mover, PacketPath, Way
from labctl.path.assemble import PathEnd, join, names_of, numbered
from labctl.providers.cilium.monitor import Devices, argv_monitor_pair, lost_by_monitor, movements_of, parse_monitor

from .cilium_exchange import CELLS, IDENTIFIER, exchange
from .cilium_recordings import FIXTURES, recorded

ENDS = (PathEnd(name="client:eth0", taps=("client:eth0",)), PathEnd(name="server:eth0", taps=("server:eth0",)))
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
    assert (movement.helper, movement.reason) == (ForwardingAct.DROP, "Policy denied")
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


BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
SAME, CROSS = Placement.SAME_NODE, Placement.CROSS_NODE
Cell = tuple[HostRouting, Encapsulation, Placement]
ENCODED = "encoded/{cell}.monitor-json.1.16.0.txt"
LXC = "lxc"
FROM_POD, FROM_TUNNEL = ("cil_from_container", LXC), ("cil_from_overlay", "cilium_vxlan")
FROM_WIRE, FROM_STACK = ("cil_from_netdev", "eth0"), ("cil_from_host", "cilium_host")

WAYS: dict[Cell, dict[str, list[tuple[str, str, str]]]] = {
    # The tap before which they were heard, and each with its program, its device and what it did.
    (LEGACY, VXLAN, SAME): {"server-lxc": [(*FROM_POD, "to-endpoint")]},
    (BPF, VXLAN, SAME): {"server-eth0": [(*FROM_POD, "to-endpoint")]},
    (LEGACY, NATIVE, SAME): {"server-lxc": [(*FROM_POD, "to-endpoint")]},
    (BPF, NATIVE, SAME): {"server-eth0": [(*FROM_POD, "to-endpoint")]},
    (LEGACY, VXLAN, CROSS): {
        "client-node-cilium_vxlan": [(*FROM_POD, "to-overlay"), ("cil_to_overlay", "cilium_vxlan", "seen")],
        "server-lxc": [(*FROM_TUNNEL, "to-endpoint")],
    },
    (BPF, VXLAN, CROSS): {
        "client-node-cilium_vxlan": [(*FROM_POD, "to-overlay"), ("cil_to_overlay", "cilium_vxlan", "seen")],
        "server-eth0": [(*FROM_TUNNEL, "to-endpoint")],
    },
    (LEGACY, NATIVE, CROSS): {
        "client-node-uplink": [(*FROM_POD, "to-stack"), ("cil_to_netdev", "eth0", "seen")],
        "server-lxc": [(*FROM_WIRE, "seen"), (*FROM_STACK, "to-endpoint")],
    },
    (BPF, NATIVE, CROSS): {
        "client-node-uplink": [(*FROM_POD, "to-network"), ("cil_to_netdev", "eth0", "seen")],
        "server-eth0": [(*FROM_WIRE, "to-endpoint")],
    },
}


def swapped(role: str) -> str:
    """The role at the same place of the way back."""
    client, server = "client", "server"
    return role.replace(client, server) if role.startswith(client) else role.replace(server, client)


def heard(path: PacketPath) -> dict[str, list[tuple[str, str, str]]]:
    found = {}
    for hop in path.hops:
        if hop.moved_by:
            acts = [(m.what, LXC if m.device.startswith(LXC) else m.device, m.helper) for m in hop.moved_by]
            found[str(hop.role) if path.way is Way.REQUEST else swapped(hop.role)] = acts
    return found


def ids(cell: Cell) -> str:
    return " ".join(cell)


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_the_recorded_lines_of_an_echo_stand_where_they_were_said(cell: Cell) -> None:
    paths = exchange(*cell).paths()
    assert [path.way for path in paths] == [Way.REQUEST, Way.REPLY]
    assert [heard(path) for path in paths] == [WAYS[cell], WAYS[cell]]
    assert all(path.after == () for path in paths)


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_with_the_packets_numbers_each_of_three_echoes_has_its_own_lines(cell: Cell) -> None:
    three = exchange(*cell, fixture=ENCODED, echoes=3)
    paths = three.paths()
    assert [heard(path) for path in paths] == [WAYS[cell]] * 6
    for path in paths:
        assert {m.packet.second for hop in path.hops for m in hop.moved_by} == {path.number}
    assert {m.packet.first for m in three.movements()} == {IDENTIFIER}


def test_a_newer_monitors_lines_say_the_same() -> None:
    older, newer = (
        exchange(BPF, VXLAN, CROSS, fixture=f"encoded/{{cell}}.monitor-json.{version}.txt", echoes=3).movements()
        for version in ("1.16.0", "1.19.3")
    )
    assert [replace(one, raw="") for one in newer] == [replace(one, raw="") for one in older]


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_what_monitor_says_takes_no_wire_from_between_two_taps(cell: Cell) -> None:
    one = exchange(*cell)
    wires = [[hop.tap for hop in path.hops if hop.carriage is Carriage.WIRE] for path in one.paths(())]
    assert [[hop.tap for hop in path.hops if hop.carriage is Carriage.WIRE] for path in one.paths()] == wires
    assert all(wires)


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_nothing_but_the_kernels_stack_stays_unobserved(cell: Cell) -> None:
    unobserved = [hop for path in exchange(*cell).paths() for hop in path.hops if hop.carriage is Carriage.UNOBSERVED]
    if cell != (LEGACY, NATIVE, CROSS):
        assert unobserved == []
        return
    assert [hop.device for hop in unobserved] == ["eth0", "eth0"]
    for hop in unobserved:
        assert hop.because.endswith("left it to the kernel's stack; what the stack did with it was not observed")


@pytest.mark.parametrize("cell", CELLS, ids=ids)
def test_no_redirect_is_named_that_monitor_does_not_tell(cell: Cell) -> None:
    """Monitor prints the same for bpf_redirect and for bpf_redirect_peer, and so for bpf_redirect_neigh."""
    paths = exchange(*cell).paths()
    assert not any("bpf_redirect" in hop.because for path in paths for hop in path.hops)
    given = [
        hop for path in paths for hop in path.hops if any(m.helper == ForwardingAct.TO_ENDPOINT for m in hop.moved_by)
    ]
    assert len(given) == 2
    assert all(hop.because.endswith("(to-endpoint; the redirect helper is not reported)") for hop in given)


def test_a_silent_lxc_is_explained_by_the_program_that_bypassed_it() -> None:
    request, _ = exchange(BPF, VXLAN, CROSS).paths()
    (reason,) = [one for one in request.skipped if one.role == "server-lxc"]
    assert reason.is_observed
    assert reason.reason == (
        "never transmitted on lxc32e0618ac07f: cil_from_overlay on cilium_vxlan gave it to this endpoint, and the pod "
        "had it next"
    )


def test_two_lines_of_one_program_about_one_packet_are_one_movement_with_both() -> None:
    movement, *_ = exchange(BPF, NATIVE, CROSS).movements()
    assert [line.split(" flow")[0] for line in movement.raw.splitlines()] == ["<- endpoint 2104", "-> network"]


def test_the_device_of_a_pod_is_that_of_its_endpoint() -> None:
    one = exchange(BPF, NATIVE, CROSS)
    movement, *_ = one.movements()
    assert (movement.device, movement.target) == (one.lab.pod("client").lxc, "eth0")
    assert (movement.mover, movement.identity) == (Mover.PROGRAM, one.lab.pod("client").identity)


def test_lines_that_a_change_of_cpu_put_out_of_order_are_put_back() -> None:
    three = exchange(LEGACY, NATIVE, CROSS, fixture=ENCODED, echoes=3)
    mixed = replace(three, told={node: "\n".join(reversed(text.splitlines())) for node, text in three.told.items()})
    assert [heard(path) for path in mixed.paths()] == [heard(path) for path in three.paths()]


def test_lines_without_numbers_are_put_to_packets_by_their_turn() -> None:
    one = exchange(BPF, VXLAN, CROSS)
    three = replace(one, echoes=3, told={node: f"{text.rstrip()}\n" * 3 for node, text in one.told.items()})
    assert [heard(path) for path in three.paths()] == [WAYS[BPF, VXLAN, CROSS]] * 6


def test_where_the_turns_do_not_come_out_even_none_is_put_to_a_packet_and_it_is_said() -> None:
    one = exchange(BPF, VXLAN, CROSS)
    twice = {"node1": f"{one.told['node1'].rstrip()}\n" * 3, "node2": f"{one.told['node2'].rstrip()}\n" * 2}
    three = replace(one, echoes=3, told=twice)
    assert [set(heard(path)) for path in three.paths()][::2] == [{"client-node-cilium_vxlan"}] * 3
    _, uneven = numbered(three.movements(), three.sightings())
    ending = (
        "does not report echo sequence numbers, and its events are not one per echo ({} 2× for 3): "
        "not assigned to packets"
    )
    assert uneven == (
        f"cil_from_overlay on node2 {ending.format('to-endpoint')}",
        f"cil_from_container on node2 {ending.format('to-overlay')}",
        f"cil_to_overlay on node2 {ending.format('seen')}",
    )


def test_a_movement_of_tcp_carries_identity_ports_and_the_line_itself() -> None:
    line = (
        "-> endpoint 1617 flow 0x67ea74a6 , identity 9764->26328 state reply ifindex lxc3a6f7d4e8c73 orig-ip "
        "10.244.1.9: 10.244.1.9:80 -> 10.244.2.173:41600 tcp SYN, ACK"
    )
    (movement,) = movements_of("node2", parse_monitor(line), Devices())
    assert (movement.mover, movement.identity, movement.raw) == (Mover.PROGRAM, 9764, line)
    packet = movement.packet
    assert (packet.src, packet.first, packet.dst, packet.second, packet.protocol) == (
        "10.244.1.9", 80, "10.244.2.173", 41600, "tcp",
    )  # fmt: skip


def test_a_packet_that_a_program_dropped_is_lost_there_and_with_ciliums_reason() -> None:
    one = exchange(BPF, VXLAN, CROSS, fixture=ENCODED)
    lines = recorded("encoded/others.monitor.1.16.0.txt").splitlines()
    drop = next(line for line in lines if '"type":"drop"' in line)
    told = movements_of("node1", parse_monitor(drop), one.devices()["node1"])
    seen = [
        sighting._replace(key=told[0].packet)
        for sighting in one.sightings()
        if sighting.way is Way.REQUEST and sighting.role in ("client-eth0", "client-lxc")
    ]
    names = names_of(one.lab, one.pair, one.taps, [])
    (request,) = join(one.taps, seen, told, names, sent=1, ends=ENDS)
    assert request.lost == (
        "the request was dropped on node1 by cil_from_container at lxc6a6019bdbc56 ingress: Policy denied"
    )
    assert request.lost_tap == "node1:lxc6a6019bdbc56"


def with_uplinks_lines(text: str) -> str:
    """As monitors since 1.18 print them: the uplink's own programs tell of the packet inside the envelope, too. The
    lines are those of the vxlan device's program, with the uplink's point, device and endpoint in their place; that of
    a packet that leaves is printed first, as another CPU's buffer may be."""
    lines = []
    for line in text.splitlines():
        arrow = next((one for one in ("to", "from") if f'"observationPoint":"{one}-overlay"' in line), "")
        uplinks = line.replace("overlay", "network").replace('"ifindex":"cilium_vxlan"', '"ifindex":"eth0"')
        uplinks = uplinks.replace('"source":0,', '"source":3391,').replace('"ifindex":"0"', '"ifindex":"eth0"')
        lines += [uplinks, line] if arrow and '"source":0,' in line else [line]
    return "\n".join(lines)


@pytest.mark.parametrize("mode", HostRouting)
@pytest.mark.parametrize("version", ["1.16.0", "1.19.3"])
def test_the_uplinks_programs_stand_on_the_wires_side_of_the_vxlan_device(mode: HostRouting, version: str) -> None:
    plain = exchange(mode, VXLAN, CROSS, fixture=f"encoded/{{cell}}.monitor-json.{version}.txt", echoes=3)
    newer = replace(plain, told={node: with_uplinks_lines(text) for node, text in plain.told.items()})
    paths = newer.paths()
    assert len(paths) == 6
    for path in paths:
        assert path.arrived
        leaving, arriving = (
            next(hop for hop in path.hops if hop.carriage is Carriage.TUNNEL and (hop.envelope is None) is taken_off)
            for taken_off in (False, True)
        )
        assert [(m.what, m.encapsulated) for m in leaving.moved_by] == [("cil_to_netdev", True)]
        assert [(m.what, m.encapsulated) for m in arriving.moved_by] == [("cil_from_netdev", True)]


def test_without_a_tunnel_the_uplinks_programs_have_the_packet_itself() -> None:
    assert not any(movement.encapsulated for movement in exchange(BPF, NATIVE, CROSS).movements())
