"""The mark of a namespace: the text on its loopback device by which labctl knows its own. Pure.

It starts with `names.MARK` and goes on with facts as JSON, so that a lab can be listed when nothing but its
namespaces is left. An interface alias holds 255 bytes; the facts are cut to fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.names import MARK

_ALIAS_BYTES = 255
_DIGEST_DIGITS = 16
_SCENARIO_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a namespace says of itself. `digest` is the beginning of the lab's digest."""

    scenario: str
    digest: str
    kind: str


def mark_of(lab: Lab, kind: str) -> str:
    """The alias for a part (`node`, `pod`, `underlay`) of the lab."""
    facts = {"scenario": lab.scenario[:_SCENARIO_CHARACTERS], "digest": lab.digest[:_DIGEST_DIGITS], "kind": kind}
    text = f"{MARK} {json.dumps(facts, separators=(',', ':'))}"
    return text if len(text.encode()) <= _ALIAS_BYTES else MARK


def parse_mark(alias: str) -> Mark | None:
    """What the alias says; None when it is not labctl's. A bare mark is a mark, without facts."""
    mark, _, facts = alias.partition(" ")
    if mark != MARK:
        return None
    try:
        known = parse_json(facts) if facts else {}
    except ValueError:
        known = {}
    if not isinstance(known, dict):
        known = {}
    return Mark(
        scenario=str(known.get("scenario", "")), digest=str(known.get("digest", "")), kind=str(known.get("kind", ""))
    )
