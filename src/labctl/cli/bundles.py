"""What `images`, `bundle` and `up --bundle` have in common: which providers have images, and what to say of others."""

from __future__ import annotations

from pathlib import Path

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.providers.base import Packs, Provider


def packing(provider: Provider, lab: Lab) -> Packs:
    """The provider, where its labs are made from images. Raises UsageError."""
    if isinstance(provider, Packs):
        return provider
    raise UsageError(
        what=f"labs of the provider {provider.name} are not made from images that could be packed",
        cause=f"scenario {lab.scenario} is built by {provider.name}: {provider.statement}",
        remedy="say which provider the bundle is for: --provider kind, or --provider kubeadm",
    )


def with_bundle(provider: Provider, lab: Lab, bundle: Path) -> Lab:
    """The lab as it is built from that bundle and nothing else. Raises UsageError."""
    from labctl.planning.overlay import with_settings

    packs = packing(provider, lab)
    if not bundle.is_file():
        raise UsageError(
            what=f"there is no bundle {bundle}",
            remedy=f"labctl bundle {lab.scenario} --provider {provider.name} -o FILE",
        )
    return with_settings(lab, packs.unpack(bundle))
