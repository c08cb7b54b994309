"""Exit codes and languages of comparisons, as the command line gives them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from comparison_example import example_comparison
from labctl.cli.output import locale_language, speak, spoken
from labctl.cli.reports import ReportOutput, exit_code, present_run, show_comparisons
from labctl.compare.thresholds import judge
from labctl.engine.comparison.compare import ComparisonRun
from labctl.engine.comparison.sides import LeftLab
from labctl.errors import Interrupted, UsageError
from labctl.model.comparison import Comparison
from labctl.model.result import Verdict
from labctl.report.words_zh import CHINESE


@pytest.fixture
def comparison() -> Comparison:
    return example_comparison()


@pytest.mark.parametrize(
    ("expressions", "code"),
    [
        ((), 0),
        (("cross-node rtt_p50 > +5%",), 0),
        (("cross-node rtt_p50 < -5%",), 1),
        (("cross-node rtt_p50 > +5%", "cross-node rtt_p50 < -5%"), 1),
    ],
)
def test_a_crossed_threshold_ends_with_1(comparison: Comparison, expressions: tuple[str, ...], code: int) -> None:
    assert exit_code([comparison], judge([comparison], expressions)) == code


def test_a_threshold_that_cannot_be_judged_ends_with_4_unless_another_is_crossed() -> None:
    few = example_comparison(rounds=3)
    assert exit_code([few], judge([few], ["cross-node rtt_p50 > +5%"])) == 4
    assert exit_code([few], judge([few], [])) == 0
    both = [example_comparison(), few]
    assert exit_code(both, judge(both, ["cross-node rtt_p50 < -5%"])) == 1


def test_a_run_that_could_not_be_measured_ends_with_4_and_one_that_failed_with_1(comparison: Comparison) -> None:
    first, *rest = comparison.runs
    failed = replace(comparison, runs=(replace(first, verdict=Verdict.FAIL), *rest))
    errored = replace(comparison, runs=(replace(first, verdict=Verdict.ERROR), *rest))
    assert (exit_code([failed]), exit_code([errored]), exit_code([failed, errored])) == (1, 4, 4)


def test_a_threshold_that_names_nothing_is_a_usage_error(comparison: Comparison) -> None:
    with pytest.raises(UsageError, match="no metric is called"):
        judge([comparison], ["rtt_p51 > +5%"])


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_language_is_the_locales_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert locale_language() == language
    speak("zh")
    assert ReportOutput(is_json=False).words is CHINESE
    speak(None)
    assert spoken(in_files=True) == language


def test_several_comparisons_get_a_page_each_and_one_that_leads_to_them(
    tmp_path: Path, comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    other = example_comparison(names=("legacy-native", "third"))
    show_comparisons([comparison, other], [(), ()], ReportOutput(is_json=True, html=tmp_path / "r.html"))
    assert sorted(path.name for path in tmp_path.glob("*")) == ["r-1-bpf-native.html", "r-2-third.html", "r.html"]
    page = (tmp_path / "r.html").read_text()
    assert 'href="r-1-bpf-native.html"' in page
    assert '"ComparisonMatrix"' in capsys.readouterr().out


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_labs_that_are_left_stand_in_the_json_with_their_mode(
    is_stopped: bool, comparison: Comparison, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    left = LeftLab(
        lab="in-turns-3fa9",
        provider="kind",
        side="b",
        scenario="bpf",
        mode={"hostRouting": "bpf"},
        is_kept=not is_stopped,
    )
    stopped = Interrupted(what="stopped by SIGINT") if is_stopped else None
    answer = ComparisonRun(path=tmp_path, comparisons=(comparison,), left=(left,), stopped=stopped)
    with contextlib.ExitStack() as stack:
        if is_stopped:
            raised = stack.enter_context(pytest.raises(Interrupted))
        present_run(answer, (), ReportOutput(is_json=True))
    captured = capsys.readouterr()
    assert json.loads(captured.out)["left"] == [
        {
            "lab": "in-turns-3fa9", "provider": "kind", "kept": not is_stopped, "side": "b", "scenario": "bpf",
            "mode": {"hostRouting": "bpf"}, "switchedFrom": None, "switchedTo": None,
        }
    ]  # fmt: skip
    assert "labctl down in-turns-3fa9" in captured.err
    if is_stopped:
        assert raised.value.cause == "the complete blocks are kept; still up: in-turns-3fa9"


def test_where_nothing_is_left_the_json_says_so(
    comparison: Comparison, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    present_run(ComparisonRun(path=tmp_path, comparisons=(comparison,)), (), ReportOutput(is_json=True))
    assert json.loads(capsys.readouterr().out)["left"] == []
