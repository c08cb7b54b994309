"""Taps on every packet of a round trip, in the kernel's own tracepoints and at netfilter's hooks: put on and read.

`places.bpf.c` says what they do. Nothing hangs on a device of a lab, and all of it is gone when the process ends.
Reading takes rounds out in the shape that `places` knows; which session a round belongs to, its time says.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labctl.datapath import bpf
from labctl.datapath.loader import LoadedDatapath, load_object
from labctl.errors import LabError, MeasureFailed
from labctl.load.places import Act, Place, Round, TapOnWay
from labctl.system import netns
from labctl.values import dataclass

_OBJECT = Path(bpf.__file__).with_name("objects") / "places.o"
_TRACED = ("place_sent", "place_received", "place_arrived", "place_arrived_again")
_AT_HOOKS = {"place_beside_hook": -(2**31) + 1, "place_before_hook": -(2**31) + 2, "place_behind_hook": 2**31 - 2}
"""With their priorities: the first two before all others, the last behind them, as far as the kernel lets anybody."""
_HOOKS = 5
_CLIENT, _SERVER = 1, 2
_MOST_ROUNDS, _MOST_EVENTS = 8192, 32
_HEAD = struct.Struct("<QIIII")
_PLACE = struct.Struct("<IIHH")
_MOMENT_BYTE = 8
_PLACES_AT = _HEAD.size
_MOMENTS_AT = _PLACES_AT + _MOST_EVENTS * _PLACE.size
_ROUND_BYTE = _MOMENTS_AT + _MOST_EVENTS * _MOMENT_BYTE
_ACTS = tuple(Act)
_ZERO = bytes(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A session's way: the namespaces of its pods, and every tap that a packet may pass."""

    client: Path
    server: Path
    taps: tuple[TapOnWay, ...]


class Taps:
    """Put on, and taking rounds down. `parts_netfilter`: its hooks have taps too."""

    def __init__(
        self, loaded: LoadedDatapath, memory: mmap.mmap, devices: Mapping[tuple[int, int], TapOnWay], *, at_hooks: bool
    ) -> None:
        self._begun = loaded.maps["begun"]
        self._memory = memory
        self._devices = devices
        self._known: dict[bytes, tuple[Place, ...]] = {}
        self.parts_netfilter = at_hooks

    def take(self) -> Iterator[Round]:
        """The rounds since this was last asked, but for the last one, which nothing has closed."""
        data = bpf.lookup(self._begun, _ZERO, 4) or _ZERO
        count = min(int.from_bytes(data, "little"), _MOST_ROUNDS)
        rounds = self._memory[: count * _ROUND_BYTE]
        bpf.update(self._begun, [(_ZERO, _ZERO)])
        for at in range(0, (count - 1) * _ROUND_BYTE, _ROUND_BYTE):
            begun_ns, events, missed, hook_tap_ns, _ = _HEAD.unpack_from(rounds, at)
            if missed or not events:
                continue
            following_ns = int.from_bytes(rounds[at + _ROUND_BYTE : at + _ROUND_BYTE + 8], "little")
            yield Round(
                begun_ns=begun_ns,
                whole_ns=following_ns - begun_ns,
                hook_tap_ns=hook_tap_ns,
                places=self._places(rounds[at + _PLACES_AT : at + _PLACES_AT + events * _PLACE.size]),
                moments=rounds[at + _MOMENTS_AT : at + _MOMENTS_AT + events * _MOMENT_BYTE],
            )

    def _places(self, data: bytes) -> tuple[Place, ...]:
        if data not in self._known:
            self._known[data] = tuple(self._place(*fields) for fields in _PLACE.iter_unpack(data))
        return self._known[data]

    def _place(self, namespace: int, device: int, act: int, passes: int) -> Place:
        tap = self._devices.get((namespace, device))
        return Place(
            act=_ACTS[act - 1],
            tap=tap.name if tap else "",
            part=tap.part if tap else "",
            kind=tap.kind if tap else "",
            passes=passes,
        )


@contextmanager
def tapping(ways: Sequence[Way]) -> Iterator[Taps]:
    """Taps on all those ways while the context lasts. Raises MeasureFailed where the kernel or its library has not what
    that takes."""
    with ExitStack() as stack:
        loaded, at_hooks = _loaded()
        stack.enter_context(loaded)
        try:
            taps = _put_on(stack, loaded, ways, at_hooks=at_hooks)
        except OSError as failed:
            raise MeasureFailed("the taps could not be put on", str(failed)) from failed
        yield taps


def _loaded() -> tuple[LoadedDatapath, bool]:
    """The programs; without those of netfilter's hooks where the kernel does not know such."""
    try:
        return load_object(_OBJECT, netfilter=tuple(_AT_HOOKS)), True
    except LabError:
        pass
    try:
        return load_object(_OBJECT, only=_TRACED), False
    except LabError as failed:
        raise MeasureFailed(
            "the kernel does not take the programs of the taps (Linux 5.5 with its types in /sys/kernel/btf does)",
            failed.cause.splitlines()[-1] if failed.cause else failed.what,
        ) from failed


def _put_on(stack: ExitStack, loaded: LoadedDatapath, ways: Sequence[Way], *, at_hooks: bool) -> Taps:
    """Raises OSError."""
    taps = {tap.name + str(tap.namespace): tap for way in ways for tap in way.taps}
    devices: dict[tuple[int, int], TapOnWay] = {}
    for place in dict.fromkeys(tap.namespace for tap in taps.values()):
        here = [tap for tap in taps.values() if tap.namespace == place]
        inode = place.stat().st_ino
        with netns.entered(place):
            index = {name: number for number, name in socket.if_nameindex()}
            devices |= {(inode, index[tap.interface]): tap for tap in here if tap.interface in index}
            if at_hooks and any(tap.kind == "node" for tap in here):
                for program, priority in _AT_HOOKS.items():
                    for hook in range(_HOOKS):
                        _until_end(stack, bpf.link_netfilter(loaded.programs[program], hook, priority))
    ends = [(way.client, _CLIENT) for way in ways] + [(way.server, _SERVER) for way in ways]
    roles = {place.stat().st_ino.to_bytes(4, "little"): role.to_bytes(4, "little") for place, role in ends}
    bpf.update(loaded.maps["ends"], roles.items())
    memory = stack.enter_context(
        mmap.mmap(loaded.maps["rounds"], _MOST_ROUNDS * _ROUND_BYTE, mmap.MAP_SHARED, mmap.PROT_READ)
    )
    for program in _TRACED:
        _until_end(stack, bpf.attach_tracing(loaded.programs[program]))
    return Taps(loaded, memory, devices, at_hooks=at_hooks)


def _until_end(stack: ExitStack, descriptor: int) -> None:
    stack.callback(os.close, descriptor)
