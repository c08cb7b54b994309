"""Monitor lines of a real cluster as movements of a trace."""

from __future__ import annotations

from cilium_recordings import recorded

from labctl.model.movement import Act, Mover
from labctl.providers.cilium.monitor import parse_monitor
from labctl.providers.cilium.watch import movement_of


def client_side(cell: str) -> list[tuple[str, str, str, str]]:
    lines = parse_monitor(recorded(f"{cell}.monitor-none.extract.txt").split("#####")[2])
    seen = [movement_of("node1", trace) for trace in lines if trace.what == "EchoRequest"]
    return [(m.what, m.helper, m.device, m.target) for m in seen if m.packet.dst.startswith("10.244.1.")]


def test_legacy_with_native_routing_goes_up_the_stack_and_out() -> None:
    assert client_side("legacy-native") == [
        ("cil_from_container", "from-endpoint", "", ""),
        ("cilium", Act.TO_STACK, "", ""),
        ("cilium", "to-network", "", "eth0"),
    ]


def test_vxlan_is_told_twice_once_for_the_tunnel_once_for_its_device() -> None:
    assert client_side("bpf-vxlan") == [
        ("cil_from_container", "from-endpoint", "", ""),
        ("cilium", Act.TUNNEL, "", "cilium_vxlan"),
        ("cilium", Act.TUNNEL, "", "cilium_vxlan"),
    ]


def test_a_movement_carries_identity_ports_and_the_line_itself() -> None:
    line = (
        "-> endpoint 1617 flow 0x67ea74a6 , identity 9764->26328 state reply ifindex lxc3a6f7d4e8c73 orig-ip "
        "10.244.1.9: 10.244.1.9:80 -> 10.244.2.173:41600 tcp SYN, ACK"
    )
    (trace,) = parse_monitor(line)
    movement = movement_of("node2", trace)
    assert (movement.mover, movement.identity, movement.raw) == (Mover.PROGRAM, 9764, line)
    packet = movement.packet
    assert (packet.src, packet.first, packet.dst, packet.second, packet.protocol) == (
        "10.244.1.9", 80, "10.244.2.173", 41600, "tcp",
    )  # fmt: skip
