"""The addressing check: parsers of what iproute2 and ping print, and a judge that can say no to each finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from labctl.checks import addressing_findings as judges
from labctl.checks.addressing_findings import (
    ArpSight,
    Fate,
    Wrapped,
    arp_of_pod,
    parse_default_route,
    parse_device,
    parse_neighbour,
    parse_sized_ping,
)
from labctl.checks.captures import TapCapture
from labctl.checks.outcome import finding, judge_findings, unknown
from labctl.errors import MeasureFailed
from labctl.model.interfaces import VXLAN_PORT
from labctl.model.lab import POD_PLACEMENTS, Encapsulation, HostRouting, Placement
from labctl.model.result import Finding, Verdict
from labctl.model.signature import Role
from labctl.networks.cilium.expected import expected_for
from labctl.path.sighting import Envelope, Sighting, Way
from labctl.providers.base import Completed, Tap
from labctl.testing.labs import CLIENT, RECORDED, example_devices, example_lab
from labctl.testing.packets import arp as arp_frame
from labctl.testing.packets import ethernet, pcap_file
from labctl.testing.scripted import ScriptedTarget

Recorded = Callable[[str], bytes]
LAB = example_lab(host_routing=HostRouting.BPF, encapsulation=Encapsulation.VXLAN, placement=Placement.CROSS_NODE)
PAIR = LAB.pairs[0]
POD = LAB.pod(CLIENT)
ROUTER = str(LAB.node(POD.node).router)
MAC_ROLES = {device.mac: device.role for device in example_devices(LAB)}


def text(recorded: Recorded, name: str) -> str:
    return recorded(f"evidence/{name}").decode()


LOST = b"1 packets transmitted, 0 received, 100% packet loss, time 0ms\n"
ANSWERED = (
    b"1430 bytes from 10.9.0.1: icmp_seq=1 ttl=64 time=0.145 ms\n"
    b"1 packets transmitted, 1 received, 0% packet loss, time 0ms\n"
)


def completed(returncode: int, stdout: bytes = b"", stderr: bytes = b"") -> Completed:
    return Completed(argv=("ping",), returncode=returncode, stdout=stdout, stderr=stderr, duration_s=0.1)


def test_the_pods_address_and_its_mask_are_read(recorded: Recorded) -> None:
    device = parse_device(text(recorded, "address.json"))
    assert device.mtu == 1500
    assert [(one.address, one.prefix_length) for one in device.addresses] == [("10.244.0.10", 32)]


@pytest.mark.parametrize(("name", "mtu"), [("route-vxlan.json", 1450), ("route-native.json", 1500)])
def test_the_default_route_is_read_with_its_own_mtu(recorded: Recorded, name: str, mtu: int) -> None:
    route = parse_default_route(text(recorded, name))
    assert route is not None
    assert (route.gateway, route.device, route.mtu, route.is_on_link) == ("10.244.0.1", "eth0", mtu, True)


def test_a_gateway_without_a_route_of_scope_link_is_not_on_the_link(recorded: Recorded) -> None:
    routes = [route for route in json.loads(text(recorded, "route-vxlan.json")) if route["dst"] == "default"]
    route = parse_default_route(json.dumps(routes))
    assert route is not None
    assert not route.is_on_link


def test_no_default_route_is_none_and_rubbish_is_an_error() -> None:
    assert parse_default_route("[]") is None
    with pytest.raises(MeasureFailed, match="ip route cannot be read"):
        parse_default_route("Object: Invalid argument")


def test_the_neighbour_that_was_asked_for_is_found_and_no_other(recorded: Recorded) -> None:
    listed = text(recorded, "neighbour.json")
    assert parse_neighbour(listed, "10.244.0.1") == "12:9a:cd:6a:3b:62"
    assert parse_neighbour(listed, "10.244.0.9") is None
    assert parse_neighbour("", "10.244.0.1") is None


@pytest.mark.parametrize(
    ("stderr", "mtu"),
    [
        (b"ping: local error: message too long, mtu=1450\n", 1450),
        (b"ping: local error: Message too long, mtu=1450\n", 1450),
        (b"/usr/bin/ping: sendmsg: Message too long\n", None),
        (b"ping: sendto: Message too large\n", None),
        (
            b"ping: Warning: time of day goes back (-3us), taking countermeasures\nping: sendmsg: Message too long\n",
            None,
        ),
    ],
    ids=["iputils 20221126", "with a capital", "iputils 20240905", "musl", "after a warning"],
)
def test_the_kernels_refusal_is_known_by_its_errno_whatever_the_version_of_ping(stderr: bytes, mtu: int | None) -> None:
    sent = parse_sized_ping(completed(1, LOST, stderr))
    assert (sent.fate, sent.mtu) == (Fate.REFUSED, mtu)


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "fate"),
    [
        (0, ANSWERED, b"", Fate.ANSWERED),
        (1, b"From 10.9.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)\n" + LOST, b"", Fate.TOO_BIG),
        (2, b"", b"ping: connect: Network is unreachable\n", Fate.NO_ROUTE),
        (1, LOST, b"", Fate.UNANSWERED),
    ],
)
def test_outcomes_of_a_request_are_distinguished(status: int, stdout: bytes, stderr: bytes, fate: Fate) -> None:
    assert parse_sized_ping(completed(status, stdout, stderr)).fate is fate


@pytest.mark.parametrize(
    ("status", "stderr"),
    [
        (1, b"ping: invalid option -- 'M'\nBusyBox v1.35.0 multi-call binary.\n"),
        (2, b"ping: socket: Operation not permitted\n"),
        (1, b"ping: sendmsg: Das ist zu lang\n"),
        (127, b"sh: ping: not found\n"),
        (-9, b""),
        (1, b""),
    ],
    ids=["busybox", "no capability", "unknown words", "no ping", "killed", "no summary"],
)
def test_a_ping_that_failed_or_says_what_is_not_known_is_an_error_and_never_a_verdict(
    status: int, stderr: bytes
) -> None:
    ended = completed(status, b"" if status != 1 or not stderr.endswith(b"lang\n") else LOST, stderr)
    with pytest.raises(MeasureFailed, match="ping"):
        parse_sized_ping(ended)
    assert mtu_verdicts(ended, ended) == [Verdict.ERROR, Verdict.ERROR]


def verdict_of_address(address: str, prefix: int) -> Verdict:
    listed = json.dumps([{"mtu": 1500, "addr_info": [{"local": address, "prefixlen": prefix}]}])
    return judges.judge_address(LAB, PAIR, parse_device(listed), ("ip",)).verdict


def test_any_mask_but_32_and_any_other_address_fail() -> None:
    assert verdict_of_address(str(POD.address), 32) is Verdict.PASS
    assert verdict_of_address(str(POD.address), 24) is Verdict.FAIL
    assert verdict_of_address("10.244.9.9", 32) is Verdict.FAIL


def test_a_gateway_that_is_not_the_router_fails(recorded: Recorded) -> None:
    route = parse_default_route(text(recorded, "route-vxlan.json"))
    assert route is not None
    right = replace(route, gateway=ROUTER)
    assert judges.judge_gateway(LAB, PAIR, right, ()).verdict is Verdict.PASS
    assert judges.judge_gateway(LAB, PAIR, replace(right, gateway="10.244.0.254"), ()).verdict is Verdict.FAIL
    assert judges.judge_gateway(LAB, PAIR, replace(right, is_on_link=False), ()).verdict is Verdict.FAIL
    assert judges.judge_gateway(LAB, PAIR, None, ()).sentence == "the pod has no default route"


def test_a_gateway_mac_of_another_device_fails_and_names_the_expected_device() -> None:
    assert judges.judge_gateway_mac(LAB, PAIR, ROUTER, POD.lxc_mac, ()).verdict is Verdict.PASS
    other = judges.judge_gateway_mac(LAB, PAIR, ROUTER, "02:00:00:00:00:99", ())
    assert other.verdict is Verdict.FAIL
    assert f"NOT {POD.lxc}'s, which is {POD.lxc_mac}" in other.sentence
    assert judges.judge_gateway_mac(LAB, PAIR, ROUTER, None, ()).verdict is Verdict.FAIL


def arp(*changes: ArpSight, without: Role | None = None) -> dict[str, Finding]:
    seen = [
        ArpSight(role=role, is_reply=is_reply, subject=ROUTER, mac=POD.lxc_mac if is_reply else POD.mac)
        for role in (Role.CLIENT_ETH0, Role.CLIENT_LXC)
        for is_reply in (False, True)
        if role is not without
    ]
    return {one.name: one for one in judges.judge_arp(LAB, PAIR, [*seen, *changes], ROUTER, ("tcpdump",))}


def failing(findings: dict[str, Finding]) -> set[str]:
    return {name for name, one in findings.items() if one.verdict is Verdict.FAIL}


def test_arp_as_on_a_real_cluster_passes() -> None:
    found = arp()
    assert failing(found) == set()
    assert found["arp-where"].sentence == (
        "the request was seen at client-eth0, client-lxc, the answer at client-eth0, client-lxc"
    )


def test_a_pod_that_asks_for_another_pod_fails() -> None:
    asked = ArpSight(role=Role.CLIENT_ETH0, is_reply=False, subject="10.244.1.20", mac=POD.mac)
    assert failing(arp(asked)) == {"arp-question"}


def test_a_second_answer_from_another_device_fails() -> None:
    answer = ArpSight(role=Role.CLIENT_ETH0, is_reply=True, subject=ROUTER, mac="02:00:00:00:00:99")
    assert failing(arp(answer)) == {"arp-answer"}


def test_arp_that_leaves_the_lxc_or_never_reaches_it_fails() -> None:
    leaked = ArpSight(role=Role.CLIENT_UPLINK, is_reply=False, subject=ROUTER, mac=POD.mac)
    assert failing(arp(leaked)) == {"arp-where"}
    assert failing(arp(without=Role.CLIENT_LXC)) == {"arp-where"}


def arp_message(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    body = arp_frame(
        operation=operation, sender_mac=sender[0], sender_ip=sender[1], target_mac=target[0], target_ip=target[1]
    )
    return ethernet(sender[0], "ff:ff:ff:ff:ff:ff", body, ether_type=0x0806)


def test_only_the_pods_own_arp_is_taken_from_a_capture() -> None:
    pod, lxc, stranger = (POD.mac, str(POD.address)), (POD.lxc_mac, ROUTER), ("02:00:00:00:00:77", "172.30.0.7")
    frames = [
        arp_message(1, pod, ("00:00:00:00:00:00", ROUTER)),
        arp_message(2, lxc, pod),
        arp_message(1, stranger, ("00:00:00:00:00:00", "172.30.0.2")),
        arp_message(2, stranger, ("02:00:00:00:00:01", "172.30.0.2")),
    ]
    tap = Tap(name="node1:lxc", role=Role.CLIENT_LXC, target=ScriptedTarget("node1"), interface="lxc")
    done = completed(0, stdout=pcap_file(enumerate(frames)))
    capture = TapCapture(tap=tap, direction=None, completed=done, counts=None)
    assert list(arp_of_pod([capture], POD.address, [POD.mac])) == [
        ArpSight(role=Role.CLIENT_LXC, is_reply=False, subject=ROUTER, mac=POD.mac),
        ArpSight(role=Role.CLIENT_LXC, is_reply=True, subject=ROUTER, mac=POD.lxc_mac),
    ]


def sighting(role: Role, ttl: int, *, way: Way = Way.REQUEST, envelope: Envelope | None = None) -> Sighting:
    return Sighting(
        tap=str(role), role=role, time_ns=0, direction=None, way=way, number=1, src="", dst="", ttl=ttl, src_mac="",
        dst_mac="", envelope=envelope,
    )  # fmt: skip


@pytest.mark.parametrize("host_routing", HostRouting)
@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("placement", POD_PLACEMENTS)
def test_the_ttl_must_fall_by_what_real_cilium_takes(
    host_routing: HostRouting, encapsulation: Encapsulation, placement: Placement
) -> None:
    lab = example_lab(host_routing=host_routing, encapsulation=encapsulation, placement=placement)
    expected = expected_for(lab, lab.pairs[0], packets=3)
    native = {HostRouting.LEGACY: 60, HostRouting.BPF: 62}
    is_native = encapsulation is Encapsulation.NATIVE and placement is Placement.CROSS_NODE
    arrives = native[host_routing] if is_native else 63
    left = sighting(Role.CLIENT_ETH0, 64)
    verdicts = {
        ttl: judges.judge_ttl(lab.pairs[0], [left, sighting(Role.SERVER_ETH0, ttl)], expected, ()).verdict
        for ttl in range(58, 65)
    }
    assert [ttl for ttl, verdict in verdicts.items() if verdict is Verdict.PASS] == [arrives]
    assert judges.judge_ttl(lab.pairs[0], [left], expected, ()).verdict is Verdict.FAIL


def envelope_of(lab_way: Way = Way.REQUEST, **changes: str | int) -> Wrapped:
    client, server = LAB.node("node1"), LAB.node(LAB.pod(PAIR.server).node)
    made = Envelope(
        src=str(client.address.ip), dst=str(server.address.ip), src_port=40000, dst_port=VXLAN_PORT, ttl=64,
        vni=POD.identity, src_mac=client.mac, dst_mac=server.mac,
    )  # fmt: skip
    role = Role.CLIENT_UPLINK if lab_way is Way.REQUEST else Role.SERVER_UPLINK
    seen = sighting(role, 64, way=lab_way, envelope=made._replace(**changes))  # type: ignore[arg-type]
    return Wrapped(sighting=seen, outer_byte=148, inner_byte=98)


def envelope_failures(*wrapped: Wrapped) -> set[str]:
    return failing({one.name: one for one in judges.judge_envelope(LAB, PAIR, wrapped, [], MAC_ROLES, ())})


def test_a_right_envelope_passes_in_every_part() -> None:
    assert envelope_failures(envelope_of(), envelope_of(), envelope_of(Way.REPLY, src_port=41000)) == set()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("vtep", {"dst": "172.30.0.254"}),
        ("outer-macs", {"dst_mac": "02:00:00:00:00:99"}),
        ("vxlan-port", {"dst_port": 4789}),
        ("vni", {"vni": 4242}),
    ],
)
def test_each_wrong_part_of_the_envelope_is_named(part: str, wrong: dict[str, str | int]) -> None:
    assert envelope_failures(envelope_of(Way.REQUEST, **wrong)) == {part}


def test_an_overhead_of_other_than_50_bytes_and_a_changing_source_port_are_named() -> None:
    assert envelope_failures(replace(envelope_of(), outer_byte=156)) == {"overhead"}
    assert envelope_failures(envelope_of(), envelope_of(src_port=40001)) == {"source-port"}


def test_vxlan_without_envelopes_and_native_with_them_fail() -> None:
    assert envelope_failures() == {"vtep"}
    native = example_lab(
        host_routing=HostRouting.BPF, encapsulation=Encapsulation.NATIVE, placement=Placement.CROSS_NODE
    )
    plain = [sighting(Role.CLIENT_UPLINK, 63)]
    pair = native.pairs[0]
    assert [f.verdict for f in judges.judge_envelope(native, pair, [], plain, {}, ())] == [Verdict.PASS]
    assert [f.verdict for f in judges.judge_envelope(native, pair, [envelope_of()], plain, {}, ())] == [Verdict.FAIL]
    assert [f.verdict for f in judges.judge_envelope(native, pair, [], [], {}, ())] == [Verdict.FAIL]


def mtu_verdicts(largest: Completed, next_byte: Completed, mtu: int = 1450) -> list[Verdict]:
    return [one.verdict for one in judges.judge_mtu(LAB, mtu, largest, next_byte, ((), ()))]


def test_the_largest_ping_and_the_next_byte(recorded: Recorded) -> None:
    refused = completed(1, LOST, recorded("evidence/too-long.stderr"))
    assert mtu_verdicts(completed(0, ANSWERED), refused) == [Verdict.PASS, Verdict.PASS]
    sentences = [one.sentence for one in judges.judge_mtu(LAB, 1450, completed(0, ANSWERED), refused, ((), ()))]
    assert sentences[0].startswith("1422 bytes of payload pass unfragmented")
    assert sentences[1] == (
        "1423 bytes get: a refusal by the pod's own kernel (local error: message too long, mtu=1450)"
    )


def test_an_mtu_that_is_not_in_force_fails(recorded: Recorded) -> None:
    refused = completed(1, LOST, recorded("evidence/too-long.stderr"))
    lost = completed(1, LOST)
    assert mtu_verdicts(lost, refused) == [Verdict.FAIL, Verdict.PASS]
    assert mtu_verdicts(refused, refused) == [Verdict.FAIL, Verdict.PASS]
    assert mtu_verdicts(completed(0, ANSWERED), completed(0, ANSWERED)) == [Verdict.PASS, Verdict.FAIL]
    assert mtu_verdicts(completed(0, ANSWERED), refused, mtu=1500) == [Verdict.FAIL, Verdict.FAIL]
    assert mtu_verdicts(completed(0, ANSWERED), completed(2, stderr=b"ping: invalid argument")) == [
        Verdict.PASS,
        Verdict.ERROR,
    ]


def test_the_first_thing_that_does_not_hold_is_the_reason_and_what_was_not_seen_is_an_error() -> None:
    good = finding("a", holds=True, sentence="is so", lesson="")
    bad = finding("b", holds=False, sentence="is not so", lesson="")
    unseen = unknown("c", sentence="was not seen", lesson="")
    assert judge_findings([good, good]).verdict is Verdict.PASS
    assert judge_findings([good, unseen, bad]).reason == "b does not hold: is not so"
    assert judge_findings([good, unseen]).verdict is Verdict.ERROR
