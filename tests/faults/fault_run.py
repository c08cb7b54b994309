"""`make test-faults`: every fault in every command of labctl, each in a world of its own.

    tests/faults/fault_run.py [--sample [DATE]] [--only TEXT] [--share K/N] [--at-once N] [--depth N]
        [--list] [--out FILE]

First every command is run once without a fault, which says by which calls it changes the machine, and that it leaves
nothing when all is well. Then each point is tried: a fault at one of these calls, followed by `labctl down --all`, or
by the command that builds again and then `labctl down --all`, in turn. Then the world has to be as before.

The last line is `N distinct fault points, M left something behind`. Exit codes: 0 nothing was left, 1 something was, 3
the host lacks something, 4 a command fails without any fault, or an experiment did, 130 stopped by Ctrl-C, after which
it still says what was found.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_commands import COMMANDS, LABCTL, read_in_all

from labctl.errors import LabError
from labctl.testing.faults.experiment import Command, Outcome, Recovery, recording, require_healthy, try_all, trying
from labctl.testing.faults.points import Point, chosen, points_of, sample
from labctl.testing.faults.world import require_root

SAMPLE_POINTS, SAMPLE_COMMANDS = 24, 4
"""What takes about a minute on two processors."""


@dataclass(slots=True)
class Tally:
    """What was found so far."""

    reached: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    bugs: dict[str, str] = field(default_factory=dict)
    is_whole: bool = True


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults in every command of labctl, each in a world of its own.")
    parser.add_argument("--sample", nargs="?", const=datetime.datetime.now(datetime.UTC).date().isoformat())
    parser.add_argument("--only", default="", help="points whose names have this text")
    parser.add_argument("--share", default="1/1", help="1/3, 2/3 and 3/3 are all points, each in one of them")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="worlds beside each other")
    parser.add_argument("--depth", type=int, default=1, help="so many times as many points")
    parser.add_argument("--list", action="store_true", help="only name the points")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    return parser.parse_args()


def say(line: str) -> None:
    print(line, flush=True)


def recorded(commands: Sequence[Command], at_once: int, depth: int) -> list[Point]:
    """The points of these commands, each of which was run once. Raises RuntimeError."""
    found: dict[int, Outcome] = {}

    def tell(number: int, outcome: Outcome | RuntimeError) -> None:
        found[number] = require_healthy(commands[number], outcome)
        calls = found[number].calls
        say(f"recorded: {commands[number].name}: {len(calls)} calls, {len(set(calls))} of them distinct")

    try_all([recording(LABCTL, command) for command in commands], tell, at_once=at_once)
    known: set[str] = set()
    points: list[Point] = []
    for number, command in enumerate(commands):
        points += chosen([*points_of(command.name, found[number].calls)], depth * command.most, known)
        known.update(found[number].calls)
    return points


def recoveries(point: Point) -> tuple[Recovery, ...]:
    """One of the two in its turn; of every fourth point where the command is killed, both."""
    if point.fault.act == "SIGKILL" and point.number % 4 == 0:
        return tuple(Recovery)
    return (tuple(Recovery)[point.number // 4 % len(Recovery)],)


def where_of(point: Point, recovery: Recovery) -> str:
    return f"{point.name} (then {recovery})"


def tried(points: Sequence[Point], at_once: int) -> Tally:
    commands = {command.name: command for command in COMMANDS}
    # Mixed, so that long ones and short ones go together, and what is wrong somewhere shows early.
    jobs = [(one, how) for one in sorted(points, key=lambda point: point.number) for how in recoveries(one)]
    tally = Tally()
    begun_s = time.monotonic()
    done = Counter[str]()

    def tell(number: int, outcome: Outcome | RuntimeError) -> None:
        point, recovery = jobs[number]
        done["all"] += 1
        if os.environ.get("FAULTS_VERBOSE"):
            took = "" if isinstance(outcome, RuntimeError) else f"{outcome.duration_s:.2f} s, exit code {outcome.code}"
            say(f"{time.monotonic() - begun_s:.1f}: {where_of(point, recovery)}: {took}")
        where = where_of(point, recovery)
        if isinstance(outcome, RuntimeError):
            tally.broken[where] = str(outcome)
            say(f"FAILED {where}\n{outcome}")
        elif not outcome.was_reached:
            tally.missed.add(point.name)
        else:
            tally.reached.add(point.name)
            if wrong := (*outcome.left, *outcome.lost):
                tally.left[where] = wrong
                say(f"LEFT {where}: exit code {outcome.code}")
                for line in wrong:
                    say(f"    {line}")
            if "Traceback (most recent call last)" in outcome.said and point.fault.act != "exception":
                tally.bugs[where] = outcome.said
        if done["all"] % 50 == 0:
            say(f"{done['all']} of {len(jobs)} tried in {time.monotonic() - begun_s:.0f} s")

    try:
        try_all([trying(LABCTL, commands[one.command], one.fault, how) for one, how in jobs], tell, at_once=at_once)
    except KeyboardInterrupt:
        say(f"stopped: {done['all']} of {len(jobs)} were tried")
        tally.is_whole = False
    tally.missed -= tally.reached
    return tally


def main() -> int:
    asked = arguments()
    begun_s = time.monotonic()
    try:
        require_root()
        read_in_all()
        commands = [one for one in COMMANDS if not asked.only or asked.only.startswith(f"{one.name} |")] or COMMANDS
        if asked.sample:
            day = datetime.date.fromisoformat(asked.sample).toordinal()
            commands = [COMMANDS[(day * SAMPLE_COMMANDS + step) % len(COMMANDS)] for step in range(SAMPLE_COMMANDS)]
            say(f"sample of {asked.sample}: {', '.join(command.name for command in commands)}")
        points = recorded(commands, asked.at_once, asked.depth)
    except LabError as lacks:
        print("\n".join(lacks.lines()), file=sys.stderr)
        return lacks.exit_code
    except RuntimeError as failed:
        print(failed, file=sys.stderr)
        return 4
    which, of = map(int, asked.share.split("/"))
    points = [point for point in points if asked.only in point.name and point.number // 16 % of == which - 1]
    if asked.sample:
        points = sample(points, asked.sample, SAMPLE_POINTS)
    if asked.list or asked.sample:
        for point in points:
            say(point.name)
    if asked.list:
        return 0
    tally = tried(points, asked.at_once)
    for title, found in (("not reached", tally.missed), ("ended in a traceback", tally.bugs)):
        for name in sorted(found):
            say(f"{title}: {name}")
    if asked.out:
        asked.out.write_text(json.dumps(document(tally, points, time.monotonic() - begun_s), indent=1) + "\n")
    say(f"{len(tally.reached)} distinct fault points, {len(tally.left)} left something behind")
    if not tally.is_whole:
        return 130
    return 1 if tally.left else 4 if tally.broken or not tally.reached else 0


def document(tally: Tally, points: Sequence[Point], took_s: float) -> dict[str, object]:
    of_command = Counter(point.command for point in points if point.name in tally.reached)
    of_act = Counter(point.fault.act for point in points if point.name in tally.reached)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": "make test-faults",
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "tookS": round(took_s),
        "isWhole": tally.is_whole,
        "points": len(tally.reached),
        "leftBehind": {name: list(lines) for name, lines in sorted(tally.left.items())},
        "notReached": sorted(tally.missed),
        "failed": sorted(tally.broken),
        "endedInATraceback": sorted(tally.bugs),
        "byCommand": dict(of_command),
        "byFault": dict(of_act),
    }


if __name__ == "__main__":
    sys.exit(main())
