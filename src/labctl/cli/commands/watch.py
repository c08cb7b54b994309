"""`labctl watch LAB`: one live screen of a running lab, until q or Ctrl-C."""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from labctl.cli.commands.events import clock
from labctl.cli.options import events_of, find_running, missing_parts
from labctl.cli.output import live_screen
from labctl.errors import LabError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from labctl.model.changes import Changes
    from labctl.model.lab import Lab
    from labctl.model.lab_event import LabEvent, LiveNode, LiveState
    from labctl.providers.base import Provider

_LOOK_S = 2.0
"""Counters are read, and the screen drawn, that often at most where nothing happens."""
_DRAW_S = 0.25
"""And that often where much happens."""
_SETTLED_S = 10.0
"""So long after something happened the lab is looked at again and again."""
_KEPT = 2000
_WIDE = 120


@click.command("watch")
@click.argument("lab")
@click.option("--no-proof", is_flag=True, help="Do not prove the mode in force first, which sends a few packets.")
def command(lab: str, no_proof: bool) -> int:
    """One screen of LAB that follows it: nodes, pods and links with their counters, the mode in force, what is not as
    it was built, and the last events. q or Ctrl-C ends it.

    Events come from the kernel; the nodes' counters are read every two seconds.
    """
    from labctl.system.signals import asked_to_stop

    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise UsageError(
            what="labctl watch needs a terminal",
            cause="standard input or output is none",
            remedy=f"labctl events {lab}",
        )
    found, running, provider = find_running(lab)
    events = events_of(provider, running)
    mode = _mode(found, provider) if not no_proof else "not asked"
    with asked_to_stop() as stops, events(found) as source, live_screen() as screen:
        shown = _Shown(found, mode)
        drawn_s = looked_s = drift_s = happened_s = -math.inf
        is_new = True
        while not stops() and not screen.has_ended():
            now = time.monotonic()
            if is_new and now - drift_s >= _LOOK_S:
                shown.drift, there = _drift(shown.lab, provider)
                drift_s = now
                if there is not None and there.digest != shown.lab.digest:
                    source.follow(there)
                    shown.became(there)
                # What a lab became is written down after the last that its kernel tells.
                is_new = now - happened_s < _SETTLED_S
            if now - looked_s >= _LOOK_S:
                shown.state, looked_s = source.look(), now
            if now - drawn_s >= _DRAW_S:
                screen.draw(shown.parts(screen.width, screen.height))
                drawn_s = now
            until_s = min(looked_s + _LOOK_S, drift_s + _LOOK_S if is_new else looked_s + _LOOK_S)
            happened = source.wait(max(min(until_s - time.monotonic(), screen.patience_s), 0.01))
            if happened:
                shown.events.extend(happened)
                is_new, happened_s = True, time.monotonic()
                looked_s = min(looked_s, now - _LOOK_S + _DRAW_S)
            else:
                drawn_s = min(drawn_s, now - _DRAW_S) if now - drawn_s >= _LOOK_S - 0.05 else now
    return 0


def _mode(lab: Lab, provider: Provider) -> str:
    """Proven once: to prove it again would send packets into what is being watched."""
    from labctl import app
    from labctl.engine.prove import prove
    from labctl.store.runs import MemorySinks

    try:
        with provider.open(lab) as open_lab:
            mode = prove(app.checks(), open_lab, MemorySinks(), lambda event: None).mode
    except LabError as failed:
        return f"not shown: {failed.what}"
    words = ", ".join(f"{key} {value}" for key, value in mode.found.items())
    return f"{words}, proven at {clock(time.time_ns())[:8]}" if mode.proven else f"not shown: {mode.reason}"


def _drift(lab: Lab, provider: Provider) -> tuple[tuple[str, ...], Lab | None]:
    """What was changed on purpose, and what is missing besides; and what the lab is by now."""
    changing = provider.capabilities.changing
    changes: Changes | None = changing.changes(lab) if changing is not None else None
    found = next(iter(provider.discover(lab.name)), None)
    said = changes.sentences() if changes is not None else ()
    if found is None:
        return (*said, "the lab is gone"), None
    if not found.is_whole and not (changes is not None and (changes.links_down or changes.nodes_stopped)):
        return (*said, f"missing: {missing_parts(found)}"), found.lab
    return said, found.lab


class _Shown:
    """What the screen shows, and how."""

    def __init__(self, lab: Lab, mode: str) -> None:
        self.lab, self.mode = lab, mode
        self.drift: tuple[str, ...] = ()
        self.state: LiveState | None = None
        self.events: deque[LabEvent] = deque(maxlen=_KEPT)

    def became(self, lab: Lab) -> None:
        """`labctl up --apply` made another one of it."""
        self.lab = lab
        self.mode = "not asked again since the lab became another one"

    def parts(self, width: int, height: int) -> Sequence[Text]:
        """From top to bottom, no more lines than the screen has."""
        from rich.text import Text

        lab = self.lab
        pods = f"{len(lab.pods)} pods" if len(lab.pods) != 1 else "1 pod"
        head = Text(f"{lab.name}: {lab.provider}, {len(lab.nodes)} nodes, {pods}", style="bold", no_wrap=True)
        head.append("   q ends", style="dim")
        mode = Text(f"in force: {self.mode}", no_wrap=True, overflow="ellipsis")
        drift = Text("as it was built", style="green")
        if self.drift:
            drift = Text(f"changed: {'; '.join(self.drift)}", style="yellow", no_wrap=True, overflow="ellipsis")
        room = max(height - 6, 4)
        nodes = self._nodes(width, most=max(room // 3, 2))
        links = self._links(width, most=max(room // 4, 2))
        left = max(height - 5 - len(nodes) - len(links), 1)
        told = [self._event(event, width, more) for event, more in alike(self.events, self._names())[-left:]]
        quiet = [Text("nothing has happened yet", style="dim")]
        return [head, mode, drift, *nodes, *links, Text("events", style="bold"), *(told or quiet)]

    def _names(self) -> frozenset[str]:
        """Of nodes and routers: what happens at each has a line of its own."""
        return frozenset((*(node.name for node in self.lab.nodes), *(router.name for router in self.lab.routers)))

    def _nodes(self, width: int, *, most: int) -> list[Text]:
        from rich.text import Text

        if self.state is None:
            return []
        name = max((len(node.name) for node in self.state.nodes), default=4)
        title = f"{'node':<{name}}  state    pods  devices  {'received':>10}  {'sent':>10}  dropped"
        rows = [Text(title, style="bold", no_wrap=True)]
        for node in self.state.nodes[:most]:
            rows.append(_node_row(node, name))
        if len(self.state.nodes) > most:
            rows.append(Text(f"and {len(self.state.nodes) - most} more nodes", style="dim"))
        return rows

    def _links(self, width: int, *, most: int) -> list[Text]:
        """Those that are not as usual first: down, gone, impaired, with drops."""
        from rich.text import Text

        if self.state is None:
            return []
        links = sorted(self.state.links, key=lambda one: (one.state == "up", not one.impairments))
        up = sum(link.state == "up" for link in links)
        name = max((len(link.name) for link in links[:most]), default=4)
        title = f"{'link':<{name}}  state {'sent':>10} {'received':>10}  {up} of {len(links)} up"
        rows = [Text(title, style="bold", no_wrap=True)]
        for link in links[:most]:
            end = link.ends[0] if link.ends else None
            count = f"{end.tx_packets:>10} {end.rx_packets:>10}" if end is not None and end.is_there else ""
            said = f"{link.name:<{name}}  {link.state:<5} {count}  {', '.join(link.impairments)}"
            style = "" if link.state == "up" and not link.impairments else "yellow"
            rows.append(Text(said.rstrip(), style=style, no_wrap=True, overflow="ellipsis"))
        return rows

    def _event(self, event: LabEvent, width: int, more: int) -> Text:
        from rich.text import Text

        when = clock(event.at_ns) if width >= _WIDE else clock(event.at_ns)[:8]
        times = f"{more + 1}× " if more else ""
        return Text(f"{when}  {event.part}  {times}{event.what}", no_wrap=True, overflow="ellipsis")


_RUN_NS = 1_000_000_000
_PARTICULAR = re.compile(r"(?<=device )\S+|\S*\d\S*")
"""What tells one device, address or route from the next."""


def alike(events: Iterable[LabEvent], nodes: Container[str]) -> list[tuple[LabEvent, int]]:
    """The first of each run of events, less than a second from one to the next, that say the same of other things of
    one of the nodes, or of any other parts, with how many more there are: fifty pods that come or go are some lines,
    not hundreds."""
    found: list[tuple[LabEvent, int]] = []
    last: dict[tuple[object, ...], tuple[int, int]] = {}
    for event in events:
        same = (event.kind, event.part if event.part in nodes else "", _PARTICULAR.sub("", event.what))
        place, at_ns = last.get(same, (len(found), 0))
        if place < len(found) and event.at_ns - at_ns < _RUN_NS:
            found[place] = found[place][0], found[place][1] + 1
        else:
            place = len(found)
            found.append((event, 0))
        last[same] = place, event.at_ns
    return found


def _node_row(node: LiveNode, name: int) -> Text:
    from rich.text import Text

    state = "up" if node.is_there else "stopped"
    devices = f"{node.devices_up}/{node.devices}"
    row = f"{node.name:<{name}}  {state:<7}  {node.pods:>4}  {devices:>7}  {node.rx_packets:>10}  {node.tx_packets:>10}"
    style = "" if node.is_there and node.devices_up == node.devices else "yellow"
    return Text(f"{row}  {node.dropped:>7}", style=style, no_wrap=True)
