"""The composition root: the one place that names concrete providers and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from labctl.errors import LabError, UsageError

if TYPE_CHECKING:
    from labctl.checks.base import Check
    from labctl.model.lab import Scenario
    from labctl.model.sections_kubeadm import Kubeadm
    from labctl.providers.base import Provider
    from labctl.providers.kubeadm.machines import Machine

PROVIDERS = ("netns", "kind", "kubeadm")


def provider(name: str, *, trust: bool = False) -> Provider:
    """The provider of that name. Imports only the one that is asked for. `trust`: it goes by a lab.yaml that somebody
    else could have written."""
    if name == "netns":
        from labctl.providers.netns.provider import NetnsProvider

        return NetnsProvider()
    if name == "kind":
        from labctl.providers.kind.provider import KindProvider

        return KindProvider()
    if name == "kubeadm":
        from labctl.providers.kubeadm.provider import KubeadmProvider

        return KubeadmProvider(
            site=lambda: _machines_of_site(trust=trust), site_section=lambda: _kubeadm_of_site(trust=trust)
        )
    raise UsageError(
        what=f"there is no provider named {name}",
        remedy=f"one of: {', '.join(PROVIDERS)}",
    )


def refuse(scenario: Scenario) -> None:
    """Raises UsageError for a scenario that its provider cannot build: what `validate`, `plan`, `up` and `compare` ask
    alike, before anything is planned."""
    from labctl.planning.resolve import resolve

    provider(scenario.provider).refuse(resolve(scenario))


def _machines_of_site(*, trust: bool) -> tuple[Machine, ...]:
    """The machines of lab.yaml, for labs that only their machines remember."""
    from labctl.loading.load import site_section
    from labctl.providers.kubeadm.machines import site_machines

    return site_machines(site_section("hosts", trust=trust))


def lists_machines() -> bool:
    """True when lab.yaml lists machines. They are not asked."""
    from labctl.loading.load import site_section

    try:
        return bool(site_section("hosts"))
    except LabError:
        return False


def _kubeadm_of_site(*, trust: bool) -> Kubeadm:
    """What lab.yaml says under `kubeadm:`, for `doctor`, which has no scenario."""
    from labctl.loading.load import site_section
    from labctl.providers.kubeadm.machines import section_of

    return section_of(site_section("kubeadm", trust=trust))


def runs_tools_here(name: str) -> bool:
    """True when the provider's tools are children of this process, so that their CPU time can be told from others'."""
    return name == "netns"


def providers(*, trust: bool = False) -> Iterator[Provider]:
    """All providers, the default first; each is imported when it is its turn, so that who finds stops paying."""
    return (provider(name, trust=trust) for name in PROVIDERS)


def providers_with_labs() -> Iterator[Provider]:
    """Those that can have labs on this host, the default first. The others are not loaded: who looks for labs would
    wait for nothing."""
    return (provider(name) for name in PROVIDERS if _may_have_labs(name))


def _may_have_labs(name: str) -> bool:
    if name == "kind":
        from labctl.providers.kind import presence

        return presence.may_have_labs()
    if name == "kubeadm":
        from labctl.providers.kubeadm import files

        return files.may_have_labs()
    return True


def checks() -> Mapping[str, Check]:
    """Every kind of check by its name in scenarios."""
    from labctl.checks.registry import all_checks

    return all_checks()
