"""What a program in a pod or on a node may do as root: the capabilities that it keeps.

A capability outside of the bounding set can be gained by nothing that the program starts, setuid and file capabilities
included: `no_new_privs` would add nothing. It limits programs that mean no harm. It is no boundary:
the program is root of the same host, and root owns the host's files.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from enum import IntEnum, StrEnum

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_MOST = 64

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    """Those that are kept somewhere, by their numbers in linux/capability.h."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_BROADCAST = 11
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


class Powers(StrEnum):
    """Of whom: a pod's programs act on its network, a node's (and a router's) also on the kernel's part in it."""

    POD = "pod"
    NODE = "node"

    @property
    def kept(self) -> frozenset[Capability]:
        return _OF_A_NODE if self is Powers.NODE else _OF_A_POD


_OF_FILES_AND_USERS = frozenset(
    {
        Capability.CHOWN,
        Capability.DAC_OVERRIDE,  # the folder of the person behind sudo is not root's
        Capability.FOWNER,
        Capability.FSETID,
        Capability.KILL,  # of its own processes that became another user; it sees no others
        Capability.SETGID,
        Capability.SETUID,
        Capability.SETPCAP,  # tcpdump gives up capabilities with it
    }
)
_OF_A_POD = _OF_FILES_AND_USERS | {
    Capability.NET_ADMIN,
    Capability.NET_RAW,
    Capability.NET_BIND_SERVICE,
    Capability.NET_BROADCAST,  # the kernel has no use for it; BIRD does not start without
}
_OF_A_NODE = _OF_A_POD | {
    Capability.BPF,
    Capability.PERFMON,
    Capability.SYS_ADMIN,  # the kernel requires it to find programs and maps by number, as bpftool does; so does FRR
    Capability.SYS_RESOURCE,  # with IPC_LOCK: memory for maps, before Linux 5.11
    Capability.IPC_LOCK,
}


def lost(kept: Iterable[int], known: Iterable[int]) -> tuple[int, ...]:
    """The capabilities of this kernel that are not kept, in order. Pure."""
    return tuple(sorted(set(known) - set(kept)))


def argv_limit(powers: Powers, known: Iterable[int]) -> tuple[str, ...]:
    """Options of setpriv. By number: setpriv does not know the names of capabilities that came after it. Pure."""
    dropped = ",".join(f"-cap_{number}" for number in lost(powers.kept, known))
    return ("--inh-caps", "-all", "--ambient-caps", "-all", *(("--bounding-set", dropped) if dropped else ()))


def held() -> tuple[int, ...]:
    """What is in the bounding set of the calling thread."""
    return tuple(number for number in range(_MOST) if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1)


def limit(powers: Powers) -> None:
    """What the calling thread becomes (execve) has no more than `powers`, for good. Raises OSError."""
    for number in lost(powers.kept, held()):
        _prctl(_PR_CAPBSET_DROP, number, f"dropping capability {number}")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, "clearing ambient capabilities")
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), data), "reading capabilities")
    for word in data:
        word.inheritable = 0
    _check(_libc.capset(ctypes.byref(header), data), "clearing inheritable capabilities")


def die_with_parent(signal: int) -> None:
    """The calling process gets `signal` when the thread that made it ends. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, signal, "asking to end with the parent")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _prctl(what: int, value: int, doing: str) -> None:
    _check(_libc.prctl(what, value, 0, 0, 0), doing)


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), doing)
