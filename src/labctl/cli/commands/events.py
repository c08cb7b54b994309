"""`labctl events LAB`: what happens in a running lab, a line each, as its kernel tells it.

It stands alone because every command is a module.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, duration_type, events_of, find_running
from labctl.cli.output import pass_on
from labctl.codec import plain
from labctl.units import NANO

if TYPE_CHECKING:
    from labctl.model.lab_event import LabEvent

_WAIT_S = 0.5


@click.command("events")
@click.argument("lab")
@click.option("--for", "for_s", type=duration_type, metavar="T", help="Stop after that time.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N events.")
@as_json
def command(lab: str, for_s: float | None, count: int | None, as_json: bool) -> int:
    """What happens in LAB: devices that come, go, or lose their carrier, addresses, routes that are withdrawn,
    neighbours that do not answer, programs and queues, namespaces. Ctrl-C ends it.

    The kernel tells of each change in every namespace of the lab; nothing is asked again and again. With --json it is
    one document, one event a line, closed when the command ends.
    """
    from labctl.system.signals import asked_to_stop

    found, running, provider = find_running(lab)
    end = None if for_s is None else time.monotonic() + for_s
    told = 0
    with asked_to_stop() as stops, events_of(provider, running)(found) as source:
        try:
            if as_json:
                head = {"apiVersion": "labctl/v1", "kind": "EventList", "lab": lab}
                pass_on(json.dumps(head)[:-1] + ', "events": [')
            while not stops() and (end is None or time.monotonic() < end) and (count is None or told < count):
                wait_s = _WAIT_S if end is None else min(_WAIT_S, max(end - time.monotonic(), 0))
                for event in source.wait(wait_s):
                    if count is None or told < count:
                        told += 1
                        pass_on(_as_json(event, is_first=told == 1) if as_json else f"{line_of(event)}\n")
        except BrokenPipeError:
            return 0
        if as_json:
            pass_on("]}\n" if not told else "\n]}\n")
    return 0


def line_of(event: LabEvent) -> str:
    return f"{clock(event.at_ns)}  {event.part}  {event.what}"


def clock(at_ns: int) -> str:
    """The time of day here, to the millisecond."""
    return datetime.fromtimestamp(at_ns * NANO, tz=UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _as_json(event: LabEvent, *, is_first: bool) -> str:
    return ("" if is_first else ",") + "\n  " + json.dumps(plain(event), ensure_ascii=True)
