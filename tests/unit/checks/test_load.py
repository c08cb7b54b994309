"""The load check: its metrics from slices, what it says, and where it cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.load import LoadCheck, load_values, rows_of, said_of, tasks_of
from labctl.errors import ToolMissing
from labctl.load.slices import Conditions, Kind, Slice
from labctl.model.lab import CheckSpec
from labctl.model.parameters import LoadParameters
from labctl.model.result import CheckResult, Verdict
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

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


def test_without_hardware_counters_there_is_no_figure_of_them_and_the_reason_is_said() -> None:
    why = "cannot count cycles and instructions: No such file or directory"
    values = {"latency_p50": 40e-6, "transactions_per_s": 20_000.0}
    assert f"no hardware counters: {why}" in said_of(values, [ONE], replace(CONDITIONS, uncounted=why)).split("; ")
    counting = replace(ONE, cycles=9_000, instructions=30_000)
    names = {"cycles_per_transaction", "instructions_per_transaction"}
    assert not names & set(load_values({0: [ONE]}, PARAMETERS)[0])
    found = load_values({0: [counting]}, PARAMETERS)[0]
    assert (found["cycles_per_transaction"], found["instructions_per_transaction"]) == pytest.approx((3_000, 10_000))


def test_slices_of_pods_elsewhere_say_why_they_are_so_long() -> None:
    values = {"latency_p50": 40e-6, "transactions_per_s": 20_000.0}
    said = said_of(values, [ONE], replace(CONDITIONS, spun=(), slice_s=0.0248, channel_s=0.0062))
    assert "slices of at least 24.8 ms: a command takes 6.2 ms to these pods and back" in said.split("; ")


WHY = "client is no namespace of this host, and takes no program through a stream"


def test_a_check_by_itself_is_skipped_where_the_program_cannot_run(run_check: RunCheck) -> None:
    ran = run_check(LoadCheck(), PARAMETERS, (), ())
    assert (ran.result.verdict, ran.result.reason) == (Verdict.SKIP, WHY)
    assert (ran.client.calls, ran.server.calls) == ([], [])


def compared(recorded: Callable[[str], bytes], **sockperf: Any) -> CheckResult:
    """A run of a comparison between pods that take no program, but have the field's tools, with recorded output."""
    tools = {
        CLIENT: (
            Answer(argv=("sockperf", "ping-pong"), stdout=recorded("sockperf-pass.txt"), cpu_s=0.3, **sockperf),
            Answer(argv=("iperf3", "-c"), stdout=recorded("iperf-tcp.json")),
        ),
        SERVER: (
            Answer(argv=("sockperf", "server"), stdout=b"using recvfrom() to block on socket(s)", cpu_s=0.2),
            Answer(argv=("iperf3", "-s"), stdout=b"Server listening on 5201 (test #1)\n"),
        ),
    }
    lab = example_lab()
    context = CheckContext(
        open_lab=ScriptedLab(lab, [ScriptedTarget(name, answers) for name, answers in tools.items()]),
        pair=lab.pairs[0],
        spec=CheckSpec(name="load", kind="load", parameters=PARAMETERS),
        raw=MemoryRaw(),
    )
    (result,) = LoadCheck().run_abreast((context,), "7")
    return result


def test_in_a_comparison_the_tools_of_the_field_stand_in_with_the_reason(recorded: Callable[[str], bytes]) -> None:
    result = compared(recorded)
    assert (result.check, result.kind, result.verdict, result.stood_in) == ("load", "load", Verdict.PASS, WHY)
    assert result.reason.startswith(f"{WHY}; sockperf and iperf3 stood in: ")
    declared = {metric.name: metric for metric in LoadCheck().metrics(PARAMETERS)}
    primary = {name for name, metric in declared.items() if metric.primary}
    assert primary | {"latency_p99", "throughput"} == {sample.metric for sample in result.samples}
    assert all(declared[sample.metric].unit == sample.unit for sample in result.samples)
    names = {Path(path).name for path in result.raw}
    assert {"latency-client.stdout", "latency-server.json", "iperf-client.stdout", "iperf-server.json"} <= names


def test_a_tool_that_stood_in_and_failed_is_the_result(recorded: Callable[[str], bytes]) -> None:
    result = compared(recorded, fails=ToolMissing("the program sockperf is not in client"))
    assert (result.verdict, result.stood_in) == (Verdict.SKIP, WHY)
    assert "the program sockperf is not in client" in result.reason
