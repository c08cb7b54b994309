"""`labctl capture`: many taps at once, in one stream of packets, live or into one file, with every loss counted.

A packet counts from the moment when every tap listens: what the first ones captured before would be missing at the
others. Machines' clocks are brought to this host's, so that this moment, and the order of packets, is one for all.

Taps are named by name, pod, node, device or role; without any, they are those of the lab's pairs. Two tcpdumps per tap,
one per direction, write pcap into pipes that are read as it comes. Packets are held back for a moment, so that those of
different taps come out in the order of their times; never more than `_HELD_BYTE` of them.

A capture filter has to prove that it can see a packet before "nothing was seen" is believed: known packets are sent and
the same filter has to catch them at the same taps.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import selectors
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from labctl.checks.captures import (
    CaptureCounts,
    argv_tcpdump,
    capturing,
    ended_together,
    last_line,
    parse_counts,
    require_listening,
    require_trustworthy,
    stop_within_s,
    without_own,
)
from labctl.engine.prove import pairs_of_pods
from labctl.engine.trace import marked_packets
from labctl.errors import MeasureFailed, UsageError
from labctl.model.lab import EndpointKind, Lab
from labctl.model.signature import Role
from labctl.model.tools import require_success, why
from labctl.model.trace import ProbeProtocol, TapDirection, Way
from labctl.path.pcap import PcapError, PcapFeed, Record
from labctl.path.sighting import sightings
from labctl.providers.base import ClockOffset, Completed, OpenLab, Running, Tap
from labctl.units import NANO
from labctl.values import dataclass

READY_TIMEOUT_S = 15.0
_READY_EACH_S = 1.0
"""So much longer for each one that is started with it: behind SSH or an API server each is a session of its own."""
_STOP_TIMEOUT_S = 5.0
_LOOK_S = 0.05
_HELD_BYTE = 48 << 20
_READ_BYTE = 1 << 20
_PIPE_BYTE = 1 << 20
_BUFFER_KIB, _LEAST_BUFFER_KIB = 96 << 10, 2 << 10
_BLOCK_S = 1.1
"""The kernel hands over packets in blocks, at the latest after a second (tcpdump's time limit)."""
_LOOPBACKS = (Role.CLIENT_LO, Role.SERVER_LO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tap in one direction: what one tcpdump captures."""

    tap: Tap
    direction: TapDirection | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The result of one source, by tcpdump's own counts (see `counts_by_tap`); `trouble` says why it ended early.
    `early` is how many of the captured ones came before every tap listened, and were left out."""

    source: Source
    received: int
    captured: int
    dropped: int
    early: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapCounts:
    """What passed the filter at one tap, and how much of it was lost."""

    received: int
    lost: int


def counts_by_tap(ended: Sequence[Ended]) -> dict[str, TapCounts]:
    """libpcap looks at the direction after the filter and after the kernel's buffer: each tcpdump of a tap counts, and
    drops, packets of both directions. So what is lost is what neither captured, and no more than what both dropped:
    the rest came after the end."""
    by_tap: dict[str, list[Ended]] = {}
    for one in ended:
        by_tap.setdefault(one.source.tap.name, []).append(one)
    found = {}
    for name, each in by_tap.items():
        received = max(one.received for one in each)
        missing = max(0, received - sum(one.captured for one in each))
        counted = max(0, received - sum(one.early for one in each))
        found[name] = TapCounts(received=counted, lost=min(missing, counted, sum(one.dropped for one in each)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a capture ends by itself; None where only a person ends it."""

    packets: int | None = None
    duration_s: float | None = None


Batch = list[tuple[int, int, Record]]
"""(time in ns, number of the source, packet) in the order of time."""


_INWARD = (
    (Role.CLIENT_UPLINK, Role.SERVER_UPLINK),
    (Role.CLIENT_CILIUM_VXLAN, Role.SERVER_CILIUM_VXLAN),
    (Role.CLIENT_CILIUM_GENEVE, Role.SERVER_CILIUM_GENEVE),
    (Role.CLIENT_LXC, Role.SERVER_LXC),
    (Role.CLIENT_ETH0, Role.SERVER_ETH0),
)
"""A packet keeps the kernel's stamp on its way up from an uplink: of one time, the taps come in this order."""


def sources_of(taps: Sequence[Tap]) -> tuple[Source, ...]:
    """Both directions of every tap, in the order in which packets of one time are printed; a loopback device shows
    every packet in both, so it is taken once."""

    def rank(tap: Tap) -> int:
        return next((number for number, roles in enumerate(_INWARD) if tap.role in roles), len(_INWARD))

    return tuple(
        Source(tap=tap, direction=direction)
        for tap in sorted(taps, key=rank)
        for direction in ((TapDirection.IN,) if tap.role in _LOOPBACKS else (TapDirection.IN, TapDirection.OUT))
    )


def clocks_of(open_lab: OpenLab, taps: Sequence[Tap]) -> dict[str, ClockOffset]:
    """The clock of each tap's machine by the tap's name, measured now; empty where all have this host's clock. Raises
    MeasureFailed or StepFailed."""
    node_of = {pod.name: pod.node for pod in open_lab.lab.pods}
    nodes = {tap.name: node_of.get(tap.target.name, tap.target.name) for tap in taps}
    offsets = {one.node: one for one in open_lab.clock_offsets(tuple(dict.fromkeys(nodes.values())))}
    return {name: offsets[node] for name, node in nodes.items() if node in offsets}


def left_out(taps: Sequence[Tap]) -> str:
    """What captures at these taps leave out, as a sentence; empty where labctl itself sends nothing past them."""
    own = list(dict.fromkeys(tap.own for tap in taps if tap.own))
    if not own:
        return ""
    where = ", ".join(tap.name for tap in taps if tap.own)
    return f"labctl's own connections are left out at {where}: {' or '.join(own)}"


def check_filter(taps: Sequence[Tap], expression: str) -> None:
    """Has tcpdump compile the expression, on the first tap. Raises UsageError with tcpdump's own words, MeasureFailed
    when it cannot capture there whatever the expression."""
    first = taps[0]
    argv = ("tcpdump", "-d", "-i", first.interface, "--", expression)
    done = first.target.run(argv, timeout_s=READY_TIMEOUT_S)
    if done.returncode or done.timed_out:
        without = first.target.run((*argv[:-1], ""), timeout_s=READY_TIMEOUT_S)
        require_success(without, f"tap {first.name} cannot be captured")
        words = last_line(done.error_text).removeprefix("tcpdump: ").removeprefix("can't parse filter expression: ")
        raise UsageError(
            what=f"tcpdump does not understand the filter: {expression}",
            cause=words,
            remedy=f"{shlex.join(first.target.command(('tcpdump', '-d', '--', expression)))}  # man pcap-filter",
        )


class Stream:
    """Captures that are running. Made by `streaming`. Their packets have this host's time; those of before `since_ns`
    are left out, and so are those that may be of before, by the error of their machine's clock."""

    def __init__(
        self,
        sources: Sequence[Source],
        running: Sequence[Running],
        pipes: Sequence[int],
        hold_s: float,
        *,
        since_ns: int = 0,
        clocks: Mapping[str, ClockOffset] | None = None,
    ) -> None:
        self._sources, self._running, self._pipes = tuple(sources), tuple(running), tuple(pipes)
        self._feeds = [PcapFeed() for _ in sources]
        self._troubles = [""] * len(self._sources)
        known = [(clocks or {}).get(source.tap.name) for source in sources]
        self._ahead_ns = [round(clock.offset_s / NANO) if clock else 0 for clock in known]
        self._since_ns = [since_ns + (round(clock.error_s / NANO) if clock else 0) for clock in known]
        self._early = [0] * len(self._sources)
        self._hold_ns = int(hold_s / NANO)
        self._held: Batch = []
        self._held_byte = 0
        self._next_release_s = 0.0
        self._selector = selectors.DefaultSelector()
        for number, pipe in enumerate(pipes):
            self._selector.register(pipe, selectors.EVENT_READ, number)

    @property
    def is_over(self) -> bool:
        """Whether every tcpdump has ended."""
        return not self._selector.get_map()

    def read(self, *, wait_s: float = _LOOK_S) -> Batch:
        """What is ripe: the packets that no earlier one can come before any more (up to the limit of memory). Raises
        MeasureFailed when the connection to a tap's machine is lost: the others would go on without it."""
        for key, _ in self._selector.select(wait_s):
            if not self._take(key.fd, key.data):
                # One that ended by itself, since its device is gone, has an exit status.
                self._running[key.data].wait(timeout_s=_STOP_TIMEOUT_S)
        if self._held_byte > _HELD_BYTE:
            return self._release(None)
        now_s = time.monotonic()
        if now_s < self._next_release_s:
            return []
        self._next_release_s = now_s + _LOOK_S
        return self._release(time.time_ns() - self._hold_ns)

    def drain(self, *, timeout_s: float) -> Batch:
        """Everything that is left, after the captures have been stopped."""
        deadline = time.monotonic() + timeout_s
        while self._selector.get_map() and time.monotonic() < deadline:
            for key, _ in self._selector.select(_LOOK_S):
                self._take(key.fd, key.data)
        return self._release(None)

    def stop(self) -> tuple[tuple[Ended, ...], Batch]:
        """Ends every tcpdump while its output is still being read; gives the counts and the last packets."""
        timeout_s = stop_within_s(_STOP_TIMEOUT_S, len(self._running))
        with ThreadPoolExecutor(max_workers=len(self._running)) as pool:
            ending = [pool.submit(running.stop, sig=signal.SIGINT, timeout_s=timeout_s) for running in self._running]
            rest: Batch = []
            # As long as one is still ending, it may wait for room in its pipe.
            while not all(one.done() for one in ending):
                rest += self.drain(timeout_s=_LOOK_S)
                if self.is_over:
                    time.sleep(_LOOK_S)
            rest += self.drain(timeout_s=1.0)
            rest.sort(key=_time)
        return tuple(self._ended_or_lost(number, one) for number, one in enumerate(ending)), rest

    def _ended_or_lost(self, number: int, ending: Future[Completed]) -> Ended:
        """A tap that was lost while it was ended does not take with it what the others captured."""
        try:
            return self._ended(number, ending.result())
        except MeasureFailed as failed:
            trouble = f"{failed.what}: {failed.cause}"
            source, early = self._sources[number], self._early[number]
            return Ended(source=source, received=0, captured=0, dropped=0, early=early, trouble=trouble)

    def _ended(self, number: int, done: Completed) -> Ended:
        counts = parse_counts(done.error_text)
        trouble = self._troubles[number]
        if counts is None:
            how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "ended without its summary"
            trouble = trouble or f"tcpdump {how}: {why(done)}"
            counts = CaptureCounts(captured=0, received=0, dropped=0)
        if not trouble and done.returncode not in (0, -signal.SIGINT) and not done.timed_out:
            trouble = f"tcpdump ended with status {done.returncode}: {why(done)}"
        if not trouble and self._feeds[number].is_inside_packet:
            trouble = "tcpdump's output ended inside a packet"
        return Ended(
            source=self._sources[number],
            received=counts.received,
            captured=counts.captured,
            dropped=counts.dropped,
            early=self._early[number],
            trouble=trouble,
        )

    def _take(self, pipe: int, number: int) -> bool:
        """What has come at that tap; false at its end."""
        data = os.read(pipe, _READ_BYTE)
        if not data:
            self._selector.unregister(pipe)
            return False
        try:
            ahead_ns, since_ns = self._ahead_ns[number], self._since_ns[number]
            for record in self._feeds[number].feed(data):
                time_ns = record.time_ns - ahead_ns
                if time_ns < since_ns:
                    self._early[number] += 1
                else:
                    self._held.append((time_ns, number, record))
            self._held_byte += len(data)
        except PcapError as error:
            self._troubles[number] = str(error)
            self._selector.unregister(pipe)
        return True

    def _release(self, until_ns: int | None) -> Batch:
        if not self._held:
            return []
        self._held.sort()
        ripe = len(self._held) if until_ns is None else _count_until(self._held, until_ns)
        batch, self._held = self._held[:ripe], self._held[ripe:]
        self._held_byte = sum(len(record.frame) for _, _, record in self._held) if self._held else 0
        return batch

    def close(self) -> None:
        self._selector.close()


def _time(item: tuple[int, int, Record]) -> int:
    return item[0]


def _count_until(held: Batch, until_ns: int) -> int:
    import bisect

    return bisect.bisect_right(held, until_ns, key=_time)


@contextlib.contextmanager
def streaming(
    sources: Sequence[Source],
    expression: str,
    *,
    snap_byte: int,
    immediate: bool,
    clocks: Mapping[str, ClockOffset] | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Stream]:
    """The body runs when every tap listens, and packets count from then on. Raises MeasureFailed with tcpdump's words
    for a tap that does not listen. `clocks` by tap: see `clocks_of`.

    `immediate`: packets come at once, for eyes; else in blocks, for files.
    """
    buffer_kib = max(_LEAST_BUFFER_KIB, _BUFFER_KIB // len(sources))
    running: list[Running] = []
    with contextlib.ExitStack() as stack, ended_together(running):
        pipes: list[int] = []
        for source in sources:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reading)
            pipes.append(reading)
            with contextlib.suppress(OSError):  # optional: without it there is less room, and losses are counted
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTE)
            argv = argv_tcpdump(
                source.tap.interface,
                without_own(source.tap, expression),
                source.direction,
                snap_byte,
                nanoseconds=True,
                immediate=immediate,
                buffer_kib=buffer_kib,
            )
            try:
                running.append(stack.enter_context(source.tap.target.start(argv, output=writing)))
            finally:
                os.close(writing)
        for source, one in zip(sources, running, strict=True):
            require_listening(source.tap, one, ready_timeout_s + _READY_EACH_S * len(sources))
        hold_s = _LOOK_S if immediate else _BLOCK_S
        stream = Stream(sources, running, pipes, hold_s, since_ns=time.time_ns(), clocks=clocks)
        stack.callback(stream.close)
        yield stream


def capture(
    stream: Stream,
    limits: Limits,
    take: Callable[[Batch], None],
    stops: Callable[[], int],
    *,
    immediate: bool,
) -> tuple[tuple[Ended, ...], int]:
    """Hands every packet to `take` until a limit is reached, `stops` says that a person asked, or every tcpdump ended.

    Gives the result of each source, and how many packets were taken. A packet that came after the end is not taken.
    """
    begun_s = time.monotonic()
    count = 0

    def hand_over(batch: Batch, until_ns: int | None = None) -> None:
        nonlocal count
        if until_ns is not None:
            batch = batch[: _count_until(batch, until_ns)]
        if limits.packets is not None:
            batch = batch[: limits.packets - count]
        if batch:
            take(batch)
            count += len(batch)

    def is_over() -> bool:
        too_long = limits.duration_s is not None and time.monotonic() - begun_s >= limits.duration_s
        enough = limits.packets is not None and count >= limits.packets
        return bool(stops()) or too_long or enough or stream.is_over

    while not is_over():
        hand_over(stream.read())
    end_ns = time.time_ns()
    if not immediate and not stream.is_over and not (limits.packets is not None and count >= limits.packets):
        # What was captured up to now comes with the kernel's next block; a second signal does without it.
        flushed_s, so_far = time.monotonic() + _BLOCK_S, stops()
        while time.monotonic() < flushed_s and stops() <= max(1, so_far):
            hand_over(stream.read(), end_ns)
    ended, rest = stream.stop()
    hand_over(rest, end_ns)
    return ended, count


_SETTLE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanity:
    """Which known packets the filter let through, and at how many of the taps. `sent` names all that were sent."""

    sent: tuple[str, ...]
    seen: tuple[str, ...]
    taps: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return f"the filter can match packets: it passed {', '.join(self.seen)} through at {', '.join(self.taps)}"


def prove_filter(open_lab: OpenLab, taps: Sequence[Tap], expression: str) -> Sanity:
    """Sends one packet of each protocol between the pods of each of the lab's pairs.

    Raises MeasureFailed when the filter caught none of them, or a sender or a capture failed: then silence would mean
    nothing.
    """
    sent: list[str] = []
    seen: dict[str, None] = {}
    at: dict[str, None] = {}
    lab = open_lab.lab
    matchers = []
    with capturing(taps, expression, nanoseconds=True) as live:
        for pair in (one for one in lab.pairs if lab.server(one).kind is not EndpointKind.SERVICE):
            for protocol in ProbeProtocol:
                marked = marked_packets(lab, pair, protocol, 1)
                marked.require_sent(open_lab.target(pair.client).run(marked.argv(), timeout_s=marked.timeout_s))
                matchers.append((protocol, marked.matcher()))
                sent.append(f"{protocol} {pair.client} → {pair.server}")
        time.sleep(_SETTLE_S)
        captures = live.stop()
    require_trustworthy(captures)
    for capture in captures:
        records = capture.records()
        for protocol, matcher in matchers:
            for sighting in sightings(records, matcher, tap=capture.tap.name, role=capture.tap.role):
                seen[f"{protocol} {sighting.way}" if sighting.way is Way.REPLY else str(protocol)] = None
                at[sighting.tap] = None
    if not seen:
        raise MeasureFailed(
            what="the filter matches none of the known packets, so an empty capture would prove nothing",
            cause=f"sent: {', '.join(sent) or 'none, the lab has no pairs'}; taps: "
            f"{', '.join(tap.name for tap in taps)}",
            remedy=f"labctl capture {lab.name} --sanity --filter 'icmp or udp port 8472'",
        )
    return Sanity(sent=tuple(sent), seen=tuple(seen), taps=tuple(at))


def chosen_taps(open_lab: OpenLab, names: Sequence[str]) -> tuple[Tap, ...]:
    """Raises UsageError with a suggestion for a name that is no tap of the lab."""
    known = known_taps(open_lab)
    if not names:
        of_pairs = {tap.name for pair in open_lab.lab.pairs for tap in open_lab.taps(pair)}
        return tuple(tap for tap in known if tap.name in of_pairs) or known
    chosen: dict[str, Tap] = {}
    for name in names:
        found = [tap for tap in known if name in _names(tap)]
        if not found:
            raise _unknown(open_lab.lab, name, known)
        chosen.update((tap.name, tap) for tap in found)
    return tuple(chosen.values())


def known_taps(open_lab: OpenLab) -> tuple[Tap, ...]:
    """Every tap on the way of any two pods, once. The lab's own pairs go first and give the roles."""
    taps: dict[str, Tap] = {}
    for pair in (*open_lab.lab.pairs, *pairs_of_pods(open_lab.lab)):
        for tap in open_lab.taps(pair):
            taps.setdefault(tap.name, tap)
    return tuple(taps.values())


def _names(tap: Tap) -> tuple[str, ...]:
    """What a tap may be called: `node1:eth0`, its part `node1`, its device `cilium_vxlan`, its role."""
    part, _, device = tap.name.rpartition(":")
    return tap.name, part, device, str(tap.role)


def _unknown(lab: Lab, name: str, known: Sequence[Tap]) -> UsageError:
    words = list(dict.fromkeys(word for tap in known for word in _names(tap)))
    near = difflib.get_close_matches(name, words, n=1)
    return UsageError(
        what=f"lab {lab.name} has no tap named {name}",
        cause=f"its taps are: {', '.join(tap.name for tap in known)}",
        remedy=f"did you mean {near[0]}?" if near else f"labctl capture {lab.name} --list",
    )
