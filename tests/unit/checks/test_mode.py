"""The mode of one pair: asked against in force, a fallback said, what nobody shows no pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.mode import ModeCheck, judge_aspects, judge_mode
from labctl.checks.outcome import RawFiles
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.errors import MeasureFailed
from labctl.model.evidence import Evidence
from labctl.model.lab import CheckSpec, Fallback, HostRouting, Lab, Pair, Placement
from labctl.model.parameters import ModeParameters, TcpdumpParameters
from labctl.model.result import CheckResult, Verdict
from labctl.model.signature import Signature
from labctl.networks.cilium.expected import expected_for
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import MemoryRaw, ScriptedLab, ScriptedTarget

FALLBACK = Fallback(reason="masquerading is done by iptables", remedy="--set datapath.masquerade=bpf")


class Taps(TcpdumpCheck):
    """Takes the signature that the lab should show, or the one that is given."""

    def __init__(self, signature: Signature | None = None, *, fails: bool = False) -> None:
        super().__init__()
        self.signature, self.fails = signature, fails

    def observe(self, context: CheckContext, raw: RawFiles, parameters: TcpdumpParameters) -> Signature:
        if self.fails:
            raise MeasureFailed("the capture sees nothing", "no packet")
        lab = context.open_lab.lab
        return self.signature or expected_for(lab, context.pair, packets=parameters.count).signature


def witness(lab: Lab, routing: str, **found: object) -> Evidence:
    claims = {"hostRouting": routing, **found}
    supports = all(lab.in_force.asked()[key] == claim for key, claim in claims.items())
    return Evidence(witness="helpers", where="node1", finding="8 packets", supports=supports, found=claims, command="x")


def run(lab: Lab, *evidence: Evidence, taps: TcpdumpCheck | None = None) -> CheckResult:
    return ModeCheck(taps or Taps()).run(
        CheckContext(
            open_lab=ScriptedLab(lab, [ScriptedTarget(CLIENT, []), ScriptedTarget(SERVER, [])], evidence=evidence),
            pair=lab.pairs[0],
            spec=CheckSpec(name="mode", kind="mode", parameters=ModeParameters()),
            raw=MemoryRaw(),
        )
    )


@pytest.mark.parametrize("routing", list(HostRouting))
def test_what_was_asked_for_and_is_in_force_passes_and_names_who_shows_it(routing: HostRouting) -> None:
    lab = example_lab(host_routing=routing)
    result = run(lab, witness(lab, str(routing)))
    assert result.verdict is Verdict.PASS
    assert [(one.name, one.sentence) for one in result.findings] == [
        ("hostRouting", f"asked {routing}, in force {routing} (by helpers, signature)"),
        ("encapsulation", "asked vxlan, in force vxlan (by signature)"),
    ]


def test_another_mode_fails() -> None:
    lab = example_lab(host_routing=HostRouting.BPF)
    legacy = expected_for(example_lab(host_routing=HostRouting.LEGACY), lab.pairs[0], packets=3).signature
    result = run(lab, witness(lab, "legacy"), taps=Taps(legacy))
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("hostRouting does not hold: asked bpf, in force legacy")


def test_a_fallback_that_the_scenario_allows_passes_and_says_both() -> None:
    lab = replace(example_lab(host_routing=HostRouting.BPF), fallback=FALLBACK)
    result = run(lab, witness(lab, "legacy"))
    assert result.verdict is Verdict.PASS
    assert result.findings[0].sentence == (
        "asked bpf, in force legacy (by helpers, signature): masquerading is done by iptables"
    )
    still_bpf = expected_for(example_lab(host_routing=HostRouting.BPF), lab.pairs[0], packets=3).signature
    assert run(lab, witness(lab, "bpf"), taps=Taps(still_bpf)).verdict is Verdict.FAIL


def test_a_contradiction_is_no_mode() -> None:
    lab = example_lab(host_routing=HostRouting.BPF)
    result = run(lab, witness(lab, "legacy"))
    assert result.verdict is Verdict.FAIL
    assert "in force unclear" in result.reason


def test_what_nobody_shows_is_an_error_and_no_pass() -> None:
    lab = example_lab(host_routing=HostRouting.BPF)
    mode = judge_mode(lab.name, lab.datapath.asked(), (), ())
    (only,) = judge_aspects(mode, lab.in_force.asked())
    assert (only.verdict, only.name) == (Verdict.ERROR, "hostRouting")
    assert run(lab, taps=Taps(fails=True)).verdict is Verdict.ERROR


def test_it_is_about_two_pods() -> None:
    lab = example_lab()
    assert ModeCheck().unfit(lab, lab.pairs[0]) == ""
    assert ModeCheck().unfit(lab, Pair(client=CLIENT, server="node2", placement=Placement.CROSS_NODE))
