"""`labctl down LAB… | --all`: removes labs by their mark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, discover_all, sought_lab, trust_option, unknown_lab
from labctl.cli.output import emit_json, say, tell
from labctl.cli.progress import Progress
from labctl.errors import LabError, UsageError

if TYPE_CHECKING:  # typing only: keeps the command line fast
    from labctl.engine.again import KeptLab
    from labctl.providers.base import Keeping, Provider, RunningLab


@click.command("down")
@click.argument("labs", nargs=-1, metavar="LAB…")
@click.option("--all", "every", is_flag=True, help="Every lab on this host.")
@click.option(
    "--machines",
    "asks_machines",
    is_flag=True,
    help="Also look on the machines of lab.yaml for labs that this host has no record of.",
)
@trust_option
@as_json
def command(labs: tuple[str, ...], every: bool, asks_machines: bool, trust: bool, as_json: bool) -> None:
    """Remove labs, complete or partial, and nothing that is not theirs.

    Of a lab that went with a restart of this host, what is kept of it is removed; of one that comes back at boot, the
    unit of systemd.

    Connects to machines for a lab that this host has a record of, and with --machines also for one that it has none of.
    """
    from labctl import app
    from labctl.engine.again import kept_labs
    from labctl.engine.build import down
    from labctl.system import systemd

    if bool(labs) == every:
        raise UsageError(
            what="which lab?" if not labs else "either names or --all, not both",
            remedy="labctl down LAB… or labctl down --all; labctl list shows the names",
        )
    found, refused = discover_all(app.providers_with_labs())
    running = {lab.name: (lab, provider) for lab, provider in found}
    kept = {of.kept.name: of for of in kept_labs(app.providers_with_labs())}
    if refused and (every or not set(labs) <= {*running, *kept}):
        raise refused[0]
    for name in labs:
        if name not in running and name not in kept:
            sought = sought_lab(name, app.providers(trust=trust)) if asks_machines else None
            if sought is None:
                raise _unknown(name, asks_machines)
            running[name] = sought
    removed: list[str] = []
    failures: list[LabError] = []
    with Progress() as progress:
        for name in dict.fromkeys(labs or (*running, *kept)):
            try:
                if name in running:
                    lab, provider = running[name]
                    down(provider, lab, progress)
                systemd.disable(name)
                for keeping in _keeping(running.get(name), kept.get(name)):
                    keeping.forget(name)
                removed.append(name)
            except LabError as failed:  # one that stays must not keep the others
                failures.append(failed)
        for provider in app.providers_with_labs() if every else ():
            try:
                provider.capabilities.tidy()
            except LabError as failed:
                failures.append(failed)
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Down", "removed": removed})
    elif every and not running and not kept:
        say("no lab is up: nothing to do")
    if failures:
        for one in failures[:-1]:
            tell("\n".join(one.lines()))
        raise failures[-1]


def _keeping(found: tuple[RunningLab, Provider] | None, kept: KeptLab | None) -> Iterator[Keeping]:
    """Of a lab that is there, too: what is kept of it may not be whole, and then is not found by itself."""
    if kept is not None:
        yield kept.keeping
    elif found is not None and (keeping := found[1].capabilities.keeping) is not None:
        yield keeping


def _unknown(name: str, asked_machines: bool) -> UsageError:
    """With the command to type where a machine may carry the lab. Only lab.yaml is read for that."""
    from labctl import app

    error = unknown_lab(name, app.providers_with_labs())
    if not asked_machines and app.lists_machines():
        error.remedy += f"\nlabctl down {name} --machines  # looks on the machines of lab.yaml"
    return error
