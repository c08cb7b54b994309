"""The agent's account of its mode, read from what real agents printed, fallbacks included."""

from __future__ import annotations

import json

import pytest

from labctl.errors import MeasureFailed
from labctl.model.evidence import Evidence
from labctl.model.fallback import fallback_in_log
from labctl.providers.cilium.evidence import agent_evidence, config_evidence, found_by_agent
from labctl.providers.cilium.status import (
    AgentStatus,
    explain,
    network_of_config,
    parse_status,
)

from .cilium_recordings import datapath, recorded, wanted


@pytest.mark.parametrize(
    ("cell", "host_routing", "version"),
    [
        ("bpf-vxlan", "bpf", "1.13.12"),
        ("bpf-native", "bpf", "1.13.12"),
        ("legacy-vxlan", "legacy", "1.13.12"),
        ("legacy-native", "legacy", "1.13.12"),
        ("v1.16-bpf-vxlan", "bpf", "1.16.0-rc.0"),
        ("v1.16-legacy-native", "legacy", "1.16.0-rc.0"),
    ],
)
def test_host_routing_is_read_by_either_path(cell: str, host_routing: str, version: str) -> None:
    status = parse_status(recorded(f"status-{cell}.json"))
    assert (status.host_routing, status.version, status.masquerade, status.is_ready) == (
        host_routing, version, "bpf", True,
    )  # fmt: skip
    assert status.replaces_kube_proxy
    assert status.devices == ("eth0",)


@pytest.mark.parametrize(
    ("cell", "network", "attach"),
    [("v1.16-bpf-vxlan", "vxlan", "tcx"), ("v1.16-legacy-native", "native", "tcx"), ("bpf-native", "", "")],
)
def test_the_network_mode_is_in_the_status_only_since_1_16(cell: str, network: str, attach: str) -> None:
    status = parse_status(recorded(f"status-{cell}.json"))
    assert (status.network, status.attach_mode) == (network, attach)


@pytest.mark.parametrize(
    ("config", "network"),
    [
        ({"tunnel": "disabled"}, "native"),
        ({"tunnel": "vxlan"}, "vxlan"),
        ({"routing-mode": "native", "tunnel-protocol": "vxlan"}, "native"),
        ({"routing-mode": "tunnel", "tunnel-protocol": "geneve"}, "geneve"),
    ],
)
def test_older_agents_leave_the_network_mode_to_the_config(config: dict[str, str], network: str) -> None:
    assert network_of_config(config) == network


@pytest.mark.parametrize("text", ["", "Error: Cannot get status", "[]"])
def test_what_is_no_status_is_an_error_and_no_mode(text: str) -> None:
    with pytest.raises(MeasureFailed, match="status is not"):
        parse_status(text)


def fallback(name: str) -> tuple[AgentStatus, dict[str, str], list[str]]:
    """A recorded fallback: the ConfigMap's keys, the agent's log lines and its status."""
    lines = recorded(f"fallback/{name}.txt").splitlines()
    config = {
        key.strip(): value.strip().strip('"')
        for line in lines
        if line.startswith("  ")
        for key, _, value in [line.partition(":")]
    }
    said = json.loads(lines[-1])
    status = parse_status(
        json.dumps(
            {
                "host-routing": said["host-routing"],
                "masquerading": said["masq"],
                "kube-proxy-replacement": {"mode": said["kpr"]},
                "cilium": {"msg": "1.13.12 (v1.13.12-00775558)", "state": "Ok"},
            }
        )
    )
    return status, config, [line for line in lines if line.startswith("level=")]


def judged(name: str) -> Evidence:
    status, config, log = fallback(name)
    asked = datapath("bpf", "vxlan").asked()
    return agent_evidence("node1", status, config, asked, explain(log, config, status), ("cilium", "status"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("masq-iptables", "masquerading is done by iptables (“BPF host routing requires enable-bpf-masquerade."),
        ("kpr-disabled", "kube-proxy replacement is off (“Auto-disabling"),
        # Silent: not one line of the log is about host routing.
        ("kpr-partial", "kube-proxy replacement is 'partial', and this version does not say"),
    ],
)
def test_every_recorded_fallback_speaks_against_bpf_with_its_reason(name: str, reason: str) -> None:
    evidence = judged(name)
    assert evidence.supports is False
    assert evidence.found is not None
    assert evidence.found["hostRouting"] == "legacy"
    assert "hostRouting legacy (asked bpf)" in evidence.finding
    assert reason in evidence.finding
    assert "remedy: --set datapath." in evidence.finding


def test_the_silent_fallback_has_no_line_in_its_log() -> None:
    _, _, log = fallback("kpr-partial")
    assert fallback_in_log(log) is None


def test_an_agent_in_bpf_mode_has_no_fallback_to_explain() -> None:
    status = parse_status(recorded("status-v1.16-bpf-vxlan.json"))
    assert explain(recorded("agent-log-v1.16-bpf-vxlan.txt").splitlines(), {}, status) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("BPF host routing is incompatible with enable-ipsec.", "IPsec is on"),
        ("BPF host routing requires kube-proxy-replacement=strict.", "kube-proxy replacement is not fully on"),
        ("BPF host routing requires kube-proxy-replacement=true.", "kube-proxy replacement is not fully on"),
        ("BPF host routing requires kube-proxy-replacement.", "kube-proxy replacement is not fully on"),
        ("BPF host routing is currently not supported with enable-endpoint-routes.", "endpoint routes are on"),
        ("BPF host routing is currently not supported with devices without L2 addr.", "a device has no MAC address"),
        ("BPF host routing is currently not compatible with Wireguard (--enable-wireguard).", "WireGuard is on"),
        ("BPF host routing requires kernel 5.10 or newer.", "the kernel lacks bpf_redirect_peer"),
        ("BPF masquerade could not be enabled. Falling back to legacy host routing", "masquerading by eBPF could not"),
    ],
)
def test_fallback_lines_of_every_era_are_explained(line: str, reason: str) -> None:
    found = fallback_in_log(
        ["level=info msg=starting", f'level=info msg="{line} Falling back to legacy host routing." subsys=daemon']
    )
    assert found is not None
    assert found.reason.startswith(reason)
    assert found.remedy


def test_an_agent_that_agrees_supports_what_was_asked() -> None:
    status = parse_status(recorded("status-bpf-vxlan.json"))
    evidence = agent_evidence("node1", status, {"tunnel": "vxlan"}, datapath().asked(), None, ("x",))
    assert evidence.supports is True
    assert evidence.found == {
        "hostRouting": "bpf", "encapsulation": "vxlan", "masquerade": "bpf", "kubeProxyReplacement": True,
    }  # fmt: skip


def test_a_status_without_host_routing_is_no_witness() -> None:
    status = parse_status('{"cilium": {"state": "Ok", "msg": "1.13.12"}}')
    assert agent_evidence("n", status, {}, datapath().asked(), None, ("x",)).supports is None
    assert "hostRouting" not in found_by_agent(status, {})


def test_a_config_that_says_what_was_asked_proves_nothing() -> None:
    import yaml

    config = {key: str(value) for key, value in yaml.safe_load(recorded("configmap-bpf-vxlan.yaml"))["data"].items()}
    own = {
        "debug": {"enabled": False, "verbose": ""},
        "bpf": {"monitorAggregation": "medium"},
        "tunnelPort": 0,
    }
    evidence = config_evidence(config, wanted(), own, ("kubectl",))
    assert evidence.supports is None
    assert evidence.finding == "says what was asked (which does not prove that it is in force)"


def test_a_config_that_asks_for_something_else_speaks_against_it() -> None:
    evidence = config_evidence({"enable-host-legacy-routing": "true"}, wanted(), {}, ("kubectl",))
    assert evidence.supports is False
    assert "enable-host-legacy-routing is true (meant false)" in evidence.finding
