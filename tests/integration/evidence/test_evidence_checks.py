"""The addressing and netfilter checks, the picture of a trace and the state of the datapath on netns labs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl.checks.addressing import AddressingCheck
from labctl.checks.base import Check, CheckContext
from labctl.checks.netfilter import NetfilterCheck
from labctl.engine.build import build, remove
from labctl.engine.trace import trace
from labctl.model.evidence import AttachedProgram, DatapathState
from labctl.model.lab import POD_PLACEMENTS, CheckSpec, Encapsulation, Fault, HostRouting, Lab, Pair, Placement
from labctl.model.parameters import AddressingParameters, CheckParameters, NetfilterParameters
from labctl.model.result import CheckResult, Verdict
from labctl.model.trace import ProbeProtocol, Trace
from labctl.names import namespace_of
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.report.trace_html import trace_page
from labctl.system import netns
from labctl.testing.labs import RECORDED, sample_lab
from labctl.testing.scripted import MemoryRaw

MISSING = [tool for tool in ("tcpdump", "conntrack", "iptables") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install {' '.join(MISSING)}"),
]
BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
CHECKS: tuple[tuple[Check, CheckParameters], ...] = (
    (AddressingCheck(), AddressingParameters()),
    (NetfilterCheck(), NetfilterParameters()),
)


@contextmanager
def running(
    name: str, host_routing: HostRouting, encapsulation: Encapsulation, *, faults: tuple[Fault, ...] = ()
) -> Iterator[OpenLab]:
    provider = NetnsProvider()
    lab = sample_lab(name, host_routing=host_routing, encapsulation=encapsulation, faults=faults)
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab:
            yield open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def pair_of(lab: Lab, placement: Placement) -> Pair:
    return next(pair for pair in lab.pairs if pair.placement is placement)


def checked(open_lab: OpenLab, check: Check, parameters: CheckParameters, placement: Placement) -> CheckResult:
    spec = CheckSpec(name=check.kind, kind=check.kind, parameters=parameters)
    pair = pair_of(open_lab.lab, placement)
    return check.run(CheckContext(open_lab=open_lab, pair=pair, spec=spec, raw=MemoryRaw()))


def traced(open_lab: OpenLab, placement: Placement) -> Trace:
    pair = pair_of(open_lab.lab, placement)
    return trace(open_lab, pair, protocol=ProbeProtocol.ICMP, count=1, statement=NetnsProvider().statement)


def failing(result: CheckResult) -> set[str]:
    return {finding.name for finding in result.findings if finding.verdict is Verdict.FAIL}


def netfilter_rules(lab: Lab) -> set[str]:
    """Every rule of every node, without counters."""
    return {
        f"{node.name} {line}"
        for node in lab.nodes
        for line in subprocess.run(
            netns.command(namespace_of(lab.name, node.name), ("iptables-save",)),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.splitlines()
        if line.startswith("-A")
    }


def programs(state: DatapathState, device: str) -> tuple[AttachedProgram, ...]:
    return tuple(program for node in state.nodes for program in node.programs if program.device == device)


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_all_evidence_holds_in_every_mode_and_nothing_stays_on_the_nodes(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with running(host_as_found, host_routing, encapsulation) as open_lab:
        rules = netfilter_rules(open_lab.lab)
        for placement in POD_PLACEMENTS:
            for check, parameters in CHECKS:
                result = checked(open_lab, check, parameters, placement)
                assert result.verdict is Verdict.PASS, f"{placement}: {result.reason}"
                assert all(finding.lesson and finding.command for finding in result.findings)
            page = trace_page(traced(open_lab, placement))
            assert ("into the pod with bpf_redirect_peer" in page) is (host_routing is BPF)
            assert "goes wrong" not in page
        assert netfilter_rules(open_lab.lab) == rules


def test_the_largest_ping_and_the_ttl_are_those_of_a_real_cluster(host_as_found: str) -> None:
    with running(host_as_found, LEGACY, NATIVE) as open_lab:
        result = checked(open_lab, AddressingCheck(), AddressingParameters(), Placement.CROSS_NODE)
    said = {finding.name: finding.sentence for finding in result.findings}
    assert said["largest-ping"].startswith("1472 bytes of payload pass")
    assert said["next-byte"].startswith("1473 bytes get: a refusal by the pod's own kernel (")
    assert "message too long" in said["next-byte"].lower()
    assert "left client with TTL 64 and reached server with 60" in said["ttl"]


def test_a_wrong_vni_is_found_and_nothing_else_is_blamed(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN, faults=(Fault.WRONG_VNI,)) as open_lab:
        result = checked(open_lab, AddressingCheck(), AddressingParameters(), Placement.CROSS_NODE)
    assert failing(result) == {"vni"}
    assert result.verdict is Verdict.FAIL


def test_a_wrong_vtep_is_found(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN, faults=(Fault.WRONG_VTEP,)) as open_lab:
        result = checked(open_lab, AddressingCheck(), AddressingParameters(), Placement.CROSS_NODE)
    assert failing(result) == {"vtep", "outer-macs", "ttl"}  # the third node passes it on, so it arrives after all


def in_pod(lab: Lab, *argv: str) -> None:
    subprocess.run(netns.command(namespace_of(lab.name, "client"), argv), check=True, timeout=120)


def test_a_changed_mask_and_a_changed_mtu_are_found(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as open_lab:
        lab = open_lab.lab
        pod, router = lab.pod("client"), str(lab.node("node1").router)
        in_pod(lab, "ip", "address", "add", f"{pod.address}/24", "dev", "eth0")
        in_pod(lab, "ip", "route", "replace", "default", "via", router, "dev", "eth0", "mtu", "1400")
        result = checked(open_lab, AddressingCheck(), AddressingParameters(), Placement.SAME_NODE)
    assert {"pod-mask", "largest-ping"} <= failing(result)


def test_legacy_native_under_a_lab_that_asks_for_bpf_fails_at_the_hooks(host_as_found: str) -> None:
    """The check judges by what was asked for; here the lab that runs is another one."""
    asked = sample_lab(host_as_found, host_routing=BPF, encapsulation=NATIVE)
    with running(host_as_found, LEGACY, NATIVE), NetnsProvider().open(asked) as open_lab:
        result = checked(open_lab, NetfilterCheck(), NetfilterParameters(), Placement.CROSS_NODE)
    assert failing(result) == {
        "hooks-inner-node1", "conntrack-pair-node1", "hooks-inner-node2", "conntrack-pair-node2"
    }  # fmt: skip


def test_an_icmp_rule_that_drops_is_a_failure_and_no_silence(host_as_found: str) -> None:
    with running(host_as_found, LEGACY, NATIVE, faults=(Fault.NETFILTER_DROP,)) as open_lab:
        result = checked(open_lab, NetfilterCheck(), NetfilterParameters(count=2), Placement.CROSS_NODE)
    assert result.verdict is Verdict.FAIL
    assert "none of 2 requests was answered" in result.reason


def test_the_state_names_programs_entries_and_what_the_programs_did(host_as_found: str) -> None:
    with running(host_as_found, BPF, VXLAN) as open_lab:
        lab, lxc = open_lab.lab, open_lab.lab.pod("client").lxc
        address = str(lab.pod("server").address)
        in_pod(lab, "ping", "-q", "-c", "5", "-i", "0.01", address)
        state = open_lab.datapath_state()
        (program,) = programs(state, lxc)
        assert (program.name, program.hook, program.attach) == ("cil_from_container", "ingress", "tc clsact")
        assert any(act.startswith("5 × ") and "tunnel" in act for act in program.did), program.did
        by_hand = subprocess.run(program.command.split(), capture_output=True, text=True, check=True, timeout=120)
        assert f"id {program.program_id} " in by_hand.stdout
        assert program.tag in by_hand.stdout
        tables = {table.name: table for table in state.nodes[0].maps}
        assert set(tables) == {"config", "endpoints", "ipcache", "tunnel", "snat", "fragments", "metrics"}
        assert ("10.244.1.0/24", "172.30.0.3 (node2)") in tables["tunnel"].rows
        assert len(tables["endpoints"].rows) == 2
        for table in tables.values():
            subprocess.run(table.command.split(), capture_output=True, check=True, timeout=120)


def test_native_labs_have_no_tunnel_map_and_no_overlay_program(host_as_found: str) -> None:
    with running(host_as_found, BPF, NATIVE) as open_lab:
        state = open_lab.datapath_state()
    assert not programs(state, "cilium_vxlan")
    assert all("tunnel" not in {table.name for table in node.maps} for node in state.nodes)


def test_a_node_whose_programs_are_gone_shows_none(host_as_found: str) -> None:
    with running(host_as_found, BPF, NATIVE) as open_lab:
        node = namespace_of(open_lab.lab.name, "node1")
        subprocess.run(("tc", "-n", node, "qdisc", "del", "dev", "eth0", "clsact"), check=True, timeout=120)
        state = open_lab.datapath_state()
    devices = {program.device for program in state.nodes[0].programs}
    assert "eth0" not in devices
    assert "cilium_host" in devices
