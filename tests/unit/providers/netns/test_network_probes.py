"""What single scenarios need of the host, and what of it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.engine import build
from labctl.errors import HostLacks
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.networks.needs import needs
from labctl.planning.resolve import resolve
from labctl.providers.base import Probe
from labctl.providers.netns import network_probes
from labctl.providers.netns.provider import NetnsProvider

CHECKOUT = Path(__file__).resolve().parents[4]


def lab_of(name: str, *overrides: str) -> Lab:
    return resolve(load_scenario(name, overrides=overrides, start=CHECKOUT))


@pytest.mark.parametrize(
    ("scenario", "wanted"),
    [
        ("bpf", ("vxlan",)),
        ("bpf-native", ()),
        ("docker-snat", ()),
        ("macvlan", ("macvlan",)),
        ("ipvlan", ("ipvlan",)),
        ("vxlan-multicast", ("vxlan", "multicast")),
        ("evpn", ("vxlan", "FRR")),
        ("clos-ospf", ("multipath routes", "FRR")),
        ("calico-bgp", ("FRR",)),
        ("triangle", ("multipath routes", "FRR")),
        ("cni-chain", ("CNI plugins",)),
        ("services", ("vxlan", "cgroup2")),
        ("services-nftables", ("vxlan", "kube-proxy in nftables")),
    ],
)
def test_what_a_scenario_needs_beside_what_every_lab_does(scenario: str, wanted: tuple[str, ...]) -> None:
    assert needs(lab_of(scenario)) == wanted


def test_a_fabric_without_a_protocol_needs_no_daemons() -> None:
    assert needs(lab_of("triangle", "fabric.routing=static")) == ("multipath routes",)


@pytest.mark.parametrize("scenario", ["evpn", "clos-bgp"])
def test_up_on_a_host_without_frr_says_the_one_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scenario: str
) -> None:
    monkeypatch.setattr(network_probes, "PROGRAMS", tmp_path)
    (frr,) = [probe for probe in network_probes.network_probes() if probe.name == "FRR"]
    assert not frr.present
    monkeypatch.setattr(NetnsProvider, "probes", lambda self: iter((frr,)))
    with pytest.raises(HostLacks) as refused:
        build.require_host(NetnsProvider(), lab_of(scenario))
    assert refused.value.exit_code == 3
    assert refused.value.remedy == "sudo make setup-networks"
    assert f"this host cannot run scenario {scenario}: it lacks FRR" in str(refused.value)
    build.require_host(NetnsProvider(), lab_of("flannel-vxlan"))


def test_what_was_not_looked_at_is_not_missing() -> None:
    unseen = Probe(name="FRR", present=False, found="not tried", needed_for="", is_looked_at=False)
    assert build.lacking(NetnsProvider(), (unseen,), lab_of("evpn")) == ()
