from __future__ import annotations

import re
from collections import Counter
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from labctl.model.lab import Encapsulation, Fault, Masquerade
from labctl.networks.cilium import rules
from labctl.providers.netns.counters import parse_iptables_save
from labctl.testing.labs import sample_lab

FIXTURES = Path(__file__).parents[3] / "fixtures" / "netns"
REAL_NODE = (FIXTURES / "iptables-save-c.real-node.txt").read_text()


def by_table_and_chain(saved: str) -> dict[str, list[str]]:
    """Rules without counters, in their order, by table and chain."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif match := re.match(r"(?:\[\d+:\d+\] )?-A (\S+) (.*)", line):
            found.setdefault(f"{table} {match[1]}", []).append(match[2])
    return found


def test_the_rules_are_those_of_a_real_node_and_the_kubelets_four() -> None:
    lab = sample_lab("rules")
    made = by_table_and_chain(rules.as_restore(rules.rules_of(lab, lab.nodes[0])))
    real = by_table_and_chain(REAL_NODE)
    kubelet = [made["nat POSTROUTING"].pop(), *made.pop("nat KUBE-POSTROUTING")]
    assert len(kubelet) == rules.KUBELET_RULES
    assert made == real
    assert sum(map(len, real.values())) == rules.CILIUM_RULES


def test_extra_rules_stand_where_a_forwarded_packet_walks_past_them_and_match_nothing() -> None:
    lab = sample_lab("rules", extra_iptables_rules=300)
    forward = by_table_and_chain(rules.as_restore(rules.rules_of(lab, lab.nodes[0])))["filter FORWARD"]
    assert len(forward) == 301
    assert forward[-1].endswith("-j CILIUM_FORWARD")
    sources = [line.split()[1] for line in forward[:-1]]
    assert len(set(sources)) == 300
    assert all(source.startswith("198.1") for source in sources)
    assert (sources[0], sources[299]) == ("198.18.0.0/32", "198.18.1.43/32")
    assert rules.count_of(lab) == rules.CILIUM_RULES + rules.KUBELET_RULES + 300


def test_iptables_masquerade_spares_the_cluster_and_its_nodes() -> None:
    lab = sample_lab("rules", masquerade=Masquerade.IPTABLES, encapsulation=Encapsulation.NATIVE)
    made = by_table_and_chain(rules.as_restore(rules.rules_of(lab, lab.nodes[1])))["nat CILIUM_POST_nat"]
    assert len(made) == len(lab.nodes) + 1
    assert made[0].startswith("-s 10.244.1.0/24 -d 172.30.0.2/32 ")
    assert made[0].endswith("-j ACCEPT")
    assert made[-1].startswith("-s 10.244.1.0/24 ! -d 10.244.0.0/16 ! -o cilium_+ ")
    assert made[-1].endswith("-j MASQUERADE")


def test_with_vxlan_other_nodes_are_no_exception_and_the_range_may_be_chosen() -> None:
    kept = IPv4Network("10.0.0.0/8")
    lab = sample_lab("rules", masquerade=Masquerade.IPTABLES, ipv4_native_routing_cidr=kept)
    (only,) = by_table_and_chain(rules.as_restore(rules.rules_of(lab, lab.nodes[1])))["nat CILIUM_POST_nat"]
    assert only.startswith("-s 10.244.1.0/24 ! -d 10.0.0.0/8 ! -o cilium_+ ")


def test_the_netfilter_fault_drops_between_pods_before_anything_accepts() -> None:
    lab = sample_lab("rules", faults=(Fault.NETFILTER_DROP,), extra_iptables_rules=2)
    forward = by_table_and_chain(rules.as_restore(rules.rules_of(lab, lab.nodes[0])))["filter FORWARD"]
    assert forward[0].startswith("-s 10.244.0.0/16 -d 10.244.0.0/16 ")
    assert forward[0].endswith("-j DROP")


def test_only_the_socket_match_may_be_missing() -> None:
    lab = sample_lab("rules")
    assert Counter(rule.needs for rule in rules.rules_of(lab, lab.nodes[0])) == {"": 27, "socket": 1}


@pytest.mark.parametrize(
    ("file", "forwarded", "count"), [("iptables-save-c.nft.txt", 6, 28), ("iptables-save-c.real-node.txt", 6, 24)]
)
def test_the_forward_counter_and_the_rules_are_read_from_iptables_save(file: str, forwarded: int, count: int) -> None:
    read = parse_iptables_save((FIXTURES / file).read_text())
    assert (read.forwarded, read.rules) == (forwarded, count)


def test_a_node_without_a_mangle_table_has_forwarded_nothing() -> None:
    assert parse_iptables_save("").forwarded is None  # which is not 0: nothing counted
