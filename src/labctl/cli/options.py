"""Options that several commands share, and what they name: scenarios, running labs, providers, bundles of images.

They read and behave the same everywhere. `images`, `bundle` and `up --bundle` share which providers have images, and
the error for others.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labctl.cli.output import tell, wrapped
from labctl.errors import HostLacks, LabError, StepFailed, UsageError
from labctl.model.lab import EXISTING_CLUSTER, Lab
from labctl.providers.base import Changing, EventSource, Packing, Provider
from labctl.units import quantity

if TYPE_CHECKING:
    from labctl.engine.build import FoundLab
    from labctl.model.drift import Drift
    from labctl.providers.base import Kept, RunningLab

PARTS_NAMED = 3

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
provider_option = click.option("--provider", metavar="P", help="Build with this provider instead of the scenario's.")
set_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one value of the scenario; repeatable."
)
trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Trust files that another user could have written, and what they run as root. Read them first.",
)
name_option = click.option("--name", metavar="LAB", help="Name of the lab (default: the scenario's).")
runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    envvar="LABCTL_RUNS_DIR",
    default=Path("runs"),
    show_default=True,
    help="Where run directories are kept.",
)


_CONTEXT = "labctl.context"


def _keep_context(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    """For `all_overrides`, so that each command need not hand it on."""
    del option
    ctx.meta[_CONTEXT] = value


context_option = click.option(
    "--context", metavar="C", expose_value=False, callback=_keep_context,
    help="The context of the kubeconfig, with --provider cluster.",
)  # fmt: skip


def scenario_options(function: F) -> F:
    """--provider, --name, --set and --trust."""
    return provider_option(name_option(set_option(trust_option(function))))


def load_lab(
    scenario: str,
    *,
    provider: str | None,
    name: str | None,
    overrides: Sequence[str],
    is_final: bool = True,
    trust: bool = False,
) -> Lab:
    """The resolved lab of a scenario name or file with the command line's overrides. Raises ScenarioInvalid also for
    what its provider cannot build, unless something else will be laid over it (`is_final`)."""
    from labctl import app
    from labctl.loading import load_scenario
    from labctl.planning.resolve import resolve

    wanted = all_overrides(provider, overrides)
    loaded = load_scenario(
        scenario, overrides=wanted, lab_name=name, refuse=app.refuse if is_final else None, trust=trust
    )
    for warning in loaded.warnings:
        tell(wrapped(str(warning), sys.stderr))
    lab = resolve(loaded, name=name)
    if lab.provider != EXISTING_CLUSTER and (context := _context()):
        raise UsageError(
            what=f"--context {context} has no meaning with the provider {lab.provider}",
            cause="only the provider cluster uses a cluster of the kubeconfig",
            remedy=f"labctl … {scenario} --provider cluster --context {context}",
        )
    return lab


@contextlib.contextmanager
def located(scenario: str, *, provider: str | None, overrides: Sequence[str]) -> Iterator[None]:
    """What is refused or fails while a lab is built, with the place in its file of the key that is at fault."""
    try:
        yield
    except (HostLacks, StepFailed, UsageError) as refused:
        if refused.key:
            from labctl.loading import where_of

            place = where_of(scenario, refused.key, overrides=all_overrides(provider, overrides))
            refused.cause = "\n".join(filter(None, (place, refused.cause)))
        raise


def all_overrides(provider: str | None, overrides: Sequence[str]) -> list[str]:
    """--set and --provider as overrides of a scenario. Raises UsageError for a provider that there is not."""
    if provider is not None:
        require_provider(provider)
    context = _context()
    chosen = [f"cluster.context={json.dumps(context)}"] if context else []
    return [*overrides, *([f"provider={provider}"] if provider else []), *chosen]


def _context() -> str | None:
    """What --context says on this command line."""
    here = click.get_current_context(silent=True)
    return here.meta.get(_CONTEXT) if here is not None else None


def require_provider(name: str) -> None:
    """Raises UsageError for a name that is no provider's, in the words of --provider and not of a scenario file."""
    from labctl import app

    if name not in app.PROVIDERS:
        app.provider(name)


def provider_of(lab: Lab) -> Provider:
    from labctl import app

    return app.provider(lab.provider)


def as_root() -> str:
    """This command line with sudo before it. sudo has its own PATH, so labctl is named by its place."""
    return shlex.join(["sudo", launcher(), *sys.argv[1:]])


def launcher() -> str:
    """What starts this labctl, by its place: the clone's own `labctl`, or the installed command."""
    of_clone = Path(__file__).resolve().parents[3] / "labctl"
    return str(of_clone) if os.access(of_clone, os.X_OK) else shutil.which("labctl") or sys.argv[0]


class _Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.4 on
    """A time as a person writes it (`500ms`, `20s`), in seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else quantity(str(value), "s")
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


duration_type = _Duration()


class _Percent(click.FloatRange):
    """A percentage as a person writes it: `1%`, or the number alone."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: Any = value.strip().removesuffix("%").rstrip() if isinstance(value, str) else value
        return float(super().convert(number, param, ctx))


percent_type = _Percent(0, 100, min_open=True)


def changing_of(provider: Provider, running: RunningLab) -> Changing:
    """For changing a lab that is up, once what killed commands had begun is finished. Raises UsageError where its
    provider's labs cannot be changed so."""
    changing = provider.capabilities.changing
    if changing is None or running.lab is None:
        raise UsageError(
            what=f"labctl does not change running labs of the provider {provider.name}",
            cause=f"lab {running.name} is built by {provider.name}: {provider.statement}",
            remedy="a lab of the provider netns: labctl up SCENARIO --provider netns",
        )
    for finished in changing.settle(running.lab):
        tell(f"note: finished what a command that was killed had begun: {finished}")
    return changing


def events_of(provider: Provider, running: RunningLab) -> Callable[[Lab], AbstractContextManager[EventSource]]:
    """Raises UsageError where what happens in a lab cannot be listened to."""
    if (events := provider.capabilities.events) is None:
        raise UsageError(
            what=f"labctl does not listen to labs of the provider {provider.name}",
            cause=f"lab {running.name} is built by {provider.name}: its kernels are not this host's alone",
            remedy=f"kubectl get events -A --watch; or: labctl check {running.name}",
        )
    return events


def find_lab(name: str) -> tuple[Lab, Provider]:
    """As `find_running`, for commands that only need to know what the lab is."""
    lab, _, provider = find_running(name)
    return lab, provider


def find_running(name: str) -> tuple[Lab, RunningLab, Provider]:
    """A running lab by its name, whole or damaged: what a person deleted in it by hand is reported, for them to look
    at. Raises UsageError that names what is up, or what is missing of it, and what kept its provider from asking."""
    found = _asked(name)
    running = found.running
    if running.lab is None or not (running.is_whole or running.can_be_opened):
        raise UsageError(
            what=f"lab {name} is only half there",
            cause=f"missing: {missing_parts(running)}",
            remedy=f"{up_again(running)}  # builds it again; or labctl down {name}",
        )
    changing = found.provider.capabilities.changing
    if changed := changing.changes(running.lab).sentences() if changing is not None else ():
        tell(f"note: lab {name} was changed since it was built: {'; '.join(changed)}")
    elif not running.is_whole:
        look, remedy = ("status", up_again(running)) if changing is None else ("diff", f"labctl reset {name}")
        # What is missing may be what a student is looking for: it is named to those who ask.
        tell(f"note: lab {name} is half there: labctl {look} {name} says what is missing; to repair it: {remedy}")
    return running.lab, running, found.provider


def _asked(name: str) -> FoundLab:
    """The running lab of that name as its provider tells of it. Raises UsageError where there is none, while another
    labctl builds it, and what kept its provider from asking."""
    from labctl import app
    from labctl.engine.build import being_built

    found = _found_whole(name)
    if found is None:
        raise unknown_lab(name, app.providers_with_labs())
    if found.running.is_being_built:
        raise being_built(name)
    if found.running.unasked is not None:
        raise found.running.unasked
    return found


def _found_whole(name: str) -> FoundLab | None:
    """The running lab of that name, once a change of it that was cut off is completed."""
    from labctl import app
    from labctl.cli.progress import Progress
    from labctl.engine.apply import complete
    from labctl.engine.build import find

    found = find(app.providers_with_labs(), name)
    if found is None or found.running.lab is None or found.running.is_being_built:
        return found
    with Progress(quiet=True) as progress:
        changed = complete(found.provider, found.running.lab, progress)
    return found if changed is None else find([found.provider], name)


def find_standing(name: str) -> tuple[Lab, Provider]:
    """A running lab by its name, however damaged, as long as its record is there: for commands that compare and mend.
    Raises UsageError that names what is up, and what kept its provider from asking."""
    from labctl import app

    for provider in app.providers_with_labs():
        if (recorded := _recorded(provider, name)) is not None:  # what there is of it, they look at themselves
            return recorded, provider
    found = _asked(name)
    running = found.running
    if running.lab is None:
        raise UsageError(
            what=f"lab {name} has no record that says what it should be",
            cause="the record is written last, when a lab is whole, and is gone or damaged",
            remedy=f"{up_again(running)}  # builds it again; or labctl down {name}",
        )
    return running.lab, found.provider


def _recorded(provider: Provider, name: str) -> Lab | None:
    """The record of the lab of that name, once a change of it that was cut off is completed; None where the lab has to
    be looked at to say whether it is there."""
    from labctl.cli.progress import Progress
    from labctl.engine.apply import complete

    seam = provider.capabilities.drifting
    lab = None if seam is None else seam.recorded(name)
    if lab is None:
        return None
    with Progress(quiet=True) as progress:
        return complete(provider, lab, progress) or lab


def standing(provider: Provider, name: str) -> Lab | None:
    """The record of the lab of that name that this provider has up; None where there is none. Raises UsageError while
    another labctl changes it, and what kept its provider from asking."""
    from labctl.engine.build import being_built, find

    if (recorded := _recorded(provider, name)) is not None:
        return recorded
    found = find([provider], name)
    if found is None or found.running.lab is None:
        return None
    if found.running.is_being_built:
        raise being_built(name)
    if found.running.unasked is not None:
        raise found.running.unasked
    return found.running.lab


MOST_UNASKED_PODS = 1_000
"""Comparing takes some two milliseconds of CPU time a pod: of larger labs only who asks for it waits for that."""


def uncompared(provider: Provider, running: RunningLab) -> str:
    """Why the lab was not compared with its plan unasked, a sentence; empty where that has another reason, or none."""
    seam = provider.capabilities.drifting
    if seam is None or not seam.is_quick or running.lab is None or len(running.lab.pods) <= MOST_UNASKED_PODS:
        return ""
    pods = len(running.lab.pods)
    return (
        f"lab {running.name} has {pods:,} pods, and is not compared with its plan unasked: labctl diff {running.name}"
    )


def known_drift(provider: Provider, running: RunningLab) -> Drift | None:
    """How the lab compares with its plan; None where that cannot be known, or takes too long (`uncompared`)."""
    seam = provider.capabilities.drifting
    if seam is None or not seam.is_quick or running.lab is None or uncompared(provider, running):
        return None
    if running.is_being_built or running.unasked is not None:
        return None
    try:
        return seam.compared(running.lab).drift
    except LabError:
        return None


def up_again(running: RunningLab) -> str:
    """The command that builds the lab again, or resumes building it."""
    name = "" if running.scenario == running.name else f" --name {running.name}"
    return f"labctl up {_scenario_of(running)}{name}"


def _scenario_of(running: RunningLab) -> str:
    """As a person gives it: by name where that finds the file, else by its path."""
    from labctl.loading import scenario_names

    lab = running.lab
    if lab is None or lab.scenario in scenario_names():
        return running.scenario or "SCENARIO"
    return shlex.quote(lab.source or lab.scenario)


def missing_parts(running: RunningLab) -> str:
    """What a lab lacks; of many parts the first few."""
    parts = running.missing or ("its record",)
    first = ", ".join(parts[:PARTS_NAMED])
    return f"{first} and {len(parts) - PARTS_NAMED} more" if len(parts) > PARTS_NAMED else first


def discover_all(providers: Iterable[Provider]) -> tuple[list[tuple[RunningLab, Provider]], list[LabError]]:
    """Every lab that can be seen, and notes of providers that may not look."""
    found: list[tuple[RunningLab, Provider]] = []
    refused: list[LabError] = []
    for provider in providers:
        try:
            found += [(running, provider) for running in provider.discover()]
        except LabError as error:
            refused.append(error)
    return found, refused


def names_up(providers: Iterable[Provider]) -> list[str]:
    """The names of all labs that can be seen, sorted."""
    return sorted(running.name for running, _ in discover_all(providers)[0])


def sought_lab(name: str, providers: Iterable[Provider]) -> tuple[RunningLab, Provider] | None:
    """A lab that this host has no record of, and other machines may carry the mark of."""
    for provider in providers:
        if (found := provider.capabilities.seek(name)) is not None:
            return found, provider
    return None


def unknown_lab(name: str, providers: Iterable[Provider]) -> UsageError:
    import difflib

    from labctl.engine.again import kept_labs
    from labctl.loading import scenario_names

    providers = tuple(providers)
    up = names_up(providers)
    if name not in up and (gone := kept_labs(providers, name)):
        return gone_lab(gone[0].kept)
    near = difflib.get_close_matches(name, up, n=1)
    if near:
        remedy = f"did you mean '{near[0]}'?"
    else:
        remedy = f"labctl up {name}" if name in scenario_names() else "labctl list"
    return UsageError(
        what=f"no lab named '{name}' is up",
        cause=f"up are: {', '.join(up)}" if up else "no lab is up",
        remedy=remedy,
    )


def kept_of(name: str) -> Kept | None:
    """What is kept of the lab of that name, whether it is up or not."""
    from labctl import app
    from labctl.engine.again import kept_labs

    return next((of.kept for of in kept_labs(app.providers_with_labs(), name)), None)


def gone_lab(kept: Kept) -> UsageError:
    """For a lab that is not up and is kept: what brings it back."""
    changed = kept.changes.sentences()
    return UsageError(
        what=f"lab {kept.name} is gone: {why_gone(kept)}",
        cause=f"when it was up: {'; '.join(changed)}" if changed else "",
        remedy=f"labctl up --again {kept.name}  # brings it back\nlabctl down {kept.name}  # forgets it",
    )


def why_gone(kept: Kept) -> str:
    """A phrase."""
    if kept.is_of_this_boot:
        return "all of it was removed, and not by labctl down"
    return "this host was started again while it was up"


def packing(provider: Provider, lab: Lab) -> Packing:
    """For a provider whose labs are made from images. Raises UsageError."""
    if (found := provider.capabilities.packing) is not None:
        return found
    raise UsageError(
        what=f"labs of the provider {provider.name} have no images that could be packed",
        cause=f"scenario {lab.scenario} is built by {provider.name}: {provider.statement}",
        remedy="say which provider the bundle is for: --provider kind, or --provider kubeadm",
    )


def with_bundle(provider: Provider, lab: Lab, bundle: Path) -> Lab:
    """The lab as it is built from that bundle and nothing else. Raises UsageError."""
    from labctl.planning.resolve import with_settings

    packs = packing(provider, lab)
    if not bundle.is_file():
        raise UsageError(
            what=f"there is no bundle {bundle}",
            remedy=f"labctl bundle {lab.scenario} --provider {provider.name} -o FILE",
        )
    return with_settings(lab, packs.unpack(bundle))
