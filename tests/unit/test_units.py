"""Readable units: the right prefix, one scale for both sides, and nothing lost at the edges."""

from __future__ import annotations

import math

import pytest

from labctl import units


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (52.3e-6, "s", "52.3 µs"),
        (0.9e-9, "s", "0.900 ns"),
        (1.5e-3, "s", "1.50 ms"),
        (999.96e-6, "s", "1.00 ms"),
        (75, "s", "75.0 s"),
        (9.41e9, "bit/s", "9.41 Gbit/s"),
        (940e6, "bit/s", "940 Mbit/s"),
        (1500, "byte", "1.50 kB"),
        (0.57e-9, "cpu-s/byte", "0.570 s/GB"),
        (19_300, "count/s", "19.3 k/s"),
        (12, "count/s", "12.0/s"),
        (12.3e-6, "cpu-s", "12.3 µs"),
        (0.013, "1", "1.30 %"),
        (3, "count", "3"),
        (2.5, "count", "2.50"),
        (12_345, "count", "12345"),
        (0, "s", "0 s"),
        (4.2, "furlong", "4.20 furlong"),
        (math.nan, "s", "–"),
        (math.inf, "bit/s", "–"),
        (-52.3e-6, "s", "-52.3 µs"),
    ],
)
def test_a_value_is_shown_in_the_unit_that_people_use(value: float, unit: str, text: str) -> None:
    assert units.readable(value, unit) == text


def test_both_sides_of_a_row_share_the_scale_of_the_larger() -> None:
    scale = units.scale_for("s", (0.9e-3, 1.1e-3))
    assert [units.readable(value, "s", scale) for value in (0.9e-3, 1.1e-3)] == ["0.900 ms", "1.10 ms"]


@pytest.mark.parametrize(
    ("share", "signed", "text"),
    [
        (-0.21, True, "−21 %"),
        (0.048, True, "+4.8 %"),
        (0.048, False, "4.8 %"),
        (0.0996, False, "10 %"),
        (0.0994, False, "9.9 %"),
        (0.0003, True, "0 %"),
        (-0.0003, True, "0 %"),
        (2.5, True, "+250 %"),
        (math.nan, True, "–"),
    ],
)
def test_percent_has_one_decimal_below_ten(share: float, signed: bool, text: str) -> None:
    assert units.percent(share, signed=signed) == text
