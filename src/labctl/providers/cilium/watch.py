"""`cilium monitor` as a witness of single packets: on the nodes of one pair, from before its packets until asked.

Needs monitor aggregation `none`; anything else is told as a gap, and so are events that monitor lost and a monitor that
ended by itself. Hubble and pwru are heard beside it where they can be (`listeners`).
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from labctl.errors import LabError, MeasureFailed
from labctl.model.lab import Lab, Pair
from labctl.model.movement import Movement, Unshown
from labctl.model.proof import Evidence
from labctl.providers.base import Running
from labctl.providers.cilium.listeners import Ears, Wish
from labctl.providers.cilium.monitor import READY, Trace, argv_monitor_pair, lost_by_monitor, parse_monitor
from labctl.providers.cilium.monitor_acts import Devices, movements_of
from labctl.providers.cilium.targets import DoorTarget

Ask = Callable[[], tuple[Evidence, ...]]

_START_S = 30.0
_STOP_S = 15.0


class MonitorWatch:
    """`Watch` of the seam. Asking for movements ends the monitors and the other witnesses: they are read when they have
    ended."""

    def __init__(
        self,
        addresses: set[str],
        running: Mapping[str, tuple[Running, Devices, str]],
        ears: Ears,
        gaps: list[str],
        evidence: Ask,
    ) -> None:
        self._addresses = addresses
        self._running, self._ears, self._gaps, self._evidence = running, ears, gaps, evidence
        self._movements: tuple[Movement, ...] | None = None
        self._told: list[Evidence] = []

    def movements(self) -> tuple[Movement, ...]:
        if self._movements is None:
            found = [*self._ears.stop()]
            for node, (running, devices, command) in self._running.items():
                if not running.is_alive():
                    self._gaps.append(f"monitor on {node} ended by itself: what came after is not told")
                try:
                    done = running.stop(sig=signal.SIGTERM, timeout_s=_STOP_S)
                except LabError as failed:
                    self._gaps.append(f"monitor on {node}: {failed.what}")
                    continue
                if lost := lost_by_monitor(done.text + done.error_text):
                    self._gaps.append(f"monitor on {node} lost {lost} events, of these packets or of others")
                traces = [one for one in parse_monitor(done.text) if {one.source, one.destination} == self._addresses]
                self._told.append(_told(node, traces, command))
                found += movements_of(node, traces, devices)
            self._movements = tuple(found)
        return self._movements

    def evidence(self) -> tuple[Evidence, ...]:
        return (*self._evidence(), *self._told, *self._ears.evidence())

    def gaps(self) -> tuple[str, ...]:
        return tuple(self._gaps)

    def unshown(self) -> tuple[Unshown, ...]:
        """None: netfilter and connection tracking of the nodes are not traced, on any kernel."""
        return ()


def _told(node: str, traces: Sequence[Trace], command: str) -> Evidence:
    points = ", ".join(f"{point} {count}×" for point, count in Counter(trace.point for trace in traces).items())
    finding = f"{len(traces)} events of the pair: {points}" if traces else "no event of the pair"
    return Evidence(witness="monitor", where=node, finding=finding, supports=None, command=command)


@contextlib.contextmanager
def watching(
    lab: Lab,
    pair: Pair,
    agents: Mapping[str, DoorTarget],
    devices: Mapping[str, Devices],
    aggregation: str,
    evidence: Ask,
    others: Sequence[Wish] = (),
) -> Iterator[MonitorWatch]:
    """Monitors on the nodes that `devices` has, and the `others` that can be heard. Raises MeasureFailed when no node
    can be watched."""
    client, server = (str(lab.pod(name).address) for name in (pair.client, pair.server))
    argv = argv_monitor_pair(client, server)
    gaps = [] if aggregation == "none" else [f"monitor aggregation is '{aggregation}': not every packet is told"]
    running: dict[str, tuple[Running, Devices, str]] = {}
    with contextlib.ExitStack() as stack:
        for node, of_node in devices.items():
            try:
                one = stack.enter_context(agents[node].start(argv))
                one.wait_for_output(READY, timeout_s=_START_S)
                running[node] = (one, of_node, agents[node].shown(argv))
            except LabError as failed:
                gaps.append(f"monitor on {node}: {failed.what} ({failed.cause})")
        if not running:
            raise MeasureFailed(what="no node's programs can be watched", cause="; ".join(gaps))
        ears = Ears({client, server}, gaps)
        ears.start(others, stack)
        yield MonitorWatch({client, server}, running, ears, gaps, evidence)
