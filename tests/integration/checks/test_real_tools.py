"""The checks with the real tools, in two plain namespaces that are joined by a veth pair: no provider needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.captures import capturing
from labctl.checks.load import FILE, PLACES_FILE, LoadCheck, load_values
from labctl.checks.registry import all_checks
from labctl.load.places import parts_of, read_places_file
from labctl.load.program import find_load_program
from labctl.load.slices import read_slices_file
from labctl.model.evidence import DatapathState, Evidence, ModeInForce
from labctl.model.impairment import ImpairedWay
from labctl.model.lab import CheckSpec, Lab, Pair, Placement
from labctl.model.node_status import NodeStatus
from labctl.model.parameters import (
    CheckParameters,
    IperfParameters,
    LatencyParameters,
    LoadParameters,
    PingParameters,
    TcpdumpParameters,
)
from labctl.model.result import CheckResult, Completed, Verdict, WayPart
from labctl.model.service_lists import NodeServices
from labctl.model.signature import Role, Seen
from labctl.path.sighting import TapDirection, Way, match_echo, sightings
from labctl.providers.base import ClockOffset, OpenDevice, Running, Tap, Target, TargetKind, Watch
from labctl.system.process import Process, run
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import MemoryRaw

TOOLS = ("ip", "ping", "iperf3", "sockperf", "tcpdump", "ss")
CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
VXLAN_MACS = ("02:00:00:00:01:0a", "02:00:00:00:01:0b")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in TOOLS),
        reason=f"needs {', '.join(TOOLS)}: apt-get install iproute2 iputils-ping iperf3 sockperf tcpdump",
    ),
]


class NamespaceTarget:
    """A pod that is a named network namespace."""

    kind = TargetKind.POD

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = Path("/run/netns") / namespace

    @property
    def network_namespace(self) -> Path:
        return self.namespace

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace.name, *argv)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        return run(argv, timeout_s=timeout_s, namespace=self.namespace, cpu=cpu, stdin=stdin)

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        return Process(argv, namespace=self.namespace, cpu=cpu, output=output)


class TwoNamespaces:
    """An open lab of two namespaces: `eth0` to `eth0`, and a VXLAN device `vx0` over them."""

    def __init__(self, lab: Lab, client: str, server: str, taps: Sequence[tuple[Role, str, str]]) -> None:
        self.lab = lab
        self.pods = {CLIENT: NamespaceTarget(CLIENT, client), SERVER: NamespaceTarget(SERVER, server)}
        self._taps = tuple(
            Tap(name=f"{pod}:{device}", role=role, target=self.pods[pod], interface=device)
            for role, pod, device in taps
        )

    def target(self, name: str) -> Target:
        return self.pods[name]

    def targets(self) -> tuple[Target, ...]:
        return tuple(self.pods.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        return self._taps

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        return (
            OpenDevice(role=str(Role.CLIENT_UPLINK), mac=CLIENT_MAC),
            OpenDevice(role=str(Role.SERVER_UPLINK), mac=SERVER_MAC),
            OpenDevice(role=str(Role.CLIENT_ETH0), mac=VXLAN_MACS[0]),
            OpenDevice(role=str(Role.SERVER_ETH0), mac=VXLAN_MACS[1]),
        )

    def clock_offsets(self, nodes: object) -> tuple[ClockOffset, ...]:
        return ()

    def testimony(self, pair: Pair, send: object) -> tuple[Evidence, ...]:
        return ()

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        return ()

    def services(self) -> tuple[NodeServices, ...]:
        raise NotImplementedError("two namespaces have no Services")

    def has_daemon_set(self, name: str) -> bool | None:
        return None

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        return ()

    def datapath_state(self) -> DatapathState:
        raise NotImplementedError("two namespaces have no programs to show")

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        raise NotImplementedError("two namespaces have no witness")


COUNTED = {"cycles_per_transaction", "instructions_per_transaction"}
PLAIN_TAPS = ((Role.CLIENT_ETH0, CLIENT, "eth0"), (Role.SERVER_ETH0, SERVER, "eth0"))
VXLAN_TAPS = (
    (Role.CLIENT_ETH0, CLIENT, "vx0"),
    (Role.CLIENT_UPLINK, CLIENT, "eth0"),
    (Role.SERVER_UPLINK, SERVER, "eth0"),
    (Role.SERVER_ETH0, SERVER, "vx0"),
)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, str]]:
    token = f"labctl-test-checks-{os.getpid()}"
    client, server = f"{token}-a", f"{token}-b"
    try:
        for namespace in (client, server):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        veth = ("type", "veth", "peer", "name", "eth0", "address", SERVER_MAC, "netns", server)
        ip("-n", client, "link", "add", "eth0", "address", CLIENT_MAC, *veth)
        for number, namespace in enumerate((client, server)):
            local, remote = f"10.9.0.{number + 1}", f"10.9.0.{2 - number}"
            ip("-n", namespace, "addr", "add", f"{local}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            vxlan = ("type", "vxlan", "id", str(300 + number), "local", local, "remote", remote, "dstport", "8472")
            ip("-n", namespace, "link", "add", "vx0", "address", VXLAN_MACS[number], *vxlan)
            ip("-n", namespace, "addr", "add", f"10.10.0.{number + 1}/24", "dev", "vx0")
        # One VNI for both, since a plain VXLAN device drops other ones.
        ip("-n", server, "link", "del", "vx0")
        vxlan = ("type", "vxlan", "id", "300", "local", "10.9.0.2", "remote", "10.9.0.1", "dstport", "8472")
        ip("-n", server, "link", "add", "vx0", "address", VXLAN_MACS[1], *vxlan)
        ip("-n", server, "addr", "add", "10.10.0.2/24", "dev", "vx0")
        for namespace in (client, server):
            ip("-n", namespace, "link", "set", "vx0", "up")
        yield client, server
    finally:
        for namespace in (client, server):
            subprocess.run(("ip", "netns", "del", namespace), check=False)
        left = subprocess.run(("ip", "netns", "list"), capture_output=True, check=True).stdout.decode()
        assert token not in left


def ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True, capture_output=True)


def open_plain(namespaces: tuple[str, str], server_address: str = "10.9.0.2") -> TwoNamespaces:
    lab = example_lab(placement=Placement.SAME_NODE, client_address="10.9.0.1", server_address=server_address)
    return TwoNamespaces(lab, *namespaces, PLAIN_TAPS)


def perform(open_lab: TwoNamespaces, parameters: CheckParameters, kind: str) -> tuple[CheckResult, MemoryRaw]:
    raw, check = MemoryRaw(), all_checks()[kind]
    spec = CheckSpec(name=kind, kind=kind, parameters=parameters)
    return check.run(CheckContext(open_lab=open_lab, pair=open_lab.lab.pairs[0], spec=spec, raw=raw)), raw


def values(result: CheckResult) -> dict[str, float]:
    return {sample.metric: sample.value for sample in result.samples}


def processes_in(namespace: str) -> bytes:
    return subprocess.run(("ip", "netns", "pids", namespace), capture_output=True, check=True).stdout


def test_ping_measures_every_reply(namespaces: tuple[str, str]) -> None:
    result, raw = perform(open_plain(namespaces), PingParameters(count=20), "ping")
    assert result.verdict is Verdict.PASS, result.reason
    found = values(result)
    assert found["loss"] == 0
    assert 0 < found["rtt_min"] <= found["rtt_p50"] <= found["rtt_p90"] <= found["rtt_p99"] <= found["rtt_max"] < 1
    assert "ttl 64" in result.reason
    assert set(raw.files) == {"ping.json", "ping.stdout", "ping.stderr"}


def test_ping_to_an_unused_address_is_a_failure_with_loss_and_no_round_trip(namespaces: tuple[str, str]) -> None:
    result, _ = perform(open_plain(namespaces, "10.9.0.77"), PingParameters(count=2), "ping")
    assert result.verdict is Verdict.FAIL
    assert values(result) == {"loss": 1.0}


def test_ping_without_a_route_is_a_failure_that_says_so(namespaces: tuple[str, str]) -> None:
    result, _ = perform(open_plain(namespaces, "10.77.0.1"), PingParameters(count=2), "ping")
    assert result.verdict is Verdict.FAIL
    assert result.reason == "the client has no route to the server: Network is unreachable"


def test_iperf_over_tcp_measures_throughput_and_cpu_and_leaves_no_server(namespaces: tuple[str, str]) -> None:
    result, raw = perform(open_plain(namespaces), IperfParameters(duration_s=0.5), "iperf")
    assert result.verdict is Verdict.PASS, result.reason
    found = values(result)
    assert found["throughput"] > 1e8
    assert 1e-11 < found["cpu_per_byte"] < 1e-7
    assert found["retransmits"] >= 0
    assert {"server.stdout", "client.stdout"} <= set(raw.files)
    assert processes_in(namespaces[1]) == b""


def test_iperf_over_udp_measures_loss_and_jitter(namespaces: tuple[str, str]) -> None:
    parameters = IperfParameters(protocol="udp", rate_bit_per_s=20_000_000, streams=2, max_loss=0.5)
    result, _ = perform(open_plain(namespaces), parameters, "iperf")
    assert result.verdict is Verdict.PASS, result.reason
    found = values(result)
    assert set(found) == {"throughput", "loss", "jitter"}
    assert 10e6 < found["throughput"] < 22e6


def test_iperf_beside_a_server_that_holds_the_port_is_an_error(namespaces: tuple[str, str]) -> None:
    open_lab = open_plain(namespaces)
    with open_lab.pods[SERVER].start(("iperf3", "-s", "--forceflush")) as other:
        other.wait_for_output("Server listening", timeout_s=60)
        result, _ = perform(open_lab, IperfParameters(), "iperf")
    assert result.verdict is Verdict.ERROR
    assert "the iperf3 server did not come up" in result.reason
    assert "Address already in use" in result.reason


def test_latency_measures_round_trips_and_own_cpu(namespaces: tuple[str, str]) -> None:
    result, raw = perform(open_plain(namespaces), LatencyParameters(duration_s=1), "latency")
    assert result.verdict is Verdict.PASS, result.reason
    found = values(result)
    assert 0 < found["latency_p50"] <= found["latency_p90"] <= found["latency_p99"] < 0.1
    # Whole round trips, as sockperf printed them; without `--full-rtt` it halves them, and calls them latency.
    printed = re.sub(r"\x1b\[[0-9;]*m", "", raw.files["client.stdout"].decode())
    assert "Summary: Round trip is" in printed
    p50_us = re.search(r"percentile 50\.000 =\s+([\d.]+)", printed)
    assert p50_us is not None
    assert found["latency_p50"] == pytest.approx(float(p50_us[1]) * 1e-6)
    assert 1e-7 < found["cpu_per_transaction"] < 1e-2
    assert {"server.stdout", "client.stdout"} <= set(raw.files)
    assert processes_in(namespaces[1]) == b""


def test_load_measures_two_sides_at_once_and_gives_up_the_one_that_is_not_reached(namespaces: tuple[str, str]) -> None:
    parameters = LoadParameters(duration_s=0.1)
    raws = [MemoryRaw() for _ in range(3)]
    reached, other = open_plain(namespaces), open_plain(namespaces, "10.10.0.2")
    other = TwoNamespaces(other.lab, *namespaces, (*PLAIN_TAPS, *VXLAN_TAPS))
    unreached = open_plain(namespaces, "10.9.0.77")
    contexts = [
        CheckContext(
            open_lab=open_lab,
            pair=open_lab.lab.pairs[0],
            spec=CheckSpec(name="load", kind="load", parameters=parameters),
            raw=raw,
        )
        for open_lab, raw in zip((reached, other, unreached), raws, strict=True)
    ]
    results = LoadCheck().run_abreast(contexts, "7")
    assert [result.verdict for result in results] == [Verdict.PASS, Verdict.PASS, Verdict.ERROR], results
    # The address is nobody's here, so that the server cannot even listen at it: that is not the network's fault.
    assert results[2].reason == "the load program failed: cannot bind to the address: Cannot assign requested address"
    for result in results[:2]:
        found = values(result)
        # Where the CPUs cannot count, as in most virtual machines, there is no figure of that.
        uncounted = set() if "hardware counters" not in result.reason else COUNTED
        assert set(found) == {metric.name for metric in LoadCheck().metrics(parameters)} - uncounted
        assert all(value > 0 for value in found.values())
    # What is in the files gives the same values again.
    files = {number: read_slices_file(raws[number].files[FILE]) for number in (0, 1)}
    again = load_values({number: slices for number, (_, slices) in files.items()}, parameters)
    assert again == {number: values(results[number]) for number in (0, 1)}
    assert {(conditions["congestion"], conditions["program"]) for conditions, _ in files.values()} == {
        ("cubic", find_load_program().name)
    }
    # So do the packets that were followed. Neither side has a node, whose netfilter could take its time.
    for number in (0, 1):
        rounds, has_netfilter = read_places_file(raws[number].files[PLACES_FILE])
        parts = {WayPart(part.metric): part.value for part in results[number].parts}
        assert parts == parts_of(rounds, has_netfilter=has_netfilter)
        assert parts[WayPart.ENDS] > parts[WayPart.WIRE] > 0
        assert parts.get(WayPart.NETFILTER, 0) == 0
    devices = [
        {place.tap for one in read_places_file(raw.files[PLACES_FILE])[0] for place in one.places} for raw in raws[:2]
    ]
    assert devices == [
        {"", "client:eth0", "server:eth0"},
        {"", "client:eth0", "server:eth0", "client:vx0", "server:vx0"},
    ]
    assert processes_in(namespaces[0]) + processes_in(namespaces[1]) == b""


def test_load_through_a_wall_is_a_failure_of_the_network(namespaces: tuple[str, str]) -> None:
    subprocess.run(
        ("nsenter", f"--net=/run/netns/{namespaces[1]}", "nft", "-f", "-"),
        input=b"table ip wall { chain in { type filter hook input priority 0; tcp dport 1024-65535 reject\n }\n}\n",
        check=True,
    )
    try:
        result, _ = perform(open_plain(namespaces), LoadParameters(duration_s=0.1), "load")
    finally:
        subprocess.run(
            ("nsenter", f"--net=/run/netns/{namespaces[1]}", "nft", "delete", "table", "ip", "wall"), check=True
        )
    assert result.verdict is Verdict.FAIL, result.reason
    assert result.reason == "the server was not reached: cannot connect: Connection refused"


def test_tcpdump_takes_the_signature_of_two_plain_namespaces(namespaces: tuple[str, str]) -> None:
    result, raw = perform(open_plain(namespaces), TcpdumpParameters(count=3), "tcpdump")
    assert result.signature is not None, result.reason
    request = Seen(packets=3, ttl=64, src_mac="client-node-uplink", dst_mac="server-node-uplink")
    reply = Seen(packets=3, ttl=64, src_mac="server-node-uplink", dst_mac="client-node-uplink")
    assert [(tap.request, tap.reply) for tap in result.signature.taps] == [(request, reply), (request, reply)]
    assert result.signature.ping_ttl == 64
    # This is no datapath of Cilium's, and the check says at which tap it sees that.
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("at the client's eth0 (client:eth0) the request comes from MAC client-node-uplink")
    assert {"client-eth0.pcap", "server-eth0.pcap", "client-eth0.stderr"} <= set(raw.files)
    assert processes_in(namespaces[0]) == b""


def test_tcpdump_sees_echo_inside_vxlan_and_nothing_but_echo(namespaces: tuple[str, str]) -> None:
    lab = example_lab(client_address="10.10.0.1", server_address="10.10.0.2")
    nodes = tuple(replace(node, address=IPv4Interface(f"10.9.0.{node.index + 1}/24")) for node in lab.nodes)
    open_lab = TwoNamespaces(replace(lab, nodes=nodes), *namespaces, VXLAN_TAPS)
    result, _ = perform(open_lab, TcpdumpParameters(count=3), "tcpdump")
    assert result.signature is not None, result.reason
    uplink = result.signature.taps[1]
    assert uplink.request is not None
    assert uplink.request.outer is not None
    assert uplink.request.packets == 3
    assert (uplink.request.src_mac, uplink.request.dst_mac) == ("client-eth0", "server-eth0")
    assert uplink.request.outer.src == "client-node"
    assert uplink.request.outer.vni == 300
    assert uplink.request.outer.dst_port == 8472
    assert (uplink.request.outer.src_mac, uplink.request.outer.dst_mac) == ("client-node-uplink", "server-node-uplink")
    assert uplink.reply is not None
    assert uplink.reply.outer is not None
    assert uplink.reply.outer.src == "server-node"


def test_tcpdump_towards_no_route_is_a_failure_in_the_kernels_words(namespaces: tuple[str, str]) -> None:
    result, _ = perform(open_plain(namespaces, "10.77.0.1"), TcpdumpParameters(count=1), "tcpdump")
    assert result.verdict is Verdict.FAIL
    assert "the sender's kernel reported: Network is unreachable" in result.reason


def test_a_tap_that_does_not_exist_is_an_error_in_tcpdumps_words(namespaces: tuple[str, str]) -> None:
    open_lab = TwoNamespaces(open_plain(namespaces).lab, *namespaces, ((Role.CLIENT_ETH0, CLIENT, "nope"),))
    result, _ = perform(open_lab, TcpdumpParameters(count=1), "tcpdump")
    assert result.verdict is Verdict.ERROR
    assert "No such device" in result.reason
    assert processes_in(namespaces[0]) == b""


def test_two_captures_per_tap_tell_the_direction_of_each_packet(namespaces: tuple[str, str]) -> None:
    open_lab = open_plain(namespaces)
    taps = open_lab.taps(open_lab.lab.pairs[0])
    client = open_lab.target(CLIENT)
    with capturing(taps, "icmp", directions=tuple(TapDirection)) as live:
        client.run(("ping", "-c", "2", "-i", "0.01", "-p", "ab", "10.9.0.2"), timeout_s=60)
        client.run(("sleep", "0.2"), timeout_s=60)
        captures = live.stop()
    matcher = match_echo([(IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2"))], b"\xab" * 4)
    seen = [
        (sighting.tap, sighting.direction, sighting.way)
        for capture in captures
        for sighting in sightings(
            capture.records(), matcher, tap=capture.tap.name, role=capture.tap.role, direction=capture.direction
        )
    ]
    assert seen == [
        *[("client:eth0", TapDirection.IN, Way.REPLY)] * 2,
        *[("client:eth0", TapDirection.OUT, Way.REQUEST)] * 2,
        *[("server:eth0", TapDirection.IN, Way.REQUEST)] * 2,
        *[("server:eth0", TapDirection.OUT, Way.REPLY)] * 2,
    ]
