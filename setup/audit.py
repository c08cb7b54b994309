"""`make audit`: asks for known vulnerabilities of the packages of the lock files.

Every package of requirements.txt and requirements-dev.txt is asked for by name and version (pip-audit, without
installing anything; the hashes in the files say what exactly they are). PyPI is asked first, then OSV for what PyPI
does not report: a private index in place of PyPI often has no advisories, and says so for every package.

Exit codes: 0 no known vulnerability; 1 at least one; 3 the advisories could not be reached, for all packages or for
some: no answer does not mean no vulnerability.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
SERVICES = {"pypi": "PyPI", "osv": "OSV (api.osv.dev)"}
_LONGEST_S = 300.0
_VERSION = re.compile(r"\(([^()\s]+)\)$")

Answers = Mapping[str, Sequence[str] | None]
"""By package (`rich 14.3.4`) the advisories, as a line each; None where no service answered."""


def parse(output: str) -> dict[str, list[str] | None]:
    """What pip-audit answered (`--format json`). Raises ValueError for what is no answer."""
    document = json.loads(output)
    answers: dict[str, list[str] | None] = {}
    try:
        for package in document["dependencies"]:
            if "skip_reason" in package:
                version = _VERSION.search(package["skip_reason"])
                answers[f"{package['name']} {version[1] if version else ''}".strip()] = None
            else:
                answers[f"{package['name']} {package['version']}"] = [_line(one) for one in package["vulns"]]
    except (KeyError, TypeError) as other:
        raise ValueError(f"it is not an answer of pip-audit: {other}") from other
    return answers


def _line(advisory: Mapping[str, Any]) -> str:
    fixed = ", ".join(advisory.get("fix_versions") or ()) or "no version yet"
    return f"{advisory['id']} (fixed in: {fixed})"


def verdict(answers: Answers, refusals: Iterable[str]) -> tuple[int, list[str]]:
    """The exit code, and what to say."""
    known = {package: found for package, found in answers.items() if found}
    unasked = sorted(package for package, found in answers.items() if found is None)
    said = [f"{package}: {line}" for package, found in sorted(known.items()) for line in found]
    refused = list(refusals)
    if unasked or not answers:
        count = f"{len(unasked)} of {len(answers)} packages" if answers else "any package"
        said.append(f"audit: the advisories could not be reached for {count}; whether they are vulnerable is not known")
        said += [f"  {line}" for line in refused]
        said.append("  try: where PyPI or OSV can be reached: make audit")
    if known:
        said.append(f"audit: {len(known)} of {len(answers)} packages have known vulnerabilities: make upgrade")
        return 1, said
    if unasked or not answers:
        return 3, said
    return 0, [f"audit: no known vulnerabilities in the {len(answers)} packages of {' and '.join(LOCKS)}"]


def joined(first: Answers, second: Answers) -> dict[str, Sequence[str] | None]:
    """An answer of either, and all advisories of both."""
    return {
        package: (
            None
            if first.get(package) is None and second.get(package) is None
            else list(dict.fromkeys((*(first.get(package) or ()), *(second.get(package) or ()))))
        )
        for package in {**first, **second}
    }


def ask(service: str) -> tuple[dict[str, list[str] | None], str]:
    """What that service knows of the lock files, and why it could not be asked (empty when it could)."""
    locks = [word for lock in LOCKS for word in ("--requirement", str(TREE / lock))]
    argv = [
        sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json",
        "--progress-spinner", "off", "--vulnerability-service", service, *locks,
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_LONGEST_S, check=False, cwd=TREE)
    except subprocess.TimeoutExpired:
        return {}, f"{SERVICES[service]} did not answer within {_LONGEST_S:g} s"
    try:
        answers = parse(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {}, f"{SERVICES[service]}: {lines[-1].strip()[:300] if lines else 'no answer'}"
    lost = sum(found is None for found in answers.values())
    return answers, f"{SERVICES[service]} has no answer for {lost} packages" if lost else ""


def main() -> int:
    answers: Answers = {}
    refusals = []
    for service in SERVICES:
        found, refusal = ask(service)
        answers = joined(answers, found)
        if not refusal:
            break
        refusals.append(refusal)
    code, said = verdict(answers, refusals)
    sys.stdout.write("".join(f"{line}\n" for line in said))
    return code


if __name__ == "__main__":
    sys.exit(main())
