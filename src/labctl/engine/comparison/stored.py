"""What a run on disk says: the comparisons of its sides, out of manifest and journal alone, also against another run's.

`result.json` is not read: it is what these give, and a test holds the two equal. What a measurement saw stands here as
values and as entries of the run's journal, one to one. Kinds of entries: `mode`, `signature` and `prepared` (after each
build), `run`, `noise` (the end of a block), `resumed`, `stopped`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path

from labctl.codec import plain, typed
from labctl.compare.assemble import assemble, assemble_unpaired
from labctl.engine.check_run import CHECKED, PROVEN
from labctl.engine.comparison.request import Asked, asked_from, without_token
from labctl.engine.events import Note, Observer
from labctl.errors import LabError, UsageError
from labctl.model.comparison import Caution, CautionKind, Comparison, Environment, Noise, RunRecord, Side, SideSignature
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Lab
from labctl.model.result import CheckResult
from labctl.planning.record import lab_from_json
from labctl.planning.show import differences
from labctl.store.journal import JournalEntry, RunState
from labctl.store.reading import StoredRun, list_runs
from labctl.values import dataclass

MODE = "mode"
SIGNATURE = "signature"
PREPARED = "prepared"
LEFT = "left"
RUN = "run"
NOISE = "noise"
RESUMED = "resumed"
STOPPED = "stopped"


@dataclass(slots=True, kw_only=True)
class MeasuredBlocks:
    """Everything that was seen, in the order in which it was seen; filled while the measurement goes on.

    `modes` and `signatures` are those of the first build of each side: every later one had to be in force too.
    A block is whole when its noise is there, which is read at its end. `stopped` is why a comparison ended at a look.
    """

    records: list[RunRecord] = field(default_factory=list)
    modes: dict[str, ModeInForce] = field(default_factory=dict)
    signatures: list[SideSignature] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)
    stopped_after: int | None = None

    def whole_blocks(self) -> frozenset[int]:
        return frozenset(reading.block for reading in self.noise)

    def keep_mode(self, side: str, mode: ModeInForce) -> None:
        """The first proof stands, unless a later build of the same side was not in force."""
        if side not in self.modes or not mode.proven:
            self.modes[side] = mode

    def go_on(self) -> None:
        """A block that was cut short is measured again as a whole: its pairs must be neighbours in time. A lab that was
        not in force is built and proven again; nothing was measured on it."""
        whole = self.whole_blocks()
        self.records = [record for record in self.records if record.block in whole]
        self.modes = {side: mode for side, mode in self.modes.items() if mode.proven}
        self.signatures = [seen for seen in self.signatures if seen.side in self.modes]


def mode_entry(side: str, mode: ModeInForce) -> dict[str, object]:
    return {"side": side, "mode": plain(mode)}


def signature_entry(seen: SideSignature) -> dict[str, object]:
    return {"seen": plain(seen)}


def noise_entry(reading: Noise) -> dict[str, object]:
    return {"reading": plain(reading)}


def run_entry(record: RunRecord) -> dict[str, object]:
    return {"run": plain(record)}


def measured_from(entries: Iterable[JournalEntry], where: str) -> MeasuredBlocks:
    """What the journal says. Raises LabError for an entry that `*_entry` would not have written."""
    measured = MeasuredBlocks()
    for entry in entries:
        _take(measured, entry.kind, entry.content, f"{where}: entry of {entry.at}")
    return measured


def _take(measured: MeasuredBlocks, kind: str, content: Mapping[str, object], where: str) -> None:
    if kind == RUN:
        measured.records.append(typed(RunRecord, content.get("run"), where=where))
    elif kind == NOISE:
        measured.noise.append(typed(Noise, content.get("reading"), where=where))
    elif kind == MODE:
        mode = typed(ModeInForce, content.get("mode"), where=where)
        measured.keep_mode(typed(str, content.get("side"), where=where), mode)
    elif kind == SIGNATURE:
        measured.signatures.append(typed(SideSignature, content.get("seen"), where=where))
    elif kind == RESUMED:
        measured.go_on()
    elif kind == STOPPED:
        measured.stopped_after = typed(int, content.get("after"), where=where)


def compare_stored(
    a: StoredComparison, b: StoredComparison, side_a: str = "", side_b: str = ""
) -> tuple[Comparison, ...]:
    """Two runs as they are, unpaired: the sides that are named, or else every scenario that both have."""
    return tuple(unpaired(a, key_a, b, key_b) for key_a, key_b in chosen_sides(a, side_a, b, side_b))


def chosen_sides(a: StoredComparison, side_a: str, b: StoredComparison, side_b: str) -> tuple[tuple[str, str], ...]:
    """The keys of the sides to compare: the scenarios (or keys) that were named, or all scenarios that both have.

    Raises UsageError when there are none.
    """
    if side_a or side_b:
        return ((_side(a, side_a or side_b).key, _side(b, side_b or side_a).key),)
    theirs = {side.scenario: side.key for side in reversed(b.asked.sides)}
    mine = {side.scenario: side.key for side in reversed(a.asked.sides)}
    common = [(mine[name], theirs[name]) for name in dict.fromkeys(s.scenario for s in a.asked.sides) if name in theirs]
    if not common:
        raise UsageError(
            what="the two runs have no scenario in common",
            cause=f"run {a.run.manifest.id} has {_names(a)}; run {b.run.manifest.id} has {_names(b)}",
            remedy="name the sides to compare: labctl compare RUN_A@SCENARIO RUN_B@SCENARIO",
        )
    return tuple(common)


def require_common(baseline: StoredComparison, asked: Asked) -> None:
    """Raises UsageError when a stored run has none of the scenarios that are about to be measured, LabError when its
    labs cannot be read: both before anything is measured."""
    stored_labs(baseline.run)
    wanted = [side.scenario for side in asked.sides]
    if not {side.scenario for side in baseline.asked.sides} & set(wanted):
        raise UsageError(
            what=f"run {baseline.run.manifest.id} is no baseline for {' and '.join(wanted)}",
            cause=f"it has {_names(baseline)}",
            remedy="take a run of the same scenarios: labctl runs",
        )


def unpaired(a: StoredComparison, key_a: str, b: StoredComparison, key_b: str) -> Comparison:
    """One side of each run against the other, with what differs between the runs as warnings."""
    compared = assemble_unpaired(_holding(a, key_a), key_a, _holding(b, key_b), key_b)
    lab_a, lab_b = stored_labs(a.run)[key_a], stored_labs(b.run)[key_b]
    if lab_a.digest == lab_b.digest:
        return compared
    told = "; ".join(differences(lab_a, lab_b)) or "their digests"
    return replace(
        compared, cautions=(*compared.cautions, Caution(kind=CautionKind.DIFFERENT_LAB, facts={"what": told}))
    )


def _holding(stored: StoredComparison, key: str) -> Comparison:
    """A comparison of the run in which that side is."""
    return next(each for each in stored.comparisons() if key in (each.a.key, each.b.key))


def _side(stored: StoredComparison, wanted: str) -> Side:
    for side in stored.asked.sides:
        if wanted in (side.scenario, side.key):
            return side
    raise UsageError(
        what=f"run {stored.run.manifest.id} has no side {wanted}",
        cause=f"it has {_names(stored)}",
        remedy="name one of those: RUN@SCENARIO",
    )


def _names(stored: StoredComparison) -> str:
    return ", ".join(side.scenario for side in stored.asked.sides)


COMPARE = "compare"
MATRIX = "matrix"
CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredComparison:
    """A run of `compare` or `matrix`, read back."""

    run: StoredRun
    asked: Asked
    measured: MeasuredBlocks
    environment: Environment

    def comparisons(self) -> tuple[Comparison, ...]:
        """Each side against the first."""
        return comparisons(self.asked, self.measured, self.environment, self.run.manifest.id)


def comparisons(
    asked: Asked, measured: MeasuredBlocks, environment: Environment, origin: str = ""
) -> tuple[Comparison, ...]:
    """Each side against the first, or the one that it says, out of everything that was asked and seen; `origin` is the
    run's id."""
    done = len(measured.whole_blocks())
    plan = asked.schedule()
    if measured.stopped_after is not None:
        plan = plan.first(measured.stopped_after)
    first, *others = asked.sides
    by_key = {side.key: side for side in asked.sides}
    return tuple(
        assemble(
            a=by_key[other.against or first.key],
            b=other,
            checks=asked.checks,
            runs=measured.records,
            modes=measured.modes,
            signatures=measured.signatures,
            environment=environment,
            schedule=plan,
            parameters=asked.parameters,
            noise=measured.noise,
            confidence=asked.confidence(done),
            limits=asked.limits(),
            stopping=asked.stopping(done),
            origin=origin,
        )
        for other in others
        if other.against != other.key
    )


def read_comparison(run: StoredRun) -> StoredComparison:
    """The comparison that the run is. Raises UsageError when it is none, LabError when it was changed or damaged."""
    manifest = run.manifest
    if manifest.run_kind not in (COMPARE, MATRIX):
        raise UsageError(
            what=f"run {manifest.id} is not a comparison",
            cause=f"it is a run of labctl {manifest.run_kind}",
            remedy="labctl runs  # shows which runs are comparisons",
        )
    run.require_intact()
    where = str(run.path / "run.json")
    asked = asked_from(manifest.settings, where)
    order = manifest.settings.get("order")
    if asked.schedule().text() != order:
        raise UsageError(
            what=f"run {manifest.id} cannot be read by this labctl",
            cause="the order that follows from its seed is not the one that it was measured in",
            remedy=f"use the labctl that wrote it ({manifest.labctl_version}), or read {run.path / 'result.json'}",
        )
    return StoredComparison(
        run=run,
        asked=asked,
        measured=measured_from(run.entries(), str(run.path / "journal.jsonl")),
        environment=typed(Environment, manifest.environment, where=where),
    )


def unfinished_matrix(
    runs_dir: Path, name: str, asked: Asked, observer: Observer, *, any_seed: bool
) -> StoredComparison | None:
    """The newest run of that matrix that was cut short and was asked the same (with `any_seed`: but for the seed);
    None when there is none, or a newer one is complete. Raises UsageError while one is being measured."""
    for run in reversed(list_runs(runs_dir)):
        if not isinstance(run, StoredRun) or (run.manifest.run_kind, run.manifest.name) != (MATRIX, name):
            continue
        if run.manifest.state is RunState.RUNNING:
            raise UsageError(
                what=f"matrix {name} is being measured by another labctl",
                cause=f"it writes run {run.manifest.id}",
                remedy="wait until it has ended (labctl runs shows it), or give the file another name",
            )
        if run.manifest.state is RunState.COMPLETE:
            return None
        try:
            before = read_comparison(run)
        except LabError as damaged:
            observer(Note(text=f"run {run.manifest.id} cannot be resumed: {damaged.what}"))
            continue
        is_same_seed = any_seed or asked.seed == before.asked.seed
        if is_same_seed and without_token(before.asked) == without_token(asked):
            return before
        observer(Note(text=f"run {run.manifest.id} was cut short and has different settings; it is left as it is"))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChecks:
    """A run of `check`, read back. `mode` is None when it was cut short before there was a proof."""

    run: StoredRun
    lab: Lab
    mode: ModeInForce | None
    results: tuple[CheckResult, ...]


def read_checks(run: StoredRun) -> StoredChecks:
    """What a run of `labctl check` found. Raises LabError when it was changed or damaged."""
    run.require_intact()
    where = str(run.path / "journal.jsonl")
    mode: ModeInForce | None = None
    results = []
    for entry in run.entries():
        if entry.kind == PROVEN:
            mode = typed(ModeInForce, entry.content.get("mode"), where=where)
        elif entry.kind == CHECKED:
            results.append(typed(CheckResult, entry.content.get("result"), where=where))
    (lab,) = stored_labs(run).values()
    return StoredChecks(run=run, lab=lab, mode=mode, results=tuple(results))


def stored_labs(run: StoredRun) -> Mapping[str, Lab]:
    """The resolved labs of a run by side. Raises UsageError."""
    labs: dict[str, Lab] = {}
    for key, record in run.manifest.labs.items():
        if not isinstance(record, dict):
            raise UsageError(what=f"{run.path / 'run.json'} is damaged", cause=f"lab {key} is not an object")
        try:
            labs[key] = lab_from_json(record)
        except LabError as failed:
            raise UsageError(
                what=f"lab {key} of run {run.manifest.id} cannot be read",
                cause=failed.cause,
                remedy=f"use the labctl that wrote it ({run.manifest.labctl_version}), or measure again",
            ) from failed
    return labs
