"""What pods and nodes say of their devices, by a real cluster's words, and which CNI that is."""

from __future__ import annotations

import pytest

from cluster_world import FIXTURES
from labctl.errors import MeasureFailed
from labctl.providers.cilium.node_facts import (
    NodeDevice,
    NodeFacts,
    PodDevice,
    cni_of,
    parse_addresses,
    parse_devices,
    parse_pod_device,
    parse_routes,
    uplink_of,
)

LINKS = (FIXTURES / "node-links.json").read_text()
ADDRESSES = (FIXTURES / "node-addresses.json").read_text()
ROUTES = (FIXTURES / "node-routes.json").read_text()


def device(name: str, kind: str = "", master: str = "", index: int = 9) -> NodeDevice:
    return NodeDevice(name=name, index=index, mac="02:00:00:00:00:01", kind=kind, master=master)


def test_the_hosts_end_of_a_recorded_pod_is_a_port_of_the_bridge() -> None:
    pod = parse_pod_device((FIXTURES / "pod-device.txt").read_text())
    assert pod == PodDevice(mac="f6:06:03:9e:ec:88", peer=20, index=2, gateway="10.244.0.1")
    devices = parse_devices(LINKS)
    facts = NodeFacts(devices=devices, addresses={}, routes=(), uplink="eth0", kube_proxy_rules=0)
    end = facts.peer_of(pod)
    assert end is not None
    assert (end.kind, end.master) == ("veth", "cni0")
    assert devices["cni0"].kind == "bridge"
    assert facts.tunnel is None
    assert cni_of(devices.values(), [end]) == "bridge cni0"


def test_the_uplink_is_the_device_with_the_nodes_address() -> None:
    addresses = parse_addresses(ADDRESSES)
    assert uplink_of(addresses, "10.203.0.11") == "eth0"
    assert uplink_of(addresses, "192.0.2.1") == ""
    assert uplink_of(addresses, "") == ""


def test_routes_say_which_node_has_which_range() -> None:
    routes = parse_routes(ROUTES)
    assert ("10.244.1.0/24", "10.203.0.12", "eth0") in routes
    assert ("10.244.0.0/24", "", "cni0") in routes


def test_a_pod_without_a_veth_pair_has_no_end_on_its_node() -> None:
    facts = NodeFacts(devices=parse_devices(LINKS), addresses={}, routes=(), uplink="", kube_proxy_rules=0)
    on_uplink = next(one.index for one in facts.devices.values() if one.name == "lo")
    pod = PodDevice(mac="02:00:00:00:00:09", peer=on_uplink, index=2, gateway="")
    assert facts.peer_of(pod) is None
    assert cni_of(facts.devices.values(), [None]) == "a CNI without veth pairs"


@pytest.mark.parametrize(
    ("names", "cni"),
    [
        (("cilium_host", "cilium_net", "lxc1234567890ab"), "cilium"),
        (("cali0123456789a", "vxlan.calico"), "calico"),
        (("cni0", "flannel.1"), "flannel"),
        (("antrea-gw0",), "antrea"),
        (("weave",), "weave"),
        (("eni0123456789a",), "aws-vpc"),
    ],
)
def test_a_cni_is_known_by_the_names_of_its_devices(names: tuple[str, ...], cni: str) -> None:
    assert cni_of([device(name) for name in names], [device("veth1", "veth")]) == cni


def test_routed_veth_pairs_without_a_known_name_are_called_what_they_are() -> None:
    assert cni_of([device("eth0")], [device("veth1", "veth")]) == "routed veth pairs"


def test_the_kernels_own_fallback_tunnels_are_no_tunnel_of_the_cni() -> None:
    devices = {one.name: one for one in (device("tunl0", "ipip"), device("flannel.1", "vxlan"))}
    facts = NodeFacts(devices=devices, addresses={}, routes=(), uplink="", kube_proxy_rules=0)
    assert facts.tunnel is not None
    assert facts.tunnel.name == "flannel.1"


@pytest.mark.parametrize("text", ["", "sh: ip: not found", "zz 3 2\n", "02:00:00:00:00:01 three 2\n"])
def test_a_pods_device_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(MeasureFailed):
        parse_pod_device(text)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_a_list_of_another_form_is_an_error(text: str) -> None:
    for parse in (parse_devices, parse_addresses, parse_routes):
        if text == "{}":
            assert not parse(text)
            continue
        with pytest.raises(MeasureFailed):
            parse(text)


def test_a_device_whose_name_could_be_an_option_is_left_out() -> None:
    assert parse_devices('[{"ifname": "-i", "ifindex": 3}, {"ifname": "a b", "ifindex": 4}]') == {}
