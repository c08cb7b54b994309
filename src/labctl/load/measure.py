"""The load program at work: ends for all sides at once, slices that alternate over them, what was in force.

One client process and one server process serve every session (a pair of one side) of this host: they open its sockets
in the namespaces of its pods. So no side has a luckier process. Where pods are elsewhere, each has a process of its
own, which is carried there (`carried`): a command for each slice then, and slices as long as the way to them asks for.
Sessions, processes and connections are made afresh each time this is asked: luck that connections have is the block's,
not the side's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from pathlib import Path
from random import Random

from labctl.errors import LabError, MeasureFailed
from labctl.load.carried import ByStream, carried_end, channel_s
from labctl.load.places import Round, TapOnWay, assigned
from labctl.load.program import (
    OWN_NAMESPACE,
    InForce,
    LoadEnd,
    Order,
    Refused,
    Shape,
    find_load_program,
    load_end,
    spinning,
)
from labctl.load.slices import Conditions, Kind, Slice, last_attempts, read_slices, slices_file
from labctl.load.taps import Way, tapping
from labctl.system.cpus import packet_threads
from labctl.units import NANO
from labctl.values import dataclass

CONGESTION = "cubic"
"""Of every kernel's choices the one that keeps no model of the path, which would have states of its own (BBR has)."""
BUFFER_BYTE = 256 * 1024
WARM_S = 0.0005
_OVERHEAD_S = 0.0004
_WAYS = 4
"""A slice of pods elsewhere is so many times as long as the way there and back, at least: most of the time is measured.
"""
_POSITION = slice(12, 14)
"""In a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A pair of one side: the namespaces of client and server, by their paths, or what they are elsewhere; and where
    the server listens. Sessions with the same `group` are measured against each other, and alternate. `asked` is the
    address that the client talks to, where it is another one, as a Service's is. `taps` are the devices that its
    packets may pass."""

    group: str
    client: Path | ByStream
    server: Path | ByStream
    address: str
    asked: str = ""
    taps: tuple[TapOnWay, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of slice: `share` of a run's time goes to it; `on_one_cpu`: both ends run on the server's CPU."""

    kind: Kind
    share: float
    argument: int = 0
    length_s: float = 0.002
    on_one_cpu: bool = False
    command_s: float = 0.0
    """What the command for a slice takes beside it, where each slice has one."""

    def cycles(self, duration_s: float) -> int:
        """How many cycles fill the task's share of a run; a cycle has two slices of each side."""
        slice_s = WARM_S + self.length_s + _OVERHEAD_S + self.command_s
        return max(1, round(duration_s * self.share / (2 * slice_s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, how: `duration_s` is the time of one run of all tasks. `tapped` is a task that follows, with
    taps on the way of every packet, for where the time goes: nothing else is taken from its slices."""

    tasks: tuple[Task, ...]
    tapped: Task | None = None
    duration_s: float
    message_byte: int
    spin: bool
    client_cpu: int | None
    server_cpu: int | None
    seed: str

    @property
    def cpus(self) -> tuple[int, ...]:
        return tuple(sorted({cpu for cpu in (self.client_cpu, self.server_cpu) if cpu is not None}))

    @property
    def streams(self) -> int:
        return max((task.argument for task in self.tasks if task.kind is Kind.STREAM), default=1)


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What one session gave: its records as they came, or why it was given up. `rounds` are the round trips that taps
    took down."""

    records: list[bytes] = field(default_factory=list)
    refused: str = ""
    rounds: list[Round] = field(default_factory=list)

    @property
    def slices(self) -> tuple[Slice, ...]:
        return tuple(read_slices(b"".join(self.records)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of all sessions, in their order. `untapped` is why there were no taps; `parts_netfilter`: those at its hooks were
    there."""

    loaded: tuple[Loaded, ...]
    conditions: Conditions
    untapped: str = ""
    parts_netfilter: bool = False

    def file(self, number: int) -> bytes:
        """The `.slices` file of that session."""
        return slices_file(self.conditions, self.loaded[number].records)


def order_of(
    plan: Plan, groups: Mapping[str, Sequence[int]], tasks: Sequence[Task] | None = None
) -> Iterator[tuple[Task, tuple[int, ...]]]:
    """Every cycle of every task on every group, in random order; in each the sides forth and back, the first one by
    lot. The same plan gives the same order. `tasks` are the plan's, where nothing else is said."""
    lot = Random(plan.seed)  # nosec B311  # an order, not a secret
    cycles = [
        (task, sessions)
        for task in (plan.tasks if tasks is None else tasks)
        for _ in range(task.cycles(plan.duration_s))
        for sessions in groups.values()
    ]
    lot.shuffle(cycles)
    for task, sessions in cycles:
        forth = list(sessions)
        lot.shuffle(forth)
        yield task, (*forth, *reversed(forth))


def measure_load(sessions: Sequence[Session], plan: Plan) -> Result:
    """All tasks on all sessions. A session that could not be connected, or that stopped answering, is given up with the
    program's words; the others continue. Raises MeasureFailed for the program itself, ToolMissing without one and
    where one cannot be carried.
    """
    program = find_load_program()
    shape = Shape(congestion=CONGESTION, buffer_byte=BUFFER_BYTE, message_byte=plan.message_byte, streams=plan.streams)
    loaded = tuple(Loaded() for _ in sessions)
    with ExitStack() as stack:
        lines = _lines(stack, program, sessions)
        nice = max(line.client.nice() for line in lines), max(line.server.nice() for line in lines)
        uncounted = next(filter(None, (end.count() for line in lines for end in (line.client, line.server))), "")
        in_force = [_connected(line, number, sessions[number], shape, loaded) for number, line in enumerate(lines)]
        made = next(filter(None, in_force), None)
        way_s = channel_s([line.client for line in lines]) if _has_elsewhere(sessions) else None
        if way_s is None:
            stack.enter_context(spinning(program, plan.cpus if plan.spin else ()))
            for thread in packet_threads(plan.cpus):
                lines[0].client.watch(thread)
        else:
            plan = _elsewhere(plan, way_s)
        for cycle, (task, turns) in enumerate(order_of(plan, _groups(sessions))):
            _run(lines, plan, task, cycle, turns, loaded)
        untapped, parts_netfilter = _run_tapped(lines, plan, sessions, loaded)
    conditions = Conditions(
        program=program.name,
        spun=plan.cpus if plan.spin and way_s is None else (),
        nice=nice,
        congestion=made.congestion if made else "",
        send_buffer_byte=made.send_buffer_byte if made else 0,
        receive_buffer_byte=made.receive_buffer_byte if made else 0,
        message_byte=plan.message_byte,
        warm_s=WARM_S,
        channel_s=way_s,
        slice_s=min(task.length_s for task in plan.tasks),
        uncounted=uncounted,
    )
    return Result(loaded=loaded, conditions=conditions, untapped=untapped, parts_netfilter=parts_netfilter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A session's two ends, and the namespaces that they open its sockets in."""

    client: LoadEnd
    server: LoadEnd
    client_namespace: str
    server_namespace: str


def _has_elsewhere(sessions: Sequence[Session]) -> bool:
    return any(not isinstance(end, Path) for one in sessions for end in (one.client, one.server))


def _lines(stack: ExitStack, program: Path, sessions: Sequence[Session]) -> list[_Line]:
    """For each session. Raises ToolMissing."""
    here: dict[str, LoadEnd] = {}

    def end_at(place: Path | ByStream, role: str) -> tuple[LoadEnd, str]:
        if not isinstance(place, Path):
            return stack.enter_context(carried_end(place, f"the load program in {place.name}")), OWN_NAMESPACE
        if role not in here:
            name = "the load program's server" if role == "server" else "the load program's client"
            here[role] = stack.enter_context(load_end(program, name))
        return here[role], str(place)

    lines = []
    for one in sessions:
        server, server_namespace = end_at(one.server, "server")
        client, client_namespace = end_at(one.client, "client")
        lines.append(
            _Line(client=client, server=server, client_namespace=client_namespace, server_namespace=server_namespace)
        )
    return lines


def _elsewhere(plan: Plan, way_s: float) -> Plan:
    """Slices long enough for the way to those pods, on any CPU: this host's numbers mean nothing there."""
    return replace(
        plan,
        tasks=tuple(
            replace(task, length_s=max(task.length_s, _WAYS * way_s), on_one_cpu=False, command_s=way_s)
            for task in plan.tasks
        ),
        client_cpu=None,
        server_cpu=None,
    )


def _run_tapped(
    lines: Sequence[_Line], plan: Plan, sessions: Sequence[Session], loaded: Sequence[Loaded]
) -> tuple[str, bool]:
    """The plan's slices with taps, on the same connections: why there are none, and whether netfilter's hooks had some.
    What goes wrong here is no fault of what was measured before."""
    if plan.tapped is None:
        return "", False
    rounds: list[Round] = []
    slices = tuple(Loaded(refused=one.refused) for one in loaded)
    ways = [
        Way(client=one.client, server=one.server, taps=one.taps)
        for one in sessions
        if isinstance(one.client, Path) and isinstance(one.server, Path)
    ]
    if len(ways) < len(sessions):
        return "the taps are for pods of this host", False
    try:
        with tapping(ways) as taps:
            for cycle, (task, turns) in enumerate(order_of(plan, _groups(sessions), (plan.tapped,))):
                _run(lines, plan, task, cycle, turns, slices)
                rounds += taps.take()
    except LabError as failed:
        return f"{failed.what}: {failed.cause}" if failed.cause else failed.what, False
    windows = sorted(
        (each.begun_ns, each.begun_ns + each.duration_ns, each.session)
        for one in slices
        for each in last_attempts(one.slices)
    )
    for number, found in assigned(rounds, windows).items():
        loaded[number].rounds.extend(found)
    return "", taps.parts_netfilter


def _groups(sessions: Sequence[Session]) -> Mapping[str, Sequence[int]]:
    groups: dict[str, list[int]] = {}
    for number, session in enumerate(sessions):
        groups.setdefault(session.group, []).append(number)
    return groups


def _connected(line: _Line, number: int, session: Session, shape: Shape, loaded: Sequence[Loaded]) -> InForce | None:
    try:
        ports = line.server.listen(line.server_namespace, session.address, shape)
        return line.client.connect(number, line.client_namespace, session.asked or session.address, ports, shape)
    except Refused as refused:
        loaded[number].refused = refused.cause
        return None


def _run(
    lines: Sequence[_Line], plan: Plan, task: Task, cycle: int, turns: Sequence[int], loaded: Sequence[Loaded]
) -> None:
    """One cycle of the sessions that are left: by one command where one client serves them all, else by one for each
    slice."""
    left = tuple(number for number in turns if not loaded[number].refused)
    if len({id(lines[number].client) for number in left}) == 1:
        _run_at(lines[left[0]].client, plan, task, cycle, 0, left, loaded)
        return
    for position, number in enumerate(left):
        if not loaded[number].refused:
            _run_at(lines[number].client, plan, task, cycle, position, (number,), loaded)


def _run_at(
    client: LoadEnd,
    plan: Plan,
    task: Task,
    cycle: int,
    position: int,
    turns: tuple[int, ...],
    loaded: Sequence[Loaded],
) -> None:
    """Slices of one client, of which the first has that position in the cycle."""
    order = Order(
        kind=task.kind,
        argument=task.argument,
        warm_ns=round(WARM_S / NANO),
        length_ns=round(task.length_s / NANO),
        client_cpu=plan.server_cpu if task.on_one_cpu else plan.client_cpu,
        server_cpu=plan.server_cpu,
        cycle=cycle,
        sessions=turns,
    )
    try:
        data = client.run(order)
    except Refused as refused:
        number = int(refused.cause.split()[1].rstrip(":")) if refused.cause.startswith("session ") else None
        if number not in turns:
            raise
        loaded[number].refused = refused.cause.partition(": ")[2]
        return
    at = 0
    while at < len(data):
        size, number = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 6 : at + 8], "little")
        if not size or number not in turns:
            raise MeasureFailed("the load program's records cannot be read", f"a record of {size} bytes")
        record = bytearray(data[at : at + size])
        record[_POSITION] = (int.from_bytes(record[_POSITION], "little") + position).to_bytes(2, "little")
        loaded[number].records.append(bytes(record))
        at += size
