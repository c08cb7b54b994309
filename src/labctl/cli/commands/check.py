"""`labctl check LAB|SCENARIO [CHECK…]`: proves the mode, runs the checks, judges them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from labctl.cli.options import as_json, context_option, load_lab, provider_of, runs_dir_option, scenario_options
from labctl.cli.output import emit, emit_json, say, show, spoken, tell
from labctl.cli.progress import Progress
from labctl.cli.reports import junit_option, require_place, write_text
from labctl.cli.session import current_session
from labctl.errors import MeasureFailed, NotInForce, UsageError
from labctl.model.evidence import ModeInForce
from labctl.model.lab import CheckSpec, Lab
from labctl.model.parameters import PARAMETERS_OF
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import Provider


@click.command("check")
@click.argument("lab_or_scenario", metavar="LAB|SCENARIO")
@click.argument("names", nargs=-1, metavar="[CHECK…]")
@scenario_options
@context_option
@runs_dir_option
@junit_option
@as_json
def command(
    lab_or_scenario: str,
    names: tuple[str, ...],
    provider: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    runs_dir: Path,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Run the checks of a lab that is up; a scenario that is not up is built, checked and removed."""
    from labctl import app
    from labctl.engine.build import built, require_host
    from labctl.engine.check_run import check_lab
    from labctl.engine.turns import measuring_turn
    from labctl.planning.record import lab_to_json
    from labctl.report.json import check_document
    from labctl.report.junit import check_junit
    from labctl.store.runs import create_run
    from labctl.system.signals import interruptible

    if junit is not None:
        require_place(junit)
    lab, chosen, is_up = named_lab(lab_or_scenario, provider, name, overrides, trust=trust)
    specs = chosen_checks(lab, names)
    require_host(chosen)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        run = stack.enter_context(create_run(runs_dir, kind="check", name=lab.name, labs={"lab": lab_to_json(lab)}))
        stack.enter_context(interruptible())
        if not is_up:
            stack.enter_context(built(chosen, lab, progress))
        if current_session() is not None:
            waits = "another measurement goes on here: waiting for its end"
            stack.enter_context(measuring_turn([spec.kind for spec in specs], lambda: tell(waits)))
        with chosen.open(lab) as open_lab:
            checked = check_lab(app.checks(), open_lab, specs, run, progress)
        document = check_document(lab, checked.results, (checked.mode,))
        run.save_result(document)
    if junit is not None:
        write_text(junit, check_junit(lab.name, checked.results, checked.mode))
    if as_json:
        emit_json(document)
    else:
        show_results(checked.mode, checked.results, place=run.path)
    return exit_code(checked.mode, checked.results)


def show_results(mode: ModeInForce | None, results: Sequence[CheckResult], *, place: Path | None = None) -> None:
    """The mode with its evidence, the results, where their files are; and last, where it is still on the screen, once
    more what is not as it should be."""
    from labctl.report.check import check_view
    from labctl.report.sentences import words_for
    from labctl.report.terminal import evidence_view, in_force

    if mode is not None:
        show(in_force(mode))
        if not mode.proven:
            show(*evidence_view(mode))
    show("", check_view(results, words=words_for(spoken())))
    if place is not None:
        emit(f"raw files: {place}")
    if mode is not None and not mode.proven:
        show(in_force(mode))
    for verdict in (Verdict.ERROR, Verdict.FAIL):
        for result in results:
            if result.verdict is verdict:
                say(f"{verdict}: {result.check} {result.client} → {result.server}: {result.reason}")


def exit_code(mode: ModeInForce, results: Sequence[CheckResult]) -> int:
    """4 when something could not be measured or the mode is not in force, 1 when a check failed, else 0."""
    verdicts = {result.verdict for result in results}
    if not mode.proven:
        return NotInForce.exit_code
    if Verdict.ERROR in verdicts:
        return MeasureFailed.exit_code
    return 1 if Verdict.FAIL in verdicts else 0


def named_lab(
    wanted: str, provider: str | None, name: str | None, overrides: tuple[str, ...], *, trust: bool
) -> tuple[Lab, Provider, bool]:
    """The running lab of that name, or the scenario's lab, not yet built."""
    from labctl import app
    from labctl.cli.options import find_lab, gone_lab, kept_of, names_up
    from labctl.engine.build import find
    from labctl.loading import scenario_names
    from labctl.names import is_name

    if not overrides and find(app.providers_with_labs(), name or wanted) is not None:
        return (*find_lab(name or wanted), True)
    if overrides and wanted not in scenario_names() and find(app.providers_with_labs(), wanted) is not None:
        raise UsageError(
            what=f"--set changes a scenario before it is built, and {wanted} is a lab that is up",
            remedy=f"labctl check {wanted}; or give the scenario: labctl check SCENARIO --set {overrides[0]}",
        )
    if is_name(wanted) and wanted not in scenario_names():
        if (kept := kept_of(wanted)) is not None:
            raise gone_lab(kept)
        raise neither(wanted, names_up(app.providers_with_labs()), scenario_names())
    lab = load_lab(wanted, provider=provider, name=name, overrides=overrides, trust=trust)
    return lab, provider_of(lab), False


def neither(wanted: str, labs: Sequence[str], scenarios: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(wanted, [*labs, *scenarios], n=1)
    return UsageError(
        what=f"there is neither a lab nor a scenario named '{wanted}'",
        cause=f"labs: {', '.join(labs) or 'none is up'}; scenarios: {', '.join(scenarios) or 'none'}",
        remedy=f"did you mean '{near[0]}'?" if near else "labctl list",
    )


def chosen_checks(lab: Lab, names: tuple[str, ...]) -> tuple[CheckSpec, ...]:
    """The lab's checks of those names, all without names. A kind of check that the scenario does not list can be
    named too, and runs with its defaults. Raises UsageError for any other name."""
    known = {spec.name: spec for spec in lab.checks}
    for kind, made in PARAMETERS_OF.items():
        known.setdefault(kind, CheckSpec(name=kind, kind=kind, parameters=made()))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                what=f"lab {lab.name} has no check named {name}",
                cause=f"it has: {', '.join(known)}",
                remedy=f"did you mean '{near[0]}'?" if near else "",
            )
    return tuple(known[name] for name in names) if names else lab.checks
