"""The shipped load program itself, over this host's loopback: what it measures, what it refuses, how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import MeasureFailed, ToolMissing
from labctl.load import program as program_module
from labctl.load.program import LoadEnd, Order, Ports, Refused, Shape, find_load_program, load_end, spinning
from labctl.load.slices import Kind, Slice, read_slices

HERE = "-"
LOOPBACK = "127.0.0.1"
SHAPE = Shape(congestion="reno", buffer_byte=256 * 1024, message_byte=64, streams=4)
PACKAGE = Path(program_module.__file__).parent

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="labctl ships the load program for x86_64 and aarch64"
)


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[LoadEnd, Ports]]:
    """A client with session 5 open to a server."""
    program = find_load_program()
    with load_end(program, "the server") as server, load_end(program, "the client") as client:
        ports = server.listen(HERE, LOOPBACK, SHAPE)
        assert client.connect(5, HERE, LOOPBACK, ports, SHAPE).congestion == "reno"
        yield client, ports


def slices(client: LoadEnd, kind: Kind, argument: int = 0, *, length_ns: int = 2_000_000) -> list[Slice]:
    order = Order(
        kind=kind,
        argument=argument,
        warm_ns=500_000,
        length_ns=length_ns,
        client_cpu=None,
        server_cpu=None,
        cycle=9,
        sessions=(5, 5),
    )
    return list(read_slices(client.run(order)))


@pytest.mark.parametrize("kind", [Kind.TCP, Kind.UDP, Kind.CONNECT])
def test_requests_are_counted_and_each_has_its_time(ends: tuple[LoadEnd, Ports], kind: Kind) -> None:
    found = slices(ends[0], kind)
    assert {(one.kind, one.session, one.cycle) for one in found} == {(kind, 5, 9)}
    assert sorted({one.position for one in found}) == [0, 1]
    for one in found:
        assert one.operations == sum(count for _, count in one.times_ns) > 0
        assert one.byte == 64 * one.operations
        assert one.client_cpu_ns > 0
        assert one.server_cpu_ns > 0
        # One request at a time: their times add up to what the slice took.
        assert sum(time * count for time, count in one.times_ns) == one.duration_ns


def test_cycles_and_instructions_are_counted_or_the_kernels_words_say_why_not() -> None:
    program = find_load_program()
    with load_end(program, "the server") as server, load_end(program, "the client") as client:
        why = [client.count(), server.count()]
        ports = server.listen(HERE, LOOPBACK, SHAPE)
        client.connect(5, HERE, LOOPBACK, ports, SHAPE)
        found = slices(client, Kind.TCP)
    if any(why):
        assert all(said.startswith("cannot count cycles and instructions: ") for said in why if said)
        assert {(one.cycles, one.instructions) for one in found} == {(0, 0)}
    else:
        assert all(one.instructions > 100 * one.operations and one.cycles > 0 for one in found)


@pytest.mark.parametrize("streams", [1, 4])
def test_streams_count_what_the_server_received(ends: tuple[LoadEnd, Ports], streams: int) -> None:
    for one in slices(ends[0], Kind.STREAM, streams):
        # From the block that says that measuring begins, on each stream, in whole blocks.
        assert one.byte >= 64 * 1024 * streams
        assert one.byte % (64 * 1024) == 0
        assert one.argument == streams
        assert one.times_ns == ()


def test_the_pace_is_kept_and_latency_counts_from_when_a_request_was_due(ends: tuple[LoadEnd, Ports]) -> None:
    for one in slices(ends[0], Kind.PACED, 1_000, length_ns=10_000_000):
        assert 1 <= one.operations <= 10
        # The last request was due at 9 ms at most, and its latency ends when the slice does.
        assert one.duration_ns <= one.times_ns[-1][0] + 9_000_000


@pytest.mark.parametrize(
    ("session", "kind", "argument", "why"),
    [
        (6, Kind.TCP, 0, "there is no such session"),
        (5, Kind.STREAM, 5, "the session has not so many"),
        (5, Kind.PACED, 0, "a pace is 1 to 1000000 requests a second"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_its_session(
    ends: tuple[LoadEnd, Ports], session: int, kind: Kind, argument: int, why: str
) -> None:
    order = Order(
        kind=kind,
        argument=argument,
        warm_ns=0,
        length_ns=1,
        client_cpu=None,
        server_cpu=None,
        cycle=0,
        sessions=(session,),
    )
    with pytest.raises(Refused) as refused:
        ends[0].run(order)
    assert refused.value.cause.startswith(f"session {session}: ")
    assert refused.value.cause.endswith(why)


def test_a_port_that_nobody_listens_at_is_refused_with_the_kernels_words(ends: tuple[LoadEnd, Ports]) -> None:
    unused = Ports(data=1, connect=1, udp=1)
    with pytest.raises(Refused, match="could not open") as refused:
        ends[0].connect(7, HERE, LOOPBACK, unused, SHAPE)
    assert refused.value.cause == "cannot connect: Connection refused"


def test_a_namespace_that_is_not_there_is_refused(ends: tuple[LoadEnd, Ports]) -> None:
    with pytest.raises(Refused) as refused:
        ends[0].listen("/run/netns/no-such", LOOPBACK, SHAPE)
    assert refused.value.cause == "cannot open a network namespace: No such file or directory"


def test_an_end_that_was_killed_is_an_error(ends: tuple[LoadEnd, Ports]) -> None:
    with pytest.raises(MeasureFailed, match="has ended"), load_end(Path("/bin/true"), "the program") as end:
        end.nice()


def test_spinners_run_while_their_context_lasts() -> None:
    cpu = min(os.sched_getaffinity(0))
    with spinning(find_load_program(), (cpu,)):
        pass
    with pytest.raises(MeasureFailed), spinning(find_load_program(), (99_999,)):
        pass


def test_another_program_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_LOAD", "/bin/true")
    assert find_load_program() == Path("/bin/true").resolve()
    monkeypatch.setenv("LABCTL_LOAD", str(tmp_path))
    with pytest.raises(ToolMissing) as missing:
        find_load_program()
    assert str(tmp_path) in missing.value.cause


def test_a_machine_without_a_program_is_said_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABCTL_LOAD", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ToolMissing) as missing:
        find_load_program()
    assert missing.value.remedy.startswith(f"make -C {PACKAGE} here")


def test_the_shipped_programs_are_those_that_the_manifest_describes() -> None:
    manifest = json.loads((PACKAGE / "programs" / "manifest.json").read_text())
    sources = sorted((PACKAGE / "source").glob("*.[ch]"))
    made_from = b"\0".join(f"{path.name}\0".encode() + path.read_bytes() for path in sources)
    assert manifest["source"] == hashlib.sha256(made_from).hexdigest(), f"make -C {PACKAGE} programs"
    for name, recorded in manifest["programs"].items():
        path = PACKAGE / "programs" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded["sha256"]
        assert os.access(path, os.X_OK)
