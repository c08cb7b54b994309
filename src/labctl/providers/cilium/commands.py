"""The door to programs: argv in, what they printed out. This host's, a machine's over SSH, or a test's script.

What Cilium's own code must know of a cluster, whoever made it: names, places, and how to reach the API server.

Where a lab on real Cilium keeps its own files on this host; what kind and kubeadm have in common.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from labctl.errors import MeasureFailed, StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.names import is_name
from labctl.providers.base import Completed, Running
from labctl.providers.cilium.values import Wanted
from labctl.system import files


class Commands(Protocol):
    """Runs programs somewhere. Tests script it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a person types before argv to run it there; nothing for this host."""
        ...

    def find(self, program: str) -> str | None:
        """Where the program is, or None."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Runs argv to its end or its deadline. Raises HostLacks when the program is not there."""
        ...

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        """Starts argv; leaving the context ends it. With `output`, a descriptor, its standard output goes there as it
        comes and is not kept."""
        ...


def shown(commands: Commands, argv: Sequence[str]) -> str:
    """argv as it can be pasted into a shell of this host."""
    return pasted(commands.prefix, argv)


def pasted(prefix: Sequence[str], argv: Sequence[str]) -> str:
    """Behind ssh a second shell reads the words, so they are quoted once more where that matters."""
    there = shlex.join(argv)
    if not prefix:
        return there
    return shlex.join(prefix) + " " + (there if there == " ".join(argv) else shlex.quote(there))


def with_kubeconfig(text: str, commands: Commands, kubectl: Sequence[str]) -> str:
    """A remedy that begins with a bare `kubectl`, for this cluster and from this host."""
    found = text.removeprefix("kubectl ")
    return text if found == text else f"{shown(commands, kubectl)} {found}"


def must(commands: Commands, argv: Sequence[str], *, timeout_s: float) -> Completed:
    """Runs argv to look at something. Raises MeasureFailed when it fails."""
    done = commands.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode != 0:
        lines = done.error_text.strip().splitlines() or done.text.strip().splitlines()
        raise MeasureFailed(
            what=f"{' '.join(argv[:2])} … " + (f"did not end in {timeout_s:g} s" if done.timed_out else "failed"),
            cause=lines[-1] if lines else f"exit status {done.returncode}, and no word",
            remedy=shown(commands, argv),
        )
    return done


class Cluster(Protocol):
    """A cluster with a lab on it. `nodes` maps the scenario's nodes to Kubernetes' names for them."""

    @property
    def lab(self) -> Lab: ...

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of the lab's pods."""
        ...

    @property
    def nodes(self) -> Mapping[str, str]: ...

    @property
    def control_planes(self) -> tuple[str, ...]: ...

    @property
    def wanted(self) -> Wanted: ...

    @property
    def user_values(self) -> Mapping[str, object]:
        """Helm values of the scenario's own."""
        ...

    @property
    def tools_image(self) -> str: ...

    @property
    def pulls_images(self) -> bool: ...

    def uplink(self, node: str) -> str:
        """The device of that node (by the scenario's name) that carries its address."""
        ...

    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        """kubectl under the lab's own kubeconfig, with these arguments."""
        ...


LOGS, BUNDLES = "logs", "bundles"
"""What else is in a provider's folder, beside the labs'."""

RECORD = "lab.json"
"""The resolved lab, once it is whole."""


def state_root(provider: str) -> Path:
    """Where labs of that provider keep kubeconfig, rendered chart and logs: below XDG_STATE_HOME."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "labctl" / provider


def is_lab_folder(name: str) -> bool:
    """True for what a lab's folder in a provider's may be called."""
    return is_name(name) and name not in (LOGS, BUNDLES)


def read_state(path: Path) -> str | None:
    """The text of one of a lab's own files; None when there is none, or none that labctl wrote: somebody else's is not
    believed."""
    try:
        return files.read_own(path).decode("utf-8", errors="replace")
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFiles:
    """The files of one lab: nothing of it is the user's `~/.kube`. `record` is the resolved lab, once it is whole."""

    folder: Path
    logs: Path

    @classmethod
    def of(cls, root: Path, name: str) -> Self:
        """Those of the lab of that name below the provider's folder. Raises UsageError for what is no lab's name: it
        would lead to a folder that is not the lab's."""
        if not is_lab_folder(name):
            raise UsageError(
                what=f"no lab can be called {name[:60]!r}",
                cause="names have lower-case letters, digits and hyphens, at most 40 characters, and are not "
                f"{LOGS} or {BUNDLES}, which labctl uses itself",
                remedy="labctl list  # shows the labs that are up",
            )
        return cls(folder=root / name, logs=root / LOGS / name)

    def remove(self) -> None:
        """Removes the lab's folder; its logs stay. Raises StepFailed."""
        try:
            files.remove_tree(self.folder)
        except OSError as failed:
            raise StepFailed(
                what=f"cannot remove {self.folder}",
                cause=failed.strerror or str(failed),
                remedy=f"ls -la {self.folder}",
            ) from failed

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def values(self) -> Path:
        return self.folder / "cilium-values.yaml"

    @property
    def rendered(self) -> Path:
        return self.folder / "cilium.yaml"

    @property
    def workloads(self) -> Path:
        return self.folder / "workloads.yaml"

    @property
    def charts(self) -> Path:
        return self.folder / "charts"

    @property
    def record(self) -> Path:
        return self.folder / RECORD
