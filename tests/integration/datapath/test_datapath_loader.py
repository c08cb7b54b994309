"""Loading, reading and watching the programs on a real kernel: objects, faults, the trace of a pair, the slowdown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from statistics import median

import pytest
from datapath_frames import echo_request, make_frame, parse_frame
from datapath_topology import OUTSIDE, Cluster, capturing, cluster, make_lab

from labctl.datapath import bpf
from labctl.datapath.events import Event, EventReader, stop_tracing, trace_pair
from labctl.datapath.layout import NO_ADDRESS, PacketVerdict, Program, read_metrics
from labctl.datapath.loader import load, load_object
from labctl.errors import StepFailed
from labctl.model.interfaces import CILIUM_TUNNEL_INDEX, UPLINK, UPLINK_INDEX, lxc_indexes
from labctl.model.lab import Encapsulation, Fault, HostRouting
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.network import attachments
from labctl.testing.labs import RECORDED

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: eBPF programs and namespaces"),
    pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping (iputils-ping)"),
]

MODES = [(routing, encapsulation) for routing in HostRouting for encapsulation in RECORDED]
each_mode = pytest.mark.parametrize(("host_routing", "encapsulation"), MODES)
BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
COMMON_MAPS = {"config", "endpoints", "ipcache", "snat", "snat_queue", "fragments", "metrics", "events"}


@each_mode
def test_an_object_has_the_programs_and_maps_of_its_mode(
    host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    lab = make_lab(host_routing, encapsulation)
    with load(host_routing, encapsulation) as loaded:
        assert set(loaded.programs) == {one.program for one in attachments(lab, "node1")}
        assert set(loaded.maps) == COMMON_MAPS | ({"tunnel"} if encapsulation is VXLAN else set())
        assert set(map_contents(lab, "node1")) <= set(loaded.maps)


def test_copies_of_an_object_share_no_map() -> None:
    with load(BPF, VXLAN) as one, load(BPF, VXLAN) as other:
        bpf.update(one.maps["ipcache"], [(b"\x0a\0\0\1", b"\1\0\0\0\0\0\0\0")])
        assert bpf.lookup(one.maps["ipcache"], b"\x0a\0\0\1", 8) is not None
        assert bpf.lookup(other.maps["ipcache"], b"\x0a\0\0\1", 8) is None


def test_nothing_is_left_open_after_close() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    load(BPF, NATIVE).close()
    assert set(Path("/proc/self/fd").iterdir()) == before


@each_mode
def test_what_is_put_into_the_maps_is_read_back(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    lab = make_lab(host_routing, encapsulation)
    with load(host_routing, encapsulation) as loaded:
        for name, entries in map_contents(lab, "node2").items():
            bpf.update(loaded.maps[name], entries)
            assert {(key, value) for key, (value,) in bpf.dump(loaded.maps[name])} == set(entries)


def test_an_entry_is_deleted_once() -> None:
    with load(LEGACY, NATIVE) as loaded:
        bpf.update(loaded.maps["ipcache"], [(b"\x0a\0\0\1", b"\1\0\0\0\0\0\0\0")])
        assert bpf.delete(loaded.maps["ipcache"], b"\x0a\0\0\1")
        assert not bpf.delete(loaded.maps["ipcache"], b"\x0a\0\0\1")


def test_the_maps_of_a_running_node_are_found_through_its_programs() -> None:
    with load(BPF, VXLAN) as loaded:
        number = bpf.program_info(loaded.programs["cil_from_container"]).id
        program = bpf.program_descriptor(number)
        found = bpf.maps_of_program(program)
        try:
            assert {"config", "endpoints", "ipcache", "tunnel", "metrics", "events"} <= set(found)
            for name, descriptor in found.items():
                assert bpf.map_info(descriptor).id == bpf.map_info(loaded.maps[name]).id
        finally:
            bpf.close_all([program, *found.values()])


def test_a_program_is_named_and_tagged_alike_in_every_copy() -> None:
    with load(BPF, NATIVE) as one, load(BPF, NATIVE) as other:
        first, second = (bpf.program_info(loaded.programs["cil_from_netdev"]) for loaded in (one, other))
        assert first.name == "cil_from_netdev"
        assert first.tag == second.tag
        assert first.id != second.id


def test_a_file_that_is_no_object_is_refused_in_libbpfs_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"not an object")
    with pytest.raises(StepFailed) as refused:
        load_object(broken)
    assert "broken.o" in refused.value.what
    assert "is not a proper ELF object" in refused.value.cause


def test_a_program_runs_on_a_packet_without_any_device() -> None:
    lab = make_lab(BPF, VXLAN)
    pod = lab.pod("a")
    with load(BPF, VXLAN) as loaded:
        bpf.update(loaded.maps["config"], map_contents(lab, "node1")["config"])
        frame = make_frame(
            source_mac=pod.mac,
            destination_mac=pod.lxc_mac,
            source=pod.address,
            destination=lab.pod("b").address,
            payload=echo_request(),
        )
        ran = bpf.run_program(loaded.programs["cil_from_container"], frame)
        assert ran.returned == 2  # TC_ACT_SHOT: there is no such endpoint yet
        (metric,) = read_metrics(loaded.maps["metrics"])
        assert (metric.program, metric.verdict, metric.packets) == (
            Program.FROM_CONTAINER,
            PacketVerdict.INVALID_SOURCE,
            1,
        )
        assert metric.bytes == len(frame)


def test_the_trace_has_every_program_on_the_way_of_a_pair() -> None:
    lab = make_lab(BPF, VXLAN)
    a, c = lab.pod("a"), lab.pod("c")
    with cluster(lab) as built:
        readers = {node: EventReader(built.loaded[node].maps["events"]) for node in ("node1", "node2")}
        built.ping("a", c.address)
        assert [event for reader in readers.values() for event in reader.read()] == []
        for node in readers:
            trace_pair(built.loaded[node].maps["config"], a.address, c.address)
        built.ping("a", lab.pod("b").address)  # another pair: not told
        assert built.ping("a", c.address, "-c", "1").returncode == 0
        for node in readers:
            stop_tracing(built.loaded[node].maps["config"])
        built.ping("a", c.address)
        told = [(node, event) for node, reader in readers.items() for event in reader.read(timeout_s=0.1)]
        for reader in readers.values():
            reader.close()
    told.sort(key=lambda one: one[1].time_ns)
    steps = [(node, e.program, e.verdict, e.encapsulated, e.icmp_type, e.ttl_in, e.ttl_out) for node, e in told]
    there, back = ("node1", "node2"), ("node2", "node1")
    expected = [
        step
        for (sender, receiver), kind in ((there, 8), (back, 0))
        for step in (
            (sender, Program.FROM_CONTAINER, PacketVerdict.TUNNEL, False, kind, 64, 64),
            (sender, Program.TO_OVERLAY, PacketVerdict.PASS, False, kind, 64, 64),
            (sender, Program.TO_NETDEV, PacketVerdict.PASS, True, kind, 64, 64),
            (receiver, Program.FROM_NETDEV, PacketVerdict.TO_STACK, True, kind, 64, 64),
            (receiver, Program.FROM_OVERLAY, PacketVerdict.REDIRECT_PEER, False, kind, 64, 63),
        )
    ]
    assert steps == expected
    request = told[0][1]
    assert (request.source, request.destination) == (a.address, c.address)
    assert (request.ifindex, request.target_ifindex) == (lxc_indexes(lab, "node1")["a"], CILIUM_TUNNEL_INDEX)
    assert (request.identity, request.hook, request.length, request.protocol) == (a.identity, "ingress", 84, 1)
    assert len({e.source_port for _, e in told}) == 1  # the echo's id
    assert {e.destination_port for _, e in told} == {1}  # its sequence number
    assert told[2][1].ifindex == UPLINK_INDEX
    assert {e.identity for _, e in told[:5]} == {a.identity}
    assert {e.identity for _, e in told[5:]} == {c.identity}


def test_the_trace_of_a_masqueraded_packet_has_both_addresses() -> None:
    lab = make_lab(BPF, NATIVE)
    a, node = lab.pod("a").address, lab.node("node1").address.ip
    with cluster(lab) as built, EventReader(built.loaded["node1"].maps["events"]) as reader:
        trace_pair(built.loaded["node1"].maps["config"], a, NO_ADDRESS)
        assert built.ping("a", OUTSIDE, "-c", "1").returncode == 0
        told = list(reader.read(timeout_s=0.1))
    leaving: list[Event] = [e for e in told if e.program is Program.TO_NETDEV]
    coming: list[Event] = [e for e in told if e.program is Program.FROM_NETDEV]
    assert [(e.original_source, e.source) for e in leaving] == [(a, node)]
    assert [(e.original_destination, e.destination, e.verdict) for e in coming] == [
        (node, a, PacketVerdict.REDIRECT_PEER)
    ]


def lxc_sees(cluster: Cluster, kind: int) -> int:
    lxc = cluster.lab.pod("b").lxc
    with capturing(cluster, [("node1", lxc)]) as captured:
        assert cluster.ping("a", cluster.lab.pod("b").address).returncode == 0
        frames = map(parse_frame, captured["node1", lxc]())
        return sum(1 for frame in frames if frame is not None and frame.icmp_type == kind)


def test_the_fault_no_redirect_peer_shows_on_the_lxc() -> None:
    with cluster(make_lab(BPF, NATIVE)) as right:
        assert lxc_sees(right, 8) == 0
    with cluster(make_lab(BPF, NATIVE, faults=(Fault.NO_REDIRECT_PEER,))) as wrong:
        assert lxc_sees(wrong, 8) == 3
        verdicts = {m.verdict for m in read_metrics(wrong.loaded["node1"].maps["metrics"])}
        assert PacketVerdict.REDIRECT_PEER not in verdicts


def test_the_fault_wrong_vni_shows_on_the_uplink_and_does_not_stop_traffic() -> None:
    lab = make_lab(BPF, VXLAN, faults=(Fault.WRONG_VNI,))
    with cluster(lab) as built, capturing(built, [("node1", UPLINK)]) as captured:
        assert built.ping("a", lab.pod("c").address).returncode == 0
        frames = [frame for frame in map(parse_frame, captured["node1", UPLINK]()) if frame is not None]
        vnis = {frame.vni for frame in frames if frame.icmp_type == 8}
    assert len(vnis) == 1
    assert lab.pod("a").identity not in vnis


def test_the_fault_wrong_vtep_stops_cross_node_traffic_only() -> None:
    lab = make_lab(BPF, VXLAN, faults=(Fault.WRONG_VTEP,))
    with cluster(lab) as built:
        assert built.ping("a", lab.pod("b").address).returncode == 0
        assert built.ping("a", lab.pod("c").address, "-W", "0.3").returncode == 1


@each_mode
def test_the_extra_delay_is_in_one_program_only(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    """Each program is measured in turns with and without the delay, so that the machine's speed does not count; medians
    of single runs leave out those in which the processor was taken away."""
    delay_ns = 10_000
    labs = [make_lab(host_routing, encapsulation, extra_delay_ns=delay) for delay in (0, delay_ns)]
    a, b = labs[0].pod("a"), labs[0].pod("b")
    frame = make_frame(
        source_mac=a.mac, destination_mac=a.lxc_mac, source=a.address, destination=b.address, payload=echo_request()
    )
    added_ns, took_ns = {}, {}
    with load(host_routing, encapsulation) as loaded:
        configs = [map_contents(lab, "node1")["config"] for lab in labs]
        for name, program in loaded.programs.items():
            runs_ns: tuple[list[int], list[int]] = ([], [])
            for _ in range(201):
                for config, durations_ns in zip(configs, runs_ns, strict=True):
                    bpf.update(loaded.maps["config"], config)
                    durations_ns.append(bpf.run_program(program, frame).duration_ns)
            took_ns[name] = median(runs_ns[1])
            added_ns[name] = took_ns[name] - median(runs_ns[0])
    assert took_ns["cil_from_container"] >= delay_ns
    assert added_ns.pop("cil_from_container") < 1.5 * delay_ns
    assert max(added_ns.values()) < delay_ns / 2
