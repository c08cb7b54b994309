"""Durations as iperf3 and sockperf can be told them: whole seconds."""

from __future__ import annotations

import math


def whole_seconds(duration_s: float) -> int:
    """The duration in whole seconds, rounded up, at least 1: no shorter than what was asked for."""
    return max(1, math.ceil(duration_s))
