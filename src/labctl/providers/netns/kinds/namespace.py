"""Namespaces, each with its mark on its loopback device, their settings, and the record of what is marked: a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from labctl.model.interfaces import LO, LO_INDEX
from labctl.planning.shell import word, written
from labctl.providers.netns.kinds.base import BuildContext, Found, Kind, NamespaceReader, Object, ObjectKind, Thing
from labctl.providers.netns.kinds.link import DeviceSet, device_name, device_things, ip
from labctl.system import files, netlink, netns, rtnetlink, rtnetlink_readings
from labctl.values import dataclass

_SYSCTLS = Path("/proc/sys")
_NO_IPV6 = "net.ipv6.conf.all.disable_ipv6"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceAdd(Object):
    """A namespace whose loopback is up and carries `alias`, the mark by which labctl knows its own."""

    namespace: str
    alias: str

    def shell(self) -> str:
        return f"ip netns add {word(self.namespace)}\n{ip(self.namespace)} link set dev lo up alias {word(self.alias)}"

    def things(self) -> Iterator[Thing]:
        yield Thing(self.namespace, ObjectKind.NAMESPACE, "")
        yield from device_things(self.namespace, LO, LO_INDEX, up=True)

    def details(self) -> Iterator[Thing]:
        key, mend = f"device {LO} alias", partial(_mark, self.namespace, self.alias)
        yield Thing(
            self.namespace, ObjectKind.NAMESPACE, f"{key} {self.alias}", (device_name(LO),), (), key, self.alias, mend
        )

    def undo(self) -> tuple[Object, ...]:
        return (NamespaceDelete(namespace=self.namespace),)

    def make(self, context: BuildContext) -> None:
        channel: list[netlink.Socket] = []

        def mark() -> None:
            channel.append(netlink.Socket())
            channel[0].send([rtnetlink.link_mark(LO_INDEX, alias=self.alias)])

        try:
            descriptor = netns.create(self.namespace, mark)
        except BaseException:
            for opened in channel:
                opened.close()
            raise
        context.made.add(self.namespace)
        context.namespaces.keep(self.namespace, descriptor, channel[0])


def _mark(namespace: str, alias: str) -> tuple[Object, ...]:
    return (DeviceSet(namespace=namespace, device=LO, index=LO_INDEX, alias=alias),)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDrop(Object):
    """Drops a namespace that was there before, with the processes in it and every device. It has labctl's mark, or
    stands on a file that no namespace is mounted on."""

    namespace: str

    def shell(self) -> str:
        place = word(self.namespace)
        return f"ip netns pids {place} | xargs -r kill -9\nip netns delete {place}"

    def make(self, context: BuildContext) -> None:
        context.namespaces.forget(self.namespace)
        if (key := netns.key_of(self.namespace)) is not None:
            netns.end_processes([key])
        netns.delete(self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDelete(Object):
    """Drops a namespace, and with it every device in it."""

    namespace: str

    def shell(self) -> str:
        return f"ip netns delete {word(self.namespace)}"

    def make(self, context: BuildContext) -> None:
        """Only what was made here: undoing a step that failed because its name was taken must not remove what had
        the name."""
        context.namespaces.forget(self.namespace)
        if self.namespace in context.made:
            context.made.discard(self.namespace)
            netns.delete(self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctls(Object):
    """Settings of one namespace, in order: (`net.ipv4.ip_forward`, `1`). With `if_there`, those that this kernel
    does not have are skipped."""

    namespace: str
    settings: tuple[tuple[str, str], ...]
    if_there: bool = False

    def shell(self) -> str:
        words = " ".join(word(f"{key}={value}") for key, value in self.settings)
        place = word(f"--net={netns.path_of(self.namespace)}")
        return f"nsenter {place} sysctl -{'e' if self.if_there else ''}qw {words}"

    def things(self) -> Iterator[Thing]:
        for key, value in () if self.if_there else self.settings:
            yield self._thing(key, value)

    def details(self) -> Iterator[Thing]:
        for key, value in self.settings if self.if_there else ():
            yield self._thing(key, value)

    def _thing(self, key: str, value: str) -> Thing:
        mend = partial(_set_one, self.namespace, key, value, self.if_there)
        name = f"sysctl {key}={value}"
        goes_with = _device_of(key)
        return Thing(
            self.namespace, ObjectKind.SYSCTL, name, goes_with, (), f"sysctl {key}", value, mend, self.if_there
        )

    def make(self, context: BuildContext) -> None:
        with netns.entered(context.namespaces.descriptor(self.namespace)):
            for key, value in self.settings:
                try:
                    _SYSCTLS.joinpath(*key.split(".")).write_text(value)
                except FileNotFoundError:
                    if not self.if_there:
                        raise


def _set_one(namespace: str, key: str, value: str, if_there: bool) -> tuple[Object, ...]:
    return (Sysctls(namespace=namespace, settings=((key, value),), if_there=if_there),)


def _device_of(key: str) -> tuple[str, ...]:
    """What a setting of a device is gone with: `net.ipv4.conf.eth0.accept_local`."""
    *_, section, device, _ = key.split(".")
    return (device_name(device),) if section == "conf" and device not in ("all", "default") else ()


def _sysctls(look: NamespaceReader) -> Iterator[Found]:
    """Those that are looked for; closely also those of devices that differ from the namespace's default, which the
    kernel gives to each new device."""
    listed = dict(_listed(look)) if look.closely else {}
    asked = {thing.of.removeprefix("sysctl ") for thing in look.things if thing.kind is ObjectKind.SYSCTL}
    for key in asked:
        if key in listed:
            yield Found(f"sysctl {key}", listed[key])
            continue
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"{_SYSCTLS}/{key.replace('.', '/')}").read_text(encoding="ascii").strip()
            yield Found(f"sysctl {key}", text)
    for key, value in listed.items():
        if key == _NO_IPV6:
            continue
        *_, device, name = key.split(".")
        default = listed.get(f"net.ipv4.conf.default.{name}", value)
        if device not in ("all", "default", LO) and key not in asked and value != default:
            yield Found(f"sysctl {key}", value, partial(_back_to, look.namespace, key, default))


def _back_to(namespace: str, key: str, value: str) -> Object:
    return Sysctls(namespace=namespace, settings=((key, value),))


def _listed(look: NamespaceReader) -> Iterator[tuple[str, str]]:
    """The settings that netlink tells all at once: opening the file of each costs more than all the rest."""
    names = {rtnetlink_readings.CONF_ALL: "all", rtnetlink_readings.CONF_DEFAULT: "default"}
    answers = [*look.channel.ask(rtnetlink_readings.every_conf())]  # one question at a time: devices are asked for too
    for conf in map(rtnetlink_readings.parse_conf, answers):
        if device := names.get(conf.index) or look.device(conf.index):
            place = f"net.ipv4.conf.{device}"
            yield f"{place}.forwarding", str(conf.forwarding)
            yield f"{place}.rp_filter", str(conf.rp_filter)
            yield f"{place}.proxy_arp", str(conf.proxy_arp)
            if device == "all":
                yield "net.ipv4.ip_forward", str(conf.forwarding)
    # Whoever sets it for all sets it for each device.
    if all(rtnetlink_readings.has_no_ipv6(body) is not False for body in look.answers.values()):
        yield _NO_IPV6, "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWrite(Object):
    """The lab's facts in a file, for `labctl status`; written last, so its presence says that the lab is whole."""

    path: Path
    document: str

    def shell(self) -> str:
        return "\n".join((f"mkdir -p {word(self.path.parent)}", written(self.path, f"{self.document}\n")))

    def undo(self) -> tuple[Object, ...]:
        return (RecordDelete(path=self.path),)

    def make(self, context: BuildContext) -> None:
        with files.open_private(self.path.parent) as folder:
            folder.write(self.path.name, self.document.encode() + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDelete(Object):
    path: Path

    def shell(self) -> str:
        return f"rm -rf {word(self.path.parent)}"

    def make(self, context: BuildContext) -> None:
        files.remove_tree(self.path.parent)


NAMESPACES = Kind(name=ObjectKind.NAMESPACE, objects=(NamespaceAdd, NamespaceDelete, NamespaceDrop))
SYSCTLS = Kind(name=ObjectKind.SYSCTL, objects=(Sysctls,), read=_sysctls)
RECORDS = Kind(name="record", objects=(RecordWrite, RecordDelete))
