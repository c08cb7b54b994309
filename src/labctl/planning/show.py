"""Shows a plan: as text for people, as JSON for programs, as a shell script for students. Pure.

It stands alone because what a plan looks like follows from the plan, and `labctl plan` only chooses one of the three.
"""

from __future__ import annotations

import textwrap

from labctl.model.plan import Plan
from labctl.planning.shell import remark


def as_text(plan: Plan, *, width: int = 0) -> str:
    """The steps by number, each with the commands that it stands for. Titles are wrapped at `width` columns, unless it
    is 0; commands never are."""
    lines = [f"plan of lab {plan.lab} ({plan.provider}): {len(plan.steps)} steps"]
    for number, step in enumerate(plan.steps, start=1):
        title = f"{number:3}. {step.title}"
        lines += textwrap.wrap(title, width, subsequent_indent="     ", break_on_hyphens=False) if width else [title]
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
