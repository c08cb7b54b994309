"""The load check: its metrics from slices, what it says, and where it cannot run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.checks.load import LoadCheck, load_values, rows_of, said_of, tasks_of
from labctl.load.slices import Conditions, Kind, Slice
from labctl.model.parameters import LoadParameters
from labctl.model.result import Verdict

from .conftest import RunCheck

PARAMETERS = LoadParameters()
CONDITIONS = Conditions(
    program="labctl-load-x86_64",
    spun=(0, 1),
    nice=(-20, -20),
    congestion="cubic",
    send_buffer_byte=524_288,
    receive_buffer_byte=524_288,
    message_byte=64,
    warm_s=0.0005,
)
ONE = Slice(
    kind=Kind.TCP,
    session=0,
    cycle=0,
    position=0,
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


def test_every_metric_comes_from_slices_that_are_measured() -> None:
    measured = {(task.kind, task.argument) for task in tasks_of(PARAMETERS)}
    assert {(row.kind, row.argument) for row in rows_of(PARAMETERS)} == measured
    assert sum(task.share for task in tasks_of(PARAMETERS)) == pytest.approx(1)


def test_the_primary_rows_are_those_of_the_method() -> None:
    primary = [metric.name for metric in LoadCheck().metrics(PARAMETERS) if metric.primary]
    assert primary == ["latency_p50", "transactions_per_s", "cpu_per_transaction", "cpu_per_byte"]


def test_values_are_computed_from_the_slices_of_both_sides() -> None:
    requests = [
        replace(ONE, session=session, cycle=cycle, position=position, attempt=0)
        for cycle in range(4)
        for position, session in enumerate((0, 1, 1, 0))
    ]
    streams = [
        replace(one, kind=Kind.STREAM, argument=1, times_ns=(), byte=3_000, cycle=one.cycle + 100) for one in requests
    ]
    slices = {side: [one for one in (*requests, *streams) if one.session == side] for side in (0, 1)}
    values = load_values(slices, PARAMETERS)
    assert values[0] == pytest.approx(values[1])
    assert values[0] == pytest.approx(
        {
            "latency_p50": 40e-6,
            "latency_p99": 90e-6,
            "transactions_per_s": 1_500,
            "cpu_per_transaction": 100e-9,
            "cpu_per_byte": 0.1e-9,
            "throughput": 12e6,
        }
    )


def test_the_reason_says_how_it_was_measured() -> None:
    values = {"latency_p50": 40e-6, "transactions_per_s": 20_000.0}
    said = said_of(values, [replace(ONE, attempt=0), ONE], CONDITIONS)
    assert said.split("; ") == [
        "median round trip 40.0 µs, 20,000 transactions/s (closed loop)",
        "1 slices",
        "1 more were disturbed and measured again",
        "ksoftirqd, which is not counted, took 2.3% of the own CPU",
        "CPUs 0, 1 were kept awake",
        "cubic, buffers of 512 KiB",
    ]
    without = replace(CONDITIONS, spun=(), nice=(0, 0))
    assert "priority 0 and 0: -20 is not allowed here" in said_of(values, [ONE], without)
    assert "awake" not in said_of(values, [ONE], without)


def test_pods_that_are_no_namespaces_of_this_host_are_skipped(run_check: RunCheck) -> None:
    ran = run_check(LoadCheck(), PARAMETERS, (), ())
    assert ran.result.verdict is Verdict.SKIP
    assert ran.result.reason == "the load program runs on this host, and these pods are not namespaces of it"
    assert (ran.client.calls, ran.server.calls) == ([], [])
