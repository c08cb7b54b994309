"""Shows a plan, as text for people, as JSON for programs, as a shell script for students; and how labs differ.

The difference is in words, for "the running lab was made from another version of this scenario". Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.planning.record import lab_to_json
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


_IGNORED = ("apiVersion", "kind", "name", "scenario", "source", "digest", "links")
"""Links follow from the fabric and the nodes."""
_NAMED = {"nodes": "node", "pods": "pod", "checks": "check", "services": "service", "routers": "router"}


def differences(lab_a: Lab, lab_b: Lab) -> tuple[str, ...]:
    """One sentence for each thing that is otherwise in `lab_b` than in `lab_a`; names and files do not count."""
    a, b = lab_to_json(lab_a), lab_to_json(lab_b)
    told: list[str] = []
    for section in {**a, **b}:
        if section in _IGNORED or a.get(section) == b.get(section):
            continue
        if section in _NAMED:
            told.extend(_of_named(_NAMED[section], a.get(section, []), b.get(section, [])))
        elif section == "pairs":
            told.extend(_of_pairs(a[section], b[section]))
        else:
            told.extend(_of_values(section, a.get(section), b.get(section)))
    return tuple(told)


def _of_named(what: str, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Iterator[str]:
    before, after = ({entry["name"]: entry for entry in entries} for entries in (a, b))
    yield from (f"{what} {name} is gone" for name in before if name not in after)
    for name, entry in after.items():
        if name not in before:
            where = f" on {entry['node']}" if what == "pod" else ""
            yield f"{what} {name} is new{where}"
        elif what == "pod" and before[name]["node"] != entry["node"]:
            yield f"pod {name} is on {entry['node']}, was on {before[name]['node']}"
            yield from _of_values(f"pod {name}:", _fixed(before[name]), _fixed(entry))
        else:
            yield from _of_values(f"{what} {name}:", before[name], entry)
    if list(before) != list(after) and sorted(before) == sorted(after):
        yield f"the {what}s are in another order"


def _fixed(pod: dict[str, Any]) -> dict[str, Any]:
    """What stays when a pod moves: its node and its address follow from the move."""
    return {key: value for key, value in pod.items() if key not in ("node", "address")}


def _of_pairs(a: list[dict[str, str]], b: list[dict[str, str]]) -> Iterator[str]:
    before, after = ({(pair["client"], pair["server"]): pair["placement"] for pair in pairs} for pairs in (a, b))
    yield from (f"pair {client}→{server} is gone" for client, server in before if (client, server) not in after)
    for (client, server), placement in after.items():
        if (client, server) not in before:
            yield f"pair {client}→{server} ({placement}) is new"
        elif before[client, server] != placement:
            yield f"pair {client}→{server} is {placement}, was {before[client, server]}"
    if list(before) != list(after) and sorted(before) == sorted(after):
        yield "the pairs are in another order"


def _of_values(path: str, a: object, b: object) -> Iterator[str]:
    if a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _of_values(f"{path}{' ' if path.endswith(':') else '.'}{key}", a.get(key), b.get(key))
    elif a is None:
        yield f"{path} is {_said(b)}, was not there"
    elif b is None:
        yield f"{path} is gone, was {_said(a)}"
    else:
        yield f"{path} is {_said(b)}, was {_said(a)}"


def _said(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    return str(value)
