"""Which faults are put in at which calls, and which of them a day's sample has.

A recorded execution says what calls there are. At each the program is stopped, in one way, and the call fails, in one:
these go round, so that every kind of call meets every fault of its kind in some place, and not every place every fault,
which would be tens of thousands.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from labctl.testing.faults.session import EXCEPTION, REFUSED, TOOL_ACTS, Fault
from labctl.values import dataclass

_OF_KIND: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "open": ("ENOSPC", "EMFILE", "EPERM", "ENOMEM", "EINTR"),
        "write": ("ENOSPC", "EPERM", "EINTR", "ENOMEM", "EBUSY"),
        "cut": ("ENOSPC", "EPERM", "EINTR"),
        "sync": ("ENOSPC", "EPERM", "EINTR"),
        "rename": ("ENOSPC", "EPERM", "EBUSY", "ENOMEM"),
        "mkdir": ("ENOSPC", "EPERM", "ENOMEM"),
        "link": ("ENOSPC", "EPERM", "ENOMEM"),
        "mknod": ("ENOSPC", "EPERM"),
        "remove": ("EPERM", "EBUSY", "ENOMEM"),
        "mode": ("EPERM", "EINTR"),
        "mount": ("ENOMEM", "EPERM", "EBUSY", "ENOSPC"),
        "unmount": ("EBUSY", "EPERM", "ENOMEM"),
        "enter": ("EPERM", "ENOMEM"),
        "unshare": ("ENOSPC", "ENOMEM", "EPERM"),
        "bpf": ("ENOMEM", "EPERM", "EBUSY", "ENOSPC", "EMFILE", "EINTR"),
        "netlink": (REFUSED, "ENOMEM", "EPERM", "EBUSY", "EINTR", "ENOSPC"),
        "kill": ("EPERM",),
        "start": ("ENOMEM", "EPERM", *TOOL_ACTS),
        "fork": ("ENOMEM",),
        "socket": ("EMFILE", "ENOMEM", "EPERM"),
        "memory file": ("EMFILE", "ENOMEM"),
        "device": ("EPERM", "EBUSY"),
    }
)
"""What the kernel may answer to a call of that kind, and what a tool may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A fault in one of the commands, by the command's name."""

    command: str
    fault: Fault

    @property
    def name(self) -> str:
        return f"{self.command} | {self.fault}"

    @property
    def number(self) -> int:
        """The same for the same name, spread evenly."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big")


_ENDS = ("SIGKILL", "SIGTERM", "SIGKILL", "SIGINT", "SIGKILL", "SIGHUP", "SIGKILL", EXCEPTION)
"""How the program is stopped, in this turn."""


def points_of(command: str, calls: Sequence[str], *, most_of_one: int = 2) -> Iterator[Point]:
    """The points of a command whose calls were recorded: of the calls of one name the first and the last (`most_of_one`
    of them, spread evenly), each with the program stopped there and with a fault of its kind, by turns; which of the
    two is the first changes from call to call."""
    turns: Counter[str] = Counter()

    def next_of(turn: str, choice: Sequence[str]) -> str:
        turns[turn] += 1
        return choice[(turns[turn] - 1) % len(choice)]

    for call, count in Counter(calls).items():
        kind = next(kind for kind in sorted(_OF_KIND, key=len, reverse=True) if call.startswith(kind))
        for number in _spread(count, most_of_one):
            acts = [next_of("ends", _ENDS), next_of(kind, _OF_KIND[kind])]
            if next_of("first", ("fault", "end")) == "fault":
                acts.reverse()
            yield from (Point(command=command, fault=Fault(call=call, number=number, act=act)) for act in acts)


def chosen(points: Sequence[Point], most: int, known: Collection[str]) -> list[Point]:
    """At most that many of a command's points: first one of each call whose name is not `known` (from commands before
    it), then one of each other call, then further ones; evenly along the command where that is too many."""
    turn: Counter[tuple[str, int]] = Counter()
    ranks: dict[int, list[Point]] = {}
    for point in points:
        call = point.fault.call
        turn[call, 0] += 1
        rank = turn[call, 0] - 1 if call not in known else 1 + 2 * turn[call, 0]
        ranks.setdefault(rank, []).append(point)
    found: list[Point] = []
    for _, these in sorted(ranks.items()):
        room = most - len(found)
        found += these if len(these) <= room else [these[one * len(these) // room] for one in range(room)]
    order = {point.name: number for number, point in enumerate(points)}
    return sorted(found, key=lambda point: order[point.name])


def _spread(count: int, most: int) -> list[int]:
    """At most that many of the numbers from 1 to `count`, the first and the last among them."""
    if count <= most or most < 2:
        return list(range(1, min(count, most) + 1))
    return sorted({1 + round(step * (count - 1) / (most - 1)) for step in range(most)})


def sample(points: Sequence[Point], of_day: str, size: int) -> list[Point]:
    """As many of the points, others on every day, with each command among them in its turn."""

    def of_today(point: Point) -> bytes:
        return hashlib.sha256(f"{of_day} {point.name}".encode()).digest()

    by_command: dict[str, list[Point]] = {}
    for point in sorted(points, key=of_today):
        by_command.setdefault(point.command, []).append(point)
    found: list[Point] = []
    while len(found) < size and any(by_command.values()):
        found += [queue.pop() for queue in by_command.values() if queue][: size - len(found)]
    return found
