"""Where a lab on real Cilium keeps its own files on this host; what kind and kubeadm have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RECORD = "lab.json"
"""The resolved lab, once it is whole."""


def state_root(provider: str) -> Path:
    """Where labs of that provider keep kubeconfig, rendered chart and logs: below XDG_STATE_HOME."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "labctl" / provider


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFiles:
    """The files of one lab: nothing of it is the user's `~/.kube`. `record` is the resolved lab, once it is whole."""

    folder: Path
    logs: Path

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
