"""What a measurement saw, as values and as entries of the run's journal; the two are one to one.

Kinds of entries: `mode`, `signature` and `prepared` (after each build), `run`, `noise` (the end of a block), `resumed`,
`stopped`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from labctl.model.comparison import Noise, RunRecord, SideSignature
from labctl.model.proof import ModeInForce
from labctl.store.decoding import typed
from labctl.store.encoding import plain
from labctl.store.journal import Entry

MODE = "mode"
SIGNATURE = "signature"
PREPARED = "prepared"
RUN = "run"
NOISE = "noise"
RESUMED = "resumed"
STOPPED = "stopped"


@dataclass(slots=True, kw_only=True)
class Measured:
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
        """A block that was cut short is measured anew as a whole: its pairs must be neighbours in time. A lab that was
        not in force is built and proven anew; nothing was measured on it."""
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


def measured_from(entries: Iterable[Entry], where: str) -> Measured:
    """What the journal tells. Raises LabError for an entry that `*_entry` would not have written."""
    measured = Measured()
    for entry in entries:
        _take(measured, entry.kind, entry.content, f"{where}: entry of {entry.at}")
    return measured


def _take(measured: Measured, kind: str, content: Mapping[str, object], where: str) -> None:
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
