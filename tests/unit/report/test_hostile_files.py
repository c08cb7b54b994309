"""CSV, JUnit and Markdown of a crafted run: no formula, no broken XML, no markup, no escape."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comparison_example import example_comparison
from labctl.model.result import Sample
from labctl.report.csv import comparison_csv
from labctl.report.junit import comparison_junit
from labctl.report.markdown import comparison_markdown, escaped
from labctl.report.matrix import matrix_markdown

from .test_hostile_pages import HOSTILE as TAGS
from .test_hostile_pages import poisoned

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
FORMULAS = (
    '=HYPERLINK("https://example.org?"&A1)', "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1,1)", "\t=1+1",
    "\r=1+1", " =1+1", "\n=1+1", "%0A=1", "|calc", "\ufeff=1", "\uff1d1+1", "-1e", "-", "--1", "+1",
)  # fmt: skip
ESCAPES = ("\x1b[31m", "\x9b2J", "\u202e", "\x00", "\ufffe", "\udc9b", "\r\n\x07", "\u2028")
MARKUP = (
    "[here](javascript:alert(1))", "![i](https://example.org/p.png)", "| a | b |\n|---|---|", "\n# heading",
    "\n\n- item",
    "`code`", "**bold**", "<https://example.org>", "<details>", "</details>", "$x$", "~~s~~", "[ref]: https://example.org",
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    given = example_comparison()
    runs = tuple(
        replace(run, side=run.side, check=text, client=text, server=text, started_at=text, raw=(text,))
        for run in given.runs
    )
    spoilt = replace(given, runs=runs, a=replace(given.a, scenario=text), b=replace(given.b, scenario=text))
    rows = list(csv.reader(io.StringIO(comparison_csv(spoilt))))

    cells = [cell for row in rows[1:] for number, cell in enumerate(row) if number != 9]
    assert len(cells) > 100
    assert not [cell for cell in cells if cell.strip("\ufeff \t\r\n")[:1] in tuple("=+-@|%\uff1d")]
    assert not [cell for cell in cells if cell[:1] in ("\t", "\r", "\n")]


@given(st.floats())
def test_a_number_in_a_csv_stays_one(value: float) -> None:
    given = example_comparison()
    run = replace(given.runs[0], samples=(Sample(metric="m", value=value, unit="s"),))
    _, row = csv.reader(io.StringIO(comparison_csv(replace(given, runs=(run,)))))

    assert row[9] == repr(value)


@pytest.mark.parametrize("text", [*ESCAPES, *TAGS, *FORMULAS])
def test_the_junit_of_any_text_is_xml_with_labctl_s_own_elements(text: str) -> None:
    written = comparison_junit(poisoned(example_comparison(), text))
    found = {element.tag for element in ElementTree.fromstring(written.encode("utf-8", "strict")).iter()}

    assert found <= {"testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out"}
    assert not OBEYED.search(written)


@pytest.mark.parametrize("text", [*MARKUP, *TAGS, *ESCAPES])
def test_no_text_of_a_run_is_markup_in_its_markdown(text: str) -> None:
    plain, given = (poisoned(example_comparison(), each) for each in ("x", f"{text}x"))
    for write in (comparison_markdown, lambda one: matrix_markdown([one, one])):
        wanted, written = write(plain), write(given)

        assert len(written.splitlines()) == len(wanted.splitlines())
        for line, like in zip(written.splitlines(), wanted.splitlines(), strict=True):
            assert _live(line) == _live(like)
        assert not OBEYED.search(written)


def _live(line: str) -> list[str]:
    """The signs that Markdown and HTML obey in a line, but labctl's own comments."""
    bare = re.sub(r"\\[\\`*_\[\]|#~$]", "", line.replace("<!-- -->", ""))
    return re.findall(r"^[-#>] |\*\*|[`*_|~$<>]|\]\(|!\[", bare)


@pytest.mark.parametrize(
    "text", ["@everyone", "see https://example.org", "www.example.org", "a@example.org", "HTTP://x.y"]
)
def test_nobody_is_notified_and_nothing_led_to_by_what_a_run_says(text: str) -> None:
    shown = escaped(text)

    assert shown.replace("<!-- -->", "") == text
    assert not re.search(r"@\w|\w://|www\.", shown, re.IGNORECASE)


@given(st.text())
def test_any_text_is_one_line_without_live_signs(text: str) -> None:
    shown = escaped(text)

    assert len(shown.splitlines()) <= 1
    assert not _live(shown.lstrip("-> "))
