"""Monitor lines of a real cluster in the paths of single echoes: each at the packet and at the place that it is of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.trace import Carriage, ForwardingAct, Mover, PacketPath, Way
from labctl.path.assemble import join, names_of, numbered
from labctl.providers.cilium.monitor import Devices, movements_of, parse_monitor

from .cilium_exchange import CELLS, IDENTIFIER, exchange
from .cilium_recordings import recorded

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
    assert all(hop.because.endswith("(to-endpoint; with which redirect is not told)") for hop in given)


def test_a_silent_lxc_is_told_with_who_gave_the_packet_to_the_pod_past_it() -> None:
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
    ending = "tells no echo's number, and has not one event for each ({} 2× for 3): not put to packets"
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
    (request,) = join(one.taps, seen, told, names, sent=1, ends=("client:eth0", "server:eth0"))
    assert request.lost == (
        "the request was dropped on node1 by cil_from_container at lxc6a6019bdbc56 ingress: Policy denied"
    )
    assert request.lost_tap == "node1:lxc6a6019bdbc56"
