"""What packets show of a pod network that nothing is known of: an observation, and no verdict on host routing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.checks.tcpdump import judge_observed
from labctl.model.evidence import Silence
from labctl.model.lab import Encapsulation, Lab, Placement
from labctl.model.result import CheckResult, Verdict
from labctl.model.signature import Outer, Role, Seen, Signature, TapSight
from labctl.path.observed import as_it_is, observed_evidence, recognised_in, way_in_words
from labctl.testing.labs import sample_lab

SEEN = Seen(packets=3, ttl=64, src_mac="a", dst_mac="b")
VXLAN = replace(SEEN, outer=Outer(src="client-node", dst_port=8472, ttl=64, vni=1, src_mac="a", dst_mac="b"))
BRIDGED = (
    ("client:eth0", Role.CLIENT_ETH0),
    ("node1:veth1", Role.CLIENT_LXC),
    ("node1:cni0", Role.CLIENT_BRIDGE),
    ("node1:eth0", Role.CLIENT_UPLINK),
    ("node2:eth0", Role.SERVER_UPLINK),
    ("node2:veth2", Role.SERVER_LXC),
    ("server:eth0", Role.SERVER_ETH0),
)


def signature(on_wire: Seen = SEEN, *, replies: bool = True) -> Signature:
    uplinks = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
    return Signature(
        placement="cross-node",
        encapsulation=Encapsulation.VXLAN,
        taps=tuple(
            TapSight(
                tap=tap, role=role, request=on_wire if role in uplinks else SEEN,
                reply=(on_wire if role in uplinks else SEEN) if replies else None,
            )
            for tap, role in BRIDGED
        ),
    )  # fmt: skip


def lab_with(cni: str, *, observed: bool = False) -> Lab:
    lab = sample_lab("l")
    datapath = replace(lab.datapath, encapsulation=Encapsulation.VXLAN, observed=observed)
    return replace(lab, provider="cluster", cni=cni, datapath=datapath)


def result(found: Signature | None) -> CheckResult:
    return CheckResult(
        check="tcpdump", kind="tcpdump", client="client", server="server", placement=Placement.CROSS_NODE,
        verdict=Verdict.PASS, reason="no tcpdump", signature=found,
    )  # fmt: skip


def test_a_packet_at_the_pods_device_shows_no_host_routing_where_the_cni_has_none() -> None:
    assert recognised_in(lab_with("bridge cni0"), signature()).host_routing is None
    assert recognised_in(lab_with(""), signature()).host_routing == "legacy"
    assert recognised_in(lab_with("cilium"), signature()).host_routing == "legacy"


def test_only_what_any_network_shows_is_held_against_what_was_asked() -> None:
    told = observed_evidence(result(signature()), lab_with("bridge cni0"))
    assert told.found == {"encapsulation": "native"}
    assert told.supports is False
    assert told.finding.startswith("encapsulation native (asked vxlan)")
    assert "datapath.observed=true" in told.remedy
    same = observed_evidence(result(signature(VXLAN)), lab_with("flannel"))
    assert (same.found, same.supports) == ({"encapsulation": "vxlan"}, None)


def test_where_nothing_was_asked_nothing_is_held_against_it() -> None:
    told = observed_evidence(result(signature()), lab_with("bridge cni0", observed=True))
    assert (told.supports, told.found, told.remedy) == (None, {"encapsulation": "native"}, "")


def test_cilium_without_its_agents_shows_its_mode_by_packets() -> None:
    told = observed_evidence(result(signature(VXLAN)), lab_with("cilium"))
    assert told.found == {"hostRouting": "legacy", "encapsulation": "vxlan"}
    wanted = lab_with("cilium").datapath.host_routing
    assert told.supports is (wanted == "legacy")


def test_packets_that_were_lost_and_captures_that_failed_show_nothing() -> None:
    lost = observed_evidence(result(signature(replies=False)), lab_with("bridge cni0"))
    assert lost.silence is Silence.LOST
    assert "the reply was not seen" in lost.finding
    unread = observed_evidence(result(None), lab_with("bridge cni0"))
    assert (unread.silence, unread.supports) == (Silence.UNREAD, None)


def test_the_way_is_told_tap_by_tap_each_half_in_its_own_order() -> None:
    words = way_in_words(signature())
    assert words.startswith("the request was seen at client:eth0 → node1:veth1 → node1:cni0 → node1:eth0")
    assert "the reply at server:eth0 → node2:veth2" in words


def test_the_check_passes_when_packets_came_to_both_pods_and_says_that_it_knows_no_more() -> None:
    assert judge_observed("bridge cni0", signature()).verdict is Verdict.PASS
    assert "no signature is known of bridge cni0" in judge_observed("bridge cni0", signature()).reason
    assert judge_observed("bridge cni0", signature(replies=False)).verdict is Verdict.FAIL


@pytest.mark.parametrize(("name", "said"), [("mine", " --name mine "), ("bpf", " --set")])
def test_the_remedy_builds_the_same_lab_again(name: str, said: str) -> None:
    lab = replace(lab_with("bridge cni0"), name=name, scenario="bpf")
    assert as_it_is(lab).startswith(f"labctl down {name} && labctl up bpf --provider cluster")
    assert said in as_it_is(lab)
