"""Whether labs of kind can be on this host, for commands that look for any lab.

It stands alone because loading the provider to find that out would make `labctl list` wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from labctl.model.result import Completed
from labctl.providers.cilium.commands import RECORD, state_root
from labctl.providers.kind.tools import argv_list, engine_here
from labctl.system import process

LOOK_S = 10.0


def _run(argv: Sequence[str]) -> Completed:
    return process.run(argv, timeout_s=LOOK_S)


def may_have_labs(
    root: Path | None = None,
    *,
    find: Callable[[str], str | None] = process.find_program,
    run: Callable[[Sequence[str]], Completed] = _run,
) -> bool:
    """False when `KindProvider.discover` would find none: the engine has no node of any kind cluster, or there is none
    or it does not answer, and no lab is on record."""
    engine = engine_here(find)
    if find(engine) is not None:
        listed = run(argv_list(engine))
        if not listed.timed_out and listed.returncode == 0:
            return bool(listed.text.strip())
    return any((root or state_root("kind")).glob(f"*/{RECORD}"))
