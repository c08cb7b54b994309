"""The tcpdump check on labs of the netns provider: all eight cells equal real Cilium's, and every fault is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.engine.build import build, remove
from labctl.model.lab import POD_PLACEMENTS, CheckSpec, Encapsulation, Fault, HostRouting, Lab, Placement
from labctl.model.parameters import TcpdumpParameters
from labctl.model.result import CheckResult, Verdict
from labctl.path.signature import signature_evidence
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import RECORDED, sample_lab
from labctl.testing.scripted import MemoryRaw

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump: apt-get install tcpdump"),
]

BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE


@contextmanager
def running(
    host_routing: HostRouting, encapsulation: Encapsulation, *, faults: tuple[Fault, ...] = ()
) -> Iterator[tuple[Lab, OpenLab]]:
    provider = NetnsProvider()
    lab = sample_lab(f"test-cells-{os.getpid()}", host_routing=host_routing, encapsulation=encapsulation, faults=faults)
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab:
            yield lab, open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def observe(lab: Lab, open_lab: OpenLab, placement: Placement) -> CheckResult:
    pair = next(pair for pair in lab.pairs if pair.placement is placement)
    spec = CheckSpec(name="tcpdump", kind="tcpdump", parameters=TcpdumpParameters())
    return TcpdumpCheck().run(CheckContext(open_lab=open_lab, pair=pair, spec=spec, raw=MemoryRaw()))


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_every_tap_shows_what_real_cilium_shows(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    with running(host_routing, encapsulation) as (lab, open_lab):
        for placement in POD_PLACEMENTS:
            result = observe(lab, open_lab, placement)
            assert result.verdict is Verdict.PASS, f"{placement}: {result.reason}"
            evidence = signature_evidence(result, lab.datapath, lab.name)
            assert evidence.supports is True
            assert evidence.found is not None
            assert evidence.found["hostRouting"] == host_routing


@pytest.mark.parametrize(
    ("fault", "encapsulation", "words"),
    [
        (Fault.NO_REDIRECT_PEER, VXLAN, "delivery did not use bpf_redirect_peer, so host routing is Legacy"),
        (Fault.WRONG_VTEP, VXLAN, "the tunnel entry names another node (VTEP)"),
        (Fault.WRONG_VNI, VXLAN, "which is the client pod's security identity"),
    ],
)
def test_a_fault_is_named_at_its_place(fault: Fault, encapsulation: Encapsulation, words: str) -> None:
    with running(BPF, encapsulation, faults=(fault,)) as (lab, open_lab):
        result = observe(lab, open_lab, Placement.CROSS_NODE)
    assert result.verdict is Verdict.FAIL
    assert words in result.reason


def test_a_packet_that_netfilter_drops_is_lost_on_its_node() -> None:
    with running(LEGACY, NATIVE, faults=(Fault.NETFILTER_DROP,)) as (lab, open_lab):
        result = observe(lab, open_lab, Placement.CROSS_NODE)
    assert result.verdict is Verdict.FAIL
    assert "was last seen at" in result.reason
    assert "netfilter" in result.reason
