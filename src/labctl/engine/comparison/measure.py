"""The acts of measuring: labs built, proven and warm for a block, its runs side by side, their records in the journal.

In which order the acts come is `compare.measure_blocks`'s, and what the records mean is `labctl.compare.assemble`'s.
Every record is in the journal before the next run begins, so that a run cut short loses at most the check that was
running. A run is a generator that yields where it may pause and comes to its record, so that neighbours in a block can
share the time. After each block two questions are asked: how busy the machine was with other things (differences of the
kernel's own counters), and, at the looks that were declared beforehand and at no others, whether the intervals are
narrow enough.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from labctl.checks.base import Abreast, Check, InSlices, RawSink, to_the_end
from labctl.compare.order import PlannedRun, Schedule, WorkItem
from labctl.compare.verdict import half_width
from labctl.engine.build import being_built, build, build_together, find, remove
from labctl.engine.check_run import Journal
from labctl.engine.comparison.request import Asked
from labctl.engine.comparison.sides import LabSide, LeftLab, left_text, switch
from labctl.engine.comparison.stored import (
    LEFT,
    MODE,
    NOISE,
    PREPARED,
    RUN,
    SIGNATURE,
    STOPPED,
    MeasuredBlocks,
    comparisons,
    mode_entry,
    noise_entry,
    run_entry,
    signature_entry,
)
from labctl.engine.events import Event, Note, Observer, Phase
from labctl.engine.prove import Proven, prove, refuse_unless_proven
from labctl.engine.run_checks import AGAIN, Beside, run_abreast, run_check_in_slices, second_attempt
from labctl.errors import LabError, NotInForce, UsageError
from labctl.model.comparison import Environment, Noise, RunRecord, SideSignature
from labctl.model.lab import CheckSpec, Pair
from labctl.model.parameters import TimedParameters
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import OpenLab, RunningLab, Together
from labctl.store.environment import Pressure, own_cpu_s, read_pressure, ticks_per_s
from labctl.system.clock import monotonic_s, utc_now
from labctl.system.signals import uninterrupted

T = TypeVar("T")
Run = Generator[None, None, RunRecord]


def timed(slices: Generator[None, None, T]) -> Generator[None, None, tuple[T, float]]:
    """What the slices come to, and how many seconds they took, without the pauses between them."""
    took_s = 0.0
    while True:
        begun = time.monotonic()
        try:
            next(slices)
        except StopIteration as ended:
            return ended.value, took_s + time.monotonic() - begun
        took_s += time.monotonic() - begun
        yield


def alternating(runs: Sequence[Run]) -> Iterator[RunRecord]:
    """A slice of each in turn, forth and back (a b b a a b …), so that what drifts over a few slices hits all alike.

    Gives the records in the order of `runs` once all have ended. With one run, or runs of one slice, it is one by one.
    """
    records: dict[int, RunRecord] = {}
    turn = list(range(len(runs)))
    while turn:
        going_on = []
        for number in turn:
            try:
                next(runs[number])
                going_on.append(number)
            except StopIteration as ended:
                records[number] = ended.value
        turn = going_on[::-1]
    return (records[number] for number in range(len(runs)))


def overlapping(runs: Sequence[Run], apart_s: float) -> Iterator[RunRecord]:
    """Starts each `apart_s` seconds after the one before, also while that is still at work.

    Gives the records in the order of `runs`. Raises what a run raised, after those that were begun have ended.
    """
    with ThreadPoolExecutor(max_workers=len(runs), thread_name_prefix="labctl-run") as pool:
        begun = []
        try:
            for number, run in enumerate(runs):
                if number:
                    time.sleep(apart_s)
                begun.append(pool.submit(to_the_end, run))
            for running in begun:
                yield running.result()
        except BaseException:
            for running in begun:
                running.cancel()
            raise


ReadNoise = Callable[[int], Noise]
"""What happened since it was last called (at first: since it was made), for the block of that number."""


def noise_meter(*, knows_own: bool) -> ReadNoise:
    """`knows_own`: the tools that measure are children of this process, so that their CPU time can be told from the
    neighbours'."""

    def now() -> Pressure:
        return read_pressure(monotonic_s(), own_s=own_cpu_s() if knows_own else None)

    last = now()

    def since_last(block: int) -> Noise:
        nonlocal last
        before, last = last, now()
        return Noise(
            block=block,
            cpu_pressure_share=last.cpu_pressure_share(before),
            steal_share=last.steal_share(before),
            neighbours_share=last.neighbours_share(before, ticks_per_s()),
            frequency_hz=last.frequency_hz,
        )

    return since_last


def narrow_enough(asked: Asked, environment: Environment) -> IsEnough:
    """Whether every primary interval of every comparison is within ± `asked.until` at this block."""
    if asked.until is None:
        return never
    until = asked.until
    at = {look.rounds for look in asked.looks}

    def is_enough(block: int, measured: MeasuredBlocks) -> bool:
        if block not in at:
            return False
        widths = [half_width(each.rows) for each in comparisons(asked, measured, environment)]
        return all(width is not None and width <= until for width in widths)

    return is_enough


IsEnough = Callable[[int, MeasuredBlocks], bool]
"""Asked after each whole block, with its number: whether to stop there."""


def never(block: int, measured: MeasuredBlocks) -> bool:
    """Continues to the last block."""
    return False


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
        measured: MeasuredBlocks | None = None,
    ) -> None:
        """`measured` is filled; it already has complete blocks where a run is resumed."""
        self._sides = {side.key: side for side in sides}
        self._specs = {spec.name: spec for spec in specs}
        self._checks = checks
        self._journal = journal
        self.observer = observer
        self._keep = keep
        self._built: list[LabSide] = []
        self._turn: LabSide | None = None
        self._switching: LabSide | None = None
        """The side that the one lab is being switched to, until it is that."""
        self._unremoved: list[LabSide] = []
        self.left: list[LeftLab] = []
        """The labs that are still up at the end, and in which mode."""
        self._missing: dict[tuple[str, WorkItem], str] = {}
        self._starved: dict[tuple[str, int], CheckResult] = {}
        self._open: dict[str, OpenLab] = {}
        self._stack = ExitStack()
        self._phases: dict[str, list[dict[str, object]]] = {}
        """Of the last build, by side."""
        self.measured = MeasuredBlocks() if measured is None else measured

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *ended: object) -> None:
        with uninterrupted():  # a second Ctrl-C between two labs must not leave the other one behind
            self._stack.close()
            is_kept = self._keep and ended[0] is None
            if not is_kept:
                self._remove_all()
            self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        """Which labs are still up, and in which mode each is, for the person, for the journal and for the result: one
        that the sides took turns on is in the mode of whichever was the last."""
        still_up = {side.lab.name for side in (*self._built, *self._unremoved)}
        for name in dict.fromkeys(side.lab.name for side in self._sides.values() if side.lab.name in still_up):
            side = self._in_mode_of(name)
            left = LeftLab(
                lab=name,
                provider=side.provider.name,
                side=side.key,
                scenario=side.lab.scenario,
                mode=side.lab.datapath.asked(),
                is_kept=not any(one.lab.name == name for one in self._unremoved),
                switching_to=self._switching.lab.scenario if self._switching is not None else "",
            )
            self.left.append(left)
            self.observer(Note(text=left_text(left)))
        if self.left:
            with contextlib.suppress(LabError):  # a full disk: it has been told
                self._journal.record(LEFT, {"labs": [one.record() for one in self.left]})

    def _in_mode_of(self, name: str) -> LabSide:
        if self._turn is not None and self._turn.lab.name == name:
            return self._turn
        return next(side for side in self._sides.values() if side.lab.name == name)

    def prepare(self, number: int, block: Sequence[PlannedRun], schedule: Schedule) -> bool:
        """What that block needs: all labs rebuilt where the schedule says so, or the one lab in the datapath of its
        first run. True when there was no lab before, or all are new."""
        if schedule.takes_turns:
            is_first = self._turn is None
            self._take_turn(block[0].side, block)
            return is_first
        if self._open and schedule.build_before(number) is None:
            return False
        self._prepare_all(schedule.last_build(number).sides, block)
        return True

    def run_block(self, block: Sequence[PlannedRun]) -> None:
        """Its runs in their order, neighbours of one check together; the one lab is switched where it is another
        side's turn."""
        for bunch in self._bunches(block):
            if self._turn is not None:
                self._take_turn(bunch[0].side, block)
            self._run_bunch(bunch)

    def end_block(self, noise: Noise) -> None:
        """From here on the block is whole, also when the power goes."""
        self._journal.record(NOISE, noise_entry(noise))
        self._journal.sync()
        self.measured.noise.append(noise)

    def stop_after(self, number: int) -> None:
        """The block was the last, since the intervals are narrow enough."""
        self.measured.stopped_after = number
        self._journal.record(STOPPED, {"after": number})

    def remove_remains(self) -> None:
        """What the process before left behind when it was killed: labs of this run's own names, found by their mark.

        Raises UsageError for another lab of such a name, and for one that a labctl is just building: a run on disk may
        say anything.
        """
        for side in self._sides.values():
            found = find([side.provider], side.lab.name)
            if found is not None:
                self._refuse_another(found.running)
                self.observer(Note(text=f"removing lab {side.lab.name}, which was left behind"))
                remove(side.provider, side.lab.name, self.observer)

    def _refuse_another(self, running: RunningLab) -> None:
        if running.is_being_built:
            raise being_built(running.name)
        ours = [side.lab.digest for side in self._sides.values() if side.lab.name == running.name]
        # What is half there may have nothing left but the beginning of its digest, or not even that.
        if not any(digest.startswith(running.digest) for digest in ours):
            raise UsageError(
                what=f"a lab named {running.name} is up and it is not this run's",
                cause=f"it was made from scenario {running.scenario or 'unknown'}, with other content",
                remedy=f"labctl down {running.name}  # if it is yours, then the same command again",
            )

    def _prepare_all(self, order: Sequence[str], block: Sequence[PlannedRun]) -> None:
        """All labs rebuilt, each proven and warm; the journal has how long each took, and each step of each lab."""
        durations_s = {}
        how: list[Together] = []
        acts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("built", lambda: how.append(self._rebuild(order))),
            ("proven", self._prove_all),
            ("warmedUp", lambda: self._warm_up(block)),
        )
        for name, act in acts:
            begun_s = time.monotonic()
            act()
            durations_s[name] = time.monotonic() - begun_s
        self._journal.record(
            PREPARED,
            {
                "order": list(order),
                "durationsS": durations_s,
                "atOnce": how[0].at_once,
                "because": how[0].because,
                "phases": self._phases,
            },
        )

    def _rebuild(self, order: Sequence[str]) -> Together:
        """One after the other in that order; at the same time where their provider can, and there is room."""
        self.prove_still()
        self._stack.close()
        self._open.clear()
        self._remove_all()
        sides = [self._sides[key] for key in order]
        how = _together(sides)
        if len({side.provider.name for side in sides}) == 1 and sides[0].provider.capabilities.switching is not None:
            at_once = f"the {len(sides)} labs are built at the same time: {how.because}"
            in_turn = f"the {len(sides)} labs are built one after the other: {how.because}"
            self.observer(Note(text=at_once if how.at_once else in_turn))
        if how.at_once:
            self._built += sides
            built = build_together([(side.provider, side.lab) for side in sides], self.observer)
            self._phases = {side.key: _recorded(built[side.lab.name]) for side in sides}
            return how
        self._phases = {}
        for side in sides:
            self._built.append(side)
            self._phases[side.key] = _recorded(build(side.provider, side.lab, self.observer))
        return how

    def _prove_all(self) -> None:
        self._refusing_together(self._open_proven, sorted(self._sides))

    def prove_still(self) -> None:
        """What was in force when measuring began must be so when it ends: else the figures are of two modes."""
        self._refusing_together(self._proven_open, sorted(self._open))

    def _refusing_together(self, look: Callable[[LabSide], None], keys: Sequence[str]) -> None:
        """A lab that is not in force stops the comparison only after every side was looked at, so that the message
        names them all."""
        refusals: list[NotInForce] = []
        for key in keys:
            try:
                look(self._sides[key])
            except NotInForce as refusal:
                refusals.append(refusal)
        if refusals:
            raise NotInForce(
                what="; ".join(r.what for r in refusals),
                cause="; ".join(r.cause for r in refusals),
                remedy=refusals[0].remedy,
            )

    def _open_proven(self, side: LabSide) -> None:
        """Raises NotInForce."""
        self._open[side.key] = self._stack.enter_context(side.provider.open(side.lab))
        self._proven_open(side)

    def _proven_open(self, side: LabSide) -> None:
        """Raises NotInForce."""
        proven = prove(self._checks, self._open[side.key], self._journal.sink, self.observer)
        self._keep_proof(side.key, proven)
        refuse_unless_proven(proven.mode, side.title, again=side.look_again)

    def _take_turn(self, key: str, block: Sequence[PlannedRun]) -> None:
        """The one lab in the datapath of that side, proven and warmed up; nothing when it is that already."""
        side = self._sides[key]
        if self._turn is not None and self._turn.key == key:
            return
        self.prove_still()
        self._stack.close()
        self._open.clear()
        if self._turn is None:
            self._built.append(side)
            self._phases = {key: _recorded(build(side.provider, side.lab, self.observer))}
            self._journal.record(PREPARED, {"order": [key], "phases": self._phases})
        else:
            self._switching = side
            switch(side.provider, self._turn.lab, side.lab, self.observer)
        self._turn, self._switching = side, None
        self._open_proven(side)
        self._warm_up([planned for planned in block if planned.side == key])

    def _keep_proof(self, key: str, proven: Proven) -> None:
        is_first = key not in self.measured.modes
        for result in proven.results:
            # The first build's proof is the one reported; every later one has to succeed too.
            if is_first and result.signature is not None:
                seen = SideSignature(
                    side=key,
                    client=result.client,
                    server=result.server,
                    signature=result.signature,
                    is_expected=None if self._open[key].lab.cni else result.verdict is Verdict.PASS,
                    mismatch="" if result.verdict is Verdict.PASS else result.reason,
                )
                self.measured.signatures.append(seen)
                self._journal.record(SIGNATURE, signature_entry(seen))
        self.measured.keep_mode(key, proven.mode)
        self._journal.record(MODE, mode_entry(key, proven.mode))

    def _warm_up(self, block: Sequence[PlannedRun]) -> None:
        """The runs of a block whose checks count packets, once and discarded: they fill caches and neighbour tables.

        The timed ones are left out: iperf3 and sockperf cannot run for less than a second, and sockperf discards its
        own first 400 ms.
        """
        cold = [run for run in block if not isinstance(self._specs[run.item.check].parameters, TimedParameters)]
        if not cold:
            return
        # All at once: their results are discarded.
        with ThreadPoolExecutor(max_workers=len(cold), thread_name_prefix="labctl-warm-up") as pool:
            begun = [
                pool.submit(to_the_end, self._check(run, "warm-up", observer=_only_notes(self.observer)))
                for run in cold
            ]
        for running in begun:
            running.result()

    def _bunches(self, block: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, ...]]:
        """The runs of a block, neighbours of one check together; of one side only where there is one lab."""
        by_turn = len(self._open) == 1
        for _, runs in itertools.groupby(
            block, key=lambda planned: (planned.item.check, planned.side if by_turn else "")
        ):
            yield tuple(runs)

    def _run_bunch(self, bunch: tuple[PlannedRun, ...]) -> None:
        """Runs neighbours and records them in their order. Those whose tools did not start measuring are run once
        more."""
        spec = self._specs[bunch[0].item.check]
        check = self._checks[spec.kind]
        if isinstance(check, Abreast):
            self._run_abreast(check, spec, bunch)
            return
        apart_s = check.next_start_s(spec.parameters)
        runs = [self._run_one(planned) for planned in bunch]
        if apart_s is not None:
            records = overlapping(runs, apart_s)
        elif isinstance(check, InSlices):
            records = alternating(runs)
        else:
            records = map(to_the_end, runs)
        again = []
        for planned, record in zip(bunch, records, strict=True):
            first = self._starved.pop((planned.side, planned.position), None)
            if first is None:
                self._add(record)
            else:
                again.append((planned, first))
        # When its neighbours have ended: a second attempt must not disturb what they measure.
        for planned, first in again:
            self._add(to_the_end(self._run_one(planned, first=first)))

    def _run_abreast(self, check: Abreast, spec: CheckSpec, bunch: Sequence[PlannedRun]) -> None:
        """Runs that the check alternates between itself. Each is said to have taken its part of the time."""
        started_at, begun_s = utc_now(), time.monotonic()
        fit = [planned for planned in bunch if _asked(planned) not in self._missing]
        runs = [
            Beside(
                open_lab=self._open[planned.side], pair=_pair(planned), raw=self._sink(planned, _block_name(planned))
            )
            for planned in fit
        ]
        # The order of a block follows from the schedule's seed, and so does what the check draws from it.
        seed = f"{_block_name(bunch[0])}: {'; '.join(map(str, bunch))}"
        results = dict(zip(fit, run_abreast(check, runs, spec, seed, self.observer), strict=True)) if fit else {}
        duration_s = (time.monotonic() - begun_s) / max(1, len(fit))
        for planned in bunch:
            found = results.get(planned)
            result = self._skipped(planned, self._missing[_asked(planned)]) if found is None else found
            self._add(self._recorded(planned, started_at, result, duration_s if found else 0.0))

    def _run_one(self, planned: PlannedRun, *, first: CheckResult | None = None) -> Run:
        """`first`: this is the second attempt of a run whose tool did not start measuring, and there is no third."""
        started_at = utc_now()
        missing = self._missing.get(_asked(planned))
        name = _block_name(planned)
        result, duration_s = (
            (yield from timed(self._check(planned, name, observer=self.observer, again=first is not None)))
            if missing is None
            else (self._skipped(planned, missing), 0.0)
        )
        if first is not None:
            result = second_attempt(first, result)
        elif result.is_starved:
            self._starved[planned.side, planned.position] = result
        return self._recorded(planned, started_at, result, duration_s)

    def _recorded(self, planned: PlannedRun, started_at: str, result: CheckResult, duration_s: float) -> RunRecord:
        if result.verdict is Verdict.SKIP:
            # What this pair lacks now it will lack in every block; another pair of the same check may not.
            self._missing[_asked(planned)] = result.reason
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
            duration_s=duration_s,
            samples=result.samples,
            raw=result.raw,
            retried=result.retried,
            parts=result.parts,
            unparted=result.unparted,
            stood_in=result.stood_in,
        )

    def _skipped(self, planned: PlannedRun, reason: str) -> CheckResult:
        item = planned.item
        return CheckResult(
            check=item.check,
            kind=self._specs[item.check].kind,
            client=item.client,
            server=item.server,
            placement=item.placement,
            verdict=Verdict.SKIP,
            reason=reason,
        )

    def _add(self, record: RunRecord) -> None:
        self.measured.records.append(record)
        self._journal.record(RUN, run_entry(record))

    def _check(
        self, planned: PlannedRun, prefix: str, *, observer: Observer, again: bool = False
    ) -> Generator[None, None, CheckResult]:
        spec = self._specs[planned.item.check]
        check, lab = self._checks[spec.kind], self._open[planned.side]
        return run_check_in_slices(check, lab, _pair(planned), spec, self._sink(planned, prefix, again=again), observer)

    def _sink(self, planned: PlannedRun, prefix: str, *, again: bool = False) -> RawSink:
        item = planned.item
        name = f"{prefix}-{planned.side}-{item.check}-{item.client}-{item.server}"
        return self._journal.sink(name + (AGAIN if again else ""))

    def _remove_all(self) -> None:
        while self._built:
            side = self._built.pop()
            try:
                remove(side.provider, side.lab.name, self.observer)
            except LabError as failed:
                self._unremoved.append(side)
                self.observer(Note(text=f"lab {side.lab.name} could not be removed: {failed.what}"))


def _asked(planned: PlannedRun) -> tuple[str, WorkItem]:
    return planned.side, planned.item


def _pair(planned: PlannedRun) -> Pair:
    return Pair.between(planned.item.client, planned.item.server, planned.item.placement)


def _block_name(planned: PlannedRun) -> str:
    return f"block{planned.block:03}"


def _together(sides: Sequence[LabSide]) -> Together:
    """Whether these labs are built at the same time: their provider says. Raises UsageError as it does."""
    first, *others = sides
    if not others or any(side.provider.name != first.provider.name for side in others):
        return Together(at_once=False, because="they have different providers" if others else "there is one")
    return first.provider.capabilities.together([side.lab for side in sides])


def _recorded(phases: Sequence[Phase]) -> list[dict[str, object]]:
    return [phase.record() for phase in phases]


def _only_notes(observer: Observer) -> Observer:
    def observe(event: Event) -> None:
        if isinstance(event, Note):
            observer(event)

    return observe
