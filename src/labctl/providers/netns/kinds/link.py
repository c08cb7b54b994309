"""Devices: bridges, veth pairs, vxlan, macvlan and ipvlan. Names, addresses, MTU and bridge are read back."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from labctl.errors import HostLacks, StepFailed
from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import (
    BuildContext,
    Kind,
    NamespaceReader,
    NetlinkObject,
    Object,
    ObjectKind,
    Thing,
)
from labctl.system import rtnetlink
from labctl.system.clock import Deadline
from labctl.system.netlink import Request
from labctl.system.rtnetlink import PortState
from labctl.system.rtnetlink import Sharing as Sharing
from labctl.system.rtnetlink import SpanningTree as SpanningTree
from labctl.system.rtnetlink import Tunnel as Tunnel

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
        yield from device_things(namespace, self.name, up=up, ends=ends)
        needs = (device_name(self.name),)
        yield Thing(namespace, ObjectKind.DEVICE, _mtu_name(self.name, self.mtu), needs, ends)
        yield Thing(namespace, ObjectKind.DEVICE, _mac_name(self.name, self.mac), needs, ends)


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
            name, bridge = self.device.name, self.bridge[0]
            needs = (device_name(name), device_name(bridge))
            yield Thing(self.namespace, ObjectKind.DEVICE, _port_name(name, bridge), needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanAdd(_DeviceAdd):
    """A vxlan device whose tunnels the eBPF programs choose, packet by packet (collect-metadata mode), up."""

    kind = "vxlan"
    port: int

    def shell(self) -> str:
        return (
            f"{ip(self.namespace)} link add {self.device.words()} up type vxlan external nolearning dstport {self.port}"
        )

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.vxlan_add(self.device.encoded(up=True), port=self.port)


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
        yield from self.device.things(self.namespace, up=True)
        if self.bridge:
            name, bridge = self.device.name, self.bridge[0]
            yield Thing(
                self.namespace, ObjectKind.DEVICE, _port_name(name, bridge), (device_name(name), device_name(bridge))
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
        yield Thing(self.namespace, ObjectKind.DEVICE, up_name(self.device), (device_name(self.device),))


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAdd(OnDevice):
    """Makes a device a port of a bridge (name and index), and takes it up."""

    bridge: tuple[str, int]

    def shell(self) -> str:
        return f"{ip(self.namespace)} link set dev {word(self.device)} master {word(self.bridge[0])} up"

    def request(self, context: BuildContext) -> Request:
        return rtnetlink.port_add(self.index, bridge=self.bridge[1])

    def things(self) -> Iterator[Thing]:
        needs = (device_name(self.device), device_name(self.bridge[0]))
        yield Thing(self.namespace, ObjectKind.DEVICE, up_name(self.device), needs[:1])
        yield Thing(self.namespace, ObjectKind.DEVICE, _port_name(self.device, self.bridge[0]), needs)


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


def device_things(namespace: str, device: str, *, up: bool, ends: tuple[str, ...] = ()) -> Iterator[Thing]:
    yield Thing(namespace, ObjectKind.DEVICE, device_name(device), ends=ends)
    if up:
        yield Thing(namespace, ObjectKind.DEVICE, up_name(device), (device_name(device),), ends)


def device_name(device: str) -> str:
    return f"device {device}"


def up_name(device: str) -> str:
    return f"device {device} up"


def _mtu_name(device: str, mtu: int) -> str:
    return f"device {device} mtu {mtu}"


def _mac_name(device: str, mac: str) -> str:
    return f"device {device} address {mac}"


def _port_name(device: str, bridge: str) -> str:
    return f"device {device} master {bridge}"


def _devices(look: NamespaceReader) -> Iterator[str]:
    for link in look.links.values():
        yield device_name(link.name)
        yield _mtu_name(link.name, link.mtu)
        yield _mac_name(link.name, link.mac)
        if link.flags & rtnetlink.IFF_UP:
            yield up_name(link.name)
        if link.master:
            yield _port_name(link.name, look.device(link.master))


DEVICES = Kind(
    name=ObjectKind.DEVICE,
    objects=(BridgeAdd, VethAdd, VxlanAdd, TunnelAdd, SharedAdd, LinkUp, PortAdd, PortsAwait),
    read=_devices,
)
