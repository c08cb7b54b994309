"""Monitor's lines of one node as movements: which program speaks, at which device, and in which order it did. Pure.

A line names a point, not a program and seldom a device. The program of a pod's device says the endpoint that it belongs
to, those of other devices have none; a packet is where it was last told to come in. By which redirect a program gave a
packet away is never said, so that it stands in no movement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from labctl.model.movement import Act, Movement, Mover, PacketKey
from labctl.providers.cilium.monitor import Trace

_OVERLAY, _HOST = "cilium_vxlan", "cilium_host"
_HANDS_ON = {
    "to-stack": Act.TO_STACK,
    "to-overlay": Act.TO_OVERLAY,
    "to-network": Act.TO_NETWORK,
    "to-endpoint": Act.TO_ENDPOINT,
    "drop": Act.DROP,
}
_ORDER = (
    ("from-endpoint", "from-network"), ("from-overlay",), ("to-stack",), ("from-host", "from-stack"), ("to-overlay",),
    ("to-network",), ("to-endpoint",), ("drop",),
)  # fmt: skip
_RANKS = {point: rank for rank, points in enumerate(_ORDER) for point in points}
"""One packet passes these points of a node in this order, in either direction. Monitor reads one buffer per CPU, so
that the lines of a packet which changed CPU need not come in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """A node's devices as its agent names them: the lxc of each endpoint, and the uplink."""

    lxcs: Mapping[int, str] = field(default_factory=dict)
    uplink: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    what: str
    device: str
    hook: str


def movements_of(node: str, traces: Iterable[Trace], devices: Devices) -> tuple[Movement, ...]:
    """The lines as movements, those of one packet in the order of their points. Two lines of one program about one
    packet, that it came in and what became of it, are one movement. What a line does not say stays empty."""
    packets: dict[PacketKey, list[Trace]] = defaultdict(list)
    for trace in traces:
        packets[_key(trace)].append(trace)
    found: list[Movement] = []
    for key, lines in packets.items():
        # Only where each line is of one passage: without its own numbers, one key stands for many packets.
        ordered = sorted(lines, key=_rank) if _is_told_apart(key) else lines
        here: _Place | None = None
        for trace in ordered:
            movement, here = _movement(node, trace, key, devices, here)
            before = found[-1] if trace is not ordered[0] else None
            if before is not None and before.helper == Act.SEEN and _place(before) == _place(movement):
                found[-1] = replace(movement, raw=f"{before.raw}\n{movement.raw}")
            else:
                found.append(movement)
    return tuple(found)


def _movement(
    node: str, trace: Trace, key: PacketKey, devices: Devices, here: _Place | None
) -> tuple[Movement, _Place | None]:
    at = _comes_in(trace, devices)
    own = at or _own_of_device(trace, devices)
    target = "" if at or trace.interface == "0" else trace.interface
    if own is None and here is None and trace.teller in devices.lxcs and trace.point != "to-endpoint":
        here = _Place(what="cil_from_container", device=devices.lxcs[trace.teller or 0], hook="ingress")
    place = own or here or _Place(what="cilium", device="", hook="egress" if target else "")
    if own is not None:
        target = ""
    elif trace.point == "to-endpoint" and not target:
        target = devices.lxcs.get(trace.endpoint or 0, "")
    movement = Movement(
        node=node,
        mover=Mover.PROGRAM,
        what=place.what,
        device=place.device,
        hook=place.hook,
        helper=str(Act.SEEN if own is not None else _HANDS_ON.get(trace.point, trace.point)),
        packet=key,
        target=target,
        reason=trace.reason,
        identity=int(trace.source_identity) if trace.source_identity.isdigit() else 0,
        raw=trace.raw,
    )
    return movement, at or here


def _place(movement: Movement) -> _Place:
    return _Place(what=movement.what, device=movement.device, hook=movement.hook)


def _comes_in(trace: Trace, devices: Devices) -> _Place | None:
    """The program and the device at which the line says that the packet came in; None for other lines."""
    told = "" if trace.interface == "0" else trace.interface
    match trace.point:
        case "from-endpoint":
            return _Place(what="cil_from_container", device=devices.lxcs.get(trace.endpoint or 0, told), hook="ingress")
        case "from-overlay":
            return _Place(what="cil_from_overlay", device=told or _OVERLAY, hook="ingress")
        case "from-network":
            return _Place(what="cil_from_netdev", device=told or devices.uplink, hook="ingress")
        case "from-host":
            # The device in the line is the one that the packet came to the node by, before the kernel forwarded it.
            return _Place(what="cil_from_host", device=_HOST, hook="egress")
        case _:
            return None


def _own_of_device(trace: Trace, devices: Devices) -> _Place | None:
    """The program of the device that the packet leaves by, where it is that one which speaks. It knows no identity."""
    is_of_pod = trace.source_identity not in ("unknown", "0") if trace.teller is None else trace.teller in devices.lxcs
    if is_of_pod:
        return None
    if trace.point == "to-overlay":
        return _Place(what="cil_to_overlay", device=_or(trace.interface, _OVERLAY), hook="egress")
    if trace.point == "to-network":
        return _Place(what="cil_to_netdev", device=_or(trace.interface, devices.uplink), hook="egress")
    return None


def _or(interface: str, otherwise: str) -> str:
    return otherwise if interface == "0" else interface


def _key(trace: Trace) -> PacketKey:
    word = trace.what.split(" ", 1)[0].lower()
    return PacketKey(
        src=trace.source,
        dst=trace.destination,
        protocol=word if word in ("tcp", "udp", "sctp") else "icmp",
        first=trace.first,
        second=trace.second,
        ip_id=trace.ip_id,
    )


def _is_told_apart(key: PacketKey) -> bool:
    return bool(key.first or key.second or key.ip_id)


def _rank(trace: Trace) -> int:
    return _RANKS.get(trace.point, _RANKS["to-overlay"])
