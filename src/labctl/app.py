"""The composition root: the one place that names concrete providers and checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.errors import LabError, UsageError

if TYPE_CHECKING:
    from labctl.checks.base import Check
    from labctl.engine.comparison.request import Options, Question
    from labctl.engine.comparison.stored import StoredComparison
    from labctl.model.lab import Lab, Scenario
    from labctl.model.load_slices import SlicesOfRun
    from labctl.model.parameters import CompareParameters
    from labctl.model.sections import ExistingCluster, Kubeadm
    from labctl.model.survey import Survey
    from labctl.providers.base import Provider
    from labctl.providers.kubeadm.machines import Machine

PROVIDERS = ("netns", "kind", "kubeadm", "cluster")


def provider(name: str, *, trust: bool = False) -> Provider:
    """The provider of that name. Imports only the one that is asked for. `trust`: it uses a lab.yaml that another user
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
    if name == "cluster":
        from labctl.providers.cluster.provider import ClusterProvider

        return ClusterProvider(site=lambda: _cluster_of_site(trust=trust))
    raise UsageError(
        what=f"there is no provider named {name}",
        remedy=f"one of: {', '.join(PROVIDERS)}",
    )


def refuse(scenario: Scenario) -> None:
    """Raises UsageError for a scenario that its provider cannot build: what `validate`, `plan`, `up` and `compare` ask
    alike, before anything is planned."""
    from labctl.planning.resolve import resolve

    provider(scenario.provider).refuse(resolve(scenario))


def ask(labs: Sequence[Lab], parameters: CompareParameters, options: Options) -> Question:
    """What a comparison of those labs is asked, with the providers and checks that answer it. Raises UsageError."""
    from labctl.engine.comparison import request

    return request.ask(labs, _providers_of(labs), checks(), parameters, options)


def ask_again(stored: StoredComparison, *, trust: bool) -> Question:
    """The question of a stored run, to be answered to its end. Raises UsageError when another user could have made it
    say to which machines labctl connects, and with which password (lab.yaml says that), or what runs as root there."""
    from labctl.engine.comparison.request import again
    from labctl.engine.comparison.stored import stored_labs
    from labctl.loading.load import site_section

    labs = stored_labs(stored.run)
    providers = _providers_of(labs.values())
    named = [lab.settings["hosts"] for lab in labs.values() if "hosts" in lab.settings]
    if named and any(hosts != site_section("hosts", trust=trust) for hosts in named):
        raise UsageError(
            what="the run was measured on other machines than lab.yaml lists",
            cause="a stored run may not decide which machines labctl connects to, nor with which keys and passwords",
            remedy="list the machines of the run under hosts: in lab.yaml, then repeat the command",
        )
    question = again(stored.asked, labs, providers, checks())
    if not trust:
        _require_no_code(labs.values())
    return question


def _require_no_code(labs: Iterable[Lab]) -> None:
    """A stored run may not name what runs as root on the container engine's host, any more than a scenario may."""
    from labctl.loading.code_keys import code_problems
    from labctl.loading.tree import Place, planted

    place = Place("run", 0, 0)
    for lab in labs:
        stored = planted({**lab.settings, "provider": lab.provider}, place)
        if found := code_problems(stored, {place.file: None}):
            raise UsageError(
                what=f"lab {lab.name} of the run names code for the nodes of kind: {found[0].path}",
                cause="it would run as root on the container engine's host, and a stored run may not decide that",
                remedy="inspect its manifest.json, then repeat the command with --trust",
            )


def _providers_of(labs: Iterable[Lab]) -> dict[str, Provider]:
    return {name: provider(name) for name in {lab.provider for lab in labs}}


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


def _cluster_of_site(*, trust: bool) -> ExistingCluster:
    """What lab.yaml says under `cluster:`, for labs that only their cluster remembers, and for `survey`."""
    from labctl.loading.load import site_section
    from labctl.model.sections import ExistingCluster

    content = site_section("cluster", trust=trust)
    return ExistingCluster.model_validate(content or {})


def survey(
    given: Mapping[str, str], *, sample: int, seed: int, parallel: int, say: Callable[[str], None], trust: bool = False
) -> Survey:
    """Asks every node of a cluster. `given` are keys of `cluster:` that the command line says; lab.yaml has the others.
    Raises LabError when the cluster cannot be asked for its nodes."""
    from labctl.model.sections import ExistingCluster
    from labctl.providers.cluster.survey import SurveyRequest
    from labctl.providers.cluster.survey import survey as ask_all

    site = _cluster_of_site(trust=trust).model_dump(by_alias=True, mode="json")
    try:
        section = ExistingCluster.model_validate_json(json.dumps({**site, **given}))
    except ValueError as wrong:
        raise UsageError(
            what="an option cannot be used as it is",
            cause=str(wrong).splitlines()[-2].strip() if str(wrong) else "",
            remedy="labctl survey --help",
        ) from wrong
    return ask_all(section, SurveyRequest(sample=sample, seed=seed, parallel=parallel), say)


def providers(*, trust: bool = False) -> Iterator[Provider]:
    """All providers, the default first; each imported in its turn, so that a search imports no more than it needs."""
    return (provider(name, trust=trust) for name in PROVIDERS)


def providers_with_labs() -> Iterator[Provider]:
    """Those that can have labs on this host, the default first. The others are not loaded: a search for labs would
    wait for nothing."""
    return (provider(name) for name in PROVIDERS if _may_have_labs(name))


def _may_have_labs(name: str) -> bool:
    if name == "kind":
        from labctl.providers.kind import presence

        return presence.may_have_labs()
    if name == "kubeadm":
        from labctl.providers.kubeadm import files

        return files.may_have_labs()
    if name == "cluster":
        from labctl.providers.cluster.files import may_have_labs

        return may_have_labs()
    return True


def checks() -> Mapping[str, Check]:
    """Every kind of check by its name in scenarios."""
    from labctl.checks.registry import all_checks

    return all_checks()


def slices_again(stored: StoredComparison) -> tuple[SlicesOfRun, ...]:
    """The raw slices of a stored comparison, read again. Raises LabError."""
    from labctl.checks.load_again import slices_again as read_again
    from labctl.engine.comparison.stored import stored_labs
    from labctl.model.parameters import LoadParameters

    of_labs = {spec.name: spec.parameters for lab in stored_labs(stored.run).values() for spec in lab.checks}
    asked = {check.check: of_labs.get(check.check) for check in stored.asked.checks}
    parameters = {name: own if isinstance(own, LoadParameters) else LoadParameters() for name, own in asked.items()}
    return tuple(read_again(stored.measured.records, parameters, stored.run.raw))


def fault_names() -> tuple[str, ...]:
    """The faults that lessons can put into labs."""
    from labctl.faults.table import BY_NAME

    return tuple(BY_NAME)
