"""The latency check: whole round trips from real sockperf output, own CPU, and failures that exit with 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from labctl.checks.latency import LatencyCheck, argv_sockperf_client, judge_sockperf, parse_sockperf
from labctl.errors import MeasureFailed
from labctl.model.parameters import LatencyParameters
from labctl.model.result import Verdict
from labctl.testing.scripted import Answer

from .conftest import RunCheck

Recorded = Callable[[str], bytes]


def server(**more: Any) -> Answer:
    return Answer(
        argv=("sockperf", "server"),
        **{"stdout": b"sockperf: [tid 1] using recvfrom() to block on socket(s)", "cpu_s": 0.2, **more},
    )


def client(stdout: bytes, **more: Any) -> Answer:
    return Answer(argv=("sockperf", "ping-pong"), stdout=stdout, **{"cpu_s": 0.3, **more})


def test_the_command_asks_for_whole_round_trips_and_whole_seconds() -> None:
    argv = argv_sockperf_client("10.0.0.2", LatencyParameters(duration_s=0.3, message_byte=100))
    assert argv[:4] == ("sockperf", "ping-pong", "--tcp", "--full-rtt")
    assert argv[-4:] == ("-t", "1", "-m", "100")


def test_the_recorded_figures_are_read(recorded: Recorded) -> None:
    text = recorded("sockperf-pass.txt").decode()
    report = parse_sockperf(text)
    percentile_line = next(line for line in text.splitlines() if "percentile 50.000" in line)
    assert report.rtts_s[50] == pytest.approx(float(percentile_line.split("=")[1]) * 1e-6)
    assert report.rtts_s[50] <= report.rtts_s[90] <= report.rtts_s[99]
    assert report.run_s == pytest.approx(1.0, abs=0.01)
    assert report.valid_s == pytest.approx(0.55, abs=0.01)
    assert report.run_transactions > report.valid_transactions > 0
    assert report.transactions_per_s == report.valid_transactions / report.valid_s


def test_a_run_that_got_no_cpu_says_how_little_it_did_and_what_to_try(recorded: Recorded) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_sockperf(recorded("sockperf-starved.txt").decode())
    assert raised.value.cause.startswith("294 round trips in 1.612 s, and none in the part")
    assert raised.value.cause.endswith("take a longer --duration")


def test_half_round_trips_are_refused(recorded: Recorded) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_sockperf(recorded("sockperf-half.txt").decode())
    assert "half round trips" in raised.value.cause


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("---> percentile 99.000", "---> percentile 98.000", "percentile 99 is missing"),
        ("[Valid Duration]", "[Other]", "its statistics are missing"),
        ("RunTime=0.55", "RunTime=0.00 sec; was 0", "no transaction was completed"),
    ],
)
def test_statistics_that_are_not_whole_are_an_error(recorded: Recorded, old: str, new: str, cause: str) -> None:
    text = recorded("sockperf-pass.txt").decode()
    assert old in text
    with pytest.raises(MeasureFailed) as raised:
        parse_sockperf(text.replace(old, new))
    assert cause in raised.value.cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "its statistics are missing"),
        ("sockperf: No valid observations found. Try tune parameters: --time/--mps", "its statistics are missing"),
        ("sockperf: '-t' Invalid duration: 0.3", "'-t' Invalid duration: 0.3"),
    ],
)
def test_output_without_statistics_is_an_error(text: str, cause: str) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_sockperf(text)
    assert cause in raised.value.cause


def test_a_short_run_is_no_measurement(recorded: Recorded) -> None:
    report = parse_sockperf(recorded("sockperf-pass.txt").decode())
    with pytest.raises(MeasureFailed, match="ended early"):
        judge_sockperf(report, LatencyParameters(duration_s=2))


def test_own_cpu_is_client_and_server_over_all_transactions(run_check: RunCheck, recorded: Recorded) -> None:
    ran = run_check(LatencyCheck(), LatencyParameters(), [client(recorded("sockperf-pass.txt"))], [server()])
    assert ran.result.verdict is Verdict.PASS
    report = parse_sockperf(recorded("sockperf-pass.txt").decode())
    assert ran.values["cpu_per_transaction"] == pytest.approx(0.5 / report.run_transactions)
    assert set(ran.values) == {metric.name for metric in LatencyCheck().metrics(LatencyParameters())}
    assert "closed loop" in ran.result.reason
    assert ran.server.started[0].is_over


@pytest.mark.parametrize("unknown", ["client", "server"])
def test_unknown_cpu_time_is_left_out_with_the_reason(run_check: RunCheck, recorded: Recorded, unknown: str) -> None:
    answers = {"client": client(recorded("sockperf-pass.txt")), "server": server()}
    cpu_less = {
        "client": client(recorded("sockperf-pass.txt"), cpu_s=None),
        "server": server(cpu_s=None),
    }
    answers[unknown] = cpu_less[unknown]
    ran = run_check(LatencyCheck(), LatencyParameters(), [answers["client"]], [answers["server"]])
    assert ran.result.verdict is Verdict.PASS
    assert "cpu_per_transaction" not in ran.values
    assert "own CPU is not known" in ran.result.reason


@pytest.mark.parametrize(
    ("fixture", "verdict", "words"),
    [
        ("sockperf-refused.txt", Verdict.ERROR, "Can`t connect socket (errno=111 Connection refused)"),
        ("sockperf-server-died.txt", Verdict.ERROR, "A connection was forcibly closed by a peer"),
    ],
)
def test_what_sockperf_calls_an_error_is_one_although_it_exits_with_0(
    run_check: RunCheck, recorded: Recorded, fixture: str, verdict: Verdict, words: str
) -> None:
    ran = run_check(LatencyCheck(), LatencyParameters(), [client(recorded(fixture))], [server()])
    assert ran.result.verdict is verdict
    assert words in ran.result.reason
    assert ran.result.samples == ()


def test_a_server_that_listens_but_is_not_reached_is_the_networks_failure(run_check: RunCheck) -> None:
    said = b"sockperf: ERROR: Can`t connect socket (errno=110 Connection timed out)\n"
    ran = run_check(LatencyCheck(), LatencyParameters(), [client(said)], [server()])
    assert ran.result.verdict is Verdict.FAIL
    assert ran.result.reason.startswith("the server listens but was not reached")


def test_a_server_that_died_is_an_error(run_check: RunCheck, recorded: Recorded) -> None:
    dying = server(dies=True, returncode=-9)
    ran = run_check(LatencyCheck(), LatencyParameters(), [client(recorded("sockperf-pass.txt"))], [dying])
    assert ran.result.verdict is Verdict.ERROR
    assert ran.result.reason.startswith("the sockperf server died during the run")
