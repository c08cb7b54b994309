"""`cilium monitor` as a witness of single packets: its trace lines of one pair as movements, node by node.

Monitor tells the ports of TCP and UDP, and neither id nor sequence number of an echo: those keys have 0 there, and the
lines' order has to do. Needs monitor aggregation `none`; anything else is told as a gap. Hubble and pwru are heard
beside it where they can be (`listeners`).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

from labctl.errors import LabError, MeasureFailed
from labctl.model.lab import Lab, Pair
from labctl.model.movement import Act, Movement, Mover, PacketKey
from labctl.model.proof import Evidence
from labctl.providers.base import Running
from labctl.providers.cilium.listeners import Ears, Wish
from labctl.providers.cilium.monitor import READY, Trace, argv_monitor, parse_monitor
from labctl.providers.cilium.targets import DoorTarget

Ask = Callable[[], tuple[Evidence, ...]]

_START_S = 30.0
_STOP_S = 15.0
_PROGRAMS = {
    "from-endpoint": ("cil_from_container", "ingress"),
    "from-overlay": ("cil_from_overlay", "ingress"),
    "from-network": ("cil_from_netdev", "ingress"),
    "from-host": ("cil_from_host", "egress"),
}
"""The program that speaks at a point where packets come in. Points where they go out are told by the program before."""
_ACTS = {"to-stack": Act.TO_STACK, "to-overlay": Act.TUNNEL}


def movement_of(node: str, trace: Trace) -> Movement:
    """One trace line as a movement. What the line does not say stays empty."""
    source, source_port = _split(trace.source)
    destination, destination_port = _split(trace.destination)
    what, hook = _PROGRAMS.get(trace.point, ("cilium", ""))
    device = "" if trace.interface == "0" else trace.interface
    goes_out = trace.point.startswith("to-")
    return Movement(
        node=node,
        mover=Mover.PROGRAM,
        what=what,
        device="" if goes_out else device,
        hook=hook,
        helper=str(_ACTS.get(trace.point, trace.point)),
        packet=PacketKey(
            src=source, dst=destination, protocol=_protocol(trace.what), first=source_port, second=destination_port
        ),
        target=device if goes_out else "",
        identity=int(trace.source_identity) if trace.source_identity.isdigit() else 0,
        raw=trace.raw,
    )


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and host.count(":") == 0 and port.isdigit() else (address, 0)


def _protocol(what: str) -> str:
    word = what.split(" ", 1)[0].lower()
    return word if word in ("tcp", "udp", "sctp") else "icmp"


class MonitorWatch:
    """`Watch` of the seam. Asking for movements ends the monitors and the other witnesses: they are read when they have
    ended."""

    def __init__(
        self, addresses: set[str], running: Mapping[str, Running], ears: Ears, gaps: list[str], evidence: Ask
    ) -> None:
        self._addresses = addresses
        self._running, self._ears, self._gaps, self._evidence = running, ears, gaps, evidence
        self._movements: tuple[Movement, ...] | None = None

    def movements(self) -> tuple[Movement, ...]:
        if self._movements is None:
            found: list[Movement] = []
            # Before monitor's: its lines have no place of their own, and what follows them would be put after them.
            others = self._ears.stop()
            for node, running in self._running.items():
                try:
                    done = running.stop(sig=signal.SIGTERM, timeout_s=_STOP_S)
                except LabError as failed:
                    self._gaps.append(f"monitor on {node}: {failed.what}")
                    continue
                found += (movement_of(node, trace) for trace in parse_monitor(done.text))
            told = tuple(m for m in found if {m.packet.src, m.packet.dst} == self._addresses)
            self._movements = (*others, *told)
        return self._movements

    def evidence(self) -> tuple[Evidence, ...]:
        return (*self._evidence(), *self._ears.evidence())

    def gaps(self) -> tuple[str, ...]:
        return tuple(self._gaps)


@contextlib.contextmanager
def watching(
    lab: Lab,
    pair: Pair,
    agents: Mapping[str, DoorTarget],
    endpoints: Mapping[str, tuple[int, ...]],
    aggregation: str,
    evidence: Ask,
    others: Sequence[Wish] = (),
) -> Iterator[MonitorWatch]:
    """Monitors on the nodes of the pair's pods, and the `others` that can be heard. `endpoints` are the pods' endpoint
    ids by node. Raises MeasureFailed when no node can be watched."""
    addresses = {str(lab.pod(name).address) for name in (pair.client, pair.server)}
    gaps = [] if aggregation == "none" else [f"monitor aggregation is '{aggregation}': not every packet is told"]
    running: dict[str, Running] = {}
    with contextlib.ExitStack() as stack:
        for node, ids in endpoints.items():
            try:
                one = stack.enter_context(agents[node].start(argv_monitor(ids)))
                one.wait_for_output(READY, timeout_s=_START_S)
                running[node] = one
            except LabError as failed:
                gaps.append(f"monitor on {node}: {failed.what} ({failed.cause})")
        if not running:
            raise MeasureFailed(what="no node's programs can be watched", cause="; ".join(gaps))
        ears = Ears(addresses, gaps)
        ears.start(others, stack)
        yield MonitorWatch(addresses, running, ears, gaps, evidence)
