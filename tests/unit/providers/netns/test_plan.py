from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from labctl.errors import UsageError
from labctl.model.lab import Encapsulation, Fault, HostRouting, Lab
from labctl.model.plan import Action, Plan
from labctl.networks.needs import GENEVE, VXLAN, needs
from labctl.planning.show import as_record, as_script
from labctl.providers.netns.kinds.link import GeneveAdd, LinkUp, VethAdd, VxlanAdd
from labctl.providers.netns.kinds.namespace import NamespaceAdd, Sysctls
from labctl.providers.netns.kinds.program import DatapathLoad, FilterAttach, MapsFill
from labctl.providers.netns.kinds.routing import NeighbourAdd, RouteAdd
from labctl.providers.netns.plan import plan
from labctl.providers.netns.record import parts_of
from labctl.testing.labs import RECORDED, sample_lab


def actions_of(made: Plan) -> list[Action]:
    return [action for step in made.steps for action in step.actions]


def routes_in(lab: Lab, part: str) -> list[str]:
    prefix = f"ip -n labctl.{lab.name}.{part} route add "
    return [
        action.shell().removeprefix(prefix)
        for action in actions_of(plan(lab))
        if isinstance(action, RouteAdd) and action.namespace == f"labctl.{lab.name}.{part}"
    ]


def test_the_steps_tell_the_story_in_order() -> None:
    lab = sample_lab("story")
    assert [step.id for step in plan(lab).steps] == [
        "underlay",
        "node-node1",
        "node-node2",
        "node-node3",
        "netfilter",
        "datapath-node1",
        "datapath-node2",
        "datapath-node3",
        "pod-client",
        "pod-neighbour",
        "pod-server",
        "record",
    ]


def test_the_same_lab_gives_the_same_plan() -> None:
    assert plan(sample_lab("same")) == plan(sample_lab("same"))


def test_routes_of_a_node_with_vxlan_are_those_of_a_real_one() -> None:
    assert routes_in(sample_lab("routes"), "node1") == [
        "10.244.0.1/32 dev cilium_host scope link",
        "10.244.0.0/24 via 10.244.0.1 dev cilium_host src 10.244.0.1",
        "10.244.1.0/24 via 10.244.0.1 dev cilium_host src 10.244.0.1 mtu 1450",
        "10.244.2.0/24 via 10.244.0.1 dev cilium_host src 10.244.0.1 mtu 1450",
    ]


def test_routes_of_a_node_with_native_routing_are_those_of_a_real_one() -> None:
    assert routes_in(sample_lab("routes", encapsulation=Encapsulation.NATIVE), "node1") == [
        "10.244.0.1/32 dev cilium_host scope link",
        "10.244.0.0/24 via 10.244.0.1 dev cilium_host src 10.244.0.1",
        "10.244.1.0/24 via 172.30.0.3 dev eth0",
        "10.244.2.0/24 via 172.30.0.4 dev eth0",
    ]


@pytest.mark.parametrize(("encapsulation", "mtu"), [(Encapsulation.VXLAN, 1450), (Encapsulation.NATIVE, 1500)])
def test_routes_of_a_pod_go_through_its_nodes_router(encapsulation: Encapsulation, mtu: int) -> None:
    assert routes_in(sample_lab("routes", encapsulation=encapsulation), "server") == [
        "10.244.1.1/32 dev eth0 scope link",
        f"default via 10.244.1.1 dev eth0 mtu {mtu}",
    ]


def test_there_is_a_vxlan_device_only_with_vxlan() -> None:
    with_vxlan, native = (plan(sample_lab("v", encapsulation=one)) for one in RECORDED)
    assert sum(isinstance(action, VxlanAdd) for action in actions_of(with_vxlan)) == 3
    assert not any(isinstance(action, VxlanAdd) for action in actions_of(native))


def test_with_geneve_the_programs_of_tunnels_are_on_a_geneve_device() -> None:
    lab = sample_lab("g", encapsulation=Encapsulation.GENEVE)
    made = actions_of(plan(lab))
    devices = [action for action in made if isinstance(action, GeneveAdd)]
    assert [(one.device.name, one.port) for one in devices] == [("cilium_geneve", 6081)] * 3
    assert devices[0].shell().endswith("up type geneve external dstport 6081")
    assert not any(isinstance(action, VxlanAdd) for action in made)
    attached = [action for action in made if isinstance(action, FilterAttach) and action.device == "cilium_geneve"]
    assert {action.program for action in attached} == {"cil_from_overlay", "cil_to_overlay"}
    assert {action.object.name for action in made if isinstance(action, DatapathLoad)} == {"bpf-vxlan.o"}
    assert lab.network.route_mtu == 1450
    assert GENEVE in needs(lab)
    assert VXLAN not in needs(lab)


def test_every_namespace_carries_the_mark_from_its_first_moment() -> None:
    lab = sample_lab("marks")
    made = [action for action in actions_of(plan(lab)) if isinstance(action, NamespaceAdd)]
    assert sorted(action.namespace for action in made) == sorted(parts_of(lab))
    assert all(action.alias.startswith("labctl ") for action in made)


def test_no_action_is_in_the_hosts_own_namespace() -> None:
    lab = sample_lab("inside")
    namespaces = {getattr(action, "namespace", None) for action in actions_of(plan(lab))} - {None}
    assert namespaces == set(parts_of(lab))


def test_both_ends_of_every_link_are_in_the_lab() -> None:
    lab = sample_lab("ends")
    for action in actions_of(plan(lab)):
        if isinstance(action, VethAdd):
            assert action.peer_namespace is None or action.peer_namespace in parts_of(lab)


def test_every_step_that_makes_a_namespace_undoes_it() -> None:
    for step in plan(sample_lab("undo")).steps:
        made = [action.namespace for action in step.actions if isinstance(action, NamespaceAdd)]
        assert [action.shell() for action in step.undo if "netns" in action.shell()] == [
            f"ip netns delete {name}" for name in made
        ]


def test_a_pods_programs_are_attached_before_the_pod_can_send() -> None:
    for step in plan(sample_lab("order")).steps:
        if step.id.startswith("pod-"):
            kinds = [type(action) for action in step.actions]
            assert kinds.index(FilterAttach) < kinds.index(LinkUp)


def test_each_node_has_maps_of_its_own() -> None:
    lab = sample_lab("maps")
    filled = [(action.namespace, action.map) for action in actions_of(plan(lab)) if isinstance(action, MapsFill)]
    assert len(set(filled)) == len(filled)
    assert {namespace for namespace, _ in filled} == {f"labctl.maps.{node.name}" for node in lab.nodes}


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_the_object_that_is_loaded_is_that_of_the_mode(host_routing: HostRouting, encapsulation: Encapsulation) -> None:
    lab = sample_lab("object", host_routing=host_routing, encapsulation=encapsulation)
    loads = [action for action in actions_of(plan(lab)) if isinstance(action, DatapathLoad)]
    assert {action.object.name for action in loads} == {f"{host_routing}-{encapsulation}.o"}
    assert all(action.object.is_file() for action in loads)


def test_the_missing_neighbour_fault_is_in_the_neighbours_and_nowhere_else() -> None:
    sound, faulty = sample_lab("n"), sample_lab("n", faults=(Fault.MISSING_NEIGHBOUR,))
    faulty = replace(faulty, digest=sound.digest)
    differing = [
        (before, after)
        for before, after in zip(actions_of(plan(sound)), actions_of(plan(faulty)), strict=True)
        if before != after and not type(before).__name__.startswith("Record")
    ]
    assert differing
    assert all(isinstance(after, NeighbourAdd) for _, after in differing)


def test_two_parts_of_one_name_are_refused() -> None:
    lab = sample_lab("twice", pods=(("node1", "node1"), ("other", "node2")))
    with pytest.raises(UsageError) as refused:
        plan(lab)
    assert refused.value.what == "the name node1 is used twice in lab twice"


def test_every_action_can_be_recorded_and_typed() -> None:
    made = plan(sample_lab("said"))
    assert json.loads(json.dumps(as_record(made)))["steps"]
    for action in actions_of(made):
        assert action.record()["kind"] == type(action).__name__
        assert action.shell()


def test_the_script_is_posix_shell(tmp_path: object) -> None:
    script = as_script(plan(replace(sample_lab("posix"), scenario="it's $(odd); `name`\nx")))
    checked = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert checked.stderr == ""


def test_a_setting_that_a_kernel_may_lack_is_passed_over_in_the_script_too() -> None:
    setting = Sysctls(namespace="labctl.x.y", settings=(("net.bridge.z", "0"),), if_there=True)
    assert setting.shell() == "nsenter --net=/run/netns/labctl.x.y sysctl -eqw net.bridge.z=0"


def test_a_plan_of_a_thousand_pods_is_made_in_no_more_than_linear_time() -> None:
    def actions_for(pods: int) -> int:
        names = tuple((f"p{number}", f"node{number % 10 + 1}") for number in range(pods))
        return len(actions_of(plan(sample_lab("many", nodes=10, pods=names))))

    assert actions_for(1000) - actions_for(100) == 900 * (actions_for(101) - actions_for(100))


def test_devices_have_the_same_macs_in_equal_labs_of_different_names() -> None:
    def made(name: str) -> set[str]:
        return {action.device.mac for action in actions_of(plan(sample_lab(name))) if isinstance(action, VethAdd)}

    assert made("one") == made("two")


def test_a_route_reads_as_ip_wants_it() -> None:
    route = RouteAdd(
        namespace="n", device="eth0", index=2, destination=IPv4Network("0.0.0.0/0"), gateway=IPv4Address("10.0.0.1")
    )
    assert route.shell() == "ip -n n route add default via 10.0.0.1 dev eth0"
