"""A tool that failed is never the network's verdict: which failures, of which tools, and in whose words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labctl.checks.addressing import AddressingCheck
from labctl.checks.base import Check, CheckContext
from labctl.checks.connect import ConnectReport, judge_connect
from labctl.checks.iperf import IperfCheck, measured_iperf, parse_iperf
from labctl.checks.latency import LatencyCheck
from labctl.checks.netfilter import NetfilterCheck, read_connections
from labctl.checks.paced import parse_paced
from labctl.checks.ping import PingCheck, judge_ping, measured_ping, parse_ping
from labctl.checks.service import parse_connections
from labctl.checks.service_findings import Attempts
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.errors import MeasureFailed, Starved
from labctl.model.lab import CheckSpec
from labctl.model.parameters import (
    PARAMETERS_OF,
    ConnectParameters,
    IperfParameters,
    LatencyParameters,
    PingParameters,
)
from labctl.model.result import Completed, Verdict
from labctl.model.tools import TOOLS, identify, require_success, shortfall
from labctl.path.sent import clock_step, read_ping
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

from .conftest import RunCheck

TOOL_WORDS = Path(__file__).parents[2] / "fixtures" / "tools"
SERVING = Answer(argv=("iperf3", "-s"), stdout=b"Server listening on 5201")
LISTENING = Answer(argv=("sockperf", "server"), stdout=b"sockperf: [tid 1] using recvfrom() to block on socket(s)")
HEAD = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n"
SUMMARY = "\n--- 10.0.0.2 ping statistics ---\n2 packets transmitted, 2 received, 0% packet loss, time 9ms\n"


def words(name: str) -> bytes:
    return (TOOL_WORDS / name).read_bytes()


def ended(argv0: str, returncode: int, stdout: bytes | str = b"", stderr: bytes = b"", **more: object) -> Completed:
    out = stdout.encode() if isinstance(stdout, str) else stdout
    done = Completed(argv=(argv0,), returncode=returncode, stdout=out, stderr=stderr, duration_s=1.0)
    return replace(done, **more)  # type: ignore[arg-type]


# ping, in every check that sends one

FAILING_PINGS = [
    pytest.param(
        ended("ping", 2, stderr=words("ping-denied.txt")), "socket: Operation not permitted", id="no capability"
    ),
    pytest.param(ended("ping", 1, stderr=words("busybox-ping-usage.txt")), "busybox's", id="busybox, unknown option"),
    pytest.param(ended("ping", 0, words("busybox-ping.txt")), "not iputils'", id="busybox, known options"),
    pytest.param(
        ended("ping", 1, b"PING 127.0.0.1 (127.0.0.1): 56 data bytes\n", b"ping: permission denied (are you root?)\n"),
        "are you root?",
        id="busybox, no right",
    ),
    pytest.param(ended("ping", 64, stderr=words("inetutils-ping-usage.txt")), "invalid option -- 'D'", id="inetutils"),
    pytest.param(ended("ping", 0, words("inetutils-ping.txt")), "not iputils'", id="inetutils, known options"),
    pytest.param(ended("ping", -9, HEAD), "killed by signal 9", id="killed"),
    pytest.param(ended("ping", -9, HEAD, timed_out=True), "did not end in time", id="at its deadline"),
    pytest.param(ended("ping", 0), "summary", id="said nothing"),
    pytest.param(ended("ping", 1, HEAD), "summary", id="cut off"),
    pytest.param(ended("ping", 2, stderr=b"ping: invalid option -- 'D'\n"), "iputils ping is needed", id="too old"),
    pytest.param(
        ended("ping", 127, stderr=b"ping: error while loading shared libraries: libcap.so.2: cannot open\n"),
        "its installation is broken",
        id="broken",
    ),
    pytest.param(ended("ping", 1, "2 Pakete gesendet, 0 empfangen\n"), "2 Pakete gesendet", id="in German"),
]


@pytest.mark.parametrize(("failed", "told"), FAILING_PINGS)
@pytest.mark.parametrize("check", [PingCheck(), TcpdumpCheck(), AddressingCheck(), NetfilterCheck()])
def test_a_ping_that_failed_is_an_error_with_its_own_words_in_every_check(
    check: Check, failed: Completed, told: str
) -> None:
    ping = Answer(
        argv=("ping",), stdout=failed.stdout, stderr=failed.stderr, returncode=failed.returncode,
        timed_out=failed.timed_out,
    )  # fmt: skip
    address = b'[{"ifname": "eth0", "mtu": 1500, "addr_info": []}]'
    client = ScriptedTarget(
        CLIENT, [ping, Answer(argv=("ip", "-j", "-4", "address"), stdout=address), Answer(argv=("ip",), stdout=b"[]")]
    )
    lab = example_lab()
    result = check.run(
        CheckContext(
            open_lab=ScriptedLab(
                lab, [client, ScriptedTarget(SERVER), ScriptedTarget("node1"), ScriptedTarget("node2")]
            ),
            pair=lab.pairs[0],
            spec=CheckSpec(name=check.kind, kind=check.kind, parameters=PARAMETERS_OF[check.kind]()),
            raw=MemoryRaw(),
        )
    )
    assert result.verdict is Verdict.ERROR, result.reason
    assert told in result.reason


@pytest.mark.parametrize(
    "failed",
    [
        ended("ping", 2, stderr=b"ping: connect: Network is unreachable\n"),
        ended("ping", 2, stderr=b"ping: connect: No route to host\n"),
    ],
)
def test_a_ping_that_has_no_way_is_the_networks_failure(failed: Completed) -> None:
    assert measured_ping([failed], PingParameters(count=2)).judgement.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "line",
    ["ping: sendmsg: Operation not permitted", "ping: sendmsg: Message too long", "ping: sendmsg: No route to host"],
)
def test_what_the_kernel_reported_to_the_sender_is_in_the_reason_of_the_loss(line: str) -> None:
    lost = HEAD + "\n--- statistics ---\n2 packets transmitted, 0 received, 100% packet loss, time 9ms\n"
    judged = measured_ping([ended("ping", 1, lost, f"{line}\n{line}\n".encode())], PingParameters(count=2)).judgement
    assert judged.verdict is Verdict.FAIL
    assert judged.reason.endswith(f"; {line}")


# ping's clock, duplicates and warnings


def replies(*rtts_ms: str, stamps: tuple[float, ...] = ()) -> str:
    lines = [f"64 bytes from 10.0.0.2: icmp_seq={n} ttl=63 time={rtt} ms" for n, rtt in enumerate(rtts_ms, start=1)]
    stamped = [f"[{stamp:.6f}] {line}" for stamp, line in zip(stamps, lines, strict=True)] if stamps else lines
    return HEAD + "\n".join(stamped) + SUMMARY


@pytest.mark.parametrize(
    ("done", "sign"),
    [
        (
            ended("ping", 0, replies("0.009", "0.000"), b"ping: Warning: time of day goes back (-39974us), taking\n"),
            "goes back (-39974us)",
        ),
        (
            ended("ping", 0, "Warning: time of day goes back (-21us), taking countermeasures.\n" + replies("1", "2")),
            "goes back (-21us)",
        ),
        (ended("ping", 0, replies("0.1", "0.1", stamps=(1000.5, 900.5))), "go back by 100.000 s"),
        (ended("ping", 0, replies("0.1", "3600000")), "a round trip of 3600.000 s, but ran for 1.000 s"),
    ],
)
def test_a_clock_that_was_set_while_ping_ran_is_an_error(done: Completed, sign: str) -> None:
    with pytest.raises(MeasureFailed, match="the clock was set while ping ran") as raised:
        measured_ping([ended("ping", 0, replies("0.1", "0.2")), done], PingParameters(count=4))
    assert sign in raised.value.cause


def test_a_clock_that_runs_on_is_none() -> None:
    done = ended("ping", 0, replies("0.1", "900.0", stamps=(1000.5, 1000.4999)))
    assert clock_step(done) == ""


@pytest.mark.parametrize(
    ("text", "count", "told"),
    [
        (replies("0.1", "0.1").replace("2 received", "2 received, +2 duplicates"), 2, "2 duplicates"),
        (replies("0.1", "0.1").replace("2 received", "2 received, +1 duplicates, +3 errors"), 2, "1 duplicate:"),
        (
            replies("0.1", "0.1").replace(
                SUMMARY, "\n64 bytes from 10.0.0.2: icmp_seq=2 ttl=63 time=9 ms (DUP!)" + SUMMARY
            ),
            2,
            "1 duplicate:",
        ),
    ],
)
def test_duplicates_are_reported_and_change_no_verdict(text: str, count: int, told: str) -> None:
    judged = judge_ping(parse_ping(text), PingParameters(count=count))
    assert judged.verdict is Verdict.PASS
    assert told in judged.reason


def test_duplicates_beside_loss_are_reported_too() -> None:
    text = replies("0.1", "0.1").replace(
        "2 packets transmitted, 2 received", "4 packets transmitted, 2 received, +2 duplicates"
    )
    judged = judge_ping(parse_ping(text), PingParameters(count=4))
    assert (judged.verdict, "50.0% loss" in judged.reason, "2 duplicates" in judged.reason) == (
        Verdict.FAIL,
        True,
        True,
    )


def test_payload_that_came_back_altered_is_a_failure() -> None:
    text = replies("0.1", "0.1").replace(SUMMARY, "\nwrong data byte #16 should be 0x10 but was 0x0" + SUMMARY)
    judged = judge_ping(parse_ping(text), PingParameters(count=2))
    assert judged.verdict is Verdict.FAIL
    assert "wrong data byte #16 should be 0x10 but was 0x0" in judged.reason


@pytest.mark.parametrize(
    "warning",
    [
        "ping: WARNING: probably, rcvbuf is not enough to hold preload",
        "ping: Warning: source address might be selected on device other than: eth0",
        "WARNING: failed to install socket filter",
    ],
)
def test_warnings_of_ping_are_reported(warning: str) -> None:
    judged = measured_ping(
        [ended("ping", 0, replies("0.1", "0.2"), warning.encode() + b"\n")], PingParameters(count=2)
    ).judgement
    assert judged.verdict is Verdict.PASS
    assert judged.reason.endswith(f"; ping warned: {warning}")


def test_a_reply_that_cannot_be_read_is_quoted() -> None:
    text = replies("0.1", "0.2").replace("icmp_seq=2 ttl", "icmp_seq=2 Hop-Limit")
    with pytest.raises(MeasureFailed, match="contradicts itself") as raised:
        read_ping(ended("ping", 0, text))
    assert "Hop-Limit" in raised.value.cause


# iperf3

ONE = (
    '{"start":{"version":"iperf 3.17","test_start":{"protocol":"TCP"}},"intervals":[],"end":{"sum_sent":{"seconds":1.0,'
    '"bytes":1000000000,"bits_per_second":8e9,"retransmits":3},"sum_received":{"seconds":1.0,"bytes":1000000000,'
    '"bits_per_second":8e9},"cpu_utilization_percent":{"host_total":50,"remote_total":40}}}\n'
)
ERROR = '{"start":{"version":"iperf 3.16"},"error":"control socket has closed unexpectedly"}'
UDP39 = (
    '{"start":{"version":"iperf 3.9","test_start":{"protocol":"UDP"}},"end":{"sum":{"seconds":1.0,"bytes":2500000,'
    '"bits_per_second":2e7,"jitter_ms":0.02,"lost_packets":0,"packets":1727},"cpu_utilization_percent":{}}}'
)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (ONE + ONE, ""),
        (ONE * 3, ""),
        ("warning: JSON data length overflow\n" + ONE, "overflow"),
        (ONE + "warning: this system does not seem to support IPv6 - trying IPv4\n", "IPv6"),
    ],
)
def test_json_between_other_lines_is_read_and_the_lines_reported(text: str, remark: str) -> None:
    assert parse_iperf(text).throughput_bit_per_s == 8e9
    judged = measured_iperf(ended("iperf3", 0, text), IperfParameters(duration_s=1)).judgement
    assert judged.verdict is Verdict.PASS
    assert remark in judged.reason
    assert ("iperf3 also printed" in judged.reason) is bool(remark)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ONE + "iperf3: error - unable to send control message: Broken pipe\n", "Broken pipe"),
        ("iperf3: error - something\n" + ONE, "error - something"),
        (ONE + ERROR, "control socket has closed"),
        (ERROR + ONE, "control socket has closed"),
        (ONE + ONE.replace("8e9", "9e9"), "they differ"),
        (ONE[:-40], "not JSON"),
        ("iperf3: parameter error - bad\n", "parameter error - bad"),
        ("iperf3: out of memory\n" + ONE[:99], "out of memory"),
        ("", "it printed: nothing"),
        (UDP39, "3.12 or newer"),
        (UDP39.replace("3.9", "3.7.1"), "iperf3 3.7.1 is too old"),
    ],
)
def test_output_of_iperf3_that_cannot_be_trusted_is_an_error_with_its_words(text: str, told: str) -> None:
    with pytest.raises(MeasureFailed) as raised:
        parse_iperf(text)
    assert told in f"{raised.value.what}: {raised.value.cause}"


def test_a_missing_figure_is_not_blamed_on_a_version_that_is_new_enough() -> None:
    with pytest.raises(MeasureFailed, match="cannot be read"):
        parse_iperf(UDP39.replace("3.9", "3.12"))


# want of CPU: worth a second attempt

NOTHING_VALID = (
    b"sockperf: [Total Run] RunTime=1.6 sec; SentMessages=2; ReceivedMessages=1\nsockperf: No valid observations found."
)


@pytest.mark.parametrize(
    ("check", "client", "server"),
    [
        (LatencyCheck(), Answer(argv=("sockperf",), stdout=NOTHING_VALID), LISTENING),
        (
            LatencyCheck(),
            Answer(
                argv=("sockperf",), stdout=b"sockperf: No messages were received from the server. Is the server down?"
            ),
            LISTENING,
        ),
        (LatencyCheck(), Answer(argv=("sockperf",)), Answer(argv=("sockperf", "server"), stderr=b"sockperf: starting")),
        (IperfCheck(), Answer(argv=("iperf3",), stdout=ONE.replace("1000000000", "0").encode()), SERVING),
        (IperfCheck(), Answer(argv=("iperf3",)), Answer(argv=("iperf3", "-s"), stdout=b"")),
    ],
)
def test_a_tool_that_got_no_cpu_is_an_error_that_is_worth_a_second_attempt(
    run_check: RunCheck, check: Check, client: Answer, server: Answer
) -> None:
    result = run_check(check, PARAMETERS_OF[check.kind](), [client], [server]).result
    assert (result.verdict, result.is_starved) == (Verdict.ERROR, True)


@pytest.mark.parametrize(
    ("check", "client", "server"),
    [
        (LatencyCheck(), Answer(argv=("sockperf",), stdout=b"sockperf: ERROR: option --tcp not supported"), LISTENING),
        (
            LatencyCheck(),
            Answer(argv=("sockperf",)),
            Answer(argv=("sockperf", "server"), stderr=b"sockperf: ERROR: bind: Address in use", dies=True),
        ),
        (IperfCheck(), Answer(argv=("iperf3",), stdout=ERROR.encode()), SERVING),
        (IperfCheck(), Answer(argv=("iperf3",), stdout=b"", returncode=1), SERVING),
    ],
)
def test_a_tool_that_cannot_do_it_is_not_tried_again(
    run_check: RunCheck, check: Check, client: Answer, server: Answer
) -> None:
    result = run_check(check, PARAMETERS_OF[check.kind](), [client], [server]).result
    assert (result.verdict, result.is_starved) == (Verdict.ERROR, False)


def test_a_paced_run_without_any_answer_is_worth_a_second_attempt() -> None:
    for text in ("sockperf: No valid observations found.", "sockperf: No messages were received from the server."):
        with pytest.raises(Starved):
            parse_paced(text, "")
    with pytest.raises(Starved, match="transferred nothing"):
        parse_paced("[Valid Duration] RunTime=1.0 sec; SentMessages=0; ReceivedMessages=0", "")


def test_sockperf_that_is_another_program_is_quoted(run_check: RunCheck) -> None:
    other = Answer(argv=("sockperf",), stderr=b"sockperf: unrecognized option '--full-rtt'\n", returncode=1)
    result = run_check(LatencyCheck(), LatencyParameters(), [other], [LISTENING]).result
    assert "unrecognized option '--full-rtt'" in result.reason


# conntrack, the Services' tools, python

SHOWN = b"conntrack v1.4.7 (conntrack-tools): %d flow entries have been shown.\n"
ENTRY = (
    "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7 use=1\n"
)


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (ended("conntrack", 1, stderr=words("conntrack-denied.txt")), "CAP_NET_ADMIN"),
        (ended("conntrack", -15, stderr=b"Terminated\n"), "killed by signal 15"),
        (ended("conntrack", 0), "it printed nothing"),
        (ended("conntrack", 0, ENTRY, SHOWN % 2), "printed 1 entries"),
        (ended("conntrack", 0, ENTRY + "something else\n", SHOWN % 2), "something else"),
    ],
)
def test_a_conntrack_that_failed_is_not_an_empty_table(done: Completed, told: str) -> None:
    with pytest.raises(MeasureFailed, match=r"conntrack on node1 cannot be read|killed by signal") as raised:
        read_connections(done, "node1")
    assert told in f"{raised.value.what}: {raised.value.cause}"


def test_what_conntrack_counts_itself_is_believed() -> None:
    assert read_connections(ended("conntrack", 0, stderr=SHOWN % 0), "node1") == ()
    assert len(read_connections(ended("conntrack", 0, ENTRY, SHOWN % 1), "node1")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "iperf3: unrecognized option '--connect-timeout'",
        "sh: 1: iperf3: not found",
        "Killed",
        "iperf3: error while loading shared libraries: libiperf.so.0: cannot open shared object file",
    ],
)
def test_a_client_of_a_service_that_made_no_connection_is_an_error(line: str) -> None:
    with pytest.raises(MeasureFailed, match="made no connection") as raised:
        parse_connections(f"{line}\n", 1)
    assert line in raised.value.cause


def test_a_connection_that_came_to_nothing_is_the_networks() -> None:
    said = "iperf3: error - unable to connect to server: Connection timed out\n"
    assert parse_connections(said, 1) == Attempts(made=1, refused=0, others={"Connection timed out": 1})


@pytest.mark.parametrize("error", ["Too many open files", "Cannot assign requested address", "Cannot allocate memory"])
def test_a_client_that_has_nothing_left_to_connect_with_is_an_error(error: str) -> None:
    with pytest.raises(MeasureFailed, match="could not connect"):
        judge_connect(ConnectReport(connections=9, duration_s=0.5, error=error), ConnectParameters())


@pytest.mark.parametrize("error", ["Connection refused", "timed out", "Operation not permitted", "Broken pipe"])
def test_a_connection_that_was_refused_on_its_way_is_a_failure(error: str) -> None:
    report = ConnectReport(connections=9, duration_s=0.5, error=error)
    assert judge_connect(report, ConnectParameters()).verdict is Verdict.FAIL


# which program it is

VERSIONS = [
    ("ping", "version-ping.txt", "iputils", "20221126", True),
    ("ping", "busybox-version.txt", "busybox", "1.35.0", False),
    ("ping", "inetutils-version.txt", "inetutils", "2.4", False),
    ("ip", "version-ip.txt", "iproute2", "6.1.0", True),
    ("ip", "busybox-ip-usage.txt", "busybox", "1.35.0", False),
    ("iperf3", "version-iperf3.txt", "", "3.12", True),
    ("sockperf", "version-sockperf.txt", "", "3.7-no.git", True),
    ("tcpdump", "version-tcpdump.txt", "", "4.99.3", True),
    ("nft", "version-nft.txt", "", "1.0.6", True),
    ("iptables-save", "version-iptables-save.txt", "", "1.8.9 (nf_tables)", True),
    ("conntrack", "version-conntrack.txt", "", "1.4.7", True),
    ("sysctl", "busybox-version.txt", "busybox", "1.35.0", True),
]


@pytest.mark.parametrize(("program", "file", "implementation", "version", "will_do"), VERSIONS)
def test_every_tool_is_known_by_its_own_words(
    program: str, file: str, implementation: str, version: str, will_do: bool
) -> None:
    text = words(file).decode()
    found = identify(TOOLS[program], text)
    assert (found.implementation, found.version) == (implementation, version)
    assert (shortfall(TOOLS[program], found, text) == "") is will_do


@pytest.mark.parametrize(
    ("program", "text", "short"),
    [
        ("iperf3", "iperf 3.9 (cJSON 1.7.13)", "iperf3 3.12 or newer is needed"),
        ("iperf3", "iperf 3.1.3", "iperf3 3.12 or newer is needed"),
        ("iperf3", "iperf 3.20+", ""),
        ("iperf3", "", "its version is unknown"),
        ("ping", "ping utility, iputils-s20121221", ""),
        ("ping", "ping from iputils 20240905", ""),
        ("ip", "ip utility, iproute2-ss140411", ""),
        ("python3", "Python 3.7.17", "python3 3.8 or newer is needed"),
        ("ssh", "Dropbear v2022.83", "OpenSSH ssh is needed"),
        ("tcpdump", "tcpdump: error while loading shared libraries: libpcap.so.0.8", "its version is unknown"),
    ],
)
def test_versions_are_held_against_one_table(program: str, text: str, short: str) -> None:
    told = shortfall(TOOLS[program], identify(TOOLS[program], text), text)
    assert short in told if short else not told


@pytest.mark.parametrize(
    ("program", "file", "quoted"),
    [
        ("iptables-save", "iptables-save-denied.txt", "Permission denied (you must be root)"),
        ("nft", "nft-denied.txt", "cache initialization failed: Operation not permitted"),
        ("conntrack", "conntrack-denied.txt", "CAP_NET_ADMIN"),
        ("ping", "busybox-ping-denied.txt", "permission denied (are you root?)"),
    ],
)
def test_a_tool_without_the_right_is_quoted_and_the_words_explained(program: str, file: str, quoted: str) -> None:
    with pytest.raises(MeasureFailed, match="it cannot be looked at") as raised:
        require_success(ended(program, 1, stderr=words(file)), "it cannot be looked at")
    assert raised.value.cause.startswith(f"{program}: its last output: ")
    assert quoted in raised.value.cause
    assert raised.value.cause.endswith("a capability, a permission or a kernel function is missing")


def test_a_failing_tool_names_itself_and_what_is_needed() -> None:
    with pytest.raises(MeasureFailed) as raised:
        read_ping(ended("ping", 1, stderr=words("busybox-ping-usage.txt")))
    assert raised.value.cause.endswith("this is busybox's, and iputils ping is needed")
    assert raised.value.remedy.startswith("labctl doctor")
