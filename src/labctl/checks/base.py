"""What a check is: metrics declared beforehand, and one run on one pair through the provider seam."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from labctl.model.lab import CheckSpec, Lab, Pair
from labctl.model.parameters import CheckParameters
from labctl.model.result import CheckResult, Metric
from labctl.providers.base import OpenLab
from labctl.values import dataclass

T = TypeVar("T")


class RawSink(Protocol):
    """Where raw tool output goes before anything parses it."""

    def save(self, name: str, data: bytes) -> str:
        """Stores `data` under a file name that is unique in this check's run; gives the path relative to the run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckContext:
    """One run of one check: on which pair of which lab, with which parameters, pinned to which CPUs.

    The CPUs are None where nothing is pinned (a host with one CPU, or a provider that cannot).
    """

    open_lab: OpenLab
    pair: Pair
    spec: CheckSpec
    raw: RawSink
    client_cpu: int | None = None
    server_cpu: int | None = None


class Check(Protocol):
    """One kind of check. Stateless: everything about a run is in its context."""

    @property
    def kind(self) -> str: ...

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs that it runs in pods or on nodes."""
        ...

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        """What it will measure, declared before it runs."""
        ...

    def next_start_s(self, parameters: CheckParameters) -> float | None:
        """How long after the start of one run the next run of this check may be started; None: when it has ended.

        For tools that only wait at first (sockperf sleeps for 2 s before it sends anything): the waits of several
        runs then overlap, and what they measure still does not.
        """
        ...

    def run(self, context: CheckContext) -> CheckResult:
        """Never raises for a tool that failed: that is a result with verdict `error` and a reason."""
        ...


@runtime_checkable
class InSlices(Protocol):
    """A check whose run can be cut into slices, so that short disturbances of the machine hit all sides alike."""

    def run_in_slices(self, context: CheckContext) -> Generator[None, None, CheckResult]:
        """As `run`; yields wherever another run may take its turn. Nothing of it is running then."""
        ...


@runtime_checkable
class Abreast(Protocol):
    """A check that measures several runs at once, and alternates between them itself: in shorter slices than the engine
    could, and with the same processes for all of them."""

    def run_abreast(self, contexts: Sequence[CheckContext], seed: str) -> Sequence[CheckResult]:
        """As `run` for each, in their order. What is by lot follows from `seed`."""
        ...


@runtime_checkable
class OnThisHost(Protocol):
    """A target whose network namespace is one of this host: a process here can open sockets in it."""

    @property
    def network_namespace(self) -> Path: ...


@runtime_checkable
class ForSomePairs(Protocol):
    """A check that has a meaning for some pairs only."""

    def unfit(self, lab: Lab, pair: Pair) -> str:
        """Why it has none for this pair, as a sentence without its full stop; empty where it has. Pure."""
        ...


def to_the_end(slices: Generator[None, None, T]) -> T:
    """Runs slice after slice; gives what they come to."""
    while True:
        try:
            next(slices)
        except StopIteration as ended:
            result: T = ended.value
            return result
