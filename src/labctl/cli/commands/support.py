"""`labctl support LAB`: one archive with everything that helps to find what is wrong with a lab, without secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, runs_dir_option, sought_lab, trust_option, unknown_lab
from labctl.cli.output import emit, emit_json, say, show, tell
from labctl.cli.reports import require_place
from labctl.errors import LabError, UsageError
from labctl.units import readable

if TYPE_CHECKING:
    from labctl.engine.support import Filed
    from labctl.model.lab import Lab
    from labctl.providers.base import Exhibit, Provider, RunningLab


@click.command("support")
@click.argument("lab")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it (default: support-LAB-TIME.tar.gz, here).",
)
@click.option("--list", "only_lists", is_flag=True, help="Show what would be in it, and read and write nothing.")
@click.option("--no-proof", is_flag=True, help="Send no packets: the archive then lacks the mode in force.")
@click.option(
    "--machines",
    "asks_machines",
    is_flag=True,
    help="Also look on the machines of lab.yaml for a lab that this host has no record of.",
)
@runs_dir_option
@trust_option
@as_json
def command(
    lab: str,
    output: Path | None,
    only_lists: bool,
    no_proof: bool,
    asks_machines: bool,
    runs_dir: Path,
    trust: bool,
    as_json: bool,
) -> None:
    """Put everything about LAB that helps to find what is wrong into one archive (a sysdump).

    Plan, records, status, agents' logs, events, rules, facts of every machine, versions, and the newest runs' journals.
    What it takes is listed first. Keys, tokens, passwords and kubeconfigs are removed, also inside texts; what is too
    large is cut, with a note. It works for a lab that is damaged, half gone or only remembered: what cannot be read is
    in it with the reason, and the exit code is still 0.
    """
    from labctl.engine.support import Limits, collected, write
    from labctl.providers.base import Evidenced
    from labctl.system.signals import interruptible

    provider, running = _found(lab, asks_machines=asks_machines, trust=trust)
    path = output or Path(f"support-{lab}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    if not only_lists:
        if path.exists() or path.is_symlink():
            raise UsageError(what=f"{path} already exists", remedy=f"another name, or: rm {path}")
        require_place(path)
    support = provider.capabilities.support
    filed: list[Filed] = []
    size_byte = None
    with (
        interruptible(),
        nullcontext(Evidenced(exhibits=())) if support is None else support.evidenced(lab, running) as own,
    ):
        general = _of_any(lab, running, provider, runs_dir, no_proof=no_proof, unopened=own.unopened)
        exhibits = [*general, *own.exhibits]
        if not as_json:
            _show(exhibits)
        if not only_lists:
            filed = collected(exhibits, own.secrets, Limits())
            size_byte = write(path, lab, provider.name, filed)
    if as_json:
        listed = [{"file": one.file, "source": one.source} for one in exhibits]
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Support",
                "lab": lab,
                "provider": provider.name,
                "file": None if only_lists else str(path),
                "sizeByte": size_byte,
                "parts": listed if only_lists else [one.record() for one in filed],
            }
        )
    elif size_byte is None:
        say(f"{len(exhibits)} parts; nothing was read, and nothing was written")
    else:
        _sum_up(path, size_byte, filed)


def _found(name: str, *, asks_machines: bool, trust: bool) -> tuple[Provider, RunningLab | None]:
    """The lab, in whatever state; or the provider of one that is gone and has left files. Raises UsageError when there
    is nothing of that name, and what kept a provider from looking."""
    from labctl import app
    from labctl.engine.build import find

    found = find(app.providers_with_labs(), name)
    if found is not None:
        return found.provider, found.running
    for provider in app.providers():
        support = provider.capabilities.support
        if support is not None and support.has_left(name):
            tell(f"note: no lab {name} is up; this host has files of one by {provider.name}")
            return provider, None
    if asks_machines and (sought := sought_lab(name, app.providers(trust=trust))) is not None:
        return sought[1], sought[0]
    raise unknown_lab(name, app.providers_with_labs())


def _of_any(
    name: str,
    running: RunningLab | None,
    provider: Provider,
    runs_dir: Path,
    *,
    no_proof: bool,
    unopened: LabError | None,
) -> Iterator[Exhibit]:
    from labctl.engine.support import exhibits_of_any
    from labctl.providers.base import Exhibit

    yield from exhibits_of_any(running, provider, runs_dir)
    lab = running.lab if running is not None else None
    if lab is not None:
        yield Exhibit(
            file="labctl/status.json",
            source=f"labctl status {name} --json" + (" --no-proof" if no_proof else ""),
            read=lambda: _status(lab, provider, no_proof=no_proof, unopened=unopened),
        )


def _status(lab: Lab, provider: Provider, *, no_proof: bool, unopened: LabError | None) -> str:
    """With the programs on every device and the maps' entries. Raises `unopened`: what is gone is tried once."""
    from labctl import app
    from labctl.engine.events import silent
    from labctl.engine.prove import prove
    from labctl.report.datapath import datapath_record
    from labctl.report.json import dump
    from labctl.report.terminal import status_record
    from labctl.store.runs import MemorySinks

    if unopened is not None:
        raise unopened
    with provider.open(lab) as open_lab:
        state = open_lab.datapath_state()
        mode = None if no_proof else prove(app.checks(), open_lab, MemorySinks(), silent).mode
        record = status_record(open_lab.lab, mode, statement=provider.statement)
        return dump({**record, "datapath": datapath_record(state)})


def _show(exhibits: Sequence[Exhibit]) -> None:
    """What it takes, before anything is read."""
    from labctl.report.grid import Column, Grid

    rows = [(one.file, one.source) for one in exhibits]
    show(Grid((Column(title="file"), Column(title="read from", is_text=True)), rows))


def _sum_up(path: Path, size_byte: int, filed: Sequence[Filed]) -> None:
    for one in filed:
        if one.problem:
            tell(f"not read: {one.file}: {one.problem}")
    removed, cut = sum(one.removed for one in filed), sum(1 for one in filed if one.cut_byte)
    say(f"{path}: {len(filed)} parts, {readable(size_byte, 'byte')}")
    say(f"{removed} secrets were removed and {cut} parts were cut; look through it before you pass it on")
    emit(f"  tar -tzf {shlex.quote(str(path))}")
