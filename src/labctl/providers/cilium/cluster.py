"""What Cilium's own code must know of a cluster, whoever made it: names, places, and how to reach the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from labctl.model.lab import Lab
from labctl.providers.cilium.values import Wanted


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
