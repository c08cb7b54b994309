"""`labctl compare A B…`: measures scenarios against each other, interleaved, and says how they differ."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import (
    context_option,
    load_lab,
    percent_type,
    provider_option,
    runs_dir_option,
    set_option,
    trust_option,
)
from labctl.cli.progress import Progress
from labctl.cli.reports import ReportOutput, present, present_run, report_options
from labctl.errors import UsageError
from labctl.loading.messages import as_name
from labctl.model.lab import EXISTING_CLUSTER, Lab

if TYPE_CHECKING:
    from labctl.engine.comparison.stored import StoredComparison

_STORED = re.compile(r"^(?:last|\d{8}T\d{6}Z\S*|.*/run\.json)(?:@[a-z0-9-]+)?$")


@click.command("compare")
@click.argument("sides", metavar="A B…", nargs=-1)
@click.option(
    "--rounds", type=click.IntRange(1, 10_000), help="Blocks (one round each) to measure (default: the scenario's, 10)."
)
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0.05, 3600), metavar="S", help="Seconds of each timed check."
)
@click.option("--checks", metavar="NAME,…", help="The checks of a block (default: the scenario's compare.checks).")
@click.option(
    "--tools",
    metavar="NAME,…",
    help="Also measure with tools of the field: sockperf, iperf (rows beside those of load).",
)
@click.option("--quick", is_flag=True, help="Six short blocks of ping and load: what can be said in some seconds.")
@click.option("--no-spin", is_flag=True, help="Let CPUs go to sleep while load measures.")
@click.option("--seed", type=click.IntRange(0), help="Decides the order of the runs (default: a new one, recorded).")
@click.option(
    "--until",
    type=percent_type,
    metavar="PERCENT",
    help="Continue until every primary interval is within ± PERCENT (1%), looking after --rounds blocks, "
    "twice as many, …",
)
@click.option(
    "--max-rounds",
    type=click.IntRange(1, 10_000),
    help="With --until: the most blocks to measure (default: 4 × --rounds).",
)
@click.option(
    "--reference", is_flag=True, help="Also measure node to node: how far each side is from the physical limit."
)
@click.option("--baseline", metavar="RUN", help="Compare with the same scenarios of a stored run too (unpaired).")
@click.option("--resume", metavar="RUN", help="Resume a comparison that was cut short.")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "parallel", "switch"]),
    help="Labs side by side, or one lab whose datapath is switched (default: the scenario's, else by free memory).",
)
@click.option(
    "--matrix",
    "dimensions",
    multiple=True,
    metavar="KEY=V,V…",
    help="Measure with each of these values of a key, as --set sets it. Can be repeated.",
)
@click.option("--name", metavar="N", help="Name of the run, and prefix of the names of its labs.")
@click.option("--keep", is_flag=True, help="Leave the labs up.")
@provider_option
@context_option
@set_option
@trust_option
@runs_dir_option
@report_options
def command(
    sides: tuple[str, ...],
    rounds: int | None,
    duration_s: float | None,
    checks: str | None,
    tools: str | None,
    quick: bool,
    no_spin: bool,
    seed: int | None,
    until: float | None,
    max_rounds: int | None,
    reference: bool,
    baseline: str | None,
    resume: str | None,
    strategy: str | None,
    dimensions: tuple[str, ...],
    name: str | None,
    keep: bool,
    provider: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    runs_dir: Path,
    fail_if: tuple[str, ...],
    output: ReportOutput,
) -> int:
    """Measure scenario B (and C, …) against scenario A.

    Builds all labs, proves the mode in force on each (and refuses otherwise), measures them in interleaved blocks,
    and prints one line per metric: effect, interval, verdict.

    With --provider cluster A and B can be SCENARIO@CONTEXT: the same scenario on two clusters.

    With --matrix there is a side for every value: B is compared with A at the same value; of one scenario each value
    is compared with the first.

    \b
    labctl compare legacy bpf --matrix 'impairments.uplink.loss=0,0.01,0.05'

    A and B can be stored runs instead (labctl runs lists them; RUN@SCENARIO picks a side): they are then compared as
    they are, unpaired.
    """
    from labctl import app
    from labctl.engine.comparison.compare import compare, new_run, rest_of_run
    from labctl.engine.comparison.request import Options, with_given
    from labctl.engine.comparison.stored import COMPARE, compare_stored
    from labctl.model.lab import Strategy
    from labctl.report.json import matrix_document

    if max_rounds is not None and until is None:
        raise UsageError(
            what="--max-rounds has no meaning without --until", remedy="give the number of blocks with --rounds"
        )
    against: StoredComparison | None = None
    if resume is not None:
        asked = (
            sides,
            rounds,
            duration_s,
            checks,
            tools,
            quick or None,
            no_spin or None,
            seed,
            until,
            reference or None,
            overrides,
            provider,
            baseline,
        )
        _require_nothing_else(any(value not in (None, ()) for value in (*asked, strategy, dimensions, name)), resume)
        stored = _stored(runs_dir, resume)
        question = app.ask_again(stored, trust=trust)
        into = rest_of_run(stored, trust=trust)
        fail_if = fail_if or question.asked.fail_if
    elif not dimensions and _are_stored(sides, name):
        (run_a, _, side_a), (run_b, _, side_b) = (text.partition("@") for text in sides)
        found = compare_stored(_stored(runs_dir, run_a), _stored(runs_dir, run_b), side_a, side_b)
        return present(found, fail_if, output)
    else:
        if baseline is not None:
            against = _stored(runs_dir, baseline)
        labs = [
            _called_by(values, load_lab(scenario, provider=provider, name=name, overrides=given, trust=trust))
            for values in _points(dimensions)
            for scenario, where in (_on_context(side, provider) for side in sides)
            for given in ((*overrides, *where, *values),)
        ]
        options = Options(
            seed=secrets.randbelow(1_000_000) if seed is None else seed,
            token=secrets.token_hex(2),
            name=name or "",
            reference=reference,
            until=None if until is None else until / 100,
            most_rounds=max_rounds,
            fail_if=fail_if,
            strategy=Strategy(strategy or "auto"),
            group=len(sides) if dimensions and len(sides) > 1 else 0,
        )
        parameters = with_given(
            labs[0].compare,
            rounds=rounds,
            duration_s=duration_s,
            checks=None if checks is None else _names(checks),
            tools=_names(tools or ""),
            spin=not no_spin,
            is_quick=quick,
        )
        question = app.ask(labs, parameters, options)
        called = name or "-".join(lab.scenario for lab in labs)
        into = new_run(question, kind=COMPARE, name=called, runs_dir=runs_dir)
    with Progress() as progress:
        answer = compare(question, into, matrix_document, progress, keep=keep, baseline=against)
    return present_run(answer, fail_if, output)


def _points(dimensions: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every choice of one value of each dimension, as `key.path=value`; the last one changes first."""
    every = []
    for dimension in dimensions:
        key, _, values = dimension.partition("=")
        choices = [value.strip() for value in values.split(",")]
        if not key.strip() or not all(choices) or len(set(choices)) != len(choices):
            raise UsageError(
                what=f"--matrix {dimension} is not a key with the values that it is to have",
                cause="it is KEY=VALUE,VALUE… with values that differ; the key is written as with --set",
                remedy="--matrix 'impairments.uplink.loss=0,0.01,0.05'",
            )
        every.append([f"{key.strip()}={value}" for value in choices])
    return tuple(product(*every))


def _called_by(values: Sequence[str], lab: Lab) -> Lab:
    """Called after the last step of each key and its value too: `bpf-loss-0-01`."""
    said = [f"{key.rpartition('.')[2]}-{value}" for key, _, value in (each.partition("=") for each in values)]
    return replace(lab, scenario=as_name("-".join((lab.scenario, *said)))) if said else lab


def _names(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _on_context(side: str, provider: str | None) -> tuple[str, tuple[str, ...]]:
    """The scenario of `SCENARIO@CONTEXT`, and what says its context; any other side as it is."""
    scenario, found, context = side.partition("@")
    if provider != EXISTING_CLUSTER or not found or not context or "/" in scenario:
        return side, ()
    return scenario, (f"cluster.context={json.dumps(context)}",)


def _require_nothing_else(is_given: bool, resume: str) -> None:
    if is_given:
        raise UsageError(
            what="--resume takes its settings from the run, and no other options",
            cause="different scenarios or rounds would be a different comparison",
            remedy=f"labctl compare --resume {resume}",
        )


def _are_stored(sides: Sequence[str], name: str | None) -> bool:
    """Whether two stored runs are to be compared. Raises UsageError for fewer than two sides, and for a mixture."""
    are_stored = [bool(_STORED.match(side)) or (Path(side) / "run.json").exists() for side in sides]
    if len(sides) == 2 and all(are_stored):
        if name is not None:
            raise UsageError(
                what="--name has no meaning for stored runs",
                cause="they are compared as they are: no lab is built, and no run is written",
                remedy=f"labctl compare {' '.join(sides)}",
            )
        return True
    if any(are_stored):
        raise UsageError(
            what="a stored run cannot be compared with a scenario",
            cause="a scenario is measured now, and a stored run cannot be interleaved with it",
            remedy="labctl compare A B --baseline RUN measures A and B, and compares both with the run",
        )
    if len(sides) < 2:
        raise UsageError(what="a comparison needs two scenarios", remedy="labctl compare legacy bpf")
    return False


def _stored(runs_dir: Path, wanted: str) -> StoredComparison:
    from labctl.engine.comparison.stored import read_comparison
    from labctl.store.reading import find_run

    return read_comparison(find_run(runs_dir, wanted.removesuffix("/run.json")))
