"""What a pod network says of one lab at several places agrees: its objects, its taps and what those must show."""

from __future__ import annotations

import itertools

import pytest

from labctl.fabrics import fabric_of
from labctl.model.lab import POD_PLACEMENTS, Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.model.signature import Role
from labctl.names import UNDERLAY, namespace_of
from labctl.networks import network_of
from labctl.providers.netns.kinds.base import ObjectKind
from labctl.providers.netns.observed import wanted
from labctl.providers.netns.plan import plan
from labctl.testing.labs import RECORDED, sample_lab

LABS = [
    pytest.param(sample_lab("seam", host_routing=mode, encapsulation=carried), id=f"{mode}-{carried}")
    for mode, carried in itertools.product(HostRouting, RECORDED)
]
each_lab = pytest.mark.parametrize("lab", LABS)
each_placement = pytest.mark.parametrize("placement", POD_PLACEMENTS)


def pair_of(lab: Lab, placement: Placement) -> Pair:
    return next(pair for pair in lab.pairs if pair.placement is placement)


@each_placement
@each_lab
def test_every_tap_of_a_pair_has_its_expectation_in_the_order_of_the_way(lab: Lab, placement: Placement) -> None:
    network, pair = network_of(lab), pair_of(lab, placement)
    at_client, at_server = network.taps(lab, pair)
    expected = network.expected(lab, pair, packets=3).signature
    assert [role for role, _, _ in (*at_client, *at_server)] == [sight.role for sight in expected.taps]
    assert expected.placement == placement


@each_placement
@each_lab
def test_every_tap_is_on_a_device_that_the_plan_makes(lab: Lab, placement: Placement) -> None:
    pair = pair_of(lab, placement)
    at_client, at_server = network_of(lab).taps(lab, pair)
    between = fabric_of(lab).taps(lab, pair)
    made = {
        (thing.namespace, thing.name)
        for thing in wanted(action for step in plan(lab).steps for action in step.actions)
        if thing.kind is ObjectKind.DEVICE
    }
    taps = (*at_client, *between, *at_server)
    assert {(namespace_of(lab.name, part), f"device {device}") for _, part, device in taps} <= made
    ports = [Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT] if placement is Placement.CROSS_NODE else []
    assert [role for role, _, _ in between] == ports
    assert {part for _, part, _ in between} <= {UNDERLAY}


@each_lab
def test_the_mtu_of_pods_is_on_every_route_that_leaves_their_node_in_an_envelope(lab: Lab) -> None:
    mtu = network_of(lab).mtu(lab)
    routes = [
        thing.name
        for thing in wanted(action for step in plan(lab).steps for action in step.actions)
        if thing.kind is ObjectKind.ROUTE
    ]
    assert {name.endswith(f" mtu {mtu}") for name in routes if "default via" in name} == {True}
    assert mtu == lab.network.mtu - (50 if lab.datapath.encapsulation is Encapsulation.VXLAN else 0)
