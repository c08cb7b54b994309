"""Devices: bridges, veth pairs, vxlan, macvlan and ipvlan. Names, addresses, MTU and bridge are read back."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from labctl.errors import HostLacks, StepFailed
from labctl.model.interfaces import LO
from labctl.names import split_namespace
from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    NetlinkObject,
    Object,
    ObjectKind,
    Thing,
    failed,
)
from labctl.providers.netns.kinds.delay import is_own
from labctl.system import netns, rtnetlink, rtnetlink_changes, rtnetlink_readings
from labctl.system.clock import Deadline
from labctl.system.netlink import NetlinkError, Request
from labctl.system.rtnetlink import PortState
from labctl.system.rtnetlink import Sharing as Sharing
from labctl.system.rtnetlink import SpanningTree as SpanningTree
from labctl.system.rtnetlink import Tunnel as Tunnel
from labctl.values import dataclass

_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device to be made. `mtu` in bytes; `arp` false is for devices without ARP (IFF_NOARP)."""

    name: str
    index: int
    mac: str
    mtu: int
    arp: bool = True

    def words(self) -> str:
        return f"name {word(self.name)} index {self.index} address {word(self.mac)} mtu {self.mtu}" + (
            "" if self.arp else " arp off"
        )

    def encoded(self, *, up: bool) -> rtnetlink.NetDevice:
        flags = (rtnetlink.IFF_UP if up else 0) | (0 if self.arp else rtnetlink.IFF_NOARP)
        return rtnetlink.NetDevice(name=self.name, index=self.index, mac=self.mac, mtu=self.mtu, flags=flags)

    def things(self, namespace: str, *, up: bool, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
        yield from device_things(namespace, self.name, self.index, up=up, ends=ends)
        yield self._property(namespace, ends, "mtu", str(self.mtu), mtu=self.mtu)
        yield self._property(namespace, ends, "address", self.mac, mac=self.mac)

    def details(self, namespace: str, kind: str, words: str = "", *, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
        """What a device cannot change: its index, its kind, and what is particular to that."""
        yield self._property(namespace, ends, "arp", "on" if self.arp else "off", arp=self.arp)
        for what, value in (("index", str(self.index)), ("type", f"{kind} {words}".strip())):
            key, needs = f"device {self.name} {what}", (device_name(self.name),)
            yield Thing(namespace, ObjectKind.DEVICE, f"{key} {value}", needs, ends, key, value)

    def _property(self, namespace: str, ends: tuple[str, ...], what: str, value: str, **change: Any) -> Thing:
        key = f"device {self.name} {what}"
        mend = partial(_set, namespace, self.name, self.index, change)
        return Thing(namespace, ObjectKind.DEVICE, f"{key} {value}", (device_name(self.name),), ends, key, value, mend)


def _no_such_kind(kind: str, refused: OSError) -> HostLacks | None:
    if refused.errno != errno.EOPNOTSUPP:
        return None
    return HostLacks(
        what=f"this kernel has no {kind} devices",
        cause=f"it was built without CONFIG_{kind.upper()}, or the module is not loaded",
        remedy=f"modprobe {kind}; or a kernel with CONFIG_{kind.upper()}, such as a distribution's own",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeviceAdd(NetlinkObject):
    """A device of one end, up. `kind` is the kernel's name for such devices."""

    namespace: str
    device: Device
    kind: ClassVar[str]

    def lack(self, refused: OSError) -> HostLacks | None:
        return _no_such_kind(self.kind, refused)

    def things(self) -> Iterator[Thing]:
        return self.device.things(self.namespace, up=True)

    def words(self) -> str:
        """What is particular to the kind, as `_words_of` reads it."""
        return ""

    def details(self) -> Iterator[Thing]:
        return self.device.details(self.namespace, self.kind, self.words())


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeAdd(_DeviceAdd):
    """A bridge, up. Without `spanning_tree` it forwards from the first packet on, and never finds a loop."""

    kind = "bridge"
    spanning_tree: SpanningTree | None = None

    def shell(self) -> str:
        tree = self.spanning_tree
        words = (
            f" stp_state 1 priority {tree.priority} hello_time {tree.hello} forward_delay {tree.forward_delay}"
            f" max_age {tree.max_age}"
            if tree
            else ""
        )
        return f"{ip(self.namespace)} link add {self.device.words()} up type bridge{words}"

    def words(self) -> str:
        tree = self.spanning_tree
        return _tree_words(tree.priority, tree.hello, tree.forward_delay, tree.max_age) if tree else "stp off"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.bridge_add(self.device.encoded(up=True), spanning_tree=self.spanning_tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class VethAdd(NetlinkObject):
    """A veth pair: `device` here and up, `peer` in `peer_namespace` (None: here too) and still down.

    `bridge` is the name and index of the bridge that `device` is a port of.
    """

    namespace: str
    device: Device
    peer: Device
    peer_namespace: str | None = None
    bridge: tuple[str, int] | None = None

    def shell(self) -> str:
        master = f" master {word(self.bridge[0])}" if self.bridge else ""
        away = f" netns {word(self.peer_namespace)}" if self.peer_namespace else ""
        return (
            f"{ip(self.namespace)} link add {self.device.words()}{master} up type veth peer {self.peer.words()}{away}"
        )

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.veth_add(
            self.device.encoded(up=True),
            self.peer.encoded(up=False),
            peer_namespace=context.namespaces.descriptor(self.peer_namespace) if self.peer_namespace else None,
            master=self.bridge[1] if self.bridge else None,
        )

    def things(self) -> Iterator[Thing]:
        peer = self.peer_namespace or self.namespace
        yield from self.device.things(self.namespace, up=True, ends=(peer,))
        yield from self.peer.things(peer, up=False, ends=(self.namespace,))
        if self.bridge:
            yield _port_thing(self.namespace, self.device.name, self.device.index, self.bridge)

    def details(self) -> Iterator[Thing]:
        peer = self.peer_namespace or self.namespace
        yield from self.device.details(self.namespace, "veth", ends=(peer,))
        yield from self.peer.details(peer, "veth", ends=(self.namespace,))
        # Of one end: a wire that leads elsewhere does so from both.
        key, value = f"device {self.peer.name} {PEER}", peer_words(self.device.index, self.namespace)
        needs = (device_name(self.peer.name),)
        yield Thing(peer, ObjectKind.DEVICE, f"{key} {value}", needs, (self.namespace,), key, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanAdd(_DeviceAdd):
    """A vxlan device whose tunnels the eBPF programs choose, packet by packet (collect-metadata mode), up."""

    kind = "vxlan"
    port: int

    def shell(self) -> str:
        return (
            f"{ip(self.namespace)} link add {self.device.words()} up type vxlan external nolearning dstport {self.port}"
        )

    def words(self) -> str:
        return f"external dstport {self.port} nolearning"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.external_tunnel_add(self.device.encoded(up=True), self.kind, port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneveAdd(_DeviceAdd):
    """A geneve device whose tunnels the eBPF programs choose, packet by packet, up."""

    kind = "geneve"
    port: int

    def shell(self) -> str:
        return f"{ip(self.namespace)} link add {self.device.words()} up type geneve external dstport {self.port}"

    def words(self) -> str:
        return f"external dstport {self.port}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.external_tunnel_add(self.device.encoded(up=True), self.kind, port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelAdd(_DeviceAdd):
    """A vxlan device whose tunnels are in its own forwarding database, up. `lower` is the device that it sends by;
    `bridge` is the name and index of the bridge that it is a port of."""

    kind = "vxlan"
    tunnel: Tunnel
    lower: str
    bridge: tuple[str, int] | None = None

    def shell(self) -> str:
        tunnel = self.tunnel
        to = ""
        if tunnel.remote is not None:
            to = f" {'group' if tunnel.remote.is_multicast else 'remote'} {tunnel.remote}"
        master = f" master {word(self.bridge[0])}" if self.bridge else ""
        return (
            f"{ip(self.namespace)} link add {self.device.words()}{master} up type vxlan id {tunnel.vni}{to} "
            f"local {tunnel.local} dev {word(self.lower)} dstport {tunnel.port}"
            f" {'learning' if tunnel.learning else 'nolearning'}"
        )

    def request(self, context: BuildContext) -> Request:
        master = self.bridge[1] if self.bridge else None
        return rtnetlink.vxlan_tunnel_add(self.device.encoded(up=True), self.tunnel, master=master)

    def things(self) -> Iterator[Thing]:
        for thing in self.device.things(self.namespace, up=True):
            yield replace(thing, needs=(*thing.needs, device_name(self.lower)))
        if self.bridge:
            yield _port_thing(self.namespace, self.device.name, self.device.index, self.bridge)

    def words(self) -> str:
        tunnel = self.tunnel
        return _tunnel_words(
            tunnel.vni, str(tunnel.remote or ""), str(tunnel.local), tunnel.link, tunnel.port, learning=tunnel.learning
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAdd(NetlinkObject):
    """A macvlan or ipvlan device in `inside`, on a device of `namespace` (`lower`: its name and index), still down.

    An ipvlan has the MAC of the device below it.
    """

    namespace: str
    lower: tuple[str, int]
    sharing: Sharing
    device: Device
    inside: str

    def lack(self, refused: OSError) -> HostLacks | None:
        return _no_such_kind(self.sharing, refused)

    def shell(self) -> str:
        mode = "bridge" if self.sharing is Sharing.MACVLAN else "l2"
        return (
            f"{ip(self.namespace)} link add {self.device.words()} link {word(self.lower[0])} "
            f"netns {word(self.inside)} type {self.sharing} mode {mode}"
        )

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.shared_add(
            self.device.encoded(up=False),
            kind=self.sharing,
            lower=self.lower[1],
            namespace=context.namespaces.descriptor(self.inside),
        )

    def things(self) -> Iterator[Thing]:
        return self.device.things(self.inside, up=False, ends=(self.namespace,))

    def details(self) -> Iterator[Thing]:
        words = f"mode {'bridge' if self.sharing is Sharing.MACVLAN else 'l2'}"
        return self.device.details(self.inside, str(self.sharing), words, ends=(self.namespace,))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice(NetlinkObject):
    """An object of a device that is there: its name and index in its namespace."""

    namespace: str
    device: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp(OnDevice):
    def shell(self) -> str:
        return f"{ip(self.namespace)} link set dev {word(self.device)} up"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.link_up(self.index)

    def things(self) -> Iterator[Thing]:
        yield _up_thing(self.namespace, self.device, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAdd(OnDevice):
    """Makes a device a port of a bridge (name and index), and takes it up."""

    bridge: tuple[str, int]

    def shell(self) -> str:
        return f"{ip(self.namespace)} link set dev {word(self.device)} master {word(self.bridge[0])} up"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.port_add(self.index, bridge=self.bridge[1])

    def things(self) -> Iterator[Thing]:
        yield _up_thing(self.namespace, self.device, self.index)
        yield _port_thing(self.namespace, self.device, self.index, self.bridge)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortsAwait(Object):
    """Waits until no port of the namespace's bridges is on its way to forwarding (listening or learning)."""

    namespace: str
    timeout_s: float = 60.0

    def shell(self) -> str:
        place = word(self.namespace)
        return f"while bridge -n {place} link show | grep -qE 'state (listening|learning)'; do sleep 0.1; done"

    def make(self, context: BuildContext) -> None:
        deadline = Deadline.after(self.timeout_s)
        channel = context.namespaces.channel(self.namespace)
        while True:
            states = [rtnetlink.parse_port(body) for body in channel.ask(rtnetlink.all_ports())]
            waiting = sum(state in (PortState.LISTENING, PortState.LEARNING) for state in states)
            if not waiting:
                return
            if deadline.is_over():
                raise StepFailed(
                    what=f"the spanning tree in {self.namespace} has not settled after {self.timeout_s:g} s",
                    cause=f"{waiting} of {len(states)} ports do not forward yet",
                    remedy=f"bridge -n {self.namespace} link show",
                )
            time.sleep(_POLL_S)


def ip(namespace: str) -> str:
    """The beginning of an ip command inside a namespace."""
    return f"ip -n {word(namespace)}"


def device_things(namespace: str, device: str, index: int, *, up: bool, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
    yield Thing(namespace, ObjectKind.DEVICE, device_name(device), ends=ends)
    if up:
        yield _up_thing(namespace, device, index, ends)


def _up_thing(namespace: str, device: str, index: int, ends: tuple[str, ...] = ()) -> Thing:
    mend = partial(_set, namespace, device, index, {"up": True})
    name = up_name(device)
    return Thing(namespace, ObjectKind.DEVICE, name, (device_name(device),), ends, f"device {device} state", "up", mend)


def _port_thing(namespace: str, device: str, index: int, bridge: tuple[str, int]) -> Thing:
    needs, key = (device_name(device), device_name(bridge[0])), f"device {device} master"
    mend = partial(_set, namespace, device, index, {"bridge": bridge})
    return Thing(namespace, ObjectKind.DEVICE, f"{key} {bridge[0]}", needs, (), key, bridge[0], mend)


def _set(namespace: str, device: str, index: int, change: Mapping[str, Any]) -> tuple[Object, ...]:
    return (DeviceSet(namespace=namespace, device=device, index=index, **change),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSet(OnDevice):
    """Changes what is given of a device. `mtu` in bytes; `bridge` is the name and index of the bridge that it becomes a
    port of, ("", 0) for none."""

    mtu: int | None = None
    mac: str | None = None
    up: bool | None = None
    arp: bool | None = None
    bridge: tuple[str, int] | None = None
    alias: str | None = None

    def shell(self) -> str:
        words = ""
        if self.mtu is not None:
            words += f" mtu {self.mtu}"
        if self.mac is not None:
            words += f" address {word(self.mac)}"
        if self.arp is not None:
            words += f" arp {'on' if self.arp else 'off'}"
        if self.bridge is not None:
            words += f" master {word(self.bridge[0])}" if self.bridge[0] else " nomaster"
        if self.alias is not None:
            words += f" alias {word(self.alias)}"
        if self.up is not None:
            words += " up" if self.up else " down"
        return f"{ip(self.namespace)} link set dev {word(self.device)}{words}"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.link_set(
            self.index,
            mtu=self.mtu,
            mac=self.mac,
            up=self.up,
            arp=self.arp,
            bridge=self.bridge[1] if self.bridge else None,
            alias=self.alias,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDelete(OnDevice):
    """Removes a device, and with it all that is on it and the other end of its pair. One that is gone already, with its
    other end, is no error."""

    def shell(self) -> str:
        return f"{ip(self.namespace)} link delete dev {word(self.device)}"

    def batch(self) -> Batch:
        return (_delete_devices, self.namespace)

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.link_delete(self.index)


def _delete_devices(objects: Sequence[DeviceDelete], context: BuildContext) -> None:
    for one in objects:
        try:
            context.namespaces.channel(one.namespace).send([one.request(context)])
        except NetlinkError as refused:
            if refused.errno != errno.ENODEV:
                raise failed(one, refused) from refused


_XDP_WORDS = {1: "xdpdrv", 2: "xdpgeneric", 3: "xdpoffload"}
"""iproute2's, by the mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpDetach(OnDevice):
    """Takes the XDP program off a device, in the mode that it is attached in (`LinkDetail.xdp_mode`)."""

    mode: int = 0

    def shell(self) -> str:
        return f"{ip(self.namespace)} link set dev {word(self.device)} {_XDP_WORDS.get(self.mode, 'xdp')} off"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink_changes.xdp_remove(self.index, self.mode)


def device_name(device: str) -> str:
    return f"device {device}"


PEER = "peer"


def peer_words(index: int, namespace: str) -> str:
    return f"index {index} of {namespace}"


def up_name(device: str) -> str:
    return f"device {device} up"


def _tree_words(priority: int, hello: int, forward_delay: int, max_age: int) -> str:
    return f"stp on priority {priority} hello_time {hello} forward_delay {forward_delay} max_age {max_age}"


def _tunnel_words(vni: int, remote: str, local: str, link: int, port: int, *, learning: bool) -> str:
    to = f" remote {remote}" if remote else ""
    return f"id {vni}{to} local {local} link {link} dstport {port} {'learning' if learning else 'nolearning'}"


def _words_of(kind: str, data: Mapping[int, bytes]) -> str:
    """What is particular to a device of that kind, in the words of the objects above."""
    match kind:
        case "bridge":
            return _tree_words(*tree) if (tree := rtnetlink_readings.spanning_tree_of(data)) else "stp off"
        case "vxlan":
            tunnel = rtnetlink_readings.tunnel_of(data)
            if tunnel.is_external:
                return f"external dstport {tunnel.port} {'learning' if tunnel.learning else 'nolearning'}"
            return _tunnel_words(
                tunnel.vni, tunnel.remote, tunnel.local, tunnel.link, tunnel.port, learning=tunnel.learning
            )
        case "geneve":
            port, is_external = rtnetlink_readings.geneve_of(data)
            return f"{'external ' if is_external else ''}dstport {port}"
        case "macvlan" | "ipvlan":
            return f"mode {rtnetlink_readings.sharing_mode_of(kind, data)}"
        case _:
            return ""


def _devices(look: NamespaceReader) -> Iterator[Found]:
    for link in look.links.values():
        device, is_own = f"device {link.name}", link.name == LO
        on_device = partial(DeviceDelete, namespace=look.namespace, device=link.name, index=link.index)
        yield Found(device, "", None if is_own else on_device)
        yield Found(f"{device} mtu", str(link.mtu))
        yield Found(f"{device} address", link.mac)
        yield Found(f"{device} state", "up" if link.flags & rtnetlink.IFF_UP else "down")
        if link.master:
            free = partial(DeviceSet, namespace=look.namespace, device=link.name, index=link.index, bridge=("", 0))
            yield Found(f"{device} master", look.device(link.master), free)
        if look.closely:
            yield from _closely(look, link)


def _closely(look: NamespaceReader, link: rtnetlink.Link) -> Iterator[Found]:
    device = f"device {link.name}"
    detail = rtnetlink_readings.parse_link_detail(look.answers[link.index])
    yield Found(f"{device} arp", "off" if link.flags & rtnetlink.IFF_NOARP else "on")
    yield Found(f"{device} index", str(link.index))
    yield Found(f"{device} type", f"{detail.kind} {_words_of(detail.kind, detail.data)}".strip())
    yield Found(f"{device} alias", link.alias)
    if (wanted := look.peers.get(link.name)) is not None and detail.kind == "veth":
        yield Found(f"{device} {PEER}", _peer_of(look, link, detail.peer_namespace, wanted))
    if detail.xdp and not is_own(detail.xdp):
        off = partial(XdpDetach, namespace=look.namespace, device=link.name, index=link.index, mode=detail.xdp_mode)
        yield Found(f"XDP program on {link.name}", f"id {detail.xdp}", off)


def _peer_of(look: NamespaceReader, link: rtnetlink.Link, number: int | None, wanted: str) -> str:
    """Where the other end of a veth is. `number` is the namespace's, as this one calls it; None for this one."""
    if number is None:
        return peer_words(link.peer, look.namespace)
    expected = wanted.rpartition(" ")[2]
    if look.namespace_number(expected) == number:
        return peer_words(link.peer, expected)
    for name in netns.names():
        if split_namespace(name) and look.namespace_number(name) == number:
            return peer_words(link.peer, name)
    return f"index {link.peer} of a namespace that is not labctl's"


DEVICES = Kind(
    name=ObjectKind.DEVICE,
    objects=(
        BridgeAdd,
        VethAdd,
        VxlanAdd,
        GeneveAdd,
        TunnelAdd,
        SharedAdd,
        LinkUp,
        PortAdd,
        PortsAwait,
        DeviceSet,
        DeviceDelete,
        XdpDetach,
    ),
    read=_devices,
)
