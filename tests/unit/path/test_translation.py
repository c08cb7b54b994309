"""Who translated a Service, from what the witnesses saw; and what a capture says of each form."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from labctl.model.lab import Lab, Pair, Placement, Service, ServiceProtocol, ServiceType
from labctl.model.signature import Role
from labctl.model.trace import ForwardingAct, Hop, KnownAddress, Movement, Mover, PacketKey, PacketPath, Translator, Way
from labctl.path.service_names import ServiceNames
from labctl.path.sighting import Sighting
from labctl.path.translation import refused_at_socket, translations_of, with_sockets
from labctl.testing.labs import sample_lab
from labctl.testing.packets import enveloped, ethernet, icmp_echo, ipv4, tcp

CLIENT, SERVER, VIP = "10.244.0.2", "10.244.1.2", "10.96.0.11"


def make_lab() -> Lab:
    web = Service(
        name="web",
        address=IPv4Address(VIP),
        port=80,
        target_port=5205,
        protocol=ServiceProtocol.TCP,
        backends=("server",),
        selector={},
        type=ServiceType.NODE_PORT,
        node_port=30205,
    )
    return replace(sample_lab("t"), services=(web,))


PAIR = Pair(client="client", server="web", placement=Placement.CROSS_NODE)


def movement(**more: object) -> Movement:
    usual = {
        "node": "node1",
        "mover": Mover.PROGRAM,
        "what": "cil_sock4_connect",
        "device": "",
        "hook": "connect4",
        "helper": "the Service's address replaced by a backend's",
        "packet": PacketKey("0.0.0.0", SERVER, "tcp", 0, 5205),
        "time_ns": 100,
        "before": f"{VIP}:80",
        "rewrites": True,
    }
    return Movement(**{**usual, **more})  # type: ignore[arg-type]


def sighting(number: int, port: int, time_ns: int, dst: str = SERVER) -> Sighting:
    return Sighting(
        tap="client:eth0",
        role=Role.CLIENT_ETH0,
        time_ns=time_ns,
        direction=None,
        way=Way.REQUEST,
        number=number,
        src=CLIENT,
        dst=dst,
        ttl=64,
        src_mac="",
        dst_mac="",
        key=PacketKey(CLIENT, dst, "tcp", port, 5205, 7),
    )


def hop(*moved_by: Movement, src: str = CLIENT, dst: str = SERVER) -> Hop:
    nobody = KnownAddress(address="")
    return Hop(
        tap="client:eth0",
        role=Role.CLIENT_ETH0,
        node="node1",
        device="eth0",
        direction=None,
        time_ns=1,
        since_previous_ns=None,
        src=src,
        dst=dst,
        src_mac=nobody,
        dst_mac=nobody,
        ttl=64,
        moved_by=moved_by,
    )


def path(*hops: Hop, way: Way = Way.REQUEST, number: int = 1) -> PacketPath:
    return PacketPath(way=way, number=number, what="TCP SYN", hops=hops, skipped=())


def test_what_a_socket_did_belongs_to_the_packet_that_left_next() -> None:
    acts = (movement(time_ns=100), movement(time_ns=300), movement(time_ns=900))
    first, second = sighting(1, 40001, 200), sighting(2, 40002, 400)
    found = with_sockets(acts, (second, first))
    assert [one.packet.first for one in found] == [40001, 40002, 0]
    assert found[0].packet == first.key


def test_a_socket_of_another_connection_is_left_alone() -> None:
    elsewhere = movement(packet=PacketKey("0.0.0.0", "10.244.9.9", "tcp", 0, 5205))
    later = movement(time_ns=500)
    assert with_sockets((elsewhere, later), (sighting(1, 40001, 200),)) == (elsewhere, later)


def test_a_translation_at_the_socket_has_what_was_asked_and_what_became_of_it() -> None:
    act = movement(packet=PacketKey(CLIENT, SERVER, "tcp", 40001, 5205))
    (one,) = translations_of(make_lab(), PAIR, (path(hop(act)),))
    assert (one.by, one.node, one.what, one.backend) == (Translator.SOCKET, "node1", "cil_sock4_connect", "server")
    assert (one.before, one.after) == (f"{VIP}:80", f"{SERVER}:5205")


def test_a_translation_in_the_packet_has_both_tuples_and_so_has_its_answer() -> None:
    there = movement(
        what="cil_from_netdev",
        device="eth0",
        hook="ingress",
        packet=PacketKey("10.244.0.1", SERVER, "tcp", 40001, 5205),
        before="172.30.0.200:40001 → 172.30.0.2:30205",
    )
    back = movement(
        what="cil_from_overlay",
        device="cilium_vxlan",
        hook="ingress",
        packet=PacketKey("172.30.0.2", "172.30.0.200", "tcp", 30205, 40001),
        before=f"{SERVER}:5205 → 10.244.0.1:40001",
    )
    found = translations_of(make_lab(), PAIR, (path(hop(there)), path(hop(back), way=Way.REPLY)))
    assert [(one.way, one.by, one.device, one.backend) for one in found] == [
        (Way.REQUEST, Translator.TC, "eth0", "server"),
        (Way.REPLY, Translator.TC, "cilium_vxlan", "server"),
    ]
    assert found[0].after == f"10.244.0.1:40001 → {SERVER}:5205"
    assert found[1].after == "172.30.0.2:30205 → 172.30.0.200:40001"


def test_netfilter_is_named_where_only_its_hooks_lie_between_two_addresses() -> None:
    hook = movement(mover=Mover.NETFILTER, what="PREROUTING", hook="prerouting", before="", rewrites=False)
    (one,) = translations_of(make_lab(), PAIR, (path(hop(dst=VIP), hop(hook)),))
    assert (one.by, one.what, one.before, one.after) == (
        Translator.NETFILTER,
        "nat",
        f"{CLIENT} → {VIP}",
        f"{CLIENT} → {SERVER}",
    )


def test_packets_to_a_pod_are_no_translations_and_one_packet_stands_for_all() -> None:
    act = movement(packet=PacketKey(CLIENT, SERVER, "tcp", 40001, 5205))
    to_pod = Pair(client="client", server="server", placement=Placement.CROSS_NODE)
    assert translations_of(make_lab(), to_pod, (path(hop(act)),)) == ()
    assert len(translations_of(make_lab(), PAIR, (path(hop(act)), path(hop(act), number=2)))) == 1


def test_a_refusal_at_the_socket_is_a_sentence() -> None:
    refused = movement(helper=ForwardingAct.DROP, reason="the Service has no backend")
    (said,) = refused_at_socket((movement(), refused))
    assert f"connection to {VIP}:80" in said
    assert "EPERM" in said


def frame(src: str, dst: str, source_port: int, port: int) -> bytes:
    return ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", ipv4(src, dst, tcp(source_port, port), protocol=6))


def test_a_packet_is_annotated_with_its_service_before_and_after_it_is_translated() -> None:
    names = ServiceNames(make_lab())
    asked = names.comment(frame(CLIENT, VIP, 40001, 80))
    assert asked == f"to Service web ({VIP}:80), not translated here"
    assert names.comment(frame("172.30.0.200", "172.30.0.3", 40001, 30205)).startswith("to Service web (172.30.0.3:")
    there, back = frame(CLIENT, SERVER, 40001, 5205), frame(SERVER, CLIENT, 5205, 40001)
    assert names.comment(there) == f"to pod server ({SERVER}:5205), behind Service web"
    assert names.comment(back) == f"from pod server ({SERVER}:5205), behind Service web"
    macs = ("02:00:00:00:00:03", "02:00:00:00:00:04")
    tunnelled = enveloped(there, vni=2, src="172.30.0.2", dst="172.30.0.3", src_mac=macs[0], dst_mac=macs[1])
    assert names.comment(tunnelled) == names.comment(there)


def test_what_has_nothing_to_do_with_a_service_has_no_comment() -> None:
    names = ServiceNames(make_lab())
    echo = icmp_echo(is_request=True, identifier=1, sequence=1, payload=b"x")
    other = ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", ipv4(CLIENT, VIP, echo, protocol=1))
    assert [names.comment(one) for one in (b"", other, frame(CLIENT, SERVER, 40001, 22))] == ["", "", ""]
