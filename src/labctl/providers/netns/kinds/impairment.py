"""What is done to the packets of a device on purpose: a program where they are received, a queue where they are sent.

The program (`impair`) runs before every other one at the tc ingress of the end that receives, and loses, duplicates,
corrupts and reorders. The end that sends makes single packets with whole checksums then, so that shares are of packets
and a flipped bit is noticed. The queue is a token bucket for a rate, and netem where there is a delay. A kernel without
netem has no queue that delays: there a relay at the end that receives does (`delay`).
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from labctl.datapath import bpf, loader
from labctl.errors import HostLacks, StepFailed
from labctl.model.impairment import ImpairCounts, Impairment
from labctl.model.interfaces import LO
from labctl.planning.shell import quoted, word
from labctl.providers.netns.kinds import delay
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    Object,
    ObjectKind,
    Thing,
)
from labctl.providers.netns.kinds.link import OnDevice, device_name
from labctl.providers.netns.kinds.program import IMPAIR, IMPAIR_QUEUE, Direction, attached_to, hooks_name
from labctl.system import link_state, netns, process, rtnetlink, rtnetlink_readings
from labctl.system.netlink import NetlinkError, Socket
from labctl.system.offloads import has_transmit_offloads, set_transmit_offloads
from labctl.system.rtnetlink import Hook
from labctl.units import BITS_PER_BYTE, MICRO
from labctl.values import dataclass

_OBJECT = Path(loader.__file__).with_name("objects") / "impair.o"
_CONFIG = struct.Struct("<IIIIQ")
_COUNTS = struct.Struct("<5Q")
_KEY = bytes(4)
_WHOLE = 2**32
_HANDLE = "1ab:"
"""Of the queue, by which it is known as labctl's: `IMPAIR_QUEUE` as tc writes it."""
_TC_TIMEOUT_S = 10.0
_LEAST_BURST_BYTE = 3_200
_BURST_S = 0.004
_QUEUE = "100ms"
_NETEM_PACKETS = "10000"
_NOT_THERE = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketsImpair(OnDevice):
    """Puts the program on what a device receives, in place of the one that is there. `has_hooks` where the plan gives
    the device its tc hooks anyway; `pins` is a folder of its own."""

    asked: Impairment
    seed: int
    has_hooks: bool
    pins: Path

    @property
    def config(self) -> bytes:
        asked = self.asked
        shares = (asked.loss, asked.duplicate, asked.corrupt, asked.reorder)
        return _CONFIG.pack(*(min(round(share * _WHOLE), _WHOLE - 1) for share in shares), self.seed & (2**64 - 1))

    def shell(self) -> str:
        place, device, pins = word(self.namespace), word(self.device), word(self.pins)
        hooks = "" if self.has_hooks else f"tc -n {place} qdisc add dev {device} clsact\n"
        return (
            f"mkdir {pins}\n"
            f"bpftool prog loadall {word(_OBJECT)} {pins}/programs pinmaps {pins}/maps\n"
            f"bpftool map update pinned {pins}/maps/impair_config key hex {_KEY.hex(' ')} "
            f"value hex {self.config.hex(' ')}\n"
            f"{hooks}tc -n {place} filter replace dev {device} ingress prio 1 handle 2 protocol all "
            f"bpf direct-action object-pinned {pins}/programs/{IMPAIR}"
        )

    def details(self) -> Iterator[Thing]:
        hooks, key = hooks_name(self.device), _received(self.device)
        needs = (hooks,) if self.has_hooks else ()
        yield _thing(self, self.namespace, key, _words_of(self.config), self.device, *needs)
        if not self.has_hooks:
            yield Thing(self.namespace, ObjectKind.QDISC, hooks, (device_name(self.device), key))

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        channel = context.namespaces.channel(self.namespace)
        with loader.load_object(_OBJECT) as loaded:
            bpf.update(loaded.maps["impair_config"], ((_KEY, self.config),))
            try:
                channel.send([rtnetlink.clsact_add(self.index)])
            except NetlinkError as refused:
                if refused.errno != errno.EEXIST:
                    raise
            _take_off(channel, self.index)
            program = loaded.programs[IMPAIR]
            channel.send([link_state.filter_first(self.index, Hook.INGRESS, program=program, name=IMPAIR)])


def _thing(one: Object, namespace: str, key: str, value: str, device: str, *needs: str) -> Thing:
    """It is mended by being made again, in place of what is there."""
    name, needed = f"{key}: {value}", (device_name(device), *needs)
    return Thing(namespace, ObjectKind.IMPAIRMENT, name, needed, (), key, value, partial(_same, one))


def _same(one: Object) -> tuple[Object, ...]:
    return (one,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketsLeave(OnDevice):
    """Takes the program off what a device receives, and with the last one its tc hooks. Nothing there is no error."""

    def shell(self) -> str:
        return f"tc -n {word(self.namespace)} filter delete dev {word(self.device)} ingress prio 1 handle 2 bpf"

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        channel = context.namespaces.channel(self.namespace)
        if _take_off(channel, self.index) and not any(attached_to(channel, self.index).values()):
            channel.send([link_state.clsact_delete(self.index)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadsSet(OnDevice):
    """Has a device finish its packets itself (checksums, and none larger than its MTU), or leave that to others."""

    is_on: bool

    def shell(self) -> str:
        argv = ("ethtool", "-K", self.device, "tx", "on" if self.is_on else "off")
        return quoted(netns.command(self.namespace, argv))

    def details(self) -> Iterator[Thing]:
        yield _thing(self, self.namespace, _offloads(self.device), "on" if self.is_on else "off", self.device)

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        with netns.entered(context.namespaces.descriptor(self.namespace)), _if_there():
            set_transmit_offloads(self.device, is_on=self.is_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAdd(OnDevice):
    """The queue that what a device sends waits in, on its way to the `receiver`: namespace, device, index. Without
    netem a delay is a relay's there, and a rate a token bucket's here."""

    asked: Impairment
    receiver: tuple[str, str, int]
    seed: int

    def argv(self, *, by_netem: bool = True) -> tuple[str, ...]:
        """netem where there is a delay, else a token bucket."""
        begin = ("tc", "qdisc", "replace", "dev", self.device, "root", "handle", _HANDLE)
        rate = f"{round(self.asked.rate_bit_per_s)}bit"
        if self.asked.delay_s and by_netem:
            times_s = (self.asked.delay_s, self.asked.jitter_s)
            times = [f"{round(time_s / MICRO)}us" for time_s in times_s if time_s]
            limited = ("rate", rate) if self.asked.rate_bit_per_s else ()
            return (*begin, "netem", "limit", _NETEM_PACKETS, "delay", *times, *limited)
        burst = max(round(self.asked.rate_bit_per_s / BITS_PER_BYTE * _BURST_S), _LEAST_BURST_BYTE)
        return (*begin, "tbf", "rate", rate, "burst", str(burst), "latency", _QUEUE)

    def shell(self) -> str:
        return quoted(netns.command(self.namespace, self.argv()))

    def details(self) -> Iterator[Thing]:
        return self.queues(has_netem=True)

    def queues(self, *, has_netem: bool) -> Iterator[Thing]:
        """What is there on a kernel with netem, or without."""
        asked, rate = self.asked, round(self.asked.rate_bit_per_s)
        by_netem = has_netem or not asked.delay_s
        if by_netem or rate:
            times_s = (asked.delay_s, asked.jitter_s) if by_netem else (0.0, 0.0)
            yield _thing(self, self.namespace, _sent(self.device), _queue_words(*times_s, rate), self.device)
        if not by_netem:
            place, device, _ = self.receiver
            yield _thing(self, place, _held(device), _queue_words(asked.delay_s, asked.jitter_s, 0), device)

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        asked, (place, device, index) = self.asked, self.receiver
        by_netem = bool(asked.delay_s) and has_netem()
        # One of another kind with this handle cannot be replaced.
        QueueRemove(namespace=self.namespace, device=self.device, index=self.index).make(context)
        if asked.delay_s and not by_netem:
            delay.start(place, device, index, delay_s=asked.delay_s, jitter_s=asked.jitter_s, seed=self.seed)
            if not asked.rate_bit_per_s:
                return
        try:
            _tc(self, self.argv(by_netem=by_netem)[1:])
        except StepFailed as failed:
            if "unknown" not in failed.cause.lower() and "no such file" not in failed.cause.lower():
                raise
            raise HostLacks(
                what="this kernel has no queue that limits a rate",
                cause="it was built without CONFIG_NET_SCH_TBF, or the module is not loaded",
                remedy="modprobe sch_tbf; or a kernel with CONFIG_NET_SCH_TBF, such as a distribution's own",
            ) from failed


@cache
def has_netem() -> bool:
    """Whether this kernel has the queue that delays packets: found by trying, which loads its module."""
    argv = ("tc", "qdisc", "add", "dev", LO, "root", "netem", "delay", "1ms")
    with netns.scratch() as place:
        return process.run(argv, timeout_s=_TC_TIMEOUT_S, namespace=place).returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayEnd(OnDevice):
    """Ends the relay that holds back what a device receives. None there is no error."""

    def shell(self) -> str:
        found = f"{quoted(('ip', 'netns', 'pids', self.namespace))} | xargs -r ps -o pid=,comm= -p"
        return f"{found} | awk '$2 == \"labctl-wait{self.index}\" {{print $1}}' | xargs -r kill"

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        delay.end(self.namespace, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRemove(OnDevice):
    """Nothing there is no error."""

    def argv(self) -> tuple[str, ...]:
        return ("tc", "qdisc", "del", "dev", self.device, "root", "handle", _HANDLE)

    def shell(self) -> str:
        return quoted(netns.command(self.namespace, self.argv()))

    def batch(self) -> Batch:
        return Object.batch(self)

    def make(self, context: BuildContext) -> None:
        channel = context.namespaces.channel(self.namespace)
        if any(qdisc.handle == IMPAIR_QUEUE and qdisc.index == self.index for qdisc in _qdiscs(channel)):
            _tc(self, self.argv()[1:])


def counts_at(channel: Socket, index: int) -> ImpairCounts | None:
    """What the program on what a device receives did so far; None where there is none. Raises OSError."""
    with _program_at(channel, index) as maps:
        if not maps:
            return None
        value = bpf.lookup(maps["impair_counts"], _KEY, _COUNTS.size) or bytes(_COUNTS.size)
        seen, lost, duplicated, corrupted, reordered = _COUNTS.unpack(value)
        return ImpairCounts(seen=seen, lost=lost, duplicated=duplicated, corrupted=corrupted, reordered=reordered)


@contextlib.contextmanager
def _program_at(channel: Socket, index: int) -> Iterator[Mapping[str, int]]:
    """The maps of the program on what a device receives; none where there is no such program."""
    there = attached_to(channel, index).get(Direction.INGRESS, ())
    number = next((one.program_id for one in there if _is_impairing(one.name)), None)
    if number is None:
        yield {}
        return
    with _maps_of(number) as maps:
        yield maps


def _is_impairing(name: str) -> bool:
    """By the name of a filter."""
    return name.partition(":")[0] == IMPAIR


@contextlib.contextmanager
def _maps_of(number: int) -> Iterator[Mapping[str, int]]:
    """Of the program of that id, open for as long as it takes."""
    program = bpf.program_descriptor(number)
    try:
        maps = bpf.maps_of_program(program)
    finally:
        bpf.close_all([program])
    try:
        yield maps
    finally:
        bpf.close_all(list(maps.values()))


def _take_off(channel: Socket, index: int) -> bool:
    """Whether the program was there."""
    try:
        channel.send([link_state.filter_first_delete(index, Hook.INGRESS)])
    except NetlinkError as refused:
        if refused.errno not in _NOT_THERE:
            raise
        return False
    return True


def _tc(one: OnDevice, words: tuple[str, ...]) -> None:
    argv = ("tc", *words)
    done = process.run(argv, timeout_s=_TC_TIMEOUT_S, namespace=netns.path_of(one.namespace))
    if done.returncode or done.timed_out:
        raise StepFailed(
            what=f"tc failed at {one.device} in {one.namespace}",
            cause=done.error_text.strip()[-300:] or f"it ended with status {done.returncode}",
            remedy=quoted(netns.command(one.namespace, argv)),
        )


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        if refused.errno != errno.ENODEV:
            raise


def _received(device: str) -> str:
    return f"impairment of what {device} receives"


def _sent(device: str) -> str:
    return f"impairment of what {device} sends"


def _held(device: str) -> str:
    return f"impairment of when {device} receives"


def _offloads(device: str) -> str:
    return f"impairment offloads of {device}"


def _words_of(config: bytes) -> str:
    *shares, seed = _CONFIG.unpack(config)
    loss, duplicate, corrupt, reorder = (share / _WHOLE for share in shares)
    asked = Impairment(loss=loss, duplicate=duplicate, corrupt=corrupt, reorder=reorder)
    return " ".join((asked.words(), f"seed={seed}"))


def _queue_words(delay_s: float, jitter_s: float, rate_bit_per_s: int) -> str:
    """Of a rate, what the kernel keeps: whole bytes a second."""
    rate = rate_bit_per_s // BITS_PER_BYTE * BITS_PER_BYTE
    return Impairment(delay_s=delay_s, jitter_s=jitter_s, rate_bit_per_s=rate).words()


def _qdiscs(channel: Socket) -> tuple[rtnetlink_readings.Qdisc, ...]:
    return tuple(map(rtnetlink_readings.parse_qdisc, channel.ask(rtnetlink_readings.every_qdisc())))


def _impairments(look: NamespaceReader) -> Iterator[Found]:
    for qdisc in look.qdiscs:
        device = look.device(qdisc.index)
        place, index = look.namespace, qdisc.index
        if device and qdisc.handle == IMPAIR_QUEUE:
            remove = partial(QueueRemove, namespace=place, device=device, index=index)
            yield Found(_sent(device), _queue_words(*rtnetlink_readings.queue_of(qdisc)), remove)
        elif device and qdisc.kind == "clsact":
            for program in look.filters(index, Hook.INGRESS):
                if _is_impairing(program.name):
                    with _maps_of(program.program) as maps:
                        config = bpf.lookup(maps["impair_config"], _KEY, _CONFIG.size) or bytes(_CONFIG.size)
                    leave = partial(PacketsLeave, namespace=place, device=device, index=index)
                    yield Found(_received(device), _words_of(config), leave)
    yield from _of_links(look)


def _of_links(look: NamespaceReader) -> Iterator[Found]:
    """Relays; and offloads, of pairs alone, since other devices may have none of their own."""
    for link in look.links.values():
        detail = rtnetlink_readings.parse_link_detail(look.answers[link.index])
        if detail.xdp and (times_s := delay.times_of(detail.xdp)) is not None:
            end = partial(RelayEnd, namespace=look.namespace, device=link.name, index=link.index)
            yield Found(_held(link.name), _queue_words(*times_s, 0), end)
        if detail.kind == "veth" and not has_transmit_offloads(link.name):
            on = partial(OffloadsSet, namespace=look.namespace, device=link.name, index=link.index, is_on=True)
            yield Found(_offloads(link.name), "off", on)


IMPAIRMENTS = Kind(
    name=ObjectKind.IMPAIRMENT,
    objects=(PacketsImpair, PacketsLeave, OffloadsSet, QueueAdd, QueueRemove, RelayEnd),
    read=_impairments,
)
