"""A pod network that a cluster's nodes have by themselves (kindnet) or by a manifest; nothing is known of it. Pure.

Its devices are what is found on the nodes, and its packets are observed. It stands alone because every pod network is
one module behind `base`.
"""

from __future__ import annotations

from labctl.errors import UsageError
from labctl.fabrics.base import NodeObjects
from labctl.model.lab import Lab, Node, Pair
from labctl.model.ways import ExpectedRoute
from labctl.networks.carried import CarriedNetwork


class FoundNetwork(CarriedNetwork):
    """`PodNetwork` of the seam, as far as there is one."""

    remark = "What connects the pods is not labctl's."

    def refuse(self, lab: Lab) -> None:
        """Raises UsageError: from namespaces alone it cannot be had."""
        raise UsageError(
            what=f"podNetwork {lab.pod_network.type} cannot be had with the provider {lab.provider}",
            cause="it is what a Kubernetes cluster installs on its nodes, and these are network namespaces",
            remedy="--provider kind; or podNetwork: {type: cni} for plugins without a cluster",
            key="podNetwork.type",
        )

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        self.refuse(lab)
        return NodeObjects(says="")

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """None that are known."""
        return ()
