"""Comparisons and check results as JUnit XML for CI systems; what could not be measured is an error, not a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree  # nosec B405  # writes XML, and reads none

from labctl.compare.thresholds import ThresholdJudgement, ThresholdState
from labctl.model.comparison import ChangeVerdict, Comparison, RunRecord
from labctl.model.evidence import ModeInForce, Standing
from labctl.model.result import CheckResult, Verdict
from labctl.report.sentences import judgement_text, refusal_text, row_sentence, row_values
from labctl.report.words import ENGLISH
from labctl.text import visible

_ELEMENTS = {Verdict.FAIL: "failure", Verdict.ERROR: "error", Verdict.SKIP: "skipped"}
# What XML 1.0 cannot carry, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def comparison_junit(comparison: Comparison, judgements: Sequence[ThresholdJudgement] = ()) -> str:
    """A test case for each threshold on each row that it names, for each row, and for the runs of each check.

    A crossed threshold is a failure, and one that cannot be judged an error: the question was asked and not answered.
    A refused row is skipped. Runs that did not pass are a failure or an error of their own, so that the file is green
    exactly when the exit code is 0.
    """
    return _text(_comparison_suite(comparison, judgements))


def comparisons_junit(
    comparisons: Sequence[Comparison], judgements: Sequence[Sequence[ThresholdJudgement]] = ()
) -> str:
    """One suite for each comparison."""
    of_each = judgements or [()] * len(comparisons)
    return _text(*(_comparison_suite(each, judged) for each, judged in zip(comparisons, of_each, strict=True)))


def _comparison_suite(comparison: Comparison, judgements: Sequence[ThresholdJudgement]) -> ElementTree.Element:
    suite = _suite(f"labctl compare {comparison.a.scenario} {comparison.b.scenario}")
    for judgement in judgements:
        _threshold(suite, judgement)
    for row in comparison.rows:
        case = _case(suite, f"{row.placement}.{row.check}", f"{row.metric.name} {row.client}→{row.server}")
        if row.verdict is ChangeVerdict.REFUSED:
            _child(case, "skipped", refusal_text(row.refusal, ENGLISH))
        a, b = row_values(row)
        _said(case, f"A {a}, B {b}. {row_sentence(comparison, row)}".strip())
    _runs(suite, comparison)
    return suite


def _threshold(suite: ElementTree.Element, judgement: ThresholdJudgement) -> None:
    row = judgement.row
    where = f"{row.placement} {row.metric.name} {row.client}→{row.server}"
    case = _case(suite, f"fail-if.{row.placement}.{row.check}", f"{judgement.threshold.text} ({where})")
    if judgement.outcome is ThresholdState.CROSSED:
        _child(case, "failure", judgement_text(judgement, ENGLISH))
    elif judgement.outcome is ThresholdState.UNKNOWN:
        _child(case, "error", judgement_text(judgement, ENGLISH))
    else:
        _said(case, judgement_text(judgement, ENGLISH))


def _runs(suite: ElementTree.Element, comparison: Comparison) -> None:
    """The runs of each check on each pair of each side, also of checks that yield no numbers."""
    sides = {comparison.a.key: f"{comparison.a.scenario} (A)", comparison.b.key: f"{comparison.b.scenario} (B)"}
    by_key: dict[tuple[str, str, str, str, str], list[RunRecord]] = {}
    for run in comparison.runs:
        by_key.setdefault((run.placement, run.check, run.client, run.server, run.side), []).append(run)
    for (placement, check, client, server, side), runs in sorted(by_key.items()):
        case = _case(suite, f"runs.{placement}.{check}", f"{client}→{server} on {sides[side]}")
        for verdict in (Verdict.ERROR, Verdict.FAIL, Verdict.SKIP):
            bad = [run for run in runs if run.verdict is verdict]
            if bad:
                first = bad[0]
                told = f"{len(bad)} of {len(runs)} runs; the first, in block {first.block}: {first.reason}"
                _child(case, _ELEMENTS[verdict], told)
                break
        else:
            _said(case, f"{len(runs)} of {len(runs)} runs passed")


def check_junit(lab: str, results: Iterable[CheckResult], mode: ModeInForce | None) -> str:
    """A test case for the mode in force, one per result, and one for each finding of it: fail is a failure, error an
    error, skip skipped, each with its reason; a finding's lesson and command stand in its output.

    A mode that was not proven is an error, and so is None (it was cut short before): the file is green exactly when the
    exit code is 0.
    """
    suite = _suite(f"labctl check {lab}")
    case = _case(suite, "mode-in-force", "the mode that was asked for is in force")
    if mode is None or not mode.proven:
        not_shown = "" if mode is None or mode.standing is not Standing.NOT_SHOWN else "not shown: "
        _child(case, "error", "it was not looked at" if mode is None else f"{not_shown}{mode.reason}")
    else:
        _said(case, ", ".join(f"{key} {claim}" for key, claim in mode.found.items()))
    for result in results:
        where, pair = f"{result.placement}.{result.check}", f"{result.client}→{result.server}"
        _judged(_case(suite, where, pair), result.verdict, result.reason)
        for finding in result.findings:
            case = _case(suite, f"{where}.findings", f"{finding.name} {pair}")
            by_hand = finding.command and f"$ {finding.command}"
            _judged(case, finding.verdict, finding.sentence, [finding.lesson, by_hand])
    return _text(suite)


def _judged(case: ElementTree.Element, verdict: Verdict, said: str, more: Sequence[str] = ()) -> None:
    """What did not pass has its sentence as the message; what passed has it as output."""
    if verdict in _ELEMENTS:
        _child(case, _ELEMENTS[verdict], said)
    lines = [line for line in (*(() if verdict in _ELEMENTS else (said,)), *more) if line]
    if lines:
        _said(case, "\n".join(lines))


def _suite(name: str) -> ElementTree.Element:
    return ElementTree.Element("testsuite", {"name": _clean(name)})


def _case(suite: ElementTree.Element, class_name: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": _clean(class_name), "name": _clean(name)})


def _child(case: ElementTree.Element, tag: str, message: str) -> None:
    ElementTree.SubElement(case, tag, {"message": _clean(message)})


def _said(case: ElementTree.Element, text: str) -> None:
    ElementTree.SubElement(case, "system-out").text = _clean(text)


def _text(*suites: ElementTree.Element) -> str:
    root = ElementTree.Element("testsuites")
    for suite in suites:
        suite.set("tests", str(len(suite)))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
        root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", visible(text))
