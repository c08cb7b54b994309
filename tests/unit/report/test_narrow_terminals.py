"""Every view on terminals of 40 to 200 columns: no line is too long, and no fact of the wide form is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address

import pytest
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from comparison_example import example_comparison, example_mode, example_side, example_signature
from labctl import units
from labctl.model.evidence import AttachedProgram, DatapathState, MapTable, NodeDatapath
from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.result import CheckResult, Sample, Verdict
from labctl.report.check import check_view
from labctl.report.datapath import datapath_tables
from labctl.report.grid import Column, Grid
from labctl.report.matrix import matrix_view
from labctl.report.terminal import comparison_view, plain_text, status_table
from labctl.report.trace_text import trace_view
from labctl.report.words import ENGLISH, Words
from labctl.report.words_zh import CHINESE
from labctl.testing.labs import sample_lab

from .trace_example import CELLS, example_trace, lost_trace

WIDTHS = (40, 50, 60, 80, 110)
WIDEST = 200
Cell = tuple[HostRouting, Encapsulation, Placement]
View = Callable[[int], RenderableType]

PROGRAM = AttachedProgram(
    device="lxc948fe603f61d",
    hook="ingress",
    attach="tc clsact",
    name="cil_from_container",
    program_id=1447,
    tag="0011223344556677",
    did=("8 × bpf_redirect_peer", "3 × bpf_skb_set_tunnel_key, bpf_redirect"),
    command="tc -n labctl.views.node1 filter show dev lxc948fe603f61d ingress",
    run_count=11,
    run_time_ns=4400,
)
ENDPOINTS = MapTable(
    name="endpoints",
    meaning="which pod has which device",
    kind="hash",
    columns=("address", "interface", "MAC in the pod", "identity"),
    rows=(("10.244.1.10", "6 (lxcb3eacd33433b)", "02:00:00:00:00:01", "1279"),),
    command="bpftool map dump id 9",
    map_id=9,
    max_entries=4096,
)
STATE = DatapathState(
    nodes=(NodeDatapath(node="node1", programs=(PROGRAM,), maps=(ENDPOINTS,), commands=("bpftool net show",)),),
    counts_runs=True,
)


def checked(verdict: Verdict, reason: str) -> CheckResult:
    return CheckResult(
        check="throughput-tcp",
        kind="iperf",
        client="client",
        server="a-server-with-a-long-name",
        placement=Placement.CROSS_NODE,
        verdict=verdict,
        reason=reason,
        samples=(
            Sample(metric="rtt_p50", value=52.3e-6, unit="s"),
            Sample(metric="throughput", value=9.1e9, unit="bit/s"),
        ),
        signature=example_signature("a", "legacy").signature,
    )


RESULTS = (checked(Verdict.PASS, "3 of 3 answered"), checked(Verdict.FAIL, "2 of 3 packets of 1472 bytes lost"))


def status(width: int) -> RenderableType:
    del width
    mode = example_mode(example_side("a", "legacy", "legacy"))
    return Group(*status_table(sample_lab("a-lab-with-a-name"), mode, statement="the datapath is labctl's own"))


def views(words: Words) -> dict[str, View]:
    comparison = example_comparison()
    return {
        "compare": lambda width: comparison_view(comparison, width=width, words=words),
        "matrix": lambda width: matrix_view([comparison, comparison], words),
        "check": lambda width: check_view(RESULTS, words=words),
    }


def traced(cell: Cell, width: int) -> RenderableType:
    return trace_view(example_trace(*cell), width=width)


VIEWS: dict[str, View] = {
    **{f"{name} en": view for name, view in views(ENGLISH).items()},
    **{f"{name} zh": view for name, view in views(CHINESE).items()},
    **{f"trace {' '.join(map(str, cell))}": partial(traced, cell) for cell in CELLS},
    "trace lost": lambda width: trace_view(lost_trace(), width=width),
    "status": status,
    "datapath": lambda width: Group(*datapath_tables(STATE, width=width)),
}


def lines(view: View, width: int) -> list[str]:
    return plain_text(Group(view(width)), width=width, crop=False).splitlines()


def facts(text: str) -> Counter[str]:
    """Figures, names and words; the lanes of a picture and the rule between two parts are none."""
    return Counter(re.findall(r"[\w.%/µ−]+", re.sub(r"[┊┃●○╰╯─▶◀✗⇣]", " ", text)))


@pytest.mark.parametrize("width", [*WIDTHS, WIDEST])
@pytest.mark.parametrize("name", VIEWS)
def test_no_line_is_longer_than_the_terminal_except_commands(name: str, width: int) -> None:
    too_long = [line for line in lines(VIEWS[name], width) if cell_len(line) > width and not is_command(line)]
    assert too_long == []


def is_command(line: str) -> bool:
    return line.lstrip().startswith("$ ")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", VIEWS)
def test_no_fact_of_the_wide_form_is_lost(name: str, width: int) -> None:
    wide = facts("\n".join(lines(VIEWS[name], WIDEST)))
    narrow = "\n".join(lines(VIEWS[name], width))
    found = facts(narrow) | facts(re.sub(r"\n\s*[┊┃ ]*\s*", "", narrow))  # a name longer than a line is folded
    missing = set(wide) - set(found) - {"wire"}  # the title of a lane, whose taps name the underlay
    assert missing <= told(name, narrow)


def told(name: str, text: str) -> set[str]:
    """What the view says it leaves out at this width: what only its widest table has columns for."""
    if name == "datapath":
        return {PROGRAM.tag, "tag"} if "The programs' tags: on a terminal of 110 columns" in text else set()
    if not name.startswith("compare") or not re.search("120 (columns|列)", text):
        return set()
    changes = [row.change for row in example_comparison().rows if row.change is not None]
    figures = [f"{change.p_adjusted:.3f}" for change in changes if change.p_adjusted is not None]
    figures += [units.percent(change.detectable) for change in changes if change.detectable is not None]
    return set(facts(" ".join(figures)))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " ".join(map(str, cell)))
def test_every_ttl_of_a_trace_is_shown_as_often_as_on_a_wide_terminal(cell: Cell, width: int) -> None:
    def ttls(columns: int) -> int:
        text = "\n".join(lines(VIEWS[f"trace {' '.join(map(str, cell))}"], columns))
        return len(re.findall(r"ttl \d+", text))

    assert ttls(width) == ttls(WIDEST) > 0


def test_a_narrow_trace_has_a_block_for_each_sighting_with_the_whole_name_of_its_tap() -> None:
    trace = example_trace(*CELLS[0])
    shown = lines(VIEWS[f"trace {' '.join(map(str, CELLS[0]))}"], 40)
    for path in trace.paths:
        for number, hop in enumerate(path.hops, start=1):
            assert any(line.startswith(f"●  {number}  {hop.tap}") for line in shown)


def test_a_grid_is_a_table_where_it_fits_and_blocks_where_it_does_not() -> None:
    grid = Grid(
        (Column(title="pod"), Column(title="address"), Column(title="node")), [("client", "10.244.0.10", "node1")]
    )
    assert plain_text(grid, width=30).splitlines() == ["pod     address      node", "client  10.244.0.10  node1"]
    assert plain_text(grid, width=20).splitlines() == [
        "pod",
        "client",
        "  address:",
        "    10.244.0.10",
        "  node: node1",
    ]


def test_a_grid_never_breaks_a_name_and_wraps_sentences_between_words() -> None:
    columns = (Column(title="run"), Column(title="state", is_text=True))
    name = "20261129T114225Z-compare-legacy-bpf-7ccc92"
    shown = plain_text(Grid(columns, [(name, "interrupted\nthe power went")]), width=20, crop=False).splitlines()
    assert shown == ["run", name, "  state: interrupted", "  the power went"]


def test_a_grid_counts_a_chinese_character_as_two_columns() -> None:
    grid = Grid((Column(title="指标"), Column(title="判定")), [("往返时延最小值", "更快")])
    assert len(plain_text(grid, width=20).splitlines()) == 2
    assert plain_text(grid, width=19).splitlines() == ["指标", "往返时延最小值", "  判定: 更快"]


def test_a_cell_of_a_grid_keeps_its_style_in_both_forms() -> None:
    from rich.console import Console

    grid = Grid((Column(title="check"), Column(title="verdict")), [("ping", Text("FAIL", style="red"))])
    for width in (40, 10):
        console = Console(width=width, force_terminal=True, color_system="standard")
        with console.capture() as captured:
            console.print(grid)
        assert "\x1b[31mFAIL" in captured.get()


def test_a_lab_of_long_addresses_keeps_them_whole_on_40_columns() -> None:
    lab = sample_lab("views")
    lab = replace(lab, pods=tuple(replace(pod, address=IPv4Address("100.100.200.200")) for pod in lab.pods))
    shown = plain_text(Group(*status_table(lab, None, statement="")), width=40, crop=False)
    assert shown.count("100.100.200.200") == len(lab.pods)
    assert all(pod.lxc in shown for pod in lab.pods)
