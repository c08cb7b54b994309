"""Observed against wanted: what a lab's plan makes, read back from the kernel, and what of it is not there.

Both sides are the same data, things with the names that `ip`, `tc` and `sysctl` would give them: a plan's actions say
what is wanted, a reader for each kind says what is there. What a lab has more is not looked at. Entries of maps are
not read, and neither are rules that a kernel may lack the match for.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from labctl.model import interfaces
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.names import namespace_of, split_namespace
from labctl.providers.netns.actions import (
    AddressAdd,
    BridgeAdd,
    Device,
    IptablesRestore,
    LinkUp,
    NamespaceAdd,
    NeighbourAdd,
    RouteAdd,
    Sysctls,
    VethAdd,
    VxlanAdd,
)
from labctl.providers.netns.datapath_actions import Direction, FilterAttach
from labctl.providers.netns.plan import plan
from labctl.system import netns, rtnetlink
from labctl.system.netlink import NetlinkError, Socket
from labctl.system.rule_comments import rule_comments

_RULE = re.compile(r'^-A .* --comment "([^"]*)"')
_TABLE = re.compile(r"^\*(\w+)")
_SYSCTLS = Path("/proc/sys")
_LOOKS = 20
"""At most, at a namespace whose devices come and go all the time."""


class Kind(StrEnum):
    """The kinds of things that a lab is made of."""

    NAMESPACE = "namespace"
    DEVICE = "device"
    ADDRESS = "address"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    PROGRAM = "program"
    SYSCTL = "sysctl"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a namespace; equal things have equal names.

    `needs` names things of the same namespace, and `ends` other namespaces, that the kernel removes it with: when one
    of those is gone, that is what a person has to know.
    """

    namespace: str
    kind: Kind
    name: str
    needs: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind is Kind.NAMESPACE:
            return self.namespace
        split = split_namespace(self.namespace)
        return f"{split[1] if split else self.namespace}: {self.name}"


def wanted(actions: Iterable[Action]) -> Iterator[Thing]:
    """The things that these actions make, in their order. Pure."""
    for action in actions:
        match action:
            case NamespaceAdd():
                yield Thing(action.namespace, Kind.NAMESPACE, "")
                yield from _device(action.namespace, interfaces.LO, up=True)
            case BridgeAdd() | VxlanAdd():
                yield from _made(action.namespace, action.device, up=True)
            case VethAdd():
                peer = action.peer_namespace or action.namespace
                yield from _made(action.namespace, action.device, up=True, ends=(peer,))
                yield from _made(peer, action.peer, up=False, ends=(action.namespace,))
                if action.bridge:
                    device = action.device.name
                    needs = (_device_name(device), _device_name(action.bridge[0]))
                    yield Thing(action.namespace, Kind.DEVICE, _port_name(device, action.bridge[0]), needs)
            case LinkUp():
                yield Thing(action.namespace, Kind.DEVICE, _up_name(action.device), (_device_name(action.device),))
            case AddressAdd():
                name = _address_name(str(action.address.ip), action.address.network.prefixlen, action.device)
                yield Thing(action.namespace, Kind.ADDRESS, name, (_device_name(action.device),))
            case RouteAdd():
                yield Thing(
                    action.namespace,
                    Kind.ROUTE,
                    _route_name(
                        str(action.destination.network_address),
                        action.destination.prefixlen,
                        str(action.gateway or ""),
                        action.device,
                        str(action.source or ""),
                        action.mtu or 0,
                    ),
                    (_device_name(action.device), _up_name(action.device)),
                )
            case NeighbourAdd():
                name = _neighbour_name(str(action.address), action.mac, action.device)
                yield Thing(action.namespace, Kind.NEIGHBOUR, name, (_device_name(action.device),))
            case FilterAttach():
                name = _program_name(action.program, action.device, action.direction)
                yield Thing(action.namespace, Kind.PROGRAM, name, (_device_name(action.device),))
            case Sysctls(if_there=False):
                for key, value in action.settings:
                    yield Thing(action.namespace, Kind.SYSCTL, _sysctl_name(key, value), _device_of(key))
            case IptablesRestore():
                for name in _numbered(_commented(action)):
                    yield Thing(action.namespace, Kind.RULE, name)


def _device(namespace: str, device: str, *, up: bool, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
    yield Thing(namespace, Kind.DEVICE, _device_name(device), ends=ends)
    if up:
        yield Thing(namespace, Kind.DEVICE, _up_name(device), (_device_name(device),), ends)


def _made(namespace: str, device: Device, *, up: bool, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
    yield from _device(namespace, device.name, up=up, ends=ends)
    needs = (_device_name(device.name),)
    yield Thing(namespace, Kind.DEVICE, _mtu_name(device.name, device.mtu), needs, ends)
    yield Thing(namespace, Kind.DEVICE, _mac_name(device.name, device.mac), needs, ends)


def _commented(action: IptablesRestore) -> Iterator[tuple[str, str]]:
    """(table, comment) of each rule that every kernel takes."""
    table = ""
    for line in action.without_optional().splitlines():
        if head := _TABLE.match(line):
            table = head[1]
        elif rule := _RULE.match(line):
            yield table, rule[1]


def _numbered(rules: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A name for each rule; those that have a comment in common are counted."""
    seen: Counter[tuple[str, str]] = Counter()
    for rule in rules:
        seen[rule] += 1
        table, comment = rule
        yield f'rule "{comment}" of table {table}' + (f", number {seen[rule]}" if seen[rule] > 1 else "")


def _device_name(device: str) -> str:
    return f"device {device}"


def _up_name(device: str) -> str:
    return f"device {device} up"


def _mtu_name(device: str, mtu: int) -> str:
    return f"device {device} mtu {mtu}"


def _mac_name(device: str, mac: str) -> str:
    return f"device {device} address {mac}"


def _port_name(device: str, bridge: str) -> str:
    return f"device {device} master {bridge}"


def _address_name(address: str, prefix: int, device: str) -> str:
    return f"address {address}/{prefix} dev {device}"


def _route_name(destination: str, prefix: int, gateway: str, device: str, source: str, mtu: int) -> str:
    to = f"{destination}/{prefix}" if prefix else "default"
    via = f" via {gateway}" if gateway else ""
    return f"route {to}{via} dev {device}" + (f" src {source}" if source else "") + (f" mtu {mtu}" if mtu else "")


def _neighbour_name(address: str, mac: str, device: str) -> str:
    return f"neighbour {address} lladdr {mac} dev {device}"


def _program_name(program: str, device: str, direction: str) -> str:
    return f"program {program} on {device} {direction}"


def _sysctl_name(key: str, value: str) -> str:
    return f"sysctl {key}={value}"


def _device_of(key: str) -> tuple[str, ...]:
    """What a setting of a device is gone with: `net.ipv4.conf.cilium_host.accept_local`."""
    *_, section, device, _ = key.split(".")
    return (_device_name(device),) if section == "conf" and device not in ("all", "default") else ()


class _Look:
    """One namespace that the calling thread is in, and what was asked of it so far."""

    def __init__(self, channel: Socket, things: Sequence[Thing]) -> None:
        self.channel = channel
        self.things = things

    @cached_property
    def links(self) -> Mapping[int, rtnetlink.Link]:
        return self._links()

    def _links(self) -> Mapping[int, rtnetlink.Link]:
        found = [rtnetlink.parse_link(body) for body in self.channel.ask(rtnetlink.all_links())]
        # Without what counts by itself.
        return {link.index: replace(link, rx_packets=0, tx_packets=0) for link in found}

    def is_settled(self) -> bool:
        """Whether the devices are still those that there were at the beginning. What a device goes with (its routes,
        programs, addresses) is gone a moment before or after it: read meanwhile, that is no thing of its own."""
        return self._links() == self.links

    def device(self, index: int) -> str:
        return self.links[index].name if index in self.links else ""


def _devices(look: _Look) -> Iterator[str]:
    for link in look.links.values():
        yield _device_name(link.name)
        yield _mtu_name(link.name, link.mtu)
        yield _mac_name(link.name, link.mac)
        if link.flags & rtnetlink.IFF_UP:
            yield _up_name(link.name)
        if link.master:
            yield _port_name(link.name, look.device(link.master))


def _addresses(look: _Look) -> Iterator[str]:
    for found in map(rtnetlink.parse_address, look.channel.ask(rtnetlink.all_addresses())):
        yield _address_name(found.address, found.prefix, look.device(found.index))


def _routes(look: _Look) -> Iterator[str]:
    for found in map(rtnetlink.parse_route, look.channel.ask(rtnetlink.all_routes())):
        if found is not None:
            device = look.device(found.index)
            yield _route_name(found.destination, found.prefix, found.gateway, device, found.source, found.mtu)


def _neighbours(look: _Look) -> Iterator[str]:
    for found in map(rtnetlink.parse_neighbour, look.channel.ask(rtnetlink.all_neighbours())):
        if found is not None:
            yield _neighbour_name(found.address, found.mac, look.device(found.index))


def _programs(look: _Look) -> Iterator[str]:
    for link in look.links.values():
        for direction in Direction:
            # A device without a clsact qdisc has no such hooks: the kernel refuses, which means none.
            with contextlib.suppress(NetlinkError):
                for found in map(
                    rtnetlink.parse_filter, look.channel.ask(rtnetlink.filters_of(link.index, direction.hook))
                ):
                    if found is not None:
                        # `tc` names what it attaches by its pin, which is the program's: `cil_to_host:[*fsobj]`.
                        program = found.name.partition(":")[0].removesuffix(f"-{link.name}")
                        yield _program_name(program, link.name, direction)


def _sysctls(look: _Look) -> Iterator[str]:
    for thing in look.things:
        if thing.kind is Kind.SYSCTL:
            key, _, _ = thing.name.removeprefix("sysctl ").partition("=")
            with contextlib.suppress(FileNotFoundError):
                yield _sysctl_name(key, _SYSCTLS.joinpath(*key.split(".")).read_text(encoding="ascii").strip())


def _rules(look: _Look) -> Iterator[str]:
    return _numbered(rule_comments())


_READERS: Mapping[Kind, Callable[[_Look], Iterator[str]]] = {
    Kind.DEVICE: _devices,
    Kind.ADDRESS: _addresses,
    Kind.ROUTE: _routes,
    Kind.NEIGHBOUR: _neighbours,
    Kind.PROGRAM: _programs,
    Kind.SYSCTL: _sysctls,
    Kind.RULE: _rules,
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there of one namespace, by the names of things. `unread` are the kinds that could not be read: nothing
    can be said of those."""

    names: frozenset[str]
    unread: frozenset[Kind] = field(default_factory=frozenset)

    def has(self, thing: Thing) -> bool:
        return thing.name in self.names or thing.kind in self.unread


def observe(namespace: str, things: Sequence[Thing]) -> Observed | None:
    """Reads every kind that the things are of, again when devices came or went meanwhile. None when the namespace
    cannot be entered."""
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            for _ in range(_LOOKS):
                look = _Look(channel, things)
                seen = _read(look)
                if look.is_settled():
                    break
    except OSError:
        return None
    return seen


def _read(look: _Look) -> Observed:
    names: set[str] = set()
    unread: set[Kind] = set()
    for kind in {thing.kind: None for thing in look.things if thing.kind in _READERS}:
        try:
            names.update(_READERS[kind](look))
        except OSError:
            unread.add(kind)
    return Observed(frozenset(names), frozenset(unread))


def lacking(lab: Lab, marked: Iterable[str]) -> tuple[str, ...]:
    """What is missing of the lab, in the order of its plan, each as a person would name it. `marked` are the namespaces
    that carry labctl's mark: what is in others is somebody else's."""
    there = frozenset(marked)
    pods = {namespace_of(lab.name, pod.name) for pod in lab.pods}
    by_namespace: dict[str, list[Thing]] = {}
    for thing in wanted(action for step in plan(lab).steps for action in step.actions):
        # The one setting of pods keeps IPv6 out of captures. Where there are a thousand, opening it costs half a
        # millisecond in each, more than all the rest.
        if thing.kind is not Kind.SYSCTL or thing.namespace not in pods:
            by_namespace.setdefault(thing.namespace, []).append(thing)
    seen = {name: observe(name, things) for name, things in by_namespace.items() if name in there}
    return tuple(map(str, missing((thing for things in by_namespace.values() for thing in things), seen)))


def missing(things: Iterable[Thing], seen: Mapping[str, Observed | None]) -> Iterator[Thing]:
    """The things that are not there, less those that went with another one that is named. Pure."""
    gone: dict[tuple[str, str], Thing] = {}
    for thing in things:
        found = seen.get(thing.namespace)
        if found is None:
            if thing.kind is Kind.NAMESPACE:
                gone[thing.namespace, thing.name] = thing
        elif thing.kind is not Kind.NAMESPACE and not found.has(thing):
            gone[thing.namespace, thing.name] = thing
    for thing in gone.values():
        explained = any((thing.namespace, need) in gone for need in thing.needs)
        if not explained and all(seen.get(end) is not None for end in thing.ends):
            yield thing
