"""What is said about a signature that is not the expected one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from labctl.model.evidence import Silence
from labctl.model.lab import POD_PLACEMENTS, Datapath, Encapsulation, HostRouting, Masquerade, Placement
from labctl.model.result import CheckResult, Verdict
from labctl.model.signature import ExpectedSignature, Outer, Role, Seen, Signature, TapSight
from labctl.networks.cilium.expected import expected_signature
from labctl.path.difference import DifferenceKind, differences, first_difference
from labctl.path.signature import lost_on_the_way, recognise, recognise_encapsulation, signature_evidence
from labctl.testing.labs import RECORDED

LEGACY, BPF = HostRouting.LEGACY, HostRouting.BPF
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
SAME, CROSS = Placement.SAME_NODE, Placement.CROSS_NODE


def expected(mode: HostRouting, encapsulation: Encapsulation, placement: Placement) -> ExpectedSignature:
    return expected_signature(mode, encapsulation, placement, packets=3, client_identity=300, server_identity=400)


def changed(signature: Signature, role: Role, change: Callable[[TapSight], TapSight]) -> Signature:
    return replace(signature, taps=tuple(change(tap) if tap.role is role else tap for tap in signature.taps))


def with_request(signature: Signature, role: Role, **changes: object) -> Signature:
    def change(tap: TapSight) -> TapSight:
        assert tap.request is not None
        return replace(tap, request=replace(tap.request, **changes))  # type: ignore[arg-type]

    return changed(signature, role, change)


def with_outer(signature: Signature, role: Role, **changes: object) -> Signature:
    request = next(tap.request for tap in signature.taps if tap.role is role)
    assert request is not None
    assert request.outer is not None
    return with_request(signature, role, outer=replace(request.outer, **changes))  # type: ignore[arg-type]


def without_request_from(signature: Signature, role: Role) -> Signature:
    """Nothing of the request at this tap and after it, and no reply anywhere."""
    roles = [tap.role for tap in signature.taps]
    gone = set(roles[roles.index(role) :])
    return replace(
        signature,
        taps=tuple(
            replace(tap, request=None if tap.role in gone else tap.request, reply=None) for tap in signature.taps
        ),
        ping_ttl=None,
    )


def sentence(expected_one: ExpectedSignature, observed: Signature) -> str:
    found = first_difference(expected_one, observed)
    assert found is not None
    return found.sentence


def test_legacy_where_bpf_was_expected_is_seen_at_the_lxc() -> None:
    want = expected(BPF, VXLAN, CROSS)
    found = list(differences(want, expected(LEGACY, VXLAN, CROSS).signature))
    assert [(one.kind, one.role) for one in found] == [
        (DifferenceKind.UNEXPECTED, Role.SERVER_LXC),
        (DifferenceKind.UNEXPECTED, Role.CLIENT_LXC),
    ]
    assert found[1].sentence == (
        "the client's lxc saw the reply: delivery did not use bpf_redirect_peer, so host routing is Legacy"
    )


def test_bpf_where_legacy_was_expected_is_seen_at_the_lxc() -> None:
    assert sentence(expected(LEGACY, VXLAN, SAME), expected(BPF, VXLAN, SAME).signature) == (
        "the server's lxc did not see the request, yet it was seen further on: delivery used bpf_redirect_peer, which "
        "skips the lxc, so host routing is BPF"
    )


def test_hops_of_the_kernel_are_seen_first_with_native_routing() -> None:
    assert sentence(expected(BPF, NATIVE, CROSS), expected(LEGACY, NATIVE, CROSS).signature) == (
        "at the uplink of the client's node the request carries TTL 62, not 63: 1 hop more counted than BPF host "
        "routing has: the kernel's forwarding took part, as in Legacy"
    )
    assert sentence(expected(LEGACY, NATIVE, CROSS), expected(BPF, NATIVE, CROSS).signature) == (
        "at the uplink of the client's node the request carries TTL 63, not 62: 1 hop fewer counted than Legacy host "
        "routing has: the kernel's forwarding was skipped, as in BPF"
    )


def test_the_taps_name_in_the_lab_stands_in_the_sentence() -> None:
    observed = changed(
        expected(LEGACY, VXLAN, SAME).signature, Role.SERVER_LXC, lambda tap: replace(tap, tap="node1:lxcab")
    )
    assert sentence(expected(BPF, VXLAN, SAME), observed).startswith("the server's lxc (node1:lxcab) saw the request")


@pytest.mark.parametrize(
    ("encapsulation", "lost_at", "lesson"),
    [
        (VXLAN, Role.CLIENT_ETH0, "the request was seen nowhere: the client did not send it"),
        (VXLAN, Role.CLIENT_LXC, "it did not cross from the pod's eth0 to the lxc"),
        (VXLAN, Role.CLIENT_CILIUM_VXLAN, "look at the program on that lxc (its drop counters) and the node's tunnel"),
        (VXLAN, Role.CLIENT_UPLINK, "the tunnel device did not send the envelope"),
        (VXLAN, Role.SERVER_UPLINK, "it had the right destination MAC, so the wire lost it"),
        (VXLAN, Role.SERVER_CILIUM_VXLAN, "the node did not decapsulate it"),
        (VXLAN, Role.SERVER_LXC, "the node did not deliver it: look at its endpoint entries, identities (VNI)"),
        (NATIVE, Role.CLIENT_UPLINK, "look at the program on that lxc, the node's route, its neighbour entry"),
        (NATIVE, Role.SERVER_UPLINK, "it had the right destination MAC, so the wire lost it"),
        (NATIVE, Role.SERVER_LXC, "the node did not deliver it: look at its endpoint entries"),
    ],
)
def test_a_lost_request_is_named_where_it_was_seen_last(
    encapsulation: Encapsulation, lost_at: Role, lesson: str
) -> None:
    want = expected(LEGACY, encapsulation, CROSS)
    found = first_difference(want, without_request_from(want.signature, lost_at))
    assert found is not None
    assert (found.kind, found.role) == (DifferenceKind.LOST, lost_at)
    assert lesson in found.sentence


def test_a_reply_that_never_left_the_server_is_the_servers_silence() -> None:
    want = expected(LEGACY, VXLAN, SAME)
    observed = replace(want.signature, taps=tuple(replace(tap, reply=None) for tap in want.signature.taps))
    assert sentence(want, observed) == "the reply was seen nowhere: the server did not answer"


def test_a_reply_lost_between_the_nodes_is_described_from_the_servers_side() -> None:
    want = expected(BPF, VXLAN, CROSS)
    client_side = {Role.CLIENT_ETH0, Role.CLIENT_LXC, Role.CLIENT_CILIUM_VXLAN, Role.CLIENT_UPLINK}
    taps = tuple(replace(tap, reply=None) if tap.role in client_side else tap for tap in want.signature.taps)
    assert sentence(want, replace(want.signature, taps=taps)) == (
        "the reply was last seen at the uplink of the server's node and did not reach the uplink of the client's node: "
        "it had the right destination MAC, so the wire lost it, or the other node dropped it before its tap: look "
        "for an XDP program there"
    )


UPLINK = Role.CLIENT_UPLINK
OUTER = Outer(src="client-node", dst_port=8472, ttl=64, vni=300, src_mac="a", dst_mac="b")


@pytest.mark.parametrize(
    ("kind", "encapsulation", "spoil", "words"),
    [
        (DifferenceKind.PACKETS, VXLAN, lambda s: with_request(s, UPLINK, packets=2), "saw 2 of 3 packets"),
        (DifferenceKind.PACKETS, VXLAN, lambda s: with_request(s, UPLINK, packets=6), "more than once"),
        (DifferenceKind.VNI, VXLAN, lambda s: with_outer(s, UPLINK, vni=5), "VNI is 5, not 300"),
        (DifferenceKind.OUTER_SRC, VXLAN, lambda s: with_outer(s, UPLINK, src="10.0.0.9"), "comes from 10.0.0.9"),
        (DifferenceKind.OUTER_MAC, VXLAN, lambda s: with_outer(s, UPLINK, dst_mac="02:00"), "another node (VTEP)"),
        (DifferenceKind.OUTER_PORT, VXLAN, lambda s: with_outer(s, UPLINK, dst_port=4789), "UDP port 4789, not 8472"),
        (DifferenceKind.OUTER_TTL, VXLAN, lambda s: with_outer(s, UPLINK, ttl=63), "envelope carries TTL 63, not 64"),
        (DifferenceKind.OUTER_MISSING, VXLAN, lambda s: with_request(s, UPLINK, outer=None), "has no envelope"),
        (DifferenceKind.OUTER_UNEXPECTED, NATIVE, lambda s: with_request(s, UPLINK, outer=OUTER), "not native"),
        (DifferenceKind.TTL, VXLAN, lambda s: with_request(s, Role.SERVER_ETH0, ttl=62), "carries TTL 62, not 63"),
        (DifferenceKind.SRC_MAC, NATIVE, lambda s: with_request(s, UPLINK, src_mac="x"), "comes from MAC x"),
        (DifferenceKind.DST_MAC, NATIVE, lambda s: with_request(s, UPLINK, dst_mac="x"), "neighbour entry"),
        (DifferenceKind.PING_TTL, VXLAN, lambda s: replace(s, ping_ttl=62), "ping printed ttl=62, expected was ttl=63"),
    ],
)
def test_each_kind_of_difference_is_found_alone(
    kind: DifferenceKind, encapsulation: Encapsulation, spoil: Callable[[Signature], Signature], words: str
) -> None:
    want = expected(BPF, encapsulation, CROSS)
    found = list(differences(want, spoil(want.signature)))
    assert [one.kind for one in found] == [kind]
    assert words in found[0].sentence


def test_the_cause_of_a_loop_is_listed_before_the_loop() -> None:
    # Recorded in a netns lab with a wrong VTEP: a third node sent the packets back until their TTL was used up.
    want = expected(BPF, VXLAN, CROSS)
    observed = without_request_from(want.signature, Role.SERVER_UPLINK)
    observed = with_outer(with_request(observed, UPLINK, packets=96), UPLINK, dst_mac="02:00")
    observed = with_request(observed, Role.CLIENT_CILIUM_VXLAN, packets=96)
    observed = changed(observed, Role.CLIENT_CILIUM_HOST, lambda tap: replace(tap, request=replace(SEEN, packets=48)))
    found = [(one.kind, one.role) for one in differences(want, observed)]
    assert found == [
        (DifferenceKind.OUTER_MAC, Role.CLIENT_UPLINK),
        (DifferenceKind.LOST, Role.SERVER_UPLINK),
        (DifferenceKind.UNEXPECTED, Role.CLIENT_CILIUM_HOST),
        (DifferenceKind.PACKETS, Role.CLIENT_CILIUM_VXLAN),
        (DifferenceKind.PACKETS, Role.CLIENT_UPLINK),
        (DifferenceKind.LOST, Role.SERVER_ETH0),
    ]


def test_a_packet_that_was_led_aside_is_named_there_first() -> None:
    want = expected(BPF, VXLAN, CROSS)
    observed = without_request_from(want.signature, Role.CLIENT_CILIUM_VXLAN)
    observed = changed(observed, Role.CLIENT_CILIUM_HOST, lambda tap: replace(tap, request=SEEN))
    assert sentence(want, observed).startswith("cilium_host of the client's node saw the request: it was handed to the")


@pytest.mark.parametrize("encapsulation", [VXLAN, NATIVE])
def test_what_left_with_the_right_mac_and_was_not_seen_again_points_at_the_wire_and_xdp(
    encapsulation: Encapsulation,
) -> None:
    want = expected(BPF, encapsulation, CROSS)
    gone = without_request_from(want.signature, Role.SERVER_UPLINK)
    assert "look for an XDP program there" in sentence(want, gone)
    if encapsulation is VXLAN:
        astray = with_outer(gone, UPLINK, dst_mac="02:00")
        assert "the envelope was sent elsewhere" in [*differences(want, astray)][1].sentence


SEEN = Seen(packets=3, ttl=64, src_mac="a", dst_mac="b")


@pytest.mark.parametrize(
    ("role", "words"),
    [
        (Role.CLIENT_CILIUM_HOST, "handed to the node's own stack"),
        (Role.CLIENT_CILIUM_VXLAN, "sent into the tunnel"),
        (Role.CLIENT_UPLINK, "left the node although both pods are on it"),
        (Role.CLIENT_LO, "looped it back"),
    ],
)
def test_a_packet_where_none_belongs_is_explained_by_the_place(role: Role, words: str) -> None:
    want = expected(LEGACY, VXLAN, SAME)
    found = list(differences(want, changed(want.signature, role, lambda tap: replace(tap, request=SEEN))))
    assert [one.kind for one in found] == [DifferenceKind.UNEXPECTED]
    assert words in found[0].sentence


def test_a_bridge_port_is_shown_but_not_compared() -> None:
    want = expected(BPF, VXLAN, CROSS)
    port = TapSight(tap="underlay:port1", role=Role.CLIENT_BRIDGE_PORT, request=SEEN, reply=SEEN)
    assert first_difference(want, replace(want.signature, taps=(*want.signature.taps, port))) is None


def test_a_silent_tap_may_be_absent_but_a_speaking_one_may_not() -> None:
    want = expected(BPF, VXLAN, CROSS)
    without_lo = tuple(tap for tap in want.signature.taps if tap.role is not Role.CLIENT_LO)
    assert first_difference(want, replace(want.signature, taps=without_lo)) is None
    without_uplink = tuple(tap for tap in want.signature.taps if tap.role is not Role.CLIENT_UPLINK)
    found = list(differences(want, replace(want.signature, taps=without_uplink)))
    assert {one.kind for one in found} == {DifferenceKind.NOT_CAPTURED}
    assert "was not captured" in found[0].sentence


def test_a_tap_that_is_blind_to_both_halves_tells_nothing_about_the_mode() -> None:
    blind = changed(
        expected(BPF, VXLAN, SAME).signature, Role.SERVER_LXC, lambda tap: replace(tap, request=None, reply=None)
    )
    seen = recognise(blind)
    assert seen.host_routing is BPF
    assert len(seen.observations) == 1
    assert "client pod" in seen.observations[0].because


def delivered_otherwise(*roles: Role) -> Signature:
    """BPF with native routing, whose delivery at these lxc does not use redirect_peer."""
    bpf, legacy = expected(BPF, NATIVE, CROSS).signature, expected(LEGACY, NATIVE, CROSS).signature
    lxc = {tap.role: tap for tap in legacy.taps}
    return replace(bpf, taps=tuple(lxc[t.role] if t.role in roles else t for t in bpf.taps))


def test_observations_that_contradict_each_other_recognise_nothing() -> None:
    # One node delivers with redirect_peer, the other one does not.
    seen = recognise(delivered_otherwise(Role.SERVER_LXC))
    assert seen.host_routing is None
    assert seen.because.startswith("the observations contradict each other")


def test_one_hop_is_no_bpf_on_a_node_that_delivers_out_of_the_lxc() -> None:
    """The kernel alone, without any program, takes one hop too: a node whose programs are gone is not BPF."""
    seen = recognise(delivered_otherwise(Role.SERVER_LXC, Role.CLIENT_LXC))
    assert seen.host_routing is LEGACY
    assert all("lxc transmitted" in one.because for one in seen.observations)


@pytest.mark.parametrize("mode", HostRouting)
@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("placement", POD_PLACEMENTS)
def test_packets_that_did_not_come_through_are_said_with_the_place_and_never_show_the_other_mode(
    mode: HostRouting, encapsulation: Encapsulation, placement: Placement
) -> None:
    """Cut off after every tap of the way, in every cell."""
    whole = expected(mode, encapsulation, placement).signature
    assert lost_on_the_way(whole) == ""
    for at in range(len(whole.taps)):
        cut = replace(
            whole,
            taps=tuple(
                replace(tap, request=tap.request if number < at else None, reply=None)
                for number, tap in enumerate(whole.taps)
            ),
            hindrances=("node2:eth0 is down",),
        )
        evidence = signature_evidence(result_with(cut), asked(mode, encapsulation), "mine")
        assert evidence.supports is not False, (at, evidence.finding)
        assert evidence.silence is Silence.LOST
        assert evidence.finding.startswith("the request was ")
        assert "node2:eth0 is down" in evidence.finding
        answer_cut = replace(
            whole,
            taps=tuple(replace(tap, reply=tap.reply if number > at else None) for number, tap in enumerate(whole.taps)),
        )
        evidence = signature_evidence(result_with(answer_cut), asked(mode, encapsulation), "mine")
        assert evidence.supports is not False, (at, evidence.finding)
        assert evidence.silence is Silence.LOST
        assert evidence.finding.startswith("the reply was ")


def test_nothing_seen_recognises_nothing() -> None:
    nothing = without_request_from(expected(BPF, VXLAN, SAME).signature, Role.CLIENT_ETH0)
    assert recognise(nothing).host_routing is None
    assert recognise(nothing).because == "no packet was seen to reach a pod, so the modes cannot be distinguished"
    assert recognise_encapsulation(nothing) is None


def result_with(signature: Signature | None) -> CheckResult:
    return CheckResult(
        check="tcpdump",
        kind="tcpdump",
        client="client",
        server="server",
        placement=CROSS,
        verdict=Verdict.PASS if signature else Verdict.ERROR,
        reason="" if signature else "no tcpdump here",
        signature=signature,
    )


def asked(mode: HostRouting, encapsulation: Encapsulation) -> Datapath:
    return Datapath(
        host_routing=mode, encapsulation=encapsulation, masquerade=Masquerade.BPF, kube_proxy_replacement=True
    )


@pytest.mark.parametrize(
    ("mode", "encapsulation", "supports"), [(BPF, VXLAN, True), (LEGACY, VXLAN, False), (BPF, NATIVE, False)]
)
def test_the_packets_testify_for_or_against_what_was_asked(
    mode: HostRouting, encapsulation: Encapsulation, supports: bool
) -> None:
    evidence = signature_evidence(
        result_with(expected(BPF, VXLAN, CROSS).signature), asked(mode, encapsulation), "mine"
    )
    assert evidence.supports is supports
    assert evidence.found == {"hostRouting": "bpf", "encapsulation": "vxlan"}
    assert "never on its lxc" in evidence.finding
    assert "inside VXLAN" in evidence.finding


def test_one_observation_of_the_other_mode_contradicts() -> None:
    evidence = signature_evidence(result_with(delivered_otherwise(Role.SERVER_LXC)), asked(BPF, NATIVE), "mine")
    assert evidence.supports is False
    assert evidence.found == {"encapsulation": "native"}


def test_no_signature_is_no_testimony() -> None:
    evidence = signature_evidence(result_with(None), asked(BPF, VXLAN), "mine")
    assert evidence.supports is None
    assert evidence.finding == "no signature could be taken: no tcpdump here"
