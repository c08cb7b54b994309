"""Comparisons and check results as JUnit XML for CI systems; what could not be measured is an error, not a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from labctl.compare.fail_if import Judgement, Outcome
from labctl.model.comparison import ChangeVerdict, Comparison
from labctl.model.result import CheckResult, Verdict
from labctl.report.sentences import interval_text, refusal_text, row_sentence, row_values
from labctl.report.words import ENGLISH

# What XML 1.0 cannot carry, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def comparison_junit(comparison: Comparison, judgements: Sequence[Judgement] = ()) -> str:
    """One test case a row. A crossed threshold fails its row; a refused row is skipped, or an error if a threshold
    was set on it, since then the question was asked and not answered."""
    return _text(_comparison_suite(comparison, judgements))


def comparisons_junit(comparisons: Sequence[Comparison], judgements: Sequence[Sequence[Judgement]] = ()) -> str:
    """One suite for each comparison."""
    of_each = judgements or [()] * len(comparisons)
    return _text(*(_comparison_suite(each, judged) for each, judged in zip(comparisons, of_each, strict=True)))


def _comparison_suite(comparison: Comparison, judgements: Sequence[Judgement]) -> ElementTree.Element:
    suite = _suite(f"labctl compare {comparison.a.scenario} {comparison.b.scenario}")
    for row in comparison.rows:
        case = _case(suite, f"{row.placement}.{row.check}", f"{row.metric.name} {row.client}→{row.server}")
        ours = [judgement for judgement in judgements if judgement.row == row]
        crossed = [judgement.threshold.text for judgement in ours if judgement.outcome is Outcome.CROSSED]
        reason = refusal_text(row.refusal, ENGLISH)
        if crossed:
            message = f"crossed: {'; '.join(crossed)}; change {interval_text(row.change)}"
            _child(case, "failure", message)
        elif any(judgement.outcome is Outcome.UNKNOWN for judgement in ours):
            _child(case, "error", f"cannot be judged: {reason}")
        elif row.verdict is ChangeVerdict.REFUSED:
            _child(case, "skipped", reason)
        a, b = row_values(row)
        output = ElementTree.SubElement(case, "system-out")
        output.text = _clean(f"A {a}, B {b}. {row_sentence(comparison, row)}".strip())
    return suite


def check_junit(lab: str, results: Iterable[CheckResult]) -> str:
    """One test case a result: fail is a failure, error an error, skip skipped, each with its reason."""
    suite = _suite(f"labctl check {lab}")
    elements = {Verdict.FAIL: "failure", Verdict.ERROR: "error", Verdict.SKIP: "skipped"}
    for result in results:
        case = _case(suite, f"{result.placement}.{result.check}", f"{result.client}→{result.server}")
        if result.verdict in elements:
            _child(case, elements[result.verdict], result.reason)
        else:
            ElementTree.SubElement(case, "system-out").text = _clean(result.reason)
    return _text(suite)


def _suite(name: str) -> ElementTree.Element:
    return ElementTree.Element("testsuite", {"name": _clean(name)})


def _case(suite: ElementTree.Element, class_name: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": _clean(class_name), "name": _clean(name)})


def _child(case: ElementTree.Element, tag: str, message: str) -> None:
    ElementTree.SubElement(case, tag, {"message": _clean(message)})


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
    return _NOT_XML.sub("\ufffd", text)
