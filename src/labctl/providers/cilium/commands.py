"""The door to programs: argv in, what they printed out. This host's, a machine's over SSH, or a test's script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from labctl.errors import MeasureFailed
from labctl.providers.base import Completed, Running


class Commands(Protocol):
    """Runs programs somewhere. Tests script it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a person types before argv to run it there; nothing for this host."""
        ...

    def find(self, program: str) -> str | None:
        """Where the program is, or None."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Runs argv to its end or its deadline. Raises HostLacks when the program is not there."""
        ...

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        """Starts argv; leaving the context ends it. With `output`, a descriptor, its standard output goes there as it
        comes and is not kept."""
        ...


def shown(commands: Commands, argv: Sequence[str]) -> str:
    """argv as it can be pasted into a shell of this host."""
    return pasted(commands.prefix, argv)


def pasted(prefix: Sequence[str], argv: Sequence[str]) -> str:
    """Behind ssh a second shell reads the words, so they are quoted once more where that matters."""
    there = shlex.join(argv)
    if not prefix:
        return there
    return shlex.join(prefix) + " " + (there if there == " ".join(argv) else shlex.quote(there))


def with_kubeconfig(text: str, commands: Commands, kubectl: Sequence[str]) -> str:
    """A remedy that begins with a bare `kubectl`, for this cluster and from this host."""
    found = text.removeprefix("kubectl ")
    return text if found == text else f"{shown(commands, kubectl)} {found}"


def must(commands: Commands, argv: Sequence[str], *, timeout_s: float) -> Completed:
    """Runs argv to look at something. Raises MeasureFailed when it fails."""
    done = commands.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode != 0:
        lines = done.error_text.strip().splitlines() or done.text.strip().splitlines()
        raise MeasureFailed(
            what=f"{' '.join(argv[:2])} … " + (f"did not end in {timeout_s:g} s" if done.timed_out else "failed"),
            cause=lines[-1] if lines else f"exit status {done.returncode}, and no word",
            remedy=shown(commands, argv),
        )
    return done
