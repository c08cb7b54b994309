"""kube-proxy's nftables rules: names as Kubernetes makes them, and what leads where."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from labctl.model.lab import KubeProxy, Lab
from labctl.services.frontends import frontends
from labctl.services.nftables import chain_name, nftables_rules
from services.service_labs import lab_with_services


def rules_of(lab: Lab, node: str) -> str:
    return nftables_rules(
        frontends(lab),
        node=node,
        node_address=lab.node(node).address.ip,
        pod_cidr=lab.network.pod_cidr,
        service_cidr=lab.network.service_cidr,
    )


def blocks(text: str) -> dict[str, list[str]]:
    """The lines of every chain, set and map, by its name."""
    return {
        found[1]: [line.strip() for line in found[2].splitlines()]
        for found in re.finditer(r"^\t(?:chain|set|map) (\S+) \{\n(.*?)^\t\}", text, re.MULTILINE | re.DOTALL)
    }


def elements(lines: list[str]) -> list[str]:
    held = next((line for line in lines if line.startswith("elements = ")), "elements = {  }")
    return [one for one in held.removeprefix("elements = { ").removesuffix(" }").split(", ") if one]


def test_names_of_chains_are_those_of_kube_proxys_own_tests() -> None:
    """pkg/proxy/nftables/proxier_test.go of Kubernetes, TestOverallNFTablesRules."""
    assert chain_name("service-", "ns1/svc1/tcp/p80") == "service-ULMVA6XW-ns1/svc1/tcp/p80"
    assert chain_name("external-", "ns2/svc2/tcp/p80") == "external-42NFTM6N-ns2/svc2/tcp/p80"
    name = "ns1/svc1/tcp/p80__10.180.0.1/80"
    assert chain_name("endpoint-", name) == "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"


@pytest.mark.parametrize("node", ["node1", "node2", "node3"])
def test_every_chain_and_set_that_is_named_is_there(node: str) -> None:
    text = rules_of(lab_with_services(extra_services=50), node)
    there = blocks(text)
    assert set(re.findall(r"(?:goto|jump) ([^\s,}]+)", text)) <= there.keys()
    assert {name for name in re.findall(r"@([a-z-]+)", text) if name in there} >= {"service-ips", "cluster-ips"}


def test_an_address_and_a_node_port_lead_to_the_service_by_one_look_up() -> None:
    made = blocks(rules_of(lab_with_services(), "node1"))
    web = "labctl-demo/web/tcp/"
    assert f"10.96.0.11 . tcp . 80 : goto {chain_name('service-', web)}" in elements(made["service-ips"])
    assert f"tcp . 30205 : goto {chain_name('external-', web)}" in elements(made["service-nodeports"])
    assert elements(made["nodeport-ips"]) == ["172.30.0.2"]
    choice = made[chain_name("service-", web)][-1]
    assert choice.startswith("numgen random mod 2 vmap { 0 : goto endpoint-")
    endpoint = made[re.findall(r"goto (\S+?),", choice)[0]]
    assert endpoint == ["ip saddr 10.244.0.3 jump mark-for-masquerade", "meta l4proto tcp dnat to 10.244.0.3:5205"]


def test_policy_local_goes_to_the_nodes_own_backends_or_is_dropped() -> None:
    local = "labctl-demo/local/tcp/"
    with_backend = blocks(rules_of(lab_with_services(), "node2"))
    assert with_backend[chain_name("external-", local)][-1] == f"goto {chain_name('local-', local)}"
    assert not [one for one in elements(with_backend["no-endpoint-nodeports"]) if "30215" in one]
    without = blocks(rules_of(lab_with_services(), "node1"))
    assert chain_name("local-", local) not in without
    assert 'tcp . 30215 comment "labctl-demo/local" : drop' in elements(without["no-endpoint-nodeports"])


def test_a_service_without_backends_is_rejected() -> None:
    made = blocks(rules_of(lab_with_services(), "node1"))
    assert elements(made["no-endpoint-services"]) == [
        '10.96.0.14 . tcp . 80 comment "labctl-demo/none" : goto reject-chain'
    ]
    assert 'tcp . 30216 comment "labctl-demo/none" : goto reject-chain' in elements(made["no-endpoint-nodeports"])
    assert not [name for name in made if "labctl-demo/none" in name]


def test_many_services_need_no_map_of_their_own_each() -> None:
    text = rules_of(lab_with_services(extra_services=100), "node1")
    assert text.count("numgen") == 2


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
def test_nft_can_read_the_rules() -> None:
    lab = lab_with_services(extra_services=20, kube_proxy=KubeProxy.NFTABLES)
    done = subprocess.run(
        ("nft", "--check", "-f", "-"), input=rules_of(lab, "node1").encode(), capture_output=True, check=False
    )
    said = done.stderr.decode()
    assert done.returncode == 0 or "Operation not permitted" in said, said
