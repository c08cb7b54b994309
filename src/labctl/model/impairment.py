"""What is done to the packets of a link on purpose: loss, delay, rate and the like, asked and measured. Pure data.

The words are those of netlab (delay, jitter, loss, corrupt, duplicate, reorder, rate) and of Linux' netem; units are
labctl's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from annotated_types import Ge, Le

from labctl.codec import OMITTED, Doc
from labctl.errors import UsageError
from labctl.units import PERCENT, quantity, readable
from labctl.values import dataclass

_Share = Annotated[float, Ge(0), Le(1)]
LINK_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,79}[a-z0-9])?$"
"""Of a link's name: that of a part of a lab, or two of them."""
UPLINKS = "uplink"
"""The links of all nodes to the fabric, in a scenario."""


class LinkDirection(StrEnum):
    """Which way of a link: into the part that it is named after (`to`), out of it (`from`), or both."""

    TO = "to"
    FROM = "from"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What is asked of one link. Shares are of packets; `delay_s` and `jitter_s` are of each way, `rate_bit_per_s`
    is of frames. What is 0 is not asked."""

    delay_s: Annotated[float, Ge(0), Le(60), Doc("Seconds that each packet waits, each way."), OMITTED] = 0.0
    jitter_s: Annotated[float, Ge(0), Le(60), Doc("By how many seconds the delay varies."), OMITTED] = 0.0
    loss: Annotated[_Share, Doc("Share of packets that are lost."), OMITTED] = 0.0
    duplicate: Annotated[_Share, Doc("Share of packets that come twice."), OMITTED] = 0.0
    corrupt: Annotated[_Share, Doc("Share of packets with one bit flipped."), OMITTED] = 0.0
    reorder: Annotated[_Share, Doc("Share of packets that come after those behind them."), OMITTED] = 0.0
    rate_bit_per_s: Annotated[float, Ge(0), Le(1e12), Doc("Bits a second of frames."), OMITTED] = 0.0
    direction: Annotated[LinkDirection, Doc("to, from or both ways of what the link is named after."), OMITTED] = (
        LinkDirection.BOTH
    )
    seed: Annotated[int, Ge(0), Le(2**63 - 1), Doc("What is lost, and so on, follows from it."), OMITTED] = 1

    @property
    def is_nothing(self) -> bool:
        return not any(getattr(self, name) for name, _ in WORDS.values())

    @property
    def by_program(self) -> bool:
        """What a program at the far end does."""
        return bool(self.loss or self.duplicate or self.corrupt or self.reorder)

    def words(self) -> str:
        """`loss=1% rate=10 Mbit/s`, and which way where it is one."""
        said = [
            f"{word}={_shown(getattr(self, name), unit)}" for word, (name, unit) in WORDS.items() if getattr(self, name)
        ]
        return " ".join((*said, *(() if self.direction is LinkDirection.BOTH else (f"direction={self.direction}",))))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpairCounts:
    """What was done to the packets that came to one end of a link, since it was set."""

    seen: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpairedWay:
    """One direction of a link, with what is asked of it and what was done so far. `sender` and `receiver` are parts of
    the lab; what was sent are the counters of the sending device."""

    link: str
    sender: str
    receiver: str
    asked: Impairment
    counts: ImpairCounts
    sent_packets: int
    sent_bytes: int


WORDS: Mapping[str, tuple[str, str]] = {
    "delay": ("delay_s", "s"),
    "jitter": ("jitter_s", "s"),
    "loss": ("loss", "1"),
    "duplicate": ("duplicate", "1"),
    "corrupt": ("corrupt", "1"),
    "reorder": ("reorder", "1"),
    "rate": ("rate_bit_per_s", "bit/s"),
}
"""What is written on the command line, with the field and its unit."""
LEAST_RATE_BIT_PER_S = 8_000.0


def _shown(value: float, unit: str) -> str:
    return readable(value, unit) if unit != "1" else f"{value / PERCENT:g}%"


def impairment_of(words: Iterable[str], before: Impairment | None = None) -> Impairment:
    """`delay=20ms loss=1%` as a value, over what was set before. Raises UsageError with what may be written."""
    words, made = tuple(words), before or Impairment()
    for word in words:
        key, is_set, text = word.partition("=")
        try:
            if key == "direction":
                made = replace(made, direction=LinkDirection(text))
            elif key == "seed":
                made = replace(made, seed=int(text))
            else:
                name, unit = WORDS[key]
                made = replace(made, **{name: quantity(text, unit)})  # type: ignore[arg-type]
        except KeyError:
            import difflib

            near = difflib.get_close_matches(key, (*WORDS, "direction", "seed"), n=1)
            raise UsageError(
                what=f"'{word}' is no impairment",
                cause=f"there are: {', '.join((*WORDS, 'direction', 'seed'))}",
                remedy=f"did you mean '{near[0]}=…'?"
                if near and is_set
                else "delay=20ms jitter=2ms loss=1% rate=10mbit",
            ) from None
        except ValueError as wrong:
            raise UsageError(what=f"'{word}' cannot be read", cause=str(wrong)) from None
    if problem := problem_of(made):
        raise UsageError(what=f"'{' '.join(words)}' cannot be set", cause=problem)
    return made


def problem_of(made: Impairment) -> str:
    """Why it cannot be set as a whole, as a phrase; empty where it can."""
    for word, (name, unit) in WORDS.items():
        if unit == "1" and getattr(made, name) > 1:
            return f"{word} is a share of the packets: at most 100%"
    if made.jitter_s and made.jitter_s > made.delay_s:
        return "jitter is by how much the delay varies: it cannot be more than the delay"
    if made.delay_s > 60:
        return "a delay is at most 60 s"
    if 0 < made.rate_bit_per_s < LEAST_RATE_BIT_PER_S:
        return "a rate is at least 8kbit, a frame of the largest size in 1.5 s"
    return ""
