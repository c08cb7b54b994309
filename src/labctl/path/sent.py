"""What the programs printed that sent known packets: ping's replies, counts, errors and warnings. Pure.

Read for every check, proof and trace that sends: a ping that could not send, that is another program than iputils' or
whose output is not whole raises MeasureFailed with its own words. What the network did to the packets does not.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from labctl.errors import MeasureFailed
from labctl.model.result import Completed
from labctl.model.tools import TOOLS, is_of_the_network, remedy_for, require_ended, require_success, said, why
from labctl.values import dataclass

NO_WAY = (
    "Network is unreachable",
    "No route to host",
    "Network is down",
    "sendmsg: Operation not permitted",  # a rule of the pod's own; "socket: …" would be ping's own lack of a right
)
"""The sender's own kernel has no route, got no answer to its ARP requests, or has a rule against it: nothing was sent,
and that is found."""

_REPLY = re.compile(
    r"\d+ bytes from (?P<source>[^:]+(?::[^ ]+)*): icmp_(?:seq|req)=(?P<sequence>\d+) ttl=(?P<ttl>\d+)"
    r"(?: time=(?P<rtt_ms>\d+(?:\.\d+)?) ms)?(?P<rest>.*)"
)
_TROUBLE = re.compile(r"From (?P<source>\S+):? icmp_(?:seq|req)=(?P<sequence>\d+) (?P<what>.+)")
_SUMMARY = re.compile(
    r"(?P<transmitted>\d+) packets transmitted, (?P<received>\d+) (?:packets )?received"
    r"(?:, \+(?P<duplicates>\d+) duplicates)?(?:, \+(?P<corrupted>\d+) corrupted)?"
)
_OF_ANOTHER = re.compile(r"^PING .*: \d+ data bytes$", re.MULTILINE)
"""How busybox' and inetutils' pings begin; iputils' says `56(84) bytes of data.`"""
_STAMP = re.compile(r"^\[(\d+\.\d+)\] ", re.MULTILINE)
_CLOCK = "time of day goes back"
_ALTERED = "wrong data byte"
_BACK_S = 0.001
"""Stamps of one ping may be out of order by less: they are taken when a line is printed."""
_SLACK_S = 0.1
_NOT_ROOT = "minimal interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One reply as ping printed it. Duplicates and replies with a bad checksum are none that ping counts."""

    sequence: int
    ttl: int
    rtt_s: float
    is_counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReport:
    """What ping printed: every reply, ping's own counts, and the ICMP errors that came back, in their own words.

    `troubles` are also what the sender's own kernel reported of the path. `duplicates` are replies to a request that
    had been answered, `corrupted` those with a bad checksum (not among the received), `altered` the first lines about
    payload that came back otherwise than it was sent, `warnings` what ping had to say about itself.
    """

    replies: tuple[Reply, ...]
    transmitted: int
    received: int
    troubles: tuple[str, ...]
    duplicates: int = 0
    corrupted: int = 0
    altered: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        """The share of the requests that were not answered, 0 to 1."""
        return 1 - self.received / self.transmitted

    @property
    def rtts_s(self) -> tuple[float, ...]:
        """The round-trip times of the replies that count, ascending."""
        return tuple(sorted(reply.rtt_s for reply in self.replies if reply.is_counted))

    @property
    def ttls(self) -> tuple[int, ...]:
        """The different TTLs of the replies that count, ascending."""
        return tuple(sorted({reply.ttl for reply in self.replies if reply.is_counted}))


def parse_ping(text: str) -> PingReport:
    """Reads the output of iputils' ping (s20121221 to 20240905: `icmp_req` or `icmp_seq`, with or without -D).

    Raises MeasureFailed when it is another implementation's, when the closing summary is missing, as when ping was
    killed, when it contradicts the replies, and for a reply that cannot be read.
    """
    if (other := _OF_ANOTHER.search(text)) is not None:
        raise MeasureFailed("this ping is not iputils'", f"it said: {other[0]}; {TOOLS['ping'].needed} is needed")
    replies: list[Reply] = []
    troubles: list[str] = []
    altered: list[str] = []
    summary: re.Match[str] | None = None
    for line in text.splitlines():
        if (found := _REPLY.search(line)) is not None:
            if found["rtt_ms"] is None:
                raise MeasureFailed("ping printed a reply without a round-trip time", line.strip())
            is_counted = "DUP!" not in found["rest"] and "BAD CHECKSUM" not in found["rest"]
            replies.append(
                Reply(
                    sequence=int(found["sequence"]),
                    ttl=int(found["ttl"]),
                    rtt_s=float(found["rtt_ms"]) / 1000,
                    is_counted=is_counted,
                )
            )
        elif (found := _TROUBLE.search(line)) is not None:
            troubles.append(f"{found['what'].strip()} (from {found['source'].rstrip(':')})")
        elif (found := _SUMMARY.search(line)) is not None:
            summary = found
        elif _ALTERED in line:
            altered.append(line.strip())
    if summary is None:
        raise MeasureFailed("ping's output cannot be read", "the summary (“… packets transmitted …”) is missing")
    report = PingReport(
        replies=tuple(replies),
        transmitted=int(summary["transmitted"]),
        received=int(summary["received"]),
        troubles=tuple(troubles),
        duplicates=max(int(summary["duplicates"] or 0), sum("(DUP!)" in line for line in text.splitlines())),
        corrupted=int(summary["corrupted"] or 0),
        altered=tuple(altered),
    )
    printed = len(report.rtts_s)
    if printed != report.received or report.received > report.transmitted:
        unread = next((line.strip() for line in text.splitlines() if _is_unread_reply(line)), "")
        raise MeasureFailed(
            "ping's output contradicts itself",
            f"it printed {printed} replies and counted {report.received} of {report.transmitted}"
            + (f"; this line cannot be read: {unread[:200]}" if unread else ""),
        )
    return report


def _is_unread_reply(line: str) -> bool:
    return "bytes from" in line and _REPLY.search(line) is None


def has_no_way(completed: Completed) -> str:
    """The kernel's words when it had no way for the packets, so that none was sent; else empty."""
    if completed.returncode in (0, 1) or completed.timed_out:
        return ""
    return next((words for words in NO_WAY if words in completed.error_text + completed.text), "")


def told_no_way(sent: Completed) -> str:
    """What the kernel reported to the sender instead of sending, whatever its exit status; else empty."""
    return next((words for words in NO_WAY if words in sent.error_text + sent.text), "")


def read_ping(completed: Completed) -> PingReport:
    """What a ping that has ended says. Raises MeasureFailed when it failed: killed, without the right to send, another
    program than iputils', output that is not whole.

    iputils: exit status 0 with replies, 1 without enough of them, 2 for everything else. busybox and inetutils have 1
    for that too, so 1 is believed only together with iputils' own summary.
    """
    require_ended(completed)
    if _NOT_ROOT in completed.error_text:
        hint = "; only root may ping faster: set a longer intervalS"
        raise MeasureFailed(f"ping ended with status {completed.returncode}", said(completed) + hint)
    require_success(completed, statuses=(0, 1))
    try:
        report = parse_ping(completed.text)
    except MeasureFailed as error:
        raise MeasureFailed(error.what, f"{error.cause}; {why(completed)}", remedy_for(completed)) from error
    told = [line.strip() for line in completed.error_text.splitlines() if line.strip()]
    return replace(
        report,
        troubles=(*report.troubles, *dict.fromkeys(line for line in told if is_of_the_network(line))),
        warnings=tuple(dict.fromkeys(line for line in told if not is_of_the_network(line))),
    )


def require_sent(completed: Completed, count: int) -> PingReport | None:
    """What a ping says that should have sent `count` requests; None when the kernel had no way for them, which is a
    finding. Raises MeasureFailed when ping failed, or sent fewer."""
    if has_no_way(completed):
        return None
    report = read_ping(completed)
    if report.transmitted < count:
        sent = f"it sent {report.transmitted} of {count} requests"
        raise MeasureFailed("ping ended early", f"{sent}, so loss is not known")
    return report


def has_outstanding(completed: Completed) -> bool:
    """Whether a ping got some answers and not all. It waits for as long as -W says only where it got none; afterwards
    for twice the longest round trip, and that of the first packet may have been nothing. Raises nothing."""
    summary = _SUMMARY.search(completed.text)
    return summary is not None and 0 < int(summary["received"]) < int(summary["transmitted"])


def clock_step(completed: Completed) -> str:
    """The sign that the clock was set while ping ran, in ping's words or ours; empty without one.

    ping takes its times from the clock of day. When that is set back it says so, and from then on measures something
    else; of a step forward it says nothing, but a round trip cannot have taken longer than ping itself.
    """
    lines = (completed.error_text + "\n" + completed.text).splitlines()
    if words := next((line.strip() for line in lines if _CLOCK in line), ""):
        return words
    stamps = [float(stamp) for stamp in _STAMP.findall(completed.text)]
    back_s = max((before - after for before, after in pairwise(stamps)), default=0.0)
    if back_s > _BACK_S:
        return f"its time stamps go back by {back_s:.3f} s"
    rtts_s = (float(found["rtt_ms"]) / 1000 for found in _REPLY.finditer(completed.text) if found["rtt_ms"])
    longest_s = max(rtts_s, default=0.0)
    if longest_s > completed.duration_s + _SLACK_S:
        return f"it reports a round trip of {longest_s:.3f} s, but ran for {completed.duration_s:.3f} s"
    return ""
