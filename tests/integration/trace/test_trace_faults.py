"""A datapath broken in five ways, or switched behind labctl's back: the trace names the hop where it goes wrong."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from tracing_labs import HANG_S, acts, as_json, labctl, needs, running, traced

from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG, CONFIG_KEY, ConfigFlag, pack_config, unpack_config
from labctl.datapath.loader import load
from labctl.model.lab import Encapsulation, Fault, HostRouting, Lab
from labctl.model.trace import ForwardingAct, Way
from labctl.names import namespace_of
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.network import attachments
from labctl.providers.netns.kinds.program import Direction
from labctl.providers.netns.watch import node_maps
from labctl.system import link_state, netns, rtnetlink
from labctl.system.netlink import Socket
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = needs

BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE


@pytest.mark.parametrize("encapsulation", RECORDED)
def test_a_redirect_in_place_of_redirect_peer_is_named_at_the_lxc(
    host_as_found: str, encapsulation: Encapsulation
) -> None:
    with running(host_as_found, BPF, encapsulation, faults=(Fault.NO_REDIRECT_PEER,)) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert (found.wrong.way, found.wrong.tap) == (Way.REQUEST, f"node2:{lab.pod('server').lxc}")
    assert "delivery did not use bpf_redirect_peer, so host routing is Legacy" in found.wrong.sentence
    assert found.host_routing == "legacy" or "contradict" in found.recognised
    assert found.replied == 1
    assert acts(found.paths[0])[-1].endswith(":bpf_redirect")


def test_a_wrong_vtep_is_named_at_the_uplink_that_sent_the_envelope_to_another_node(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN, faults=(Fault.WRONG_VTEP,)) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert (found.wrong.way, found.wrong.tap) == (Way.REQUEST, "node1:eth0")
    assert "envelope to 172.30.0.4 (node3), but server is on node2" in found.wrong.sentence
    # The detour itself is told by the witnesses on the node that should never have seen the packet.
    assert {act.node for hop in found.paths[0].hops for act in hop.moved_by} == {"node1", "node2", "node3"}
    detour = next(hop for hop in found.paths[0].hops if any(act.node == "node3" for act in hop.moved_by))
    assert "on node3, " in detour.because
    assert not any(act.node == "node3" for hop in found.paths[1].hops for act in hop.moved_by)


def test_a_wrong_vni_is_named_at_the_uplink_with_the_identity_it_should_have(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN, faults=(Fault.WRONG_VNI,)) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert (found.wrong.way, found.wrong.tap) == (Way.REQUEST, "node1:eth0")
    assert f"not {lab.pod('client').identity}, which is the client pod's security identity" in found.wrong.sentence
    envelope = next(hop.envelope for hop in found.paths[0].hops if hop.envelope is not None)
    assert not envelope.is_senders
    assert envelope.identity_pods == ()


@pytest.mark.parametrize(("host_routing", "encapsulation"), [(BPF, VXLAN), (BPF, NATIVE), (LEGACY, NATIVE)])
def test_a_missing_neighbour_is_named_at_the_uplink_and_the_packet_is_lost_in_the_underlay(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with running(host_as_found, host_routing, encapsulation, faults=(Fault.MISSING_NEIGHBOUR,)) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
    assert found.replied == 0
    assert found.wrong is not None
    assert (found.wrong.way, found.wrong.tap) == (Way.REQUEST, "node1:eth0")
    assert "the neighbour entry" in found.wrong.sentence or "neighbour entry" in found.wrong.sentence
    request = found.paths[0]
    assert request.lost_tap == "underlay:port1"
    assert "was last seen entering underlay:port1" in request.lost
    assert len(found.paths) == 1


def test_a_netfilter_drop_is_named_with_its_hook_and_rule(host_as_found: str) -> None:
    with running(host_as_found, LEGACY, NATIVE, faults=(Fault.NETFILTER_DROP,)) as (lab, open_lab):
        found = traced(lab, open_lab, "server")
        same_node = traced(lab, open_lab, "neighbour")
    assert found.wrong is not None
    assert (found.wrong.way, found.wrong.tap) == (Way.REQUEST, f"node1:{lab.pod('client').lxc}")
    assert "was dropped on node1 by netfilter in FORWARD: the rule in filter FORWARD" in found.wrong.sentence
    drop = found.paths[0].after[-1]
    assert (drop.what, drop.helper, drop.device) == ("FORWARD", ForwardingAct.DROP, lab.pod("client").lxc)
    assert same_node.wrong is None


def test_a_packet_that_a_program_drops_is_named_with_the_program_and_the_reason(host_as_found: str) -> None:
    with running(host_as_found, BPF, NATIVE) as (lab, open_lab):
        pods = str(lab.node("node2").pod_cidr)
        assert open_lab.target("node1").run(("ip", "route", "del", pods), timeout_s=HANG_S).returncode == 0
        found = traced(lab, open_lab, "server")
    lxc = lab.pod("client").lxc
    assert found.wrong is not None
    assert found.wrong.tap == f"node1:{lxc}"
    sentence = f"the request was dropped on node1 by cil_from_container at {lxc} ingress: no route"
    assert found.wrong.sentence == sentence


@pytest.mark.parametrize(
    ("part", "tap", "answer", "says"),
    [  # r0 = 1; exit, and r0 = 3; exit
        ("node1", "", bytes.fromhex("b7000000010000009500000000000000"), "answers XDP_DROP"),
        ("node2", "node2:eth0", bytes.fromhex("b7000000030000009500000000000000"), "sent it to eth0 with bpf_redirect"),
    ],
)
def test_an_xdp_program_that_takes_packets_is_named_at_its_device(
    host_as_found: str, part: str, tap: str, answer: bytes, says: str
) -> None:
    """At the lxc and at an uplink: it stands before any tap, and is given the captured frame once more."""
    with running(host_as_found, LEGACY, NATIVE) as (lab, open_lab):
        device = tap.partition(":")[2] or lab.pod("client").lxc
        warm_up = ("ping", "-c", "1", "-W", "5", str(lab.pod("server").address))
        assert open_lab.target("client").run(warm_up, timeout_s=HANG_S).returncode == 0, "then ARP has its answers"
        with netns.entered(netns.path_of(namespace_of(lab.name, part))), Socket() as channel:
            index = next(
                link.index
                for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))
                if link.name == device
            )
            program = bpf.load_program(bpf.XDP, answer, "takes_it")
            channel.send([link_state.xdp_set(index, program)])
            bpf.close_all([program])
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert found.wrong.tap == (tap or f"node1:{device}")
    assert says in found.wrong.sentence
    assert "the XDP program takes_it (id " in found.wrong.sentence
    skipped = {one.tap: one for one in found.paths[0].skipped}
    assert skipped[found.wrong.tap].is_observed
    assert "took it before any tap" in skipped[found.wrong.tap].reason


def test_a_pod_whose_gateway_does_not_answer_is_reported_with_its_neighbour_entry(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as (lab, open_lab):
        with node_maps(namespace_of(lab.name, "node1"), "endpoints") as (endpoints,):
            assert bpf.delete(endpoints, lab.pod("client").address.packed)
        found = traced(lab, open_lab, "server")
    assert found.wrong is not None
    assert found.wrong.sentence == "the request was never seen, not even at client:eth0: the pod did not send it"
    assert any("got no answer to its ARP request" in note for note in found.notes)


def test_a_mode_switched_by_a_flag_is_not_in_force(host_as_found: str) -> None:
    """Somebody turns bpf_redirect_peer off in the running lab: nothing is detached, only packets tell."""
    with running(host_as_found, BPF, VXLAN) as (lab, _open_lab):
        for node in lab.nodes:
            with node_maps(namespace_of(lab.name, node.name), "config") as descriptors:
                for descriptor in descriptors:
                    data = bpf.lookup(descriptor, CONFIG_KEY, CONFIG.size)
                    assert data is not None
                    config = unpack_config(data)
                    changed = dataclasses.replace(config, flags=config.flags | ConfigFlag.NO_REDIRECT_PEER)
                    bpf.update(descriptor, [(CONFIG_KEY, pack_config(changed))])
        _is_reported(lab)


def test_a_mode_switched_by_other_programs_is_not_in_force(host_as_found: str) -> None:
    """Somebody replaces every tc filter by the Legacy object's: names, devices and maps look the same as before."""
    with running(host_as_found, BPF, VXLAN) as (lab, _open_lab):
        switch_to(sample_lab(host_as_found, host_routing=LEGACY, encapsulation=VXLAN))
        _is_reported(lab)


def switch_to(other: Lab) -> None:
    """Takes every program off the nodes of the running lab of that name and attaches those of `other`."""
    for node in other.nodes:
        namespace = namespace_of(other.name, node.name)
        wanted = attachments(other, node.name)
        for device in {attachment.device for attachment in wanted}:
            argv = ("tc", "-n", namespace, "qdisc", "del", "dev", device, "clsact")
            subprocess.run(argv, check=True, timeout=HANG_S)
        with load(other.datapath.host_routing, other.datapath.encapsulation) as loaded:
            for name, entries in map_contents(other, node.name).items():
                bpf.update(loaded.maps[name], entries)
            with netns.entered(netns.path_of(namespace)), Socket() as channel:
                channel.send([rtnetlink.clsact_add(index) for index in sorted({one.ifindex for one in wanted})])
                channel.send(
                    [
                        rtnetlink.filter_add(
                            one.ifindex,
                            Direction(one.hook).hook,
                            program=loaded.programs[one.program],
                            name=one.filter_name,
                        )
                        for one in wanted
                    ]
                )


def _is_reported(lab: Lab) -> None:
    status = labctl("status", lab.name)
    assert status.returncode == 4, status.stdout + status.stderr
    assert "legacy" in status.stdout
    asked = as_json(labctl("status", lab.name, "--json").stdout)
    assert "legacy" in str(asked)
    check = labctl("check", lab.name)
    assert check.returncode == 4, check.stdout + check.stderr
    traced_by_command = labctl("trace", lab.name, "client", "server")
    assert traced_by_command.returncode == 1
    assert "delivery did not use bpf_redirect_peer" in " ".join(traced_by_command.stdout.split())
