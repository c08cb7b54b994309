"""The only unit factors in the project: base units inside, readable units at the edges.

Values travel in base units (s, bit/s, byte, count, cpu-s, cpu-s/byte, and 1 for a share). Parsers multiply by the
factors here to get into them; reports call `readable` to get out of them. Nothing else in labctl multiplies by 1000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from labctl.values import dataclass

NANO = 1e-9
MICRO = 1e-6
MILLI = 1e-3
KILO = 1e3
MEGA = 1e6
GIGA = 1e9
TERA = 1e12
KIBI = 1024
MEBI = 1024**2
BITS_PER_BYTE = 8
PERCENT = 1e-2
SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A readable unit: `size` of it in base units, and its symbol (empty for plain numbers)."""

    size: float
    symbol: str


_SCALES: dict[str, tuple[Scale, ...]] = {
    "s": (
        Scale(size=NANO, symbol="ns"),
        Scale(size=MICRO, symbol="µs"),
        Scale(size=MILLI, symbol="ms"),
        Scale(size=1, symbol="s"),
    ),
    "bit/s": (
        Scale(size=1, symbol="bit/s"),
        Scale(size=KILO, symbol="kbit/s"),
        Scale(size=MEGA, symbol="Mbit/s"),
        Scale(size=GIGA, symbol="Gbit/s"),
    ),
    "byte": (
        Scale(size=1, symbol="B"),
        Scale(size=KILO, symbol="kB"),
        Scale(size=MEGA, symbol="MB"),
        Scale(size=GIGA, symbol="GB"),
    ),
    "count/s": (Scale(size=1, symbol="/s"), Scale(size=KILO, symbol="k/s"), Scale(size=MEGA, symbol="M/s")),
    "count": (Scale(size=1, symbol=""),),
    "1": (Scale(size=PERCENT, symbol="%"),),
    "cpu-s/byte": (Scale(size=1 / GIGA, symbol="s/GB"),),
}
_SAME_AS = {"cpu-s": "s", "cpu-s/count": "s"}


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """The readable unit in which the largest of `values` (in the base unit `unit`) is at least 1.

    One scale for all values of a row, so that two sides can be compared by eye. A unit that is not known here is
    shown as it is.
    """
    scales = _SCALES.get(_SAME_AS.get(unit, unit), (Scale(size=1, symbol=unit),))
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return next((scale for scale in scales if scale.size == 1), scales[0])
    fitting = [scale for scale in scales if largest >= scale.size * 0.9995]
    return fitting[-1] if fitting else scales[0]


def significant(value: float, digits: int = 3) -> str:
    """A plain decimal number with about that many significant digits, never in exponent form below 10^15."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    # The exponent after rounding: 999.96 is 1.00 thousand.
    magnitude = int(f"{value:.{digits - 1}e}".partition("e")[2])
    decimals = max(0, digits - 1 - magnitude)
    return f"{value:.{min(decimals, 12)}f}"


def readable(value: float, unit: str, scale: Scale | None = None) -> str:
    """`52.3 µs`, `9.41 Gbit/s`, `0.57 s/GB`: a value in the base unit `unit`, for people."""
    if not math.isfinite(value):
        return "–"
    chosen = scale or scale_for(unit, (value,))
    number = significant(value / chosen.size)
    if not chosen.symbol:
        return str(int(value)) if value == int(value) else number
    return f"{number}{chosen.symbol}" if chosen.symbol == "/s" else f"{number} {chosen.symbol}"


def percent(share: float, *, signed: bool = False) -> str:
    """`21 %`, `+4.8 %`, `−0.6 %`: a share of 1 for people, with one decimal below 10 %."""
    if not math.isfinite(share):
        return "–"
    return f"{percent_number(share, signed=signed)} %"


def percent_number(share: float, *, signed: bool = False) -> str:
    """The number of `percent` alone. The minus is U+2212, as in print."""
    size = abs(share) / PERCENT
    text = f"{size:.0f}" if size >= 9.95 else f"{size:.1f}"
    if float(text) == 0:
        return "0"
    return ("−" if share < 0 else "+" if signed else "") + text


_WRITTEN = {
    "s": {"ns": NANO, "us": MICRO, "µs": MICRO, "ms": MILLI, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0},
    "bit/s": {
        "bit": 1.0,
        "kbit": KILO,
        "mbit": MEGA,
        "gbit": GIGA,
        "bit/s": 1.0,
        "kbit/s": KILO,
        "mbit/s": MEGA,
        "gbit/s": GIGA,
    },
    "1": {"%": PERCENT, "": 1.0},
}
"""What a person may write behind a number, by base unit; lower case. tc's `m` of a time is a minute here too."""


def quantity(text: str, unit: str) -> float:
    """What a person wrote (`20ms`, `1%`, `10mbit`), in that base unit: `s`, `bit/s` or `1` (a share). A number alone is
    in the base unit. Raises ValueError, which says what may be written."""
    known = _WRITTEN[unit]
    number = text.strip().rstrip("%abcdefghijklmnopqrstuvwxyzµABCDEFGHIJKLMNOPQRSTUVWXYZ/ ")
    symbol = text.strip()[len(number) :].strip().lower()
    try:
        value = float(number) * (1.0 if not symbol else known[symbol])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0:
        examples = {"s": "20ms, 1.5s", "bit/s": "10mbit, 500kbit", "1": "1%, 0.01"}[unit]
        raise ValueError(f"'{text}' is not of the form {examples}")
    return value
