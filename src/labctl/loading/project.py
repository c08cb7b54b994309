"""Where scenarios and lab.yaml are: the project around a directory, and the files that names stand for.

The project's root is the nearest directory at or above the start that has a lab.yaml; without one, the checkout that
labctl itself runs from. A name is looked for in `scenarios/` of the start, then of the root. No file is opened here;
which files are trusted, whatever their owner, is decided here.
"""

from __future__ import annotations

import os
from pathlib import Path

from labctl.errors import UsageError
from labctl.loading.messages import listed, nearest, shown
from labctl.names import is_name
from labctl.values import dataclass

SITE_FILE = "lab.yaml"
SCENARIO_DIRECTORY = "scenarios"
SUFFIX = ".yaml"

_CHECKOUT = Path(__file__).resolve().parents[3]
LESSON_DIRECTORY, SOLUTION_DIRECTORY = "lessons", "solutions"
_AS_ITS_CODE = (SCENARIO_DIRECTORY, LESSON_DIRECTORY, SOLUTION_DIRECTORY)
"""Folders of the checkout: a user who can write there can write labctl itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """`start` is where the person is; `root` has the lab.yaml, and is None when there is no project at all. `trust`
    is set by `--trust`: files count that another user could have written."""

    start: Path
    root: Path | None
    trust: bool = False

    @property
    def site(self) -> Path | None:
        return self.root / SITE_FILE if self.root else None

    def directories(self, kind: str = SCENARIO_DIRECTORY) -> tuple[Path, ...]:
        """Where scenarios, or what that folder is for, are looked for by name, in order."""
        bases = [self.start] if self.root in (None, self.start) else [self.start, self.root]
        return tuple(base / kind for base in bases if base is not None)

    def names(self) -> tuple[str, ...]:
        """The names of all scenarios, sorted."""
        found = {name for directory in self.directories() for name in _names_in(directory)}
        return tuple(sorted(found))

    def shown(self, path: Path) -> str:
        """The path as messages show it: relative when it is below the start."""
        try:
            return str(path.relative_to(self.start))
        except ValueError:
            return str(path)

    def is_trusted(self, folder: Path, name: str) -> bool:
        """True for a file that root trusts whatever its owner: any after --trust, and those of the clone
        that labctl itself runs from, as its code. `folder` has no link in it."""
        is_own = folder == _CHECKOUT and name == SITE_FILE
        return self.trust or is_own or any(folder.is_relative_to(_CHECKOUT / below) for below in _AS_ITS_CODE)

    def scenario(self, name_or_path: str) -> Path:
        """The file of a scenario: a name, or the path of a file. Raises UsageError, with the names that there are."""
        if name_or_path.endswith(SUFFIX) or self._is_other_file(name_or_path):
            path = self.start / name_or_path
            if not os.path.lexists(path) and "\x00" not in name_or_path:
                raise self._unknown(f"there is no scenario file {shown(name_or_path)}", Path(name_or_path).stem)
            return path
        if not is_name(name_or_path):
            raise UsageError(
                f"{shown(name_or_path)} is neither a scenario's name nor a path ending in {SUFFIX}",
                "names have lower-case letters, digits and hyphens, at most 40 characters",
                self._choices(name_or_path),
            )
        for directory in self.directories():
            path = directory / (name_or_path + SUFFIX)
            if os.path.lexists(path):
                return path
        raise self._unknown(f"there is no scenario {shown(name_or_path)}", name_or_path)

    def _is_other_file(self, text: str) -> bool:
        """A path without the suffix: what is no scenario's name, and is there."""
        return not is_name(text) and "\x00" not in text and bool(text) and os.path.lexists(self.start / text)

    def _unknown(self, what: str, name: str) -> UsageError:
        looked = " and ".join(f"{self.shown(directory)}/" for directory in self.directories())
        return UsageError(what, f"looked in {looked}", self._choices(name))

    def _choices(self, name: str) -> str:
        names = self.names()
        if not names:
            return f"write one: {SCENARIO_DIRECTORY}/NAME{SUFFIX} (docs/scenario.md has every key)"
        meant = nearest(name, names)
        return f"did you mean '{meant}'? there are: {listed(names)}" if meant else f"there are: {listed(names)}"


def project_at(start: Path | None = None, *, trust: bool = False) -> Project:
    """The project around `start` (by default the current directory). Raises UsageError when that is gone."""
    try:
        at = Path.cwd() if start is None else start.absolute()
    except FileNotFoundError:
        raise UsageError("the current directory does not exist any more", "", "cd to a directory that does") from None
    for directory in (at, *at.parents, _CHECKOUT):
        if (directory / SITE_FILE).is_file():
            return Project(start=at, root=directory, trust=trust)
    return Project(start=at, root=None, trust=trust)


def _names_in(directory: Path) -> list[str]:
    try:
        files = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    return [name for file in files if file.endswith(SUFFIX) and is_name(name := file.removesuffix(SUFFIX))]
