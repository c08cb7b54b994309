"""A lab on a cluster, opened: with Debian's bridge plugin, with Cilium's agents, and without the right to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_world import KubeWorld, error, lab_of
from labctl.checks.mode import judge_mode
from labctl.engine.build import up
from labctl.engine.events import silent
from labctl.errors import MeasureFailed, ToolMissing, UsageError
from labctl.model.evidence import Standing
from labctl.model.signature import Role
from labctl.networks import expected_of
from labctl.providers.cluster.provider import ClusterProvider

CILIUM = Path(__file__).parents[3] / "fixtures" / "cilium"


@pytest.fixture
def world() -> KubeWorld:
    return KubeWorld()


def provider_of(world: KubeWorld, tmp_path: Path, **keys: Any) -> tuple[ClusterProvider, Any]:
    provider, lab = ClusterProvider(commands=world, root=tmp_path), lab_of(**keys)
    up(provider, lab, silent)
    return provider, lab


def test_the_taps_of_a_bridge_are_the_pods_their_ends_the_bridge_and_the_uplink(
    world: KubeWorld, tmp_path: Path
) -> None:
    provider, lab = provider_of(world, tmp_path)
    same, cross = lab.pairs
    with provider.open(lab) as open_lab:
        assert open_lab.lab.cni == "bridge cni0"
        assert [tap.role for tap in open_lab.taps(cross)] == [
            Role.CLIENT_ETH0, Role.CLIENT_LXC, Role.CLIENT_BRIDGE, Role.CLIENT_UPLINK,
            Role.SERVER_UPLINK, Role.SERVER_BRIDGE, Role.SERVER_LXC, Role.SERVER_ETH0,
        ]  # fmt: skip
        roles = [tap.role for tap in open_lab.taps(same)]
        assert roles.count(Role.CLIENT_BRIDGE) == 1
        assert Role.SERVER_BRIDGE not in roles
        own = {tap.role: tap.own for tap in open_lab.taps(cross) if tap.own}
        assert set(own) == {Role.CLIENT_UPLINK, Role.SERVER_UPLINK}, "where a capture's own output passes"
        assert "10250" in own[Role.CLIENT_UPLINK]
        macs = {device.role: device.mac for device in open_lab.devices(cross)}
        assert set(macs) == {tap.role for tap in open_lab.taps(cross)}


def test_addresses_are_those_that_the_cluster_gave(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    with provider.open(lab) as open_lab:
        found = open_lab.lab
    there = {name: pod["status"]["podIP"] for name, pod in world.pods["labctl-bpf"].items()}
    assert {pod.name: str(pod.address) for pod in found.pods} == {pod.name: there[pod.name] for pod in found.pods}
    assert (str(found.nodes[0].address), str(found.nodes[0].router)) == ("10.203.0.11/24", "10.244.0.1")


def test_nothing_is_expected_of_taps_of_an_unknown_network(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    with provider.open(lab) as open_lab:
        assert expected_of(open_lab.lab, lab.pairs[0], packets=3) is None
    assert expected_of(lab, lab.pairs[0], packets=3) is not None


def test_no_host_routing_is_guessed_and_kube_proxys_rules_are_evidence(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    with provider.open(lab) as open_lab:
        evidence = open_lab.testimony(lab.pairs[1], lambda: None)
    mode = judge_mode(lab.name, lab.datapath.asked(), evidence, ())
    assert "hostRouting" not in mode.found
    assert mode.found["kubeProxyReplacement"] is False
    assert mode.standing is Standing.NOT_IN_FORCE
    assert "--set datapath.observed=true" in mode.remedy
    assert judge_mode(lab.name, {}, evidence, ()).standing is Standing.NOT_IN_FORCE


def test_of_an_observed_lab_the_same_evidence_is_what_is_in_force(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path, observed=True)
    with provider.open(lab) as open_lab:
        evidence = open_lab.testimony(lab.pairs[1], lambda: None)
    mode = judge_mode(lab.name, lab.datapath.asked(), evidence, ())
    assert (mode.asked, mode.standing) == ({}, Standing.IN_FORCE)
    assert mode.found == {"cni": "bridge cni0", "kubeProxyReplacement": False}


def test_routes_are_the_datapath_of_a_cni_without_maps(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    with provider.open(lab) as open_lab:
        (first, _) = open_lab.datapath_state().nodes
    routes = next(table for table in first.maps if table.name == "routes")
    assert ("10.244.1.0/24", "10.203.0.12", "eth0") in routes.rows


@pytest.mark.parametrize("name", ["pod-security", "forbidden-create"])
def test_without_the_right_to_make_helpers_what_needs_taps_is_skipped_with_that_reason(
    world: KubeWorld, tmp_path: Path, name: str
) -> None:
    provider, lab = provider_of(world, tmp_path)
    for helper in ("labctl-helper-node1", "labctl-helper-node2"):
        del world.pods["labctl-bpf"][helper]
    world.refuses(r"create --validate=false -f -$", error(name))
    with provider.open(lab) as open_lab:
        with pytest.raises(ToolMissing, match="there is no helper pod, since") as skipped:
            open_lab.taps(lab.pairs[1])
        assert ("policy" if name == "pod-security" else "credentials") in skipped.value.what
        with pytest.raises(ToolMissing):
            open_lab.target("node1").run(("true",), timeout_s=1)
        assert open_lab.target("client").run(("echo", "hello"), timeout_s=5).text == "hello\n"
        evidence = open_lab.testimony(lab.pairs[1], lambda: None)
    told = next(piece for piece in evidence if piece.witness == "helpers")
    assert "no captures on the nodes" in told.finding
    assert "--rbac" in told.remedy


def test_a_helper_whose_time_is_over_is_made_again(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    over = {"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than …"}
    world.pods["labctl-bpf"]["labctl-helper-node1"]["status"] = over
    with provider.open(lab) as open_lab:
        assert open_lab.target("node1").run(("echo", "hello"), timeout_s=5).text == "hello\n"
    assert world.pods["labctl-bpf"]["labctl-helper-node1"]["status"]["phase"] == "Running"
    (found,) = provider.discover("bpf")
    assert found.is_whole, "a helper is no part of the lab"


def test_a_pod_whose_node_is_gone_is_told_so(world: KubeWorld, tmp_path: Path) -> None:
    provider, lab = provider_of(world, tmp_path)
    pod = world.pods["labctl-bpf"]["server"]
    pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "message": "node lost"}]}
    world.nodes = "".join(line for line in world.nodes.splitlines(keepends=True) if not line.startswith("node2"))
    with pytest.raises(MeasureFailed, match="server is not ready") as gone, provider.open(lab):
        pass
    assert "node node2 is not in the cluster any more" in gone.value.cause


def test_a_lab_that_is_not_up_cannot_be_opened(world: KubeWorld, tmp_path: Path) -> None:
    provider = ClusterProvider(commands=world, root=tmp_path)
    with pytest.raises(UsageError, match="is not up"), provider.open(lab_of()):
        pass


# ---- Cilium


@pytest.fixture
def with_cilium(world: KubeWorld) -> KubeWorld:
    """Agents on every node, in a recorded cluster's words (1.13.12, BPF over VXLAN)."""
    world.agents = {"node1": "cilium-aaaaa", "node2": "cilium-bbbbb", "node3": "cilium-ccccc"}
    world.agent_status = (CILIUM / "status-bpf-vxlan.json").read_text()
    template = next(one for one in json.loads((CILIUM / "endpoints.json").read_text()) if one["id"] == 82)
    endpoints = []
    for number, pod in enumerate(("client", "neighbour", "server")):
        entry = json.loads(json.dumps(template))
        entry["id"] += number
        entry["status"]["external-identifiers"] |= {"k8s-namespace": "labctl-bpf", "k8s-pod-name": pod}
        entry["status"]["networking"] |= {"interface-name": f"lxc{pod}", "mac": f"02:00:00:00:00:0{number}"}
        endpoints.append(entry)
    world.inside = {
        "endpoint list": json.dumps(endpoints),
        "cat \\$d/ifindex": (
            "cilium_host 3 ae:0d:d3:b0:df:58\ncilium_vxlan 47 0e:6e:65:46:42:cf\neth0 27 02:42:ac:1e:00:03\n"
        ),
    }
    return world


def ciliumnodes(world: KubeWorld) -> None:
    items = [
        {"metadata": {"name": name}, "spec": {"addresses": [{"type": "InternalIP", "ip": f"10.203.0.1{number}"}]}}
        for number, name in enumerate(("node1", "node2", "node3"), start=1)
    ]
    world.lists["ciliumnodes.cilium.io"] = json.dumps({"items": items})


def test_cilium_is_read_through_its_agents(with_cilium: KubeWorld, tmp_path: Path) -> None:
    ciliumnodes(with_cilium)
    provider, lab = provider_of(with_cilium, tmp_path)
    with provider.open(lab) as open_lab:
        assert open_lab.lab.cni == ""
        assert open_lab.lab.pod("client").lxc == "lxcclient"
        roles = [tap.role for tap in open_lab.taps(lab.pairs[1])]
        assert Role.CLIENT_CILIUM_VXLAN in roles
        assert Role.CLIENT_UPLINK in roles
        evidence = open_lab.testimony(lab.pairs[0], lambda: None)
    said = [piece for piece in evidence if piece.witness == "agent-status"]
    assert {piece.where for piece in said} == {"node1", "node2"}
    assert all(piece.supports for piece in said)
    assert not [piece for piece in evidence if piece.witness == "cilium-config"], "no configuration was meant"


def test_of_an_observed_lab_the_agents_word_is_what_packets_have_to_show(
    with_cilium: KubeWorld, tmp_path: Path
) -> None:
    ciliumnodes(with_cilium)
    with_cilium.agent_status = (CILIUM / "status-legacy-native.json").read_text()
    provider, lab = provider_of(with_cilium, tmp_path, observed=True)
    with provider.open(lab) as open_lab:
        datapath = open_lab.lab.datapath
        assert (datapath.host_routing, datapath.observed, datapath.asked()) == ("legacy", True, {})


def test_agents_that_may_not_be_looked_for_leave_the_packets(with_cilium: KubeWorld, tmp_path: Path) -> None:
    with_cilium.refuses("kube-system get pods -l k8s-app=cilium", error("forbidden-in-namespace"))
    links = json.loads((Path(__file__).parents[3] / "fixtures" / "cluster" / "node-links.json").read_text())
    links.append(
        {"ifindex": 99, "ifname": "cilium_host", "address": "02:00:00:00:00:99", "linkinfo": {"info_kind": "veth"}}
    )
    with_cilium.inside["-details link show"] = json.dumps(links)
    provider, lab = provider_of(with_cilium, tmp_path)
    with provider.open(lab) as open_lab:
        assert open_lab.lab.cni == "cilium"
        evidence = open_lab.testimony(lab.pairs[1], lambda: None)
    told = next(piece for piece in evidence if piece.witness == "cni")
    assert "cannot list resource" in told.finding


def test_without_helpers_nodes_are_read_through_the_agents_and_taps_are_not_there(
    with_cilium: KubeWorld, tmp_path: Path
) -> None:
    ciliumnodes(with_cilium)
    provider, lab = provider_of(with_cilium, tmp_path, helpers="never")
    with provider.open(lab) as open_lab:
        with pytest.raises(ToolMissing, match=r"cluster\.helpers is never"):
            open_lab.taps(lab.pairs[1])
        with pytest.raises(ToolMissing):
            open_lab.target("node1").run(("true",), timeout_s=1)
        evidence = open_lab.testimony(lab.pairs[0], lambda: None)
    assert any(piece.witness == "agent-status" and piece.supports for piece in evidence)
