"""The programs of this host behind the same door as a machine's: helm, docker. Owns no knowledge of any of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from labctl.providers.base import Completed, Running
from labctl.system import process


class HereCommands:
    """`providers.cilium.commands.Commands` of this host."""

    prefix: tuple[str, ...] = ()

    def find(self, program: str) -> str | None:
        return process.find_program(program)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        return process.run(argv, timeout_s=timeout_s, stdin=stdin)

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        return process.Process(argv, stdin=stdin, output=output)
