"""The raw slices of a stored comparison, read again: what each file holds, and whether it gives what was recorded.

Only files are read; the numbers of all sides of a pair come from their slices together, as when they were measured. It
stands apart from `checks.load` so that who measures does not read in what reports alone need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field

from labctl.checks.load import FILE, PLACES_FILE, load_values
from labctl.errors import LabError
from labctl.load.places import parts_of, read_places_file
from labctl.load.slices import Slice, joined, last_attempts, read_slices_file, time_s
from labctl.model.comparison import RunRecord
from labctl.model.load_slices import SliceKind, SlicesOfRun
from labctl.model.parameters import LoadParameters
from labctl.units import NANO
from labctl.values import dataclass

Read = Callable[[str], bytes]
"""The content of a raw file, by its path in the run. Raises LabError."""


def slices_again(
    records: Sequence[RunRecord], parameters: Mapping[str, LoadParameters], read: Read
) -> Iterator[SlicesOfRun]:
    """Each run of `records` that kept slices, those of one block and pair together. `parameters` are each check's."""
    groups: dict[tuple[int, str, str, str], list[RunRecord]] = {}
    for record in records:
        if any(path.endswith(f"/{FILE}") for path in record.raw):
            groups.setdefault((record.block, record.check, record.client, record.server), []).append(record)
    for group in groups.values():
        yield from _group(group, parameters[group[0].check], read)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    record: RunRecord
    file: str
    conditions: Mapping[str, object] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    differing_parts: tuple[str, ...] = ()
    unread: str = ""


def _group(group: Sequence[RunRecord], parameters: LoadParameters, read: Read) -> Iterator[SlicesOfRun]:
    found = [_read(record, read) for record in group]
    values = load_values({one.slices[0].session: one.slices for one in found if one.slices}, parameters)
    for one in found:
        record = one.record
        recorded = {sample.metric: sample.value for sample in record.samples}
        now = values.get(one.slices[0].session, {}) if one.slices else {}
        yield SlicesOfRun(
            block=record.block,
            side=record.side,
            check=record.check,
            client=record.client,
            server=record.server,
            placement=record.placement,
            file=one.file,
            conditions=one.conditions,
            kinds=tuple(_kinds(one.slices)),
            differs="" if one.unread else ", ".join((*_differing(recorded, now), *one.differing_parts)),
            unread=one.unread,
        )


def _read(record: RunRecord, read: Read) -> _Read:
    file = next(path for path in record.raw if path.endswith(f"/{FILE}"))
    places = next((path for path in record.raw if path.endswith(f"/{PLACES_FILE}")), None)
    try:
        conditions, slices = read_slices_file(read(file))
        now: dict[str, float] = {}
        if places is not None:
            rounds, has_netfilter = read_places_file(read(places))
            now = {str(part): value for part, value in parts_of(rounds, has_netfilter=has_netfilter).items()}
    except LabError as failed:
        return _Read(record=record, file=file, unread=f"{failed.what}: {failed.cause}" if failed.cause else failed.what)
    parts = {part.metric: part.value for part in record.parts}
    return _Read(record=record, file=file, conditions=conditions, slices=slices, differing_parts=_differing(parts, now))


def _differing(recorded: Mapping[str, float], now: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(name for name in {*recorded, *now} if recorded.get(name) != now.get(name)))


def _kinds(slices: Sequence[Slice]) -> Iterator[SliceKind]:
    for kind, argument in dict.fromkeys((each.kind, each.argument) for each in slices):
        of_kind = [each for each in slices if (each.kind, each.argument) == (kind, argument)]
        last = last_attempts(of_kind)
        times = joined(of_kind)
        percentiles = [time_s(times, percent) if times else None for percent in (50, 90, 99, 99.9)]
        duration_ns = sum(each.duration_ns for each in of_kind)
        waited_ns = sum(each.client_waited_ns + each.server_waited_ns for each in of_kind)
        yield SliceKind(
            kind=kind,
            argument=argument,
            slices=len(last),
            repeated=len(of_kind) - len(last),
            operations=sum(each.operations for each in of_kind),
            duration_s=duration_ns * NANO,
            byte=sum(each.byte for each in of_kind),
            p50_s=percentiles[0],
            p90_s=percentiles[1],
            p99_s=percentiles[2],
            p999_s=percentiles[3],
            longest_s=times[-1][0] * NANO if times else None,
            cpu_s=sum(each.cpu_s for each in of_kind),
            waited_share=waited_ns / duration_ns if duration_ns else 0.0,
            resent=sum(each.resent for each in of_kind),
        )
