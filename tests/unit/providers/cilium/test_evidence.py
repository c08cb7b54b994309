"""Endpoints, tunnels, monitor lines and counters of real clusters, and what each of them proves."""

from __future__ import annotations

import pytest

from labctl.errors import MeasureFailed
from labctl.providers.cilium.cluster_facts import endpoint_of, parse_endpoints, parse_tunnels
from labctl.providers.cilium.evidence import (
    LinkCounters,
    agent_evidence,
    found_by_agent,
    lxc_evidence,
    monitor_evidence,
    netfilter_evidence,
)
from labctl.providers.cilium.monitor import MonitorTrace, host_routing_of, parse_monitor
from labctl.providers.cilium.status import parse_status

from .cilium_recordings import datapath, recorded


def test_an_endpoint_has_the_names_and_addresses_of_its_pods_wire() -> None:
    found = endpoint_of(parse_endpoints(recorded("endpoints.json")), "default/a")
    assert found is not None
    assert (found.id, found.identity, found.address, found.mac, found.lxc, found.lxc_index, found.lxc_mac) == (
        82, 16843, "10.244.0.153", "de:ee:b7:9b:ca:56", "lxca00a6ed327b1", 53, "a2:78:55:91:97:1b",
    )  # fmt: skip


def test_host_and_health_endpoints_are_no_pods() -> None:
    pods = [endpoint.pod for endpoint in parse_endpoints(recorded("endpoints.json"))]
    assert sorted(pods) == ["", "", "default/a", "default/b"]


@pytest.mark.parametrize("text", ["", "Cannot get endpoint list", "{}"])
def test_what_is_no_list_of_endpoints_is_an_error(text: str) -> None:
    with pytest.raises(MeasureFailed, match="list of endpoints is not"):
        parse_endpoints(text)


def test_tunnels_go_by_prefix_to_a_node() -> None:
    assert [(tunnel.prefix, tunnel.endpoint) for tunnel in parse_tunnels(recorded("tunnels.txt"))] == [
        ("10.244.1.0", "172.30.0.2"),
        ("10.244.2.0", "172.30.0.4"),
    ]


def traces(cell: str) -> tuple[MonitorTrace, ...]:
    """The client node's first run: everything before the second header."""
    return parse_monitor(recorded(f"{cell}.monitor-none.extract.txt").split("#####")[1 + 1])


@pytest.mark.parametrize("cell", ["bpf-vxlan", "bpf-native", "legacy-native"])
def test_every_trace_line_of_the_recording_is_read(cell: str) -> None:
    text = recorded(f"{cell}.monitor-none.extract.txt")
    lines = [line for line in text.splitlines() if line.startswith(("->", "<-"))]
    assert lines
    assert len(parse_monitor(text)) == len(lines)


@pytest.mark.parametrize(
    ("cell", "client", "server", "mode"),
    [
        ("legacy-native", "10.244.0.58", "10.244.1.93", "legacy"),
        ("bpf-vxlan", "10.244.0.187", "10.244.1.67", None),
    ],
)
def test_the_way_past_the_programs_shows_the_mode_where_it_differs(
    cell: str, client: str, server: str, mode: str | None
) -> None:
    assert host_routing_of(traces(cell), client, server) == mode


def test_bpf_with_native_routing_goes_straight_to_the_network() -> None:
    seen = parse_monitor(recorded("bpf-native.monitor-none.extract.txt"))
    sent = next(trace for trace in seen if trace.point == "to-network" and trace.what == "EchoRequest")
    evidence = monitor_evidence(
        "node1", [t for t in seen if t.source == sent.source and t.destination == sent.destination],
        sent.source, sent.destination, datapath("bpf", "native").asked(), ("cilium", "monitor"),
    )  # fmt: skip
    assert (evidence.supports, evidence.found) == (True, {"hostRouting": "bpf"})


def test_lines_of_versions_without_a_comma_and_with_ports_are_read() -> None:
    (trace,) = parse_monitor(
        "-> overlay flow 0xae1c1868 identity 26328->9764 state new ifindex cilium_vxlan orig-ip 0.0.0.0: "
        "10.244.2.173:41600 -> 10.244.1.9:80 tcp SYN"
    )
    assert (trace.point, trace.source, trace.first, trace.destination, trace.second, trace.what) == (
        "to-overlay", "10.244.2.173", 41600, "10.244.1.9", 80, "tcp SYN",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("transmitted", "received", "mode"),
    [(3, 3, "legacy"), (4, 4, "legacy"), (0, 3, "bpf"), (1, 4, "bpf")],
)
def test_the_lxc_counters_tell_the_mode_with_a_few_arp_frames_among_them(
    transmitted: int, received: int, mode: str
) -> None:
    delta = LinkCounters(transmitted=transmitted + 10, received=received + 20).since(
        LinkCounters(transmitted=10, received=20)
    )
    evidence = lxc_evidence("a", "node1", "lxc1", delta, datapath("bpf").asked(), ("ip",), arrived=received)
    assert (evidence.found, evidence.supports) == ({"hostRouting": mode}, mode == "bpf")


@pytest.mark.parametrize("arrived", [None, 0, 2])
@pytest.mark.parametrize("asked", ["bpf", "legacy"])
def test_an_lxc_that_sent_nothing_shows_no_mode_where_nothing_is_known_to_have_come(
    arrived: int | None, asked: str
) -> None:
    """Replies that were lost on the way are missing in Legacy too."""
    delta = LinkCounters(transmitted=1, received=4)
    evidence = lxc_evidence("a", "node1", "lxc1", delta, datapath(asked).asked(), ("ip",), arrived=arrived)
    assert (evidence.supports, evidence.found) == (None, None)


def test_what_an_agent_does_not_tell_is_not_claimed_for_it() -> None:
    silent = parse_status('{"cilium": {"state": "Ok", "msg": "1.15.1"}, "routing": {"intra-host-routing-mode": "BPF"}}')
    assert found_by_agent(silent, {}) == {"hostRouting": "bpf"}
    evidence = agent_evidence("node1", silent, {}, datapath("bpf", "native").asked(), None, ("cilium", "status"))
    assert evidence.supports is True


def test_too_few_packets_prove_nothing() -> None:
    evidence = lxc_evidence("a", "n", "lxc1", LinkCounters(transmitted=1, received=2), datapath().asked(), ("ip",))
    assert evidence.supports is None
    assert evidence.found is None


@pytest.mark.parametrize(
    ("encapsulation", "entries", "asked", "supports"),
    [("native", 1, "legacy", True), ("native", 1, "bpf", False), ("native", 0, "bpf", None), ("vxlan", 0, "bpf", None)],
)
def test_conntrack_entries_of_pods_prove_legacy_and_their_absence_nothing(
    encapsulation: str, entries: int, asked: str, supports: bool | None
) -> None:
    evidence = netfilter_evidence("node1", entries, "a", "c", datapath(asked, encapsulation).asked(), ("conntrack",))
    assert evidence.supports is supports
