"""A lab that follows a script: targets that answer argv with prepared output, for tests of checks without a network.

    client = ScriptedTarget("client", [Answer("ping", stdout=PING)])
    lab = ScriptedLab(example_lab(), [client])

An argv that the script has no answer for is an error of the test (`Unscripted`), not of the tool under test.

A clock that moves only when a test moves it, so that tests of waiting take no time.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Any

from labctl.checks.base import CheckContext
from labctl.errors import MeasureFailed, UsageError
from labctl.model.evidence import DatapathState, Evidence, ModeInForce
from labctl.model.impairment import ImpairedWay
from labctl.model.lab import Lab, Pair
from labctl.model.node_status import NodeStatus
from labctl.model.parameters import CheckParameters
from labctl.model.result import CheckResult, Metric, Verdict
from labctl.model.service_lists import NodeServices
from labctl.model.trace import Movement, PacketKey, Unshown
from labctl.providers.base import ClockOffset, Completed, OpenDevice, Running, Tap, Target, TargetKind, Watch
from labctl.values import dataclass


class Unscripted(AssertionError):
    """Something was run that the script has no answer for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program does when it is run or started.

    Matches argv whose first words are `argv`; `times` limits how often (None: always). `output` may compute the
    standard output from the argv. `fails` is raised instead of running. A started program is ready when `stdout` or
    `stderr` holds the awaited text, and alive until it is stopped unless `dies` is set.
    """

    argv: tuple[str, ...]
    stdout: bytes = b""
    stderr: bytes = b""
    returncode: int = 0
    duration_s: float = 1.0
    cpu_s: float | None = None
    timed_out: bool = False
    dies: bool = False
    times: int | None = None
    fails: MeasureFailed | None = None
    output: Callable[[tuple[str, ...]], bytes] | None = None

    def completed(self, argv: tuple[str, ...]) -> Completed:
        return Completed(
            argv=argv,
            returncode=self.returncode,
            stdout=self.stdout if self.output is None else self.output(argv),
            stderr=self.stderr,
            duration_s=self.duration_s,
            cpu_s=self.cpu_s,
            timed_out=self.timed_out,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One thing that was run or started, as the target was asked for it."""

    argv: tuple[str, ...]
    started: bool
    cpu: int | None
    timeout_s: float | None = None
    stdin: bytes = b""


@dataclass(slots=True)
class ScriptedRunning:
    """A started program of the script. `signals` are those that it was sent."""

    argv: tuple[str, ...]
    answer: Answer
    signals: list[int] = field(default_factory=list)
    is_over: bool = False

    def is_alive(self) -> bool:
        return not self.is_over and not self.answer.dies

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        ready = self.answer.completed(self.argv)
        if text not in ready.text and text not in ready.error_text:
            raise MeasureFailed(
                f"waited {timeout_s:g} s for “{text}” from {self.argv[0]}", f"last seen: {ready.error_text}"
            )

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        self.signals.append(int(sig))
        return self._end()

    def wait(self, *, timeout_s: float) -> Completed:
        return self._end()

    def _end(self) -> Completed:
        self.is_over = True
        return self.answer.completed(self.argv)


class ScriptedTarget:
    """A pod or node that answers from a script, and remembers what it was asked (`calls`, `started`)."""

    def __init__(self, name: str, answers: Sequence[Answer] = (), *, kind: TargetKind = TargetKind.POD) -> None:
        self.name = name
        self.kind = kind
        self.calls: list[Call] = []
        self.started: list[ScriptedRunning] = []
        self._answers = list(answers)

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        return ("in", self.name, *argv)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        argv = tuple(argv)
        self.calls.append(Call(argv=argv, started=False, cpu=cpu, timeout_s=timeout_s, stdin=stdin))
        return self._answer(argv).completed(argv)

    @contextmanager
    def start(self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None) -> Iterator[Running]:
        argv = tuple(argv)
        self.calls.append(Call(argv=argv, started=True, cpu=cpu))
        running = ScriptedRunning(argv, self._answer(argv))
        if output is not None:
            os.write(output, running.answer.completed(argv).stdout)
        self.started.append(running)
        try:
            yield running
        finally:
            running.is_over = True

    def _answer(self, argv: tuple[str, ...]) -> Answer:
        for position, answer in enumerate(self._answers):
            if argv[: len(answer.argv)] != answer.argv or answer.times == 0:
                continue
            if answer.times is not None:
                self._answers[position] = replace(answer, times=answer.times - 1)
            if answer.fails is not None:
                raise answer.fails
            return answer
        raise Unscripted(f"{self.name} was asked for {shlex.join(argv)}, for which the script has no answer")


NO_STATE = DatapathState(nodes=(), counts_runs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedWatch:
    """What the witnesses of a script saw."""

    moved: tuple[Movement, ...] = ()
    shown: tuple[Evidence, ...] = ()
    missed: tuple[str, ...] = ()
    untold: tuple[Unshown, ...] = ()
    early: Movement | None = None
    """What takes every frame before the tap of the device that it names."""

    def movements(self) -> tuple[Movement, ...]:
        return self.moved

    def evidence(self) -> tuple[Evidence, ...]:
        return self.shown

    def gaps(self) -> tuple[str, ...]:
        return self.missed

    def unshown(self) -> tuple[Unshown, ...]:
        return self.untold

    def act_before_tap(self, part: str, device: str, packet: PacketKey, frame: bytes) -> Movement | None:
        early = self.early
        return early if early is not None and (early.node, early.device) == (part, device) else None


NOTHING_WATCHED = ScriptedWatch()


class ScriptedLab:
    """An open lab made of scripted targets. `testimony` sends the traffic and gives the evidence it was made with."""

    def __init__(
        self,
        lab: Lab,
        targets: Sequence[ScriptedTarget],
        *,
        taps: Sequence[Tap] = (),
        devices: Sequence[OpenDevice] = (),
        evidence: Sequence[Evidence] = (),
        state: DatapathState = NO_STATE,
        watch: ScriptedWatch = NOTHING_WATCHED,
        has_daemon_set: bool | None = None,
    ) -> None:
        self.lab = lab
        self._targets = {target.name: target for target in targets}
        self._taps = tuple(taps)
        self._devices = tuple(devices)
        self._evidence = tuple(evidence)
        self._state = state
        self._watch = watch
        self.statuses: tuple[NodeStatus, ...] = ()
        self._has_daemon_set = has_daemon_set

    def target(self, name: str) -> Target:
        if name not in self._targets:
            raise UsageError(f"there is no pod or node named {name}", remedy=f"one of: {', '.join(self._targets)}")
        return self._targets[name]

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._targets.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        return self._taps

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        return self._devices

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return ()

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        send()
        return self._evidence

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        return tuple(one for one in self.statuses if one.node in nodes)

    def services(self) -> tuple[NodeServices, ...]:
        return ()

    def has_daemon_set(self, name: str) -> bool | None:
        return self._has_daemon_set

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        return ()

    def datapath_state(self) -> DatapathState:
        return self._state

    @contextmanager
    def watching(self, pair: Pair) -> Iterator[Watch]:
        yield self._watch


@dataclass(slots=True, kw_only=True)
class ScriptedCheck:
    """Stands for a check and runs nothing: every run passes. For others override `run`, with `result` to build them."""

    kind: str
    tools: tuple[str, ...] = ()
    measures: tuple[Metric, ...] = ()

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return self.measures

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        return None

    def run(self, context: CheckContext) -> CheckResult:
        return self.result(context)

    def result(
        self, context: CheckContext, verdict: Verdict = Verdict.PASS, reason: str = "scripted", **more: Any
    ) -> CheckResult:
        """A result of this run; `more` are further fields of `CheckResult`."""
        pair = context.pair
        return CheckResult(
            check=context.spec.name, kind=self.kind, client=pair.client, server=pair.server, placement=pair.placement,
            verdict=verdict, reason=reason, **more,
        )  # fmt: skip


class MemoryRaw:
    """A raw sink that keeps everything in memory, in the order of saving."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def save(self, name: str, data: bytes) -> str:
        if name in self.files:
            raise AssertionError(f"{name} was saved twice")
        self.files[name] = data
        return f"raw/{name}"


class FakeClock:
    """Seconds since it was made. `sleep` moves it on at once and remembers for how long it was asked to."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self.slept_s: list[float] = []

    def monotonic_s(self) -> float:
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        if duration_s < 0:
            raise ValueError("time does not go back")
        self._now_s += duration_s
