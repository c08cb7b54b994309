"""Measures the sides of a comparison: builds all labs, proves each, then runs the blocks of a schedule, interleaved.

Yields records; what they mean is `compare.assemble`'s to say. Every record is in the journal before the next run
begins, so that a run cut short loses at most the check that was running.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from labctl.checks.base import Check
from labctl.compare.order import PlannedRun, Schedule
from labctl.engine.build import build, remove
from labctl.engine.check_run import Journal
from labctl.engine.events import BlockStarted, Event, Note, Observer
from labctl.engine.inspect import run_check
from labctl.engine.prove import Proven, prove, refuse_unless_proven
from labctl.engine.sides import LabSide
from labctl.errors import LabError, NotInForce
from labctl.model.comparison import Noise, RunRecord, SideSignature
from labctl.model.lab import CheckSpec, Pair
from labctl.model.parameters import TimedParameters
from labctl.model.proof import ModeInForce
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import OpenLab
from labctl.system.clock import utc_now

ReadNoise = Callable[[int], Noise]
"""How busy the machine was with other things since the last call, for the block of that number."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """Everything that was seen, in the order in which it was seen; filled while the measurement goes on."""

    records: list[RunRecord] = field(default_factory=list)
    modes: dict[str, ModeInForce] = field(default_factory=dict)
    signatures: list[SideSignature] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)


class Measurement:
    """One comparison while it is carried out. Leaving its context removes every lab that it built, unless `keep`."""

    def __init__(
        self,
        sides: Sequence[LabSide],
        specs: Sequence[CheckSpec],
        checks: Mapping[str, Check],
        journal: Journal,
        observer: Observer,
        *,
        keep: bool = False,
    ) -> None:
        self._sides = {side.key: side for side in sides}
        self._specs = {spec.name: spec for spec in specs}
        self._checks = checks
        self._journal = journal
        self._observer = observer
        self._keep = keep
        self._built: list[LabSide] = []
        self._open: dict[str, OpenLab] = {}
        self._stack = ExitStack()
        self.measured = Measured()

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *ended: object) -> None:
        self._stack.close()
        if not self._keep or ended[0] is not None:
            self._remove_all()

    def run(self, schedule: Schedule, noise_since_last: ReadNoise) -> Measured:
        """Carries out the schedule. Raises NotInForce before any number is taken from a lab that is not what was
        asked for."""
        begun_s: float | None = None
        for number, block in enumerate(schedule.blocks, start=1):
            due = schedule.build_before(number)
            if due is not None:
                self._rebuild(due.sides)
                self._warm_up(block)
                noise_since_last(number)
            if begun_s is None:
                begun_s = time.monotonic()
            done = number - 1
            left_s = (time.monotonic() - begun_s) / done * (schedule.rounds - done) if done else None
            self._observer(BlockStarted(number=number, blocks=schedule.rounds, left_s=left_s))
            for bunch in self._bunches(block):
                self._run_bunch(bunch)
            noise = noise_since_last(number)
            self.measured.noise.append(noise)
            self._journal.record(
                "noise",
                {"block": number, "cpuPressureShare": noise.cpu_pressure_share, "stealShare": noise.steal_share},
            )
            self._journal.sync()
        return self.measured

    def _rebuild(self, order: Sequence[str]) -> None:
        """All labs anew, in that order, each proven. A lab that is not in force stops the comparison only after
        every side was looked at, so that the message names them all."""
        self._stack.close()
        self._open.clear()
        self._remove_all()
        for key in order:
            side = self._sides[key]
            self._built.append(side)
            build(side.provider, side.lab, self._observer)
        refusals: list[NotInForce] = []
        for key in sorted(self._sides):
            side = self._sides[key]
            open_lab = self._stack.enter_context(side.provider.open(side.lab))
            self._open[key] = open_lab
            proven = prove(self._checks, open_lab, self._journal.sink, self._observer)
            self._keep_proof(key, proven)
            try:
                refuse_unless_proven(proven.mode, side.title)
            except NotInForce as refusal:
                refusals.append(refusal)
        if refusals:
            raise NotInForce(
                what="; ".join(r.what for r in refusals),
                cause="; ".join(r.cause for r in refusals),
                remedy=refusals[0].remedy,
            )

    def _keep_proof(self, key: str, proven: Proven) -> None:
        self._journal.record("mode", {"side": key, "proven": proven.mode.proven, "reason": proven.mode.reason})
        if key in self.measured.modes:
            return  # the first build's proof is the one reported; every later one had to succeed too
        self.measured.modes[key] = proven.mode
        for result in proven.results:
            if result.signature is not None:
                self.measured.signatures.append(
                    SideSignature(
                        side=key,
                        client=result.client,
                        server=result.server,
                        signature=result.signature,
                        is_expected=result.verdict is Verdict.PASS,
                        mismatch="" if result.verdict is Verdict.PASS else result.reason,
                    )
                )

    def _warm_up(self, block: Sequence[PlannedRun]) -> None:
        """The runs of a block whose checks count packets, once and discarded: they fill caches and neighbour tables.

        The timed ones are left out: iperf3 and sockperf cannot run for less than a second, and sockperf discards its
        own first 400 ms.
        """
        for planned in block:
            parameters = self._specs[planned.item.check].parameters
            if not isinstance(parameters, TimedParameters):
                self._check(planned, "warm-up", observer=_only_notes(self._observer))

    def _bunches(self, block: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, ...]]:
        """The runs of a block one by one, except neighbours of a check whose runs may overlap."""
        for check, runs in itertools.groupby(block, key=lambda planned: planned.item.check):
            neighbours = tuple(runs)
            if self._next_start_s(check) is None:
                yield from ((planned,) for planned in neighbours)
            else:
                yield neighbours

    def _next_start_s(self, check: str) -> float | None:
        spec = self._specs[check]
        return self._checks[spec.kind].next_start_s(spec.parameters)

    def _run_bunch(self, bunch: tuple[PlannedRun, ...]) -> None:
        """Runs neighbours, each as soon as it may be started, and records them in their order."""
        apart_s = self._next_start_s(bunch[0].item.check)
        if apart_s is None:
            for planned in bunch:
                self._add(self._run_one(planned))
            return
        with ThreadPoolExecutor(max_workers=len(bunch), thread_name_prefix="labctl-run") as pool:
            begun = []
            try:
                for number, planned in enumerate(bunch):
                    if number:
                        time.sleep(apart_s)
                    begun.append(pool.submit(self._run_one, planned))
                for running in begun:
                    self._add(running.result())
            except BaseException:
                for running in begun:
                    running.cancel()
                raise

    def _run_one(self, planned: PlannedRun) -> RunRecord:
        started_at = utc_now()
        begun = time.monotonic()
        result = self._check(planned, f"block{planned.block:03}", observer=self._observer)
        return RunRecord(
            block=planned.block,
            position=planned.position,
            side=planned.side,
            check=result.check,
            kind=result.kind,
            client=result.client,
            server=result.server,
            placement=result.placement,
            verdict=result.verdict,
            reason=result.reason,
            started_at=started_at,
            duration_s=time.monotonic() - begun,
            samples=result.samples,
            raw=result.raw,
        )

    def _add(self, record: RunRecord) -> None:
        self.measured.records.append(record)
        self._journal.record("run", run_entry(record))

    def _check(self, planned: PlannedRun, prefix: str, *, observer: Observer) -> CheckResult:
        item = planned.item
        spec = self._specs[item.check]
        sink = self._journal.sink(f"{prefix}-{planned.side}-{item.check}-{item.client}-{item.server}")
        pair = Pair(client=item.client, server=item.server, placement=item.placement)
        return run_check(self._checks[spec.kind], self._open[planned.side], pair, spec, sink, observer)

    def _remove_all(self) -> None:
        while self._built:
            side = self._built.pop()
            try:
                remove(side.provider, side.lab.name, self._observer)
            except LabError as failed:
                self._observer(Note(text=f"lab {side.lab.name} could not be removed: {failed.what}"))


def run_entry(record: RunRecord) -> dict[str, object]:
    """The record as it stands in the journal."""
    return {
        "block": record.block,
        "position": record.position,
        "side": record.side,
        "check": record.check,
        "checkKind": record.kind,
        "client": record.client,
        "server": record.server,
        "placement": str(record.placement),
        "verdict": str(record.verdict),
        "reason": record.reason,
        "startedAt": record.started_at,
        "durationSeconds": record.duration_s,
        "samples": [{"metric": s.metric, "value": s.value, "unit": s.unit} for s in record.samples],
        "raw": list(record.raw),
    }


def _only_notes(observer: Observer) -> Observer:
    def observe(event: Event) -> None:
        if isinstance(event, Note):
            observer(event)

    return observe
