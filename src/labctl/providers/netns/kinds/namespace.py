"""Namespaces, each with its mark on its loopback device, their settings, and the record of what is marked: a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labctl.model.interfaces import LO, LO_INDEX
from labctl.planning.shell import word, written
from labctl.providers.netns.kinds.base import BuildContext, Kind, NamespaceReader, Object, ObjectKind, Thing
from labctl.providers.netns.kinds.link import device_name, device_things, ip
from labctl.system import files, netlink, netns, rtnetlink

_SYSCTLS = Path("/proc/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceAdd(Object):
    """A namespace whose loopback is up and carries `alias`, the mark by which labctl knows its own."""

    namespace: str
    alias: str

    def shell(self) -> str:
        return f"ip netns add {word(self.namespace)}\n{ip(self.namespace)} link set dev lo up alias {word(self.alias)}"

    def things(self) -> Iterator[Thing]:
        yield Thing(self.namespace, ObjectKind.NAMESPACE, "")
        yield from device_things(self.namespace, LO, up=True)

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
        if not self.if_there:
            for key, value in self.settings:
                yield Thing(self.namespace, ObjectKind.SYSCTL, _sysctl_name(key, value), _device_of(key))

    def make(self, context: BuildContext) -> None:
        with netns.entered(context.namespaces.descriptor(self.namespace)):
            for key, value in self.settings:
                try:
                    _SYSCTLS.joinpath(*key.split(".")).write_text(value)
                except FileNotFoundError:
                    if not self.if_there:
                        raise


def _sysctl_name(key: str, value: str) -> str:
    return f"sysctl {key}={value}"


def _device_of(key: str) -> tuple[str, ...]:
    """What a setting of a device is gone with: `net.ipv4.conf.eth0.accept_local`."""
    *_, section, device, _ = key.split(".")
    return (device_name(device),) if section == "conf" and device not in ("all", "default") else ()


def _sysctls(look: NamespaceReader) -> Iterator[str]:
    for thing in look.things:
        if thing.kind is ObjectKind.SYSCTL:
            key, _, _ = thing.name.removeprefix("sysctl ").partition("=")
            with contextlib.suppress(FileNotFoundError):
                yield _sysctl_name(key, _SYSCTLS.joinpath(*key.split(".")).read_text(encoding="ascii").strip())


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


NAMESPACES = Kind(name=ObjectKind.NAMESPACE, objects=(NamespaceAdd, NamespaceDelete))
SYSCTLS = Kind(name=ObjectKind.SYSCTL, objects=(Sysctls,), read=_sysctls)
RECORDS = Kind(name="record", objects=(RecordWrite, RecordDelete))
