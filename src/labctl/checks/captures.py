"""Captures on many taps at once, through the seam: starts when every tap listens, ends with every packet in hand.

One tcpdump per tap writes pcap to its standard output. It is stopped with SIGINT, upon which it flushes and says how
many packets it kept and how many the kernel dropped; a capture that lost packets says so and is never silently short.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from labctl.errors import LabError, MeasureFailed
from labctl.model.flow import Flow
from labctl.model.interfaces import TUNNEL_PORTS
from labctl.model.tools import meaning, remedy_for, said, why, words_of
from labctl.path.pcap import ETHERNET, PcapError, Record, read_pcap
from labctl.path.sent import told_no_way
from labctl.path.sighting import TapDirection
from labctl.providers.base import Completed, Running, Tap, Target
from labctl.values import dataclass

LISTENING = "listening on"
_ENDS = (0, -signal.SIGINT)
"""How a tcpdump that was sent SIGINT ends: with status 0, or (behind a shell script of that name) by the signal."""
_NO_WAY_THROUGH = {"That device is not up": "is down"}
"""What tcpdump says of a device that no packet can pass (libpcap's IFACE_NOT_UP)."""
_NEIGHBOURS_S = 5.0
_SNAP_BYTE = 512
_INNER_PROTOCOL = 8 + 8 + 14 + 9
_INNER_SRC = 8 + 8 + 14 + 12
_INNER_DST = 8 + 8 + 14 + 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureCounts:
    """What tcpdump says when it ends. `received` passed the filter, `captured` were written out.

    `dropped` were thrown away by the kernel or the device because they were not read in time.
    """

    captured: int
    received: int
    dropped: int

    @property
    def left_behind(self) -> int:
        """Packets that passed the filter and were still in the kernel's buffer when the capture ended."""
        return max(0, self.received - self.captured)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapCapture:
    """One ended capture: the tap, the direction it was limited to, what tcpdump gave, and its counts.

    `counts` is None when tcpdump ended without a summary; `records` then still reads what there is. `hindrance` says
    why no packet can pass the tap at all (`node2:eth0 is down`), empty where one can.
    """

    tap: Tap
    direction: TapDirection | None
    completed: Completed
    counts: CaptureCounts | None
    hindrance: str = ""

    def records(self) -> tuple[Record, ...]:
        """Every packet. Raises MeasureFailed when the output is no pcap of Ethernet frames, or is not all of them."""
        if self.hindrance:
            return ()
        try:
            reader = read_pcap(self.completed.stdout)
            records = tuple(reader)
        except PcapError as error:
            raise MeasureFailed(
                f"the capture on {self.tap.name} cannot be read",
                f"{error}; tcpdump: {why(self.completed)}",
            ) from error
        if reader.link_type != ETHERNET:
            raise MeasureFailed(
                f"the capture on {self.tap.name} cannot be read",
                f"its link type is {reader.link_type}, not {ETHERNET} (Ethernet)",
            )
        if reader.is_truncated or (self.counts is not None and len(records) < self.counts.captured):
            wanted = "one more" if self.counts is None else f"{self.counts.captured} packets"
            raise MeasureFailed(
                f"the capture on {self.tap.name} is cut off",
                f"{len(records)} packets are in it, and tcpdump wrote {wanted}",
            )
        return records


class LiveCapture:
    """Captures that are running. Made by `capturing`."""

    def __init__(
        self, running: Sequence[tuple[Tap, TapDirection | None, Running]], hindered: Mapping[str, str]
    ) -> None:
        """`hindered` are the taps, by name, that no packet can pass, with the reason."""
        self._running, self._hindered = tuple(running), hindered

    def stop(self, *, timeout_s: float = 15.0) -> tuple[TapCapture, ...]:
        """Ends every capture and gives them in the order of the taps."""
        if not self._running:
            return ()
        # At once: the kernel takes tens of milliseconds to close each capture's socket.
        with ThreadPoolExecutor(max_workers=len(self._running)) as pool:
            stopping = [
                pool.submit(running.stop, sig=signal.SIGINT, timeout_s=stop_within_s(timeout_s, len(self._running)))
                for _, _, running in self._running
            ]
            completed = [one.result() for one in stopping]
        return tuple(
            TapCapture(
                tap=tap,
                direction=direction,
                completed=done,
                counts=parse_counts(done.error_text),
                hindrance=self._hindered.get(tap.name, ""),
            )
            for (tap, direction, _), done in zip(self._running, completed, strict=True)
        )


_STOP_EACH_S = 0.5


def stop_within_s(timeout_s: float, count: int) -> float:
    """How long each of so many that are stopped together may take."""
    return timeout_s + _STOP_EACH_S * count


_KILL_S = 5.0


@contextmanager
def ended_together(running: Sequence[Running]) -> Iterator[None]:
    """Leaving it ends whatever still runs, all at once: one after the other, each behind a connection that does not
    answer any more takes its whole time. `running` may grow meanwhile."""
    try:
        yield
    finally:
        if alive := [one for one in running if one.is_alive()]:
            with ThreadPoolExecutor(max_workers=len(alive)) as pool:
                list(pool.map(_kill, alive))


def _kill(running: Running) -> None:
    with suppress(LabError):
        running.stop(sig=signal.SIGKILL, timeout_s=_KILL_S)


@contextmanager
def capturing(
    taps: Sequence[Tap],
    expression: str,
    *,
    directions: Sequence[TapDirection | None] = (None,),
    snap_byte: int = _SNAP_BYTE,
    nanoseconds: bool = False,
    ready_timeout_s: float = 30.0,
) -> Iterator[LiveCapture]:
    """Captures what `expression` (a pcap filter) selects on every tap; the body runs when all of them listen.

    `directions=(Direction.IN, Direction.OUT)` makes two captures per tap, so that each packet's direction is known.
    A device that is down lets no packet pass: that is no failure of the capture, and said by it. Raises
    MeasureFailed with tcpdump's own words when a tap does not listen in time for another reason. Leaving the context
    ends every tcpdump, also when the body raised.
    """
    hindered: dict[str, str] = {}
    started: list[tuple[Tap, TapDirection | None, Running]] = []
    running: list[Running] = []
    with ExitStack() as stack, ended_together(running):
        for tap in taps:
            expression_there = without_own(tap, expression)
            for direction in directions:
                argv = argv_tcpdump(tap.interface, expression_there, direction, snap_byte, nanoseconds=nanoseconds)
                running.append(stack.enter_context(tap.target.start(argv)))
                started.append((tap, direction, running[-1]))
        for tap, _direction, process in started:
            try:
                require_listening(tap, process, ready_timeout_s)
            except MeasureFailed as failed:
                if not (state := next((words for text, words in _NO_WAY_THROUGH.items() if text in failed.cause), "")):
                    raise
                hindered[tap.name] = f"{tap.name} {state}"
        yield LiveCapture(started, hindered)


def hindrances_of(captures: Sequence[TapCapture]) -> tuple[str, ...]:
    """Why no packet can pass some of the taps, each once."""
    return tuple(dict.fromkeys(capture.hindrance for capture in captures if capture.hindrance))


def require_listening(tap: Tap, process: Running, timeout_s: float) -> None:
    """Waits until a tcpdump listens. Raises MeasureFailed with the tap's name and tcpdump's words when it does not."""
    try:
        process.wait_for_output(LISTENING, timeout_s=timeout_s)
    except MeasureFailed as failed:
        hint = ""
        if not process.is_alive():
            ended = process.stop()
            hint = f"; {why(ended)}" if words_of(ended) else ""
        raise MeasureFailed(
            what=f"tap {tap.name} cannot be captured",
            cause=f"{failed.what}; {failed.cause}{hint}",
            remedy=failed.remedy,
        ) from failed


def packets_left_behind(captures: Sequence[TapCapture]) -> int:
    """How many packets were still in the kernel's buffers when these captures ended.

    libpcap looks at the direction after the filter: of two captures of one tap, each counts what both received, and
    together they captured it. (The filter's own `inbound` loses packets until the ring has gone round once.)
    """
    by_tap: dict[str, list[CaptureCounts]] = {}
    for capture in captures:
        if capture.counts is not None:
            by_tap.setdefault(capture.tap.name, []).append(capture.counts)
    return sum(
        max(0, max(counts.received for counts in each) - sum(counts.captured for counts in each))
        for each in by_tap.values()
    )


def argv_tcpdump(
    interface: str,
    expression: str,
    direction: TapDirection | None = None,
    snap_byte: int = _SNAP_BYTE,
    *,
    nanoseconds: bool = False,
    immediate: bool = True,
    buffer_kib: int = 0,
) -> tuple[str, ...]:
    """tcpdump that writes pcap to standard output, each packet (-U) as soon as it is there (--immediate-mode).

    Not `immediate`, packets come in blocks and up to a second late; the kernel's buffer then holds what arrives in full
    length, where an immediate one reserves the full length for every packet.
    """
    limit = () if direction is None else ("-Q", str(direction))
    precision = ("--time-stamp-precision=nano",) if nanoseconds else ()
    at_once = ("--immediate-mode",) if immediate else ()
    buffer = ("-B", str(buffer_kib)) if buffer_kib else ()
    # -Z root: a tcpdump that changes its user would no longer die with labctl (the kernel forgets PR_SET_PDEATHSIG).
    what = ("-n", "-U", "-Z", "root", *at_once, *buffer, *precision, "-s", str(snap_byte), *limit)
    options = (*what, "-i", interface, "-w", "-")
    return ("tcpdump", *options, "--", expression) if expression else ("tcpdump", *options)


def without_own(tap: Tap, expression: str) -> str:
    """The expression, less what labctl itself sends past this tap: taken, each of its packets would carry more of
    them. That comes first, since some keywords (`vlan`, `vxlan`) move every offset after them."""
    if not tap.own:
        return expression
    return f"not ({tap.own}) and ({expression})" if expression.strip() else f"not ({tap.own})"


def envelope_filter() -> str:
    """The pcap expression for envelopes, whose headers before the inner frame have 8 bytes (Geneve's without
    options)."""
    return f"({' or '.join(f'udp port {port}' for port in TUNNEL_PORTS)})"


def echo_filter(flows: Iterable[Flow]) -> str:
    """The pcap expression for ICMP of these flows and the way back, both as it is and inside an envelope.

    Inside the envelope the inner header is found by its offset from the UDP header: tcpdump's own `vxlan` keyword would
    move every offset after it. Options in the inner IPv4 header do not matter, since the addresses come before them.
    """
    flows = tuple(flows)
    pairs = [f"host {client} and host {server}" for client, server in flows]
    # `and` and `or` have one precedence in a pcap expression.
    plain = f"icmp and {pairs[0]}" if len(pairs) == 1 else f"icmp and ({' or '.join(f'({one})' for one in pairs)})"
    src, dst = f"udp[{_INNER_SRC}:4]", f"udp[{_INNER_DST}:4]"
    either = " or ".join(
        f"({src} = {a:#x} and {dst} = {b:#x}) or ({src} = {b:#x} and {dst} = {a:#x})"
        for a, b in ((int(client), int(server)) for client, server in flows)
    )
    return f"({plain}) or ({envelope_filter()} and udp[{_INNER_PROTOCOL}] = 1 and ({either}))"


def parse_counts(text: str) -> CaptureCounts | None:
    """tcpdump's closing summary (4.9 to 4.99), or None when it is not there."""

    def count(pattern: str) -> int | None:
        found = re.search(rf"^(\d+) packets? {pattern}", text, re.MULTILINE)
        return int(found[1]) if found else None

    captured, received, kernel = count("captured"), count("received by filter"), count("dropped by kernel")
    if captured is None or received is None or kernel is None:
        return None
    return CaptureCounts(captured=captured, received=received, dropped=kernel + (count("dropped by interface") or 0))


def last_line(text: str) -> str:
    """The last line that says something: what a tool complained about."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")


def require_trustworthy(captures: Sequence[TapCapture]) -> None:
    """Raises MeasureFailed for a tcpdump that failed, was killed or lost packets: silence there would mean nothing.

    One whose device went away gives its counts all the same, and status 1.
    """
    for capture in captures:
        name, completed, counts = capture.tap.name, capture.completed, capture.counts
        if capture.hindrance:
            continue
        if completed.timed_out or completed.returncode not in _ENDS or counts is None:
            end = (
                f"killed by signal {-completed.returncode}"
                if completed.returncode < 0
                else (f"status {completed.returncode}" if completed.returncode else "without its summary")
            )
            words = "; ".join(part for part in (words_of(completed) or "nothing", meaning(completed), end) if part)
            raise MeasureFailed(f"the capture on {name} ended badly", f"tcpdump: {words}", remedy_for(completed))
        if counts.dropped:
            raise MeasureFailed(
                f"the capture on {name} is not complete", f"the kernel dropped {counts.dropped} packets before tcpdump"
            )


def why_unsent(pod: Target, sent: Completed) -> tuple[str, ...]:
    """Why a pod may have sent nothing, in sentences: what its kernel reported to the sender, or neighbours that did not
    answer its ARP requests. Empty where neither is known."""
    if told := told_no_way(sent):
        return (f"the sender's kernel reported: {told}",)
    try:
        done = pod.run(("ip", "-4", "neigh", "show"), timeout_s=_NEIGHBOURS_S)
    except MeasureFailed:  # a pod whose image has no ip
        return ()
    if done.returncode or done.timed_out:
        return (f"{pod.name}'s neighbours could not be read: ip: {said(done)}",)
    failed = (line.strip() for line in done.text.splitlines() if "FAILED" in line or "INCOMPLETE" in line)
    return tuple(f"{pod.name} got no answer to its ARP request: ip neigh shows {line}" for line in failed)
