"""Several comparisons side by side, limits, stopping and thresholds: each in every form that reports have."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import pytest

from comparison_example import example_comparison
from labctl.compare.thresholds import ThresholdState, judge_thresholds, parse_threshold
from labctl.model.comparison import Change, ChangeVerdict, Comparison, InterimLook, Limit, Stopping
from labctl.report.csv import comparisons_csv
from labctl.report.html import comparison_page
from labctl.report.json import comparison_document, matrix_document
from labctl.report.junit import comparisons_junit
from labctl.report.markdown import comparison_markdown
from labctl.report.matrix import (
    cell,
    column_names,
    matrix_lines,
    matrix_markdown,
    matrix_page,
    matrix_view,
    short_names,
)
from labctl.report.sentences import headline, method_text, noise_floor_text
from labctl.report.terminal import comparison_text, plain_text
from labctl.report.words import ENGLISH
from labctl.report.words_zh import CHINESE
from labctl.units import percent

CHANGE = Change(estimate=0.57, low=0.51, high=0.62, confidence=0.95, n=10, detectable=0.04, p_value=0.002)


@pytest.fixture
def two() -> tuple[Comparison, Comparison]:
    first = example_comparison(names=("legacy", "bpf"))
    other = example_comparison(names=("legacy", "third"))
    key = "c"
    return first, replace(
        other,
        b=replace(other.b, key=key),
        runs=tuple(replace(run, side=key) if run.side == "b" else run for run in other.runs),
    )


def with_limit(comparison: Comparison) -> Comparison:
    limit = Limit(client="node1", server="node2", a=CHANGE, b=replace(CHANGE, estimate=0.1, low=0.08, high=0.12))
    return replace(comparison, rows=tuple(replace(row, limit=limit) for row in comparison.rows))


def test_one_comparison_is_the_document_of_the_contract_and_several_hold_each_whole(
    two: Sequence[Comparison],
) -> None:
    assert matrix_document(two[:1]) == comparison_document(two[0])
    document = matrix_document(two)
    assert document["kind"] == "ComparisonMatrix"
    assert document["comparisons"] == [comparison_document(each) for each in two]
    assert document["headlines"] == [headline(each) for each in two]


def test_the_table_has_a_column_for_each_other_side_and_only_judged_rows(two: Sequence[Comparison]) -> None:
    lines = matrix_lines(two)
    judged = [row for row in two[0].rows if row.verdict is not None]
    assert len(lines) == len(judged)
    assert all(len(line.rows) == 2 for line in lines)
    text = plain_text(matrix_view(two), width=100)
    assert "Compared with legacy" in text
    assert "bpf" in text
    assert "third" in text
    assert cell(lines[0].rows[0]) in text
    assert cell(lines[0].rows[0]).endswith("faster")


def test_a_cell_says_the_verdict_or_why_there_is_none(two: Sequence[Comparison]) -> None:
    row = next(row for row in two[0].rows if row.verdict is ChangeVerdict.UNDETECTED)
    assert cell(row).startswith("~ (≥")
    assert cell(replace(row, verdict=ChangeVerdict.REFUSED)) == "refused"
    assert cell(None) == "–"


def test_columns_of_stored_runs_name_both_sides(two: Sequence[Comparison]) -> None:
    assert column_names(two) == ("bpf", "third")
    assert column_names([replace(each, is_paired=False) for each in two]) == ("legacy → bpf", "legacy → third")


def test_markdown_and_page_have_the_same_cells_and_the_page_leads_to_each_comparison(
    two: Sequence[Comparison],
) -> None:
    markdown = matrix_markdown(two)
    page = matrix_page(two, ["r-1-bpf.html", "r-2-third.html"]).replace("\u00a0", " ")
    for line in matrix_lines(two):
        for row in line.rows:
            assert cell(row) in markdown
            assert cell(row) in page
    assert 'href="r-2-third.html"' in page
    for text in (markdown, page, plain_text(matrix_view(two), width=200)):
        assert "p-values are corrected over the primary rows of a column" in unescape(text)
    assert "<script" not in page
    assert "zh-CN" in matrix_page(two, ["a", "b"], CHINESE)


def test_what_must_be_known_before_the_figures_stands_beside_the_matrix_once(two: Sequence[Comparison]) -> None:
    sentence = two[0].a.statements[0]
    for text in (unescape(matrix_page(two, ["a", "b"])), matrix_markdown(two)):
        assert text.count(sentence) == 1
        assert f": {sentence}" in text


def test_the_runs_of_a_shared_side_stand_in_the_csv_once(two: Sequence[Comparison]) -> None:
    lines = list(csv.DictReader(io.StringIO(comparisons_csv(two))))
    alone = list(csv.DictReader(io.StringIO(comparisons_csv(two[:1]))))
    of_side = {side: sum(line["side"] == side for line in lines) for side in "abc"}
    assert of_side["a"] == sum(line["side"] == "a" for line in alone)
    assert of_side["b"] == of_side["c"] == of_side["a"]
    assert {line["scenario"] for line in lines} == {"legacy", "bpf", "third"}


def test_junit_has_a_suite_for_each_comparison_and_its_thresholds(two: Sequence[Comparison]) -> None:
    thresholds = [parse_threshold("cross-node rtt_p50 < -1%")]
    judgements = [judge_thresholds(thresholds, each) for each in two]
    root = ElementTree.fromstring(comparisons_junit(two, judgements))
    assert [suite.get("name") for suite in root] == ["labctl compare legacy bpf", "labctl compare legacy third"]
    assert [suite.get("failures") for suite in root] == ["1", "1"]


def test_what_became_of_a_threshold_stands_in_every_form(two: Sequence[Comparison]) -> None:
    comparison = two[0]
    judgements = judge_thresholds([parse_threshold("cross-node rtt_p50 < -1%")], comparison)
    assert [judgement.outcome for judgement in judgements] == [ThresholdState.CROSSED]
    document = json.loads(json.dumps(comparison_document(comparison, judgements)))
    assert document["thresholds"][0]["outcome"] == "crossed"
    assert document["thresholds"][0]["failIf"] == "cross-node rtt_p50 < -1%"
    from labctl.report.terminal import comparison_view

    text = plain_text(comparison_view(comparison, width=100, judgements=judgements), width=100)
    assert "CROSSED: cross-node rtt_p50 < -1%" in " ".join(text.split())
    assert "CROSSED: cross-node rtt\\_p50" in comparison_markdown(comparison, ENGLISH, judgements)


def test_the_limit_stands_in_every_form() -> None:
    comparison = with_limit(example_comparison())
    row = comparison_document(comparison)["metrics"][0]  # type: ignore[index]
    assert row["limit"]["client"] == "node1"
    assert row["limit"]["a"]["estimate"] == 0.57
    for text in (
        comparison_text(comparison, width=140),
        comparison_markdown(comparison).replace("\\", ""),
        comparison_page(comparison).replace("\u00a0", " "),
    ):
        assert "A +57 % [+51, +62] %, B +10 % [+8.0, +12] %" in text
    assert "(node1→node2, in the same blocks)" in comparison_text(comparison, width=140)


def test_a_comparison_that_went_on_says_until_when_and_how_often_it_looked() -> None:
    looks = (InterimLook(rounds=10, level=0.025), InterimLook(rounds=20, level=0.025))
    narrow = Stopping(until=0.03, looks=looks, after=10, half_width=0.021)
    comparison = replace(example_comparison(), stopping=narrow)
    assert "± 2.1 % after 10 blocks (asked: ± 3.0 %)" in method_text(comparison, ENGLISH)
    assert "looks after 10, 20 blocks share the 5 %" in method_text(comparison, ENGLISH)
    wide = replace(comparison, stopping=replace(narrow, after=20, half_width=0.05))
    assert "did not become as narrow as asked" in method_text(wide, ENGLISH)
    assert comparison_document(wide)["stopping"] == {
        "until": 0.03,
        "reached": False,
        "halfWidth": 0.05,
        "after": 20,
        "looks": [{"rounds": 10, "level": 0.025}, {"rounds": 20, "level": 0.025}],
    }


def test_the_headline_of_two_stored_runs_carries_its_doubt() -> None:
    comparison = replace(example_comparison(), is_paired=False)
    assert headline(comparison).endswith("(two runs, not interleaved: the machine may be the cause)")


def test_two_sides_that_are_built_alike_show_the_noise_floor_and_others_do_not() -> None:
    different = example_comparison()
    assert noise_floor_text(different) == ""
    alike = replace(different, b=replace(different.b, digest=different.a.digest))
    said = noise_floor_text(alike)
    judged = [row.change for row in alike.rows if row.margin is not None and row.change is not None]
    assert percent(max(abs(change.estimate) for change in judged)) in said
    assert said in " ".join(comparison_text(alike, width=200).split())
    assert said in comparison_page(alike).replace("\u00a0", " ")
    assert "noise floor" in comparison_markdown(alike)


def test_the_page_draws_each_judged_metric_from_column_to_column(two: Sequence[Comparison]) -> None:
    page = matrix_page(two, ("one.html", "other.html"))
    judged = [line for line in matrix_lines(two) if any(row is not None and row.change for row in line.rows)]
    drawn = page.partition(f"<h2>{ENGLISH.curves}</h2>")[2]
    assert [title in drawn for title in (f"<figcaption>{one.placement} {one.name}<" for one in judged)]
    drawings = [ElementTree.fromstring(f"<svg{part.partition('</svg>')[0]}</svg>") for part in drawn.split("<svg")[1:]]
    assert len(drawings) == len(judged)
    for drawing, line in zip(drawings, judged, strict=True):
        texts = [one.text for one in drawing.iter("text")]
        assert [name for name in ("legacy", "bpf", "third") if name in texts] == ["legacy", "bpf", "third"]
        changes = [row for row in line.rows if row is not None and row.change is not None]
        assert len(list(drawing.iter("circle"))) == 1 + len(changes)
    assert ENGLISH.curves_note not in matrix_page(two[:1], ("one.html",))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("bpf-rules-0", "bpf-rules-28", "bpf-rules-280"), ("0", "28", "280")),
        (("legacy", "bpf"), ("legacy", "bpf")),
        (("a", "a-b"), ("a", "b")),
        (("x-", "x-"), ("x-", "x-")),
    ],
)
def test_names_are_shown_without_what_all_of_them_begin_with(names: tuple[str, ...], short: tuple[str, ...]) -> None:
    assert short_names(names) == short
