"""When a lab's mode counts as proven, and what is said when it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from labctl.checks.base import Check, CheckContext
from labctl.checks.mode import judge_mode
from labctl.engine.events import CheckDone, Event, ModeProven, silent
from labctl.engine.prove import one_pair_a_placement, prove, refuse_unless_proven
from labctl.errors import NotInForce
from labctl.model.evidence import Evidence, ModeInForce, Silence, Standing
from labctl.model.lab import CheckSpec, Fallback, HostRouting, Lab, Pair, Placement
from labctl.model.parameters import TcpdumpParameters
from labctl.model.result import CheckResult, Verdict
from labctl.networks.cilium.expected import expected_for
from labctl.store.runs import MemorySinks
from labctl.testing.labs import example_lab
from labctl.testing.scripted import ScriptedCheck, ScriptedLab

ASKED = {"hostRouting": "bpf", "encapsulation": "vxlan"}


def piece(
    supports: bool | None, found: Mapping[str, object] | None = None, *, witness: str = "helpers", where: str = "node1"
) -> Evidence:
    if found is None and supports is not None:
        found = {"hostRouting": "bpf" if supports else "legacy"}
    return Evidence(witness=witness, where=where, finding=f"{witness} say {found}", supports=supports, found=found)


def result(verdict: Verdict = Verdict.PASS, reason: str = "") -> CheckResult:
    return CheckResult(
        check="tcpdump", kind="tcpdump", client="client", server="server", placement=Placement.CROSS_NODE,
        verdict=verdict, reason=reason,
    )  # fmt: skip


def judged(*evidence: Evidence, results: tuple[CheckResult, ...] = (result(),)) -> ModeInForce:
    return judge_mode("example", ASKED, evidence, results)


def test_one_witness_for_and_none_against_proves_it() -> None:
    mode = judged(piece(True))
    assert (mode.proven, mode.reason, mode.remedy) == (True, "", "")
    assert mode.found == {"hostRouting": "bpf"}


def test_a_witness_that_tells_nothing_stands_in_nobodys_way() -> None:
    assert judged(piece(None), piece(True)).proven


def test_no_evidence_at_all_proves_nothing() -> None:
    mode = judged()
    assert not mode.proven
    assert mode.reason == "no witness could show which host routing is in force"
    assert mode.remedy == "labctl status example"


def test_witnesses_that_tell_nothing_prove_nothing() -> None:
    assert not judged(piece(None), piece(None)).proven


def test_a_witness_of_the_tunnel_alone_does_not_prove_host_routing() -> None:
    mode = judged(piece(True, {"encapsulation": "vxlan"}))
    assert not mode.proven
    assert mode.reason == "no witness could show which host routing is in force"
    assert mode.found == {"encapsulation": "vxlan"}


def test_one_witness_against_outweighs_any_number_for() -> None:
    mode = judged(piece(True), piece(True), piece(False), piece(True))
    assert not mode.proven
    assert mode.reason == "node1: helpers say {'hostRouting': 'legacy'}"


def test_claims_that_contradict_each_other_read_unclear_and_stay_so() -> None:
    mode = judged(piece(True), piece(False), piece(True))
    assert mode.found == {"hostRouting": "unclear"}


def test_a_claim_of_another_kind_is_kept_beside() -> None:
    mode = judged(piece(True), piece(True, {"encapsulation": "vxlan"}))
    assert mode.found == {"hostRouting": "bpf", "encapsulation": "vxlan"}


def test_the_packets_word_comes_first_and_the_others_are_named() -> None:
    mode = judged(
        piece(False, witness="netfilter", where="node2"),
        piece(False, witness="signature", where="client → server"),
        piece(False, witness="helpers", where="node1"),
    )
    assert mode.reason == (
        "client → server: signature say {'hostRouting': 'legacy'} (so say also: node1: helpers, node2: netfilter)"
    )


def test_a_capture_that_could_not_be_made_proves_nothing_whatever_the_counters_say() -> None:
    mode = judged(piece(True), results=(result(), result(Verdict.ERROR, "tcpdump: permission denied")))
    assert not mode.proven
    assert mode.reason == "the captures of client → server could not be made: tcpdump: permission denied"


def test_a_contradiction_is_more_telling_than_a_capture_that_could_not_be_made() -> None:
    mode = judged(piece(False), results=(result(Verdict.ERROR, "tcpdump: permission denied"),))
    assert mode.reason.startswith("node1: helpers")


def silent_piece(silence: Silence, finding: str, *, where: str = "node2") -> Evidence:
    return Evidence(witness="some", where=where, finding=finding, supports=None, silence=silence)


@pytest.mark.parametrize(
    ("silence", "reason"),
    [
        (Silence.LOST, "node2: last seen at node1:eth0"),
        (Silence.ABSENT, "node2: last seen at node1:eth0"),
        (Silence.UNREAD, "no witness could show which host routing is in force; node2: last seen at node1:eth0"),
    ],
)
def test_what_is_lost_missing_or_unread_leaves_the_mode_not_shown(silence: Silence, reason: str) -> None:
    mode = judged(piece(None), silent_piece(silence, "last seen at node1:eth0"))
    assert (mode.standing, mode.reason) == (Standing.NOT_SHOWN, reason)
    assert set(mode.aspects().values()) == {Standing.NOT_SHOWN}


@pytest.mark.parametrize("silence", [Silence.LOST, Silence.ABSENT])
def test_half_of_the_lab_that_shows_the_mode_does_not_show_it_for_the_other_half(silence: Silence) -> None:
    mode = judged(piece(True), silent_piece(silence, "nothing came"))
    assert not mode.proven
    assert mode.standing is Standing.NOT_SHOWN
    assert mode.aspects() == {"hostRouting": Standing.IN_FORCE, "encapsulation": Standing.NOT_SHOWN}


def test_a_witness_that_cannot_be_read_leaves_a_right_lab_proven_by_the_others() -> None:
    mode = judged(piece(True), silent_piece(Silence.UNREAD, "the counters could not be read: EPERM"))
    assert (mode.proven, mode.standing) == (True, Standing.IN_FORCE)


def test_another_mode_that_was_seen_stands_whatever_else_was_lost() -> None:
    mode = judged(piece(False), silent_piece(Silence.ABSENT, "no program is attached"))
    assert mode.standing is Standing.NOT_IN_FORCE
    assert mode.reason == "node1: helpers say {'hostRouting': 'legacy'}; node2: no program is attached"
    assert mode.aspects()["hostRouting"] is Standing.NOT_IN_FORCE


def test_where_packets_were_lost_the_remedy_is_to_trace_them() -> None:
    lab = example_lab()
    signature = expected_for(lab, lab.pairs[0], packets=3).signature
    cut = replace(signature, taps=tuple(replace(tap, request=None, reply=None) for tap in signature.taps))
    mode = judged(silent_piece(Silence.LOST, "nothing came"), results=(replace(result(), signature=cut),))
    assert mode.remedy == "labctl trace example client server"


def test_packets_that_took_another_way_than_expected_are_the_checks_to_judge_not_the_modes() -> None:
    """A signature that fails for another reason (a wrong VNI) still shows which mode is in force."""
    assert judged(piece(True), results=(result(Verdict.FAIL, "the VNI is wrong"),)).proven


def test_a_mode_in_force_is_not_refused() -> None:
    refuse_unless_proven(judged(piece(True)), "side b (bpf)", again="labctl up bpf")


def test_the_refusal_names_the_side_what_was_asked_what_was_found_and_why() -> None:
    with pytest.raises(NotInForce) as raised:
        refuse_unless_proven(judged(piece(False)), "side b (bpf)", again="labctl up bpf --name look")
    assert raised.value.exit_code == 4
    assert raised.value.lines() == (
        "error: side b (bpf): the mode that was asked for is not in force (hostRouting asked bpf, found legacy)",
        "  why: node1: helpers say {'hostRouting': 'legacy'}",
        "  try: labctl up bpf --name look",
    )


def test_the_refusal_of_a_mode_that_nobody_could_tell_names_no_difference() -> None:
    with pytest.raises(NotInForce) as raised:
        refuse_unless_proven(judged(), "side a (legacy)", again="labctl up legacy")
    assert raised.value.what == "side a (legacy): it is not shown whether the mode that was asked for is in force"
    assert raised.value.cause == "no witness could show which host routing is in force"


PAIRS = (
    Pair(client="a", server="b", placement=Placement.CROSS_NODE),
    Pair(client="a", server="c", placement=Placement.SAME_NODE),
    Pair(client="a", server="d", placement=Placement.CROSS_NODE),
)


def test_one_pair_of_each_placement_is_taken_in_the_scenarios_order() -> None:
    assert one_pair_a_placement(PAIRS) == PAIRS[:2]
    assert one_pair_a_placement(PAIRS[2:]) == PAIRS[2:]
    assert one_pair_a_placement(()) == ()


@dataclass(kw_only=True)
class Captures(ScriptedCheck):
    """Stands for the tcpdump check: shows the signature of a mode, whatever lab it is given."""

    shown: HostRouting
    verdict: Verdict = Verdict.PASS
    kind: str = "tcpdump"

    def run(self, context: CheckContext) -> CheckResult:
        context.raw.save("capture", str(context.spec.parameters).encode())
        lab = context.open_lab.lab
        shown = replace(lab, datapath=replace(lab.datapath, host_routing=self.shown))
        signature = expected_for(shown, context.pair, packets=3).signature
        return self.result(
            context, self.verdict, "cannot capture", signature=signature if self.verdict is Verdict.PASS else None
        )


def proven(lab: Lab, check: Captures, *evidence: Evidence, observer: Callable[[Event], None] = silent) -> ModeInForce:
    checks: Mapping[str, Check] = {"tcpdump": check}
    return prove(checks, ScriptedLab(lab, [], evidence=evidence), MemorySinks(), observer).mode


@pytest.mark.parametrize("mode", HostRouting)
def test_the_packets_alone_can_prove_a_mode(mode: HostRouting) -> None:
    lab = example_lab(host_routing=mode)
    found = proven(lab, Captures(shown=mode))
    assert found.proven, found.reason
    assert found.found["hostRouting"] == mode
    assert found.asked == lab.datapath.asked()


@pytest.mark.parametrize("mode", HostRouting)
def test_packets_of_the_other_mode_disprove_it(mode: HostRouting) -> None:
    other = next(one for one in HostRouting if one is not mode)
    found = proven(example_lab(host_routing=mode), Captures(shown=other))
    assert not found.proven
    assert found.found["hostRouting"] == other


def test_a_provider_that_contradicts_the_packets_disproves_it() -> None:
    found = proven(example_lab(host_routing=HostRouting.BPF), Captures(shown=HostRouting.BPF), piece(False))
    assert not found.proven
    assert found.found["hostRouting"] == "unclear"


def test_a_capture_that_cannot_be_made_disproves_nothing_and_proves_nothing() -> None:
    found = proven(
        example_lab(host_routing=HostRouting.BPF), Captures(shown=HostRouting.BPF, verdict=Verdict.ERROR), piece(True)
    )
    assert not found.proven
    assert "could not be made: cannot capture" in found.reason


def test_the_proof_is_told_when_it_is_finished_with_each_capture_before_it() -> None:
    events: list[Event] = []
    found = proven(example_lab(), Captures(shown=HostRouting.LEGACY), observer=events.append)
    assert any(isinstance(event, CheckDone) for event in events)
    assert events[-1] == ModeProven(proof=found)


def test_the_proof_uses_the_scenarios_own_parameters_and_keeps_the_raw_capture() -> None:
    own = CheckSpec(name="my-capture", kind="tcpdump", parameters=TcpdumpParameters(count=7))
    sinks = MemorySinks()
    lab = example_lab(checks=[own])
    prove({"tcpdump": Captures(shown=HostRouting.LEGACY)}, ScriptedLab(lab, []), sinks, silent)
    assert sinks("proof-client-server").files == {"capture": str(own.parameters).encode()}


def test_a_fallback_that_is_allowed_is_proven_for_the_mode_that_was_found() -> None:
    fallback = Fallback(reason="masquerading is done by iptables", remedy="--set datapath.masquerade=bpf")
    against_what_comes_of_it = piece(True, {"hostRouting": "legacy"})
    mode = judge_mode("example", ASKED, (against_what_comes_of_it,), (result(),), fallback)
    assert mode.proven
    assert (mode.asked["hostRouting"], mode.found["hostRouting"]) == ("bpf", "legacy")
    assert mode.fallback == fallback
    assert mode.standing is Standing.IN_FORCE
    assert mode.aspects()["hostRouting"] is Standing.NOT_IN_FORCE


def test_the_evidence_of_a_lab_that_fell_back_is_held_against_what_comes_of_it() -> None:
    lab = replace(example_lab(host_routing=HostRouting.BPF), fallback=Fallback(reason="why", remedy="so"))
    assert (lab.datapath.host_routing, lab.in_force.host_routing) == (HostRouting.BPF, HostRouting.LEGACY)
    assert expected_for(lab, lab.pairs[0], packets=3).host_routing is HostRouting.LEGACY
