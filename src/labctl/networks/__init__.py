"""What connects the pods of a lab, one package each behind `base`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.model.lab import Lab, Pair
    from labctl.model.signature import ExpectedSignature
    from labctl.networks.base import PodNetwork


def network_of(lab: Lab) -> PodNetwork:
    """The pod network that the lab has."""
    from labctl.networks.cilium.network import CiliumNetwork  # not where only the seam is wanted

    return CiliumNetwork()


def expected_of(lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature | None:
    """What every tap should show of that many echo requests of the pair and of their replies; None where that is not
    known of what connects the pods (`Lab.cni`)."""
    return None if lab.cni else network_of(lab).expected(lab, pair, packets=packets)
