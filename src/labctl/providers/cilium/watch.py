"""`cilium monitor` as a witness of single packets: on the nodes of one pair, from before its packets until it is read.

Needs monitor aggregation `none`; anything else is reported as a gap, and so are events that monitor lost and a monitor
that ended by itself.

Hubble and pwru beside the monitors: where they are available, started with them, and what they reported.

Both are optional. One that is not available is named with its reason and never stops a trace; one that fails after it
was started is a gap.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from labctl.errors import LabError, MeasureFailed
from labctl.model.evidence import Evidence
from labctl.model.lab import Lab, Pair
from labctl.model.tools import said
from labctl.model.trace import Movement, PacketKey, Unshown
from labctl.providers.base import Running, TargetKind
from labctl.providers.cilium import hubble_pwru
from labctl.providers.cilium.monitor import (
    READY,
    Devices,
    MonitorTrace,
    argv_monitor_pair,
    lost_by_monitor,
    movements_of,
    parse_monitor,
)
from labctl.providers.cilium.status import argv_status
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.values import dataclass

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
                    self._gaps.append(f"monitor on {node} ended by itself: later events are missing")
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

    def act_before_tap(self, part: str, device: str, packet: PacketKey, frame: bytes) -> Movement | None:
        return None


def _told(node: str, traces: Sequence[MonitorTrace], command: str) -> Evidence:
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
    """Monitors on the nodes that `devices` has, and those of the `others` that are available. Raises MeasureFailed when
    no node can be watched."""
    client, server = _addresses(lab, pair)
    argv = argv_monitor_pair(client, server)
    gaps = [] if aggregation == "none" else [f"monitor aggregation is '{aggregation}': not every packet is reported"]
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


_ASK_S = 30.0
_LISTENER_STOP_S = 15.0
_HUBBLE_START_S = 3.0
_PWRU_START_S = 60.0
_MOST_NAMED = 8

Read = Callable[[str], tuple[Movement, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One program to start, and how to read what it printed. `needs_ready`: without `ready` in its output it is not
    listening. A listener that prints something older first (`repeats`) begins with that line."""

    witness: str
    where: str
    target: DoorTarget
    argv: tuple[str, ...]
    ready: str
    start_s: float
    read: Read
    needs_ready: bool = True
    repeats: bool = False
    lost: Callable[[str], int] = lambda text: 0
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unheard:
    """A witness that is not available, and why, as half a sentence."""

    witness: str
    where: str
    why: str

    def evidence(self) -> Evidence:
        return Evidence(witness=self.witness, where=self.where, finding=f"not available: {self.why}", supports=None)


Wish = Listener | Unheard


def wishes(
    lab: Lab,
    pair: Pair,
    *,
    namespace: str,
    agents: Mapping[str, DoorTarget],
    targets: Mapping[str, DoorTarget],
    config: Mapping[str, str],
    values: Mapping[str, object],
) -> tuple[Wish, ...]:
    """Every further witness of the pair, to start or with the reason why not. Raises nothing."""
    nodes = lab.nodes_of(pair)
    found: list[Wish] = []
    # Made as they are asked for: what fails on the second node leaves the first one's.
    asked: dict[str, Iterator[Wish]] = {
        hubble_pwru.PROGRAM: _pwru(lab, pair, nodes, targets),
        "hubble": _hubble(lab, pair, nodes, agents, namespace, config, values),
    }
    for witness, ways in asked.items():
        try:
            for wish in ways:
                found.append(wish)
        except LabError as failed:
            why = ": ".join(part for part in (failed.what, failed.cause) if part)
            found.append(Unheard(witness=witness, where=", ".join(nodes), why=why))
    return tuple(found)


def _hubble(
    lab: Lab,
    pair: Pair,
    nodes: Sequence[str],
    agents: Mapping[str, DoorTarget],
    namespace: str,
    config: Mapping[str, str],
    values: Mapping[str, object],
) -> Iterator[Wish]:
    if hubble_pwru.enabled_by(config, values) is False:
        why = f"it is not enabled; {hubble_pwru.ENABLE} enables it"
        yield Unheard(witness="hubble", where=", ".join(nodes), why=why)
        return
    lxcs = {str(pod.address): (pod.node, pod.lxc) for pod in lab.pods}
    names = {f"{namespace}/{pod.name}": str(pod.address) for pod in lab.pods}
    argv = hubble_pwru.argv_hubble(_addresses(lab, pair))

    def reader(node: str) -> Read:
        return lambda text: hubble_pwru.movements_of(node, hubble_pwru.parse_hubble(text), lxcs, names)

    for node in nodes:
        status = agents[node].run(argv_status(), timeout_s=_ASK_S)
        unread = f"the agent's status could not be read: {said(status)}" if status.returncode else ""
        if trouble := unread or hubble_pwru.trouble_in_status(status.text):
            yield Unheard(witness="hubble", where=node, why=trouble)
            continue
        yield Listener(
            witness="hubble", where=node, target=agents[node], argv=argv, ready=hubble_pwru.HUBBLE_READY,
            start_s=_HUBBLE_START_S, read=reader(node), needs_ready=False, repeats=True, lost=hubble_pwru.lost_events,
        )  # fmt: skip


def _pwru(lab: Lab, pair: Pair, nodes: Sequence[str], targets: Mapping[str, DoorTarget]) -> Iterator[Wish]:
    hosts = {node: host_of(targets[node]) for node in nodes}
    once = {host.name: host for host in hosts.values()}
    for host in once.values():
        if host.commands.find(hubble_pwru.PROGRAM) is None:
            yield Unheard(witness=hubble_pwru.PROGRAM, where=host.name, why="the program pwru is not there")
            continue
        here = [node for node in nodes if hosts[node].name == host.name]
        pods = [name for name in (pair.client, pair.server) if lab.endpoint(name).node in here and name not in here]
        places = [
            hubble_pwru.parse_place(name, targets[name].read(hubble_pwru.PLACE_SCRIPT)) for name in (*here, *pods)
        ]
        kernel = hubble_pwru.parse_kernel(host.read(hubble_pwru.KERNEL_SCRIPT))
        why = hubble_pwru.why_not(kernel)
        if any(place.boot != kernel.boot for place in places):
            why = "the nodes have another kernel: the engine is not on this host"
        if why:
            yield Unheard(witness=hubble_pwru.PROGRAM, where=host.name, why=why)
            continue
        # Pods of one node: everything that matters happens in that node's own namespace.
        netns = places[0].netns if len(nodes) == 1 else None
        yield Listener(
            witness=hubble_pwru.PROGRAM, where=host.name, target=host, ready=hubble_pwru.PWRU_READY,
            start_s=_PWRU_START_S,
            argv=hubble_pwru.argv_pwru(_addresses(lab, pair), netns=netns), most=hubble_pwru.MOST_EVENTS,
            read=_pwru_reader(tuple(places), is_here=not host.commands.prefix),
        )  # fmt: skip


def _pwru_reader(places: tuple[hubble_pwru.LabNamespace, ...], *, is_here: bool) -> Read:
    """Only this host's monotonic clock can be read exactly enough to put events between sightings."""

    def read(text: str) -> tuple[Movement, ...]:
        clock_ns = time.time_ns() - time.monotonic_ns() if is_here else None
        return hubble_pwru.parse_pwru(text, places, clock_ns=clock_ns)

    return read


def host_of(node: DoorTarget) -> DoorTarget:
    """The machine whose kernel carries the node: the node itself where it is entered by no door, else the host that
    its commands run on."""
    if not node.door.closed:
        return node
    return DoorTarget(name="this host", kind=TargetKind.NODE, door=Door(closed=(), open=()), commands=node.commands)


def _addresses(lab: Lab, pair: Pair) -> tuple[str, str]:
    return str(lab.client(pair).address), str(lab.server(pair).address)


class Ears:
    """The listeners that were started. Their output is read once they have ended."""

    def __init__(self, addresses: Iterable[str], gaps: list[str]) -> None:
        self._addresses, self._gaps = set(addresses), gaps
        self._started: list[tuple[Listener, Running]] = []
        self._evidence: list[Evidence] = []

    def start(self, wanted: Iterable[Wish], stack: contextlib.ExitStack) -> None:
        for wish in wanted:
            if isinstance(wish, Unheard):
                self._evidence.append(wish.evidence())
            else:
                self._start(wish, stack)

    def _start(self, wish: Listener, stack: contextlib.ExitStack) -> None:
        try:
            running = stack.enter_context(wish.target.start(wish.argv))
        except LabError as failed:
            self._gap(wish, failed)
            return
        try:
            running.wait_for_output(wish.ready, timeout_s=wish.start_s)
        except LabError as failed:
            if wish.needs_ready or not running.is_alive():
                self._gap(wish, failed)
                return
            # Nothing older to show: it listens, but since when is not known.
            wish = replace(wish, repeats=False)
        self._started.append((wish, running))

    def _gap(self, listener: Listener, failed: LabError) -> None:
        self._gaps.append(f"{listener.witness} on {listener.where}: {failed.what} ({failed.cause})")

    def stop(self) -> tuple[Movement, ...]:
        """Ends them and returns what they reported of the pair."""
        found: list[Movement] = []
        for listener, running in self._started:
            ended_early = not running.is_alive()
            try:
                done = running.stop(sig=signal.SIGTERM, timeout_s=_LISTENER_STOP_S)
            except LabError as failed:
                self._gap(listener, failed)
                continue
            text = done.text
            is_full = listener.most is not None and text.count("\n") >= listener.most
            if ended_early and not is_full:
                self._gaps.append(
                    f"{listener.witness} on {listener.where} ended by itself: later events are missing; {said(done)}"
                )
            told = listener.read(text)[1 if listener.repeats else 0 :]
            of_pair = [one for one in told if {one.packet.src, one.packet.dst} == self._addresses]
            if lost := listener.lost(text):
                self._gaps.append(f"{listener.witness} on {listener.where} lost {lost} events")
            if is_full:
                self._gaps.append(f"{listener.witness} on {listener.where} ended after {listener.most} events")
            self._evidence.append(_listener_told(listener, of_pair))
            found += of_pair
        self._started = []
        return tuple(found)

    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(self._evidence)


def _listener_told(listener: Listener, movements: Sequence[Movement]) -> Evidence:
    kinds = Counter(f"{one.node} {one.helper}" if one.node != listener.where else one.helper for one in movements)
    named = [f"{kind} {count}×" for kind, count in kinds.most_common(_MOST_NAMED)]
    if len(kinds) > _MOST_NAMED:
        named.append(f"and {len(kinds) - _MOST_NAMED} other kinds")
    finding = f"{len(movements)} events of the pair: {', '.join(named)}" if movements else "no event of the pair"
    if any(one.packet.protocol == "icmp" for one in movements):
        order = "it does not report the numbers of echoes: events are matched to packets by their order"
        finding = f"{finding}; {order}"
    return Evidence(
        witness=listener.witness, where=listener.where, finding=finding, supports=None,
        command=listener.target.shown(listener.argv),
    )  # fmt: skip
