"""What held where: the record of the acts of live_acts.py by provider, and the table of docs/providers.md.

tests/live_results.py     writes the table again from tests/live_results.json
"""

from __future__ import annotations

import datetime
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from live_acts import ACTS, Live

HERE = Path(__file__).resolve().parent
RECORD = HERE / "live_results.json"
DOCUMENT = HERE.parent / "docs" / "providers.md"
BEGIN, END = "<!-- from tests/live_results.json -->", "<!-- end of it -->"

Column = dict[str, Any]


def tried(act: str, live: Live, column: Column) -> None:
    """Does one act and notes what came of it: `held` (with seconds), `failed`, or why it was not tried. Raises what
    the act raised."""
    began = time.monotonic()
    if why := live.without.get(act):
        column["acts"][act] = {"not": why}
        return
    try:
        noted = ACTS[act](live)
    except BaseException:
        column["acts"][act] = {"failed": True}
        raise
    else:
        column["acts"][act] = {"held": True, "seconds": round(time.monotonic() - began, 1), **(noted or {})}


def new_column(about: str) -> Column:
    """A provider's results. `about` says what it ran on, with what stood in for something else."""
    return {"date": datetime.date.today().isoformat(), "about": about, "acts": {}}


def recorded(name: str, column: Column) -> None:
    """Keeps a column, where LABCTL_LIVE_RECORD asks for it, and writes the table again. A run of some acts only
    (LABCTL_LIVE_ACTS) leaves what is known of the others."""
    if os.environ.get("LABCTL_LIVE_RECORD") != "1":
        return
    columns = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("LABCTL_LIVE_ACTS"):
        column["acts"] = {**columns.get(name, {"acts": {}})["acts"], **column["acts"]}
    columns[name] = column
    RECORD.write_text(json.dumps(dict(sorted(columns.items())), indent=1) + "\n")
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), columns))


def rendered(document: str, columns: Mapping[str, Column]) -> str:
    """The document with the table of these columns in its place."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(_table(columns)) + f"\n{END}{after}"


def _table(columns: Mapping[str, Column]) -> Iterator[str]:
    names = sorted(columns)
    yield f"| act | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    for act in ACTS:
        yield f"| {act} | {' | '.join(_cell(columns[name]['acts'].get(act)) for name in names)} |"
    yield ""
    for name in names:
        yield f"- **{name}**, {columns[name]['date']}: {columns[name]['about']}"
    phases = [(name, columns[name]["acts"].get("up", {}).get("phases", {})) for name in names]
    if any(known for _, known in phases):
        yield from ("", "The phases of `up` in seconds, those of a second or more:", "")
    for name, known in phases:
        if known:
            yield f"- **{name}**: {', '.join(f'{phase} {seconds:.1f}' for phase, seconds in known.items())}"
    reasons = [
        f"- {name}, {act}: {result['not']}"
        for name in names for act, result in columns[name]["acts"].items() if "not" in result
    ]  # fmt: skip
    yield from (("", "Where an act means nothing:", "", *reasons) if reasons else ())


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "not tried"
    if result.get("held"):
        return f"held, {result['seconds']:.1f} s" if result["seconds"] < 100 else f"held, {result['seconds']:.0f} s"
    return "does not apply" if "not" in result else "**failed**"


def all_tried(live: Live, column: Column, told: Callable[[str], None] = print) -> list[str]:
    """Every act in order, those after a failed one too; the failures, each with its reason. LABCTL_LIVE_ACTS, a regular
    expression, leaves out the acts that it does not match."""
    failures = []
    for act in ACTS:
        if not re.search(os.environ.get("LABCTL_LIVE_ACTS", ""), act):
            continue
        why = ""
        try:
            tried(act, live, column)
        except Exception as failed:
            why = f"{type(failed).__name__}: {failed}"
            failures.append(f"{act}: {why}")
        told(f"{live.provider} {act}: {_cell(column['acts'][act])} {why}".rstrip())
    return failures


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(), json.loads(RECORD.read_text())))
