"""`labctl doctor`: what this host, and the machines of lab.yaml where labs are on them, have and lack, each lack with
the command that fixes it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from labctl.cli.options import all_overrides, as_json, as_root, launcher, trust_option
from labctl.cli.output import emit, emit_json, say, show, wrapped
from labctl.errors import HostLacks, LabError, UsageError
from labctl.providers.base import Probe, Provider
from labctl.system import process
from labctl.values import dataclass


@click.command("doctor")
@click.option("--provider", default="netns", show_default=True, metavar="P", help="For labs of this provider.")
@click.option(
    "--class", "students", type=click.IntRange(1, 200), metavar="N", help="Whether a class of N fits on this host, too."
)
@click.option("--fix", is_flag=True, help="Install the packages that are missing, after showing what apt would do.")
@click.option("--yes", "is_agreed", is_flag=True, help="With --fix: do not ask.")
@trust_option
@as_json
def command(provider: str, students: int | None, fix: bool, is_agreed: bool, trust: bool, as_json: bool) -> int:
    """What this host has and lacks, found by trying, with the command that fixes it; for kubeadm the machines too.

    Then each scenario: whether it can run here, and what is missing.
    """
    from labctl import app

    if is_agreed and not fix:
        raise UsageError(what="--yes has a meaning with --fix alone", remedy="labctl doctor --fix --yes")
    if fix:
        from labctl.cli.installing import install_missing

        install_missing(list(app.provider(provider, trust=trust).probes()), is_agreed=is_agreed)
    from labctl.engine.build import ROOT
    from labctl.system.libraries import REMEDY, differing

    chosen = app.provider(provider, trust=trust)
    probes = [*chosen.probes(), *chosen.capabilities.machine_probes(), *namesakes(launcher())]
    if students is not None:
        from labctl.lessons.capacity import class_probes, read_host

        probes += class_probes(students, read_host())
    libraries = differing()
    missing = [probe for probe in probes if probe.required and probe.is_looked_at and not probe.present]
    unseen = [probe for probe in probes if not probe.is_looked_at]
    scenarios = tuple(_scenarios(chosen, probes, trust=trust))
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Doctor",
                "provider": provider,
                "ready": not missing and not any(probe.required for probe in unseen),
                "probes": [
                    {
                        "name": p.name,
                        "present": p.present,
                        "found": p.found,
                        "neededFor": p.needed_for,
                        "remedy": p.remedy,
                        "required": p.required,
                        "path": p.path or None,
                        "implementation": p.implementation or None,
                        "version": p.version or None,
                        "needs": p.needs or None,
                        "lookedAt": p.is_looked_at,
                    }
                    for p in probes
                ],
                "scenarios": [
                    {
                        "name": one.name,
                        "ready": one.is_ready,
                        "missing": [probe.name for probe in one.missing],
                        "remedies": list(dict.fromkeys(probe.remedy for probe in one.missing if probe.remedy)),
                        "refused": one.refused or None,
                    }
                    for one in scenarios
                ],
                "libraries": [
                    {"name": found.name, "locked": found.locked, "installed": found.installed or None}
                    for found in libraries
                ],
            }
        )
        return HostLacks.exit_code if missing else 0
    _show_table(probes)
    if libraries:
        say("Packages whose versions are not those of the lock files, with which labctl was tested:")
        emit(wrapped(", ".join(map(str, libraries)), sys.stdout))
        emit(f"  try: {REMEDY}")
    if not missing:
        _show_scenarios(scenarios)
    lacking = [probe for probe in probes if probe.is_looked_at and not probe.present and probe.remedy]
    for required in (True, False):
        these = [probe for probe in lacking if probe.required is required]
        if these:
            say("Missing, and how to fix it:" if required else "Labs work without these:")
        for probe in these:
            remedies = (as_root() if probe.name == ROOT else probe.remedy).splitlines()
            emit(f"  {probe.name}: " + ("\n" + " " * len(f"  {probe.name}: ")).join(remedies))
    if unseen:
        names = ", ".join(probe.name for probe in unseen)
        say(f"{len(probes) - len(unseen)} of {len(probes)} requirements were checked; unknown: {names}")
    elif not missing:
        say(f"this host can run {provider} labs")
    return HostLacks.exit_code if missing else 0


def namesakes(own: str) -> Iterator[Probe]:
    """Other programs are called labctl too: a probe that fails where the shell, or sudo, would start one of them."""
    others = [path for path in process.first_on_path("labctl") if not Path(path).samefile(own)]
    if others:
        places = ", ".join(others)
        yield Probe(
            name="labctl",
            present=False,
            found=f"another program of this name comes first on PATH: {places}",
            needed_for="typing labctl without its place",
            remedy=f"alias labctl={shlex.quote(own)} sudo='sudo '",
            required=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """A scenario, and what it lacks on this host; `refused` is why it is none for this provider or cannot be read."""

    name: str
    missing: tuple[Probe, ...] = ()
    refused: str = ""

    @property
    def is_ready(self) -> bool:
        return not self.missing and not self.refused


def _scenarios(chosen: Provider, probes: Sequence[Probe], *, trust: bool) -> Iterator[Runnable]:
    """Every scenario of the folder, as this provider would build it. What every lab needs is missing for each."""
    from labctl import app
    from labctl.engine.build import lacking
    from labctl.loading import load_scenario, scenario_names
    from labctl.planning.resolve import resolve

    always = tuple(probe for probe in probes if probe.required and probe.is_looked_at and not probe.present)
    for name in scenario_names():
        try:
            overrides = all_overrides(chosen.name, ())
            lab = resolve(load_scenario(name, overrides=overrides, refuse=app.refuse, trust=trust))
        except LabError as refused:
            problems = getattr(refused, "problems", ())
            yield Runnable(name=name, refused=problems[0].message if problems else refused.what)
            continue
        yield Runnable(name=name, missing=(*always, *lacking(chosen, probes, lab)))


def _show_scenarios(scenarios: Sequence[Runnable]) -> None:
    from labctl.report.grid import Column, Grid

    if not scenarios:
        return
    rows = [
        ("no", one.name, one.refused or ", ".join(probe.name for probe in one.missing))
        for one in scenarios
        if not one.is_ready
    ]
    ready = [one.name for one in scenarios if one.is_ready]
    say(f"{len(ready)} of {len(scenarios)} scenarios can run here:")
    emit(wrapped("  " + ", ".join(ready), sys.stdout))
    if rows:
        say("These cannot:")
        show(Grid((Column(), Column(title="scenario"), Column(title="lacks", is_text=True)), rows, heads=2))


def _show_table(probes: Sequence[Probe]) -> None:
    from labctl.report.grid import Column, Grid

    columns = (Column(), Column(title="what"), Column(title="found", is_text=True))
    rows = [(sign_of(probe), probe.name, probe.found, probe.needed_for) for probe in probes]
    show(Grid((*columns, Column(title="needed for", is_text=True)), rows, heads=2))


def sign_of(probe: Probe) -> str:
    """`UNFIT` is a program that is installed and cannot be used: another implementation, or too old. `?`: unknown."""
    if not probe.is_looked_at:
        return "?"
    if probe.present:
        return "ok"
    if probe.path:
        return "UNFIT" if probe.required else "unfit"
    return "MISSING" if probe.required else "absent"
