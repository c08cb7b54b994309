"""Says whether the running virtual environment is whole: every file of every package is there, and labctl is this tree.

Uses the standard library only and imports nothing that it checks. Exit code 0: whole; 1: not, with the reason.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path


def missing_files(distribution: Distribution) -> Iterator[str]:
    """Files that pip recorded and that are gone. Byte code may go at any time; directories outside are not ours."""
    for file in distribution.files or ():
        if file.suffix != ".pyc" and not Path(str(file.locate())).exists():
            yield str(file)


def canonical(name: str) -> str:
    """A package name as the packaging standard compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def problems(tree: Path) -> Iterator[str]:
    # What pip installed has a .dist-info; the .egg-info that setuptools leaves in src/ lists files of the tree.
    found = {
        canonical(distribution.metadata["Name"] or ""): distribution
        for distribution in distributions()
        if distribution.read_text("RECORD") is not None
    }
    if "labctl" not in found:
        yield "labctl is not installed"
        return
    if str(tree / "src") not in sys.path:
        yield f"labctl is not installed from {tree}"
    for name, distribution in sorted(found.items()):
        for requirement in distribution.requires or ():
            wanted = re.match(r"[A-Za-z0-9._-]+", requirement)
            if ";" not in requirement and wanted and canonical(wanted.group()) not in found:
                yield f"{name} needs {wanted.group()}"
        lost = next(missing_files(distribution), None)
        if lost is not None:
            yield f"{name} has lost {lost}"


def main() -> int:
    found = list(problems(Path(sys.argv[1])))
    for problem in found:
        sys.stderr.write(f"setup: .venv: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
