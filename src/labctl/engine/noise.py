"""How busy the machine was with other things while a block ran: differences of the kernel's own counters."""

from __future__ import annotations

from collections.abc import Callable

from labctl.model.comparison import Noise
from labctl.store.environment import read_pressure
from labctl.system.clock import monotonic_s


def noise_meter() -> Callable[[int], Noise]:
    """A function that tells what happened since it was last called (at first: since it was made)."""
    last = read_pressure(monotonic_s())

    def since_last(block: int) -> Noise:
        nonlocal last
        before, last = last, read_pressure(monotonic_s())
        return Noise(
            block=block,
            cpu_pressure_share=last.cpu_pressure_share(before),
            steal_share=last.steal_share(before),
        )

    return since_last
