"""The netfilter check: its rules and parsers, what each mode should show, and rules that are taken away again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.netfilter import (
    HOOKS,
    ConntrackLine,
    Counting,
    Layer,
    NetfilterCheck,
    NodeLook,
    argv_change,
    delete_rules,
    expected_hooks,
    insert_rules,
    judge_node,
    parse_connections,
    parse_counters,
)
from labctl.errors import MeasureFailed
from labctl.model.lab import POD_PLACEMENTS, CheckSpec, Encapsulation, HostRouting, Placement
from labctl.model.parameters import NetfilterParameters
from labctl.model.result import CheckResult, Verdict
from labctl.model.trace import Way
from labctl.providers.base import TargetKind
from labctl.testing.labs import CLIENT, RECORDED, SERVER, example_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

Recorded = Callable[[str], bytes]
BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
SAME, CROSS = Placement.SAME_NODE, Placement.CROSS_NODE
COUNTING = Counting(
    mark="labctl-0badcafe",
    client="10.244.0.10",
    server="10.244.1.10",
    client_node="172.30.0.2",
    server_node="172.30.0.3",
)
PACKETS = {Way.REQUEST: 3, Way.REPLY: 3}
ICMP = ConntrackLine(protocol="icmp", source="a", destination="b", first="7", second="7", is_replied=True)
UDP = tuple(
    ConntrackLine(protocol="udp", source=f"n{n}", destination="m", first="4", second="8472", is_replied=False)
    for n in (1, 2)
)


def test_the_rules_count_and_do_nothing_and_are_deleted_as_they_were_inserted() -> None:
    inserted, deleted = insert_rules(COUNTING).decode(), delete_rules(COUNTING).decode()
    assert inserted.splitlines()[0] == "*mangle"
    assert inserted.splitlines()[-1] == "COMMIT"
    rules = inserted.splitlines()[1:-1]
    assert len(rules) == 5 * 4
    assert all(" -j " not in rule and "labctl-0badcafe-" in rule for rule in rules)
    assert deleted == inserted.replace("-I ", "-D ")


def test_pods_of_one_node_have_no_envelopes_to_count() -> None:
    same = Counting(mark="m", client="a", server="b", client_node="n", server_node="n")
    assert {layer for layer, _ in same.ways()} == {Layer.INNER}


def test_counters_are_read_from_what_iptables_saves(recorded: Recorded) -> None:
    counts = parse_counters(recorded("evidence/iptables-save.txt").decode(), COUNTING)
    forwarded = {"PREROUTING": 3, "INPUT": 0, "FORWARD": 3, "OUTPUT": 0, "POSTROUTING": 3}
    assert counts[Layer.INNER, Way.REQUEST] == forwarded
    assert counts[Layer.INNER, Way.REPLY] == forwarded
    assert counts[Layer.OUTER, Way.REQUEST] == dict.fromkeys(HOOKS, 0)


def test_quoted_comments_as_iptables_legacy_saves_them_are_read_too() -> None:
    line = '[5:420] -A FORWARD -s 1.2.3.4/32 -p icmp -m comment --comment "labctl-0badcafe-inner-reply"'
    assert parse_counters(line, COUNTING)[Layer.INNER, Way.REPLY] == {"FORWARD": 5}


def test_foreign_rules_are_not_counted(recorded: Recorded) -> None:
    other = Counting(mark="labctl-00000000", client="a", server="b", client_node="n", server_node="n")
    counts = parse_counters(recorded("evidence/iptables-save.txt").decode(), other)
    assert not any(counts.values())


def test_conntrack_entries_are_read_by_their_first_direction(recorded: Recorded) -> None:
    found = parse_connections(recorded("evidence/conntrack.txt").decode())
    assert [entry.words for entry in found] == [
        "icmp 10.244.0.58 → 172.30.0.5 id 212",
        "icmp 10.244.0.172 → 172.30.0.5 id 106",
        "udp 172.30.0.3 → 172.30.0.2 48645 → 8472 [UNREPLIED]",
        "udp 172.30.0.2 → 172.30.0.3 48645 → 8472 [UNREPLIED]",
    ]
    assert parse_connections("conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown.\n") == ()


def look(
    counts: Mapping[tuple[Layer, Way], Mapping[str, int]],
    *,
    pair: tuple[ConntrackLine, ...] = (),
    envelopes: tuple[ConntrackLine, ...] = (),
) -> NodeLook:
    return NodeLook(node="node1", is_client=True, is_server=False, counts=counts, pair=pair, envelopes=envelopes)


def as_expected(mode: HostRouting, how: Encapsulation, where: Placement) -> NodeLook:
    datapath = example_lab(host_routing=mode, encapsulation=how, placement=where).datapath
    empty = look({})
    counts = {
        (layer, way): dict.fromkeys(expected_hooks(datapath, where, empty, layer, way), 3)
        for layer, way in product(Layer, Way)
    }
    is_legacy_native = (mode, how, where) == (LEGACY, NATIVE, CROSS)
    return look(counts, pair=(ICMP,) if is_legacy_native else (), envelopes=UDP)


CELLS = tuple(product(HostRouting, RECORDED, POD_PLACEMENTS))


@pytest.mark.parametrize("cell", CELLS)
def test_each_cell_passes_with_its_own_counts_and_only_legacy_native_goes_through_forward(
    cell: tuple[HostRouting, Encapsulation, Placement],
) -> None:
    mode, how, where = cell
    seen = as_expected(mode, how, where)
    findings = tuple(
        judge_node(example_lab(host_routing=mode, encapsulation=how, placement=where).datapath, where, seen, PACKETS)
    )
    assert {one.verdict for one in findings} == {Verdict.PASS}
    forwards = any("FORWARD" in counts for counts in seen.counts.values())
    assert forwards is (cell == (LEGACY, NATIVE, CROSS))
    assert len(findings) == (4 if (how, where) == (VXLAN, CROSS) else 2)


@pytest.mark.parametrize(("asked", "really"), [(BPF, LEGACY), (LEGACY, BPF)])
def test_a_lab_that_runs_in_the_other_mode_fails_hooks_and_conntrack(asked: HostRouting, really: HostRouting) -> None:
    datapath = example_lab(host_routing=asked, encapsulation=NATIVE, placement=CROSS).datapath
    findings = tuple(judge_node(datapath, CROSS, as_expected(really, NATIVE, CROSS), PACKETS))
    assert {one.name for one in findings if one.verdict is Verdict.FAIL} == {
        "hooks-inner-node1",
        "conntrack-pair-node1",
    }


def test_one_packet_less_at_one_hook_fails() -> None:
    datapath = example_lab(host_routing=LEGACY, encapsulation=NATIVE, placement=CROSS).datapath
    counts = {kind: dict(held) for kind, held in as_expected(LEGACY, NATIVE, CROSS).counts.items()}
    counts[Layer.INNER, Way.REPLY]["POSTROUTING"] = 2
    findings = {one.name: one for one in judge_node(datapath, CROSS, look(counts, pair=(ICMP,)), PACKETS)}
    assert findings["hooks-inner-node1"].verdict is Verdict.FAIL
    assert "3 replies passed PREROUTING 3, FORWARD 3, POSTROUTING 2" in findings["hooks-inner-node1"].sentence


def test_an_answered_envelope_entry_or_a_single_one_fails() -> None:
    datapath = example_lab(host_routing=BPF, encapsulation=VXLAN, placement=CROSS).datapath
    counts = as_expected(BPF, VXLAN, CROSS).counts
    answered = ConntrackLine(protocol="udp", source="n1", destination="m", first="4", second="8472", is_replied=True)
    for envelopes in ((UDP[0],), (UDP[0], answered), ()):
        found = {one.name: one for one in judge_node(datapath, CROSS, look(counts, envelopes=envelopes), PACKETS)}
        assert found["conntrack-envelopes-node1"].verdict is Verdict.FAIL


PING = b"""PING 10.244.0.20 (10.244.0.20) 56(84) bytes of data.
[1763800000.000000] 64 bytes from 10.244.0.20: icmp_seq=1 ttl=63 time=0.1 ms

--- 10.244.0.20 ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms
"""


def saved(argv: tuple[str, ...]) -> bytes:
    kinds = [f"{layer}-{way}" for layer, way in product((Layer.INNER,), Way)]
    return "".join(f"[0:0] -A {hook} -m comment --comment mark-{kind}\n" for hook in HOOKS for kind in kinds).encode()


def run(node: list[Answer], *, ping: Answer | None = None) -> tuple[CheckResult, ScriptedTarget]:
    lab = example_lab(host_routing=BPF, encapsulation=VXLAN, placement=SAME)
    ping = ping or Answer(argv=("ping",), stdout=PING)
    targets = [
        ScriptedTarget(CLIENT, [ping]),
        ScriptedTarget(SERVER),
        ScriptedTarget("node1", node, kind=TargetKind.NODE),
    ]
    spec = CheckSpec(name="netfilter", kind="netfilter", parameters=NetfilterParameters(count=1))
    context = CheckContext(open_lab=ScriptedLab(lab, targets), pair=lab.pairs[0], spec=spec, raw=MemoryRaw())
    return NetfilterCheck(mark=lambda: "mark").run(context), targets[2]


CHANGE, COUNTERS = Answer(argv=argv_change()), Answer(argv=("iptables-save",), output=saved)
NO_ENTRIES = Answer(
    argv=("conntrack",), stderr=b"conntrack v1.4.7 (conntrack-tools): 0 flow entries have been shown.\n"
)


def changes(node: ScriptedTarget) -> list[bytes]:
    return [call.stdin for call in node.calls if call.argv == argv_change()]


def test_the_rules_stand_only_while_the_packets_go_through() -> None:
    result, node = run([CHANGE, COUNTERS, NO_ENTRIES])
    assert result.verdict is Verdict.PASS, result.reason
    assert [text[8:10] for text in changes(node)] == [b"-I", b"-D"]
    assert {one.name for one in result.findings} == {"hooks-inner-node1", "conntrack-pair-node1"}


def test_the_rules_are_taken_away_when_something_fails_in_between() -> None:
    broken = Answer(argv=("conntrack",), fails=MeasureFailed("conntrack is not there"))
    result, node = run([CHANGE, COUNTERS, broken])
    assert result.verdict is Verdict.ERROR
    assert [text[8:10] for text in changes(node)] == [b"-I", b"-D"]


def test_counters_that_cannot_be_found_again_are_an_error_not_zero() -> None:
    result, _ = run([CHANGE, Answer(argv=("iptables-save",), stdout=b"*mangle\nCOMMIT\n"), NO_ENTRIES])
    assert result.verdict is Verdict.ERROR
    assert "the counting rules are not there" in result.reason


def test_requests_without_any_answer_are_a_failure_of_the_network() -> None:
    lost = PING.replace(b"1 received, 0%", b"0 received, 100%").replace(
        b"[1763800000.000000] 64 bytes from 10.244.0.20: icmp_seq=1 ttl=63 time=0.1 ms\n", b""
    )
    result, _ = run([CHANGE, COUNTERS, NO_ENTRIES], ping=Answer(argv=("ping",), stdout=lost, returncode=1))
    assert result.verdict is Verdict.FAIL
    assert "none of 1 requests was answered" in result.reason
