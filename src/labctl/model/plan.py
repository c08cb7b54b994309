"""A plan: what will be done, in order, as data that can be printed, compared and replayed.

The actions inside a step belong to a provider (`providers/netns/kinds` has them for namespaces);
this module only knows that each one can say what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from labctl.values import dataclass


class Action(Protocol):
    """One act on the machine. A frozen value."""

    def shell(self) -> str:
        """The commands that a person would type to do the same: one or more lines of POSIX shell."""
        ...

    def record(self) -> Mapping[str, object]:
        """The action as JSON-ready data, with its `kind`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One act of building that a person would name, with what undoes it.

    `id` is unique in its plan; `title` reads as a sentence in the progress ("node node1: links and addresses").
    `undo` is carried out when this or a later step fails, also when the step was only half done.
    """

    id: str
    title: str
    actions: tuple[Action, ...]
    undo: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that build one lab, in order.

    `preamble` and `closing` frame the shell script: they set up what it needs and take that away again.
    """

    lab: str
    provider: str
    steps: tuple[Step, ...]
    preamble: str = ""
    closing: str = ""
    is_resumable: bool = False
    """What was built stays when a step fails, and building again goes on from there (machines: each step takes
    minutes and can be repeated)."""
