"""From a resolved lab to map entries and tc filters."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from labctl.datapath.layout import ConfigFlag, unpack_endpoint, unpack_ipcache, unpack_tunnel_key
from labctl.model.interfaces import CILIUM_HOST, CILIUM_NET, CILIUM_VXLAN, UPLINK, device_mac
from labctl.model.lab import Encapsulation, Fault, HostRouting, Lab, Masquerade
from labctl.networks.cilium.contents import config_of, map_contents
from labctl.networks.cilium.network import attachments
from labctl.testing import labs


def make_lab(*, node_count: int = 3, **datapath: Any) -> Lab:
    nodes = (labs.make_node(number - 1, host=number, pods=number) for number in range(1, node_count + 1))
    where = (("a", "node1", "10.244.1.10"), ("b", "node1", "10.244.1.11"), ("c", "node2", "10.244.2.10"))
    pods = (
        replace(
            labs.make_pod(name, node, address, identity=1000 + number),
            mac=f"02:00:00:00:01:0{number}",
            lxc=f"lxc00000000000{number}",
            lxc_mac=f"02:00:00:00:02:0{number}",
        )
        for number, (name, node, address) in enumerate(where)
    )
    return labs.make_lab("l", nodes, pods, **datapath)


def ipcache(lab: Lab, node: str) -> dict[str, tuple[int, str]]:
    found = {}
    for key, value in map_contents(lab, node)["ipcache"]:
        identity, endpoint = unpack_ipcache(value)
        found[str(IPv4Address(key))] = (identity, str(endpoint))
    return found


def tunnel(lab: Lab, node: str) -> dict[str, str]:
    return {str(unpack_tunnel_key(key)): str(IPv4Address(value)) for key, value in map_contents(lab, node)["tunnel"]}


def test_endpoints_are_the_pods_of_the_node_with_the_indexes_of_their_lxc() -> None:
    entries = map_contents(make_lab(), "node1")["endpoints"]
    found = {str(IPv4Address(key)): unpack_endpoint(value) for key, value in entries}
    assert {address: one.ifindex for address, one in found.items()} == {"10.244.1.10": 10, "10.244.1.11": 11}
    assert found["10.244.1.11"].mac == "02:00:00:00:01:01"
    assert found["10.244.1.11"].lxc_mac == "02:00:00:00:02:01"
    assert found["10.244.1.11"].identity == 1001


def test_the_ipcache_has_every_address_of_the_cluster_with_its_identity_and_tunnel_endpoint() -> None:
    assert ipcache(make_lab(), "node1") == {
        "172.30.0.1": (1, "0.0.0.0"),
        "10.244.1.1": (1, "0.0.0.0"),
        "172.30.0.2": (6, "0.0.0.0"),
        "10.244.2.1": (6, "172.30.0.2"),
        "172.30.0.3": (6, "0.0.0.0"),
        "10.244.3.1": (6, "172.30.0.3"),
        "10.244.1.10": (1000, "0.0.0.0"),
        "10.244.1.11": (1001, "0.0.0.0"),
        "10.244.2.10": (1002, "172.30.0.2"),
    }


def test_the_tunnel_map_has_the_other_nodes_pod_ranges() -> None:
    assert tunnel(make_lab(), "node2") == {"10.244.1.0/24": "172.30.0.1", "10.244.3.0/24": "172.30.0.3"}


def test_with_native_routing_nothing_is_tunnelled() -> None:
    lab = make_lab(encapsulation=Encapsulation.NATIVE)
    assert "tunnel" not in map_contents(lab, "node1")
    assert {endpoint for _, endpoint in ipcache(lab, "node1").values()} == {"0.0.0.0"}


def test_a_wrong_vtep_is_another_node_than_the_right_one_and_never_the_sender() -> None:
    lab = make_lab(faults=(Fault.WRONG_VTEP,))
    assert tunnel(lab, "node1") == {"10.244.2.0/24": "172.30.0.3", "10.244.3.0/24": "172.30.0.2"}
    assert ipcache(lab, "node1")["10.244.2.10"] == (1002, "172.30.0.3")


def test_between_two_nodes_a_wrong_vtep_is_an_address_that_no_node_has() -> None:
    lab = make_lab(node_count=2, faults=(Fault.WRONG_VTEP,))
    assert tunnel(lab, "node1") == {"10.244.2.0/24": "172.30.0.254"}


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({}, ConfigFlag.MASQUERADE),
        ({"masquerade": Masquerade.IPTABLES}, ConfigFlag(0)),
        ({"faults": (Fault.NO_REDIRECT_PEER,)}, ConfigFlag.MASQUERADE | ConfigFlag.NO_REDIRECT_PEER),
        ({"faults": (Fault.WRONG_VNI,)}, ConfigFlag.MASQUERADE | ConfigFlag.WRONG_VNI),
        ({"faults": (Fault.MISSING_NEIGHBOUR, Fault.NETFILTER_DROP)}, ConfigFlag.MASQUERADE),
    ],
)
def test_flags_follow_masquerading_and_faults(asked: dict[str, Any], flags: ConfigFlag) -> None:
    assert config_of(make_lab(**asked), "node1").flags == flags


def test_the_config_names_the_nodes_addresses_devices_and_delay() -> None:
    config = config_of(make_lab(extra_delay_ns=700), "node2")
    assert (str(config.node_address), str(config.router_address)) == ("172.30.0.2", "10.244.2.1")
    assert str(config.pod_cidr) == "10.244.0.0/16"
    assert (config.cilium_net_ifindex, config.uplink_ifindex, config.cilium_vxlan_ifindex) == (2, 4, 5)
    assert config.cilium_host_mac == device_mac("node2", CILIUM_HOST)
    assert config.extra_delay_ns == 700


def test_contents_do_not_depend_on_the_labs_name() -> None:
    lab = make_lab()
    assert map_contents(lab, "node1") == map_contents(replace(lab, name="other"), "node1")


def test_filters_are_where_cilium_has_them() -> None:
    found = [(one.device, one.hook, one.program) for one in attachments(make_lab(), "node1")]
    assert found == [
        (CILIUM_NET, "ingress", "cil_to_host"),
        (CILIUM_HOST, "ingress", "cil_to_host"),
        (CILIUM_HOST, "egress", "cil_from_host"),
        (UPLINK, "ingress", "cil_from_netdev"),
        (UPLINK, "egress", "cil_to_netdev"),
        (CILIUM_VXLAN, "ingress", "cil_from_overlay"),
        (CILIUM_VXLAN, "egress", "cil_to_overlay"),
        ("lxc000000000000", "ingress", "cil_from_container"),
        ("lxc000000000001", "ingress", "cil_from_container"),
    ]


def test_native_routing_has_no_overlay_and_host_routing_changes_no_filter() -> None:
    native = make_lab(encapsulation=Encapsulation.NATIVE)
    assert not any("overlay" in one.program for one in attachments(native, "node1"))
    legacy = make_lab(encapsulation=Encapsulation.NATIVE, host_routing=HostRouting.LEGACY)
    assert attachments(native, "node1") == attachments(legacy, "node1")


def test_a_filter_is_named_as_tc_shows_ciliums() -> None:
    assert attachments(make_lab(), "node1")[0].filter_name == "cil_to_host-cilium_net"
