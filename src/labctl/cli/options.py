"""Options that several commands share, so that they read and behave the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from labctl.errors import HostLacks, UsageError
from labctl.model.lab import Lab
from labctl.providers.base import Provider

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

    wanted = [*overrides, *([f"provider={provider}"] if provider else [])]
    return resolve(load_scenario(scenario, overrides=wanted), name=name)


def provider_of(lab: Lab) -> Provider:
    from labctl import app

    return app.provider(lab.provider)


def require_host(provider: Provider) -> None:
    """Raises HostLacks with everything that is missing and required, and what mends it."""
    missing = [probe for probe in provider.probes() if probe.required and not probe.present]
    if missing:
        raise HostLacks(
            what=f"this host cannot run {provider.name} labs: it lacks {', '.join(p.name for p in missing)}",
            cause="; ".join(f"{p.name}: {p.found} (needed for {p.needed_for})" for p in missing),
            remedy=" && ".join(dict.fromkeys(p.remedy for p in missing if p.remedy)),
        )


def find_lab(name: str) -> tuple[Lab, Provider]:
    """A running lab, whole, by its name. Raises UsageError that names what is up, or what is missing of it."""
    from labctl import app
    from labctl.engine.lifecycle import find

    found = find(app.providers(), name)
    if found is None:
        raise unknown_lab(name, app.providers())
    running = found.running
    if running.lab is None or not running.is_whole:
        raise UsageError(
            what=f"lab {name} is only half there",
            cause=f"missing: {', '.join(running.missing) or 'its record'}",
            remedy=f"labctl down {name}, then labctl up {running.scenario or 'SCENARIO'}",
        )
    return running.lab, found.provider


def unknown_lab(name: str, providers: Iterable[Provider]) -> UsageError:
    import difflib

    up = sorted(running.name for provider in providers for running in provider.discover())
    near = difflib.get_close_matches(name, up, n=1)
    return UsageError(
        what=f"no lab named {name} is up",
        cause=f"up are: {', '.join(up)}" if up else "no lab is up",
        remedy=f"did you mean {near[0]}?" if near else f"labctl up {name}",
    )
