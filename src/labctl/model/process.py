"""A process that has ended, as data. Starting and waiting are `system.process` and the providers'."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A process that has ended. `returncode` is negative for a signal, as in subprocess.

    `cpu_s` is the user and system time of the process and its waited-for children, or None where the provider
    cannot tell. `timed_out` says that it was killed at its deadline.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    duration_s: float
    cpu_s: float | None = None
    timed_out: bool = False

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", errors="replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", errors="replace")
