"""The composition root: the one place that names concrete providers and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from labctl.checks.base import Check
from labctl.errors import UsageError
from labctl.providers.base import Provider

PROVIDERS = ("netns", "kind", "kubeadm")


def provider(name: str) -> Provider:
    """The provider of that name. Imports only the one that is asked for."""
    if name == "netns":
        from labctl.providers.netns.provider import NetnsProvider

        return NetnsProvider()
    if name == "kind":
        from labctl.providers.kind.provider import KindProvider

        return KindProvider()
    if name == "kubeadm":
        from labctl.providers.kubeadm.provider import KubeadmProvider

        return KubeadmProvider()
    raise UsageError(
        what=f"there is no provider named {name}",
        remedy=f"one of: {', '.join(PROVIDERS)}",
    )


def providers() -> Iterator[Provider]:
    """All providers, the default first; each is imported when it is its turn, so that who finds stops paying."""
    return map(provider, PROVIDERS)


def checks() -> Mapping[str, Check]:
    """Every kind of check by its name in scenarios."""
    from labctl.checks.registry import all_checks

    return all_checks()
