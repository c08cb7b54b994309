"""kube-proxy's iptables rules: names as Kubernetes makes them, and where a packet that walks through them ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from labctl.model.lab import Lab
from labctl.services.frontends import frontends
from labctl.services.iptables import chain_name, iptables_rules
from services.service_labs import lab_with_services

POD, OTHER_POD, OUTSIDE = "10.244.0.2", "10.244.1.2", "172.30.0.99"


def rules_of(lab: Lab, node: str) -> str:
    return iptables_rules(frontends(lab), node=node, pod_cidr=lab.network.pod_cidr)


def chains_of(text: str, table: str) -> dict[str, list[str]]:
    """The rules of each chain of a table, as a packet meets them."""
    found: dict[str, list[str]] = {}
    inside = ""
    for line in text.splitlines():
        if line.startswith("*"):
            inside = line[1:]
        elif inside == table and line.startswith(":"):
            found.setdefault(line.split()[0][1:], [])
        elif inside == table and (rule := re.match(r"-([AI]) (\S+) (.*)", line)):
            chain = found.setdefault(rule[2], [])
            chain.insert(0 if rule[1] == "I" else len(chain), rule[3])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    to_node: bool = False
    from_node: bool = False

    def fits(self, rule: str) -> bool:
        """Of the matches that kube-proxy's rules have, those that say which packets a rule is for."""
        of = f" {rule} "
        wants = (
            (r" -d (\S+)/32 ", lambda found: found == self.destination),
            (r" ! -s 10\.244\.0\.0/16 ", lambda _: not self.source.startswith("10.244.")),
            (r"(?<! !) -s 10\.244\.0\.0/16 ", lambda _: self.source.startswith("10.244.")),
            (r" -s (\S+)/32 ", lambda found: found == self.source),
            (r" -p (\S+) ", lambda found: found == self.protocol),
            (r" --dport (\d+) ", lambda found: int(found) == self.port),
            (r" --dst-type LOCAL ", lambda _: self.to_node),
            (r" --src-type LOCAL ", lambda _: self.from_node),
        )
        return all(
            holds(found[1] if found.groups() else "") for pattern, holds in wants if (found := re.search(pattern, of))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where a packet can end: `to` is the backend or REJECT, DROP, with the chance of it."""

    to: str
    chance: float
    is_masqueraded: bool


def walk(chains: dict[str, list[str]], chain: str, packet: Packet) -> tuple[End, ...]:
    ends, left, marked = [], 1.0, False

    def through(name: str, chance: float) -> Iterator[End]:
        nonlocal marked
        for rule in chains[name]:
            if not packet.fits(rule):
                continue
            target = rule.rpartition("-j ")[2].split()
            share = float(found[1]) if (found := re.search(r"--probability (\S+)", rule)) else 1.0
            if target[0] == "MARK":
                marked = True
            elif target[0] in ("DNAT", "REJECT", "DROP"):
                yield End(to=target[2] if target[0] == "DNAT" else target[0], chance=chance, is_masqueraded=marked)
                return
            elif target[0] == "KUBE-MARK-MASQ":
                marked = True
            elif target[0] in chains:
                before = marked
                inner = list(through(target[0], chance * share))
                yield from inner
                chance -= sum(end.chance for end in inner)
                if inner:
                    marked = before
                if chance < 1e-9:
                    return

    ends = list(through(chain, left))
    return tuple(ends)


def nat(lab: Lab, node: str, packet: Packet) -> tuple[End, ...]:
    return walk(chains_of(rules_of(lab, node), "nat"), "KUBE-SERVICES", packet)


def test_names_of_chains_are_those_that_kubernetes_gives() -> None:
    """Of every cluster: the API server's Service, and its DNS."""
    assert chain_name("KUBE-SVC-", "default/kubernetes:https", "tcp") == "KUBE-SVC-NPX46M4PTMTKRN6Y"
    assert chain_name("KUBE-SVC-", "kube-system/kube-dns:dns", "udp") == "KUBE-SVC-TCOU7JCQXEZGVUNU"
    assert chain_name("KUBE-SVC-", "kube-system/kube-dns:dns-tcp", "tcp") == "KUBE-SVC-ERIFXISQEP7F7OF4"


@pytest.mark.parametrize("node", ["node1", "node2", "node3"])
def test_every_chain_that_is_jumped_to_is_there(node: str) -> None:
    text = rules_of(lab_with_services(extra_services=700), node)
    for table in ("filter", "nat"):
        chains = chains_of(text, table)
        targets = {rule.rpartition("-j ")[2].split()[0] for rules in chains.values() for rule in rules}
        ours = {target for target in targets if target.startswith("KUBE-")}
        assert ours <= chains.keys()
        used = ours | {"INPUT", "FORWARD", "OUTPUT", "PREROUTING"}
        assert {chain for chain in chains if chain not in used} <= {"KUBE-NODEPORTS"}


def test_a_pods_connection_goes_to_each_backend_equally_often_with_the_pods_own_address() -> None:
    ends = nat(lab_with_services(), "node1", Packet(source=POD, destination="10.96.0.11", port=80))
    assert [(end.to, end.is_masqueraded) for end in ends] == [("10.244.0.3:5205", False), ("10.244.1.2:5205", False)]
    assert [end.chance for end in ends] == pytest.approx([0.5, 0.5])


def test_a_pod_that_is_given_itself_is_masqueraded() -> None:
    ends = nat(lab_with_services(), "node2", Packet(source=OTHER_POD, destination="10.96.0.12", port=80))
    assert ends == (End(to="10.244.1.2:5205", chance=1.0, is_masqueraded=True),)


def test_what_comes_from_elsewhere_to_a_cluster_address_is_masqueraded() -> None:
    ends = nat(lab_with_services(), "node1", Packet(source=OUTSIDE, destination="10.96.0.11", port=80))
    assert all(end.is_masqueraded for end in ends)
    assert len(ends) == 2


def test_protocols_and_ports_that_a_service_does_not_have_are_not_translated() -> None:
    lab = lab_with_services()
    assert not nat(lab, "node1", Packet(source=POD, destination="10.96.0.11", port=81))
    assert not nat(lab, "node1", Packet(source=POD, destination="10.96.0.11", port=80, protocol="udp"))
    assert len(nat(lab, "node1", Packet(source=POD, destination="10.96.0.13", port=80, protocol="udp"))) == 2


def test_a_node_port_is_masqueraded_on_every_node() -> None:
    for node in ("node1", "node2", "node3"):
        ends = nat(
            lab_with_services(), node, Packet(source=OUTSIDE, destination="172.30.0.2", port=30205, to_node=True)
        )
        assert {end.to for end in ends} == {"10.244.0.3:5205", "10.244.1.2:5205"}
        assert all(end.is_masqueraded for end in ends)


def test_policy_local_keeps_the_clients_address_where_the_backend_is() -> None:
    asked = Packet(source=OUTSIDE, destination="172.30.0.3", port=30215, to_node=True)
    assert nat(lab_with_services(), "node2", asked) == (End(to="10.244.1.2:5205", chance=1.0, is_masqueraded=False),)


def test_policy_local_drops_what_comes_from_outside_where_no_backend_is() -> None:
    lab, asked = lab_with_services(), Packet(source=OUTSIDE, destination="172.30.0.2", port=30215, to_node=True)
    assert not nat(lab, "node1", asked)
    dropped = walk(chains_of(rules_of(lab, "node1"), "filter"), "KUBE-EXTERNAL-SERVICES", asked)
    assert [end.to for end in dropped] == ["DROP"]
    assert not walk(chains_of(rules_of(lab, "node2"), "filter"), "KUBE-EXTERNAL-SERVICES", asked)


def test_policy_local_gives_pods_and_the_node_itself_every_backend() -> None:
    lab = lab_with_services()
    by_pod = nat(lab, "node1", Packet(source=POD, destination="172.30.0.2", port=30215, to_node=True))
    assert [(end.to, end.is_masqueraded) for end in by_pod] == [("10.244.1.2:5205", False)]
    by_node = nat(
        lab, "node1", Packet(source="172.30.0.2", destination="172.30.0.2", port=30215, to_node=True, from_node=True)
    )
    assert [(end.to, end.is_masqueraded) for end in by_node] == [("10.244.1.2:5205", True)]


def test_a_service_without_backends_is_refused_at_both_of_its_ports() -> None:
    lab = lab_with_services()
    chains = chains_of(rules_of(lab, "node1"), "filter")
    at_address = walk(chains, "KUBE-SERVICES", Packet(source=POD, destination="10.96.0.14", port=80))
    at_node = walk(
        chains,
        "KUBE-EXTERNAL-SERVICES",
        Packet(source=OUTSIDE, destination="172.30.0.2", port=30216, to_node=True),
    )
    assert [end.to for end in (*at_address, *at_node)] == ["REJECT", "REJECT"]
    assert not nat(lab, "node1", Packet(source=POD, destination="10.96.0.14", port=80))


def test_the_scenarios_services_stand_in_the_middle_of_the_fillers_and_node_ports_at_the_end() -> None:
    rules = chains_of(rules_of(lab_with_services(extra_services=1_000), "node1"), "nat")["KUBE-SERVICES"]
    own = [number for number, rule in enumerate(rules) if "/filler-" not in rule]
    assert own == [500, 501, 502, 1003]
    assert rules[-1].endswith("--dst-type LOCAL -j KUBE-NODEPORTS")


def test_pods_are_refused_before_ciliums_rules_accept_them_and_the_rest_stands_behind() -> None:
    text = rules_of(lab_with_services(), "node1")
    forward = [line for line in text.splitlines() if re.match(r"-[AI] FORWARD ", line)]
    assert [(line.split()[0], line.rpartition("-j ")[2]) for line in forward] == [
        ("-I", "KUBE-EXTERNAL-SERVICES"),
        ("-I", "KUBE-SERVICES"),
        ("-I", "KUBE-PROXY-FIREWALL"),
        ("-A", "KUBE-FORWARD"),
    ]
