"""Stops a program at chosen system calls: the kernel asks us before it carries one out (seccomp, user notification).

Why not ptrace: it stops every call, twice, and a program that is traced cannot be traced by anybody else. Why not in
Python: the calls of libbpf and the starts of tools would be missed, and the errno would be raised by us instead of by
the kernel. The program itself knows nothing of it and needs no hook.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from labctl.testing.faults.calls import WRITING_FLAGS, Machine, copied
from labctl.values import dataclass

_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 8, 32
"""Since Linux 5.19 a signal that does not kill waits until the call has been answered, and cuts none short that the
kernel never cuts short."""
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_AT_NUMBER, _AT_MACHINE, _AT_FLAGS_OF_OPENAT = 0, 4, 16 + 8 * 2
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_LISTENER = "anon_inode:seccomp notify"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """One call that waits for an answer."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


def filter_program(machine: Machine) -> bytes:
    """Classic BPF: asks about the calls of `machine.numbers`, of openat about those that may write."""
    others = sorted(number for name, number in machine.numbers.items() if name != "openat")
    code = [
        (_LOAD_WORD, 0, 0, _AT_MACHINE),
        (_JUMP_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD_WORD, 0, 0, _AT_NUMBER),
    ]
    end = 4 + len(others) + 3  # the answer "allow", with "ask" behind it
    for number in others:
        code.append((_JUMP_EQUAL, end + 1 - len(code) - 1, 0, number))
    code.append((_JUMP_EQUAL, 0, end - len(code) - 1, machine.numbers["openat"]))
    code.append((_LOAD_WORD, 0, 0, _AT_FLAGS_OF_OPENAT))
    code.append((_JUMP_SET, end + 1 - len(code) - 1, end - len(code) - 1, WRITING_FLAGS))
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def listen_to_me(machine: Machine) -> None:
    """From now on the calling process, and what it starts, waits in these calls for whoever listens. Needs root.
    Raises OSError."""
    code = filter_program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        listener = _libc.syscall(
            ctypes.c_long(machine.seccomp), ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(flags), program
        )
        if listener >= 0:
            return
    raise OSError(ctypes.get_errno(), "seccomp")


def listener_of(process: int, *, timeout_s: float = 60.0) -> int:
    """A descriptor of its listener, once `process` has called `listen_to_me`. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    pidfd = os.pidfd_open(process)
    try:
        while time.monotonic() < deadline:
            for entry in Path(f"/proc/{process}/fd").iterdir():
                if _link(entry) == _LISTENER:
                    return copied(pidfd, int(entry.name))
            time.sleep(0.0005)
    finally:
        os.close(pidfd)
    raise TimeoutError(f"process {process} has installed no filter within {timeout_s:g} s")


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


class Listener:
    """The calls of one program, one after the other."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def next(self) -> Asked | None:
        """The call that waits longest; None where its thread has gone meanwhile."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer)
        except OSError as gone:
            if gone.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, thread, _flags, call, _machine, _at, *arguments = _NOTIFICATION.unpack(buffer)
        return Asked(id=number, thread=thread, number=call, arguments=tuple(arguments))

    def go_on(self, asked: Asked) -> bool:
        """The kernel carries the call out. False where the caller has gone."""
        return self._answer(asked, 0, _CONTINUE)

    def refuse(self, asked: Asked, number: int) -> bool:
        """The call fails with that errno."""
        return self._answer(asked, -number, 0)

    def _answer(self, asked: Asked, error: int, flags: int) -> bool:
        try:
            fcntl.ioctl(self.descriptor, _ANSWER, _RESPONSE.pack(asked.id, 0, error, flags))
        except OSError as gone:
            if gone.errno != errno.ENOENT:
                raise
            return False
        return True

    def close(self) -> None:
        os.close(self.descriptor)
