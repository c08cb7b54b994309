"""Reports that are files: HTML that needs nothing else, CSV, Markdown and JUnit that other programs can read."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from comparison_example import example_comparison, example_with_parts
from labctl.compare.thresholds import judge_thresholds, parse_threshold
from labctl.model.comparison import ChangeVerdict, Comparison
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Placement
from labctl.model.result import CheckResult, Finding, Verdict, WayPart
from labctl.report.csv import comparison_csv, raw_place
from labctl.report.html import comparison_page
from labctl.report.json import comparison_json
from labctl.report.junit import check_junit, comparison_junit
from labctl.report.markdown import comparison_markdown
from labctl.report.sentences import headline
from labctl.report.terminal import comparison_text
from labctl.report.words import ENGLISH, Words
from labctl.report.words_zh import CHINESE

PROVEN = ModeInForce(lab="lab", asked={"hostRouting": "bpf"}, found={"hostRouting": "bpf"}, evidence=(), proven=True)

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
    rows = [target for target in targets if not target.startswith("run-")]
    assert len(rows) == len(set(rows)) == len(comparison.rows)
    assert set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_attached_files_are_the_json_and_the_csv(comparison: Comparison) -> None:
    page = read(comparison_page(comparison))
    attached = [base64.b64decode(link.split("base64,")[1]).decode() for link in page.links if "base64," in link]
    assert attached == [comparison_json(comparison, indent=None), comparison_csv(comparison)]


def test_the_page_holds_every_sample_and_the_file_that_it_came_from(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    for run in comparison.runs:
        assert run.raw[0] in html
        for sample in run.samples:
            assert f'<data value="{sample.value!r}">' in html


def test_every_sample_of_a_row_is_drawn_and_what_never_moves_is_said(comparison: Comparison) -> None:
    html = comparison_page(comparison)
    moving = [row for row in comparison.rows if len({*row.a.samples, *row.b.samples}) > 1]
    assert html.count("on both sides, in every block") == len(comparison.rows) - len(moving) == 2
    drawn = {
        name: [len(re.findall("M", path)) for path in re.findall(rf'class="mark {name}" d="([^"]*)"', html)]
        for name in "abd"
    }
    assert drawn["a"] == drawn["b"] == [10] * len(moving)
    assert drawn["d"] == [10] * sum(bool(row.differences) for row in comparison.rows)


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_where_a_difference_comes_from_stands_in_the_page_and_in_markdown(words: Words) -> None:
    comparison = example_with_parts()
    page, text = read(comparison_page(comparison, words)).text, comparison_markdown(comparison, words)
    for said in (page, text):
        assert words.explanation in said
        assert words.explanation_note in said
        for part in (WayPart.NETFILTER, WayPart.STACK, WayPart.ENDS):
            assert words.parts[part] in said
    rest = f"| {words.not_explained} |  |  | −2.00 | \\[−2.00, −2.00\\] |"
    assert rest in text
    # The largest difference first.
    assert page.index(words.parts[WayPart.NETFILTER]) < page.index(words.parts[WayPart.ENDS])
    for without in (comparison_page(example_comparison(), words), comparison_markdown(example_comparison(), words)):
        assert words.explanation not in without


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


def test_the_csv_has_every_sample_with_its_place_and_unit(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert len(lines) == sum(len(run.samples) for run in comparison.runs)
    first, sample = lines[0], comparison.runs[0].samples[0]
    assert float(first["value"]) == sample.value
    assert first["unit"] == sample.unit
    assert first["scenario"] in ("legacy-native", "bpf-native")
    assert first["raw"] == comparison.runs[0].raw[0]


def test_the_files_of_a_check_run_stand_in_the_csv_as_their_directory() -> None:
    """A ping in slices has dozens of files, and each of its samples has a line."""
    assert raw_place(()) == ""
    assert raw_place(("raw/1-ping/ping.json",)) == "raw/1-ping/ping.json"
    assert raw_place(("raw/1-ping/ping.json", "raw/1-ping/ping.stdout")) == "raw/1-ping/"
    assert raw_place(("raw/1/a", "raw/2/b")) == "raw/1/a raw/2/b"


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


def cases_of(suite: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [case for case in suite if case.attrib["classname"].startswith(f"{kind}.")]


def test_junit_has_a_case_for_every_threshold_row_and_check_run_and_fails_the_crossed_one(
    comparison: Comparison,
) -> None:
    thresholds = [parse_threshold("cross-node rtt_p50 < -5%"), parse_threshold("cross-node cpu_per_byte > 1%")]
    suite = ElementTree.fromstring(comparison_junit(comparison, judge_thresholds(thresholds, comparison)))[0]
    asked, runs = cases_of(suite, "fail-if"), cases_of(suite, "runs")
    checks = {(run.side, run.check, run.client, run.server) for run in comparison.runs}
    assert (len(asked), len(runs)) == (2, len(checks))
    assert suite.attrib["tests"] == str(len(asked) + len(comparison.rows) + len(runs))
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "0")
    failure = asked[0].find("failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("CROSSED: cross-node rtt_p50 < -5%")
    assert "[−23, −21] %" in failure.attrib["message"]
    held = asked[1].findtext("system-out")
    assert held is not None
    assert held.startswith("held: cross-node cpu_per_byte > 1%")


def test_junit_skips_refused_rows_and_errs_where_a_threshold_asked_about_them() -> None:
    refused = example_comparison(rounds=5)
    judged = judge_thresholds([parse_threshold("cross-node rtt_p50 > 5%")], refused)
    suite = ElementTree.fromstring(comparison_junit(refused, judged))[0]
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == ("0", "1", "6")


@pytest.mark.parametrize(("verdict", "counts"), [(Verdict.FAIL, ("1", "0", "0")), (Verdict.ERROR, ("0", "1", "0"))])
def test_runs_of_a_check_without_numbers_that_did_not_pass_are_told_in_every_report(
    comparison: Comparison, verdict: Verdict, counts: tuple[str, str, str]
) -> None:
    """A netfilter check has no row in which it could be refused, and still decides the exit code."""
    netfilter = tuple(
        replace(
            comparison.runs[0],
            check="netfilter",
            kind="netfilter",
            block=block,
            position=99,
            samples=(),
            verdict=verdict if block > 1 else Verdict.PASS,
            reason="3 of 4 findings as expected",
        )
        for block in (1, 2, 3)
    )
    told = replace(comparison, runs=(*comparison.runs, *netfilter))
    suite = ElementTree.fromstring(comparison_junit(told))[0]
    assert tuple(suite.attrib[name] for name in ("failures", "errors", "skipped")) == counts
    said = "2 of 3 runs; the first, in block 2"
    for text in (comparison_text(told), comparison_markdown(told), read(comparison_page(told)).text):
        assert said in " ".join(text.split()), text
        assert "3 of 4 findings as expected" in " ".join(text.split())


def test_junit_has_a_case_for_every_finding_of_a_check() -> None:
    findings = (
        Finding(name="snat", verdict=Verdict.PASS, sentence="the source is the node's", lesson="why", command="ss"),
        Finding(name="rules", verdict=Verdict.FAIL, sentence="no rule counted", lesson="where", command="iptables"),
    )
    result = CheckResult(
        check="netfilter",
        kind="netfilter",
        client="client",
        server="far",
        placement=Placement.CROSS_NODE,
        verdict=Verdict.FAIL,
        reason="1 of 2",
        findings=findings,
    )
    mode_in_force, *suite = ElementTree.fromstring(check_junit("lab", [result], PROVEN))[0]
    assert mode_in_force.findtext("system-out") == "hostRouting bpf"
    assert sum(case.find("failure") is not None for case in suite) == 2
    names = [(case.attrib["classname"], case.attrib["name"]) for case in suite]
    assert names[1:] == [
        ("cross-node.netfilter.findings", "snat client→far"),
        ("cross-node.netfilter.findings", "rules client→far"),
    ]
    failure = suite[2].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "no rule counted"
    assert suite[2].findtext("system-out") == "where\n$ iptables"
    assert suite[1].findtext("system-out") == "the source is the node's\nwhy\n$ ss"


def test_the_page_shows_thresholds_margins_and_the_run_that_the_raw_files_are_in(comparison: Comparison) -> None:
    thresholds = [parse_threshold("cross-node rtt_p50 < -5%")]
    judged = judge_thresholds(thresholds, comparison)
    known = replace(comparison, origins={"a": "2026-run", "b": "2026-run"})
    text = read(comparison_page(known, judgements=judged)).text.replace("\u00a0", " ")
    assert "CROSSED: cross-node rtt_p50 < -5% (cross-node round-trip p50, client→far: −22 %" in text
    assert "latency ± 3.0 %" in text
    assert "throughput ± 5.0 %" in text
    assert "(A, B: 2026-run)" in text


def test_rows_of_several_pairs_of_one_placement_are_told_apart(comparison: Comparison) -> None:
    row = next(row for row in comparison.rows if row.placement is Placement.CROSS_NODE and row.verdict)
    several = replace(comparison, rows=(*comparison.rows, replace(row, client="other")))
    for text in (comparison_page(several), comparison_markdown(several)):
        assert "round-trip p50 (ping other→far)" in text
        assert "round-trip p50 (ping client→far)" in text


def test_an_undetected_row_whose_interval_excludes_zero_is_explained(comparison: Comparison) -> None:
    row = next(row for row in comparison.rows if row.verdict is ChangeVerdict.FASTER)
    corrected = replace(comparison, rows=(replace(row, verdict=ChangeVerdict.UNDETECTED),))
    inside = next(row for row in comparison.rows if row.verdict is ChangeVerdict.UNDETECTED)
    text = comparison_text(corrected).replace("\n", " ")
    assert "did not pass the correction" in text
    assert "no difference detectable between" not in text, "that would deny what the interval says"
    assert "which among so many rows may be chance (corrected p is" in text
    assert row.change is not None
    assert row.change.p_adjusted is not None
    assert f"~ p {row.change.p_adjusted:.2g}" in text
    assert "did not pass the correction" not in comparison_text(replace(comparison, rows=(inside,)))


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
    suite = ElementTree.fromstring(check_junit("lab", results, PROVEN))[0]
    assert [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == ["5", "1", "1", "1"]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == r"bell \x07 <&>"


@pytest.mark.parametrize(
    ("mode", "said"), [(None, "not looked at"), (replace(PROVEN, proven=False, reason="it is Legacy"), "it is Legacy")]
)
def test_junit_of_checks_is_not_green_when_the_mode_in_force_is_not_proven(mode: ModeInForce | None, said: str) -> None:
    suite = ElementTree.fromstring(check_junit("lab", [], mode))[0]
    error = suite.find("testcase/error")
    assert error is not None
    assert said in error.attrib["message"]


def test_the_json_and_the_page_say_the_same_headline(comparison: Comparison) -> None:
    said = json.loads(comparison_json(comparison))["headline"]
    assert said in read(comparison_page(comparison)).text.replace("\u00a0", " ")
