"""How the nodes of a lab reach each other, one module each behind `base`. Pure."""

from __future__ import annotations

from labctl.fabrics.base import Fabric
from labctl.fabrics.bridge import BridgeFabric
from labctl.model.fabric import FabricType
from labctl.model.lab import Lab


def fabric_of(lab: Lab) -> Fabric:
    """The fabric that the lab's nodes are on."""
    match lab.fabric.type:
        case FabricType.ROUTED | FabricType.CLOS:
            from labctl.fabrics.routed import RoutedFabric  # not where only the bridge is wanted

            return RoutedFabric()
        case FabricType.CUSTOM:
            from labctl.fabrics.custom import CustomFabric

            return CustomFabric()
        case FabricType.SWITCHED:
            from labctl.fabrics.switched import SwitchedFabric

            return SwitchedFabric()
        case FabricType.BRIDGE:
            return BridgeFabric()
