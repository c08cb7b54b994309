"""The load program at work: ends for all sides at once, slices that alternate over them, what was in force.

One client process and one server process serve every session (a pair of one side): they open its sockets in the
namespaces of its pods. So no side has a luckier process. Sessions, processes and connections are made afresh each time
this is asked: luck that connections have is the block's, not the side's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from random import Random

from labctl.errors import LabError, MeasureFailed
from labctl.load.places import Round, TapOnWay, assigned
from labctl.load.program import InForce, LoadEnd, Order, Refused, Shape, find_load_program, load_end, spinning
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A pair of one side: the namespaces of client and server, by their paths, and where the server listens. Sessions
    with the same `group` are measured against each other, and alternate. `asked` is the address that the client talks
    to, where it is another one, as a Service's is. `taps` are the devices that its packets may pass."""

    group: str
    client: Path
    server: Path
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

    def cycles(self, duration_s: float) -> int:
        """How many cycles fill the task's share of a run; a cycle has two slices of each side."""
        return max(1, round(duration_s * self.share / (2 * (WARM_S + self.length_s + _OVERHEAD_S))))


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
    program's words; the others continue. Raises MeasureFailed for the program itself, ToolMissing without one.
    """
    program = find_load_program()
    shape = Shape(congestion=CONGESTION, buffer_byte=BUFFER_BYTE, message_byte=plan.message_byte, streams=plan.streams)
    loaded = tuple(Loaded() for _ in sessions)
    with ExitStack() as stack:
        server = stack.enter_context(load_end(program, "the load program's server"))
        client = stack.enter_context(load_end(program, "the load program's client"))
        nice = client.nice(), server.nice()
        in_force = [_connected(client, server, number, one, shape, loaded) for number, one in enumerate(sessions)]
        made = next(filter(None, in_force), None)
        stack.enter_context(spinning(program, plan.cpus if plan.spin else ()))
        for thread in packet_threads(plan.cpus):
            client.watch(thread)
        for cycle, (task, turns) in enumerate(order_of(plan, _groups(sessions))):
            _run(client, plan, task, cycle, turns, loaded)
        untapped, parts_netfilter = _run_tapped(client, plan, sessions, loaded)
    conditions = Conditions(
        program=program.name,
        spun=plan.cpus if plan.spin else (),
        nice=nice,
        congestion=made.congestion if made else "",
        send_buffer_byte=made.send_buffer_byte if made else 0,
        receive_buffer_byte=made.receive_buffer_byte if made else 0,
        message_byte=plan.message_byte,
        warm_s=WARM_S,
    )
    return Result(loaded=loaded, conditions=conditions, untapped=untapped, parts_netfilter=parts_netfilter)


def _run_tapped(client: LoadEnd, plan: Plan, sessions: Sequence[Session], loaded: Sequence[Loaded]) -> tuple[str, bool]:
    """The plan's slices with taps, on the same connections: why there are none, and whether netfilter's hooks had some.
    What goes wrong here is no fault of what was measured before."""
    if plan.tapped is None:
        return "", False
    rounds: list[Round] = []
    slices = tuple(Loaded(refused=one.refused) for one in loaded)
    ways = [Way(client=one.client, server=one.server, taps=one.taps) for one in sessions]
    try:
        with tapping(ways) as taps:
            for cycle, (task, turns) in enumerate(order_of(plan, _groups(sessions), (plan.tapped,))):
                _run(client, plan, task, cycle, turns, slices)
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


def _connected(
    client: LoadEnd, server: LoadEnd, number: int, session: Session, shape: Shape, loaded: Sequence[Loaded]
) -> InForce | None:
    try:
        ports = server.listen(str(session.server), session.address, shape)
        return client.connect(number, str(session.client), session.asked or session.address, ports, shape)
    except Refused as refused:
        loaded[number].refused = refused.cause
        return None


def _run(client: LoadEnd, plan: Plan, task: Task, cycle: int, turns: Sequence[int], loaded: Sequence[Loaded]) -> None:
    """One cycle of the sessions that are left."""
    left = tuple(number for number in turns if not loaded[number].refused)
    if not left:
        return
    order = Order(
        kind=task.kind,
        argument=task.argument,
        warm_ns=round(WARM_S / NANO),
        length_ns=round(task.length_s / NANO),
        client_cpu=plan.server_cpu if task.on_one_cpu else plan.client_cpu,
        server_cpu=plan.server_cpu,
        cycle=cycle,
        sessions=left,
    )
    try:
        data = client.run(order)
    except Refused as refused:
        number = int(refused.cause.split()[1].rstrip(":")) if refused.cause.startswith("session ") else None
        if number not in left:
            raise
        loaded[number].refused = refused.cause.partition(": ")[2]
        return
    at = 0
    while at < len(data):
        size, number = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 6 : at + 8], "little")
        if not size or number not in left:
            raise MeasureFailed("the load program's records cannot be read", f"a record of {size} bytes")
        loaded[number].records.append(data[at : at + size])
        at += size
