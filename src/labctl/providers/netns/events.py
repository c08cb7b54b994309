"""Watches a running netns lab: what its kernel tells of each part as it happens, and its nodes' counters when asked.

Each namespace has a socket of notices; namespaces that come and go are told of by their folder. A part that is not
there yet is looked for again as long as it may still be mounted.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator

from labctl.model.lab import Lab
from labctl.model.lab_event import EventKind, LabEvent, LiveNode, LiveState
from labctl.model.links import LinkState
from labctl.names import namespace_of, split_namespace
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.record import part_names
from labctl.providers.netns.wires import Wires, end_state
from labctl.system import link_state, netns, notices, rtnetlink
from labctl.system.netlink import Socket
from labctl.system.notices import FolderNotices, Notice, NoticeSocket

_MOUNT_S = 2.0
"""Between the name of a namespace and its mount are milliseconds."""
_RETRY_S = 0.05
_HOOKS = ("clsact", "ingress")


class _Part:
    """One namespace that is listened to. `devices` are those that are known, by index."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        with netns.entered(netns.path_of(namespace)):
            self.socket = NoticeSocket()
            try:
                with Socket() as channel:
                    states = map(link_state.parse_state, channel.ask(rtnetlink.all_links()))
                    self.devices = {state.index: state for state in states}
            except BaseException:
                self.socket.close()
                raise

    def events(self) -> Iterator[LabEvent]:
        at_ns = time.time_ns()
        try:
            for kind, body in self.socket.read():
                if (told := self._told(kind, body)) is not None:
                    yield LabEvent(at_ns=at_ns, part=self.name, kind=told[0], what=told[1])
        except notices.Overrun:
            lost = "the kernel had more to tell than was read in time"
            yield LabEvent(at_ns=at_ns, part=self.name, kind=EventKind.LOST, what=lost)

    def _told(self, kind: Notice, body: bytes) -> tuple[EventKind, str] | None:
        match kind:
            case Notice.NEWLINK | Notice.DELLINK:
                return self._link(kind, body)
            case Notice.NEWADDR | Notice.DELADDR:
                index, address = notices.address_of(body)
                act = "has" if kind is Notice.NEWADDR else "lost"
                return EventKind.ADDRESS, f"device {self._device(index)} {act} address {address}"
            case Notice.NEWROUTE | Notice.DELROUTE:
                route = notices.route_of(body)
                if route is None or route[2] == "the kernel":
                    return None
                act = "added" if kind is Notice.NEWROUTE else "withdrawn"
                return EventKind.ROUTE, f"route {route[1]} {act}{f' by {route[2]}' if route[2] else ''}"
            case Notice.NEWNEIGH:
                failed = notices.failed_neighbour_of(body)
                if failed is None:
                    return None
                return EventKind.NEIGHBOUR, f"neighbour {failed[1]} on {self._device(failed[0])} failed"
            case Notice.NEWTFILTER | Notice.DELTFILTER:
                told = notices.traffic_control_of(body)
                if told.kind != "bpf":
                    return None
                act = "attached to" if kind is Notice.NEWTFILTER else "gone from"
                side = "ingress" if told.is_ingress else "egress"
                program = f"program {told.name}" if told.name else "a program"
                return EventKind.PROGRAM, f"{program} {act} {self._device(told.index)} {side}"
            case Notice.NEWQDISC | Notice.DELQDISC:
                told = notices.traffic_control_of(body)
                if told.kind in ("noqueue", *_HOOKS):
                    return None
                act = "set on" if kind is Notice.NEWQDISC else "gone from"
                return EventKind.QUEUE, f"queue {told.kind} {act} {self._device(told.index)}"
        return None

    def _link(self, kind: Notice, body: bytes) -> tuple[EventKind, str] | None:
        now = notices.device_of(body)
        if kind is Notice.DELLINK:
            is_known = self.devices.pop(now.index, None) is not None
            return (EventKind.LINK, f"device {now.name} is gone") if is_known else None
        was, self.devices[now.index] = self.devices.get(now.index), now
        if was is None:
            return EventKind.LINK, f"device {now.name} is there, {_how(now)}"
        if _how(was) != _how(now):
            return EventKind.LINK, f"device {now.name} is {_how(now)}"
        if was.xdp_id != now.xdp_id:
            act = "attached to" if now.xdp_id else "gone from"
            return EventKind.PROGRAM, f"XDP program {act} {now.name}"
        if was.mtu != now.mtu:
            return EventKind.LINK, f"device {now.name} has MTU {now.mtu}"
        return None

    def _device(self, index: int) -> str:
        return self.devices[index].name if index in self.devices else f"if{index}"


def _how(state: link_state.DeviceState) -> str:
    if not state.is_up:
        return "down"
    return "up" if state.has_carrier else "up without carrier"


class LabEvents:
    """`EventSource` of the provider seam."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self._lab, self._wires = lab, Wires(lab)
        self._parts: dict[str, _Part] = {}
        self._coming: dict[str, float] = {}
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._folder = FolderNotices(netns.DIRECTORY)
        stack.callback(self._folder.close)
        stack.callback(self._close)
        self._selector.register(self._folder, selectors.EVENT_READ, None)
        for part in part_names(lab):
            with contextlib.suppress(OSError):
                self._listen(namespace_of(lab.name, part))

    def wait(self, timeout_s: float) -> tuple[LabEvent, ...]:
        """What happened; empty when nothing did in that time."""
        wait_s = min(timeout_s, _RETRY_S) if self._coming else timeout_s
        found: list[LabEvent] = []
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                found += self._names()
            elif key.data.name in {part.name for part in self._parts.values()}:
                found += key.data.events()
        found += self._arrived()
        return tuple(found)

    def _names(self) -> Iterator[LabEvent]:
        for name, came in self._folder.read():
            split = split_namespace(name)
            if split is None or split[0] != self._lab.name:
                continue
            if came:
                self._coming[name] = time.monotonic() + _MOUNT_S
            else:
                self._coming.pop(name, None)
                self._forget(name)
                yield LabEvent(at_ns=time.time_ns(), part=split[1], kind=EventKind.PART, what="its namespace is gone")

    def _arrived(self) -> Iterator[LabEvent]:
        for name, until_s in list(self._coming.items()):
            try:
                if netns.is_mounted(name):
                    self._listen(name)
                    part = self._parts[name].name
                    yield LabEvent(at_ns=time.time_ns(), part=part, kind=EventKind.PART, what="its namespace is there")
                elif time.monotonic() < until_s:
                    continue
            except OSError:
                if time.monotonic() < until_s:
                    continue
            self._coming.pop(name, None)

    def _listen(self, namespace: str) -> None:
        self._forget(namespace)
        split = split_namespace(namespace)
        part = _Part(split[1] if split else namespace, namespace)
        self._parts[namespace] = part
        self._selector.register(part.socket, selectors.EVENT_READ, part)

    def _forget(self, namespace: str) -> None:
        if (part := self._parts.pop(namespace, None)) is not None:
            self._selector.unregister(part.socket)
            part.socket.close()

    def _close(self) -> None:
        for namespace in tuple(self._parts):
            self._forget(namespace)

    def follow(self, lab: Lab) -> None:
        self._lab, self._wires = lab, Wires(lab)

    def look(self) -> LiveState:
        """The nodes and links as they are now. Pods are seen from their nodes: their namespaces are not entered."""
        pods = {pod.name for pod in self._lab.pods}
        read: dict[str, dict[int, link_state.DeviceState]] = {}
        for part in part_names(self._lab):
            if part not in pods:
                read[part] = self._devices(part)
        names = (*(node.name for node in self._lab.nodes), *(router.name for router in self._lab.routers))
        changes = read_changes(self._lab.name)
        links = []
        for wire in self._wires.all:
            ends = [end_state(end, read[end.part].get(end.index)) for end in wire.ends if end.part in read]
            asked = changes.impairments.get(wire.name)
            links.append(
                LinkState(name=wire.name, ends=tuple(ends), impairments=(asked.words(),) if asked is not None else ())
            )
        return LiveState(nodes=tuple(self._node(name, read[name]) for name in names), links=tuple(links))

    def _node(self, name: str, devices: dict[int, link_state.DeviceState]) -> LiveNode:
        own = [state for state in devices.values() if state.index != 1]
        return LiveNode(
            name=name,
            is_there=bool(own),
            pods=len(self._lab.pods_on(name)),
            devices=len(own),
            devices_up=sum(state.is_up and state.has_carrier for state in own),
            rx_packets=sum(state.rx_packets for state in own),
            tx_packets=sum(state.tx_packets for state in own),
            dropped=sum(state.dropped for state in own),
        )

    def _devices(self, part: str) -> dict[int, link_state.DeviceState]:
        try:
            with netns.entered(netns.path_of(namespace_of(self._lab.name, part))), Socket() as channel:
                states = map(link_state.parse_state, channel.ask(rtnetlink.all_links()))
                return {state.index: state for state in states}
        except OSError:
            return {}


@contextlib.contextmanager
def watching_events(lab: Lab) -> Iterator[LabEvents]:
    """Raises OSError where there is nothing to listen to."""
    with contextlib.ExitStack() as stack:
        yield LabEvents(lab, stack)
