"""A clock that stands still until it is told to go on: tests of waiting take no time."""

from __future__ import annotations


class FakeClock:
    """Seconds since it was made. `sleep` moves it on at once and remembers for how long it was asked to."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self.slept_s: list[float] = []

    def monotonic_s(self) -> float:
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        if duration_s < 0:
            raise ValueError("time does not go back")
        self._now_s += duration_s
