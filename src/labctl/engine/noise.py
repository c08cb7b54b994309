"""How busy the machine was with other things while a block ran: differences of the kernel's own counters."""

from __future__ import annotations

from collections.abc import Callable

from labctl.model.comparison import Noise
from labctl.store.pressure import Pressure, own_cpu_s, read_pressure, ticks_per_s
from labctl.system.clock import monotonic_s

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
