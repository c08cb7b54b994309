"""Raw slices of a stored comparison, read again: what they hold, and whether they give what was recorded."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest

from labctl.checks.load import load_values
from labctl.checks.load_again import slices_again
from labctl.errors import LabError
from labctl.load.slices import Kind, read_slices
from labctl.model.comparison import RunRecord
from labctl.model.lab import Placement
from labctl.model.load_slices import SlicesOfRun
from labctl.model.parameters import LoadParameters
from labctl.model.result import Sample, Verdict
from labctl.report.load_slices import slices_document, slices_tables
from labctl.report.terminal import plain_text

PARAMETERS = {"load": LoadParameters()}
RECORD = struct.Struct("<IBBHIHHHHIQQQQQQQQQIIIIIIII")


def record(session: int, cycle: int, position: int, attempt: int, took_ns: int) -> bytes:
    """A slice of three requests, as the program gives it: two of `took_ns`, one a thousand ns longer."""
    histogram = bytes((took_ns & 0x7F | 0x80, took_ns >> 7, 2, 0xE8, 0x07, 1))
    duration_ns = 3 * took_ns + 1000
    return (
        RECORD.pack(
            RECORD.size + len(histogram), list(Kind).index(Kind.TCP) + 1, 0, session, cycle, position, 0, 1, attempt, 0,
            1, duration_ns, 192, 300, 200, 40, 60, 0, 0, 3, 0, 0, 0, 0, 0, 2, len(histogram),
        )
        + histogram
    )  # fmt: skip


def files() -> dict[str, bytes]:
    head = json.dumps({"program": "labctl-load-x86_64"}).encode() + b"\n"
    made = {}
    for session, took_ns in ((0, 5_000), (1, 4_000)):
        slices = [record(session, cycle, place, 0, took_ns + cycle) for cycle in range(6) for place in (0, 3)]
        again = record(session, 5, 3, 1, took_ns + 9)
        made[f"raw/{'ab'[session]}-load/load.slices"] = head + b"".join(slices) + again
    return made


def records(found: dict[str, bytes]) -> list[RunRecord]:
    slices = {"ab".index(name[4]): tuple(read_slices(data.partition(b"\n")[2])) for name, data in found.items()}
    values = load_values(slices, PARAMETERS["load"])
    unit = {"latency_p50": "s", "latency_p99": "s", "transactions_per_s": "count/s", "cpu_per_transaction": "cpu-s"}
    return [
        RunRecord(
            block=1,
            position=session + 1,
            side="ab"[session],
            check="load",
            kind="load",
            client="client",
            server="server",
            placement=Placement.CROSS_NODE,
            verdict=Verdict.PASS,
            reason="",
            started_at="2026-11-30T10:00:00Z",
            samples=tuple(Sample(metric=name, value=value, unit=unit[name]) for name, value in values[session].items()),
            raw=(f"raw/{'ab'[session]}-load/load.slices",),
        )
        for session in (0, 1)
    ]


def again(runs: list[RunRecord], found: dict[str, bytes]) -> list[SlicesOfRun]:
    def read(name: str) -> bytes:
        if name not in found:
            raise LabError(what=f"{name} cannot be read", cause="No such file or directory")
        return found[name]

    return list(slices_again(runs, PARAMETERS, read))


def test_what_files_hold_is_counted_and_gives_what_was_recorded() -> None:
    found = files()
    a, b = again(records(found), found)
    assert (a.side, b.side, a.is_as_recorded, b.is_as_recorded) == ("a", "b", True, True)
    assert a.conditions == {"program": "labctl-load-x86_64"}
    (kind,) = a.kinds
    assert (kind.kind, kind.argument, kind.slices, kind.repeated, kind.operations) == ("tcp", 0, 12, 1, 39)
    assert kind.longest_s == pytest.approx(6.009e-6)
    assert kind.p50_s == pytest.approx(5.004e-6, abs=2e-9)
    assert kind.cpu_s == pytest.approx(13 * 500e-9)
    assert kind.waited_share == pytest.approx(100 / 16_011, rel=0.01)
    text = "".join(plain_text(part, width=120) for part in slices_tables([a, b]))
    assert "The files of 2 runs give what the run has of them, to the last bit." in text
    document = slices_document("20261130T100000Z-compare", [a, b])
    assert (document["kind"], document["asRecorded"]) == ("SliceReport", True)


def test_a_figure_that_the_files_do_not_give_is_named() -> None:
    found = files()
    a, b = records(found)
    changed = replace(
        a, samples=tuple(replace(s, value=s.value * (1 + 1e-15 * 8)) for s in a.samples[:1]) + a.samples[1:]
    )
    first, second = again([changed, b], found)
    assert (first.differs, second.differs) == (a.samples[0].metric, "")
    text = "".join(plain_text(part, width=120) for part in slices_tables([first, second]))
    assert "gives other figures than the run has of: latency_p50" in text
    assert "to the last bit" not in text


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_file_that_cannot_be_read_is_named_and_the_other_side_is_still_shown(damage: str) -> None:
    found = files()
    runs = records(found)
    name = "raw/a-load/load.slices"
    data = found.pop(name)
    if damage == "cut":
        found[name] = data[:-3]
    first, second = again(runs, found)
    assert "cannot be read" in first.unread
    assert (first.kinds, first.is_as_recorded) == ((), False)
    assert second.kinds


def test_runs_that_kept_no_slices_are_not_spoken_of() -> None:
    found = files()
    assert again([replace(run, raw=("raw/x/ping.stdout",)) for run in records(found)], found) == []
