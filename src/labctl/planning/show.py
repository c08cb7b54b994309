"""Shows a plan: as text for people, as JSON for programs, as a shell script for students. Pure.

It stands alone because what a plan looks like follows from the plan, and `labctl plan` only chooses one of the three.
"""

from __future__ import annotations

from collections.abc import Callable

from labctl.model.plan import Plan
from labctl.planning.shell import remark
from labctl.text import filled


def as_text(plan: Plan, *, width: int = 0, say: Callable[[str], str] = str) -> str:
    """The steps by number, each with the commands that it stands for. Titles are wrapped at `width` columns, unless it
    is 0; commands never are. `say` translates titles; commands and the files that they write stay as they are."""
    lines = [say(f"plan of lab {plan.lab} ({plan.provider}): {len(plan.steps)} steps")]
    for number, step in enumerate(plan.steps, start=1):
        indent, title = f"{number:3}. ", say(step.title)
        lines.append(filled(title, width, indent=indent, more="     ") if width else f"{indent}{title}")
        lines += [f"       {line}" for action in step.actions for line in action.shell().splitlines()]
    return "\n".join(lines) + "\n"


def as_record(plan: Plan) -> dict[str, object]:
    """The plan as one JSON document."""
    return {
        "apiVersion": "labctl/v1",
        "kind": "Plan",
        "lab": plan.lab,
        "provider": plan.provider,
        "steps": [
            {
                "id": step.id,
                "title": step.title,
                "actions": [dict(action.record()) for action in step.actions],
                "undo": [dict(action.record()) for action in step.undo],
            }
            for step in plan.steps
        ],
    }


def as_script(plan: Plan) -> str:
    """A POSIX shell script that builds the same lab by hand, one comment a step."""
    parts = ["#!/bin/sh", remark(f"Builds the lab {plan.lab} ({plan.provider}) by hand, step by step."), "set -eu"]
    if plan.preamble:
        parts += ["", plan.preamble.rstrip("\n")]
    for step in plan.steps:
        parts += ["", remark(step.title)]
        parts += [action.shell() for action in step.actions]
    if plan.closing:
        parts += ["", plan.closing.rstrip("\n")]
    return "\n".join(parts) + "\n"
