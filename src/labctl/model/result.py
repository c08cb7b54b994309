"""What checks yield: samples with a unit, a verdict, and the raw files behind them; and a process that has ended.

All of it is data. Starting processes and waiting for them are `system.process`' and the providers'.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from labctl.codec import NULL, OMITTED, Key
from labctl.model.lab import Placement
from labctl.model.signature import Signature
from labctl.values import dataclass


class Verdict(StrEnum):
    """`FAIL`: the network did not do what was expected. `ERROR`: it could not be measured."""

    PASS = "pass"  # nosec B105  # a verdict
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"


class Better(StrEnum):
    """Which direction of a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"


class MetricFamily(StrEnum):
    """What a metric measures; it decides the margin and the words of the verdict."""

    LATENCY = "latency"
    CPU = "cpu"
    THROUGHPUT = "throughput"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a check declares beforehand. `name` is the contract's (`rtt_p50`), `label` is for people.

    `unit` is a base unit: s, bit/s, byte, count, 1 (a share), count/s, cpu-s/byte, cpu-s.
    Only `primary` metrics get a verdict word.
    """

    name: Annotated[str, Key("metric")]
    label: str
    unit: str
    better: Better
    family: MetricFamily
    primary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One number of one run of one check, in the metric's base unit."""

    metric: str
    value: float
    unit: str


class WayPart(StrEnum):
    """What a packet's time on its way goes to, there and back together."""

    NETFILTER = "netfilter"
    """The nodes' hooks: rules, connection tracking."""
    STACK = "stack"
    """The nodes between their devices: programs of the datapath, routing, neighbours; and IP in the pod that receives.
    With netfilter where the two are not measured apart."""
    DEVICES = "devices"
    """From a device to its peer in the pod or on the node, through the queue of the CPU that receives."""
    TUNNEL = "tunnel"
    """Into and out of the envelope."""
    WIRE = "wire"
    """Between the nodes."""
    ENDS = "ends"
    """TCP, the program, and waking it, in both pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a check looked at, with a verdict of its own.

    `name` is short and fixed (`gateway-mac`), `sentence` says what was found, with the figures, `lesson` what one
    learns from it, and `command` shows the same by hand.
    """

    name: str
    verdict: Verdict
    sentence: str
    lesson: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One run of one check on one pair.

    `reason` is one sentence for a person: why it failed, could not be measured, or was skipped; what was seen
    when it passed. `raw` names the files, relative to the run directory, that everything was parsed from.
    `is_starved`: an error because a tool did not get going, as for want of CPU. `retried` is the reason of such a first
    attempt, of which this is the second; its files come first in `raw`.
    """

    check: str
    kind: str
    client: str
    server: str
    placement: Placement
    verdict: Verdict
    reason: str
    samples: tuple[Sample, ...] = ()
    raw: tuple[str, ...] = ()
    retried: Annotated[str, NULL] = ""
    signature: Signature | None = None
    findings: tuple[Finding, ...] = ()
    is_starved: bool = False
    parts: Annotated[tuple[Sample, ...], OMITTED] = ()
    unparted: Annotated[str, OMITTED] = ""
    stood_in: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A process that has ended. `returncode` is negative for a signal, as in subprocess.

    `cpu_s` is the user and system time of the process and its waited-for children, or None where the provider
    does not report it. `timed_out` says that it was killed at its deadline.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    duration_s: float
    cpu_s: float | None = None
    timed_out: bool = False

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", errors="replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", errors="replace")
