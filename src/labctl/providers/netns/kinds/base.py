"""What the kinds of objects have in common: how one is recorded, named, made, read back and undone.

An object is a frozen value and an action of a plan. Consecutive ones are made together where their kind can do that:
rtnetlink messages for one namespace go out as one batch. Whatever is in a namespace goes with it, and so needs no
undo of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from labctl.errors import HostLacks, LabError, StepFailed
from labctl.model.plan import Step
from labctl.names import split_namespace
from labctl.system import netlink, netns, rtnetlink
from labctl.system import rtnetlink_readings as readings
from labctl.system.rtnetlink import Hook
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.datapath.loader import LoadedDatapath

_OPEN_AT_ONCE = 64


class ObjectKind(StrEnum):
    """The kinds of things that can be read back from a lab."""

    NAMESPACE = "namespace"
    PROCESS = "process"
    DEVICE = "device"
    ADDRESS = "address"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    TUNNEL = "tunnel"
    DAEMON = "daemon"
    PROGRAM = "program"
    SYSCTL = "sysctl"
    RULE = "rule"
    CGROUP = "cgroup"
    CHAIN = "chain"
    ATTACHMENT = "attachment"
    QDISC = "qdisc"
    POLICY_RULE = "policy rule"
    ENTRY = "map entry"
    CONFIGURATION = "FRR configuration"
    IMPAIRMENT = "impairment"


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a namespace as it should be; equal things have equal names.

    `needs` names things of the same namespace, and `ends` other namespaces, that the kernel removes it with: when one
    of those is gone, that one is reported. `key` is its name without what may change of it (empty: all of the name),
    and `value` that. `mend` gives what sets the value where the thing is there with another one; without it, the thing
    is removed and made again. What `may_be_absent` is nothing that this kernel must have.
    """

    namespace: str
    kind: ObjectKind
    name: str
    needs: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    key: str = ""
    value: str = ""
    mend: Callable[[], Sequence[Object]] | None = field(default=None, compare=False)
    may_be_absent: bool = False

    @property
    def of(self) -> str:
        """What it is found by: readers give the same key."""
        return self.key or self.name

    def __str__(self) -> str:
        if self.kind is ObjectKind.NAMESPACE:
            return self.namespace
        split = split_namespace(self.namespace)
        return f"{split[1] if split else self.namespace}: {self.name}"


class Found(NamedTuple):
    """One thing of a namespace as it is. `remove` gives what removes it: None of what is only a property of something
    else, or the kernel's own, and so is no difference where nobody wants it."""

    key: str
    value: str = ""
    remove: Callable[[], Object] | None = None


def _plain(value: object) -> object:
    """A field as JSON-ready data."""
    match value:
        case Enum():
            return value.name.lower()
        case IPv4Address() | IPv4Interface() | IPv4Network() | Path():
            return str(value)
        case bytes():
            return value.hex()
        case tuple():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value):
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        case _:
            return value


class Object:
    """An action that makes one object. Its methods are all that planning, making, observing and undoing ask of it."""

    __slots__ = ()

    def record(self) -> Mapping[str, object]:
        """Its class and its fields."""
        return {
            "kind": type(self).__name__,
            **{one.name: _plain(getattr(self, one.name)) for one in fields(self)},  # type: ignore[arg-type]
        }

    def shell(self) -> str:
        """The command that a person would type."""
        raise NotImplementedError

    def things(self) -> Iterator[Thing]:
        """What is there when it is made, by the names that its kind's reader gives."""
        return iter(())

    def details(self) -> Iterator[Thing]:
        """What else can be compared of it, which costs more to read."""
        return iter(())

    def undo(self) -> tuple[Object, ...]:
        """What removes it again; empty where it goes with its namespace."""
        return ()

    def in_place(self) -> Object:
        """What makes it also where something of its name is there, which it replaces."""
        return self

    def mends(self) -> tuple[Object, ...]:
        """What a thing of this object is mended by, where it is there with another value."""
        return (self.in_place(),)

    def batch(self) -> Batch:
        """How it is made. Consecutive objects whose batches are equal are made together."""
        return (_one_by_one,)

    def lack(self, refused: OSError) -> HostLacks | None:
        """What the host lacks for it, where that is why it was refused."""
        return None

    def make(self, context: BuildContext) -> None:
        """Makes it, of those that are made one by one. Raises OSError, LabError."""
        raise NotImplementedError


Batch = tuple[Any, ...]
"""A function (objects, context) that makes them all, and what they must have in common."""


class NetlinkObject(Object):
    """An object that is one rtnetlink message in one namespace."""

    __slots__ = ()
    namespace: str

    def request(self, context: BuildContext) -> netlink.Request:
        raise NotImplementedError

    def batch(self) -> Batch:
        return (_send, self.namespace)


def _one_by_one(objects: Sequence[Object], context: BuildContext) -> None:
    for one in objects:
        with as_step_failed(one):
            one.make(context)


def _send(objects: Sequence[NetlinkObject], context: BuildContext) -> None:
    with as_step_failed(objects[0]):
        channel = context.namespaces.channel(objects[0].namespace)
        requests = [one.request(context) for one in objects]
    try:
        channel.send(requests)
    except netlink.NetlinkError as refused:
        raise failed(objects[refused.index], refused) from refused


_Replacing = TypeVar("_Replacing", bound=Object)


def replacement(made: Object, kind: type[_Replacing]) -> _Replacing:
    """The object of that class with the same fields."""
    return kind(**{one.name: getattr(made, one.name) for one in fields(made)})  # type: ignore[arg-type]


def step(name: str, title: str, objects: Iterable[Object]) -> Step:
    """A step of a plan, with the undo of what it makes."""
    actions = tuple(objects)
    undo = tuple(back for one in reversed(actions) for back in one.undo())
    return Step(id=name, title=title, actions=actions, undo=undo)


@contextlib.contextmanager
def as_step_failed(action: Object) -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        raise failed(action, refused) from refused


def failed(action: Object, refused: OSError) -> LabError:
    """What the kernel said, with the command that a person would try; or what this host lacks for it."""
    if (lacking := action.lack(refused)) is not None:
        return lacking
    words = os.strerror(refused.errno) if refused.errno else str(refused)
    said = getattr(refused, "explanation", "") or (str(refused.filename) if refused.filename else "")
    return StepFailed(
        what=f"the kernel refused: {action.shell().splitlines()[0]}",
        cause=f"{words}: {said}" if said else words,
        remedy=action.shell(),
    )


class OpenNamespaces:
    """Open namespaces of the lab: a descriptor and a netlink socket each, the most recently used ones."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[int, netlink.Socket]] = OrderedDict()

    def keep(self, name: str, descriptor: int, channel: netlink.Socket) -> None:
        self._open[name] = (descriptor, channel)
        if len(self._open) > _OPEN_AT_ONCE:
            self._close(next(iter(self._open)))

    def descriptor(self, name: str) -> int:
        return self._get(name)[0]

    def channel(self, name: str) -> netlink.Socket:
        return self._get(name)[1]

    def forget(self, name: str) -> None:
        if name in self._open:
            self._close(name)

    def close(self) -> None:
        for name in tuple(self._open):
            self._close(name)

    def _get(self, name: str) -> tuple[int, netlink.Socket]:
        if name not in self._open:
            descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
            with netns.entered(descriptor):
                self.keep(name, descriptor, netlink.Socket())
        self._open.move_to_end(name)
        return self._open[name]

    def _close(self, name: str) -> None:
        descriptor, channel = self._open.pop(name)
        channel.close()
        os.close(descriptor)


class BuildContext:
    """What stays open while a lab is built: its namespaces, and by namespace the programs that were loaded for it.
    `made` are the namespaces that were made here."""

    def __init__(self) -> None:
        self.namespaces = OpenNamespaces()
        self.datapaths: dict[str, LoadedDatapath] = {}
        self.made: set[str] = set()

    def close(self) -> None:
        self.namespaces.close()
        while self.datapaths:
            self.datapaths.popitem()[1].close()


_RELAY_TAP = re.compile(r"wait\d+")


def _is_relays(device: str, body: bytes) -> bool:
    """Whether it is the device behind which a relay waits (`delay`)."""
    return _RELAY_TAP.fullmatch(device) is not None and readings.parse_link_detail(body).kind == "tun"


_LINK_INDEX = struct.Struct("=i")
_parse_link = functools.lru_cache(maxsize=1024)(rtnetlink.parse_link)


def _parsed(answers: Mapping[int, bytes]) -> Mapping[int, rtnetlink.Link]:
    """Less the devices of relays, which are part of what they impair."""
    every = {index: _parse_link(body) for index, body in answers.items()}
    return {index: link for index, link in every.items() if not _is_relays(link.name, answers[index])}


class NamespaceReader:
    """One namespace that the calling thread is in, and what was asked of it so far. `things` are those to look for.
    With `closely`, what `Object.details` tells of is read too."""

    def __init__(
        self, channel: netlink.Socket, things: Sequence[Thing], *, namespace: str = "", closely: bool = False
    ) -> None:
        self.channel = channel
        self.things = things
        self.namespace = namespace
        self.closely = closely
        self.answers = self._answers()  # now: a channel is asked one question at a time, and each reader names devices
        self.links = _parsed(self.answers)
        self._filters: dict[tuple[int, Hook], Sequence[readings.AnyFilter]] = {}

    def _answers(self) -> dict[int, bytes]:
        return {_LINK_INDEX.unpack_from(body, 4)[0]: body for body in self.channel.ask(readings.every_device())}

    @functools.cached_property
    def qdiscs(self) -> Sequence[readings.Qdisc]:
        """Those that somebody made: the kernel's own defaults have no handle."""
        answers = self.channel.ask(readings.every_qdisc())
        return [qdisc for qdisc in map(readings.parse_qdisc, answers) if qdisc.handle]

    def filters(self, index: int, hook: Hook) -> Sequence[readings.AnyFilter]:
        """Those on one side of a device; none where it has no such side. Programs and impairments are both found by
        them."""
        if (index, hook) not in self._filters:
            try:
                answers = [*self.channel.ask(readings.every_filter_of(index, hook))]
            except netlink.NetlinkError as refused:
                if refused.errno not in rtnetlink.NO_HOOKS:
                    raise
                answers = []
            self._filters[index, hook] = [one for one in map(readings.parse_any_filter, answers) if one is not None]
        return self._filters[index, hook]

    @functools.cached_property
    def peers(self) -> Mapping[str, str]:
        """Where the other end of each veth of this namespace should be, by the device's name."""
        return {
            thing.needs[0].removeprefix("device "): thing.value for thing in self.things if thing.of.endswith(" peer")
        }

    def namespace_number(self, name: str) -> int | None:
        """What this namespace calls another one; None where it does not know it, or there is none."""
        try:
            descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            answers = self.channel.ask(readings.namespace_number(descriptor))
            return next(map(readings.parse_namespace_number, answers), None)
        finally:
            os.close(descriptor)

    def is_settled(self) -> bool:
        """Whether the devices are still those of the beginning. What a device ends with it (routes, programs,
        addresses) is removed a moment before or after it: what was read in between is not a state of the lab."""
        now = self._answers()
        return now == self.answers or _parsed(now) == self.links

    def device(self, index: int) -> str:
        return self.links[index].name if index in self.links else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of object: the classes that make and remove it, and what finds those that are in a namespace. `read` is
    None for what is not read back there."""

    name: str
    objects: tuple[type[Object], ...]
    read: Callable[[NamespaceReader], Iterator[Found]] | None = None
