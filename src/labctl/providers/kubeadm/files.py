"""Where a lab of the provider kubeadm keeps its own files on this host, and whether any lab does."""

from __future__ import annotations

from pathlib import Path

from labctl.providers.cilium.commands import LabFiles, kept, state_root
from labctl.values import dataclass

STATE = "machines.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeadmFiles(LabFiles):
    """With what is known of the machines."""

    @property
    def state(self) -> Path:
        """Which machines the lab is on and how to remove it from them: written before anything is done to one."""
        return self.folder / STATE

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"


def may_have_labs(root: Path | None = None) -> bool:
    """False when `KubeadmProvider.discover` would find none, found out without loading the provider."""
    return bool(kept(root or state_root("kubeadm"), STATE))
