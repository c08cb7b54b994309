"""One fault in one command, from a new world to the verdict: what it left behind, and what it lost of what was saved.

The command's circumstances are made, the fault is put in, then one of two commands follows, as a person would type it:
the one that removes everything, or the one that builds again, and then the one that removes everything. After that the
world has to be as it was before the first of all commands.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, field
from enum import StrEnum
from typing import Any

from labctl.json_text import parse_json
from labctl.testing.faults import left
from labctl.testing.faults.session import COMMAND_S, Ended, Fault, Session
from labctl.testing.faults.world import DESK, in_a_world
from labctl.values import dataclass

_TAIL = 1500


class Recovery(StrEnum):
    """What a person types next."""

    REMOVE = "removing everything"
    AGAIN = "building again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line and its circumstances. Words that begin with `!` are a program of the host, others arguments of
    the program that is tried."""

    name: str
    run: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    before: tuple[tuple[str, ...], ...] = ()
    again: tuple[str, ...] = ()
    """Builds again, and has to end with 0."""
    codes: tuple[int, ...] = (0,)
    """What it ends with when nothing is wrong."""
    most: int = 60
    """Points of it that are tried, of those that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A program, and what it is asked for everything that it made to be removed, and for what it saved."""

    program: Callable[[Sequence[str]], int]
    remove: tuple[str, ...]
    saved: re.Pattern[str]
    """Group 1 is the path of what was reported as saved."""
    read: tuple[str, ...]
    """With that path as its last argument, has to end with one of `read_codes`."""
    read_codes: tuple[int, ...] = (0, 1, 4)
    stays: re.Pattern[str] | None = None
    """Lines of what may stay: what a healthy command leaves for the next one, until the next boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one point. `left` and `lost` are empty when all is well."""

    code: int | None
    was_reached: bool
    left: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    said: str = ""
    duration_s: float = 0.0


def recording(tried: Tried, command: Command) -> Callable[[], Outcome]:
    """The calls of the command when nothing is wrong; `require_healthy` judges it."""
    return lambda: _whole(tried, command, None, Recovery.REMOVE)


def require_healthy(command: Command, found: Outcome | RuntimeError) -> Outcome:
    """Raises RuntimeError for a command that fails, or leaves something, without any fault."""
    if isinstance(found, RuntimeError):
        raise found
    if found.code not in command.codes or found.left or found.lost:
        raise RuntimeError(
            f"'{command.name}' without any fault: exit code {found.code}\n{found.said}\n"
            + "\n".join((*found.left, *found.lost))
        )
    return found


def trying(tried: Tried, command: Command, fault: Fault, recovery: Recovery) -> Callable[[], Outcome]:
    return lambda: _whole(tried, command, fault, recovery)


def try_all(
    jobs: Sequence[Callable[[], Outcome]], tell: Callable[[int, Outcome | RuntimeError], None], *, at_once: int
) -> None:
    """Does the jobs (`recording`, `trying`), so many at a time, each in processes of its own, and tells of each as it
    ends, by its number."""
    waiting = list(enumerate(jobs))
    running: dict[int, tuple[int, int, bytearray]] = {}
    poll = select.poll()
    while waiting or running:
        while waiting and len(running) < at_once:
            number, job = waiting.pop(0)
            process, reading = _started(job)
            running[reading] = (number, process, bytearray())
            poll.register(reading, select.POLLIN)
        for reading, _ in poll.poll():
            number, process, said = running[reading]
            if piece := os.read(reading, 1 << 20):
                said += piece
                continue
            poll.unregister(reading)
            os.close(reading)
            del running[reading]
            os.waitpid(process, 0)
            tell(number, _outcome(bytes(said)))


def _started(act: Callable[[], Outcome]) -> tuple[int, int]:
    """A process that does it in a world, and a descriptor that it writes to."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        in_a_world(lambda: json.dumps(asdict(act())).encode(), writing)
    os.close(writing)
    return process, reading


def _outcome(answer: bytes) -> Outcome | RuntimeError:
    if not answer.startswith(b"+"):
        return RuntimeError(answer[1:].decode(errors="replace") or "the world ended without an answer")
    document: dict[str, Any] = parse_json(answer[1:])
    for name in ("left", "lost", "calls"):
        document[name] = tuple(document[name])
    return Outcome(**document)


def _whole(tried: Tried, command: Command, fault: Fault | None, recovery: Recovery) -> Outcome:
    before = left.state()
    session = Session(tried.program)
    for name, text in command.files.items():
        (DESK / name).write_text(text, encoding="utf-8")
    for args in command.before:
        _prepare(session, args)
    ended = session.run(*command.run, fault=fault, is_watched=fault is None)
    wrong: list[str] = []
    if ended.code is None:
        wrong.append(f"did not end within {COMMAND_S:g} s")
    lost = list(_lost(tried, session, ended))
    if recovery is Recovery.AGAIN and command.again:
        wrong += _typed(session, command.again)
    wrong += _typed(session, tried.remove)
    for name in command.files:
        (DESK / name).unlink()
    found = left.settled(before, session.held, session.answer, stays=tried.stays)
    return Outcome(
        code=ended.code,
        was_reached=ended.was_reached,
        left=(*wrong, *found),
        lost=tuple(lost),
        calls=ended.calls,
        said=f"{ended.out[-_TAIL:]}{ended.err[-_TAIL:]}",
        duration_s=ended.duration_s,
    )


def _prepare(session: Session, args: Sequence[str]) -> None:
    if args[0].startswith("!"):
        subprocess.run((args[0][1:], *args[1:]), check=True, capture_output=True, timeout=60, cwd=DESK)
        return
    ended = session.run(*args)
    if ended.code != 0:
        raise RuntimeError(f"{' '.join(args)}: exit code {ended.code}\n{ended.out}{ended.err}")


def _typed(session: Session, args: Sequence[str]) -> Iterator[str]:
    ended = session.run(*args)
    if ended.code != 0:
        yield f"'{' '.join(args)}' ended with {ended.code}: {ended.err[-_TAIL:]}"


def _lost(tried: Tried, session: Session, ended: Ended) -> Iterator[str]:
    """What was reported as saved, and is not there or cannot be read."""
    for path in dict.fromkeys(match[1] for match in tried.saved.finditer(ended.out + ended.err)):
        if not (DESK / path).exists():
            yield f"reported as saved, and is not there: {path}"
        elif (DESK / path).is_dir():
            read = session.run(*tried.read, path)
            if read.code not in tried.read_codes:
                yield f"reported as saved, and cannot be read: {path}: {read.err[-_TAIL:]}"
        elif not (DESK / path).stat().st_size:
            yield f"reported as saved, and is empty: {path}"
