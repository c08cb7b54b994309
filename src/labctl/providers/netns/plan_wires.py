"""The links that a lab's plan makes, named as people think of them, and what a scenario asks of them. Pure.

A link is a veth pair between two parts of the lab, or a pod's device on its node's. A node's link to the fabric is
called as the node is, a pod's as the pod is, one between two routers by both (`spine1-leaf2`); `node1-leaf1` and
`leaf1-node1` are understood too.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from labctl.errors import UsageError
from labctl.model.impairment import UPLINKS, Impairment, LinkDirection
from labctl.model.lab import HostRouting, Lab
from labctl.names import UNDERLAY, split_namespace
from labctl.networks import network_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.impairment import IMPAIRMENTS, OffloadsSet, PacketsImpair, QueueAdd
from labctl.providers.netns.kinds.link import OnDevice, SharedAdd, VethAdd
from labctl.providers.netns.kinds.program import HooksAdd, pins
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WireEnd:
    """One end of a link: a device of a part of the lab."""

    part: str
    namespace: str
    device: str
    index: int

    def __str__(self) -> str:
        return f"{self.part}:{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A link. A device that shares another one (macvlan) has one end alone that can be taken down. `down` is the end
    that it is taken down at."""

    name: str
    ends: tuple[WireEnd, WireEnd]
    down: WireEnd
    is_shared: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may be called."""
        one, other = (end.part for end in self.ends)
        return tuple(dict.fromkeys((self.name, f"{one}-{other}", f"{other}-{one}")))


def wires_of(lab: Lab, actions: Sequence[Object]) -> tuple[Wire, ...]:
    """The links that these actions make, in their order."""
    settings = Counter(
        (one.namespace, one.device)
        for one in actions
        if isinstance(one, OnDevice) and not isinstance(one, IMPAIRMENTS.objects)
    )
    pairs = tuple(_pairs(actions))
    counts = Counter(end.part for ends in pairs for end in ends)
    pods = {pod.name for pod in lab.pods}
    nodes = {node.name for node in lab.nodes}
    routers = {router.name for router in lab.routers}
    outside = {host.name for host in lab.outside}
    uplinks = Counter(end.part for ends in pairs if _is_uplink(ends, nodes, pods) for end in ends if end.part in nodes)
    found = []
    for ends in pairs:
        parts = [end.part for end in ends]
        own = (
            next((part for part in parts if part in pods | outside), "")
            or next((part for part in parts if part in nodes), "")
            or (next((part for part in parts if part in routers), "") if UNDERLAY in parts else "")
        )
        if own and (counts[own] > 1 if own in pods | outside else uplinks[own] > 1):
            own = ""
        is_shared = _is_shared(ends, actions)
        down = ends[0] if is_shared else min(ends, key=lambda end: settings[end.namespace, end.device])
        found.append(Wire(name=own or "-".join(parts), ends=ends, down=down, is_shared=is_shared))
    return tuple(found)


def named(lab: Lab, wires: Sequence[Wire], *names: str, remedy: str = "", key: str = "") -> Wire:
    """The link of one name, or between two parts. Raises UsageError with what there is."""
    wanted = "-".join(names)
    for wire in wires:
        if wanted in wire.names or (len(names) == 2 and set(names) == {end.part for end in wire.ends}):
            return wire
    near = difflib.get_close_matches(wanted, [name for wire in wires for name in wire.names], n=1)
    first = ", ".join(wire.name for wire in wires[:8])
    more = len(wires) - 8
    raise UsageError(
        what=f"lab {lab.name} has no link {wanted}",
        cause=f"it has: {first}" + (f" and {more} more" if more > 0 else ""),
        remedy=f"did you mean '{near[0]}'?" if near else remedy or f"labctl link {lab.name}",
        key=key,
    )


def declared(lab: Lab, wires: Sequence[Wire]) -> Mapping[str, Impairment]:
    """What the scenario asks of the links, by their names. What it says of one link is in place of what it says of all
    nodes' links. Raises UsageError, with the key, for a link that the lab does not have."""
    nodes, pods = {node.name for node in lab.nodes}, {pod.name for pod in lab.pods}
    is_one = any(UPLINKS in wire.names for wire in wires)
    found: dict[str, Impairment] = {}
    if (of_all := lab.impairments.get(UPLINKS)) is not None and not is_one:
        found = {wire.name: of_all for wire in wires if _is_uplink(wire.ends, nodes, pods)}
    for name, asked in lab.impairments.items():
        if name != UPLINKS or is_one:
            remedy = f"one of those, or {UPLINKS} for the links of all nodes"
            found[named(lab, wires, name, remedy=remedy, key=f"impairments.{name}").name] = asked
    return {name: asked for name, asked in found.items() if not asked.is_nothing}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One direction of a link."""

    sender: WireEnd
    receiver: WireEnd


def ways_of(wire: Wire, flow: LinkDirection) -> tuple[Way, ...]:
    """`to` is into the part that the link is named after; of a link between two routers, into the first."""
    own, other = wire.ends
    if other.part == wire.name:
        own, other = other, own
    into, out = Way(sender=other, receiver=own), Way(sender=own, receiver=other)
    return {LinkDirection.TO: (into,), LinkDirection.FROM: (out,), LinkDirection.BOTH: (into, out)}[flow]


def impairing_objects(lab: Lab, actions: Sequence[Object], wire: Wire, asked: Impairment) -> Iterator[Object]:
    """What impairs one link as asked. Raises UsageError for what would be without effect there."""
    _require_possible(lab, wire, asked)
    hooked = {(one.namespace, one.device) for one in actions if isinstance(one, HooksAdd)}
    for number, way in enumerate(ways_of(wire, asked.direction)):
        sender, receiver = way.sender, way.receiver
        if (asked.by_program or asked.delay_s) and not wire.is_shared:
            yield OffloadsSet(namespace=sender.namespace, device=sender.device, index=sender.index, is_on=False)
        if asked.delay_s or asked.rate_bit_per_s:
            yield QueueAdd(
                namespace=sender.namespace,
                device=sender.device,
                index=sender.index,
                asked=asked,
                receiver=(receiver.namespace, receiver.device, receiver.index),
                seed=asked.seed * 2 + number,
            )
        if asked.by_program:
            yield PacketsImpair(
                namespace=receiver.namespace,
                device=receiver.device,
                index=receiver.index,
                asked=asked,
                seed=asked.seed * 2 + number,
                has_hooks=(receiver.namespace, receiver.device) in hooked,
                pins=pins(lab.name) / f"impair-{receiver.part}-{receiver.device}",
            )


def _require_possible(lab: Lab, wire: Wire, asked: Impairment) -> None:
    pods = {pod.name for pod in lab.pods}
    skips = network_of(lab).has_programs and lab.in_force.host_routing is HostRouting.BPF
    if wire.is_shared and (asked.direction is not LinkDirection.TO or asked.delay_s or asked.rate_bit_per_s):
        raise UsageError(
            what=f"link {wire.name} is impaired in the direction to it alone, and has no queue",
            cause="its device shares that of the node, with which it has no wire of its own",
            remedy=f"loss, duplicate, corrupt, reorder with direction=to; or the node's link: labctl link {lab.name}",
            key=f"impairments.{wire.name}",
        )
    for way in ways_of(wire, asked.direction):
        if skips and way.receiver.part in pods and (asked.rate_bit_per_s or asked.delay_s):
            raise UsageError(
                what=f"what comes to pod {way.receiver.part} passes no queue",
                cause="BPF host routing puts a packet into the pod by bpf_redirect_peer, past its device's queue",
                remedy=f"labctl impair {lab.name} {wire.name} … direction=from; or on the node's link",
                key=f"impairments.{wire.name}",
            )


def _is_uplink(ends: tuple[WireEnd, WireEnd], nodes: Collection[str], pods: Collection[str]) -> bool:
    """A node's link to what is no pod of it."""
    parts = [end.part for end in ends]
    return any(part in nodes for part in parts) and not any(part in pods for part in parts)


def _pairs(actions: Sequence[Object]) -> Iterator[tuple[WireEnd, WireEnd]]:
    for one in actions:
        if isinstance(one, VethAdd) and one.peer_namespace is not None:
            yield (
                _end(one.namespace, one.device.name, one.device.index),
                _end(one.peer_namespace, one.peer.name, one.peer.index),
            )
        elif isinstance(one, SharedAdd):
            yield _end(one.inside, one.device.name, one.device.index), _end(one.namespace, *one.lower)


def _is_shared(ends: tuple[WireEnd, WireEnd], actions: Sequence[Object]) -> bool:
    return any(
        isinstance(one, SharedAdd) and (one.inside, one.device.name) == (ends[0].namespace, ends[0].device)
        for one in actions
    )


def _end(namespace: str, device: str, index: int) -> WireEnd:
    _, part = split_namespace(namespace) or ("", namespace)
    return WireEnd(part=part, namespace=namespace, device=device, index=index)
