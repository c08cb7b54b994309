"""Every network and fabric that is shipped, on this kernel: built, proven, seen at every tap, and gone without a trace.

The short form of each; all their checks run with `make test-networks`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labctl import app
from labctl.engine.prove import prove
from labctl.engine.run_checks import run_check
from labctl.loading import load_scenario
from labctl.model.lab import CheckSpec, Lab
from labctl.model.parameters import LookParameters
from labctl.model.result import Verdict
from labctl.networks import expected_of
from labctl.path.difference import first_difference
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds.daemon import FOLDER, PROGRAMS
from labctl.providers.netns.provider import NetnsProvider
from labctl.store.runs import MemorySink, MemorySinks
from toy_network import ToyNetwork

CHECKOUT = Path(__file__).resolve().parents[3]
WITHOUT_FRR = (
    "docker-host-routes", "docker-snat", "vxlan-p2p", "vxlan-multicast", "macvlan", "flannel-vxlan", "flannel-host-gw",
    "calico-vxlan", "cni-chain", "stp-loop",
)  # fmt: skip
WITH_FRR = ("evpn", "clos-bgp", "clos-ospf", "calico-bgp", "bpf-on-clos", "triangle")
LOOKS = ("routes", "fdb", "arp", "mtu", "bgp", "ospf")
PROVIDER = NetnsProvider()
needs_frr = pytest.mark.skipif(not (PROGRAMS / "zebra").exists(), reason="needs FRR: make setup-networks")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


SAMPLE = ("docker-snat", "vxlan-p2p", "macvlan", "cni-chain", "flannel-host-gw", "evpn", "clos-bgp", "stp-loop")
"""Of these `make test` builds every one; of the others `make test-networks` does as well."""


def sampled(name: str, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(name, marks=marks if name in SAMPLE else (*marks, pytest.mark.thorough))


def lab_of(name: str, lab: str, *overrides: str) -> Lab:
    return replace(resolve(load_scenario(name, overrides=overrides, start=CHECKOUT), name=lab))


def build(lab: Lab) -> None:
    with PROVIDER.executor(lab) as executor:
        for step in PROVIDER.plan(lab).steps:
            executor.execute(step.actions)
        executor.finish(lab)


def test_a_network_that_was_made_from_contributing_alone_conforms(
    host_as_found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labctl.networks.docker.DockerNetwork", ToyNetwork)
    lab = lab_of("docker-host-routes", host_as_found)
    assert any("toy0" in action.shell() for step in PROVIDER.plan(lab).steps for action in step.actions)
    conforms(lab)


@pytest.mark.parametrize("name", [*map(sampled, WITHOUT_FRR), *(sampled(name, needs_frr) for name in WITH_FRR)])
def test_a_network_is_what_it_says_and_leaves_nothing(host_as_found: str, name: str) -> None:
    conforms(lab_of(name, host_as_found))


def conforms(lab: Lab) -> None:
    """Built, proven, every tap as expected, its own checks passed, and nothing left."""
    checks = app.checks()
    try:
        build(lab)
        with PROVIDER.open(lab) as opened:
            proven = prove(checks, opened, MemorySinks(), lambda event: None)
            assert proven.mode.proven, proven.mode.reason
            for result, pair in zip(proven.results, lab.pairs, strict=True):
                assert result.signature is not None, result.reason
                sent = result.signature.taps[0].request
                assert sent is not None
                expected = expected_of(lab, pair, packets=sent.packets)
                assert expected is not None
                wrong = first_difference(expected, result.signature)
                assert wrong is None, wrong
            for kind in LOOKS:
                spec = CheckSpec(name=kind, kind=kind, parameters=LookParameters())
                found = run_check(checks[kind], opened, lab.pairs[-1], spec, MemorySink(), lambda event: None)
                assert found.verdict in (Verdict.PASS, Verdict.SKIP), found.reason
    finally:
        PROVIDER.teardown(lab.name)
    assert not [one for one in FOLDER.glob("*") if lab.name in one.name]


SQUARE = (
    "fabric.routers=[{name: r1}, {name: r2}, {name: r3}, {name: r4}]",
    (
        "fabric.links=[{endpoints: [r1, r2]}, {endpoints: [r1, r3]}, {endpoints: [r2, r4]}, {endpoints: [r3, r4]}, "
        "{endpoints: [r1, node1]}, {endpoints: [r4, node2]}]"
    ),
)
REFLECTED = (
    "fabric.routers=[{name: r1, asn: 65000}, {name: r2, asn: 65000}, {name: r3, asn: 65000, routeReflector: true}]",
    ("fabric.links=[{endpoints: [r1, r3]}, {endpoints: [r3, r2]}, {endpoints: [r1, node1]}, {endpoints: [r2, node2]}]"),
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("fabric.routing=static", *SQUARE), id="static-two-equal-ways"),
        pytest.param(
            ("fabric.routing=static", *SQUARE, "podNetwork={type: flannel, backend: vxlan}"), id="static-flannel-vxlan"
        ),
        pytest.param(("fabric.routing=static", *SQUARE, "podNetwork={type: flannel, backend: host-gw}"), id="host-gw"),
        pytest.param(("fabric.routing=bgp", *SQUARE), id="bgp-two-equal-ways", marks=needs_frr),
        pytest.param(
            ("fabric.routing=bgp", *SQUARE, "podNetwork={type: vxlan, mode: p2p}"), id="bgp-vxlan", marks=needs_frr
        ),
        pytest.param(("fabric.routing=bgp", *REFLECTED), id="bgp-reflected", marks=needs_frr),
        pytest.param(("fabric.links[0].cost=40",), id="ospf-the-way-round", marks=needs_frr),
        pytest.param(("podNetwork={type: cilium}", "datapath={hostRouting: bpf, encapsulation: vxlan}"), id="cilium"),
    ],
)
def test_a_fabric_of_ones_own_carries_networks_as_expected(host_as_found: str, overrides: tuple[str, ...]) -> None:
    lab = lab_of("triangle", host_as_found, *overrides)
    checks = app.checks()
    try:
        build(lab)
        with PROVIDER.open(lab) as opened:
            proven = prove(checks, opened, MemorySinks(), lambda event: None)
            assert proven.mode.proven, proven.mode.reason
            signature = proven.results[-1].signature
            assert signature is not None
            expected = expected_of(lab, lab.pairs[-1], packets=1)
            assert expected is not None
            assert [
                tap.role for tap in expected.signature.taps if tap.role not in {one.role for one in signature.taps}
            ] == []
            for kind in ("routes", "bgp", "ospf"):
                spec = CheckSpec(name=kind, kind=kind, parameters=LookParameters())
                found = run_check(checks[kind], opened, lab.pairs[-1], spec, MemorySink(), lambda event: None)
                assert found.verdict in (Verdict.PASS, Verdict.SKIP), found.reason
    finally:
        PROVIDER.teardown(lab.name)
    assert not [one for one in FOLDER.glob("*") if host_as_found in one.name]


@needs_frr
def test_frrs_shell_finds_the_daemons_of_the_router_that_it_runs_on(host_as_found: str) -> None:
    lab = lab_of("calico-bgp", host_as_found)
    try:
        build(lab)
        with PROVIDER.open(lab) as opened:
            done = opened.target("node2").run(("vtysh", "-c", "show ip bgp"), timeout_s=60)
        assert "10.244.0.0/24" in done.text
    finally:
        PROVIDER.teardown(lab.name)


def test_a_kernel_without_ipvlan_is_named_with_the_option_that_it_lacks(host_as_found: str) -> None:
    from labctl.errors import HostLacks

    lab = lab_of("ipvlan", host_as_found)
    try:
        build(lab)
    except HostLacks as lacking:
        assert "CONFIG_IPVLAN" in f"{lacking.cause} {lacking.remedy}"  # noqa: PT017  # where the kernel has it, it is built
    finally:
        PROVIDER.teardown(lab.name)
