"""Which kernels are asked for, and what came of them: recorded with its date, and the table of docs/kernels.md.

tests/vm/results.py     writes the table again from tests/vm/results.json
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "results.json"
DOCUMENT = HERE.parents[1] / "docs" / "kernels.md"
BEGIN, END = "<!-- from tests/vm/results.json -->", "<!-- end of it -->"
SAMPLE = ("6.1", "6.12")
"""Those of the distributions that the README names; the host's own kernel is newer than both."""

Judged = dict[str, Any]


def wanted_kernels(asked: str, today: datetime.date | None = None) -> tuple[tuple[str, ...], bool]:
    """What LABCTL_TEST_VM asks for (`6.1 6.12`, or `sample`: one, by the date), and whether it is the sample."""
    if asked != "sample":
        return tuple(asked.split()), False
    day = (today or datetime.date.today()).toordinal()
    return (SAMPLE[day % len(SAMPLE)],), True


def judged(found: Mapping[str, Any]) -> Judged:
    """One line of the table: what a guest found, without what it printed."""
    scenarios = found["scenarios"].values()
    loads = found.get("objects", {}).values()
    traces = [json.loads(one["trace"]["stdout"] or "{}") for one in scenarios if "trace" in one]
    return {
        "kernel": found["kernel"],
        "package": found["package"],
        "doctor": found["doctor"]["code"] == 0,
        "proven": sum(_is_proven(one) for one in scenarios),
        "checked": sum(one.get("check", {}).get("code") == 0 for one in scenarios),
        "traced": sum(one.get("trace", {}).get("code") == 0 for one in scenarios),
        "down": sum(one["down"]["code"] == 0 for one in scenarios),
        "scenarios": len(scenarios),
        "objects": [sum(not refused for refused in loads), len(loads)],
        "leftBehind": sum(map(len, found["leftBehind"].values())),
        "unshown": sorted({f"{one['mover']}: {one['since']}" for trace in traces for one in trace.get("unshown", [])}),
        "ownsTables": _is_there(found["doctor"], "nft tables with owners"),
        "tests": _counts(found.get("tests", {}).get("stdout", "")),
    }


def _is_there(doctor: Mapping[str, Any], name: str) -> bool:
    probes = json.loads(doctor["stdout"] or "{}").get("probes", [])
    return any(probe["name"] == name and probe["present"] for probe in probes)


def _is_proven(scenario: Mapping[str, Any]) -> bool:
    status = scenario.get("status", {})
    return status.get("code") == 0 and bool(json.loads(status["stdout"])["modeInForce"]["proven"])


def _counts(said: str) -> dict[str, int]:
    """pytest's closing line: `{"passed": 120, "failed": 1}`."""
    last = said.strip().splitlines()[-1:] or [""]
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", last[0])}


def recorded(wanted: str, line: Judged) -> None:
    """Keeps the line, where LABCTL_VM_RECORD asks for it, and writes the table again."""
    if os.environ.get("LABCTL_VM_RECORD") != "1":
        return
    lines = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    lines[wanted] = {"date": datetime.date.today().isoformat(), **line}
    ordered = dict(sorted(lines.items(), key=lambda one: [int(part) for part in re.findall(r"\d+", one[1]["kernel"])]))
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n")
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), ordered))


def rendered(document: str, lines: Mapping[str, Judged]) -> str:
    """The document with the table of these lines in its place."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_table(lines))
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _table(lines: Mapping[str, Judged]) -> Iterator[str]:
    yield (
        "| kernel | tried | objects loaded | up, mode proven | checks | traces | what it lacks | down, nothing left "
        "| tests |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in lines.values():
        of = one["scenarios"]
        unshown = [
            f"{mover} steps in a trace ({since} and later have them)"
            for mover, _, since in (u.partition(": ") for u in one["unshown"])
        ]
        owner = [] if one["ownsTables"] else ["owners of nft tables (5.12 and later have them)"]
        tests = ", ".join(f"{number} {word}" for word, number in one["tests"].items()) or "not run"
        loaded, shipped = one.get("objects", (0, 0))
        objects = f"{loaded} of {shipped}" if shipped else "not tried"
        is_clean = "yes" if one["down"] == of and not one["leftBehind"] else f"{one['down']} of {of}"
        yield (
            f"| {one['kernel']} | {one['date']} | {objects} | {one['proven']} of {of} | {one['checked']} of {of} "
            f"| {one['traced']} of {of} | {'; '.join((*unshown, *owner)) or 'nothing'} | {is_clean} | {tests} |"
        )


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), json.loads(RECORD.read_text())))
