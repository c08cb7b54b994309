"""The iperf check: figures from real JSON, and every way in which a run can be worthless."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from labctl.checks.iperf import IperfCheck, argv_iperf_client, judge_iperf, parse_iperf, parse_udp_counters
from labctl.errors import MeasureFailed
from labctl.model.parameters import IperfParameters
from labctl.model.result import Verdict
from labctl.testing.scripted import Answer

from .conftest import RunCheck

Recorded = Callable[[str], bytes]
SERVER = Answer(argv=("iperf3", "-s"), stdout=b"Server listening on 5201 (test #1)\n")
UDP = IperfParameters(protocol="udp")


def client(stdout: bytes, **more: Any) -> Answer:
    return Answer(argv=("iperf3", "-c"), stdout=stdout, **more)


def counted(unread: int | None) -> Answer:
    """What a pod's kernel has counted so far (recorded with Linux 6.18; the number is the test's own)."""
    text = (
        "Tcp: RtoAlgorithm RtoMin\nTcp: 1 200\n"
        "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n"
        f"Udp: 1478 0 {unread} 1 {unread} 0 0 0 0\n"
        "UdpLite: InDatagrams NoPorts\nUdpLite: 0 0\n"
    )
    return Answer(argv=("cat", "/proc/net/snmp"), stdout=b"" if unread is None else text.encode(), times=1)


def spoilt(data: bytes, *path: str, to: object) -> str:
    document = json.loads(data)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(document)


def test_the_duration_is_rounded_up_to_whole_seconds() -> None:
    argv = argv_iperf_client("10.0.0.2", IperfParameters(duration_s=1.2, streams=4))
    assert argv[argv.index("-t") + 1] == "2"
    assert argv[argv.index("-P") + 1] == "4"
    assert "-u" not in argv
    assert "0" not in argv_iperf_client("10.0.0.2", IperfParameters(duration_s=0.2))


def test_the_rate_of_udp_is_shared_by_its_streams() -> None:
    argv = argv_iperf_client("10.0.0.2", IperfParameters(protocol="udp", streams=4, rate_bit_per_s=100_000_000))
    assert argv[-3:] == ("-u", "-b", "25000000")


def test_tcp_figures_are_the_receivers_and_cpu_is_both_processes(recorded: Recorded) -> None:
    report = parse_iperf(recorded("iperf-tcp.json").decode())
    assert report.received_byte == 1_009_385_472
    assert report.throughput_bit_per_s == pytest.approx(8_042_399_464.58)
    assert report.retransmits == 432
    # (23.4328 % + 69.6853 %) of 1.004023 s, over the bytes received.
    assert report.cpu_s_per_byte == pytest.approx((0.234327960781898 + 0.6968528404111225) * 1.004023 / 1_009_385_472)
    assert judge_iperf(report, IperfParameters()).verdict is Verdict.PASS


def test_udp_figures_are_loss_and_jitter(recorded: Recorded) -> None:
    report = parse_iperf(spoilt(recorded("iperf-udp.json"), "end", "sum", "lost_packets", to=431))
    assert report.loss == pytest.approx(431 / 8626)
    assert report.jitter_s == pytest.approx(3.590710647696406e-06)
    assert judge_iperf(report, IperfParameters(protocol="udp", max_loss=0.05)).verdict is Verdict.PASS
    judgement = judge_iperf(report, UDP)
    assert (judgement.verdict, judgement.reason) == (Verdict.FAIL, "0.10 Gbit/s with 5.00% loss, allowed is 1.00%")


def test_too_little_throughput_fails(recorded: Recorded) -> None:
    report = parse_iperf(recorded("iperf-tcp.json").decode())
    judgement = judge_iperf(report, IperfParameters(min_throughput_bit_per_s=9e9))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reason == "8.04 Gbit/s, at least 9.00 Gbit/s was expected"


def test_a_short_run_is_no_measurement(recorded: Recorded) -> None:
    report = parse_iperf(recorded("iperf-tcp.json").decode())
    with pytest.raises(MeasureFailed, match="ended early") as raised:
        judge_iperf(report, IperfParameters(duration_s=2))
    assert raised.value.cause == "it ran for 1.00 s of 2 s"


@pytest.mark.parametrize(
    ("fixture", "path", "to", "words"),
    [
        ("tcp", ("end", "sum_sent", "bytes"), 0, "the sender counted 0 bytes"),
        ("tcp", ("end", "sum_received", "bytes"), 0, "the receiver counted 0 bytes"),
        ("udp", ("end", "sum", "packets"), 0, "the receiver counted 0 packets"),
        ("udp", ("end", "sum", "lost_packets"), None, "“lost_packets” is None"),
        ("tcp", ("end", "sum_received", "bits_per_second"), "fast", "“bits_per_second” is 'fast'"),
        ("tcp", ("end", "sum_received", "bits_per_second"), float("nan"), "“bits_per_second” is nan"),
        ("tcp", ("end", "cpu_utilization_percent"), None, "“cpu_utilization_percent” is missing"),
        ("tcp", ("end",), [], "“end” is missing"),
        ("tcp", ("start",), {}, "“test_start” is missing"),
    ],
)
def test_a_figure_that_is_missing_or_nothing_is_an_error(
    recorded: Recorded, fixture: str, path: tuple[str, ...], to: object, words: str
) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_iperf(spoilt(recorded(f"iperf-{fixture}.json"), *path, to=to))
    assert words in raised.value.cause


@pytest.mark.parametrize("text", ["", "{", "[]", "iperf3: error - unable to connect", '"text"', "{}"])
def test_output_that_is_no_report_is_an_error(text: str) -> None:
    with pytest.raises(MeasureFailed, match="cannot be read"):
        parse_iperf(text)


def test_a_system_that_does_not_count_retransmits_leaves_the_metric_out(
    run_check: RunCheck, recorded: Recorded
) -> None:
    document = json.loads(recorded("iperf-tcp.json"))
    del document["end"]["sum_sent"]["retransmits"]
    ran = run_check(IperfCheck(), IperfParameters(), [client(json.dumps(document).encode())], [SERVER])
    assert set(ran.values) == {"cpu_per_byte", "throughput"}


def test_a_run_starts_the_server_pinned_and_ends_it(run_check: RunCheck, recorded: Recorded) -> None:
    ran = run_check(IperfCheck(), IperfParameters(), [client(recorded("iperf-tcp.json"))], [SERVER])
    assert ran.result.verdict is Verdict.PASS
    assert set(ran.values) == {"cpu_per_byte", "throughput", "retransmits"}
    assert [call.cpu for call in (*ran.server.calls, *ran.client.calls)] == [1, 0]
    assert ran.server.started[0].is_over
    assert {"client.stdout", "server.stdout", "client.json"} <= set(ran.raw.files)


def test_udp_has_metrics_of_its_own(run_check: RunCheck, recorded: Recorded) -> None:
    ran = run_check(IperfCheck(), UDP, [client(recorded("iperf-udp.json"))], [counted(0), SERVER, counted(0)])
    assert {"unread-before.stdout", "unread-after.stdout"} <= set(ran.raw.files)
    assert list(ran.values) == [metric.name for metric in IperfCheck().metrics(UDP)]
    assert not any(metric.primary for metric in IperfCheck().metrics(UDP))


def test_what_reached_the_pod_and_was_not_read_is_no_loss_of_the_network(
    run_check: RunCheck, recorded: Recorded
) -> None:
    """431 of 8626 datagrams, 5 %; 1 % is allowed."""
    lossy = client(spoilt(recorded("iperf-udp.json"), "end", "sum", "lost_packets", to=431).encode())
    ran = run_check(IperfCheck(), UDP, [lossy], [counted(7), SERVER, counted(407)])
    assert ran.result.verdict is Verdict.ERROR
    assert ran.result.reason == (
        "the iperf3 server did not read what the network delivered: 400 of 8626 datagrams reached its pod and found "
        "its socket's buffer full, as on a busy machine; 0.36% were lost on the way"
    )
    assert ran.result.samples == ()
    assert ran.result.is_starved, "so it is tried once more"


@pytest.mark.parametrize("after", [7, 107, None])
def test_loss_that_the_counter_does_not_explain_is_a_failure(
    run_check: RunCheck, recorded: Recorded, after: int | None
) -> None:
    lossy = client(spoilt(recorded("iperf-udp.json"), "end", "sum", "lost_packets", to=431).encode())
    ran = run_check(IperfCheck(), UDP, [lossy], [counted(7), SERVER, counted(after)])
    assert ran.result.verdict is Verdict.FAIL
    assert ran.values["loss"] == pytest.approx(431 / 8626)


@pytest.mark.parametrize(
    "text", ["", "Udp: InDatagrams\n", "Udp: InDatagrams\nUdp: 3\n", "Udp: RcvbufErrors\nUdp: x\n"]
)
def test_a_system_without_the_counter_is_reported(text: str) -> None:
    with pytest.raises(MeasureFailed, match="cannot be read"):
        parse_udp_counters(text)


def test_a_server_that_died_is_an_error_whatever_the_client_says(run_check: RunCheck, recorded: Recorded) -> None:
    dying = Answer(argv=("iperf3", "-s"), stdout=b"Server listening", returncode=-9, dies=True)
    ran = run_check(IperfCheck(), IperfParameters(), [client(recorded("iperf-tcp.json"))], [dying])
    assert ran.result.verdict is Verdict.ERROR
    assert ran.result.reason == "the iperf3 server died during the run: status -9; its last output: Server listening"
    assert ran.result.samples == ()
    assert "client.stdout" in ran.raw.files


def test_a_server_that_does_not_come_up_is_an_error_in_its_own_words(run_check: RunCheck) -> None:
    busy = Answer(
        argv=("iperf3", "-s"),
        stderr=b"iperf3: error - unable to start listener for connections: Address already in use\niperf3: exiting\n",
    )
    ran = run_check(IperfCheck(), IperfParameters(), [], [busy])
    assert ran.result.verdict is Verdict.ERROR
    assert "did not come up" in ran.result.reason
    assert "Address already in use" in ran.result.reason
    assert ran.raw.files["server.stderr"] == busy.stderr


@pytest.mark.parametrize(
    ("fixture", "verdict", "reason"),
    [
        ("refused", Verdict.ERROR, "iperf3 failed: unable to connect to server: Connection refused"),
        (
            "timed-out",
            Verdict.FAIL,
            "the server listens but was not reached: unable to connect to server: Connection timed out",
        ),
        ("server-died", Verdict.ERROR, "iperf3 failed: unable to write to stream socket: Connection reset by peer"),
    ],
)
def test_what_iperf3_calls_an_error_is_judged_by_its_cause(
    run_check: RunCheck, recorded: Recorded, fixture: str, verdict: Verdict, reason: str
) -> None:
    ran = run_check(IperfCheck(), IperfParameters(), [client(recorded(f"iperf-{fixture}.json"))], [SERVER])
    assert (ran.result.verdict, ran.result.reason) == (verdict, reason)
    assert ran.result.samples == ()


def test_a_client_that_hangs_or_says_nothing_is_an_error(run_check: RunCheck) -> None:
    hanging = client(b"", returncode=-9, timed_out=True, duration_s=24.0)
    ran = run_check(IperfCheck(), IperfParameters(), [hanging], [SERVER])
    assert ran.result.reason == "iperf3 did not end in time: killed after 24.0 s; it printed nothing"
    ran = run_check(IperfCheck(), IperfParameters(), [client(b"", returncode=1, stderr=b"bad option")], [SERVER])
    assert ran.result.reason == "iperf3 ended with status 1 and no output: its last output: bad option"


def test_a_client_that_is_not_there_still_ends_the_server(run_check: RunCheck) -> None:
    missing = client(b"", fails=MeasureFailed("the program iperf3 is not on this host"))
    ran = run_check(IperfCheck(), IperfParameters(), [missing], [SERVER])
    assert ran.result.verdict is Verdict.ERROR
    assert ran.server.started[0].is_over
    assert "server.stdout" in ran.raw.files
