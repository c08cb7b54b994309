"""What hubble and pwru told stands in the packet's path where it happened, and takes no wire from between two taps."""

from __future__ import annotations

import json

from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.signature import Role
from labctl.model.trace import Carriage, Movement, PacketKey, PacketPath, TapDirection, TraceTap, Way
from labctl.path.assemble import join, names_of
from labctl.path.sighting import Envelope, Sighting
from labctl.providers.cilium.hubble_pwru import Flow, LabNamespace, movements_of, parse_hubble, parse_pwru
from labctl.testing.labs import CLIENT, SERVER, example_devices, example_lab

from .cilium_exchange import exchange, sections
from .cilium_recordings import recorded

IN, OUT = TapDirection.IN, TapDirection.OUT
LAB = example_lab()
A, B = LAB.pod(CLIENT), LAB.pod(SERVER)
KEY = PacketKey(src=str(A.address), dst=str(B.address), protocol="tcp", first=41600, second=80)
OUTER = PacketKey(src="172.30.0.3", dst="172.30.0.4", protocol="udp", first=43593, second=8472)
PODS = {str(pod.address): (pod.node, pod.lxc) for pod in LAB.pods}


def tap(name: str, role: Role, kind: str, node: str) -> TraceTap:
    part, _, device = name.rpartition(":")
    return TraceTap(name=name, role=role, part=part, part_kind=kind, node=node, device=device)


WAY = (
    (tap("client:eth0", Role.CLIENT_ETH0, "pod", "node1"), OUT, False),
    (tap(f"node1:{A.lxc}", Role.CLIENT_LXC, "node", "node1"), IN, False),
    (tap("node1:cilium_vxlan", Role.CLIENT_CILIUM_VXLAN, "node", "node1"), OUT, False),
    (tap("node1:eth0", Role.CLIENT_UPLINK, "node", "node1"), OUT, True),
    (tap("node2:eth0", Role.SERVER_UPLINK, "node", "node2"), IN, True),
    (tap("node2:cilium_vxlan", Role.SERVER_CILIUM_VXLAN, "node", "node2"), IN, False),
    (tap(f"node2:{B.lxc}", Role.SERVER_LXC, "node", "node2"), OUT, False),
    (tap("server:eth0", Role.SERVER_ETH0, "pod", "node2"), IN, False),
)
TAPS = tuple(one for one, _, _ in WAY)
ENVELOPE = Envelope(
    src=OUTER.src, dst=OUTER.dst, src_port=OUTER.first, dst_port=OUTER.second, ttl=64, vni=A.identity,
    src_mac=LAB.node("node1").mac, dst_mac=LAB.node("node2").mac, ip_id=0,
)  # fmt: skip


def path_with(movements: tuple[Movement, ...]) -> PacketPath:
    sightings = [
        Sighting(
            tap=one.name, role=one.role, time_ns=1000 * number, direction=direction, way=Way.REQUEST, number=1,
            src=KEY.src, dst=KEY.dst, ttl=64, src_mac=A.mac, dst_mac=A.lxc_mac,
            envelope=ENVELOPE if is_wrapped else None, key=KEY, what="TCP SYN",
        )
        for number, (one, direction, is_wrapped) in enumerate(WAY, start=1)
    ]  # fmt: skip
    names = names_of(LAB, LAB.pairs[0], TAPS, [(device.role, device.mac) for device in example_devices(LAB)])
    path, *_ = join(TAPS, sightings, movements, names, sent=1, ends=("client:eth0", "server:eth0"))
    return path


def flow(point: str, interface: str = "") -> Flow:
    """A documented flow of this connection, at another point."""
    line = json.loads(recorded("encoded/hubble-jsonpb.1.16.0.txt").splitlines()[1])
    line["flow"] |= {"trace_observation_point": point, "interface": {"name": interface}}
    (told,) = parse_hubble(json.dumps(line))
    return told


AT_CLIENT = (flow("FROM_ENDPOINT"), flow("TO_STACK"), flow("TO_OVERLAY", "cilium_vxlan"))
AT_SERVER = (flow("FROM_OVERLAY", "cilium_vxlan"), flow("TO_STACK"), flow("TO_ENDPOINT", B.lxc))
HUBBLE = (*movements_of("node1", AT_CLIENT, PODS, {}), *movements_of("node2", AT_SERVER, PODS, {}))


def heard_before(path: PacketPath) -> dict[str, list[str]]:
    return {hop.tap: [one.helper for one in hop.moved_by] for hop in path.hops if hop.moved_by}


def test_hubbles_flows_stand_between_the_taps_where_they_happened() -> None:
    assert heard_before(path_with(HUBBLE)) == {
        "node1:cilium_vxlan": ["from-endpoint forwarded", "to-stack forwarded", "to-overlay forwarded"],
        f"node2:{B.lxc}": ["from-overlay forwarded", "to-stack forwarded", "to-endpoint forwarded"],
    }


def test_what_is_heard_takes_no_wire_from_between_two_taps() -> None:
    wires = [hop.tap for hop in path_with(()).hops if hop.carriage is Carriage.WIRE]
    assert wires == [f"node1:{A.lxc}", "node2:eth0", "server:eth0"]
    assert [hop.tap for hop in path_with(HUBBLE).hops if hop.carriage is Carriage.WIRE] == wires


def test_a_witness_moves_nothing_itself() -> None:
    before, after = path_with(()), path_with(HUBBLE)
    assert [hop.carriage for hop in after.hops] == [hop.carriage for hop in before.hops]
    (hop,) = [hop for hop in after.hops if hop.tap == "node1:cilium_vxlan"]
    assert hop.because.startswith(f"hubble on {A.lxc} ingress: from-endpoint forwarded")


def test_pwrus_events_stand_by_their_time() -> None:
    place = LabNamespace(name="node1", boot="b", netns=4026532575, links={12: A.lxc})
    events = parse_pwru(recorded("documented/pwru-json.txt"), (place,), clock_ns=2_100 - 5_000_000_000)
    assert heard_before(path_with(events)) == {"node1:cilium_vxlan": ["ip_rcv", "ip_forward"]}


def test_hubbles_echoes_are_put_to_packets_by_their_turn_beside_monitors() -> None:
    """Hubble tells no echo's number; each of its events came once for each of the three echoes."""
    cell = (HostRouting.BPF, Encapsulation.VXLAN, Placement.CROSS_NODE)
    three = exchange(*cell, fixture="encoded/{cell}.monitor-json.1.16.0.txt", echoes=3)
    pods = {str(pod.address): (pod.node, pod.lxc) for pod in three.lab.pods}
    flows = sections(recorded("encoded/bpf-vxlan.hubble-jsonpb.1.16.0.txt"))
    told = [m for node, text in flows.items() for m in movements_of(node, parse_hubble(text), pods, {})]
    paths = three.paths((*told, *three.movements()))
    for path in paths:
        server = "server" if path.way is Way.REQUEST else "client"
        assert [(hop.role, [(m.what, m.helper) for m in hop.moved_by]) for hop in path.hops if hop.moved_by] == [
            (
                f"{'client' if path.way is Way.REQUEST else 'server'}-node-cilium_vxlan",
                [
                    ("hubble", "from-endpoint forwarded"), ("hubble", "to-overlay forwarded"),
                    ("hubble", "to-overlay forwarded"), ("cil_from_container", "to-overlay"),
                    ("cil_to_overlay", "seen"),
                ],
            ),
            (
                f"{server}-eth0",
                [
                    ("hubble", "from-overlay forwarded"), ("hubble", "to-endpoint forwarded"),
                    ("cil_from_overlay", "to-endpoint"),
                ],
            ),
        ]  # fmt: skip
        assert [hop.carriage for hop in path.hops] == [hop.carriage for hop in three.paths()[0].hops]
    assert len(paths) == 6
