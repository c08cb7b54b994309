"""The ping check: what is read from real output, and which verdict follows."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median_grouped

import pytest

from labctl.checks.outcome import load_completed
from labctl.checks.ping import (
    PingCheck,
    PingReport,
    argv_ping,
    grouped_percentile,
    judge_ping,
    parse_ping,
    percentile,
    ping_values,
    slice_counts,
)
from labctl.errors import MeasureFailed
from labctl.model.parameters import PingParameters
from labctl.model.result import Verdict
from labctl.testing.scripted import Answer

from .conftest import RunCheck

Recorded = Callable[[str], bytes]
PASS = """PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.
[1795343592.144125] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=62 time=1.92 ms
[1795343592.147166] 64 bytes from 10.0.0.2: icmp_seq=2 ttl=62 time=0.021 ms
{more}
--- 10.0.0.2 ping statistics ---
{summary}
rtt min/avg/max/mdev = 0.021/0.652/1.922/0.897 ms
"""


def output(more: str = "", summary: str = "2 packets transmitted, 2 received, 0% packet loss, time 9ms") -> str:
    return PASS.format(more=more, summary=summary)


def test_the_command_is_iputils_ping_with_time_stamps() -> None:
    assert argv_ping("10.0.0.2", PingParameters(count=3, interval_s=0.005)) == (
        *("ping", "-n", "-D", "-c", "3", "-i", "0.005", "-s", "56", "-W", "1", "10.0.0.2"),
    )
    assert argv_ping("10.0.0.2", PingParameters(), pattern=b"\xab\xcd")[-3:] == ("-p", "abcd", "10.0.0.2")


def test_every_reply_of_a_recorded_run_is_read(recorded: Recorded) -> None:
    report = parse_ping(recorded("ping-pass.txt").decode())
    assert len(report.replies) == report.transmitted == report.received == 5
    assert [reply.sequence for reply in report.replies] == [1, 2, 3, 4, 5]
    assert report.ttls == (64,)
    assert all(1e-6 < rtt < 0.1 for rtt in report.rtts_s)
    assert report.loss == 0


def test_total_loss_has_loss_and_no_round_trip(recorded: Recorded) -> None:
    report = parse_ping(recorded("ping-lost.txt").decode())
    assert ping_values([report]) == {"loss": 1.0}
    judgement = judge_ping(report, PingParameters(count=2))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reason == "0 of 2 requests were answered: 100.0% loss, allowed is 0.0%"


def test_the_networks_own_words_are_in_the_reason(recorded: Recorded) -> None:
    report = parse_ping(recorded("ping-unreachable.txt").decode())
    assert len(report.troubles) == 4
    reason = judge_ping(report, PingParameters(count=4)).reason
    assert reason.endswith("allowed is 0.0%; Destination Host Unreachable (from 10.9.0.1)")


@pytest.mark.parametrize(
    "line",
    [
        "64 bytes from 10.0.0.2: icmp_seq=2 ttl=62 time=5.00 ms (DUP!)",
        "[1795343592.2] 64 bytes from 10.0.0.2: icmp_seq=2 ttl=62 time=5.00 ms (BAD CHECKSUM!)",
        "Warning: time of day goes back (-21us), taking countermeasures",
        "wrong data byte #16 should be 0x10 but was 0x0",
        "no answer yet for icmp_seq=3",
    ],
)
def test_lines_that_are_no_counted_reply_change_nothing(line: str) -> None:
    assert parse_ping(output(line)).rtts_s == pytest.approx((0.000021, 0.00192))


@pytest.mark.parametrize(
    "line",
    [
        "64 bytes from 10.0.0.2: icmp_req=3 ttl=62 time=0.5 ms",
        "64 bytes from server.lab (10.0.0.2): icmp_seq=3 ttl=62 time=0.5 ms",
        "[1795343592.1] 64 bytes from fd00::2: icmp_seq=3 ttl=62 time=0.500 ms",
        "8 bytes from 10.0.0.2: icmp_seq=3 ttl=62 time=0.500 ms (truncated)",
    ],
)
def test_replies_of_other_versions_are_read(line: str) -> None:
    report = parse_ping(output(line, "3 packets transmitted, 3 received, +1 duplicates, 0% packet loss, time 9ms"))
    assert report.rtts_s == pytest.approx((0.000021, 0.0005, 0.00192))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the summary"),
        ("PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n64 bytes from 10.0.0.2: icmp_seq=1 ttl", "the summary"),
        (output(summary="3 packets transmitted, 3 received, 0% packet loss"), "printed 2 replies and counted 3 of 3"),
        (output(summary="1 packets transmitted, 2 received, 0% packet loss"), "counted 2 of 1"),
        (output("16 bytes from 10.0.0.2: icmp_seq=3 ttl=64"), "icmp_seq=3 ttl=64"),
        ("\x00\xff binary", "the summary"),
    ],
)
def test_output_that_cannot_be_trusted_is_not_loss(text: str, cause: str) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_ping(text)
    assert cause in raised.value.cause


def test_fewer_requests_than_asked_for_is_no_measurement() -> None:
    with pytest.raises(MeasureFailed, match="ping ended early"):
        judge_ping(parse_ping(output()), PingParameters(count=50))


def test_loss_within_the_allowance_passes() -> None:
    report = parse_ping(output(summary="4 packets transmitted, 2 received, 50% packet loss, time 9ms"))
    assert judge_ping(report, PingParameters(count=4, max_loss=0.5)).verdict is Verdict.PASS
    assert judge_ping(report, PingParameters(count=4, max_loss=0.49)).verdict is Verdict.FAIL


def test_total_loss_that_is_allowed_passes_and_says_so(recorded: Recorded) -> None:
    judgement = judge_ping(parse_ping(recorded("ping-lost.txt").decode()), PingParameters(count=2, max_loss=1.0))
    assert judgement.verdict is Verdict.PASS
    assert "which the scenario allows" in judgement.reason


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (25, 1.75), (50, 2.5), (90, 3.7), (100, 4.0)])
def test_percentiles_interpolate_as_numpy_does(percent: float, value: float) -> None:
    # numpy.percentile([1, 2, 3, 4], percent)
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == pytest.approx(value)


@pytest.mark.parametrize("values", [[13, 13, 14, 14, 14, 15], [7], [9, 9], [1, 2, 2, 3, 4, 4, 4, 5, 9]])
def test_the_grouped_median_is_that_of_the_standard_library(values: list[float]) -> None:
    # It may not leave the samples, which the library's does by half a width at most.
    expected = min(max(median_grouped(values, interval=1), values[0]), values[-1])
    assert grouped_percentile(values, 50, 1) == pytest.approx(expected)


def test_grouped_percentiles_tell_more_than_the_rounding_does() -> None:
    true_us = [13 + number / 500 for number in range(1000)]
    rounded = sorted(round(value) for value in true_us)
    for percent in (10, 50, 90, 99):
        assert grouped_percentile(rounded, percent, 1) == pytest.approx(percentile(true_us, percent), abs=0.26)
    assert abs(percentile(rounded, 50) - percentile(true_us, 50)) < 0.6


def test_grouped_percentiles_ascend_and_stay_within_the_samples() -> None:
    values = [3.0, 3.0, 4.0, 4.0, 4.0, 9.0]
    got = [grouped_percentile(values, percent, 1) for percent in range(101)]
    assert got == sorted(got)
    assert (got[0], got[-1]) == (3.0, 9.0)


def test_back_to_back_is_an_adaptive_ping_without_an_interval() -> None:
    argv = argv_ping("10.0.0.2", PingParameters(count=50, interval_s=0, slices=4))
    assert argv == ("ping", "-n", "-D", "-c", "50", "-A", "-i", "0", "-s", "56", "-W", "1", "10.0.0.2")


def test_slices_are_as_equal_as_can_be_and_none_is_empty() -> None:
    assert slice_counts(10, 4) == (3, 3, 2, 2)
    assert slice_counts(2, 4) == (1, 1)
    assert slice_counts(50, 1) == (50,)


def sliced(*medians_us: float) -> list[PingReport]:
    line = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time={:.3f} ms"
    summary = "1 packets transmitted, 1 received, 0% packet loss, time 0ms"
    return [parse_ping(f"{line.format(us / 1000)}\n{summary}\n") for us in medians_us]


def test_the_median_of_a_sliced_run_moves_with_the_share_of_each_hump_and_no_slice_alone_can_spoil_it() -> None:
    half, quarter = sliced(*[10, 14] * 8), sliced(*[10, 10, 10, 14] * 4)
    assert ping_values(half)["rtt_p50"] == pytest.approx(12e-6)
    assert ping_values(quarter)["rtt_p50"] == pytest.approx((10 * 10 + 14 * 2) / 12 * 1e-6)
    assert ping_values(sliced(*[10] * 15, 900))["rtt_p50"] == pytest.approx(10e-6)
    assert ping_values(sliced(*[10] * 15, 900))["rtt_max"] == pytest.approx(900e-6)


def test_a_sliced_run_is_one_run_with_the_output_of_every_slice(run_check: RunCheck, recorded: Recorded) -> None:
    answers = [Answer(argv=("ping",), stdout=recorded("ping-pass.txt"), duration_s=0.03) for _ in range(3)]
    ran = run_check(PingCheck(), PingParameters(count=15, slices=3), answers, [])
    assert ran.result.verdict is Verdict.PASS
    assert ran.result.reason.startswith("15 of 15 requests were answered")
    assert [path for path in ran.result.raw if path.endswith("stdout")] == [
        "raw/ping.stdout", "raw/ping-2.stdout", "raw/ping-3.stdout"
    ]  # fmt: skip
    assert [call.argv[call.argv.index("-c") + 1] for call in ran.client.calls] == ["5", "5", "5"]


def test_where_starting_ping_is_dear_there_are_four_slices_and_as_many_requests(
    run_check: RunCheck, recorded: Recorded
) -> None:
    answers = [Answer(argv=("ping",), stdout=recorded("ping-pass.txt"), duration_s=0.4) for _ in range(4)]
    ran = run_check(PingCheck(), PingParameters(count=50, slices=10), answers, [])
    assert [call.argv[call.argv.index("-c") + 1] for call in ran.client.calls] == ["5", "15", "15", "15"]


def test_a_user_without_the_right_to_ping_back_to_back_is_told_what_to_set(run_check: RunCheck) -> None:
    answer = Answer(
        argv=("ping",), returncode=2, stderr=b"ping: cannot flood; minimal interval allowed for user is 2ms"
    )
    ran = run_check(PingCheck(), PingParameters(count=5, interval_s=0), [answer], [])
    assert ran.result.verdict is Verdict.ERROR
    assert ran.result.reason.endswith("only root may ping faster: set a longer intervalS")


def test_a_run_gives_every_declared_metric_and_keeps_the_raw_output(run_check: RunCheck, recorded: Recorded) -> None:
    answer = Answer(argv=("ping",), stdout=recorded("ping-pass.txt"), cpu_s=0.01)
    ran = run_check(PingCheck(), PingParameters(count=5), [answer], [])
    assert ran.result.verdict is Verdict.PASS
    assert set(ran.values) == {metric.name for metric in PingCheck().metrics(PingParameters())}
    assert ran.result.check == "my-ping"
    assert ran.result.raw == ("raw/ping.json", "raw/ping.stdout", "raw/ping.stderr")
    assert ran.client.calls[0].cpu == 0
    again = load_completed("ping", ran.raw.files.__getitem__)
    assert (again.argv, again.stdout, again.cpu_s) == (ran.client.calls[0].argv, recorded("ping-pass.txt"), 0.01)


@pytest.mark.parametrize(
    ("answer", "verdict", "reason"),
    [
        (
            Answer(argv=("ping",), returncode=2, stderr=b"ping: connect: Network is unreachable\n"),
            Verdict.FAIL,
            "the client has no route to the server: Network is unreachable",
        ),
        (
            Answer(argv=("ping",), returncode=2, stderr=b"ping: socket: Operation not permitted\n"),
            Verdict.ERROR,
            (
                "ping ended with status 2: its last output: ping: socket: Operation not permitted; "
                "it is not permitted: a capability, a permission or a kernel function is missing"
            ),
        ),
        (
            Answer(argv=("ping",), returncode=-9, timed_out=True, duration_s=11.0),
            Verdict.ERROR,
            "ping did not end in time: killed after 11.0 s; it printed nothing",
        ),
        (Answer(argv=("ping",), returncode=-11), Verdict.ERROR, "ping was killed by signal 11: it printed nothing"),
        (
            Answer(argv=("ping",), fails=MeasureFailed("the program ping is not on this host")),
            Verdict.ERROR,
            "the program ping is not on this host",
        ),
    ],
)
def test_a_tool_that_failed_is_an_error_and_never_loss(
    run_check: RunCheck, answer: Answer, verdict: Verdict, reason: str
) -> None:
    ran = run_check(PingCheck(), PingParameters(count=5), [answer], [])
    assert (ran.result.verdict, ran.result.reason) == (verdict, reason)
    assert ran.result.samples == ()


def test_round_trips_back_to_back_are_labelled_as_a_closed_loop() -> None:
    paced, closed = (PingCheck().metrics(PingParameters(interval_s=each))[0].label for each in (0.005, 0))
    assert (paced, closed) == ("ping round trip, median", "ping round trip (closed loop), median")
