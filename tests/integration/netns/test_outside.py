"""Hosts outside, nodes and pods as ends of pairs, in every cell: what every tap shows is what a real cluster showed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from netns_building import as_json, needs_root, ping, running

from labctl.checks.base import CheckContext
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.engine.trace import pair_between, trace
from labctl.model.lab import CheckSpec, Encapsulation, HostRouting, Lab, Masquerade, Outside
from labctl.model.parameters import TcpdumpParameters
from labctl.model.result import Verdict
from labctl.model.trace import ProbeProtocol, Way
from labctl.names import namespace_of, stable_mac
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import MemoryRaw

pytestmark = [
    pytest.mark.root,
    needs_root,
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump: apt-get install tcpdump"),
]
PROVIDER = NetnsProvider()
NEAR, FAR = "world", "far"
LEGACY, BPF = HostRouting.LEGACY, HostRouting.BPF
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
PAIRS = (
    *(("client", server) for server in (NEAR, FAR, "node1", "node2")),
    *(("node1", server) for server in ("client", "server", "node2", NEAR, FAR)),
    ("node2", "client"),
    *((client, server) for client in (NEAR, FAR) for server in ("node1", "client")),
)


def outside_lab(
    name: str, host_routing: HostRouting, encapsulation: Encapsulation, masquerade: Masquerade = Masquerade.BPF
) -> Lab:
    lab = sample_lab(name, host_routing=host_routing, encapsulation=encapsulation, masquerade=masquerade)
    hosts = ((NEAR, "172.30.0.253"), (FAR, "198.51.100.7"))
    outside = tuple(Outside(name=host, address=IPv4Address(at), mac=stable_mac("outside", host)) for host, at in hosts)
    return replace(lab, outside=outside)


def differing(opened: OpenLab, client: str, server: str) -> str:
    """What the tcpdump check says of the pair where it does not pass."""
    spec = CheckSpec(name="tcpdump", kind="tcpdump", parameters=TcpdumpParameters())
    pair = pair_between(opened.lab, client, server)
    result = TcpdumpCheck().run(CheckContext(open_lab=opened, pair=pair, spec=spec, raw=MemoryRaw()))
    return "" if result.verdict is Verdict.PASS else f"{client} → {server}: {result.verdict}: {result.reason}"


@pytest.mark.parametrize(
    ("host_routing", "encapsulation", "masquerade"),
    [
        (HostRouting.BPF, Encapsulation.NATIVE, Masquerade.BPF),
        (HostRouting.LEGACY, Encapsulation.VXLAN, Masquerade.IPTABLES),
        *(
            pytest.param(*cell, marks=pytest.mark.thorough)
            for cell in (
                (HostRouting.BPF, Encapsulation.VXLAN, Masquerade.BPF),
                (HostRouting.LEGACY, Encapsulation.VXLAN, Masquerade.BPF),
                (HostRouting.LEGACY, Encapsulation.NATIVE, Masquerade.BPF),
                (HostRouting.LEGACY, Encapsulation.NATIVE, Masquerade.IPTABLES),
            )
        ),
    ],
)
def test_every_tap_shows_what_a_real_cluster_showed_of_nodes_and_the_outside(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation, masquerade: Masquerade
) -> None:
    lab = outside_lab(host_as_found, host_routing, encapsulation, masquerade)
    with running(lab), PROVIDER.open(lab) as opened:
        assert [wrong for pair in PAIRS if (wrong := differing(opened, *pair))] == []


def test_nodes_have_a_default_route_where_there_is_an_outside_and_none_where_there_is_none(
    host_as_found: str,
) -> None:
    lab = outside_lab(host_as_found, BPF, NATIVE)
    routes = ("ip", "-n", namespace_of(lab.name, "node2"), "-j", "route", "show", "default")
    with running(lab):
        assert [route["gateway"] for route in as_json(*routes)] == ["172.30.0.1"]
        assert ping(lab, "node2", "198.51.100.7").returncode == 0
    with running(replace(lab, outside=())):
        assert as_json(*routes) == []


@pytest.mark.parametrize(
    "protocol",
    [
        ProbeProtocol.ICMP,
        *(pytest.param(one, marks=pytest.mark.thorough) for one in (ProbeProtocol.TCP, ProbeProtocol.UDP)),
    ],
)
@pytest.mark.parametrize("masquerade", Masquerade)
@pytest.mark.thorough
def test_trace_names_who_rewrote_the_address_on_the_way_out(
    host_as_found: str, masquerade: Masquerade, protocol: ProbeProtocol
) -> None:
    lab = outside_lab(host_as_found, LEGACY, NATIVE, masquerade)
    with running(lab), PROVIDER.open(lab) as opened:
        traced = trace(opened, pair_between(lab, "client", NEAR), protocol=protocol)
    assert traced.wrong is None, traced.wrong
    at_uplink = next(hop for hop in traced.of(Way.REQUEST)[0].hops if hop.tap == "node1:eth0")
    assert (at_uplink.src, at_uplink.dst) == ("172.30.0.2", "172.30.0.253")
    who = "cil_to_netdev on eth0 egress" if masquerade is Masquerade.BPF else "netfilter (nat, "
    assert who in at_uplink.because
    assert "rewrote its source 10.244.0.2 → 172.30.0.2" in at_uplink.because


def test_a_range_that_says_the_world_is_routed_natively_loses_the_answers_and_trace_says_why(
    host_as_found: str,
) -> None:
    lab = outside_lab(host_as_found, BPF, NATIVE)
    wide = replace(lab.datapath, ipv4_native_routing_cidr=lab.network.pod_cidr.supernet(new_prefix=0))
    lab = replace(lab, datapath=wide)
    with running(lab), PROVIDER.open(lab) as opened:
        assert ping(lab, "client", "172.30.0.253").returncode == 1
        traced = trace(opened, pair_between(lab, "client", NEAR))
    assert traced.wrong is not None
    assert "from the client's own address, not from the address of the client's node" in traced.wrong.sentence
    assert "it left without being masqueraded" in traced.wrong.sentence
    reply = traced.of(Way.REPLY)[0]
    assert [hop.tap for hop in reply.hops] == ["world:eth0", "underlay:outside1"]  # to the gateway, and nowhere else
