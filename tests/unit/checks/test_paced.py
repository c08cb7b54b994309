"""The paced check: times from when each request was due, found again from real sockperf logs, stalls included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from labctl.checks.paced import PacedCheck, PacedReport, argv_paced_client, judge_paced, parse_paced
from labctl.errors import MeasureFailed
from labctl.model.parameters import PacedParameters
from labctl.model.result import Verdict
from labctl.testing.scripted import Answer

from .conftest import RunCheck

Recorded = Callable[[str], bytes]
PARAMETERS = PacedParameters(rate_per_s=200)
SERVER = Answer(argv=("sockperf", "server"), stdout=b"sockperf: [tid 1] using recvfrom() to block on socket(s)")


def client(stdout: bytes, stderr: bytes, **more: Any) -> Answer:
    return Answer(argv=("sockperf", "under-load"), stdout=stdout, stderr=stderr, **more)


def report(sent_s: Sequence[float], took_s: float, valid_s: float = 1.0) -> PacedReport:
    return PacedReport(sent_s=tuple(sent_s), answered_s=tuple(at + took_s for at in sent_s), valid_s=valid_s)


def test_the_command_asks_for_the_rate_an_answer_to_each_and_the_whole_log() -> None:
    argv = argv_paced_client("10.0.0.2", PacedParameters(duration_s=0.3, rate_per_s=500, message_byte=100))
    assert argv[:4] == ("sockperf", "under-load", "--tcp", "--full-rtt")
    words = " ".join(argv)
    for part in ("-t 1", "-m 100", "--mps 500", "--reply-every 1", "--full-log /dev/stderr"):
        assert part in words


def test_the_recorded_log_is_read_whole(recorded: Recorded) -> None:
    read = parse_paced(recorded("sockperf-paced.txt").decode(), recorded("sockperf-paced-log.txt").decode())
    assert len(read.sent_s) == len(read.answered_s) == 109
    assert read.sent_s[7] == pytest.approx(2.442577120)
    assert read.answered_s[7] == pytest.approx(2.442700215)


def test_the_recorded_stall_of_the_sender_is_not_left_out(recorded: Recorded) -> None:
    """Some requests of the recording went out late: from when they were due they took longer than sockperf says."""
    read = parse_paced(recorded("sockperf-paced.txt").decode(), recorded("sockperf-paced-log.txt").decode())
    response, service = read.response_times_s(200), read.service_times_s()
    assert all(r >= s - 1e-9 for r, s in zip(response, service, strict=True))
    assert response[-1] > service[-1]


def test_requests_that_went_out_in_time_take_as_long_as_they_take() -> None:
    on_time = report([5 + k / 100 for k in range(100)], 0.002)
    assert on_time.response_times_s(100) == pytest.approx([0.002] * 100)


def test_a_burst_after_a_stall_counts_from_when_each_request_was_due() -> None:
    """A stall of 50 ms at 100/s: five requests wait, 50, 40, 30, 20 and 10 ms, and go out at once."""
    sent = [k / 100 for k in range(10)] + [0.15] * 5 + [k / 100 for k in range(15, 20)]
    stalled = report(sent, 0.001)
    late = [time for time in stalled.response_times_s(100) if time > 0.0015]
    assert late == pytest.approx([0.011, 0.021, 0.031, 0.041, 0.051])
    assert stalled.service_times_s() == pytest.approx([0.001] * 20)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\n50, ", "\n51, ", "log is incomplete"),
        ("\n108, ", "\n# ", "log is incomplete"),
        ("packet, txTime", "packet, other", None),
    ],
)
def test_a_log_with_a_gap_is_refused(recorded: Recorded, old: str, new: str, what: str | None) -> None:
    log = recorded("sockperf-paced-log.txt").decode()
    assert old in log
    text = recorded("sockperf-paced.txt").decode()
    if what is None:
        parse_paced(text, log.replace(old, new))
        return
    with pytest.raises(MeasureFailed, match=what):
        parse_paced(text, log.replace(old, new))


@pytest.mark.parametrize(("text", "what"), [("", "cannot be read"), ("whole", "transferred nothing")])
def test_output_without_figures_is_an_error_and_not_a_good_result(recorded: Recorded, text: str, what: str) -> None:
    with pytest.raises(MeasureFailed, match=what):
        parse_paced(recorded("sockperf-paced.txt").decode() if text else "", "")


def test_a_rate_that_the_path_did_not_carry_fails() -> None:
    assert judge_paced(report([k / 100 for k in range(89)], 0.001), PacedParameters(rate_per_s=100)).verdict == "fail"
    assert judge_paced(report([k / 100 for k in range(91)], 0.001), PacedParameters(rate_per_s=100)).verdict == "pass"


def test_the_check_gives_response_times_and_says_both(run_check: RunCheck, recorded: Recorded) -> None:
    answer = client(recorded("sockperf-paced.txt"), recorded("sockperf-paced-log.txt"))
    ran = run_check(PacedCheck(), PARAMETERS, [answer], [SERVER])
    assert ran.result.verdict is Verdict.PASS
    assert list(ran.values) == ["response_p50", "response_p90", "response_p99"]
    assert 50e-6 < ran.values["response_p50"] < 500e-6
    assert "from the intended send time" in ran.result.reason
    assert not any(metric.primary for metric in PacedCheck().metrics(PARAMETERS))


def test_a_server_that_is_not_reached_fails_and_a_refused_one_is_an_error(run_check: RunCheck) -> None:
    unreached = client(b"", b"sockperf: ERROR: Can`t connect socket (errno=110 Connection timed out)\n", returncode=1)
    assert run_check(PacedCheck(), PARAMETERS, [unreached], [SERVER]).result.verdict is Verdict.FAIL
    refused = client(b"", b"sockperf: ERROR: Can`t connect socket (errno=111 Connection refused)\n", returncode=1)
    assert run_check(PacedCheck(), PARAMETERS, [refused], [SERVER]).result.verdict is Verdict.ERROR
