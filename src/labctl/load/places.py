"""Where the time of round trips went: the rounds that taps took down, the file that keeps them, and what they come to.

A file of places (`NAME.places`) is one line of JSON, then the rounds, compressed (zlib, RFC 1950). The line says if the
hooks of `netfilter` had taps, and has `ways`: each way that packets took, as its `places` in order (what happened at
which tap, and how often those hooks were passed until the next one) and how many `rounds` took it. The rounds stand way
by way, in columns of little-endian numbers in ns: when each began, as the difference from the one before (8 bytes;
CLOCK_MONOTONIC); how long it was until the next one began; what a tap at a hook took; for each place its time since the
place before it (the first one's since the beginning); and, of places with passes, what netfilter took until the next, a
tap included in each pass (4 bytes each).

What parts are: the time between two places is a part's by what they are (`WayPart`), so all parts together are the
whole. Of the rounds that took the commonest way the middle half by their whole time is averaged: what disturbs a round
trip disturbs its parts together, and means of the same rounds add up. A tap has a cost, which is taken off: that
between the two that stand next to each other.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean, median

from labctl.codec import plain, typed
from labctl.errors import LabError, MeasureFailed
from labctl.json_text import parse_json
from labctl.model.result import WayPart
from labctl.units import NANO
from labctl.values import dataclass

_MOST_BYTE = 1 << 30
"""Of the rounds, unpacked."""
_MOMENT = struct.Struct("<II")
_FEWEST_ROUNDS = 8
POD, NODE = "pod", "node"


class Act(StrEnum):
    """What a tap saw, in the order of the program's numbers, from 1. `ARRIVED`: at the socket; `AGAIN`: by a second tap
    at once behind that, which tells what a tap costs."""

    SENT = "sent"
    RECEIVED = "received"
    ARRIVED = "arrived"
    AGAIN = "again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapOnWay:
    """A device that a packet may pass. `part` is the pod, the node or what else it is on, `kind` says which of them
    (`pod`, `node`, else empty)."""

    name: str
    part: str
    kind: str
    interface: str
    namespace: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An event of a round. Without a tap's name it was at the socket, or at a device that is not on the way."""

    act: Act
    tap: str
    part: str
    kind: str
    passes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One request and its answer, until the next request. `moments` has two numbers of four bytes for each place."""

    begun_ns: int
    whole_ns: int
    hook_tap_ns: int
    places: tuple[Place, ...]
    moments: bytes


def places_file(rounds: Iterable[Round], *, has_netfilter: bool) -> bytes:
    """The content of a `.places` file."""
    ways = _by_way(sorted(rounds, key=lambda one: one.begun_ns))
    head = {
        "netfilter": has_netfilter,
        "ways": [{"places": plain(way), "rounds": len(found)} for way, found in ways.items()],
    }
    columns = (column for way, found in ways.items() for column in _written(way, found))
    return json.dumps(head).encode() + b"\n" + zlib.compress(b"".join(columns), 1)


def _written(places: Sequence[Place], rounds: Sequence[Round]) -> Iterator[bytes]:
    at, netfilter = _columns(rounds, len(places))
    begun = [one.begun_ns for one in rounds]
    yield _packed("Q", [begun[0], *(after - before for before, after in pairwise(begun))])
    yield _packed("I", [min(one.whole_ns, 2**32 - 1) for one in rounds])
    yield _packed("I", [one.hook_tap_ns for one in rounds])
    for before, column in zip([[0] * len(rounds), *at], at, strict=False):
        yield _packed("I", [this - last for this, last in zip(column, before, strict=True)])
    yield from (_packed("I", column) for place, column in zip(places, netfilter, strict=True) if place.passes)


def _packed(kind: str, numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


def _inflated(body: bytes) -> bytes:
    """Raises ValueError for more than a run of labctl's has: a few bytes may claim to be gigabytes."""
    inflating = zlib.decompressobj()
    found = inflating.decompress(body, _MOST_BYTE)
    if inflating.unconsumed_tail or not inflating.eof:
        raise ValueError(f"it is cut off, or more than {_MOST_BYTE >> 20} MiB")
    return found


def read_places_file(data: bytes) -> tuple[tuple[Round, ...], bool]:
    """The rounds, and whether netfilter's hooks had taps. Raises MeasureFailed."""
    head, _, body = data.partition(b"\n")
    try:
        document = parse_json(head)
        has_netfilter = typed(bool, document["netfilter"], where="netfilter")
        columns = io.BytesIO(_inflated(body))
        rounds = tuple(
            one
            for way in document["ways"]
            for one in _read_way(typed(tuple[Place, ...], way["places"], where="the places"), way["rounds"], columns)
        )
        if left := len(columns.read()):
            raise ValueError(f"{left} bytes are left")
    except (LabError, ValueError, KeyError, TypeError, struct.error, zlib.error) as error:
        raise MeasureFailed("the places of the load program's packets cannot be read", str(error)) from error
    return rounds, has_netfilter


def _read_way(places: tuple[Place, ...], count: int, columns: io.BytesIO) -> Iterator[Round]:
    def column(kind: str) -> tuple[int, ...]:
        form = f"<{count}{kind}"
        return struct.unpack(form, columns.read(struct.calcsize(form)))

    begun, whole, hook_tap = accumulate(column("Q")), column("I"), column("I")
    at = [accumulate(steps) for steps in zip(*(column("I") for _ in places), strict=True)]
    netfilter = zip(*(column("I") if place.passes else (0,) * count for place in places), strict=True)
    for begun_ns, whole_ns, hook_tap_ns, times, hooks in zip(begun, whole, hook_tap, at, netfilter, strict=True):
        moments = b"".join(_MOMENT.pack(*pair) for pair in zip(times, hooks, strict=True))
        yield Round(begun_ns=begun_ns, whole_ns=whole_ns, hook_tap_ns=hook_tap_ns, places=places, moments=moments)


def _by_way(rounds: Iterable[Round]) -> dict[tuple[Place, ...], list[Round]]:
    ways: dict[tuple[Place, ...], list[Round]] = {}
    for one in rounds:
        ways.setdefault(one.places, []).append(one)
    return ways


def parts_of(rounds: Sequence[Round], *, has_netfilter: bool) -> dict[WayPart, float]:
    """Seconds of each part of a round trip, there and back; empty where too few rounds took one way."""
    places, found = max(_by_way(rounds).items(), key=lambda way: len(way[1]), default=((), []))
    chosen = _middle_half(found)
    if len(found) < _FEWEST_ROUNDS or not _is_whole(places):
        return {}
    at, netfilter = _columns(chosen, len(places))
    wholes = [one.whole_ns for one in chosen]
    hook_tap_ns = median([one.hook_tap_ns for one in chosen])
    lengths = [
        fmean(end - begin for begin, end in zip(column, following, strict=True))
        for column, following in zip(at, [*at[1:], wholes], strict=True)
    ]
    tap_ns = median(
        end - begin
        for number, place in enumerate(places)
        if place.act is Act.AGAIN
        for begin, end in zip(at[number - 1], at[number], strict=True)
    )
    parts = dict.fromkeys(WayPart, 0.0)
    for number, (place, length_ns) in enumerate(zip(places, lengths, strict=True)):
        following = places[number + 1] if number + 1 < len(places) else places[0]
        if following.act is Act.AGAIN:
            continue
        hooks_ns = fmean(netfilter[number])
        parts[WayPart.NETFILTER] += hooks_ns - place.passes * hook_tap_ns
        parts[_part_between(place, following)] += length_ns - tap_ns - hooks_ns - 2 * place.passes * hook_tap_ns
    if not has_netfilter:
        del parts[WayPart.NETFILTER]
    return {part: value * NANO for part, value in parts.items()}


def _middle_half(rounds: Sequence[Round]) -> list[Round]:
    ordered = sorted(rounds, key=lambda one: one.whole_ns)
    quarter = len(ordered) // 4
    return ordered[quarter : len(ordered) - quarter]


def _is_whole(places: Sequence[Place]) -> bool:
    """Request and answer were followed to their sockets."""
    return [place.act for place in places if place.act in (Act.ARRIVED, Act.AGAIN)] == [Act.ARRIVED, Act.AGAIN] * 2


def _columns(rounds: Sequence[Round], places: int) -> tuple[list[list[int]], list[list[int]]]:
    """By place, the times of all rounds since their beginning, and what netfilter took then."""
    numbers = struct.unpack(f"<{2 * places * len(rounds)}I", b"".join(one.moments for one in rounds))
    return (
        [list(numbers[2 * place :: 2 * places]) for place in range(places)],
        [list(numbers[2 * place + 1 :: 2 * places]) for place in range(places)],
    )


def _part_between(before: Place, after: Place) -> WayPart:
    """What the time between two places that follow each other goes to."""
    if before.act is Act.AGAIN or (before.act is Act.ARRIVED and after.act is Act.SENT):
        return WayPart.ENDS
    if after.act is Act.ARRIVED:
        return WayPart.STACK
    kinds = {before.kind, after.kind}
    if kinds == {POD, NODE}:
        return WayPart.DEVICES
    if kinds == {NODE} and before.part == after.part:
        if before.act is after.act:
            return WayPart.TUNNEL
        return WayPart.STACK if before.act is Act.RECEIVED else WayPart.DEVICES
    return WayPart.WIRE


def assigned(rounds: Iterable[Round], windows: Sequence[tuple[int, int, int]]) -> Mapping[int, list[Round]]:
    """The rounds that lie wholly within a slice, by its session. `windows`: of each slice its begin, its end and the
    session, in ascending order and apart from each other."""
    found: dict[int, list[Round]] = {}
    left = iter(windows)
    window = next(left, None)
    for one in sorted(rounds, key=lambda one: one.begun_ns):
        while window is not None and one.begun_ns >= window[1]:
            window = next(left, None)
        if window is None:
            break
        if one.begun_ns >= window[0] and one.begun_ns + one.whole_ns <= window[1]:
            found.setdefault(window[2], []).append(one)
    return found
