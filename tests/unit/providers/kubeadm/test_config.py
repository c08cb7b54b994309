"""kubeadm's configuration by Kubernetes version, against files that real kubeadms accepted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.errors import UsageError
from labctl.model.sections import Kubeadm
from labctl.model.versions import Version
from labctl.providers.kubeadm.config import ClusterShape, checks_apart, init_documents, join_document, to_yaml
from labctl.providers.kubeadm.inventory import init_flags
from labctl.providers.kubeadm.kubernetes import (
    ConfigApi,
    Installed,
    SkipProxy,
    config_api,
    cri_socket,
    default_image_repository,
    nearest,
    parse_version,
    refuse_unknown,
    skew,
    skip_proxy,
)

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "kubeadm" / "config"
SHAPE = ClusterShape(name="legacy", pod_cidr="10.244.0.0/16", service_cidr="10.96.0.0/12", control_plane="node1")


def settings(**keys: Any) -> Kubeadm:
    return Kubeadm.model_validate_json(json.dumps(keys))


def accepted(version: str) -> Kubeadm:
    return settings(
        kubernetes=version, imageRepository="registry.aliyuncs.com/google_containers", cgroupDriver="systemd"
    )


@pytest.mark.parametrize("version", ["1.20.2", "1.30.8", "1.31.4"])
def test_init_is_what_the_real_kubeadm_accepted(version: str) -> None:
    assert (
        to_yaml(init_documents(accepted(version), SHAPE, "192.168.56.10"))
        == (FIXTURES / f"init-{version}.yaml").read_text()
    )


@pytest.mark.parametrize("version", ["1.20.2", "1.30.8", "1.31.4"])
def test_join_is_what_the_real_kubeadm_accepted_once_its_secrets_are_in(version: str) -> None:
    document = join_document(accepted(version), "node2", "192.168.56.11", "192.168.56.10:6443")
    wanted = yaml.safe_load((FIXTURES / f"join-{version}.yaml").read_text())
    token = wanted["discovery"]["bootstrapToken"]
    assert token.pop("token") == "abcdef.0123456789abcdef"
    assert token.pop("caCertHashes") == ["sha256:" + "0" * 64]
    assert document == wanted


@pytest.mark.parametrize(
    ("version", "api", "skip"),
    [
        ("1.20.2", ConfigApi.V1BETA2, SkipProxy.FLAG),
        ("1.21.14", ConfigApi.V1BETA2, SkipProxy.FLAG),
        ("1.22.0", ConfigApi.V1BETA3, SkipProxy.SKIP_PHASES),
        ("1.30.8", ConfigApi.V1BETA3, SkipProxy.SKIP_PHASES),
        ("1.31.0", ConfigApi.V1BETA4, SkipProxy.DISABLED),
        ("1.36.1", ConfigApi.V1BETA4, SkipProxy.DISABLED),
    ],
)
def test_each_version_gets_its_api_and_its_way_to_skip_kube_proxy(
    version: str, api: ConfigApi, skip: SkipProxy
) -> None:
    assert config_api(Version.parse(version)) is api
    assert skip_proxy(Version.parse(version)) is skip


def test_only_v1beta4_has_the_switch_for_kube_proxy_and_lists_of_arguments() -> None:
    old, new = (init_documents(settings(kubernetes=v), SHAPE, "10.0.0.1") for v in ("1.30.0", "1.31.0"))
    assert "proxy" not in old[1]
    assert new[1]["proxy"] == {"disabled": True}
    assert old[0]["nodeRegistration"]["kubeletExtraArgs"] == {"node-ip": "10.0.0.1"}
    assert new[0]["nodeRegistration"]["kubeletExtraArgs"] == [{"name": "node-ip", "value": "10.0.0.1"}]


def test_settings_of_ones_own_are_merged_into_each_document() -> None:
    init, cluster, kubelet = init_documents(
        settings(
            kubernetes="1.30.0",
            kubelet={"maxPods": 20},
            cluster={"networking": {"dnsDomain": "lab.local"}},
            init={"localAPIEndpoint": {"bindPort": 7443}},
        ),
        SHAPE,
        "10.0.0.1",
    )
    assert kubelet["maxPods"] == 20
    assert cluster["networking"] == {
        "podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/12", "dnsDomain": "lab.local",
    }  # fmt: skip
    assert init["localAPIEndpoint"] == {"bindPort": 7443, "advertiseAddress": "10.0.0.1"}


def test_the_kubelet_lives_with_swap_only_where_that_is_asked() -> None:
    assert init_documents(settings(swap="keep"), SHAPE, "")[2]["failSwapOn"] is False
    assert "failSwapOn" not in init_documents(settings(swap="off"), SHAPE, "")[2]


def test_an_unknown_address_is_left_to_kubeadm() -> None:
    init = init_documents(settings(kubernetes="1.30.0"), SHAPE, "")[0]
    assert "advertiseAddress" not in init["localAPIEndpoint"]
    assert init["nodeRegistration"]["kubeletExtraArgs"] == {}


def test_the_socket_is_a_url_since_1_24() -> None:
    assert cri_socket(Version.parse("1.23.17"), "/run/c.sock") == "/run/c.sock"
    assert cri_socket(Version.parse("1.24.0"), "/run/c.sock") == "unix:///run/c.sock"


@pytest.mark.parametrize(
    ("version", "repository"),
    [
        ("1.20.5", "k8s.gcr.io"),
        ("1.22.17", "k8s.gcr.io"),
        ("1.22.18", "registry.k8s.io"),
        ("1.25.0", "registry.k8s.io"),
    ],
)
def test_the_vendors_registry_goes_by_the_version(version: str, repository: str) -> None:
    assert default_image_repository(Version.parse(version)) == repository


@pytest.mark.parametrize("text", ["v1.20.2", "Kubernetes v1.20.2", "1.20.2-00", "kubeadm version: v1.20.2+k3s1"])
def test_versions_are_read_as_programs_print_them(text: str) -> None:
    assert parse_version(text) == Version.parse("1.20.2")


def found(kubeadm: str | None, kubelet: str | None) -> Installed:
    return Installed(
        host="node1",
        kubeadm=Version.parse(kubeadm) if kubeadm else None,
        kubelet=Version.parse(kubelet) if kubelet else None,
    )


@pytest.mark.parametrize(
    ("asked", "kubeadm", "kubelet", "sentence"),
    [
        ("1.20.2", "1.20.2", "1.20.2", ""),
        ("1.20.2", "1.21.0", "1.20.2", ""),
        ("1.30.0", "1.30.0", "1.27.0", ""),
        ("1.20.2", None, None, ""),
        ("1.20.2", "1.22.0", "1.20.2", "kubeadm 1.22.0 builds Kubernetes 1.22 and 1.21, not 1.20.2"),
        ("1.24.0", "1.20.2", "1.24.0", "kubeadm 1.20.2 builds Kubernetes 1.20 and 1.19, not 1.24.0"),
        ("1.20.2", "1.20.2", "1.21.0", "kubelet 1.21.0 is newer than the API server 1.20.2 would be"),
        ("1.27.0", "1.27.0", "1.24.0", "kubelet 1.24.0 is more than 2 minor versions older than the API server 1.27.0"),
    ],
)
def test_skew_is_reported_in_a_sentence(asked: str, kubeadm: str | None, kubelet: str | None, sentence: str) -> None:
    assert "; ".join(skew(Version.parse(asked), found(kubeadm, kubelet))) == sentence


def test_the_nearest_version_is_what_the_machines_kubeadm_builds() -> None:
    asked = Version.parse("1.24.0")
    assert nearest(asked, found("1.20.2", "1.20.2")) == Version.parse("1.20.2")
    assert nearest(Version.parse("1.20.2"), found("1.20.2", "1.20.2")) is None


def test_a_kubernetes_older_than_the_configuration_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        refuse_unknown(Version.parse("1.19.0"))
    assert refused.value.lines()[-1] == "  try: the nearest supported version: --set kubeadm.kubernetes=1.20.15"


@pytest.mark.parametrize(
    ("version", "policy", "is_apart"),
    [("1.20.2", None, True), ("1.21.14", None, True), ("1.22.0", "Never", False), ("1.35.0", "Never", False)],
)
def test_offline_nothing_is_pulled_and_no_check_is_waived_for_it(
    version: str, policy: str | None, is_apart: bool
) -> None:
    """kube-proxy's image is nowhere: a kubeadm that may pull tries five times, which took a minute or more."""
    offline = settings(kubernetes=version, offline=True)
    registration = init_documents(offline, SHAPE, "10.0.0.1")[0]["nodeRegistration"]
    assert registration["ignorePreflightErrors"] == ["Swap"]
    assert registration.get("imagePullPolicy") == policy
    assert checks_apart(offline) is is_apart
    assert not checks_apart(settings(kubernetes=version))
    assert "imagePullPolicy" not in init_documents(settings(kubernetes=version), SHAPE, "")[0]["nodeRegistration"]


def test_only_a_start_whose_checks_ran_before_leaves_them_out() -> None:
    assert init_flags(settings(kubernetes="1.20.2", offline=True)) == "--skip-phases=addon/kube-proxy,preflight"
    assert init_flags(settings(kubernetes="1.20.2")) == "--skip-phases=addon/kube-proxy"
    assert init_flags(settings(kubernetes="1.22.0", offline=True)) == ""


def test_a_labs_kubelet_removes_no_image_and_evicts_late_unless_it_is_told_otherwise() -> None:
    kubelet = init_documents(settings(), SHAPE, "")[2]
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert set(kubelet["evictionHard"]) == {
        "memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available",
    }  # fmt: skip
    own = settings(kubelet={"imageGCHighThresholdPercent": 70, "evictionHard": {"nodefs.available": "1Gi"}})
    kubelet = init_documents(own, SHAPE, "")[2]
    assert kubelet["imageGCHighThresholdPercent"] == 70
    assert kubelet["evictionHard"]["nodefs.available"] == "1Gi"
    assert init_documents(settings(), SHAPE, "")[2]["evictionHard"]["nodefs.available"] == "5%"


@pytest.mark.parametrize("version", ["1.20.2", "1.30.8", "1.31.4"])
def test_a_cluster_with_kube_proxy_does_not_skip_it_and_says_its_mode(version: str) -> None:
    shape = replace(SHAPE, kube_proxy="nftables", proxy_gates={"NFTablesProxyMode": True})
    init, cluster, _, proxy = init_documents(settings(kubernetes=version), shape, "10.0.0.1")
    assert "skipPhases" not in init
    assert "proxy" not in cluster
    assert proxy == {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": "10.244.0.0/16",
        "featureGates": {"NFTablesProxyMode": True},
    }


def test_with_kube_proxy_only_the_checks_that_ran_before_are_left_out() -> None:
    assert init_flags(settings(kubernetes="1.20.2"), with_proxy=True) == ""
    assert init_flags(settings(kubernetes="1.20.2", offline=True), with_proxy=True) == "--skip-phases=preflight"
