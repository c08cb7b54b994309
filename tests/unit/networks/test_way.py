"""From one half of a way to the other: what the reply shows, and which MACs go by another device's role."""

from __future__ import annotations

from labctl.model.lab import Encapsulation, Placement
from labctl.model.signature import Role, TapSight
from labctl.networks.flannel import tunnelled
from labctl.networks.way import Row, expected_from, frame


def taps_of(rows: tuple[Row, ...], placement: Placement, **more: object) -> dict[Role, TapSight]:
    made = expected_from(
        rows,
        placement=placement,
        encapsulation=Encapsulation.VXLAN,
        packets=3,
        source="a test",
        **more,  # type: ignore[arg-type]
    )
    return {sight.role: sight for sight in made.signature.taps}


def test_the_reply_shows_what_the_request_shows_at_the_other_end() -> None:
    taps = taps_of(tunnelled(1), Placement.CROSS_NODE)
    request, reply = taps[Role.SERVER_ETH0].request, taps[Role.CLIENT_ETH0].reply
    assert request is not None
    assert reply is not None
    assert (request.ttl, request.src_mac, request.dst_mac) == (62, "server-node-bridge", "server-eth0")
    assert (reply.ttl, reply.src_mac, reply.dst_mac) == (62, "client-node-bridge", "client-eth0")


def test_the_envelope_of_the_reply_comes_from_the_servers_node() -> None:
    seen = taps_of(tunnelled(7), Placement.CROSS_NODE)[Role.CLIENT_UPLINK].reply
    assert seen is not None
    assert seen.outer is not None
    assert (seen.outer.src, seen.outer.vni) == ("server-node", 7)
    assert (seen.outer.src_mac, seen.outer.dst_mac) == ("server-node-uplink", "client-node-uplink")


def test_of_one_node_only_the_pods_devices_change_ends() -> None:
    sent = frame(64, Role.CLIENT_ETH0, Role.SERVER_ETH0)
    rows: tuple[Row, ...] = (
        (Role.CLIENT_ETH0, sent),
        (Role.CLIENT_BRIDGE, sent),
        (Role.CLIENT_UPLINK, None),
        (Role.SERVER_ETH0, sent),
    )
    taps = taps_of(rows, Placement.SAME_NODE)
    at_bridge = taps[Role.CLIENT_BRIDGE].reply
    assert at_bridge is not None
    assert (at_bridge.src_mac, at_bridge.dst_mac) == ("server-eth0", "client-eth0")
    assert taps[Role.CLIENT_UPLINK].reply is None


def test_a_mac_that_two_devices_have_goes_by_the_first_ones_role() -> None:
    rows: tuple[Row, ...] = (
        (Role.CLIENT_ETH0, frame(64, Role.CLIENT_ETH0, Role.CLIENT_VETH)),
        (Role.SERVER_ETH0, frame(63, Role.SERVER_VETH, Role.SERVER_ETH0)),
    )
    taps = taps_of(rows, Placement.CROSS_NODE, equal_macs={Role.SERVER_VETH: Role.CLIENT_VETH})
    arrived = taps[Role.SERVER_ETH0].request
    assert arrived is not None
    assert arrived.src_mac == "client-veth"


def test_every_packet_is_counted_and_pings_ttl_is_that_of_the_reply() -> None:
    made = expected_from(
        tunnelled(1), placement=Placement.CROSS_NODE, encapsulation=Encapsulation.VXLAN, packets=5, source=""
    )
    assert made.host_routing is None
    assert made.signature.ping_ttl == 62
    assert {seen.packets for tap in made.signature.taps for seen in (tap.request, tap.reply) if seen} == {5}
