"""The sections of a file that belong to a provider: the one place where a provider adds its own.

To add a section: write its model here or in a module next to this one, derived from `Section`, and give it an entry
in `PROVIDER_SECTIONS`. Parser, JSON Schema, merging and `Lab.settings` follow from that entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from labctl.model.section import Section as Section
from labctl.model.sections_kind import Cilium, KindCluster
from labctl.model.sections_kubeadm import Hosts, Kubeadm


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSection:
    """One section: the model of its content (a `Section`, or an annotated list of them), and the providers that
    read it."""

    model: Any
    providers: tuple[str, ...]
    description: str = ""


PROVIDER_SECTIONS: Mapping[str, ProviderSection] = MappingProxyType(
    {
        "cilium": ProviderSection(model=Cilium, providers=("kind", "kubeadm")),
        "kindCluster": ProviderSection(model=KindCluster, providers=("kind",)),
        "kubeadm": ProviderSection(model=Kubeadm, providers=("kubeadm",)),
        "hosts": ProviderSection(
            model=Hosts, providers=("kubeadm",), description="Machines of your own that are reached by SSH."
        ),
    }
)
