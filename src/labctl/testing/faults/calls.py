"""The system calls by which a program changes the machine: their numbers, and what one of them does, in words.

A call is named by its kind and by what it acts on (`rename /run/labctl/x/*`), without numbers that differ from one
execution to the next. What only reads, and what goes into pipes, memory files and other programs, is none of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from labctl.errors import HostLacks
from labctl.system.netlink import NetlinkFamily
from labctl.values import dataclass

_NUMBERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "open": (2, -1), "creat": (85, -1), "openat": (257, 56),
        "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66),
        "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
        "fsync": (74, 82), "fdatasync": (75, 83),
        "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
        "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1),
        "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36),
        "unlink": (87, -1), "unlinkat": (263, 35), "mknod": (133, -1), "mknodat": (259, 33),
        "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53),
        "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
        "mount": (165, 40), "umount2": (166, 39), "setns": (308, 268), "unshare": (272, 97),
        "bpf": (321, 280), "sendto": (44, 206), "sendmsg": (46, 211),
        "kill": (62, 129), "pidfd_send_signal": (424, 424),
        "execve": (59, 221), "clone": (56, 220), "clone3": (435, 435), "fork": (57, -1), "vfork": (58, -1),
        "socket": (41, 198), "memfd_create": (319, 279), "ioctl": (16, 29),
    }
)  # fmt: skip
"""The call's number on x86-64 and on arm64 (-1: it has none)."""

_MACHINES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
"""Which of the numbers, what seccomp calls the machine (linux/audit.h), the number of seccomp(2)."""

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
"""An open without one of these only reads."""

_AT_FDCWD = -100
_BPF_CHANGES = {
    0: "MAP_CREATE", 2: "MAP_UPDATE_ELEM", 3: "MAP_DELETE_ELEM", 5: "PROG_LOAD", 6: "OBJ_PIN", 8: "PROG_ATTACH",
    9: "PROG_DETACH", 18: "BTF_LOAD", 26: "MAP_UPDATE_BATCH", 28: "LINK_CREATE", 32: "ENABLE_STATS",
}  # fmt: skip
_ROUTE_CHANGES = {
    16: "NEWLINK", 17: "DELLINK", 19: "SETLINK", 20: "NEWADDR", 21: "DELADDR", 24: "NEWROUTE", 25: "DELROUTE",
    28: "NEWNEIGH", 29: "DELNEIGH", 32: "NEWRULE", 33: "DELRULE", 36: "NEWQDISC", 37: "DELQDISC", 40: "NEWTCLASS",
    44: "NEWTFILTER", 45: "DELTFILTER", 80: "NEWNETCONF", 88: "NEWNSID", 104: "NEWNEXTHOP", 105: "DELNEXTHOP",
}  # fmt: skip
_DEVICE_CHANGES = {0x400454CA: "TUNSETIFF", 0x8946: "ETHTOOL"}
_NETFILTER_READS = {1, 4, 7, 10, 13, 16, 19, 21, 22, 25}
"""Of nftables' messages (linux/netfilter/nf_tables.h); of conntrack's 1 reads too."""
_THREAD = 0x10000
"""CLONE_THREAD."""

_HARMLESS = re.compile(
    r"^/dev/(null|tty|pts/|full|zero|u?random)|^/proc/(self|thread-self|\*)/(oom|comm|attr|fd/|task/)"
)
_CHANCE = re.compile(
    r"(?<=/proc/)\d+|(?<=/#)\d+|(?<=/raw/)[^/]+(?:/.+)?|[0-9a-f]{6,}|(?<=-[a-z]-)[0-9a-f]{4}(?=[./-]|$)|\d{8}T\d{6}Z|(?<=\.)[a-z0-9_]{8}$"
)
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)
_NO_FILE = ("pipe:", "socket:", "anon_inode:", "/memfd:", "net:")


@dataclass(frozen=True, slots=True)
class Machine:
    """What seccomp has to know of this machine: its own name for it, its own number, those of the calls."""

    audit: int
    seccomp: int
    numbers: Mapping[str, int]

    def names(self) -> Mapping[int, str]:
        return {number: name for name, number in self.numbers.items()}


def this_machine() -> Machine:
    """Raises HostLacks where the numbers are not known."""
    try:
        column, audit, seccomp = _MACHINES[platform.machine()]
    except KeyError:
        raise HostLacks(
            what=f"faults cannot be put in on {platform.machine()}",
            cause="the numbers of its system calls are not known to labctl",
            remedy="use a machine with x86_64 or aarch64",
        ) from None
    numbers = {name: both[column] for name, both in _NUMBERS.items() if both[column] >= 0}
    return Machine(audit=audit, seccomp=seccomp, numbers=numbers)


@dataclass(frozen=True, slots=True)
class Call:
    """What a call does: its kind (`mount`, `netlink`, `start`, …) and what it acts on."""

    kind: str
    what: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.what}".rstrip()


class Caller:
    """The thread that waits in a call: its memory and its files."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._place = f"/proc/{thread}"

    def memory(self, address: int, size: int) -> bytes:
        with Path(self._place, "mem").open("rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)

    def text(self, address: int) -> str:
        """The string that ends with a zero. Read in pieces that cross no page: the next one may not be there."""
        found = b""
        while address and b"\0" not in found and len(found) < 4096:
            found += self.memory(address + len(found), min(256, 4096 - (address + len(found)) % 4096))
        return os.fsdecode(found.partition(b"\0")[0])

    def words(self, address: int) -> list[str]:
        """The strings of an array of pointers that ends with 0."""
        found: list[str] = []
        while (pointer := int.from_bytes(self.memory(address + 8 * len(found), 8), "little")) and len(found) < 200:
            found.append(self.text(pointer))
        return found

    def write(self, address: int, data: bytes) -> None:
        with Path(self._place, "mem").open("r+b", buffering=0) as file:
            file.seek(address)
            file.write(data)

    def file(self, descriptor: int) -> str:
        """What an open file is called, a pipe by its number; empty where it cannot be known."""
        try:
            return os.readlink(f"{self._place}/fd/{descriptor}")  # noqa: PTH115  # no path: `pipe:[1234]`
        except OSError:
            return ""

    def path(self, directory: int, name: str) -> str:
        if name.startswith("/"):
            return name
        at = os.readlink(f"{self._place}/cwd") if directory == _AT_FDCWD else self.file(directory)  # noqa: PTH115
        return f"{at}/{name}" if name else at

    def protocol(self, descriptor: int) -> int | None:
        """That of a netlink socket; None for anything else."""
        if not self.file(descriptor).startswith("socket:"):
            return None
        inside = os.pidfd_open(process_of(self.thread))
        try:
            with socket.socket(fileno=copied(inside, descriptor)) as one:
                return one.proto if one.family == socket.AF_NETLINK else None
        except OSError:
            return None
        finally:
            os.close(inside)


def process_of(thread: int) -> int:
    """The process that a thread belongs to; 0 when it has ended."""
    try:
        status = Path(f"/proc/{thread}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(status.partition("Tgid:")[2].split(None, 1)[0])


def copied(pidfd: int, descriptor: int) -> int:
    """A descriptor of our own for what another process has open (pidfd_getfd). Raises OSError."""
    made: int = _libc.syscall(
        ctypes.c_long(_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(descriptor), ctypes.c_uint(0)
    )
    if made < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return made


def shown(path: str) -> str:
    """A path without what chance put into it."""
    return _CHANCE.sub("*", path)


def call_of(name: str, arguments: Sequence[int], caller: Caller) -> Call | None:
    """What the call `name` would do; None where it changes nothing. Raises OSError when the caller has ended."""
    reader = _READERS.get(name)
    return None if reader is None else reader(name, [_signed(one) for one in arguments], caller)


def _signed(value: int) -> int:
    """Descriptors are `int`: AT_FDCWD is negative."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if value == low and low >= 1 << 31 else value


def _of_path(kind: str, path: str) -> Call | None:
    plain = shown(path)
    return None if _HARMLESS.match(plain) else Call(kind, plain)


def _open(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    at, place, flags = (_AT_FDCWD, args[0], args[1]) if name != "openat" else (args[0], args[1], args[2])
    if name != "creat" and not flags & WRITING_FLAGS:
        return None
    return _of_path("open", caller.path(at, caller.text(place)))


def _on_descriptor(kind: str) -> Callable[[str, Sequence[int], Caller], Call | None]:
    def read(name: str, args: Sequence[int], caller: Caller) -> Call | None:
        path = caller.file(args[0])
        if not path.startswith("/") or path.startswith(_NO_FILE):
            return None
        return _of_path(kind, path.removesuffix(" (deleted)"))

    return read


def _on_path(kind: str, at: int = -1, place: int = 0) -> Callable[[str, Sequence[int], Caller], Call | None]:
    def read(name: str, args: Sequence[int], caller: Caller) -> Call | None:
        directory = args[at] if at >= 0 else _AT_FDCWD
        return _of_path(kind, caller.path(directory, caller.text(args[place])))

    return read


def _rename(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    at, place = (args[2], args[3]) if name != "rename" else (_AT_FDCWD, args[1])
    return _of_path("rename", caller.path(at, caller.text(place)))


def _mount(name: str, args: Sequence[int], caller: Caller) -> Call:
    kind = caller.text(args[2]) if args[2] else ""
    return Call("mount", shown(f"{caller.text(args[1])} {kind} {args[3]:#x}"))


def _bpf(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    command = _BPF_CHANGES.get(args[0])
    return None if command is None else Call("bpf", command)


def _messages(data: bytes) -> Iterator[tuple[int, int]]:
    """The type and the flags of each netlink message."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        yield kind, flags
        offset += max(16, (length + 3) & ~3)


def sent(name: str, args: Sequence[int], caller: Caller) -> tuple[int, int]:
    """Where the first piece of what a send gives away stands, and its size in bytes."""
    if name == "sendto":
        return args[1], args[2]
    vector, count = struct.unpack("=QQ", caller.memory(args[1] + 16, 16))
    return struct.unpack("=QQ", caller.memory(vector, 16)) if count else (0, 0)


def _send(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    protocol = caller.protocol(args[0])
    if protocol is None:
        return None
    place, size = sent(name, args, caller)
    kinds = [kind for kind, _ in _messages(caller.memory(place, min(size, 1 << 16)))]
    if protocol == NetlinkFamily.ROUTE:
        words = [_ROUTE_CHANGES.get(kind, str(kind)) for kind in kinds if kind >= 16 and kind % 4 != 2]
    elif protocol == NetlinkFamily.NETFILTER:
        changes = [kind for kind in kinds if kind >= 256 and kind & 0xFF not in _NETFILTER_READS]
        words = [f"netfilter {kind >> 8}.{kind & 0xFF}" for kind in changes]
    else:
        words = []
    return Call("netlink", _counted(words)) if words else None


def _counted(words: Sequence[str]) -> str:
    """`NEWLINK×3, NEWADDR`: in the order of their first ones."""
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(word if count == 1 else f"{word}×{count}" for word, count in counts.items())


def _start(name: str, args: Sequence[int], caller: Caller) -> Call:
    """By the program that is meant, where `setpriv` starts it."""
    path, words = caller.text(args[0]), caller.words(args[1])
    if Path(path).name == "setpriv" and "--" in words:
        rest = words[words.index("--") + 1 :]
        path = rest[0] if rest else path
    return Call("start", Path(path).name)


def _fork(name: str, args: Sequence[int], caller: Caller) -> Call:
    if name == "clone3":
        flags = int.from_bytes(caller.memory(args[0], 8), "little")
    else:
        flags = args[0] if name == "clone" else 0
    return Call("fork", "thread" if flags & _THREAD else "process")


def _socket(name: str, args: Sequence[int], caller: Caller) -> Call:
    families = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink", 17: "packet"}
    return Call("socket", families.get(args[0], str(args[0])))


def _device(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    request = _DEVICE_CHANGES.get(args[1] & 0xFFFFFFFF)
    return None if request is None else Call("device", request)


def _kill(name: str, args: Sequence[int], caller: Caller) -> Call | None:
    return Call("kill", f"signal {args[1]}") if args[1] else None


_Read = Callable[[str, Sequence[int], Caller], Call | None]
_READERS: Mapping[str, _Read] = MappingProxyType(
    {
        "open": _open, "creat": _open, "openat": _open,
        "write": _on_descriptor("write"), "pwrite64": _on_descriptor("write"), "writev": _on_descriptor("write"),
        "truncate": _on_path("cut"), "ftruncate": _on_descriptor("cut"), "fallocate": _on_descriptor("cut"),
        "fsync": _on_descriptor("sync"), "fdatasync": _on_descriptor("sync"),
        "rename": _rename, "renameat": _rename, "renameat2": _rename,
        "mkdir": _on_path("mkdir"), "mkdirat": _on_path("mkdir", 0, 1), "rmdir": _on_path("remove"),
        "link": _on_path("link", -1, 1), "linkat": _on_path("link", 2, 3),
        "symlink": _on_path("link", -1, 1), "symlinkat": _on_path("link", 1, 2),
        "unlink": _on_path("remove"), "unlinkat": _on_path("remove", 0, 1),
        "mknod": _on_path("mknod"), "mknodat": _on_path("mknod", 0, 1),
        "chmod": _on_path("mode"), "fchmod": _on_descriptor("mode"), "fchmodat": _on_path("mode", 0, 1),
        "chown": _on_path("mode"), "lchown": _on_path("mode"), "fchown": _on_descriptor("mode"),
        "fchownat": _on_path("mode", 0, 1),
        "mount": _mount, "umount2": _on_path("unmount"),
        "setns": lambda name, args, caller: Call("enter", hex(args[1])),
        "unshare": lambda name, args, caller: Call("unshare", hex(args[0])),
        "bpf": _bpf, "sendto": _send, "sendmsg": _send, "kill": _kill, "pidfd_send_signal": _kill,
        "execve": _start, "clone": _fork, "clone3": _fork, "fork": _fork, "vfork": _fork,
        "socket": _socket, "memfd_create": lambda name, args, caller: Call("memory file", ""), "ioctl": _device,
    }
)  # fmt: skip
