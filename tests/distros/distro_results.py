"""What a run of `make test-distros` found, as data, and the table of docs/platforms.md that is made from it. Pure.

python3 tests/distros/distro_results.py         writes the table into docs/platforms.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
DOCUMENT = TREE / "docs/platforms.md"
BEGIN = "<!-- made from tests/distros/results by tests/distros/distro_results.py -->"
END = "<!-- end of what is made -->"

VERSIONS = {
    "python": r"Python (\S+)",
    "iputils": r"iputils[ -]s?(\d\S*)",
    "iproute2": r"iproute2-([^\s,]+)",
    "iperf3": r"iperf (\S+)",
    "nft": r"nftables v(\S+)",
    "tcpdump": r"tcpdump version (\S+)",
    "clang": r"clang version (\S+)",
    "openssh": r"OpenSSH_([^\s,]+)",
    "kernel": r"(\d+(?:\.\d+)+)",
}
"""The tools whose words decide what labctl reads, and where their own account of themselves has the version."""

_TITLES = {
    "python": "Python",
    "openssh": "OpenSSH",
    "kernel": "kernel (the host's)",
}
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|deselected)")
_SUMMARY = re.compile(r"^=+ (?P<counts>\d+ .*) in [\d.]+s\b.*=+$")
_RED = re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::\w+)*(?:\[.*?\](?= - |$))?)", re.MULTILINE)


def parse_versions(text: str) -> dict[str, str]:
    """From the lines `tool<TAB>what it says`. A tool that is not there, or says something else, has none."""
    said = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    found = {tool: re.search(pattern, said.get(tool, "")) for tool, pattern in VERSIONS.items()}
    return {tool: match[1] for tool, match in found.items() if match is not None}


def not_locked(packages: str, lock: str) -> dict[str, str]:
    """The packages that the lock names and has in no such version, from `pip list --format=freeze`."""
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        locked.setdefault(_normal(name), set()).add(version)
    installed = re.findall(r"^([\w.-]+)==(\S+)", packages, re.MULTILINE)
    return {name: version for name, version in installed if version not in locked.get(_normal(name), {version})}


def _normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_tests(log: str) -> dict[str, Any]:
    """pytest's own counts, those of all its runs in the log together (`make test` has two), and the names of the tests
    that failed; {} when pytest did not get to its last line."""
    lines = [found for line in log.splitlines() if (found := _SUMMARY.match(line.strip()))]
    if not lines:
        return {}
    counts: dict[str, int] = {}
    for line in lines:
        for number, word in _COUNT.findall(line["counts"]):
            word = word.rstrip("s") if word.startswith("error") else word
            counts[word] = counts.get(word, 0) + int(number)
    return {"counts": counts, "red": sorted(set(_RED.findall(log)))}


def last_words(log: str) -> str:
    """What stands last in a log, for a step that failed before it had counts."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def step_record(log: str, status: int, seconds: int, step: str) -> dict[str, Any]:
    record: dict[str, Any] = {"exitCode": status, "seconds": seconds}
    if step == "test":
        record |= parse_tests(log)
    if status and not record.get("red"):
        record["lastWords"] = last_words(log)
    return record


def is_green(record: Mapping[str, Any]) -> bool:
    return all(step["exitCode"] == 0 for step in record["steps"].values())


def outcome(step: Mapping[str, Any]) -> str:
    """One cell of the table."""
    counts = ", ".join(f"{number} {word}" for word, number in step.get("counts", {}).items())
    took = f"{step['seconds'] // 60} min {step['seconds'] % 60} s"
    word = "passed" if step["exitCode"] == 0 else f"exit code {step['exitCode']}"
    return f"{word} ({', '.join(part for part in (counts, took) if part)})"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, one column for each distribution; below it every test that failed, by name."""
    if not records:
        return "No complete run yet.\n"
    rows = [
        ("", [title_of(record) for record in records]),
        ("tried on", [record["date"] for record in records]),
        ("labctl", [f"`{record['commit'][:12]}`{' with changes' if record['changed'] else ''}" for record in records]),
        *((f"`make {step}`", [outcome(record["steps"][step]) for record in records]) for step in ("compare", "test")),
        *(
            (_TITLES.get(tool, tool), [record["versions"].get(tool, "not there") for record in records])
            for tool in VERSIONS
        ),
    ]
    lines = ["| " + " | ".join([title, *cells]) + " |" for title, cells in rows]
    lines.insert(1, "|---" * (len(records) + 1) + "|")
    for record in records:
        lines += [*_newest(record), *_failures(record)]
    return "\n".join(lines) + "\n"


def title_of(record: Mapping[str, Any]) -> str:
    return f"{record['name']}, NEWEST=1" if record.get("newest") is not None else str(record["name"])


def _newest(record: Mapping[str, Any]) -> Iterable[str]:
    if (newest := record.get("newest")) is None:
        return
    found = ", ".join(" ".join(package) for package in sorted(newest.items())) or "none, the lock has the newest"
    yield ""
    yield f"{title_of(record)}: `make test NEWEST=1`; not the lock's versions: {found}."


def _failures(record: Mapping[str, Any]) -> Iterable[str]:
    for step, found in record["steps"].items():
        if found["exitCode"] == 0:
            continue
        yield ""
        yield f"{title_of(record)}, `make {step}`:"
        yield ""
        yield from (f"- `{name}`" for name in found.get("red", ()))
        if "lastWords" in found:
            yield f"- it ended with: `{found['lastWords']}`"


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Oldest distribution first."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(
        records, key=lambda record: (record["release"] or "~", record["name"], record.get("newest") is not None)
    )


def write_result(name: str, record: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def with_table(document: str, made: str) -> str:
    """The document with the table in the place of the one that it has."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def update_document() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_table(document, table(read_results())), encoding="utf-8")


if __name__ == "__main__":
    update_document()
    print(f"{DOCUMENT} has the table of {len(read_results())} results", file=sys.stderr)
