"""The acts that a lab on a cluster is built from, as frozen values; each knows its shell equivalent. None acts.

`execute.py` carries them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from labctl.planning.shell import quoted, word
from labctl.providers.cilium.workloads import LAB_LABEL
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAct:
    def record(self) -> Mapping[str, object]:
        name = re.sub(r"(?<!^)([A-Z])", r"-\1", type(self).__name__).lower()
        return {"kind": name, **{key: _plain(value) for key, value in asdict(self).items()}}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | dict) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRights(ClusterAct):
    """Asks whether everything that the lab takes is allowed, before anything is made. `questions` are argv, `rights`
    what each asks for in words."""

    questions: tuple[tuple[str, ...], ...]
    rights: tuple[str, ...]

    def shell(self) -> str:
        asked = zip(self.questions, self.rights, strict=True)
        return "\n".join(
            f"{quoted(argv)} --quiet || {{ echo {word(f'no right to {right}')} >&2; exit 1; }}" for argv, right in asked
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNamespace(ClusterAct):
    """The namespace with the lab's mark; one that was made in advance for this lab is taken."""

    kubectl: tuple[str, ...]
    namespace: str
    lab: str
    path: Path

    def shell(self) -> str:
        return quoted((*self.kubectl, "create", "-f", str(self.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateObjects(ClusterAct):
    """The pods and Services."""

    kubectl: tuple[str, ...]
    path: Path

    def shell(self) -> str:
        return quoted((*self.kubectl, "create", "-f", str(self.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitForPods(ClusterAct):
    kubectl: tuple[str, ...]
    namespace: str
    pods: tuple[str, ...]
    timeout_s: float

    def shell(self) -> str:
        names = tuple(f"pod/{name}" for name in self.pods)
        wait = ("wait", "--for=condition=Ready", f"--timeout={self.timeout_s:.0f}s", *names)
        return quoted((*self.kubectl, "-n", self.namespace, *wait))


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeHelpers(ClusterAct):
    """A privileged pod on each of the nodes, for captures. Where that is refused the lab goes without."""

    kubectl: tuple[str, ...]
    path: Path

    def shell(self) -> str:
        create = quoted((*self.kubectl, "create", "-f", str(self.path)))
        return f"{create} || echo 'no helpers: checks that capture on nodes cannot be done' >&2"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNamespace(ClusterAct):
    """Removes the namespace, and all that is in it, if it has this lab's mark."""

    kubectl: tuple[str, ...]
    namespace: str
    lab: str

    def shell(self) -> str:
        chosen = (
            "delete",
            "namespace",
            "-l",
            f"{LAB_LABEL}={self.lab}",
            f"--field-selector=metadata.name={self.namespace}",
        )
        return quoted((*self.kubectl, *chosen))
