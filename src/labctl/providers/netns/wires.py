"""The links of a running lab: found in its plan, named as people think of them, read, taken down and brought up again.

A link is a veth pair between two parts of the lab, or a pod's device on its node's. A node's link to the fabric is
called as the node is, a pod's as the pod is, one between two routers by both (`spine1-leaf2`); `node1-leaf1` and
`leaf1-node1` are understood too.

A link is taken down at the end that has fewer of the lab's own settings: the other end loses its carrier, and keeps
its routes. What the kernel forgets with a device that is down (routes, neighbours) is put back from the plan.
"""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from labctl.errors import StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.model.links import LinkEndState, LinkState
from labctl.names import UNDERLAY, split_namespace
from labctl.providers.netns.kinds.base import BuildContext, Object, ObjectKind, as_step_failed
from labctl.providers.netns.kinds.link import OnDevice, SharedAdd, VethAdd, ip
from labctl.providers.netns.observed import observe
from labctl.providers.netns.plan import plan
from labctl.system import link_state, netns, rtnetlink
from labctl.system.netlink import Socket

_FORGOTTEN = (ObjectKind.ROUTE, ObjectKind.NEIGHBOUR)
"""What a device loses when it is taken down."""


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

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may be called."""
        one, other = (end.part for end in self.ends)
        return tuple(dict.fromkeys((self.name, f"{one}-{other}", f"{other}-{one}")))


class Wires:
    """The links of one lab. Raises nothing; what its methods raise is said there."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @cached_property
    def actions(self) -> tuple[Object, ...]:
        """Of the lab's plan, in its order."""
        every = (action for step in plan(self.lab).steps for action in step.actions)
        return tuple(action for action in every if isinstance(action, Object))

    @cached_property
    def all(self) -> tuple[Wire, ...]:
        settings = Counter((one.namespace, one.device) for one in self.actions if isinstance(one, OnDevice))
        pairs = tuple(_pairs(self.actions))
        counts = Counter(end.part for ends in pairs for end in ends)
        pods = {pod.name for pod in self.lab.pods}
        nodes = {node.name for node in self.lab.nodes}
        routers = {router.name for router in self.lab.routers}
        outside = {host.name for host in self.lab.outside}
        found = []
        for ends in pairs:
            parts = [end.part for end in ends]
            own = (
                next((part for part in parts if part in pods | outside), "")
                or next((part for part in parts if part in nodes), "")
                or (next((part for part in parts if part in routers), "") if UNDERLAY in parts else "")
            )
            if own and counts[own] > 1 and own in pods | outside:
                own = ""
            down = ends[0]
            if not _is_shared(ends, self.actions):
                down = min(ends, key=lambda end: settings[end.namespace, end.device])
            found.append(Wire(name=own or "-".join(parts), ends=ends, down=down))
        return tuple(found)

    def named(self, *names: str) -> Wire:
        """The link of one name, or between two parts. Raises UsageError with what there is."""
        wanted = "-".join(names)
        for wire in self.all:
            if wanted in wire.names or (len(names) == 2 and set(names) == {end.part for end in wire.ends}):
                return wire
        known = [name for wire in self.all for name in wire.names]
        near = difflib.get_close_matches(wanted, known, n=1)
        first = ", ".join(wire.name for wire in self.all[:8])
        more = len(self.all) - 8
        raise UsageError(
            what=f"lab {self.lab.name} has no link {wanted}",
            cause=f"it has: {first}" + (f" and {more} more" if more > 0 else ""),
            remedy=f"did you mean '{near[0]}'?" if near else f"labctl link {self.lab.name}",
        )

    def states(self) -> tuple[LinkState, ...]:
        """Each link as it is now; a device that is gone has no end."""
        read: dict[str, dict[int, link_state.DeviceState]] = {}
        for namespace in dict.fromkeys(end.namespace for wire in self.all for end in wire.ends):
            read[namespace] = _devices(namespace)
        return tuple(
            LinkState(
                name=wire.name, ends=tuple(end_state(end, read[end.namespace].get(end.index)) for end in wire.ends)
            )
            for wire in self.all
        )

    def set(self, wire: Wire, *, is_up: bool) -> str:
        """Takes it down, or up as the plan has it; gives the command that a person would type. Raises StepFailed, also
        when the device is gone."""
        end = wire.down
        command = f"{ip(end.namespace)} link set dev {end.device} {'up' if is_up else 'down'}"
        try:
            with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
                channel.send([rtnetlink.link_up(end.index) if is_up else link_state.link_down(end.index)])
        except OSError as refused:
            raise StepFailed(
                what=f"link {wire.name} cannot be taken {'up' if is_up else 'down'}",
                cause=f"{end}: {refused.strerror or refused}",
                remedy=command,
            ) from refused
        if is_up:
            self._restore(end)
        return command

    def _restore(self, end: WireEnd) -> None:
        """What the kernel forgot of a device that was down, from the plan."""
        own = [one for one in self.actions if isinstance(one, OnDevice) and one.namespace == end.namespace]
        of_device = [one for one in own if one.device == end.device]
        things = [thing for one in of_device for thing in one.things() if thing.kind in _FORGOTTEN]
        seen = observe(end.namespace, things)
        if seen is None:
            return
        with_context(
            one for one in of_device if any(thing.kind in _FORGOTTEN and not seen.has(thing) for thing in one.things())
        )

    def flap(
        self, wire: Wire, *, every_s: float, for_s: float, stopped: Callable[[], bool], tell: Callable[[bool], None]
    ) -> int:
        """Down for half of `every_s`, up for the other half, until `for_s` is over or `stopped`; how often it went
        down. It is up at the end whatever happens."""
        begun, times = time.monotonic(), 0
        try:
            while time.monotonic() - begun < for_s and not stopped():
                for is_up in (False, True):
                    self.set(wire, is_up=is_up)
                    tell(is_up)
                    times += not is_up
                    _sleep(min(every_s / 2, max(begun + for_s - time.monotonic(), 0)), stopped)
        finally:
            self.set(wire, is_up=True)
        return times


def with_context(objects: Iterable[Object]) -> None:
    """Makes objects in a lab that is up, one after the other. Raises StepFailed, HostLacks."""
    context = BuildContext()
    try:
        for one in objects:
            make, *_ = one.batch()
            with as_step_failed(one):
                make((one,), context)
    finally:
        context.close()


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stopped():
        time.sleep(min(left, 0.05))


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


def _devices(namespace: str) -> dict[int, link_state.DeviceState]:
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            states = map(link_state.parse_state, channel.ask(rtnetlink.all_links()))
            return {state.index: state for state in states}
    except OSError:
        return {}


def end_state(end: WireEnd, state: link_state.DeviceState | None) -> LinkEndState:
    if state is None:
        return LinkEndState(part=end.part, device=end.device, is_there=False)
    return LinkEndState(
        part=end.part,
        device=end.device,
        is_up=state.is_up,
        has_carrier=state.has_carrier,
        rx_packets=state.rx_packets,
        tx_packets=state.tx_packets,
        rx_bytes=state.rx_bytes,
        tx_bytes=state.tx_bytes,
        errors=state.errors,
        dropped=state.dropped,
    )
