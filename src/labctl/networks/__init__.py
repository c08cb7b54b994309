"""What connects the pods of a lab, one package each behind `base`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.model.lab import Lab
    from labctl.networks.base import PodNetwork


def network_of(lab: Lab) -> PodNetwork:
    """The pod network that the lab has."""
    from labctl.networks.cilium.network import CiliumNetwork  # not where only the seam is wanted

    return CiliumNetwork()
