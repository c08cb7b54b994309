"""Options that several commands share, so that they read and behave the same everywhere."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labctl.errors import HostLacks, LabError, NeedsRoot, UsageError

if TYPE_CHECKING:
    from labctl.model.lab import Lab
    from labctl.providers.base import Provider, RunningLab

ROOT = "root"
"""How providers call the probe for this right."""

PARTS_NAMED = 3

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
provider_option = click.option("--provider", metavar="P", help="Build with this provider instead of the scenario's.")
set_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one value of the scenario; repeatable."
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


def scenario_options(function: F) -> F:
    """--provider, --name and --set."""
    return provider_option(name_option(set_option(function)))


def load_lab(scenario: str, *, provider: str | None, name: str | None, overrides: Sequence[str]) -> Lab:
    """The resolved lab of a scenario name or file with the command line's overrides."""
    from labctl.loading import load_scenario
    from labctl.planning.resolve import resolve

    if provider is not None:
        require_provider(provider)
    wanted = [*overrides, *([f"provider={provider}"] if provider else [])]
    return resolve(load_scenario(scenario, overrides=wanted), name=name)


def require_provider(name: str) -> None:
    """Raises UsageError for a name that is no provider's, in the words of --provider and not of a scenario file."""
    from labctl import app

    if name not in app.PROVIDERS:
        app.provider(name)


def provider_of(lab: Lab) -> Provider:
    from labctl import app

    return app.provider(lab.provider)


def require_host(provider: Provider) -> None:
    """Raises HostLacks with everything that is missing and required, and what mends it."""
    missing = [probe for probe in provider.probes() if probe.required and not probe.present]
    if not missing:
        return
    others = [probe for probe in missing if probe.name != ROOT]
    if not others:
        raise NeedsRoot(what=f"building {provider.name} labs needs root", cause=f"this is {missing[0].found}")
    raise HostLacks(
        what=f"this host cannot run {provider.name} labs: it lacks {', '.join(p.name for p in missing)}",
        cause="; ".join(f"{p.name}: {p.found} (needed for {p.needed_for})" for p in missing),
        remedy="\n".join(dict.fromkeys(p.remedy for p in others if p.remedy)),
    )


def as_root() -> str:
    """This command line with sudo before it. sudo has its own PATH, so labctl is named by its place."""
    launcher = Path(__file__).resolve().parents[3] / "labctl"
    program = str(launcher) if os.access(launcher, os.X_OK) else shutil.which("labctl") or sys.argv[0]
    return shlex.join(["sudo", program, *sys.argv[1:]])


def find_lab(name: str) -> tuple[Lab, Provider]:
    """A running lab, whole, by its name. Raises UsageError that names what is up, or what is missing of it."""
    from labctl import app
    from labctl.engine.lifecycle import being_built, find

    found = find(app.providers_with_labs(), name)
    if found is None:
        raise unknown_lab(name, app.providers_with_labs())
    running = found.running
    if running.is_being_built:
        raise being_built(name)
    if running.lab is None or not running.is_whole:
        raise UsageError(
            what=f"lab {name} is only half there",
            cause=f"missing: {_missing_parts(running)}",
            remedy=f"labctl up {running.scenario or 'SCENARIO'}{'' if running.scenario == name else f' --name {name}'}"
            f"  # builds it anew; or labctl down {name}",
        )
    return running.lab, found.provider


def _missing_parts(running: RunningLab) -> str:
    """What a half-built lab lacks; of many parts the first few."""
    parts = running.missing or ("its record",)
    more = f" and {len(parts) - PARTS_NAMED} more" if len(parts) > PARTS_NAMED else ""
    return ", ".join(parts[:PARTS_NAMED]) + more


def discover_all(providers: Iterable[Provider]) -> tuple[list[tuple[RunningLab, Provider]], list[LabError]]:
    """Every lab that can be seen, and what providers said that may not look."""
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
    from labctl.providers.base import Seeks

    for provider in providers:
        if isinstance(provider, Seeks) and (found := provider.seek(name)) is not None:
            return found, provider
    return None


def unknown_lab(name: str, providers: Iterable[Provider]) -> UsageError:
    import difflib

    from labctl.loading import scenario_names

    up = names_up(providers)
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
