"""Which namespaces a lab is made of: the underlay, the nodes, the pods. Pure."""

from __future__ import annotations

from labctl.model.lab import Lab
from labctl.names import UNDERLAY, namespace_of


def parts_of(lab: Lab) -> tuple[str, ...]:
    """The namespaces that a whole lab has."""
    return tuple(namespace_of(lab.name, part) for part in part_names(lab))


def part_names(lab: Lab) -> tuple[str, ...]:
    return (UNDERLAY, *(node.name for node in lab.nodes), *(pod.name for pod in lab.pods))
