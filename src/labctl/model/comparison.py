"""What a comparison is made of: the runs of its blocks, and the rows that they come to. Pure data.

A `RunRecord` is what happened; a `MetricRow` is what it means. `compare.assemble` makes the second from the first.
Base units throughout; changes are relative, B against A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Annotated

from labctl.codec import NULL, OMITTED, Key
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Placement
from labctl.model.result import Metric, Sample, Verdict, WayPart
from labctl.model.signature import Signature
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of one check on one pair of one side. `block` and `position` (in the block) count from 1.

    `side` is the side's key (`a`, `b`, …). `started_at` is UTC in ISO 8601; `raw` names files relative to the run.
    `retried` is why a first attempt measured nothing, of which this is the second; its files come first in `raw`.
    `parts` is where the time of a round trip went (`WayPart`), `unparted` why that is not known. `stood_in`: why other
    tools measured this than those that the check is about.
    """

    block: int
    position: int
    side: str
    check: str
    kind: str
    client: str
    server: str
    placement: Placement
    verdict: Verdict
    reason: str
    started_at: str
    duration_s: float = 0.0
    samples: tuple[Sample, ...] = ()
    raw: tuple[str, ...] = ()
    retried: Annotated[str, NULL] = ""
    parts: Annotated[tuple[Sample, ...], OMITTED] = ()
    unparted: Annotated[str, OMITTED] = ""
    stood_in: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckMetrics:
    """The metrics that one check of the scenario declared before anything ran."""

    check: str
    kind: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison. `datapath` is what was asked for, in the scenario's words.

    `statements` are whole sentences that a reader must know before the figures: what this side's datapath carries
    (iptables rules per node, conntrack), and that a netns lab is labctl's own datapath and not Cilium. `against` is the
    key of the side that it is compared with; empty for the first.
    """

    scenario: str
    key: str
    lab: str
    provider: str
    digest: str
    datapath: Mapping[str, object]
    source: str = ""
    statements: tuple[str, ...] = ()
    against: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where it was measured: enough for a third party to say whether their machine is alike."""

    kernel: str
    cpu_model: str
    cpus: int
    memory_byte: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    pinning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How busy the machine was with other things while one block ran. Shares of time; None: the kernel reports none.

    `cpu_pressure_share` is PSI `some` for CPU, which our own processes cause too; `neighbours_share` is the CPU time
    that other processes of this machine used; `steal_share` is time that the hypervisor gave to other machines.
    `frequency_hz` is the mean of the CPUs' frequencies at the block's end.
    """

    block: int
    cpu_pressure_share: Annotated[float | None, Key("cpuPressure")] = None
    steal_share: Annotated[float | None, Key("steal")] = None
    neighbours_share: Annotated[float | None, Key("neighbours")] = None
    frequency_hz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSignature:
    """What the taps of one pair saw on one side. `is_expected` is None when there is nothing to compare it with."""

    side: str
    client: str
    server: str
    is_expected: Annotated[bool | None, Key("asExpected")] = None
    mismatch: str = ""
    signature: Signature


class ChangeVerdict(StrEnum):
    """What a primary row comes to. The words are those of the command line's contract."""

    FASTER = "faster"
    SLOWER = "slower"
    CHEAPER = "cheaper"
    DEARER = "dearer"
    NEGLIGIBLE = "negligible"
    SAME = "same"
    UNDETECTED = "undetected"
    REFUSED = "refused"

    @property
    def is_difference(self) -> bool:
        return self in (ChangeVerdict.FASTER, ChangeVerdict.SLOWER, ChangeVerdict.CHEAPER, ChangeVerdict.DEARER)


class RefusalKind(StrEnum):
    """Why a row gets no verdict. The figures are still shown where there are any."""

    NOT_PROVEN = "not-proven"
    RUN_FAILED = "run-failed"
    NO_SAMPLES = "no-samples"
    NOT_A_NUMBER = "not-a-number"
    NO_RATIO = "no-ratio"
    TOO_FEW_PAIRS = "too-few-pairs"


class CautionKind(StrEnum):
    """What a reader should hold against the figures."""

    CPU_PRESSURE = "cpu-pressure"
    NEIGHBOURS = "neighbours"
    STEAL = "steal"
    FREQUENCY = "frequency"
    AUTOCORRELATED = "autocorrelated"
    CUT_SHORT = "cut-short"
    TOO_FEW_ROUNDS = "too-few-rounds"
    UNEXPECTED_SIGNATURE = "unexpected-signature"
    RETRIED = "retried"
    FELL_BACK = "fell-back"
    UNPAIRED = "unpaired"
    DIFFERENT_ENVIRONMENT = "different-environment"
    DIFFERENT_LAB = "different-lab"
    TOOL_DISAGREES = "tool-disagrees"
    STOOD_IN = "stood-in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reason by its kind and the facts that its sentence names; `report.words` has the sentences."""

    kind: RefusalKind
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A warning by its kind and the facts that its sentence names; `report.words` has the sentences."""

    kind: CautionKind
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSamples:
    """One side's numbers of a row in the order of the blocks that they come from (`blocks`, counted from 1)."""

    samples: tuple[float, ...]
    median: float | None
    blocks: tuple[int, ...]


class Correction(StrEnum):
    """How p-values answer for there being several rows."""

    HOLM = "holm"
    EXCHANGE = "exchange"
    """Over all exchanges of the sides in blocks, in all rows at once: where there are few blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """B against A, relative (-0.21: B's value is 21 % lower).

    `confidence` is the interval's level; `detectable` the smallest change that this run finds with 80 % power, None
    when it is not known. `p_adjusted` is the p-value corrected over the primary rows in the way of `correction`, None
    for secondary ones.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    detectable: float | None
    p_value: float
    p_adjusted: float | None = None
    correction: Correction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterimLook:
    """A point at which a comparison that goes on may stop, after `rounds` blocks; `level` is its part of the 5 %."""

    rounds: int
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Until when a comparison went on. `until` is half the width that intervals should have (relative), `after` the
    blocks that it took, `half_width` what was reached."""

    until: float
    looks: tuple[InterimLook, ...]
    after: int
    half_width: float | None

    @property
    def is_reached(self) -> bool:
        return self.half_width is not None and self.half_width <= self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How far each side is from the physical limit, which was measured in the same blocks (`--reference`).

    `client` and `server` are the nodes that it was measured between; the changes are the side against the limit.
    """

    client: str
    server: str
    a: Change | None
    b: Change | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric of one check on one pair. Secondary metrics have no verdict.

    `differences` are the paired log-ratios ln(B/A), one for each of `blocks`; empty when the row is unpaired.
    `margin` is the equivalence margin, as a relative difference; None where no verdict is due.
    """

    check: str
    kind: str
    client: str
    server: str
    placement: Placement
    metric: Metric
    a: SideSamples
    b: SideSamples
    blocks: tuple[int, ...]
    differences: tuple[float, ...]
    change: Change | None
    margin: float | None
    verdict: ChangeVerdict | None
    refusal: Refusal | None = None
    autocorrelation: float | None = None
    limit: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """B less A, in the unit of what it is a difference of; the interval is that of the blocks' differences."""

    estimate: float
    low: float
    high: float
    confidence: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedPart:
    """One part of a packet's way: what it takes on each side (the median over the blocks), and the difference."""

    part: WayPart
    a: float
    b: float
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where the difference of one row comes from: what the parts of the way differ by. `explained` is what they come to
    together, `rest` what is left of the row's own `difference`. Without parts `reason` says why there are none."""

    check: str
    placement: Placement
    client: str
    server: str
    metric: str
    unit: str
    difference: Difference | None
    parts: tuple[ExplainedPart, ...]
    explained: Difference | None
    rest: Difference | None
    reason: Annotated[str, NULL] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sides, interleaved, and what came of it. `order` is the plan of the runs as text, made from `seed`.

    `origins` names for each side the run on disk whose raw files its samples come from.
    """

    a: Side
    b: Side
    environment: Environment
    order: str
    seed: int
    rounds: int
    modes: tuple[tuple[str, ModeInForce], ...]
    rows: Annotated[tuple[MetricRow, ...], Key("metrics")]
    signatures: tuple[SideSignature, ...]
    cautions: tuple[Caution, ...]
    runs: tuple[RunRecord, ...]
    noise: tuple[Noise, ...] = ()
    is_paired: Annotated[bool, Key("paired")] = True
    stopping: Stopping | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    explanations: tuple[Explanation, ...] = ()

    def mode(self, side: str) -> ModeInForce | None:
        """The mode in force of side `a` or `b`."""
        return dict(self.modes).get(side)
