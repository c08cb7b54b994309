"""Wrong and ignored Helm keys: found in the rendered configuration and in the chart, each with the right name."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from labctl.errors import UsageError
from labctl.model.versions import Version
from labctl.providers.cilium.chart import Chart, parse_chart, read_chart
from labctl.providers.cilium.rendered import differences, parse_rendered, refuse_wrong_values, wrong_values
from labctl.providers.cilium.values import expected_config

from .cilium_recordings import datapath, wanted

CHART_FILES = {
    "Chart.yaml": "name: cilium\nversion: 1.13.12\nkubeVersion: '>= 1.16.0-0'\n",
    "values.yaml": textwrap.dedent(
        """
        bpf: {masquerade: ~, monitorAggregation: medium}
        #kubeProxyReplacement: "disabled"
        tunnel: vxlan
        debug: {enabled: false}
        extraConfig: {}
        nodeSelector: {kubernetes.io/os: linux}
        hubble: {enabled: true, relay: {enabled: false}}
        """
    ),
    "templates/cilium-configmap.yaml": (
        '{{- if hasKey .Values.bpf "hostLegacyRouting" }}x{{ end }}\n{{ .Values.k8sServiceHost }}\n'
    ),
}


@pytest.fixture
def chart() -> Chart:
    return parse_chart(CHART_FILES, "cilium.tgz")


def manifest(config: dict[str, str | None], host: str = "lab-control-plane") -> str:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
    agent = {
        "name": "cilium-agent",
        "image": "agent:1",
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    pod = {"initContainers": [{"name": "clean", "image": "i"}], "containers": [agent]}
    return yaml.safe_dump_all(
        [
            {
                "kind": "ConfigMap",
                "metadata": {"name": "cilium-config"},
                "data": {key: value for key, value in config.items() if value is not None},
            },
            {"kind": "DaemonSet", "metadata": {"name": "cilium"}, "spec": {"template": {"spec": pod}}},
        ]
    )


def test_a_rendering_that_says_what_was_meant_has_no_difference() -> None:
    assert differences(parse_rendered(manifest(expected_config(wanted()))), wanted()) == ()


@pytest.mark.parametrize("key", [key for key, value in expected_config(wanted()).items() if value is not None])
def test_each_key_that_is_not_rendered_is_named(key: str) -> None:
    config = {name: value for name, value in expected_config(wanted()).items() if name != key}
    (difference,) = differences(parse_rendered(manifest(config)), wanted())
    assert difference.startswith(f"{key} should be '")
    assert difference.endswith("is not there")


def test_a_silently_ignored_native_mode_is_found_by_the_tunnel_that_stayed() -> None:
    meant = wanted(path=datapath(encapsulation="native"))
    config = {**expected_config(meant), "tunnel": "vxlan"}
    assert differences(parse_rendered(manifest(config)), meant) == ("tunnel should be 'disabled', and is 'vxlan'",)


def test_agents_that_would_ask_another_api_server_are_found() -> None:
    (difference,) = differences(parse_rendered(manifest(expected_config(wanted()), host="elsewhere")), wanted())
    assert "KUBERNETES_SERVICE_HOST should be 'lab-control-plane', and is 'elsewhere'" in difference


def test_every_image_of_the_rendered_chart_is_listed_with_init_containers() -> None:
    assert set(parse_rendered(manifest(expected_config(wanted()))).images) == {"i", "agent:1"}


def test_a_rendering_without_cilium_config_is_not_ciliums() -> None:
    with pytest.raises(UsageError, match="holds no cilium-config"):
        parse_rendered("kind: ConfigMap\nmetadata: {name: other}\n")


@pytest.mark.parametrize(
    ("version", "values", "says"),
    [
        ("1.10.6", {"bpf": {"hostLegacyRouting": True}}, "silently ignored in Cilium 1.10.6; use bpf.hostRouting"),
        ("1.13.12", {"bpf": {"hostRouting": True}}, "silently ignored in Cilium 1.13.12; use bpf.hostLegacyRouting"),
        ("1.13.12", {"routingMode": "native"}, "use tunnel: vxlan | geneve | disabled"),
        ("1.15.19", {"tunnel": "vxlan"}, "refused by the chart in Cilium 1.15.19; use routingMode"),
        ("1.12.19", {"nativeRoutingCIDR": "10.0.0.0/8"}, "use ipv4NativeRoutingCIDR"),
        ("1.10.6", {"ipv4NativeRoutingCIDR": "10.0.0.0/8"}, "use nativeRoutingCIDR"),
        ("1.19.6", {"ipam": {"operator": {"clusterPoolIPv4PodCIDR": "x"}}}, "pods get 10.0.0.0/8"),
        ("1.14.0", {"ipam": {"operator": {"clusterPoolIPv4PodCIDR": "x"}}}, "refused by the chart"),
        ("1.10.6", {"ipam": {"operator": {"clusterPoolIPv4PodCIDRList": ["x"]}}}, "a string"),
        ("1.16.0-rc.0", {"kubeProxyReplacement": "strict"}, "kubeProxyReplacement: strict is refused"),
        ("1.13.12", {"kubeProxyReplacement": True}, "use strict or disabled"),
        ("1.13.12", {"bandwidthManager": True}, "use bandwidthManager.enabled"),
        ("1.11.0", {"bandwidthManager": {"enabled": True}}, "rendered as garbage"),
        ("1.15.0", {"bpf": {"datapathMode": "netkit"}}, "netkit came with 1.16"),
    ],
)
def test_a_wrong_name_is_an_error_with_the_right_one(version: str, values: dict[str, object], says: str) -> None:
    (problem,) = wrong_values(values, Version.parse(version), None)
    assert says in problem


@pytest.mark.parametrize(
    ("version", "values"),
    [
        ("1.11.0", {"bpf": {"hostRouting": True}}),
        ("1.12.19", {"bpf": {"hostRouting": True, "hostLegacyRouting": True}}),
        ("1.14.19", {"tunnel": "vxlan", "kubeProxyReplacement": "strict"}),
        ("1.16.19", {"kubeProxyReplacement": True, "bpf": {"datapathMode": "netkit"}}),
    ],
)
def test_right_names_are_left_alone(version: str, values: dict[str, object]) -> None:
    assert wrong_values(values, Version.parse(version), None) == ()


@pytest.mark.parametrize(
    "path",
    [
        "bpf.masquerade", "bpf.hostLegacyRouting", "kubeProxyReplacement", "k8sServiceHost", "extraConfig.anything",
        "nodeSelector.disk", "hubble", "tunnel",
    ],
)  # fmt: skip
def test_the_chart_knows_what_its_values_templates_and_comments_name(chart: Chart, path: str) -> None:
    assert chart.knows(path)


@pytest.mark.parametrize("path", ["bpf.masqerade", "bpf.hostRouting", "routingMode", "hubble.relay.port", "tunnels"])
def test_the_chart_does_not_know_other_keys(chart: Chart, path: str) -> None:
    assert not chart.knows(path)


def test_a_key_that_the_chart_would_ignore_is_an_error_with_the_nearest_name(chart: Chart) -> None:
    (problem,) = wrong_values({"bpf": {"masqerade": True}}, chart.version, chart)
    assert problem == (
        "bpf.masqerade: the chart 1.13.12 has no such value and would ignore it; did you mean 'bpf.masquerade'?"
    )


def test_all_wrong_values_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as told:
        refuse_wrong_values(("a is wrong", "b is wrong"), where="cilium.values")
    assert told.value.what == "cilium.values: 2 values do not take effect"
    assert told.value.cause.split() == ["a", "is", "wrong", "b", "is", "wrong"]


def test_a_folder_that_is_no_chart_is_refused() -> None:
    with pytest.raises(UsageError, match=r"it has no Chart\.yaml"):
        parse_chart({"values.yaml": ""}, "here")


@pytest.mark.parametrize("name", ["files/secret", "templates/secret.yaml", "values.yaml", "charts"])
def test_a_chart_with_a_link_is_refused_since_helm_would_follow_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "Chart.yaml").write_text("name: cilium\nversion: 1.13.12\n")
    assert read_chart(tmp_path).name == "cilium"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="cannot read the chart") as refused:
        read_chart(tmp_path)
    assert refused.value.cause == f"it contains a symbolic link: {name}"
