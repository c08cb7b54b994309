"""Helm values by version, against facts about each chart and against what the real charts rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from labctl.model.versions import Version
from labctl.providers.cilium.helm_names import Setting, spell
from labctl.providers.cilium.values import CiliumImages, expected_config, helm_values, images_of, leaves

from .cilium_recordings import datapath, recorded, wanted

RENDERED: dict[str, dict[str, str | None]] = json.loads(recorded("rendered-config.json"))


def at(values: Mapping[str, object], path: str) -> object:
    here: Any = values
    for key in path.split("."):
        here = here[key]
    return here


@pytest.mark.parametrize("cell", RENDERED)
def test_expected_config_is_what_the_real_chart_renders(cell: str) -> None:
    version, host_routing, encapsulation = cell.split()
    expected = expected_config(wanted(version, datapath(host_routing, encapsulation)))
    assert {key: RENDERED[cell][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("version", "path", "legacy", "bpf"),
    [
        ("1.10.6", "bpf.hostRouting", True, False),
        ("1.11.0", "bpf.hostRouting", True, False),
        ("1.12.19", "bpf.hostLegacyRouting", True, False),
        ("1.13.12", "bpf.hostLegacyRouting", True, False),
        ("1.20.0", "bpf.hostLegacyRouting", True, False),
    ],
)
def test_host_routing_is_explicit_in_both_modes(version: str, path: str, legacy: bool, bpf: bool) -> None:
    found = [at(helm_values(wanted(version, datapath(mode))), path) for mode in ("legacy", "bpf")]
    assert found == [legacy, bpf]


@pytest.mark.parametrize("version", ["1.10.6", "1.11.0", "1.13.12", "1.14.19", "1.16.19", "1.19.6", "1.20.0"])
def test_only_host_routing_differs_between_the_modes(version: str) -> None:
    legacy = dict(leaves(helm_values(wanted(version, datapath("legacy")))))
    bpf = dict(leaves(helm_values(wanted(version, datapath("bpf")))))
    assert [path for path in legacy if legacy[path] != bpf.get(path)] == [
        spell(Setting.HOST_LEGACY_ROUTING, Version.parse(version))
    ]


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        ("1.10.6", {"tunnel": "vxlan"}, ("tunnelPort", "routingMode")),
        ("1.11.0", {"tunnel": "vxlan", "tunnelPort": 8472}, ("routingMode",)),
        ("1.13.12", {"tunnel": "vxlan", "kubeProxyReplacement": "strict"}, ("routingMode", "envoy")),
        ("1.14.19", {"routingMode": "tunnel", "kubeProxyReplacement": True}, ("tunnel",)),
        ("1.20.0", {"routingMode": "tunnel", "tunnelProtocol": "vxlan", "tunnelPort": 8472}, ("tunnel",)),
    ],
)
def test_the_tunnel_is_spelt_as_the_version_wants_it(
    version: str, present: dict[str, object], absent: tuple[str, ...]
) -> None:
    values = helm_values(wanted(version))
    assert {key: values.get(key) for key in present} == present
    assert not set(absent) & set(values)


@pytest.mark.parametrize(
    ("version", "present", "rendered"),
    [
        ("1.10.6", {"tunnel": "geneve"}, {"tunnel": "geneve"}),
        ("1.13.12", {"tunnel": "geneve", "tunnelPort": 6081}, {"tunnel": "geneve", "tunnel-port": "6081"}),
        (
            "1.18.12",
            {"routingMode": "tunnel", "tunnelProtocol": "geneve", "tunnelPort": 6081},
            {"routing-mode": "tunnel", "tunnel-protocol": "geneve", "tunnel-port": "6081", "tunnel": None},
        ),
    ],
)
def test_geneve_is_spelt_as_the_version_wants_it(
    version: str, present: dict[str, object], rendered: dict[str, str | None]
) -> None:
    asked = wanted(version, datapath(encapsulation="geneve"))
    values, config = helm_values(asked), expected_config(asked)
    assert {key: values.get(key) for key in present} == present
    assert {key: config[key] for key in rendered} == rendered
    assert values["autoDirectNodeRoutes"] is False


@pytest.mark.parametrize(
    ("version", "key"),
    [("1.10.6", "nativeRoutingCIDR"), ("1.11.0", "ipv4NativeRoutingCIDR"), ("1.20.0", "ipv4NativeRoutingCIDR")],
)
def test_native_routing_names_the_range_that_is_not_masqueraded(version: str, key: str) -> None:
    assert helm_values(wanted(version, datapath(encapsulation="native")))[key] == "10.244.0.0/16"


def test_1_10_takes_the_pod_range_as_text_and_later_ones_as_a_list() -> None:
    operators = [at(helm_values(wanted(version)), "ipam.operator") for version in ("1.10.6", "1.11.0")]
    assert operators == [
        {"clusterPoolIPv4MaskSize": 24, "clusterPoolIPv4PodCIDR": "10.244.0.0/16"},
        {"clusterPoolIPv4MaskSize": 24, "clusterPoolIPv4PodCIDRList": ["10.244.0.0/16"]},
    ]


def test_without_kube_proxy_replacement_it_is_said_in_the_versions_word() -> None:
    off = datapath("legacy", masquerade="iptables", replacement=False)
    found = [helm_values(wanted(version, off))["kubeProxyReplacement"] for version in ("1.13.12", "1.16.19")]
    assert found == ["disabled", False]


def test_own_values_are_laid_over_leaf_by_leaf() -> None:
    values = helm_values(wanted(), {"bpf": {"mapDynamicSizeRatio": 0.005}, "debug": {"enabled": False}})
    assert at(values, "bpf.mapDynamicSizeRatio") == 0.005
    assert at(values, "bpf.hostLegacyRouting") is False
    assert at(values, "debug") == {"enabled": False, "verbose": "datapath"}


LOCAL = CiliumImages(agent="mirror:5000/cilium:v1", operator="mirror:5000/operator-generic:v1", pull_policy="Never")


def test_images_are_overridden_whole_where_the_chart_can() -> None:
    image = at(helm_values(wanted("1.13.12", images=LOCAL)), "operator.image")
    assert image == {"useDigest": False, "pullPolicy": "Never", "override": "mirror:5000/operator-generic:v1"}


def test_older_charts_get_repository_and_tag_without_the_suffix_that_they_add() -> None:
    image = at(helm_values(wanted("1.11.0", images=LOCAL)), "operator.image")
    assert image == {"useDigest": False, "pullPolicy": "Never", "repository": "mirror:5000/operator", "tag": "v1"}


@pytest.mark.parametrize("version", ["1.10.6", "1.13.12", "1.20.0"])
def test_the_images_that_follow_from_the_values_are_those_that_were_meant(version: str) -> None:
    parsed = Version.parse(version)
    assert images_of(helm_values(wanted(version, images=LOCAL)), parsed) == (LOCAL.agent, LOCAL.operator)
    assert images_of(helm_values(wanted(version)), parsed) == (
        f"quay.io/cilium/cilium:v{version}",
        f"quay.io/cilium/operator-generic:v{version}",
    )


def test_images_of_the_users_own_values_are_seen() -> None:
    own = helm_values(wanted(), {"image": {"repository": "local/cilium", "tag": "x"}})
    assert images_of(own, Version.parse("1.13.12"))[0] == "local/cilium:x"


def test_a_key_that_the_user_decides_is_no_longer_expected() -> None:
    expected = expected_config(wanted(), {"debug": {"enabled": False}, "devices": "eth1"})
    assert not {"debug", "devices"} & set(expected)
    assert expected["debug-verbose"] == "datapath"


def test_the_datapath_itself_cannot_be_taken_out_of_what_is_expected() -> None:
    expected = expected_config(wanted(), {"bpf": {"hostLegacyRouting": True, "masquerade": False}})
    assert (expected["enable-host-legacy-routing"], expected["enable-bpf-masquerade"]) == ("false", "true")


@pytest.mark.parametrize(
    ("version", "key", "pool"),
    [("1.10.6", "clusterPoolIPv4PodCIDR", "10.0.0.0/8"), ("1.18.12", "clusterPoolIPv4PodCIDRList", ["10.0.0.0/8"])],
)
def test_a_pool_of_the_users_own_is_what_cilium_gets_while_kubeadm_keeps_its_range(
    version: str, key: str, pool: object
) -> None:
    user = {"ipam": {"operator": {key: pool}}}
    values = helm_values(wanted(version), user)
    assert values["ipam"]["operator"][key] == pool  # type: ignore[index]
    assert "cluster-pool-ipv4-cidr" not in expected_config(wanted(version), user)
    assert expected_config(wanted(version))["cluster-pool-ipv4-cidr"] == "10.244.0.0/16"
