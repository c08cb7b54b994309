"""nf_tables' trace of a packet becomes one movement per hook, with the rule that dropped it and what conntrack knew."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from labctl.model.trace import ForwardingAct, Mover, PacketKey
from labctl.providers.netns.netfilter_watch import TABLE, movements_of, parse_chain, ruleset
from labctl.system.netfilter import StepKind, TraceStep, parse_trace
from labctl.system.netlink import attribute, number_attribute, text_attribute
from labctl.testing import packets

A, B = "10.244.0.10", "10.244.1.10"
HEADER = packets.ipv4(A, B, b"", protocol=1, ttl=63)
ECHO = packets.icmp_echo(is_request=True, identifier=7, sequence=3, payload=b"")
KEY = PacketKey(src=A, dst=B, protocol="icmp", first=7, second=3, ip_id=1)
DEVICES = {10: "lxc1", 4: "eth0"}


def step(table: str, chain: str, *, kind: int = StepKind.POLICY, first: bool = True, **more: object) -> TraceStep:
    headers = {"network_header": HEADER, "transport_header": ECHO} if first else {}
    return TraceStep(packet=1, table=table, chain=chain, kind=kind, **{"iif": 10, **headers, **more})  # type: ignore[arg-type]


def hook(name: str, *inside: TraceStep, leaves: bool = True) -> list[TraceStep]:
    steps = [step(TABLE, f"{name}_first"), *inside]
    return [*steps, step(TABLE, f"{name}_last", oif=4)] if leaves else steps


def test_every_hook_that_was_entered_and_left_is_one_movement() -> None:
    steps = [
        *hook("prerouting", step("raw", "PREROUTING"), step("mangle", "PREROUTING", ct_state="new")),
        *hook("forward", step("filter", "FORWARD", ct_state="new", oif=4)),
    ]
    found = list(movements_of(steps, node="node1", device_names=DEVICES, rules={}))
    assert [(m.mover, m.what, m.helper) for m in found] == [
        (Mover.NETFILTER, "PREROUTING", ForwardingAct.ACCEPT),
        (Mover.CONNTRACK, "conntrack", "new"),
        (Mover.NETFILTER, "FORWARD", ForwardingAct.ACCEPT),
    ]
    assert all(m.packet == KEY and m.ttl_in == 63 and m.device == "lxc1" for m in found)
    assert found[0].raw == "raw PREROUTING, mangle PREROUTING"
    assert found[2].target == "eth0"


def test_a_rule_that_drops_is_named_with_its_text() -> None:
    drop = step("filter", "FORWARD", kind=StepKind.RULE, first=False, handle=12, is_drop=True)
    steps = hook("forward", step("filter", "FORWARD", kind=StepKind.RULE, handle=3), drop, leaves=False)
    rules = {("filter", "FORWARD", 12): "ip saddr 10.0.0.0/8 drop"}
    (found,) = movements_of(steps, node="node1", device_names=DEVICES, rules=rules)
    assert (found.helper, found.reason) == (ForwardingAct.DROP, "the rule in filter FORWARD: ip saddr 10.0.0.0/8 drop")


def test_a_hook_that_was_not_left_without_a_word_is_said_to_be_so() -> None:
    (found,) = movements_of(hook("input", leaves=False), node="node1", device_names=DEVICES, rules={})
    assert (found.helper, found.reason) == (ForwardingAct.NOT_LEFT, "")


def test_a_policy_that_drops_is_named() -> None:
    drop = step("filter", "INPUT", is_drop=True)
    (found,) = movements_of(hook("input", drop, leaves=False), node="n", device_names=DEVICES, rules={})
    assert found.reason == "the policy of filter INPUT"


def test_messages_of_the_kernel_are_read_and_others_passed_over() -> None:
    body = b"\x02\0\0\0" + b"".join(
        (
            text_attribute(1, "filter"),
            text_attribute(2, "FORWARD"),
            attribute(3, struct.pack(">Q", 12)),
            attribute(4, struct.pack(">I", StepKind.RULE)),
            attribute(5, attribute(1, struct.pack(">I", 0)) + text_attribute(2, "")),
            attribute(6, struct.pack(">I", 77)),
            attribute(8, HEADER),
            attribute(10, struct.pack(">I", 10)),
            attribute(21, struct.pack(">I", 8)),
        )
    )
    message = struct.pack("=IHHII", 16 + len(body), 10 << 8 | 17, 0, 0, 0) + body
    other = struct.pack("=IHHII", 20, 2, 0, 0, 0) + number_attribute(1, 0)[:4]
    (found,) = parse_trace(other + message)
    assert found == TraceStep(
        packet=77,
        table="filter",
        chain="FORWARD",
        kind=StepKind.RULE,
        handle=12,
        is_drop=True,
        iif=10,
        network_header=HEADER,
        ct_state="new",
    )


def test_rules_are_known_by_their_handles_without_their_counters() -> None:
    # Printed by nft 1.0.6 for a rule of iptables-nft 1.8.9.
    text = """\
table ip filter {
\tchain FORWARD { # handle 2
\t\ttype filter hook forward priority filter; policy accept;
\t\tip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16  counter packets 3 bytes 252 drop # handle 7
\t\t counter packets 0 bytes 0 jump CILIUM_FORWARD # handle 8
\t}
}
"""
    assert parse_chain(text, "filter", "FORWARD") == {
        ("filter", "FORWARD", 7): "ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 drop",
        ("filter", "FORWARD", 8): "jump CILIUM_FORWARD",
    }


@pytest.mark.parametrize(
    ("printed", "rule"),
    [
        ('tcp dport 9 comment "a counter of my own words" counter packets 3 bytes 180 drop',
         'tcp dport 9 comment "a counter of my own words" drop'),
        ('tcp dport 9 comment "no counter" drop', 'tcp dport 9 comment "no counter" drop'),
        ("counter packets 3 bytes 180 jump counters", "jump counters"),
        ('tcp dport 9 counter name "mine" drop', 'tcp dport 9 counter name "mine" drop'),
    ],
)  # fmt: skip
def test_only_a_rules_own_counter_is_left_out_and_nothing_that_looks_like_it(printed: str, rule: str) -> None:
    """nft 1.1.7 prints a comment before the counter."""
    text = f"table ip filter {{\n\tchain FORWARD {{ # handle 1\n\t\t{printed} # handle 2\n\t}}\n}}\n"
    assert parse_chain(text, "filter", "FORWARD") == {("filter", "FORWARD", 2): rule}


def test_the_table_goes_with_its_owner_and_marks_the_pair_alone() -> None:
    text = ruleset([(IPv4Address(A), IPv4Address(B))])
    assert text.startswith(f"table ip {TABLE} {{\n flags owner;\n")
    assert text.count("meta nftrace set 1") == 8  # two hooks, two ways, plain and enveloped
    assert f"ip saddr {A} ip daddr {B}" in text
    assert f"ip saddr {B} ip daddr {A}" in text


def test_without_owners_the_table_takes_the_place_of_one_that_was_left_behind() -> None:
    text = ruleset([(IPv4Address(A), IPv4Address(B))], is_owned=False)
    assert "flags owner" not in text
    assert text.startswith(f"add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n")
    assert text.count("meta nftrace set 1") == 8
