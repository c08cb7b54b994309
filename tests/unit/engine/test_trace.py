"""A trace whose sender or capture failed says so, and never that a packet is LOST; nor does `labctl capture` go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from labctl.checks.captures import TapCapture, parse_counts, require_trustworthy
from labctl.engine.capture import Limits, Source, check_filter, prove_filter, streaming
from labctl.engine.capture import capture as run_capture
from labctl.engine.trace import trace
from labctl.errors import MeasureFailed, UsageError
from labctl.model.result import Completed
from labctl.model.signature import Role
from labctl.model.trace import ProbeProtocol, TapDirection, Trace
from labctl.path.probe_packets import ProbePackets
from labctl.providers.base import Tap
from labctl.testing import packets
from labctl.testing.labs import CLIENT, SERVER, example_devices, example_lab
from labctl.testing.scripted import Answer, ScriptedLab, ScriptedTarget

TOOL_WORDS = Path(__file__).parents[2] / "fixtures" / "tools"
LISTENING = b"tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 512 bytes\n"
COUNTED = b"%d packets captured\n%d packets received by filter\n0 packets dropped by kernel\n"
SILENT = Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=LISTENING + COUNTED % (0, 0))
LOST = (
    b"PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\n1 packets transmitted, 0 received, 100% packet loss, time 0ms\n"
)
UNANSWERED = Answer(argv=("ping",), stdout=LOST, returncode=1)
NEIGHBOURS = Answer(argv=("ip", "-4", "neigh"), stdout=b"")
ROLES = (Role.CLIENT_ETH0, Role.CLIENT_LXC, Role.SERVER_LXC, Role.SERVER_ETH0)


def traced(
    client: Sequence[Answer], *, at_taps: Answer = SILENT, protocol: ProbeProtocol = ProbeProtocol.ICMP
) -> Trace:
    lab = example_lab()
    tapped = ScriptedTarget("at-taps", [at_taps])
    parts = {Role.CLIENT_ETH0: CLIENT, Role.SERVER_ETH0: SERVER}
    taps = [
        Tap(name=f"{parts.get(role, 'node1')}:{role}", role=role, target=tapped, interface="eth0") for role in ROLES
    ]
    here = ScriptedTarget(CLIENT, [*client, NEIGHBOURS])
    open_lab = ScriptedLab(lab, [here], taps=taps, devices=example_devices(lab))
    return trace(open_lab, lab.pairs[0], protocol=protocol, sleep=lambda _: None)


def test_a_packet_that_the_network_did_not_answer_is_lost() -> None:
    assert not traced([UNANSWERED]).paths[0].arrived


@pytest.mark.parametrize(
    ("ping", "told"),
    [
        (Answer(argv=("ping",), stderr=(TOOL_WORDS / "ping-denied.txt").read_bytes(), returncode=2), "not permitted"),
        (
            Answer(argv=("ping",), stderr=(TOOL_WORDS / "busybox-ping-usage.txt").read_bytes(), returncode=1),
            "busybox's",
        ),
        (
            Answer(argv=("ping",), stdout=b"PING 10.0.0.2 (10.0.0.2): 56 data bytes\n", returncode=1),
            "ping is not iputils'",
        ),
        (Answer(argv=("ping",), returncode=-9), "killed by signal 9"),
        (Answer(argv=("ping",), returncode=1), "cannot be read"),
        (Answer(argv=("ping",), stdout=LOST.replace(b"1 packets", b"0 packets"), returncode=1), "ended early"),
    ],
)
def test_a_ping_that_failed_loses_no_packet(ping: Answer, told: str) -> None:
    with pytest.raises(MeasureFailed) as raised:
        traced([ping])
    assert told in " ".join(raised.value.lines())


@pytest.mark.parametrize(
    "line",
    [
        b"bash: line 1: /dev/fd/63: No such file or directory\n",
        b"bash: line 1: /dev/tcp/10.0.0.2/20000: No such file or directory\n",
        b"bash: fork: Resource temporarily unavailable\n",
    ],
)
@pytest.mark.parametrize("protocol", [ProbeProtocol.TCP, ProbeProtocol.UDP])
def test_a_shell_that_could_not_send_loses_no_packet(protocol: ProbeProtocol, line: bytes) -> None:
    with pytest.raises(MeasureFailed) as raised:
        traced([UNANSWERED, Answer(argv=("bash",), stderr=line)], protocol=protocol)
    assert line.decode().strip() in raised.value.cause


@pytest.mark.parametrize(
    "lines",
    [
        "bash: connect: Connection refused\nbash: line 1: /dev/tcp/10.0.0.2/20000: Connection refused\n",
        "bash: connect: Operation not permitted\nbash: line 1: /dev/tcp/10.0.0.2/20000: Operation not permitted\n",
        "bash: connect: Connection timed out\n",
        "bash: warning: setlocale: LC_ALL: cannot change locale (C)\n",
        "",
    ],
)
def test_what_became_of_a_packet_is_no_complaint_of_the_shell(lines: str) -> None:
    done = Completed(argv=("bash",), returncode=0, stdout=b"", stderr=lines.encode(), duration_s=0.1)
    assert marked(ProbeProtocol.TCP).require_sent(done) == ""


def test_the_kernel_that_has_no_way_is_quoted() -> None:
    done = Completed(
        argv=("bash",), returncode=0, stdout=b"", duration_s=0.1, stderr=b"bash: connect: Network is unreachable\n"
    )
    assert marked(ProbeProtocol.UDP).require_sent(done) == "Network is unreachable"


def marked(protocol: ProbeProtocol) -> ProbePackets:
    client, server = (pod.address for pod in example_lab().pods[:2])
    return ProbePackets(protocol=protocol, flows=((client, server),), count=1, token=b"x" * 16, port=20_000)


def test_a_clock_that_was_set_meanwhile_is_told_with_the_trace() -> None:
    step = Answer(argv=("ping",), stdout=LOST, returncode=1, stderr=b"ping: Warning: time of day goes back (-7us), x\n")
    assert any("the clock was set meanwhile" in note for note in traced([step]).notes)


FAILED_CAPTURES = [
    pytest.param(
        Answer(argv=("tcpdump",), stderr=(TOOL_WORDS / "tcpdump-denied.txt").read_bytes(), returncode=1, dies=True),
        "don't have permission",
        id="no capability",
    ),
    pytest.param(
        Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=LISTENING, returncode=-9),
        "killed by signal 9",
        id="killed",
    ),
    pytest.param(
        Answer(
            argv=("tcpdump",), stdout=packets.pcap_file([]), returncode=1,
            stderr=LISTENING + b"tcpdump: pcap_loop: The interface disappeared\n" + COUNTED % (0, 0),
        ),
        "status 1",
        id="its device went away",
    ),
    pytest.param(
        Answer(argv=("tcpdump",), stdout=packets.pcap_file([(1, b"x" * 60)])[:-9], stderr=LISTENING + COUNTED % (1, 1)),
        "cut off",
        id="cut off inside a packet",
    ),
    pytest.param(
        Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=LISTENING + COUNTED % (3, 3)),
        "tcpdump wrote 3 packets",
        id="cut off between packets",
    ),
    pytest.param(
        Answer(argv=("tcpdump",), stdout=b"", stderr=LISTENING + COUNTED % (0, 0)), "cannot be read", id="no output"
    ),
    pytest.param(
        Answer(argv=("tcpdump",), stderr=b"tcpdump: unrecognized option '--immediate-mode'\n", returncode=1, dies=True),
        "does not know the option or command",
        id="too old",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("capture", "told"), FAILED_CAPTURES)
def test_a_capture_that_failed_loses_no_packet(capture: Answer, told: str) -> None:
    with pytest.raises(MeasureFailed) as raised:
        traced([UNANSWERED], at_taps=capture)
    assert told in " ".join(raised.value.lines())


def test_a_capture_that_ended_with_its_counts_is_trusted() -> None:
    done = Completed(argv=("tcpdump",), returncode=0, stdout=b"", stderr=COUNTED % (2, 2), duration_s=1.0)
    require_trustworthy(
        [TapCapture(tap=tap(SILENT), direction=None, completed=done, counts=parse_counts(done.error_text))]
    )


def tap(*answers: Answer) -> Tap:
    return Tap(name="node1:eth0", role=Role.CLIENT_UPLINK, target=ScriptedTarget("node1", answers), interface="eth0")


def test_a_tcpdump_that_may_not_capture_is_not_a_wrong_filter() -> None:
    denied = Answer(argv=("tcpdump", "-d"), stderr=(TOOL_WORDS / "tcpdump-denied.txt").read_bytes(), returncode=1)
    with pytest.raises(MeasureFailed, match="tap node1:eth0 cannot be captured") as raised:
        check_filter([tap(denied)], "icmp")
    assert "socket: Operation not permitted" in raised.value.cause


def test_a_wrong_filter_is_one() -> None:
    wrong = Answer(
        argv=("tcpdump", "-d", "-i", "eth0", "--", "foo bar"),
        stderr=b"tcpdump: can't parse filter expression: syntax error\n",
        returncode=1,
    )
    fine = Answer(argv=("tcpdump", "-d"), stdout=b"(000) ret\n")
    with pytest.raises(UsageError, match="tcpdump does not understand the filter") as raised:
        check_filter([tap(wrong, fine)], "foo bar")
    assert raised.value.cause == "syntax error"


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (
            Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=LISTENING, returncode=-15),
            "killed by signal 15",
        ),
        (
            Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), returncode=1, stderr=LISTENING + COUNTED % (0, 0)),
            "ended with status 1",
        ),
        (Answer(argv=("tcpdump",), stdout=packets.pcap_file([]), stderr=LISTENING), "without its summary"),
    ],
)
def test_labctl_capture_says_which_tcpdump_failed_and_how(ended: Answer, told: str) -> None:
    with streaming([Source(tap=tap(ended), direction=TapDirection.IN)], "", snap_byte=96, immediate=True) as stream:
        (one,), _ = run_capture(stream, Limits(duration_s=0.05), lambda batch: None, lambda: 0, immediate=True)
    assert told in one.trouble


def test_the_proof_of_a_filter_does_not_blame_the_filter_for_a_ping_that_failed() -> None:
    lab = example_lab()
    denied = Answer(argv=("ping",), stderr=(TOOL_WORDS / "ping-denied.txt").read_bytes(), returncode=2)
    open_lab = ScriptedLab(lab, [ScriptedTarget(CLIENT, [denied])])
    with pytest.raises(MeasureFailed, match="ping ended with status 2"):
        prove_filter(open_lab, [tap(SILENT)], "icmp")
