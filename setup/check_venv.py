"""Says whether the running virtual environment is whole: every file of every package is there, the versions are those
of the lock files, and labctl is this tree.

    check_venv.py TREE [LOCK…]              exit code 0: whole; 1: not, with the reason
    check_venv.py --versions LOCK…          prints `NAME LOCKED INSTALLED` where they differ (INSTALLED - : not there)

Uses the standard library, and the reader of requirements that pip has in itself: what a lock says for this Python is
then what pip took it to say. Imports nothing else that it checks.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

OURS = "labctl-datapath"
"""What pip calls labctl: other programs have the shorter name."""


def missing_files(distribution: Distribution) -> Iterator[str]:
    """Files that pip recorded and that are gone. Byte code may go at any time; directories outside are not ours.

    Read from the record itself: `Distribution.files` leaves out what is gone, from Python 3.12 on.
    """
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        if row and not row[0].endswith(".pyc") and not Path(str(distribution.locate_file(row[0]))).exists():
            yield row[0]


def canonical(name: str) -> str:
    """A package name as the packaging standard compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, Distribution]:
    """What pip installed has a .dist-info; the .egg-info that setuptools leaves in src/ lists files of the tree."""
    return {
        canonical(distribution.metadata["Name"] or ""): distribution
        for distribution in distributions()
        if distribution.read_text("RECORD") is not None
    }


def locked(lock: str) -> dict[str, str]:
    """NAME → VERSION of the text of a lock file, for this Python and system."""
    from pip._vendor.packaging.requirements import Requirement

    found = {}
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#")):
            pin = Requirement(line.removesuffix("\\").strip())
            if pin.marker is None or pin.marker.evaluate():
                (version,) = pin.specifier
                found[canonical(pin.name)] = version.version
    return found


def differences(locks: Sequence[Path], found: Mapping[str, Distribution]) -> Iterator[tuple[str, str, str]]:
    """Package, its version in the lock, and the one that is installed ("-" for none), where these are not the same."""
    for lock in locks:
        for name, version in locked(lock.read_text(encoding="utf-8")).items():
            here = found[name].version if name in found else "-"
            if here != version:
                yield name, version, here


def problems(tree: Path, locks: Sequence[Path]) -> Iterator[str]:
    found = installed()
    if OURS not in found:
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
    for name, version, here in differences(locks, found):
        yield f"{name} is {here}, and the lock has {version}" if here != "-" else f"{name} {version} is missing"


def main() -> int:
    first, *rest = sys.argv[1:]
    locks = [Path(name) for name in rest]
    if first == "--versions":
        for difference in differences(locks, installed()):
            sys.stdout.write(f"{' '.join(difference)}\n")
        return 0
    found = list(problems(Path(first), locks))
    venv = Path(sys.executable).parents[1].name
    for problem in found:
        sys.stderr.write(f"setup: {venv}: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
