"""`labctl compare A B`: measures two scenarios against each other, interleaved, and says how they differ."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from labctl.cli.options import as_json, load_lab, provider_option, require_host, runs_dir_option, set_option
from labctl.cli.output import console, emit_json
from labctl.cli.progress import Progress
from labctl.errors import MeasureFailed
from labctl.model.comparison import Comparison
from labctl.model.result import Verdict


@click.command("compare")
@click.argument("scenario_a", metavar="A")
@click.argument("scenario_b", metavar="B")
@click.option("--rounds", type=click.IntRange(1, 10_000), help="Blocks to measure (default: the scenario's, 10).")
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0.05, 3600), metavar="S", help="Seconds of each timed check."
)
@click.option("--seed", type=click.IntRange(0), help="Decides the order of the runs (default: a new one, recorded).")
@click.option("--keep", is_flag=True, help="Leave the labs up.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as one HTML file.")
@provider_option
@set_option
@runs_dir_option
@as_json
def command(
    scenario_a: str,
    scenario_b: str,
    rounds: int | None,
    duration_s: float | None,
    seed: int | None,
    keep: bool,
    html: Path | None,
    provider: str | None,
    overrides: tuple[str, ...],
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Measure scenario B against scenario A.

    Builds both labs, proves the mode in force on both (and refuses otherwise), measures them in interleaved blocks,
    and prints one line a metric: effect, interval, verdict.
    """
    from labctl import app
    from labctl.compare.assemble import assemble
    from labctl.compare.order import schedule
    from labctl.compare.verdict import FEWEST_PAIRS
    from labctl.engine.measure import Measurement
    from labctl.engine.noise import noise_meter
    from labctl.engine.sides import (
        common_pairs,
        compared_specs,
        declared_metrics,
        overlapping,
        pinning,
        sides_of,
        work_of,
    )
    from labctl.report.json import comparison_document
    from labctl.report.terminal import comparison_view
    from labctl.store.environment import fingerprint
    from labctl.store.runs import create_run
    from labctl.system.process import output_of
    from labctl.system.signals import interruptible

    labs = [load_lab(name, provider=provider, name=None, overrides=overrides) for name in (scenario_a, scenario_b)]
    parameters = labs[0].compare
    if rounds is not None:
        parameters = replace(parameters, rounds=rounds)
    if duration_s is not None:
        parameters = replace(parameters, duration_s=duration_s)
    pairs = common_pairs(labs)
    specs = compared_specs(labs, parameters)
    providers = {name: app.provider(name) for name in {lab.provider for lab in labs}}
    for needed in providers.values():
        require_host(needed)
    checks = app.checks()
    sides = sides_of(labs, providers, secrets.token_hex(2))
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    plan = schedule(
        [side.key for side in sides],
        work_of(specs, pairs),
        parameters.rounds,
        seed,
        rebuilds=1 if parameters.rounds >= FEWEST_PAIRS else 0,
        together=overlapping(checks, specs),
    )
    environment = replace(fingerprint(output_of), pinning=pinning())
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        run = stack.enter_context(
            create_run(
                runs_dir,
                kind="compare",
                name=f"{labs[0].scenario}-{labs[1].scenario}",
                labs={side.key: side.lab for side in sides},
                settings={"seed": seed, "rounds": parameters.rounds, "order": plan.text()},
                environment=environment,
            )
        )
        stack.enter_context(interruptible())
        with Measurement(sides, specs, checks, run, progress, keep=keep) as measurement:
            measured = measurement.run(plan, noise_meter())
        comparison = assemble(
            a=sides[0].described(),
            b=sides[1].described(),
            checks=declared_metrics(checks, specs),
            runs=measured.records,
            modes=measured.modes,
            signatures=measured.signatures,
            environment=environment,
            schedule=plan,
            parameters=parameters,
            noise=measured.noise,
        )
        document = comparison_document(comparison)
        run.save_result(document)
    if html is not None:
        _write_page(html, comparison)
    if as_json:
        emit_json(document)
    else:
        screen = console()
        screen.print(comparison_view(comparison, width=screen.width))
        click.echo(f"raw files: {run.path}")
    if keep:
        click.echo(f"kept: labctl down {' '.join(side.lab.name for side in sides)}", err=True)
    return exit_code(comparison)


def exit_code(comparison: Comparison) -> int:
    """4 when a run could not be measured, 1 when the network failed one, 0 when all of them passed."""
    verdicts = {run.verdict for run in comparison.runs}
    if Verdict.ERROR in verdicts:
        return MeasureFailed.exit_code
    return 1 if Verdict.FAIL in verdicts else 0


def _write_page(path: Path, comparison: Comparison) -> None:
    from labctl.report.html import comparison_page
    from labctl.system.files import write_atomically

    write_atomically(path, comparison_page(comparison).encode())
