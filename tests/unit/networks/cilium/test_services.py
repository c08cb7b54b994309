"""What the maps of a node hold for Services, the lists made from them, and what the taps must show."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from services.service_labs import lab_with_services

from labctl.datapath.layout import ConfigFlag
from labctl.datapath.service_maps import BackendFlag, ServiceFlag, ServiceScope, unpack_backend, unpack_service
from labctl.model.lab import Encapsulation, HostRouting, Lab, Outside, Pair, Placement
from labctl.model.signature import BACKEND, Role
from labctl.networks.cilium.contents import config_of, map_contents
from labctl.networks.cilium.network import CiliumNetwork
from labctl.networks.cilium.service_lists import service_lists
from labctl.networks.cilium.services import cgroup_for
from labctl.providers.netns.kinds.cgroup import CgroupAdd, CgroupDelete, SocketAttach
from labctl.providers.netns.kinds.program import DatapathLoad, DeviceEntry
from labctl.providers.netns.plan import plan
from labctl.testing.labs import RECORDED


def make_lab(**datapath: Any) -> Lab:
    asked = {"host_routing": HostRouting.BPF, "masquerade": "bpf", "kube_proxy_replacement": True, **datapath}
    return lab_with_services(**asked)


def slots(lab: Lab, node: str) -> dict[tuple[str, int, int, ServiceScope], list[str]]:
    """By address, port, protocol and scope: the backends in their order, `count` of slot 0 held against them."""
    contents = map_contents(lab, node)
    backends = {one.id: one for one in (unpack_backend(*entry) for entry in contents["backends"])}
    found: dict[tuple[str, int, int, ServiceScope], list[str]] = {}
    counts: dict[tuple[str, int, int, ServiceScope], int] = {}
    for slot in sorted((unpack_service(*entry) for entry in contents["services"]), key=lambda slot: slot.slot):
        place = (str(slot.address), slot.port, slot.protocol, slot.scope)
        if slot.slot == 0:
            counts[place], found[place] = slot.count, []
        else:
            one = backends[slot.backend]
            assert one.protocol == slot.protocol
            found[place].append(f"{one.address}:{one.port}")
    assert {place: len(of) for place, of in found.items()} == counts
    return found


EXTERNAL, INTERNAL = ServiceScope
NEIGHBOUR, SERVER = "10.244.0.3:5205", "10.244.1.2:5205"


def test_a_node_port_is_at_the_nodes_own_address_and_at_any_nodes() -> None:
    of_node1 = slots(make_lab(), "node1")
    for place in (("10.96.0.11", 80), ("172.30.0.2", 30205), ("0.0.0.0", 30205)):
        assert of_node1[*place, 6, EXTERNAL] == [NEIGHBOUR, SERVER]
    assert ("172.30.0.3", 30205, 6, EXTERNAL) not in of_node1
    assert slots(make_lab(), "node2")["172.30.0.3", 30205, 6, EXTERNAL] == [NEIGHBOUR, SERVER]


def test_policy_local_gives_the_outside_a_nodes_own_backends_and_the_inside_all() -> None:
    here, there = slots(make_lab(), "node1"), slots(make_lab(), "node2")
    assert here["172.30.0.2", 30215, 6, EXTERNAL] == []
    assert here["172.30.0.2", 30215, 6, INTERNAL] == [SERVER]
    assert there["172.30.0.3", 30215, 6, EXTERNAL] == [SERVER]
    assert ("10.96.0.12", 80, 6, INTERNAL) not in here  # at its cluster address it has one list


def test_a_service_without_backends_is_there_and_udp_is_apart_from_tcp() -> None:
    of_node = slots(make_lab(), "node1")
    assert of_node["10.96.0.14", 80, 6, EXTERNAL] == []
    assert of_node["10.96.0.13", 80, 17, EXTERNAL] == [NEIGHBOUR, SERVER]


def test_pods_are_watched_backends_and_fillers_are_not() -> None:
    contents = map_contents(make_lab(extra_services=3), "node1")
    flags = {str(one.address): one.flags for one in (unpack_backend(*entry) for entry in contents["backends"])}
    assert flags["10.244.1.2"] is BackendFlag.WATCHED
    assert [flags[f"198.19.0.{number}"] for number in range(3)] == [BackendFlag(0)] * 3
    ids = [
        slot.id
        for slot in (unpack_service(*entry) for entry in contents["services"])
        if not slot.slot and not slot.scope
    ]
    assert sorted(ids) == list(range(1, len(ids) + 1))


@pytest.mark.parametrize(("socket_lb", "flag"), [(True, ConfigFlag(0)), (False, ConfigFlag.PACKET_LB)])
def test_pods_packets_are_translated_where_their_sockets_are_not(socket_lb: bool, flag: ConfigFlag) -> None:
    lab = make_lab(socket_lb=socket_lb)
    flags = config_of(lab, "node1").flags
    assert flags & (ConfigFlag.PACKET_LB | ConfigFlag.NODEPORT) == flag | ConfigFlag.NODEPORT
    assert cgroup_for(lab, "client") == ("labctl.demo/node1/pods" if socket_lb else None)
    assert cgroup_for(lab, "node2") == "labctl.demo/node2/node"
    assert cgroup_for(lab, "underlay") is None
    attached = [act for step in plan(lab).steps for act in step.actions if isinstance(act, SocketAttach)]
    assert sum(act.cgroup.endswith("/pods") for act in attached) == (15 if socket_lb else 0)
    assert sum(act.cgroup.endswith("/node") for act in attached) == 15


def test_a_plan_makes_cgroups_with_their_undo_and_tells_every_node_of_every_backends_device() -> None:
    lab = make_lab()
    steps = plan(lab).steps
    acts = [act for step in steps for act in step.actions]
    assert sum(isinstance(act, CgroupAdd) for act in acts) == 6
    assert any(isinstance(act, CgroupDelete) and act.cgroup == "labctl.demo" for step in steps for act in step.undo)
    told = {(act.holder, act.key) for act in acts if isinstance(act, DeviceEntry)}
    pods = {lab.pod(name).address.packed for name in ("neighbour", "server")}
    assert told == {(f"labctl.demo.{node.name}", pod) for node in lab.nodes for pod in pods}
    assert {act.object.name for act in acts if isinstance(act, DatapathLoad)} == {"bpf-vxlan-lb.o"}


def test_a_lab_without_services_has_neither_their_programs_nor_a_cgroup() -> None:
    lab = replace(make_lab(), services=())
    acts = [act for step in plan(lab).steps for act in step.actions]
    assert not any(isinstance(act, (CgroupAdd, SocketAttach, DeviceEntry)) for act in acts)
    assert {act.object.name for act in acts if isinstance(act, DatapathLoad)} == {"bpf-vxlan.o"}
    assert set(map_contents(lab, "node1")) == {"config", "endpoints", "ipcache", "tunnel"}


def test_the_lists_are_those_of_cilium() -> None:
    lab = make_lab()
    contents = map_contents(lab, "node1")
    entries = {name: [(key, (value,)) for key, value in contents[name]] for name in ("services", "backends")}
    entries["alive"] = [(lab.pod("server").address.packed, (bytes(4),))]
    made = service_lists(lab, "node1", entries, "bpftool map dump id 7")
    web = made.frontends[0]
    assert (web.id, web.service, web.frontend, web.type) == (1, "web", "10.96.0.11:80", "ClusterIP")
    assert [(one.number, one.address, one.pod, one.active) for one in web.backends] == [
        (1, NEIGHBOUR, "neighbour", False),
        (2, SERVER, "server", True),
    ]
    lines = {(line.service, line.backend) for line in made.entries}
    assert ("10.96.0.11:80 (0)", "0.0.0.0:0 (1) (0) [ClusterIP, non-routable]") in lines
    assert ("10.96.0.11:80 (2)", f"{SERVER} (1) (2)") in lines
    (local,) = (one for one in made.frontends if one.frontend == "172.30.0.2:30215" and one.scope == "internal")
    head = f"0.0.0.0:0 ({local.id}) (0) [NodePort, Local, two-scopes]"
    assert ("172.30.0.2:30215/i (0)", head) in lines
    assert service_lists(lab, "node1", {}, "").frontends == ()


WORLD = Outside(name="world", address=IPv4Address("172.30.0.200"), mac="02:00:00:00:00:aa")


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_inside_the_cluster_the_taps_show_what_they_show_of_the_backend_itself(
    host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    lab = make_lab(host_routing=host_routing, encapsulation=encapsulation)
    network, one = CiliumNetwork(), Pair(client="client", server="local", placement=Placement.CROSS_NODE)
    direct = Pair(client="client", server="server", placement=Placement.CROSS_NODE)
    asked, straight = (network.expected(lab, pair, packets=2) for pair in (one, direct))
    for sight, wanted in zip(asked.signature.taps, straight.signature.taps, strict=True):
        assert (sight.role, sight.request, sight.reply) == (wanted.role, wanted.request, wanted.reply)


@pytest.mark.parametrize(
    ("host_routing", "encapsulation", "at_client", "in_pod", "lxc"),
    [
        # recorded: docs of the real cluster, by the TTL of the reply at the client and of the request in the pod
        (HostRouting.BPF, Encapsulation.VXLAN, 63, 62, False),
        (HostRouting.BPF, Encapsulation.NATIVE, 62, 62, False),
        (HostRouting.LEGACY, Encapsulation.VXLAN, 63, 62, True),
        (HostRouting.LEGACY, Encapsulation.NATIVE, 61, 61, True),
    ],
)
def test_a_node_port_shows_what_was_recorded(
    host_routing: HostRouting, encapsulation: Encapsulation, at_client: int, in_pod: int, lxc: bool
) -> None:
    lab = replace(make_lab(host_routing=host_routing, encapsulation=encapsulation), outside=(WORLD,))
    pair = Pair(client="world", server="local", placement=Placement.OUTSIDE, via="node1")
    taps = {tap.role: tap for tap in CiliumNetwork().expected(lab, pair, packets=1).signature.taps}
    back, into = taps[Role.CLIENT_ETH0].reply, taps[Role.SERVER_ETH0].request
    assert back is not None
    assert into is not None
    assert (back.ttl, into.ttl, into.dst) == (at_client, in_pod, BACKEND)
    assert (taps[Role.SERVER_LXC].request is not None) is lxc
    assert taps[Role.CLIENT_CILIUM_HOST].request is None
    if encapsulation is Encapsulation.VXLAN:
        request = taps[Role.SERVER_UPLINK].request
        assert request is not None
        assert request.outer is not None
        assert request.outer.vni == 2


def test_a_service_without_a_backend_has_no_expected_way() -> None:
    with pytest.raises(KeyError):
        CiliumNetwork().expected(
            make_lab(), Pair(client="client", server="none", placement=Placement.SAME_NODE), packets=1
        )


def test_flags_say_which_list_it_is() -> None:
    slots_of = [unpack_service(*entry) for entry in map_contents(make_lab(), "node1")["services"]]
    node_ports = {slot.port for slot in slots_of if not slot.slot and ServiceFlag.NODEPORT in slot.flags}
    assert node_ports == {30205, 30215, 30216}
