"""What the load program measured, slice by slice: the file that keeps it, and what the slices of several sides come to.

A file of slices (`NAME.slices`) is one line of JSON (`Conditions`), then a record for each slice as the program gives
it: `struct record` of `source/load.h`, little-endian, and the histogram of its round trips, in which nothing is
rounded. Pure.

How several sides' slices become one number a side and metric: the slices of all sides alternate, forth and back
(a b b a), which is a cycle. In each cycle the logarithms of the metric are averaged by side; that gives what all sides
have in common (the machine's pace in those milliseconds), and how far each side is from it. For either the
Hodges-Lehmann estimate is taken over all cycles. So two sides' numbers differ by the estimate of their differences
within cycles, whatever the machine did between cycles.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from statistics import fmean

from labctl.codec import plain
from labctl.compare.statistics import hodges_lehmann
from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.units import NANO
from labctl.values import dataclass

_RECORD = struct.Struct("<IBBHIHHHHIQQQQQQQQQIIIIIIII")
_COUNTED = struct.Struct("<QQQQ")
"""What stands behind that in records since they have the CPUs' own counters."""


class Kind(StrEnum):
    """What a slice does. Its values are the program's words; its order gives the numbers of the records, from 1."""

    TCP = "tcp"
    UDP = "udp"
    CONNECT = "connect"
    STREAM = "stream"
    PACED = "paced"


_KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How it was measured: as it was in force, not as it was asked for.

    `spun` are the CPUs that a spinner of the lowest priority kept awake; `nice` the priority of both ends (client's,
    server's); the buffers are those that the kernel says a socket has. `slice_s` is the shortest slice's length;
    `channel_s` what a command took on the way to pods elsewhere and back, None on this host. `uncounted` is why cycles
    and instructions were not counted.
    """

    program: str
    spun: tuple[int, ...]
    nice: tuple[int, int]
    congestion: str
    send_buffer_byte: int
    receive_buffer_byte: int
    message_byte: int
    warm_s: float
    slice_s: float = 0.002
    channel_s: float | None = None
    uncounted: str = ""

    def record(self) -> Mapping[str, object]:
        document = plain(self)
        if not isinstance(document, Mapping):
            raise TypeError("a dataclass is written as an object")
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One slice. `argument` is the number of streams, or of requests a second. `times_ns` are the round trips' times in
    ascending order, each with how often it occurred; a stream has none. CPU time is that of the two threads; a softirq
    that ran on top of them is part of it where the kernel does not account for it apart. `cycles` and `instructions`
    are those of both threads by the CPUs' own counters; 0 where one of them could not count."""

    kind: Kind
    session: int
    cycle: int
    position: int
    argument: int
    client_cpu: int
    server_cpu: int
    begun_ns: int
    duration_ns: int
    byte: int
    client_cpu_ns: int
    server_cpu_ns: int
    client_waited_ns: int
    server_waited_ns: int
    packets_cpu_ns: int
    packets_waited_ns: int
    attempt: int
    operations: int
    resent: int
    switches: tuple[int, int, int, int]
    times_ns: tuple[tuple[int, int], ...]
    cycles: int = 0
    instructions: int = 0

    @property
    def cpu_s(self) -> float:
        return (self.client_cpu_ns + self.server_cpu_ns) * NANO

    @property
    def duration_s(self) -> float:
        return self.duration_ns * NANO


def read_slices(data: bytes) -> Iterator[Slice]:
    """The records that stand one behind the other in `data`. Raises MeasureFailed when they are no such records."""
    at = 0
    try:
        while at < len(data):
            record = _RECORD.unpack_from(data, at)
            size, kind, _, session, cycle, position, client_cpu, server_cpu, attempt, argument = record[:10]
            begun_ns, duration_ns, byte, client_ns, server_ns, client_waited_ns, server_waited_ns = record[10:17]
            packets_cpu_ns, packets_waited_ns, operations, resent = record[17:21]
            distinct, histogram_byte = record[25:27]
            has_counters = size == _RECORD.size + _COUNTED.size + histogram_byte
            begin = at + _RECORD.size + (_COUNTED.size if has_counters else 0)
            if size != begin - at + histogram_byte or at + size > len(data):
                raise ValueError(f"a record of {size} bytes, of which {len(data) - at} are there")
            counted = _COUNTED.unpack_from(data, at + _RECORD.size) if has_counters else (0, 0, 0, 0)
            yield Slice(
                kind=_KINDS[kind - 1],
                session=session,
                cycle=cycle,
                position=position,
                argument=argument,
                client_cpu=client_cpu,
                server_cpu=server_cpu,
                begun_ns=begun_ns,
                duration_ns=duration_ns,
                byte=byte,
                client_cpu_ns=client_ns,
                server_cpu_ns=server_ns,
                client_waited_ns=client_waited_ns,
                server_waited_ns=server_waited_ns,
                packets_cpu_ns=packets_cpu_ns,
                packets_waited_ns=packets_waited_ns,
                attempt=attempt,
                operations=operations,
                resent=resent,
                switches=(record[21], record[22], record[23], record[24]),
                times_ns=_times(data[begin : begin + histogram_byte], distinct),
                cycles=counted[0] + counted[1] if counted[0] and counted[1] else 0,
                instructions=counted[2] + counted[3] if counted[2] and counted[3] else 0,
            )
            at += size
    except (struct.error, IndexError, ValueError) as error:
        raise MeasureFailed("the slices of the load program cannot be read", f"at byte {at}: {error}") from error


def _times(data: bytes, distinct: int) -> tuple[tuple[int, int], ...]:
    numbers = list(_numbers(data))
    if len(numbers) != 2 * distinct:
        raise ValueError(f"a histogram of {len(numbers)} numbers, not {2 * distinct}")
    return tuple(zip(accumulate(numbers[::2]), numbers[1::2], strict=True))


def _numbers(data: bytes) -> Iterator[int]:
    """Unsigned LEB128."""
    value, shift = 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        yield value
        value, shift = 0, 0
    if shift:
        raise ValueError("a histogram ends within a number")


def slices_file(conditions: Conditions, records: Sequence[bytes]) -> bytes:
    """The content of a `.slices` file."""
    return json.dumps(conditions.record()).encode() + b"\n" + b"".join(records)


def read_slices_file(data: bytes) -> tuple[Mapping[str, object], tuple[Slice, ...]]:
    """The conditions as they were written, and the slices. Raises MeasureFailed."""
    head, _, records = data.partition(b"\n")
    try:
        conditions = parse_json(head)
    except ValueError:
        conditions = None
    if not isinstance(conditions, Mapping):
        raise MeasureFailed("the slices of the load program cannot be read", "the first line is no JSON object")
    return conditions, tuple(read_slices(records))


def time_s(times_ns: Sequence[tuple[int, int]], percent: float) -> float:
    """A percentile of times with their counts, ascending and not empty, in seconds; linear between two of them."""
    ends = list(accumulate(count for _, count in times_ns))
    rank = (ends[-1] - 1) * percent / 100
    below = int(rank)

    def at(position: int) -> int:
        return next(time for (time, _), end in zip(times_ns, ends, strict=True) if position < end)

    low = at(below)
    high = at(min(below + 1, ends[-1] - 1))
    return (low + (high - low) * (rank - below)) * NANO


def joined(slices: Sequence[Slice]) -> tuple[tuple[int, int], ...]:
    """The histogram of all of them."""
    counts: dict[int, int] = {}
    for each in slices:
        for time, count in each.times_ns:
            counts[time] = counts.get(time, 0) + count
    return tuple(sorted(counts.items()))


Figure = Callable[[Slice], float]
"""A number of one slice, above zero; 0 where the slice yields none."""


def median_s(one: Slice) -> float:
    return time_s(one.times_ns, 50) if one.times_ns else 0.0


def per_s(one: Slice) -> float:
    return one.operations / one.duration_s if one.duration_ns else 0.0


def cpu_per_operation_s(one: Slice) -> float:
    return one.cpu_s / one.operations if one.operations else 0.0


def cycles_per_operation(one: Slice) -> float:
    return one.cycles / one.operations if one.operations else 0.0


def instructions_per_operation(one: Slice) -> float:
    return one.instructions / one.operations if one.operations else 0.0


def cpu_per_byte_s(one: Slice) -> float:
    return one.cpu_s / one.byte if one.byte else 0.0


def byte_per_s(one: Slice) -> float:
    return one.byte / one.duration_s if one.duration_ns else 0.0


def last_attempts(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Without the slices that were measured again."""
    last = {(each.session, each.cycle, each.position): each for each in slices}
    return tuple(each for each in slices if each is last[each.session, each.cycle, each.position])


@dataclass(frozen=True, slots=True, kw_only=True)
class Valued:
    """What slices come to: a number for each side (by its session; none where nothing is left), over so many cycles;
    `dropped` cycles had a slice that yielded nothing."""

    by_session: Mapping[int, float]
    cycles: int
    dropped: int


def value_of(slices: Sequence[Slice], figure: Figure) -> Valued:
    """One number per session, from the slices of all sides of one kind on one pair."""
    sessions = sorted({each.session for each in slices})
    cycles: dict[int, dict[int, list[float]]] = {}
    for each in last_attempts(slices):
        cycles.setdefault(each.cycle, {}).setdefault(each.session, []).append(figure(each))
    common: list[float] = []
    apart: dict[int, list[float]] = {session: [] for session in sessions}
    for cycle in cycles.values():
        if set(cycle) != set(sessions) or not all(value > 0 for values in cycle.values() for value in values):
            continue
        logs = {session: fmean(map(math.log, values)) for session, values in cycle.items()}
        middle = fmean(logs.values())
        common.append(middle)
        for session, log in logs.items():
            apart[session].append(log - middle)
    if not common:
        return Valued(by_session={}, cycles=0, dropped=len(cycles))
    level = hodges_lehmann(common)
    return Valued(
        by_session={session: math.exp(level + hodges_lehmann(each)) for session, each in apart.items()},
        cycles=len(common),
        dropped=len(cycles) - len(common),
    )
