"""How the nodes of a lab reach each other, one module each behind `base`. Pure."""

from __future__ import annotations

from labctl.fabrics.base import Fabric
from labctl.fabrics.bridge import BridgeFabric
from labctl.model.lab import Lab


def fabric_of(lab: Lab) -> Fabric:
    """The fabric that the lab's nodes are on."""
    return BridgeFabric()
