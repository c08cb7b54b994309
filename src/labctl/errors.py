"""The exceptions that labctl shows to people, and the exit code that each one carries.

    LabError                 what happened, why, what to do next
    ├── UsageError           2   the command line or a name in it is wrong
    │   └── ScenarioInvalid  2   every problem of one or more scenario files, with its place
    │       └── LessonInvalid 2  the same of a lesson's files
    ├── HostLacks            3   a tool, kernel feature or right is missing on this host
    │   └── NeedsRoot        3   only root may do this
    ├── StepFailed           4   building or removing a lab stopped
    ├── MeasureFailed        4   a check could not be carried out (which is not: the network failed it)
    │   ├── ToolMissing      4   …because a program is not in the pod or on the node; a check is then skipped
    │   └── Starved          4   …because a program did not get going, as for want of CPU; it is tried once more
    ├── DiskFull             4   what is kept of a measurement has no room left on its disk
    ├── NotInForce           4   the lab does not run in the mode that was asked for
    └── Interrupted        130   Ctrl-C or SIGTERM, after everything was undone
        └── TimedOut         4   --timeout was over, after everything was undone

This module owns the tree and nothing else: printing is the cli's, catching foreign exceptions is
done at the edge that meets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from labctl.values import dataclass


class LabError(Exception):
    """Something a person has to know: `what` happened, its `cause`, and the `remedy` to try next.

    `cause` and `remedy` may be empty. Each line of a remedy is one thing to try, as it can be pasted into a shell.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, what: str, cause: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.remedy = remedy

    def lines(self) -> tuple[str, ...]:
        """The message as it is printed: one line each, empty parts left out."""
        return (f"error: {self.what}", *_under("  why: ", self.cause), *_under("  try: ", self.remedy))


def _under(heading: str, text: str) -> tuple[str, ...]:
    """The text's lines below each other, the first one behind the heading; nothing for no text."""
    lines = text.splitlines()
    return tuple(f"{' ' * len(heading) if number else heading}{line}" for number, line in enumerate(lines))


class UsageError(LabError):
    """The command line cannot be carried out as written. `key` is the key of the scenario that is at fault
    (`cilium.version`), where it is one: what has the file can then give its place."""

    exit_code = 2

    def __init__(self, what: str, cause: str = "", remedy: str = "", key: str = "") -> None:
        super().__init__(what, cause, remedy)
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in one file.

    `line` and `column` count from 1 and are 0 when the problem has no place (an unreadable file).
    `path` is the key's path, such as `pods[1].node`; `allowed` says what would be accepted. What is allowed
    and seldom meant is a warning.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    allowed: str = ""
    suggestion: str = ""
    is_warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        message = f"warning: {self.message}" if self.is_warning else self.message
        text = f"{place}: {self.path}: {message}" if self.path else f"{place}: {message}"
        if self.allowed:
            text += f" (allowed: {self.allowed})"
        if self.suggestion:
            text += f"; did you mean '{self.suggestion}'?"
        return text


class ScenarioInvalid(UsageError):
    """Every problem of the scenario files, in the order of file, line and column."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.path)))
        count = len(self.problems)
        super().__init__(
            what=f"the scenario is invalid: {count} {'problem' if count == 1 else 'problems'}",
            remedy="correct the places above, then run: labctl validate FILE",
        )

    def lines(self) -> tuple[str, ...]:
        return (*(str(problem) for problem in self.problems), *super().lines())


class LessonInvalid(ScenarioInvalid):
    """Every problem of a lesson's files: lesson.yaml, its texts, its solution."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(problems)
        count = len(self.problems)
        self.what = f"the lesson is invalid: {count} {'problem' if count == 1 else 'problems'}"
        self.remedy = "correct the places above (docs/lessons.md), then run: labctl lesson test NAME"


class RosterInvalid(ScenarioInvalid):
    """Every problem of the file that says who takes part in a class."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(problems)
        count = len(self.problems)
        self.what = f"the roster is invalid: {count} {'problem' if count == 1 else 'problems'}"
        self.remedy = "correct the places above (docs/class.md), then the same command again"


class HostLacks(LabError):
    """This host has not got what the lab needs. `key` is the key of the scenario that needs it, where it is one."""

    exit_code = 3

    def __init__(self, what: str, cause: str = "", remedy: str = "", key: str = "") -> None:
        super().__init__(what, cause, remedy)
        self.key = key


class NeedsRoot(HostLacks):
    """Only root may do this. The remedy is the same command again with sudo, which only the command line knows."""


class StepFailed(LabError):
    """A step of building or removing a lab failed; what was built has been undone. `key` is the key of the scenario
    that the step came from, where it is one."""

    def __init__(self, what: str, cause: str = "", remedy: str = "", key: str = "") -> None:
        super().__init__(what, cause, remedy)
        self.key = key


class MeasureFailed(LabError):
    """A check could not measure: the tool failed, not the network."""


class ToolMissing(MeasureFailed):
    """A program that a check runs is not where it should run."""


class Starved(MeasureFailed):
    """A program did not get going in its time, or measured nothing in it, as where it gets no CPU."""


class DiskFull(LabError):
    """A run could not be written any further: the disk, or what this user may have of it, is full."""


class NotInForce(LabError):
    """The datapath mode that was asked for is not the one in force."""


class Interrupted(LabError):
    """The person (or the CI system) stopped the command. That is no error, and is not called one."""

    exit_code = 130

    def lines(self) -> tuple[str, ...]:
        _, *rest = super().lines()
        return (f"interrupted: {self.what}", *rest)


class TimedOut(Interrupted):
    """The time that the command was given is over: it ends as if a person had stopped it, and that is an error."""

    exit_code = 4

    def lines(self) -> tuple[str, ...]:
        return LabError.lines(self)
