"""Where a lab on real Cilium keeps its own files on this host; what kind and kubeadm have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from labctl.errors import StepFailed, UsageError
from labctl.names import is_name
from labctl.system import files

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
