"""Where a lab of the provider cluster keeps its own files on this host, and whether any lab does.

Apart from the provider so that commands that look for any lab (`labctl list`) do not wait for it to load.
"""

from __future__ import annotations

from pathlib import Path

from labctl.providers.cilium.commands import LabFiles, kept, state_root
from labctl.values import dataclass

STATE = "cluster.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFiles(LabFiles):
    """With what is known of the cluster."""

    @property
    def state(self) -> Path:
        """Which cluster the lab is on and by what its namespace is known: written before anything is made there."""
        return self.folder / STATE

    @property
    def namespace(self) -> Path:
        return self.folder / "namespace.yaml"

    @property
    def helpers(self) -> Path:
        return self.folder / "helpers.yaml"


def may_have_labs(root: Path | None = None) -> bool:
    """False when `ClusterProvider.discover` would find none, found out without asking any cluster."""
    return bool(kept(root or state_root("cluster"), STATE))
