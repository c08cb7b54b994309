"""What the load program measured, read back; and how the slices of several sides become one number a side."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import MeasureFailed
from labctl.load.slices import (
    Conditions,
    Kind,
    Slice,
    cycles_per_operation,
    instructions_per_operation,
    joined,
    last_attempts,
    median_s,
    per_s,
    read_slices,
    read_slices_file,
    slices_file,
    time_s,
    value_of,
)

LAYOUT = "<IBBHIHHHHIQQQQQQQQQIIIIIIII"
"""`struct record` of source/load.h, written down a second time."""
CONDITIONS = Conditions(
    program="labctl-load-x86_64",
    spun=(0, 1),
    nice=(-20, -20),
    congestion="cubic",
    send_buffer_byte=1,
    receive_buffer_byte=2,
    message_byte=64,
    warm_s=0.0005,
)
ONE = Slice(
    kind=Kind.TCP,
    session=3,
    cycle=70_000,
    position=1,
    argument=0,
    client_cpu=0,
    server_cpu=1,
    begun_ns=1,
    duration_ns=2_000_000,
    byte=192,
    client_cpu_ns=100,
    server_cpu_ns=200,
    client_waited_ns=5,
    server_waited_ns=6,
    packets_cpu_ns=7,
    packets_waited_ns=8,
    attempt=1,
    operations=3,
    resent=0,
    switches=(1, 2, 3, 4),
    times_ns=((40_000, 2), (90_000, 1)),
)


def leb128(value: int) -> bytes:
    data = b""
    while True:
        byte, value = value & 0x7F, value >> 7
        data += bytes([byte | (0x80 if value else 0)])
        if not value:
            return data


def record(one: Slice) -> bytes:
    """As the program writes it."""
    histogram, last = b"", 0
    for time, count in one.times_ns:
        histogram += leb128(time - last) + leb128(count)
        last = time
    head = struct.pack(
        LAYOUT,
        *(struct.calcsize(LAYOUT) + len(histogram), list(Kind).index(one.kind) + 1, 0, one.session, one.cycle),
        *(one.position, one.client_cpu, one.server_cpu, one.attempt, one.argument, one.begun_ns, one.duration_ns),
        *(one.byte, one.client_cpu_ns, one.server_cpu_ns, one.client_waited_ns, one.server_waited_ns),
        *(one.packets_cpu_ns, one.packets_waited_ns, one.operations, one.resent, *one.switches),
        *(len(one.times_ns), len(histogram)),
    )
    return head + histogram


def test_a_record_is_as_long_as_the_program_says() -> None:
    assert struct.calcsize(LAYOUT) == 128


@given(
    st.lists(
        st.dictionaries(st.integers(1, 10**12), st.integers(1, 10**6), max_size=5).map(
            lambda counts: tuple(sorted(counts.items()))
        ),
        max_size=4,
    )
)
def test_what_is_written_is_read_back(histograms: list[tuple[tuple[int, int], ...]]) -> None:
    slices = [replace(ONE, cycle=number, times_ns=times) for number, times in enumerate(histograms)]
    conditions, found = read_slices_file(slices_file(CONDITIONS, [record(one) for one in slices]))
    assert list(found) == slices
    assert (conditions["congestion"], conditions["spun"]) == ("cubic", [0, 1])


@pytest.mark.parametrize(
    "data",
    [
        record(ONE)[:-1],
        record(ONE)[:50],
        record(ONE) + b"\0",
        record(ONE)[:4] + b"\x09" + record(ONE)[5:],  # no such kind
        record(ONE)[:-1] + b"\x80",  # the histogram's last number does not end
        b"\xff" * 200,
    ],
)
def test_what_is_cut_off_or_damaged_is_an_error_with_its_place(data: bytes) -> None:
    with pytest.raises(MeasureFailed) as failed:
        list(read_slices(data))
    assert failed.value.cause.startswith("at byte ")


def test_a_file_without_conditions_is_an_error() -> None:
    with pytest.raises(MeasureFailed):
        read_slices_file(b"[]\n")


def test_percentiles_are_those_of_the_times_with_their_counts() -> None:
    times = ((10_000, 3), (20_000, 1))  # 10 10 10 20 µs
    assert time_s(times, 50) == pytest.approx(10e-6)
    assert time_s(times, 100) == pytest.approx(20e-6)
    assert time_s(((10_000, 1), (20_000, 1)), 50) == pytest.approx(15e-6)
    assert time_s(((7_000, 1),), 99) == pytest.approx(7e-6)
    assert joined([replace(ONE, times_ns=times), replace(ONE, times_ns=((10_000, 1),))]) == ((10_000, 4), (20_000, 1))


def slices_of(pace: list[float], slower: float, source: random.Random) -> list[Slice]:
    """Cycles of two sides, a b b a, on a machine whose pace is another in each; side 1 takes `slower` times as long."""
    made = []
    for cycle, each in enumerate(pace):
        for position, session in enumerate((0, 1, 1, 0)):
            time = round(50_000 * each * (slower if session else 1) * source.uniform(0.99, 1.01))
            made.append(
                replace(ONE, session=session, cycle=cycle, position=position, times_ns=((time, 40),), attempt=0)
            )
    return made


def test_a_machine_that_changes_its_pace_between_cycles_hides_no_difference() -> None:
    source = random.Random(7)
    pace = [source.choice((1.0, 1.4)) for _ in range(40)]
    found = value_of(slices_of(pace, 1.02, source), median_s)
    assert found.by_session[1] / found.by_session[0] == pytest.approx(1.02, abs=0.004)
    assert (found.cycles, found.dropped) == (40, 0)


def test_one_side_alone_has_its_own_centre() -> None:
    slices = [replace(ONE, cycle=cycle, times_ns=((time, 1),)) for cycle, time in enumerate((40_000, 50_000, 62_500))]
    assert value_of(slices, median_s).by_session == {3: pytest.approx(50e-6)}


def test_a_cycle_with_a_slice_that_yielded_nothing_is_left_out_and_counted() -> None:
    slices = slices_of([1.0, 1.0, 1.0], 1.0, random.Random(1))
    slices[5] = replace(slices[5], operations=0, times_ns=())
    found = value_of(slices, per_s)
    assert (found.cycles, found.dropped) == (2, 1)
    assert value_of([replace(ONE, operations=0)], per_s).by_session == {}


def test_of_a_slice_that_was_disturbed_the_last_attempt_counts() -> None:
    first, second = replace(ONE, attempt=0), replace(ONE, attempt=1, times_ns=((30_000, 3),))
    other = replace(ONE, position=2, attempt=0)
    assert last_attempts([first, second, other]) == (second, other)
    assert value_of([first, second], median_s).by_session == {3: pytest.approx(30e-6)}


HISTOGRAM = bytes((0xC4, 0x13, 2))
"""Two round trips of 2,500 ns."""


def with_counters(*counters: int) -> bytes:
    """A slice of two requests; `counters`: the client's and the server's cycles, then their instructions."""
    size = struct.calcsize(LAYOUT) + 8 * len(counters) + len(HISTOGRAM)
    numbers = (size, 1, 0, 3, 7, 2, 0, 1, 0, 0, 1, 5000, 128, 300, 200, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, len(HISTOGRAM))
    return struct.pack(LAYOUT + "Q" * len(counters), *numbers, *counters) + HISTOGRAM


def test_a_slice_has_the_cycles_and_instructions_of_both_ends_where_both_counted() -> None:
    one, other = read_slices(with_counters(1_000, 2_000, 3_000, 4_000) + with_counters(1_000, 0, 3_000, 4_000))
    assert (one.session, one.cycle, one.position, one.operations) == (3, 7, 2, 2)
    assert one.times_ns == ((2_500, 2),)
    assert (one.cycles, one.instructions) == (1_000 + 2_000, 3_000 + 4_000)
    assert (cycles_per_operation(one), instructions_per_operation(one)) == (1_500, 3_500)
    assert (other.cycles, other.instructions) == (0, 7_000), "the server's CPU counted no cycles"
    assert cycles_per_operation(other) == 0


def test_records_from_before_there_were_counters_are_read_as_they_are() -> None:
    (one,) = read_slices(with_counters())
    assert (one.operations, one.times_ns) == (2, ((2_500, 2),))
    assert (one.cycles, one.instructions, cycles_per_operation(one)) == (0, 0, 0)
