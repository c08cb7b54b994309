"""`labctl capture LAB [TAP…]`: the packets at many taps at once, as lines or as one pcapng file."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, find_lab
from labctl.cli.output import emit_json, pass_on, show, tell, wrapped
from labctl.cli.reports import require_place
from labctl.cli.streams import line_width
from labctl.errors import MeasureFailed, UsageError
from labctl.units import NANO

if TYPE_CHECKING:
    from labctl.engine.capture import Batch, Ended, Limits, Source
    from labctl.model.lab import Lab

API = "labctl/v1"
_LIVE_SNAP, _FILE_SNAP = 320, 262_144


@click.command("capture")
@click.argument("lab")
@click.argument("taps", nargs=-1, metavar="[TAP…]")
@click.option("-w", "--write", "file", metavar="FILE", help="Write pcapng with one interface per tap; - is stdout.")
@click.option(
    "--filter", "expression", default="", metavar="EXPR", help="Capture filter: a pcap expression, as for tcpdump."
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N packets.")
@click.option("--duration", type=click.FloatRange(min=0.01), metavar="S", help="Stop after S seconds.")
@click.option("--snap", type=click.IntRange(64, 262_144), metavar="N", help="Keep the first N bytes of each packet.")
@click.option("--sanity", is_flag=True, help="First prove with known packets that the filter can match any.")
@click.option("--list", "only_list", is_flag=True, help="Only list the taps.")
@as_json
def command(
    lab: str,
    taps: tuple[str, ...],
    file: str | None,
    expression: str,
    count: int | None,
    duration: float | None,
    snap: int | None,
    sanity: bool,
    only_list: bool,
    as_json: bool,
) -> int:
    """Capture at every TAP of LAB at once: a name like node1:eth0, or all taps of a pod, a node, a device or a role.
    Without TAP: all taps on the paths of the lab's pairs. Every line names its tap and direction; VXLAN is
    decapsulated. Ctrl-C stops the capture, which then reports what was lost."""
    from labctl.engine.capture import (
        Limits,
        capture,
        check_filter,
        chosen_taps,
        clocks_of,
        known_taps,
        left_out,
        prove_filter,
        sources_of,
        streaming,
    )
    from labctl.engine.one_way import OneWay
    from labctl.system.signals import asked_to_stop, interruptible

    found, provider = find_lab(lab)
    if expression.lstrip().startswith("-"):
        raise UsageError(
            what=f"the filter {expression!r} begins with '-'",
            cause="tcpdump would read it as an option, and no pcap expression begins so",
            remedy="man pcap-filter",
        )
    if file == "-" and as_json:
        raise UsageError(what="--json and -w - both want stdout", remedy=f"labctl capture {lab} -w FILE --json")
    if file == "-" and sys.stdout.isatty():
        raise UsageError(
            what="pcapng cannot be written to a terminal", remedy=f"labctl capture {lab} -w - | wireshark -k -i -"
        )
    if file is not None and file != "-" and not only_list:
        require_place(Path(file))
    with provider.open(found) as open_lab:
        if only_list:
            known = known_taps(open_lab)
            if as_json:
                emit_json(
                    {"apiVersion": API, "kind": "Taps", "taps": [{"tap": t.name, "role": str(t.role)} for t in known]}
                )
            else:
                from labctl.report.grid import Column, Grid

                show(Grid((Column(), Column()), [(tap.name, str(tap.role)) for tap in known], has_head=False))
            return 0
        with interruptible():
            chosen = chosen_taps(open_lab, taps)
            check_filter(chosen, expression)
            if sanity:
                _say(f"sanity: {prove_filter(open_lab, chosen, expression).sentence}")
            clocks = clocks_of(open_lab, chosen)
        sources = sources_of(chosen)
        snap_byte = snap or (_FILE_SNAP if file else _LIVE_SNAP)
        limits = Limits(packets=count, duration_s=duration)
        code = 0
        with (
            _reader_may_go(),
            asked_to_stop() as stops,
            streaming(sources, expression, snap_byte=snap_byte, immediate=file is None, clocks=clocks) as stream,
        ):
            count_of_taps = "1 tap" if len(chosen) == 1 else f"{len(chosen)} taps"
            _say(f"capturing at {count_of_taps} of {lab} (Ctrl-C stops it): {', '.join(tap.name for tap in chosen)}")
            if own := left_out(chosen):
                _say(own)
            printer = Printer(sources, keeps=as_json)
            watched = OneWay(found, sources, expression)
            end = _End(stops, limits)
            if file is None:
                ended, seen = capture(stream, limits, both(printer, watched.watch), end.asked, immediate=True)
            else:
                from labctl.engine.capture_file import CaptureFile

                with CaptureFile(
                    file, chosen, sources, expression=expression, snap_byte=snap_byte, comment=_comments(open_lab.lab)
                ) as writing:
                    ended, seen = capture(
                        stream, limits, both(writing.write, watched.watch), end.asked, immediate=False
                    )
                    writing.finish(ended, time.time_ns())
                    _say(f"{file}: {writing.size_byte} bytes")
            if as_json:
                emit_json(_document(lab, file, expression, ended, seen, printer.kept))
            code = _summary(ended, seen, lab, sanity, watched.sentences(ended, end.time_ns(seen)))
    return code


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """`labctl capture … | head`: a reader that goes away is a normal end."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _comments(lab: Lab) -> Callable[[bytes], str] | None:
    """What the packets of a file are annotated with: which Service is in them, before and after its translation."""
    if not lab.services:
        return None
    from labctl.path.service_names import ServiceNames

    return ServiceNames(lab).comment


class Printer:
    """Prints packets as they come, a line each, which a narrow terminal gets in several; or keeps them (`keeps`), for
    one document at the end."""

    def __init__(self, sources: Sequence[Source], *, keeps: bool) -> None:
        self._keeps = keeps
        self._width = line_width(sys.stdout)
        self.kept: list[dict[str, object]] = []
        self._tap_width = max(len(source.tap.name) for source in sources)
        self._names = [(source.tap.name, str(source.direction or "")) for source in sources]

    def __call__(self, batch: Batch) -> None:
        from labctl.path.decode_text import packet_text, time_text

        lines = []
        for time_ns, number, record in batch:
            tap, direction = self._names[number]
            text = packet_text(record.frame, record.wire_byte)
            if self._keeps:
                self.kept.append({"timeNs": time_ns, "tap": tap, "direction": direction or None, "text": text})
                continue
            line = f"{time_text(time_ns)} {tap:<{self._tap_width}} {direction:<3} {text}"
            if self._width and len(line) > self._width:
                words = " ".join(line.split())
                line = textwrap.fill(words, self._width, subsequent_indent="    ", break_on_hyphens=False)
            lines.append(f"{line}\n")
        pass_on("".join(lines))


def _document(
    lab: str, file: str | None, expression: str, ended: Sequence[Ended], seen: int, kept: Sequence[dict[str, object]]
) -> dict[str, object]:
    """With a file its packets are in there; without one they are in the document."""
    from labctl.engine.capture import counts_by_tap

    counts = counts_by_tap(ended)
    return {
        "apiVersion": API,
        "kind": "Capture",
        "lab": lab,
        "filter": expression,
        "file": file,
        "captured": seen,
        "lost": sum(one.lost for one in counts.values()),
        "taps": [{"tap": name, "received": one.received, "lost": one.lost} for name, one in counts.items()],
        "packets": None if file else list(kept),
    }


def _say(text: str) -> None:
    tell(wrapped(text, sys.stderr))


class _End:
    """When a capture ended, as this process knows it: no later packet was taken."""

    def __init__(self, stops: Callable[[], int], limits: Limits) -> None:
        self._stops, self._limits = stops, limits
        self._begun_ns = time.time_ns()
        self._asked_ns: int | None = None

    def asked(self) -> int:
        """How often a person asked to stop."""
        count = self._stops()
        if count and self._asked_ns is None:
            self._asked_ns = time.time_ns()
        return count

    def time_ns(self, seen: int) -> int | None:
        """None when the last of `--count` packets ended it."""
        if self._limits.packets is not None and seen >= self._limits.packets:
            return None
        if self._asked_ns is not None:
            return self._asked_ns
        duration_s = self._limits.duration_s
        return None if duration_s is None else self._begun_ns + int(duration_s / NANO)


def both(first: Callable[[Batch], None], second: Callable[[Batch], None]) -> Callable[[Batch], None]:
    """Gives every batch to the one, then to the other."""

    def take(batch: Batch) -> None:
        first(batch)
        second(batch)

    return take


def _summary(ended: Sequence[Ended], seen: int, lab: str, sanity: bool, one_way: Sequence[str]) -> int:
    from labctl.engine.capture import counts_by_tap

    losses = {name: counts.lost for name, counts in counts_by_tap(ended).items() if counts.lost}
    lost = sum(losses.values())
    where = f": {', '.join(f'{name} {number}' for name, number in losses.items())}" if losses else ""
    share = f" ({lost / (seen + lost):.1%} of what the filter let through)" if lost else ""
    _say(f"{seen} packets captured, {lost} lost{share}{where}")
    if not seen and not sanity and not lost:
        _say(f"no packet was seen; to prove that the filter can match packets: labctl capture {lab} --sanity …")
    for sentence in one_way:
        tell(sentence)  # on one line: there is a command in it
    troubles = [f"{one.source.tap.name}: {one.trouble}" for one in ended if one.trouble]
    if troubles:
        raise MeasureFailed(
            what="the capture is not complete", cause="; ".join(dict.fromkeys(troubles)), remedy=f"labctl status {lab}"
        )
    return 0
