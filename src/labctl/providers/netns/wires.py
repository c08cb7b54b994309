"""The links of a running lab: read, taken down and brought up again.

Which links there are, and what they are called, is `plan_wires`.

A link is taken down at the end that has fewer of the lab's own settings: the other end loses its carrier, and keeps
its routes. What the kernel forgets with a device that is down (routes, neighbours) is put back from the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from labctl.errors import StepFailed
from labctl.model.impairment import Impairment
from labctl.model.lab import Lab
from labctl.model.links import LinkEndState, LinkState
from labctl.providers.netns.kinds.base import BuildContext, Object, ObjectKind, as_step_failed
from labctl.providers.netns.kinds.link import OnDevice, ip
from labctl.providers.netns.observed import observe
from labctl.providers.netns.plan import plan
from labctl.providers.netns.plan_wires import Wire, WireEnd, declared, named, wires_of
from labctl.system import link_state, netns, rtnetlink
from labctl.system.netlink import Socket

_FORGOTTEN = (ObjectKind.ROUTE, ObjectKind.NEIGHBOUR)
"""What a device loses when it is taken down."""


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
        return wires_of(self.lab, self.actions)

    @cached_property
    def declared(self) -> Mapping[str, Impairment]:
        """What the lab's scenario asks of them, by their names."""
        return declared(self.lab, self.all)

    def named(self, *names: str) -> Wire:
        """The link of one name, or between two parts. Raises UsageError with what there is."""
        return named(self.lab, self.all, *names)

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
