"""The field's own tools in the load program's place, where that cannot run: sockperf and iperf3, with its metrics.

What they measure of the same kind under the same name are the primary rows; what they cannot measure has no figure. It
stands apart from `checks.load` so that who measures with the load program does not read in two more checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from labctl.checks.base import CheckContext, RawSink
from labctl.checks.iperf import IperfCheck
from labctl.checks.latency import LatencyCheck
from labctl.model.parameters import IperfParameters, LatencyParameters, LoadParameters
from labctl.model.result import CheckResult, Metric, Sample, Verdict
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefixed:
    """A place for raw files in which two checks' files stand beside each other."""

    sink: RawSink
    prefix: str

    def save(self, name: str, data: bytes) -> str:
        return self.sink.save(f"{self.prefix}-{name}", data)


def by_tools_of_the_field(context: CheckContext, metrics: Sequence[Metric], why: str) -> CheckResult:
    """One run of each tool. `why` is a sentence about what keeps the load program from running."""
    parameters = context.spec.parameters
    if not isinstance(parameters, LoadParameters):
        raise TypeError(f"load cannot run with {type(parameters).__name__}")
    latency = LatencyParameters(duration_s=parameters.duration_s, message_byte=parameters.message_byte)
    stream = IperfParameters(duration_s=parameters.duration_s)
    results = tuple(
        check.run(
            replace(
                context, spec=replace(context.spec, parameters=own), raw=_Prefixed(sink=context.raw, prefix=check.kind)
            )
        )
        for check, own in ((LatencyCheck(), latency), (IperfCheck(), stream))
    )
    found = {sample.metric: sample.value for result in results for sample in result.samples}
    worst = next((one for one in results if one.verdict is not Verdict.PASS), results[0])
    said = "; ".join(one.reason for one in results)
    return replace(
        worst,
        kind="load",
        reason=f"{why}; sockperf and iperf3 stood in: {said}",
        samples=tuple(
            Sample(metric=metric.name, value=found[metric.name], unit=metric.unit)
            for metric in metrics
            if metric.name in found
        ),
        raw=tuple(path for one in results for path in one.raw),
        stood_in=why,
    )
