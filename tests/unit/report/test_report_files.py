"""Reports that are files: HTML that needs nothing else, CSV, Markdown and JUnit that other programs can read."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from comparison_example import example_comparison

from labctl.compare.fail_if import judge_thresholds, parse_threshold
from labctl.model.comparison import Comparison
from labctl.model.lab import Placement
from labctl.model.result import CheckResult, Verdict
from labctl.report.csv import comparison_csv
from labctl.report.html import comparison_page
from labctl.report.json import comparison_json
from labctl.report.junit import check_junit, comparison_junit
from labctl.report.markdown import comparison_markdown
from labctl.report.sentences import headline
from labctl.report.words_zh import CHINESE

VOID = {"meta", "br", "link", "img", "input", "hr"}
# HTML lets the end tags of these be left out.
OPTIONAL = {"td", "tr", "tbody", "th", "p", "li"}


class Page(HTMLParser):
    """Collects links and ids, and complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return example_comparison()


def test_the_page_refers_to_nothing_outside_itself_and_runs_no_script(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    page = read(html)
    assert "script" not in page.tags
    assert "iframe" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "@import" not in html
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html


def test_every_row_links_to_its_drawings(comparison: Comparison) -> None:
    page = read(comparison_page(comparison))
    targets = [link[1:] for link in page.links if link.startswith("#")]
    assert len(targets) == len(set(targets)) == len(comparison.rows)
    assert set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_attached_files_are_the_json_and_the_csv(comparison: Comparison) -> None:
    page = read(comparison_page(comparison))
    attached = [base64.b64decode(link.split("base64,")[1]).decode() for link in page.links if "base64," in link]
    assert attached == [comparison_json(comparison), comparison_csv(comparison)]


def test_the_page_holds_every_sample_and_the_file_that_it_came_from(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    for run in comparison.runs:
        assert run.raw[0] in html
        for sample in run.samples:
            assert f">{sample.value!r}<" in html


def test_every_sample_of_a_row_is_drawn(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    drawn = {
        name: [len(re.findall("M", path)) for path in re.findall(rf'class="mark {name}" d="([^"]*)"', html)]
        for name in "abd"
    }
    assert drawn["a"] == drawn["b"] == [10] * len(comparison.rows)
    assert drawn["d"] == [10] * sum(bool(row.differences) for row in comparison.rows)


def test_names_cannot_put_markup_into_the_page() -> None:
    page = read(comparison_page(example_comparison(names=("<script>alert(1)</script>", 'x" onload="y'))))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_a_refused_and_an_empty_comparison_have_a_page_too() -> None:
    assert "not proven" in read(comparison_page(example_comparison(proven=False))).text
    assert "Nothing was measured" in read(comparison_page(example_comparison(runs=()))).text


def test_the_page_is_marked_with_its_language(comparison: Comparison) -> None:
    assert '<html lang="en">' in comparison_page(comparison)
    html = comparison_page(comparison, CHINESE)
    assert '<html lang="zh-CN">' in html
    assert "跨节点往返时延" in html


def test_a_page_of_a_thousand_blocks_stays_under_two_megabytes_and_names_the_files_that_it_leaves_out() -> None:
    html = comparison_page(example_comparison(rounds=1000))
    assert len(html.encode()) < 2_000_000
    assert "<code>comparison.json</code>" in html


def test_a_page_of_a_hundred_blocks_takes_less_than_two_seconds() -> None:
    """CPU time of this process, so that a busy machine does not fail it."""
    found = example_comparison(rounds=100)
    start = time.process_time()
    comparison_page(found)
    assert time.process_time() - start < 2.0


def test_the_csv_has_every_sample_with_its_place_and_unit(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert len(lines) == sum(len(run.samples) for run in comparison.runs)
    first, sample = lines[0], comparison.runs[0].samples[0]
    assert float(first["value"]) == sample.value
    assert first["unit"] == sample.unit
    assert first["scenario"] in ("legacy-native", "bpf-native")
    assert first["raw"] == comparison.runs[0].raw[0]


def test_markdown_starts_with_the_headline_and_has_a_table_of_seven_columns(comparison: Comparison) -> None:
    text = comparison_markdown(comparison)
    lines = text.splitlines()
    assert lines[0] == f"**{headline(comparison)}**"
    table = [line for line in lines[2 : 4 + len(comparison.rows)] if line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}
    assert "| cross-node round-trip p50 | 52.7 µs | 41.4 µs | −22 % | [−23, −21] % | 10 | **faster** |" in lines
    assert any(line.endswith("| undetected (≥ 37 %) |") for line in lines)


def test_markdown_does_not_take_names_for_markup() -> None:
    text = comparison_markdown(example_comparison(names=("a|b", "<img src=x>")))
    assert "<img" not in text
    assert "a\\|b" in text


def test_junit_has_a_case_a_row_and_fails_the_crossed_one(comparison: Comparison) -> None:
    thresholds = [parse_threshold("cross-node rtt_p50 < -5%"), parse_threshold("cross-node cpu_per_byte > 1%")]
    suite = ElementTree.fromstring(comparison_junit(comparison, judge_thresholds(thresholds, comparison)))[0]
    assert suite.attrib["tests"] == str(len(comparison.rows))
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "0")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == "crossed: cross-node rtt_p50 < -5%; change [−23, −21] %"


def test_junit_skips_refused_rows_and_errs_where_a_threshold_asked_about_them() -> None:
    refused = example_comparison(rounds=5)
    judged = judge_thresholds([parse_threshold("cross-node rtt_p50 > 5%")], refused)
    suite = ElementTree.fromstring(comparison_junit(refused, judged))[0]
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == ("0", "1", "5")


def test_junit_of_checks_keeps_fail_and_error_apart_and_survives_control_characters() -> None:
    results = [
        CheckResult(
            check="ping",
            kind="ping",
            client="client",
            server="far",
            placement=Placement.CROSS_NODE,
            verdict=verdict,
            reason="bell \x07 <&>",
        )
        for verdict in Verdict
    ]
    suite = ElementTree.fromstring(check_junit("lab", results))[0]
    assert [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == "bell \ufffd <&>"


def test_the_json_and_the_page_say_the_same_headline(comparison: Comparison) -> None:
    said = json.loads(comparison_json(comparison))["headline"]
    assert said in read(comparison_page(comparison)).text.replace("\u00a0", " ")
