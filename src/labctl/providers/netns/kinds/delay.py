"""A relay that holds back what a device receives, where the kernel has no queue for it: started, found, ended.

The relay is a process in the device's namespace (`system/relay.py`), behind a TAP device that only it reads. All of it
goes with the process. It stands alone because readers of devices and of XDP programs have to know what is its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from labctl.datapath import bpf, loader
from labctl.errors import HostLacks, StepFailed
from labctl.system import netns, process, relay, rtnetlink, rtnetlink_changes
from labctl.system.clock import Deadline
from labctl.system.netlink import Socket
from labctl.units import NANO

_OBJECT = Path(loader.__file__).with_name("objects") / "delay.o"
_CONFIG = struct.Struct("=IIQQ")
_KEY = bytes(4)
_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000
_MTU_BYTE = 65_521
_WAITING = 10_000
"""Frames that may wait for the relay to read them."""
_TURN_S, _POLL_S = 5.0, 0.02
"""How long the kernel may take to free the device of the relay before."""
_Given = TypeVar("_Given")
_PROGRAM = "delay_in"
PROCESS = re.compile(r"labctl-wait\d+")
"""What the kernel calls the process of a relay."""


def is_own(program_id: int) -> bool:
    """Whether the XDP program of that id is a relay's. One that is gone is nobody's."""
    try:
        with _opened(bpf.program_descriptor(program_id)) as program:
            return bpf.program_info(program).name == _PROGRAM
    except OSError:
        return False


def times_of(program_id: int) -> tuple[float, float] | None:
    """Delay and jitter in seconds, of the XDP program of that id where it is a relay's. Raises OSError."""
    if not is_own(program_id):
        return None
    with _opened(bpf.program_descriptor(program_id)) as program:
        maps = bpf.maps_of_program(program)
    try:
        config = bpf.lookup(maps["delay_config"], _KEY, _CONFIG.size) or bytes(_CONFIG.size)
    finally:
        bpf.close_all([*maps.values()])
    _, _, delay_ns, jitter_ns = _CONFIG.unpack(config)
    return delay_ns * NANO, jitter_ns * NANO


def start(namespace: str, device: str, index: int, *, delay_s: float, jitter_s: float, seed: int) -> None:
    """In place of the one that is there. Raises HostLacks, StepFailed, OSError."""
    end(namespace, index)
    name = f"wait{index}"
    delay_ns, jitter_ns = round(delay_s / NANO), round(jitter_s / NANO)
    with contextlib.ExitStack() as stack:
        stack.enter_context(netns.entered(netns.path_of(namespace)))
        tap = stack.enter_context(_opened(_tap(name)))
        channel = stack.enter_context(Socket())
        links = {link.name: link.index for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}
        loaded = stack.enter_context(loader.load_object(_OBJECT))
        bpf.update(loaded.maps["delay_config"], ((_KEY, _CONFIG.pack(links[name], index, delay_ns, jitter_ns)),))
        out = loaded.programs["delay_out"]
        channel.send(
            [
                rtnetlink_changes.link_set(links[name], mtu=_MTU_BYTE, queue=_WAITING, up=True),
                rtnetlink.clsact_add(links[name]),
                rtnetlink.filter_add(links[name], rtnetlink.Hook.INGRESS, program=out, name="delay_out"),
            ]
        )
        link = stack.enter_context(_opened(_attached(loaded.programs[_PROGRAM], namespace, device, index)))
        words = (f"labctl-{name}", str(tap), str(delay_ns), str(jitter_ns), str(seed))
        process.stand_by((sys.executable, "-I", "-S", relay.__file__, *words), keep=(tap, link))


def end(namespace: str, index: int) -> None:
    """Ends the relay of that device, and waits until its TAP device is gone. None there is no error. One that was only
    just started is known by its arguments: it has no name of its own yet. Raises StepFailed, OSError."""
    deadline, tap = Deadline.after(_TURN_S), f"wait{index}"
    while (key := netns.key_of(namespace)) is not None and _has_device(namespace, tap):
        for pid in netns.processes_in([key]):
            if f"labctl-{tap}" in netns.arguments_of(pid):
                netns.end_process(pid, [key])
        if deadline.is_over():
            raise StepFailed(
                what=f"the relay behind {tap} in {namespace} does not end",
                cause=f"its TAP device is still there after {_TURN_S:g} s",
                remedy=f"ip netns pids {namespace} | xargs -r ps -o pid=,args= -p",
            )
        time.sleep(_POLL_S)


def _has_device(namespace: str, device: str) -> bool:
    with netns.entered(netns.path_of(namespace)), Socket() as channel:
        return any(rtnetlink.parse_link(body).name == device for body in channel.ask(rtnetlink.all_links()))


def _tap(name: str) -> int:
    """A device of that name, which is there as long as its descriptor. Raises HostLacks, OSError."""
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as refused:
        raise HostLacks(
            what="this kernel has no queue that delays packets, and no TAP device for a relay that would",
            cause=f"it was built without CONFIG_NET_SCH_NETEM, or the module is not loaded; {_TUN}: {refused.strerror}",
            remedy="modprobe sch_netem; or modprobe tun; or a kernel with CONFIG_NET_SCH_NETEM, such as a "
            "distribution's own",
        ) from refused
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        _in_turn(lambda: fcntl.ioctl(descriptor, _TUNSETIFF, request))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _attached(program: int, namespace: str, device: str, index: int) -> int:
    try:
        return _in_turn(lambda: bpf.link_xdp(program, index))
    except OSError as refused:
        is_large = refused.errno in (errno.ERANGE, errno.EINVAL)
        raise StepFailed(
            what=f"what {device} in {namespace} receives cannot be held back by a relay",
            cause="its MTU is more than about 3500 bytes, the most that an XDP program takes"
            if is_large
            else f"its XDP hook: {refused.strerror}",
            remedy="a smaller MTU; or a kernel with CONFIG_NET_SCH_NETEM, such as a distribution's own"
            if is_large
            else f"ip -n {namespace} link show dev {device}",
        ) from refused


def _in_turn(act: Callable[[], _Given]) -> _Given:
    """Again while what was there before is still being freed. Raises OSError."""
    deadline = Deadline.after(_TURN_S)
    while True:
        try:
            return act()
        except OSError as refused:
            if refused.errno not in (errno.EBUSY, errno.EEXIST) or deadline.is_over():
                raise
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
