"""The kube-proxy check: what its lists say, and the search of a node's netfilter for one Service."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.kube_proxy import (
    Chains,
    KubeProxyCheck,
    ProxyLook,
    argv_chains,
    argv_processes,
    argv_rules,
    judge_node,
    marks_of,
    parse_chains,
    parse_lists,
    parse_rules,
)
from labctl.model.lab import CheckSpec, KubeProxy, Lab, Service, ServiceProtocol, ServiceType
from labctl.model.parameters import KubeProxyParameters
from labctl.model.result import CheckResult, Verdict
from labctl.services.frontends import frontends
from labctl.services.iptables import iptables_rules
from labctl.services.nftables import nftables_rules
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

WEB = Service(
    name="web",
    address=IPv4Address("10.96.0.11"),
    port=80,
    target_port=5205,
    protocol=ServiceProtocol.TCP,
    backends=(SERVER,),
    selector={"app": SERVER},
    type=ServiceType.NODE_PORT,
    node_port=30205,
)
MARKS = marks_of(WEB, "example")
KUBELET = (
    "#listed-by iptables-legacy-save\n:KUBE-FIREWALL - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n"
)
NOTHING = "#listed-by iptables-legacy-save\n#listed-by iptables-nft-save\n#listed-by nft\ntable ip filter\n"
IPTABLES = f"{KUBELET}:KUBE-SERVICES - [0:0]\n:KUBE-SVC-HRDILONB4RZG75MU - [0:0]\n#listed-by nft\ntable ip nat\n"
NFTABLES = f"{KUBELET}#listed-by nft\ntable ip nat\ntable ip kube-proxy\n"


def lab_with(*, replaces: bool, mode: KubeProxy = KubeProxy.IPTABLES) -> Lab:
    lab = example_lab()
    asked = replace(lab.datapath, kube_proxy_replacement=replaces, kube_proxy=mode)
    return replace(lab, services=(WEB,), datapath=asked)


def run(lab: Lab, chains: str, *, processes: str = "", has_daemon_set: bool | None = None) -> CheckResult:
    nodes = [
        ScriptedTarget(
            node.name,
            [
                Answer(argv=argv_processes(), stdout=processes.encode()),
                Answer(argv=argv_chains(), stdout=chains.encode()),
            ],
        )
        for node in lab.nodes
    ]
    pods = [ScriptedTarget(name, []) for name in (CLIENT, SERVER)]
    return KubeProxyCheck().run(
        CheckContext(
            open_lab=ScriptedLab(lab, [*pods, *nodes], has_daemon_set=has_daemon_set),
            pair=lab.pairs[0],
            spec=CheckSpec(name="kube-proxy", kind="kube-proxy", parameters=KubeProxyParameters()),
            raw=MemoryRaw(),
        )
    )


def wrong(result: CheckResult) -> set[str]:
    return {one.name for one in result.findings if one.verdict is not Verdict.PASS}


def test_nodes_without_kube_proxy_pass_where_it_is_replaced_and_the_kubelets_chains_are_named() -> None:
    assert run(lab_with(replaces=True), NOTHING).verdict is Verdict.PASS
    result = run(lab_with(replaces=True), KUBELET, has_daemon_set=False)
    assert result.verdict is Verdict.PASS
    said = {one.name: one.sentence for one in result.findings}
    assert said["kubelet-node1"].endswith("KUBE-FIREWALL, KUBE-MARK-MASQ, KUBE-POSTROUTING")
    assert said["daemonset"] == "kube-system has no DaemonSet kube-proxy"


@pytest.mark.parametrize(
    ("chains", "processes", "daemon_set", "found"),
    [
        (IPTABLES, "", None, {"iptables-node1", "iptables-node2"}),
        (NFTABLES, "", None, {"nftables-node1", "nftables-node2"}),
        (NOTHING, "kube-proxy\n", None, {"process-node1", "process-node2"}),
        (NOTHING, "", True, {"daemonset"}),
    ],
)
def test_whatever_of_kube_proxy_is_left_fails_where_it_is_replaced(
    chains: str, processes: str, daemon_set: bool | None, found: set[str]
) -> None:
    result = run(lab_with(replaces=True), chains, processes=processes, has_daemon_set=daemon_set)
    assert result.verdict is Verdict.FAIL
    assert wrong(result) == found


def test_each_mode_has_its_own_rules_and_not_the_others() -> None:
    iptables, nftables = lab_with(replaces=False), lab_with(replaces=False, mode=KubeProxy.NFTABLES)
    assert run(iptables, IPTABLES).verdict is Verdict.PASS
    assert run(nftables, NFTABLES).verdict is Verdict.PASS
    assert wrong(run(iptables, NFTABLES)) >= {"iptables-node1", "nftables-node1"}
    assert wrong(run(nftables, IPTABLES)) >= {"iptables-node1", "nftables-node1"}
    assert wrong(run(iptables, NOTHING)) == {"iptables-node1", "iptables-node2"}


def test_a_list_that_cannot_be_read_is_an_error() -> None:
    text = "#listed-by iptables-legacy-save\n#failed nft\nOperation not permitted\n"
    result = run(lab_with(replaces=True), text)
    assert result.verdict is Verdict.ERROR
    assert "nft: Operation not permitted" in result.reason
    nothing = ProxyLook(node="node1", processes=0, chains=parse_chains(""))
    assert [one.verdict for one in judge_node(nothing, None)] == [Verdict.PASS, Verdict.ERROR]


def test_chains_of_older_versions_are_kube_proxys_too() -> None:
    text = "#listed-by iptables-nft-save\n:KUBE-XLB-HRDILONB4RZG75MU - [0:0]\n:KUBE-MARK-DROP - [0:0]\n"
    assert parse_chains(text) == Chains(
        listed_by=("iptables-nft-save",),
        of_proxy=("KUBE-XLB-HRDILONB4RZG75MU",),
        of_kubelet=("KUBE-MARK-DROP",),
        has_table=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -j X",
        "-A KUBE-NODEPORTS -p tcp -m tcp --dport 30205 -j X",
        '-A X -m comment --comment "labctl-example/web" -j MARK --set-xmark 0x4000/0x4000',
        '-A X -m comment --comment "labctl-example/web: has no endpoints" -j REJECT',
        "tcp . 30205 : goto external-X",
    ],
)
def test_a_line_that_names_the_service_is_found(line: str) -> None:
    assert parse_rules(f"#listed-by a\n{line}\n", MARKS).lines == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "-A X -d 10.96.0.111/32",
        "-A X -d 110.96.0.11/32",
        "-A X --dport 302051",
        '-A X --comment "labctl-example/web-two"',
        '-A X --comment "other-labctl-example/web"',
        "udp . 30205 : goto external-X",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully 30205",
    ],
)
def test_a_line_that_only_looks_alike_is_not(line: str) -> None:
    assert not parse_rules(f"#listed-by a\n{line}\n", MARKS).lines


def test_every_rule_that_kube_proxy_makes_for_the_service_is_found_and_no_other() -> None:
    lab = lab_with(replaces=False)
    other = replace(WEB, name="mail", address=IPv4Address("10.96.0.12"), node_port=30206)
    both = replace(lab, services=(WEB, other))

    def lines(of: Lab) -> set[str]:
        return set(iptables_rules(frontends(of), node="node1", pod_cidr=of.network.pod_cidr).splitlines())

    of_web = lines(both) - lines(replace(both, services=(other,)))
    text = "#listed-by iptables-nft-save\n" + "\n".join(lines(both))
    assert set(parse_rules(text, MARKS).lines) == {line for line in of_web if "KUBE-SEP" not in line.split()[0]}


def test_in_nftables_it_is_found_in_the_maps_and_of_a_long_line_a_part_is_shown() -> None:
    lab = lab_with(replaces=False, mode=KubeProxy.NFTABLES)
    asked = replace(lab.datapath, extra_services=100)
    text = nftables_rules(
        frontends(replace(lab, datapath=asked)),
        node="node1",
        node_address=lab.nodes[0].address.ip,
        pod_cidr=lab.network.pod_cidr,
        service_cidr=lab.network.service_cidr,
    )
    rules = parse_rules(f"#listed-by nft\n{text}", MARKS)
    assert len(rules.lines) > 3
    assert all(len(line) <= 162 for line in rules.lines)
    assert rules.shown.endswith(" more")


def test_rules_that_could_not_be_listed_are_no_empty_list() -> None:
    text = "#listed-by iptables-legacy-save\n#failed iptables-nft-save\nCould not fetch rule set: Permission denied\n"
    rules = parse_rules(text, MARKS)
    assert rules.failed == ("iptables-nft-save: Could not fetch rule set: Permission denied",)
    assert rules.listed_by == ("iptables-legacy-save",)


@pytest.mark.parametrize("argv", [argv_rules(), argv_chains(), argv_processes()])
def test_the_scripts_run_in_a_plain_shell(argv: tuple[str, ...]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "yntax error" not in done.stderr


def test_each_list_is_read_by_itself() -> None:
    rule = "-A KUBE-SERVICES -d 10.96.0.11/32 -j KUBE-SVC-X"
    lists = parse_lists(
        f"#listed-by iptables-legacy-save\n*nat\n#listed-by iptables-nft-save\n{rule}\n#failed nft\nno permission",
        re.compile(r"10\.96\.0\.11"),
    )
    assert {name: bool(rules.lines) for name, rules in lists.items()} == {
        "iptables-legacy-save": False, "iptables-nft-save": True, "nft": False,
    }  # fmt: skip
    assert lists["nft"].failed == ("nft: no permission",)
