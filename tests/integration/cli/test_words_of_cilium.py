"""Real labs in Cilium's words: a fallback that is allowed, `status --cilium`, and Services tried from everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from cli_running import Desk, needs_labs
from cli_running import desk_fixture as desk_fixture

pytestmark = needs_labs

LINE = (
    "BPF host routing requires enable-bpf-masquerade. "
    "Falling back to legacy host routing (enable-host-legacy-routing=true)."
)
SERVICES = """
nodes: 3
outside: [{ name: world }]
pods:
  - { name: client, node: node1 }
  - { name: far, node: node3 }
  - { name: neighbour, node: node1, labels: { app: web } }
  - { name: server, node: node2, labels: { app: web } }
pairs:
  - { client: client, server: web }
  - { client: far, server: web }
  - { client: node1, server: web }
  - { client: world, server: web, via: node1 }
  - { client: world, server: near, via: node1 }
  - { client: world, server: near, via: node3 }
  - { client: client, server: none }
services:
  - { name: web, port: 80, targetPort: 5205, selector: { app: web }, type: NodePort, nodePort: 30205 }
  - { name: near, port: 80, targetPort: 5205, selector: { app: web }, type: NodePort, nodePort: 30215,
      externalTrafficPolicy: Local }
  - { name: none, port: 80, selector: { app: nobody } }
checks: [check: service, check: host-reachable, check: kube-proxy]
"""
MODES = {
    "bpf": "datapath: { hostRouting: bpf, encapsulation: native }",
    "per-packet": "datapath: { hostRouting: bpf, encapsulation: vxlan, socketLB: false }",
    "iptables": "datapath: { hostRouting: legacy, masquerade: iptables, kubeProxyReplacement: false }",
    "nftables": "datapath: { hostRouting: legacy, masquerade: iptables, kubeProxyReplacement: false,\n"
    "  kubeProxy: nftables }",
}


def test_a_fallback_that_is_allowed_comes_up_is_proven_and_shown_against_what_was_asked(desk: Desk) -> None:
    up = desk.run("up", "fallback", "--name", desk.prefix, "--json")
    assert up.code == 0, up.err
    assert up.document["fallback"]["line"] == LINE
    status = desk.run("status", desk.prefix, "--json").document["modeInForce"]
    assert (status["asked"]["hostRouting"], status["found"]["hostRouting"]) == ("bpf", "legacy")
    assert status["proven"] is True
    assert status["fallback"]["reason"] == "masquerading is done by iptables"
    said = " ".join(desk.run("status", desk.prefix).out.split())
    assert "fell back: asked bpf, in force legacy: masquerading is done by iptables" in said
    assert LINE in said
    checked = desk.run("check", desk.prefix, "mode", "tcpdump", "--json")
    assert checked.code == 0, checked.err
    sentences = [one["sentence"] for result in checked.document["results"] for one in result.get("findings", ())]
    assert any(one.startswith("asked bpf, in force legacy (by helpers") for one in sentences)
    traced = desk.run("trace", desk.prefix, "client", "server", "--no-run")
    assert traced.code == 0, traced.out
    assert "every tap shows what it should with host routing legacy" in " ".join(traced.out.split())
    desk.run("down", desk.prefix)


@pytest.mark.thorough
def test_a_comparison_with_a_side_that_fell_back_is_measured_and_says_so(desk: Desk) -> None:
    a, b = desk.scenario("legacy"), desk.scenario("fallback")
    compared = desk.run("compare", a, b, "--rounds", "1", "--checks", "ping", "--seed", "1", "--json")
    assert compared.code == 0, compared.err
    document = compared.document
    assert [mode["proven"] for mode in document["modeInForce"]] == [True, True]
    warned = [caution["message"] for caution in document["warnings"] if caution["kind"] == "fell-back"]
    assert warned == ["side b asked for bpf and runs legacy: masquerading is done by iptables"]
    assert document["rows"] if "rows" in document else document["metrics"]


def test_without_leave_a_fallback_is_refused_at_its_key(desk: Desk) -> None:
    refused = desk.run("up", "fallback", "--name", desk.prefix, "--set", "datapath.allowFallback=false")
    assert refused.code == 2
    assert "or allowFallback: true" in refused.err
    ends = ("datapath.kubeProxyReplacement=false", "datapath.masquerade=bpf")
    refused = desk.run("up", "fallback", "--name", desk.prefix, *(word for key in ends for word in ("--set", key)))
    assert refused.code == 2
    assert "the agent of Cilium 1.18.12 does not start" in " ".join(refused.err.split())


def lines(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["label"]: line for line in status["lines"] if not line.get("depth")}


@pytest.mark.parametrize(
    ("scenario", "host", "routing", "masquerading", "replacement"),
    [
        ("bpf", "BPF", "Network: Tunnel [vxlan]   Host: BPF", "BPF   [eth0]   10.244.0.0/16 ", "True"),
        pytest.param(
            "legacy-native",
            "Legacy",
            "Network: Native   Host: Legacy",
            "BPF   [eth0]   10.244.0.0/16 ",
            "True",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "fallback",
            "Legacy",
            "Network: Tunnel [vxlan]   Host: Legacy",
            "IPTables ",
            "True",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "services",
            "BPF",
            "Network: Tunnel [vxlan]   Host: BPF",
            "BPF   [eth0]   10.244.0.0/16 ",
            "True",
            marks=pytest.mark.thorough,
        ),
        ("services-iptables", "Legacy", "Network: Tunnel [vxlan]   Host: Legacy", "IPTables ", "False"),
        pytest.param(
            "services-nftables",
            "Legacy",
            "Network: Tunnel [vxlan]   Host: Legacy",
            "IPTables ",
            "False",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_every_node_has_cilium_status_with_its_proof(
    desk: Desk, scenario: str, host: str, routing: str, masquerading: str, replacement: str
) -> None:
    assert desk.run("up", scenario, "--name", desk.prefix).code == 0
    shown = desk.run("status", desk.prefix, "--cilium", "--json")
    assert shown.code == 0, shown.err
    nodes = shown.document["cilium"]
    assert [status["node"] for status in nodes] == ["node1", "node2", "node3"]
    for status in nodes:
        of = lines(status)
        assert (of["Host Routing"]["value"], of["Host Routing"]["shown"]) == (host, "proven"), status["node"]
        assert of["Routing"]["value"] == routing
        assert of["Masquerading"]["value"].startswith(masquerading)
        assert of["KubeProxyReplacement"]["value"].split()[0] == replacement
        assert of["NodeMonitor"]["value"] == of["Encryption"]["value"] == "not on netns"
        healthy, _, every = of["Controller Status"]["value"].removesuffix(" healthy").partition("/")
        assert healthy == every, [line for line in status["lines"] if "never" in line.get("value", "")]
        assert not [line["label"] for line in status["lines"] if line.get("shown") == "unproven"]
    first = nodes[0]
    assert lines(first)["IPAM"]["value"] == "IPv4: 3/254 allocated from 10.244.0.0/24, "
    assert [one["name"] for one in first["endpoints"]] == ["client", "neighbour"]
    said = desk.run("status", desk.prefix).out
    assert f"Host Routing:           {host}" in said
    desk.run("down", desk.prefix)


def test_what_is_missing_of_a_node_shows_in_its_controllers(desk: Desk) -> None:
    desk.run("up", "bpf", "--name", desk.prefix)
    assert desk.run("exec", desk.prefix, "node3", "--", "ip", "address", "flush", "dev", "cilium_host").code == 0
    shown = desk.run("status", desk.prefix, "--cilium", "--json")
    assert shown.code == 1
    (node,) = [status for status in shown.document["cilium"] if status["node"] == "node3"]
    healthy, _, every = lines(node)["Controller Status"]["value"].removesuffix(" healthy").partition("/")
    assert int(healthy) < int(every)
    assert lines(node)["IPAM"]["value"].startswith("IPv4: 0/254")
    desk.run("down", desk.prefix)


@pytest.mark.parametrize(
    "mode",
    ["bpf", "iptables", *(pytest.param(mode, marks=pytest.mark.thorough) for mode in ("per-packet", "nftables"))],
)
@pytest.mark.thorough
def test_services_answer_from_everywhere_evenly_and_by_whom_they_should(desk: Desk, mode: str) -> None:
    path = desk.directory / f"{desk.prefix}-services.yaml"
    path.write_text(f"apiVersion: labctl/v1\nkind: Scenario\n{SERVICES}{MODES[mode]}\n", encoding="utf-8")
    assert desk.run("up", path.name, "--name", desk.prefix).code == 0
    checked = desk.run("check", desk.prefix, "--json")
    wrong = [
        f"{result['check']} {result['client']}→{result['server']}: {result['reason']}"
        for result in checked.document["results"]
        if result["verdict"] not in ("pass", "skip")
    ]
    assert not wrong
    assert checked.code == 0, checked.err
    results = [result for result in checked.document["results"] if result["check"] == "service"]
    spread = [one["sentence"] for result in results for one in result["findings"] if one["name"].endswith("spread")]
    assert len(spread) == 4
    desk.run("down", desk.prefix)
