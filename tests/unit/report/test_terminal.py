"""What a terminal shows: the result first, one line per metric, nothing too wide, no meaning in colour."""

from __future__ import annotations

import io
import re
import string
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from comparison_example import (
    NETNS_STATEMENT,
    example_comparison,
    example_runs,
    example_schedule,
    example_signature,
    example_with_parts,
)
from labctl.model.comparison import CautionKind, ChangeVerdict, Comparison, Noise, RefusalKind
from labctl.model.lab import Placement
from labctl.model.result import CheckResult, Sample, Verdict, WayPart
from labctl.report.check import check_text
from labctl.report.sentences import headline, headline_row, interval_text, row_sentence, words_for
from labctl.report.terminal import comparison_text, comparison_view
from labctl.report.words import ENGLISH, Language, Words
from labctl.report.words_zh import CHINESE


def line_of(text: str, label: str, nth: int = 0) -> str:
    return [line for line in text.splitlines() if line.strip().startswith(label)][nth]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return example_comparison()


def test_the_headline_comes_first_and_states_effect_and_interval(comparison: Comparison) -> None:
    assert headline(comparison) == (
        "Cross-node round-trip p50: bpf-native is 22 % faster (95 %: 21–23 %) than legacy-native"
    )
    assert comparison_text(comparison, width=120).splitlines()[0] == headline(comparison)


def test_a_row_is_one_line_with_medians_change_interval_n_and_word(comparison: Comparison) -> None:
    text = comparison_text(comparison, width=80)
    assert line_of(text, "round-trip p50").split() == [
        "round-trip", "p50", "52.7", "µs", "41.4", "µs", "−22", "%", "[−23,", "−21]", "10", "faster",
    ]  # fmt: skip


def test_cross_node_stands_before_same_node_and_primary_before_secondary(comparison: Comparison) -> None:
    lines = comparison_text(comparison).splitlines()
    assert lines.index("cross-node") < lines.index("same-node")
    text = "\n".join(lines)
    assert text.index("own CPU per byte") < text.index("round-trip p99")


def test_an_undetected_row_is_a_tilde_and_says_what_could_have_been_seen(comparison: Comparison) -> None:
    narrow = line_of(comparison_text(comparison, width=80), "transactions/s")
    wide = line_of(comparison_text(comparison, width=140), "transactions/s")
    assert "~ ≥ 37 %" in narrow
    assert narrow.endswith("undetected")
    assert wide.endswith("undetected (≥ 37 %)")
    row = next(row for row in comparison.rows if row.verdict is ChangeVerdict.UNDETECTED)
    assert "no difference detectable" in row_sentence(comparison, row)
    assert "could have seen 37 % or more" in row_sentence(comparison, row)


def test_secondary_rows_have_numbers_and_no_verdict_word(comparison: Comparison) -> None:
    assert line_of(comparison_text(comparison), "round-trip p99").endswith("secondary")


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_no_line_is_wider_than_the_terminal(width: int, words: Words) -> None:
    noise = (Noise(block=1, cpu_pressure_share=0.5, steal_share=0.5),)
    text = comparison_text(example_comparison(noise=noise), width=width, words=words)
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_at_80_columns_no_row_of_the_default_metrics_wraps(comparison: Comparison) -> None:
    lines = comparison_text(comparison, width=80).splitlines()
    start, end = lines.index("cross-node"), next(i for i, line in enumerate(lines) if line.startswith("Interleaved"))
    assert end - start == 2 + len(comparison.rows)


def test_without_colour_nothing_is_lost(comparison: Comparison) -> None:
    """The plain text is the coloured text less its escape codes and the spaces at the ends of lines."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=100, force_terminal=True, color_system="truecolor", highlight=False)
    console.print(comparison_view(comparison, width=100))
    coloured = buffer.getvalue()
    assert "\x1b[" in coloured
    stripped = [line.rstrip() for line in re.sub("\x1b[^m]*m", "", coloured).splitlines()]
    assert stripped == comparison_text(comparison, width=100).splitlines()


def test_what_the_lab_is_and_what_legacy_carries_is_said(comparison: Comparison) -> None:
    text = comparison_text(comparison, width=140)
    assert f"A, B: {NETNS_STATEMENT}" in text
    assert "A: Legacy carries 87 iptables rules per node and conntrack" in text


def test_the_proof_says_what_was_asked_what_is_in_force_and_by_which_evidence(comparison: Comparison) -> None:
    text = comparison_text(comparison, width=140)
    assert "B bpf-native: proven" in text
    assert "asked: hostRouting bpf, encapsulation native" in text
    assert "evidence programs (node2 eth0 ingress): bpf_redirect_peer ran for 20 of 20 packets" in text


def test_a_side_that_is_not_proven_is_said_so_with_what_stands_against_it() -> None:
    text = comparison_text(example_comparison(proven=False), width=140)
    assert "no verdict, the mode in force of bpf-native is not proven: the programs say legacy" in text
    assert "B bpf-native: NOT IN FORCE (the programs say legacy)" in text
    assert "✗ programs (node2 eth0 ingress): no redirect_peer was counted" in text


def test_the_signatures_show_that_the_lxc_sees_one_direction_only_in_bpf(comparison: Comparison) -> None:
    text = comparison_text(comparison, width=100)
    assert line_of(text, "client-lxc").split() == ["client-lxc", "→64", "←60", "→64", "·", "≠"]
    assert line_of(text, "client-eth0").split() == ["client-eth0", "→64", "←60", "→64", "←62", "≠"]
    assert "nothing was seen on either side at: client-node-cilium_host" in text


def test_warnings_and_refusals_are_told_with_their_reasons() -> None:
    text = comparison_text(example_comparison(rounds=5, noise=(Noise(block=1, steal_share=0.05),)), width=200)
    assert "only 5 pairs; a verdict needs at least 6" in text
    assert "steal above 2.0 % in 1 of 1 blocks, at most 5.0 %" in text


def test_the_same_scenario_on_both_sides_is_told_apart() -> None:
    found = headline(example_comparison(names=("legacy", "legacy")))
    assert "legacy (B) is 22 % faster" in found
    assert found.endswith("than legacy (A)")


def test_the_headline_is_chosen_by_what_a_row_is_and_not_by_what_came_out(comparison: Comparison) -> None:
    reverse = replace(comparison, rows=comparison.rows[::-1])
    for each in (comparison, reverse):
        row = headline_row(each)
        assert row is not None
        assert (row.metric.name, row.placement) == ("rtt_p50", Placement.CROSS_NODE)


def test_a_comparison_without_rows_says_that_nothing_was_measured(comparison: Comparison) -> None:
    assert comparison_text(replace(comparison, rows=(), runs=())).startswith("Nothing was measured")


def test_markup_in_names_is_shown_as_it_is() -> None:
    text = comparison_text(example_comparison(names=("[bold]x[/bold]", "[red]")), width=140)
    assert "[bold]x[/bold] (A) against [red] (B)" in text


@pytest.mark.parametrize("language", list(Language))
def test_every_language_has_a_sentence_for_every_kind(language: Language) -> None:
    words = words_for(language)
    assert set(words.verdicts) == set(ChangeVerdict)
    assert set(words.refusals) == set(RefusalKind)
    assert set(words.cautions) == set(CautionKind)
    assert set(words.check_verdicts) == set(Verdict)


def test_both_languages_name_the_same_facts() -> None:
    def facts(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    def texts(words: Words) -> dict[str, str]:
        found: dict[str, str] = {}
        for field in Words.__dataclass_fields__:
            value = getattr(words, field)
            if isinstance(value, str):
                found[field] = value
            elif field != "labels":
                found |= {f"{field}.{key}": text for key, text in value.items()}
        return found

    english, chinese = texts(ENGLISH), texts(CHINESE)
    assert {key: facts(text) for key, text in english.items()} == {key: facts(text) for key, text in chinese.items()}
    assert [key for key, text in chinese.items() if not text] == ["joiner"]


def test_the_chinese_report_has_chinese_words_and_the_same_figures(comparison: Comparison) -> None:
    text = comparison_text(comparison, width=140, words=CHINESE)
    assert text.startswith("跨节点往返时延 p50：bpf-native 比 legacy-native 更快 22 %（95 % 区间：21–23 %）")
    assert "未检出（≥ 37 %）" in text


def check_result(verdict: Verdict, reason: str) -> CheckResult:
    return CheckResult(
        check="ping",
        kind="ping",
        client="client",
        server="far",
        placement=Placement.CROSS_NODE,
        verdict=verdict,
        reason=reason,
        samples=(Sample(metric="rtt_p50", value=52.3e-6, unit="s"),),
        signature=example_signature("a", "legacy").signature if verdict is Verdict.PASS else None,
    )


def test_check_results_are_one_line_each_with_word_reason_and_readable_numbers() -> None:
    results = [
        check_result(Verdict.PASS, "3 of 3 answered"),
        check_result(Verdict.FAIL, "2 of 3 lost"),
        check_result(Verdict.ERROR, "ping is not installed"),
        check_result(Verdict.SKIP, "no far pod"),
    ]
    text = check_text(results, width=100)
    assert line_of(text, "pass").split("  ")[0] == "pass"
    assert "2 of 3 lost" in line_of(text, "FAIL")
    assert "ping is not installed" in line_of(text, "ERROR")
    assert "rtt_p50 52.3 µs" in text
    assert line_of(text, "client-lxc").split() == ["client-lxc", "→64", "←60", "node1:lxc3f"]
    assert text.splitlines()[-1] == "1 pass, 1 FAIL, 1 ERROR, 1 skip"


def test_a_report_is_the_same_every_time() -> None:
    plan = example_schedule()
    assert comparison_text(example_comparison(runs=example_runs(plan))) == comparison_text(example_comparison())


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
@pytest.mark.parametrize(("rounds", "level"), [(2, "50 %"), (3, "75 %"), (5, "94 %"), (6, "")])
def test_an_interval_of_few_pairs_says_what_it_holds_and_that_it_is_not_95_percent(
    words: Words, rounds: int, level: str
) -> None:
    text = " ".join(comparison_text(example_comparison(rounds=rounds), width=400, words=words).split())
    assert (words.interval_short in text) is bool(level)
    assert words.interval_paired.format(level=level or "95 %") in text


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_a_single_pair_has_no_interval_and_no_level(words: Words) -> None:
    shown = example_comparison(rounds=1)
    text = comparison_text(shown, width=400, words=words)
    assert words.interval_none in text
    assert "精确 0 %" not in text
    assert "exact 0 %" not in text
    assert {interval_text(row.change) for row in shown.rows} == {"–"}


EXPLAINED = """\
Where the difference comes from
  cross-node client → far              A, µs B, µs  B − A        interval
  round-trip p50                       52.65 41.37 −11.33 [−12.92, −9.67]
    netfilter on the nodes              8.00  0.00  −8.00  [−8.00, −8.00]
    TCP and program in both pods       40.65 39.37  −1.33  [−2.92, +0.33]
    programs and IP stack of the nodes  4.00  4.00  +0.00  [+0.00, +0.00]
    not explained                                   −2.00  [−2.00, −2.00]
"""


def test_under_the_table_stands_where_the_difference_comes_from() -> None:
    text = comparison_text(example_with_parts(), width=80)
    assert EXPLAINED in text
    assert text.index("Interleaved blocks") < text.index(EXPLAINED) < text.index("What the figures are about")
    assert "Where the difference comes from" not in comparison_text(example_comparison())


def test_what_cannot_be_explained_says_why() -> None:
    why = "the taps could not be put on: Operation not permitted"
    runs = tuple(replace(run, unparted=why) if run.check == "ping" else run for run in example_runs(example_schedule()))
    text = comparison_text(example_comparison(runs=runs), width=110)
    assert f"  - cross-node client → far: not known: {why}\n" in text
    assert ENGLISH.explanation_note[:20] not in text


def test_without_taps_at_its_hooks_netfilter_is_named_with_the_stack() -> None:
    runs = tuple(
        replace(run, parts=tuple(part for part in run.parts if part.metric != "netfilter"))
        for run in example_with_parts().runs
    )
    text = comparison_text(example_comparison(runs=runs), width=80)
    assert "programs, IP stack and netfilter of the nodes" in text
    assert ENGLISH.parts[WayPart.NETFILTER] not in text
