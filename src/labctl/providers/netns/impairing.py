"""Impairs the links of a running lab: a program at the receiving end, a queue at the sending end.

Loss, duplicates, corruption and reordering are done by an eBPF program at the tc ingress of the end that receives:
there the sender is not told of them. The device that sends makes single packets with whole checksums then, so that
shares are of packets and a flipped bit is noticed. Rate is a token bucket (TBF) at the sending end. Delay and jitter
are netem's there; a kernel without it has no queue that delays, and is refused.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.datapath import bpf, loader
from labctl.errors import HostLacks, StepFailed, UsageError
from labctl.model.impairment import ImpairCounts, ImpairedWay, Impairment, LinkDirection
from labctl.model.lab import HostRouting, Lab
from labctl.networks import network_of
from labctl.planning.shell import quoted
from labctl.providers.netns.kinds.program import Direction, attached_to
from labctl.providers.netns.wires import Wire, WireEnd, Wires
from labctl.system import link_state, netns, process, rtnetlink
from labctl.system.netlink import NetlinkError, Request, Socket
from labctl.system.offloads import set_transmit_offloads
from labctl.system.rtnetlink import Hook
from labctl.units import BITS_PER_BYTE, MICRO

OBJECT = Path(loader.__file__).with_name("objects") / "impair.o"
PROGRAM = "impair"
_CONFIG = struct.Struct("<IIIIQ")
_COUNTS = struct.Struct("<5Q")
_KEY = bytes(4)
_WHOLE = 2**32
_HANDLE = "1ab:"
"""Of the queue, by which it is known as labctl's."""
_TC_TIMEOUT_S = 10.0
_LEAST_BURST_BYTE = 3_200
_BURST_S = 0.004
_QUEUE = "100ms"
_NETEM_PACKETS = "10000"
_NOT_THERE = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One direction of a link."""

    sender: WireEnd
    receiver: WireEnd


def ways_of(wire: Wire, flow: LinkDirection) -> tuple[_Way, ...]:
    """`to` is into the part that the link is named after; of a link between two routers, into the first."""
    own, other = wire.ends
    if other.part == wire.name:
        own, other = other, own
    into, out = _Way(sender=other, receiver=own), _Way(sender=own, receiver=other)
    return {LinkDirection.TO: (into,), LinkDirection.FROM: (out,), LinkDirection.BOTH: (into, out)}[flow]


def require_possible(lab: Lab, wire: Wire, asked: Impairment) -> None:
    """Raises UsageError for what would be without effect there."""
    pods = {pod.name for pod in lab.pods}
    skips = network_of(lab).has_programs and lab.in_force.host_routing is HostRouting.BPF
    for way in ways_of(wire, asked.direction):
        if skips and way.receiver.part in pods and (asked.rate_bit_per_s or asked.delay_s):
            raise UsageError(
                what=f"what comes to pod {way.receiver.part} passes no queue",
                cause="BPF host routing puts a packet into the pod by bpf_redirect_peer, past its device's queue",
                remedy=f"labctl impair {lab.name} {wire.name} … direction=from; or on the node's link",
            )


def impair(lab: Lab, wire: Wire, asked: Impairment) -> None:
    """Sets it in place of what was set. When a part of it fails nothing is set. Raises UsageError, HostLacks,
    StepFailed."""
    require_possible(lab, wire, asked)
    clear(wire)
    try:
        for number, way in enumerate(ways_of(wire, asked.direction)):
            if asked.delay_s or asked.rate_bit_per_s:
                _queue(way.sender, asked)
            if asked.by_program:
                _attach(way, asked, seed=asked.seed * 2 + number)
    except BaseException:
        clear(wire)
        raise


def clear(wire: Wire) -> None:
    """Idempotent. Raises StepFailed."""
    for end in wire.ends:
        with _failing(end, "the impairment cannot be removed"), contextlib.suppress(FileNotFoundError):
            with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
                states = {one.index: one for one in map(link_state.parse_state, channel.ask(rtnetlink.all_links()))}
                if end.index not in states:
                    continue
                was_there = _removed(channel, link_state.filter_first_delete(end.index, Hook.INGRESS))
                if was_there and not any(attached_to(channel, end.index).values()):
                    channel.send([link_state.clsact_delete(end.index)])
                set_transmit_offloads(end.device, is_on=True)
            if _has_queue(end):
                _tc(end, ("qdisc", "del", "dev", end.device, "root"))


def counts(wire: Wire) -> dict[str, ImpairCounts]:
    """By the part that receives, what its program did. Ends without a program are left out."""
    found = {}
    for end in wire.ends:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
                programs = attached_to(channel, end.index).get(Direction.INGRESS, ())
            for one in programs:
                if one.name == PROGRAM:
                    program = bpf.program_descriptor(one.program_id)
                    stack.callback(bpf.close_all, [program])
                    maps = bpf.maps_of_program(program)
                    stack.callback(bpf.close_all, list(maps.values()))
                    value = bpf.lookup(maps["impair_counts"], _KEY, _COUNTS.size) or bytes(_COUNTS.size)
                    seen, lost, duplicated, corrupted, reordered = _COUNTS.unpack(value)
                    found[end.part] = ImpairCounts(
                        seen=seen, lost=lost, duplicated=duplicated, corrupted=corrupted, reordered=reordered
                    )
    return found


def impaired_ways(wires: Wires, asked: Mapping[str, Impairment]) -> tuple[ImpairedWay, ...]:
    """Each direction of each link that is impaired, with the counters as they are now."""
    found = []
    for wire in wires.all:
        if wire.name not in asked:
            continue
        one, done = asked[wire.name], counts(wire)
        for way in ways_of(wire, one.direction):
            sent = _sent(way.sender)
            found.append(
                ImpairedWay(
                    link=wire.name,
                    sender=way.sender.part,
                    receiver=way.receiver.part,
                    asked=one,
                    counts=done.get(way.receiver.part, ImpairCounts()),
                    sent_packets=sent.tx_packets if sent else 0,
                    sent_bytes=sent.tx_bytes if sent else 0,
                )
            )
    return tuple(found)


def _sent(end: WireEnd) -> link_state.DeviceState | None:
    try:
        with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
            return next(map(link_state.parse_state, channel.ask(rtnetlink.one_link(end.index))), None)
    except OSError:
        return None


def words(wire: Wire, asked: Impairment) -> tuple[str, ...]:
    """What is asked, and what the programs did so far at each end."""
    done = [
        f"{part}: " + ", ".join(f"{count} {what}" for what, count in _done(one)) + f" of {one.seen}"
        for part, one in counts(wire).items()
        if _done(one)
    ]
    return (asked.words(), *done)


def _done(one: ImpairCounts) -> tuple[tuple[str, int], ...]:
    every = (
        ("lost", one.lost),
        ("duplicated", one.duplicated),
        ("corrupted", one.corrupted),
        ("reordered", one.reordered),
    )
    return tuple((what, count) for what, count in every if count)


def _attach(way: _Way, asked: Impairment, *, seed: int) -> None:
    end = way.receiver
    shares = (min(round(share * _WHOLE), _WHOLE - 1) for share in
              (asked.loss, asked.duplicate, asked.corrupt, asked.reorder))  # fmt: skip
    with _failing(end, "the program that impairs cannot be attached"), loader.load_object(OBJECT) as loaded:
        bpf.update(loaded.maps["impair_config"], ((_KEY, _CONFIG.pack(*shares, seed & (2**64 - 1))),))
        with netns.entered(netns.path_of(way.sender.namespace)):
            set_transmit_offloads(way.sender.device, is_on=False)
        with netns.entered(netns.path_of(end.namespace)), Socket() as channel:
            try:
                channel.send([rtnetlink.clsact_add(end.index)])
            except NetlinkError as refused:
                if refused.errno != errno.EEXIST:
                    raise
            program = loaded.programs[PROGRAM]
            channel.send([link_state.filter_first(end.index, Hook.INGRESS, program=program, name=PROGRAM)])


def argv_queue(device: str, asked: Impairment) -> tuple[str, ...]:
    """netem where there is a delay, else a token bucket."""
    begin = ("tc", "qdisc", "replace", "dev", device, "root", "handle", _HANDLE)
    rate = f"{round(asked.rate_bit_per_s)}bit"
    if asked.delay_s:
        times = [f"{round(time_s / MICRO)}us" for time_s in (asked.delay_s, asked.jitter_s) if time_s]
        return (
            *begin,
            "netem",
            "limit",
            _NETEM_PACKETS,
            "delay",
            *times,
            *(("rate", rate) if asked.rate_bit_per_s else ()),
        )
    burst = max(round(asked.rate_bit_per_s / BITS_PER_BYTE * _BURST_S), _LEAST_BURST_BYTE)
    return (*begin, "tbf", "rate", rate, "burst", str(burst), "latency", _QUEUE)


def _queue(end: WireEnd, asked: Impairment) -> None:
    try:
        _tc(end, argv_queue(end.device, asked)[1:])
    except StepFailed as failed:
        kind = "NETEM" if asked.delay_s else "TBF"
        if "unknown" not in failed.cause.lower() and "no such file" not in failed.cause.lower():
            raise
        raise HostLacks(
            what=f"this kernel has no queue that {'delays packets' if asked.delay_s else 'limits a rate'}",
            cause=f"it was built without CONFIG_NET_SCH_{kind}, or the module is not loaded",
            remedy=f"modprobe sch_{kind.lower()}; or a kernel with CONFIG_NET_SCH_{kind}, such as a distribution's own",
        ) from failed


def _has_queue(end: WireEnd) -> bool:
    argv = ("tc", "qdisc", "show", "dev", end.device, "root")
    done = process.run(argv, timeout_s=_TC_TIMEOUT_S, namespace=netns.path_of(end.namespace))
    return f" {_HANDLE} " in f"{done.text} "


def _tc(end: WireEnd, words: Sequence[str]) -> None:
    argv = ("tc", *words)
    done = process.run(argv, timeout_s=_TC_TIMEOUT_S, namespace=netns.path_of(end.namespace))
    if done.returncode or done.timed_out:
        raise StepFailed(
            what=f"tc failed at {end}",
            cause=done.error_text.strip()[-300:] or f"it ended with status {done.returncode}",
            remedy=quoted(netns.command(end.namespace, argv)),
        )


def _removed(channel: Socket, request: Request) -> bool:
    """Whether there was something that the request removed."""
    try:
        channel.send([request])
    except NetlinkError as refused:
        if refused.errno not in _NOT_THERE:
            raise
        return False
    return True


@contextlib.contextmanager
def _failing(end: WireEnd, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as refused:
        raise StepFailed(
            what=f"{what} at {end}",
            cause=refused.strerror or str(refused),
            remedy=f"tc -n {end.namespace} filter show dev {end.device} ingress",
        ) from refused
