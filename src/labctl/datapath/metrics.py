"""The counters of a node's programs: how many packets and bytes each program, on each device, did what with.

The programs count every packet once by where it went or why it was dropped. Evidence is a difference of two readings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labctl.datapath import bpf
from labctl.datapath.layout import METRIC, Program, Verdict, unpack_metric_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One counter: `packets` and `bytes` that `program` on the device `ifindex` gave this verdict."""

    ifindex: int
    program: Program
    verdict: Verdict
    packets: int
    bytes: int

    @property
    def words(self) -> str:
        """For a person: `cil_from_container: 3 packets, bpf_redirect_peer`."""
        noun = "packet" if self.packets == 1 else "packets"
        return f"{self.program.function}: {self.packets} {noun}, {self.verdict.words}"


def read_metrics(descriptor: int) -> tuple[Metric, ...]:
    """Every counter of the map `metrics`, summed over the CPUs, in the order of device, program, verdict."""
    return decode_metrics(bpf.dump(descriptor))


def decode_metrics(entries: Iterable[tuple[bytes, tuple[bytes, ...]]]) -> tuple[Metric, ...]:
    found = []
    for key, values in entries:
        name = unpack_metric_key(key)
        counted = [METRIC.unpack(value) for value in values]
        found.append(
            Metric(
                ifindex=name.ifindex,
                program=name.program,
                verdict=name.verdict,
                packets=sum(packets for packets, _ in counted),
                bytes=sum(size for _, size in counted),
            )
        )
    return tuple(sorted(found, key=lambda metric: (metric.ifindex, metric.program, metric.verdict)))


def difference(before: Iterable[Metric], after: Iterable[Metric]) -> tuple[Metric, ...]:
    """What was counted between two readings; counters that stood still are left out."""
    start = {(m.ifindex, m.program, m.verdict): m for m in before}
    grown = []
    for metric in after:
        first = start.get((metric.ifindex, metric.program, metric.verdict))
        packets = metric.packets - (first.packets if first else 0)
        size = metric.bytes - (first.bytes if first else 0)
        if packets:
            grown.append(
                Metric(
                    ifindex=metric.ifindex,
                    program=metric.program,
                    verdict=metric.verdict,
                    packets=packets,
                    bytes=size,
                )
            )
    return tuple(grown)
