"""The tcpdump check against scripted captures of all eight cells, and every reason not to believe a capture."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.captures import argv_tcpdump, echo_filter, parse_counts
from labctl.checks.registry import all_checks
from labctl.checks.tcpdump import TcpdumpCheck, WatchedPing
from labctl.model.lab import POD_PLACEMENTS, CheckSpec, Encapsulation, HostRouting, Lab, Placement
from labctl.model.parameters import PARAMETERS_OF, TcpdumpParameters
from labctl.model.result import CheckResult, Verdict
from labctl.model.signature import Role, Seen, TapSight
from labctl.networks.cilium.expected import expected_for
from labctl.path.sighting import TapDirection
from labctl.path.signature import lost_on_the_way
from labctl.providers.base import Tap
from labctl.testing import packets
from labctl.testing.labs import CLIENT, RECORDED, example_devices, example_lab
from labctl.testing.scripted import Answer, FakeClock, MemoryRaw, ScriptedLab, ScriptedTarget

TOKEN = b"0123456789abcdef"
CELLS = [
    pytest.param(mode, encapsulation, placement, id=f"{mode}-{encapsulation}-{placement}")
    for mode in HostRouting
    for encapsulation in RECORDED
    for placement in POD_PLACEMENTS
]


def ping_output(ttl: int, count: int) -> bytes:
    reply = b"64 bytes from 10.0.0.2: icmp_seq=1 ttl=%d time=0.100 ms\n" % ttl
    return reply * count + b"%d packets transmitted, %d received, 0%% packet loss, time 2ms\n" % (count, count)


def summary(captured: int, received: int | None = None, dropped: int = 0) -> bytes:
    return (
        b"tcpdump: listening on x, link-type EN10MB (Ethernet), snapshot length 512 bytes\n"
        b"%d packets captured\n%d packets received by filter\n%d packets dropped by kernel\n"
        % (captured, captured if received is None else received, dropped)
    )


class Scene:
    """Scripted taps that show a signature: each tap's tcpdump prints the packets that the signature has there."""

    def __init__(self, lab: Lab, shown: Sequence[TapSight], *, ping: Answer, token: bytes = TOKEN) -> None:
        self.lab = lab
        self.macs = {device.role: device.mac for device in example_devices(lab)}
        self.clock = FakeClock()
        self.raw = MemoryRaw()
        self.client = ScriptedTarget(CLIENT, [ping])
        self.taps: list[ScriptedTarget] = []
        self.overrides: dict[Role, Sequence[Answer]] = {}
        self.shown, self.token = shown, token

    def run(self, count: int = 3) -> CheckResult:
        taps = []
        for sight in self.shown:
            answers = self.overrides.get(sight.role) or [self.tcpdump(sight)]
            target = ScriptedTarget(f"at-{sight.role}", answers)
            self.taps.append(target)
            taps.append(Tap(name=f"node:{sight.role}", role=sight.role, target=target, interface=f"if-{sight.role}"))
        open_lab = ScriptedLab(self.lab, [self.client], taps=taps, devices=example_devices(self.lab))
        check = TcpdumpCheck(WatchedPing(token=lambda: TOKEN, sleep=self.clock.sleep))
        return check.run(
            CheckContext(
                open_lab=open_lab,
                pair=self.lab.pairs[0],
                spec=CheckSpec(name="tcpdump", kind="tcpdump", parameters=TcpdumpParameters(count=count)),
                raw=self.raw,
            )
        )

    def tcpdump(self, sight: TapSight, **more: object) -> Answer:
        frames = [
            (number * 1_000_000 + offset, frame)
            for offset, seen, is_request in ((0, sight.request, True), (500_000, sight.reply, False))
            if seen is not None
            for number, frame in enumerate(self.frames(seen, is_request=is_request))
        ]
        answer = Answer(argv=("tcpdump",), stdout=packets.pcap_file(frames), stderr=summary(len(frames)))
        return replace(answer, **more)  # type: ignore[arg-type]

    def frames(self, seen: Seen, *, is_request: bool) -> list[bytes]:
        client, server = (str(pod.address) for pod in self.lab.pods)
        src, dst = (client, server) if is_request else (server, client)
        frames = []
        for number in range(seen.packets):
            icmp = packets.icmp_echo(
                is_request=is_request, identifier=1, sequence=number, payload=b"t" * 16 + self.token
            )
            ip = packets.ipv4(src, dst, icmp, protocol=1, ttl=seen.ttl)
            frame = packets.ethernet(self.macs[seen.src_mac], self.macs[seen.dst_mac], ip)
            if seen.outer is not None:
                first, second = (str(node.address.ip) for node in self.lab.nodes)
                frame = packets.enveloped(
                    frame,
                    src=first if is_request else second,
                    dst=second if is_request else first,
                    src_mac=self.macs[seen.outer.src_mac],
                    dst_mac=self.macs[seen.outer.dst_mac],
                    vni=seen.outer.vni,
                    ttl=seen.outer.ttl,
                )
            frames.append(frame)
        return frames


def scene(
    mode: HostRouting = HostRouting.BPF,
    encapsulation: Encapsulation = Encapsulation.VXLAN,
    placement: Placement = Placement.CROSS_NODE,
    *,
    shown_mode: HostRouting | None = None,
    count: int = 3,
) -> Scene:
    lab = example_lab(host_routing=mode, encapsulation=encapsulation, placement=placement)
    shown_lab = replace(lab, datapath=replace(lab.datapath, host_routing=shown_mode or mode))
    shown = expected_for(shown_lab, lab.pairs[0], packets=count).signature
    assert shown.ping_ttl is not None
    return Scene(lab, shown.taps, ping=Answer(argv=("ping",), stdout=ping_output(shown.ping_ttl, count)))


@pytest.mark.parametrize(("mode", "encapsulation", "placement"), CELLS)
def test_the_packets_of_real_cilium_pass_in_every_cell(
    mode: HostRouting, encapsulation: Encapsulation, placement: Placement
) -> None:
    here = scene(mode, encapsulation, placement)
    result = here.run()
    assert result.verdict is Verdict.PASS, result.reason
    assert result.reason.startswith("every tap shows what real Cilium shows")
    expected = expected_for(here.lab, here.lab.pairs[0], packets=3).signature
    assert result.signature is not None
    for seen, wanted in zip(result.signature.taps, expected.taps, strict=True):
        assert (seen.role, seen.request, seen.reply) == (wanted.role, wanted.request, wanted.reply)
    assert result.signature.ping_ttl == expected.ping_ttl


@pytest.mark.parametrize(("mode", "encapsulation", "placement"), CELLS)
def test_the_other_mode_fails_in_every_cell(
    mode: HostRouting, encapsulation: Encapsulation, placement: Placement
) -> None:
    other = HostRouting.BPF if mode is HostRouting.LEGACY else HostRouting.LEGACY
    result = scene(mode, encapsulation, placement, shown_mode=other).run()
    assert result.verdict is Verdict.FAIL
    assert ("in Legacy" if mode is HostRouting.BPF else "as in BPF") in result.reason or (
        "host routing is Legacy" if mode is HostRouting.BPF else "host routing is BPF"
    ) in result.reason


def test_every_tap_is_stopped_with_sigint_and_everything_is_kept() -> None:
    here = scene()
    here.run()
    assert all(tap.started[0].signals == [signal.SIGINT] for tap in here.taps)
    assert {"warm-up.stdout", "ping.stdout", "client-lxc.pcap", "client-lxc.stderr", "server-eth0.json"} <= set(
        here.raw.files
    )
    assert here.raw.files["client-eth0.pcap"][:4] == b"\xd4\xc3\xb2\xa1"


def test_the_neighbours_are_resolved_before_anything_is_captured() -> None:
    here = scene(count=5)
    here.run(count=5)
    warm_up, marked = (call.argv for call in here.client.calls)
    assert warm_up[warm_up.index("-c") + 1] == "1"
    assert "-p" not in warm_up
    assert marked[marked.index("-c") + 1] == "5"
    assert marked[marked.index("-p") + 1] == TOKEN.hex()


def test_traffic_without_the_mark_is_not_counted() -> None:
    here = scene()
    here.token = b"somebody else's!"
    result = here.run()
    assert result.verdict is Verdict.ERROR
    assert result.reason.startswith("the capture sees nothing: the known packet was not even seen at the client's own")


def test_packets_that_were_dropped_make_the_capture_worthless() -> None:
    here = scene()
    here.overrides[Role.CLIENT_LXC] = [
        Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=summary(0, dropped=7))
    ]
    result = here.run()
    assert result.verdict is Verdict.ERROR
    assert result.reason == (
        "the capture on node:client-lxc is not complete: the kernel dropped 7 packets before tcpdump"
    )


def test_packets_left_in_the_buffer_repeat_the_capture_with_more_patience() -> None:
    here = scene()
    sight = next(tap for tap in here.shown if tap.role is Role.CLIENT_LXC)
    short = Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=summary(0, received=3), times=1)
    here.overrides[Role.CLIENT_LXC] = [short, here.tcpdump(sight)]
    result = here.run()
    assert result.verdict is Verdict.PASS, result.reason
    assert here.clock.slept_s == [0.05, 0.25]
    assert "client-lxc-2.pcap" in here.raw.files


def test_packets_left_in_the_buffer_every_time_are_an_error() -> None:
    here = scene()
    here.overrides[Role.CLIENT_LXC] = [
        Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=summary(0, received=3))
    ]
    result = here.run()
    assert result.verdict is Verdict.ERROR
    assert result.reason.startswith("the capture is not complete: in 3 attempts")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(argv=("tcpdump",), stderr=b"tcpdump: nope: No such device exists"), "No such device exists"),
        (
            Answer(argv=("tcpdump",), stderr=b"tcpdump: listening on x\nSegmentation fault", returncode=-11),
            "the capture on node:client-lxc ended badly: tcpdump: Segmentation fault",
        ),
        (Answer(argv=("tcpdump",), stderr=summary(1), timed_out=True), "ended badly"),
        (
            Answer(argv=("tcpdump",), stdout=b"garbage", stderr=summary(1)),
            "the capture on node:client-lxc cannot be read: not a pcap file",
        ),
        (
            Answer(argv=("tcpdump",), stdout=packets.pcap_file([], link_type=113), stderr=summary(0)),
            "its link type is 113, not 1 (Ethernet)",
        ),
    ],
)
def test_a_tcpdump_that_failed_is_an_error_and_not_silence(answer: Answer, words: str) -> None:
    here = scene()
    here.overrides[Role.CLIENT_LXC] = [answer]
    result = here.run()
    assert result.verdict is Verdict.ERROR
    assert words in result.reason
    assert all(running.is_over for tap in here.taps for running in tap.started)


def sending_nothing(*answers: Answer) -> Scene:
    here = scene()
    here.shown = [replace(tap, request=None, reply=None) for tap in here.shown]
    here.client = ScriptedTarget(CLIENT, answers)
    return here


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"ping: connect: Network is unreachable", "Network is unreachable"),
        (b"ping: connect: No route to host", "No route to host"),
        (b"ping: sendmsg: Network is down", "Network is down"),
        (b"ping: sendmsg: Operation not permitted", "sendmsg: Operation not permitted"),
    ],
)
def test_a_pod_whose_kernel_sends_nothing_is_the_networks_failure_in_the_kernels_words(said: bytes, told: str) -> None:
    result = sending_nothing(Answer(argv=("ping",), returncode=2, stderr=said)).run()
    assert result.verdict is Verdict.FAIL
    assert result.reason.endswith(f"; the sender's kernel reported: {told}")


def test_a_pod_whose_gateway_does_not_answer_is_the_networks_failure() -> None:
    lost = Answer(argv=("ping",), returncode=1, stdout=b"3 packets transmitted, 0 received, 100% packet loss\n")
    neighbours = Answer(argv=("ip", "-4", "neigh", "show"), stdout=b"10.244.0.1 dev eth0 FAILED\n")
    result = sending_nothing(lost, neighbours).run()
    assert result.verdict is Verdict.FAIL
    assert "client got no answer to its ARP request: ip neigh shows 10.244.0.1 dev eth0 FAILED" in result.reason


@pytest.mark.parametrize("said", [b"ping: socket: Operation not permitted", b"ping: unknown option -- p", b""])
def test_a_ping_that_failed_for_reasons_of_its_own_is_an_error(said: bytes) -> None:
    nobody = Answer(argv=("ip", "-4", "neigh", "show"))
    result = sending_nothing(Answer(argv=("ping",), returncode=2, stderr=said), nobody).run()
    assert result.verdict is Verdict.ERROR
    assert result.reason.startswith("ping ended with status 2: ")


def test_a_device_that_is_down_is_no_failure_of_tcpdump_and_named() -> None:
    here = scene()
    at = next(number for number, tap in enumerate(here.shown) if tap.role is Role.SERVER_UPLINK)
    here.shown = [
        replace(tap, request=tap.request if number < at else None, reply=None) for number, tap in enumerate(here.shown)
    ]
    down = Answer(argv=("tcpdump",), returncode=1, stderr=b"tcpdump: eth0: That device is not up\n")
    here.overrides[Role.SERVER_UPLINK] = [down]
    lost = Answer(argv=("ping",), returncode=1, stdout=b"3 packets transmitted, 0 received, 100% packet loss\n")
    here.client = ScriptedTarget(CLIENT, [lost])
    result = here.run()
    assert result.verdict is Verdict.FAIL
    assert result.reason.endswith("; node:server-node-uplink is down")
    assert result.signature is not None
    assert lost_on_the_way(result.signature) == (
        "the request was last seen at node:client-node-uplink and did not come to node:server-eth0; "
        "node:server-node-uplink is down"
    )


def test_a_tcpdump_whose_device_goes_down_under_way_proves_nothing() -> None:
    here = scene()
    broken = b"\ntcpdump: pcap_loop: The interface disappeared"
    here.overrides[Role.CLIENT_LXC] = [
        Answer(argv=("tcpdump",), returncode=1, stdout=packets.pcap_file([]), stderr=summary(0) + broken)
    ]
    result = here.run()
    assert result.verdict is Verdict.ERROR
    assert "The interface disappeared" in result.reason


def test_lost_replies_are_a_failure_that_names_the_place() -> None:
    here = scene()
    here.shown = [replace(tap, reply=None) for tap in here.shown]
    here.client = ScriptedTarget(
        CLIENT,
        [Answer(argv=("ping",), returncode=1, stdout=b"3 packets transmitted, 0 received, 100% packet loss\n")],
    )
    result = here.run()
    assert result.verdict is Verdict.FAIL
    assert result.reason == "the reply was seen nowhere: the server did not answer"
    assert result.signature is not None
    assert result.signature.ping_ttl is None


def test_a_mac_that_no_device_of_the_lab_owns_stays_an_address() -> None:
    here = scene()
    here.macs[str(Role.SERVER_UPLINK)] = "02:de:ad:be:ef:00"
    result = here.run()
    assert result.verdict is Verdict.FAIL
    assert "02:de:ad:be:ef:00" in result.reason
    assert "another node (VTEP)" in result.reason


def test_the_filter_finds_the_inner_addresses_behind_the_envelope() -> None:
    lab = example_lab()
    client, server = (pod.address for pod in lab.pods)
    assert echo_filter([(client, server)]) == (
        "(icmp and host 10.244.0.10 and host 10.244.1.20) or "
        "((udp port 8472 or udp port 4789 or udp port 6081) and udp[39] = 1 and "
        "((udp[42:4] = 0xaf4000a and udp[46:4] = 0xaf40114) or (udp[42:4] = 0xaf40114 and udp[46:4] = 0xaf4000a)))"
    )


def test_a_direction_is_asked_of_tcpdump() -> None:
    argv = argv_tcpdump("eth0", "icmp", TapDirection.IN)
    assert argv == (
        *("tcpdump", "-n", "-U", "-Z", "root", "--immediate-mode", "-s", "512"),
        *("-Q", "in", "-i", "eth0", "-w", "-", "--", "icmp"),
    )
    assert "-Q" not in argv_tcpdump("eth0", "icmp")


@pytest.mark.parametrize("expression", ["-w/tmp/x", "--relinquish-privileges=root", "-z /bin/sh", "-F/etc/shadow", "-"])
def test_an_expression_is_never_an_option_of_tcpdump(expression: str) -> None:
    *_, end_of_options, last = argv_tcpdump("eth0", expression)
    assert (end_of_options, last) == ("--", expression)


def test_the_closing_summary_is_read(recorded: Callable[[str], bytes]) -> None:
    counts = parse_counts(recorded("tcpdump-stderr.txt").decode())
    assert counts is not None
    assert (counts.captured, counts.received, counts.dropped, counts.left_behind) == (6, 6, 0, 0)
    one = parse_counts(
        "1 packet captured\n2 packets received by filter\n0 packets dropped by kernel\n3 packets dropped by interface\n"
    )
    assert one is not None
    assert (one.captured, one.left_behind, one.dropped) == (1, 1, 3)
    assert parse_counts("tcpdump: listening on eth0") is None


def test_there_is_a_check_of_every_kind_that_scenarios_may_name() -> None:
    checks = all_checks()
    assert set(checks) == set(PARAMETERS_OF)
    for kind, check in checks.items():
        assert check.kind == kind
        names = [metric.name for metric in check.metrics(PARAMETERS_OF[kind]())]
        assert len(names) == len(set(names))
