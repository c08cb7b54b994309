"""`status --datapath`: programs and maps as tables and as JSON, each with the command that shows it by hand."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from labctl.model.evidence import AttachedProgram, DatapathState, MapTable, NodeDatapath
from labctl.report.datapath import ROWS_SHOWN, STATISTICS_ON, datapath_record, datapath_tables

PROGRAM = AttachedProgram(
    device="lxc1",
    hook="ingress",
    attach="tc clsact",
    name="cil_from_container",
    program_id=7,
    tag="0011223344556677",
    did=("3 × bpf_redirect_peer",),
    command="tc -n n filter show dev lxc1 ingress",
)
TUNNEL = MapTable(
    name="tunnel",
    meaning="which node has which pod range",
    kind="LPM trie",
    columns=("pod CIDR", "tunnel endpoint"),
    rows=(("10.244.1.0/24", "172.30.0.3 (node2)"),),
    command="bpftool map dump id 9",
    cilium_command="cilium bpf tunnel list",
    map_id=9,
    max_entries=4096,
)
STATE = DatapathState(
    nodes=(NodeDatapath(node="node1", programs=(PROGRAM,), maps=(TUNNEL,), commands=("bpftool net show",)),),
    counts_runs=False,
)


def shown(state: DatapathState, *, width: int = 140) -> str:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        for part in datapath_tables(state, width=width):
            console.print(part)
    return captured.get()


def test_every_list_has_the_command_that_shows_it_by_hand() -> None:
    text = shown(STATE)
    for command in ("$ bpftool net show", "$ bpftool map dump id 9", "in Cilium: cilium bpf tunnel list"):
        assert command in text
    assert "cil_from_container" in text
    assert "3 × bpf_redirect_peer" in text
    assert "1 entry of at most 4096" in text


def test_names_are_whole_on_80_columns() -> None:
    """bpf_redirect… would be either mode."""
    busy = replace(PROGRAM, device="lxc0123456789ab", did=("13 × bpf_redirect_peer", "5 × bpf_redirect_neigh"))
    state = replace(STATE, nodes=(replace(STATE.nodes[0], programs=(busy,)),))
    text = shown(state, width=80)
    for name in ("lxc0123456789ab", "cil_from_container", "bpf_redirect_peer", "bpf_redirect_neigh"):
        assert name in text
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_runs_that_the_kernel_does_not_count_are_not_shown_as_zero() -> None:
    assert STATISTICS_ON in shown(STATE)
    assert "runs" not in shown(STATE).splitlines()[4]
    assert datapath_record(STATE)["runsCounted"] is False


def test_counted_runs_are_shown_with_their_mean_time() -> None:
    counted = replace(PROGRAM, run_count=4, run_time_ns=1000)
    idle = replace(PROGRAM, run_count=0, run_time_ns=0)
    state = replace(STATE, counts_runs=True, nodes=(replace(STATE.nodes[0], programs=(counted, idle)),))
    text = shown(state)
    assert "4 (250 ns each)" in text
    assert STATISTICS_ON not in text


def test_a_long_map_is_cut_on_the_terminal_and_whole_in_the_json() -> None:
    rows = tuple((f"10.{n}.0.0/16", "node") for n in range(ROWS_SHOWN + 5))
    state = replace(STATE, nodes=(replace(STATE.nodes[0], maps=(replace(TUNNEL, rows=rows),)),))
    assert "… and 5 more entries" in shown(state)
    nodes = datapath_record(state)["nodes"]
    assert isinstance(nodes, list)
    assert len(nodes[0]["maps"][0]["entries"]) == ROWS_SHOWN + 5


def test_the_record_names_every_column() -> None:
    nodes = datapath_record(STATE)["nodes"]
    assert isinstance(nodes, list)
    (node,) = nodes
    assert node["maps"][0]["entries"] == [{"pod CIDR": "10.244.1.0/24", "tunnel endpoint": "172.30.0.3 (node2)"}]
    assert node["programs"][0]["runs"] is None
    assert node["programs"][0]["did"] == ["3 × bpf_redirect_peer"]


def test_entries_that_look_like_markup_are_printed_as_they_are() -> None:
    table = replace(TUNNEL, rows=(("[red]", "[/red]"),))
    assert "[red]" in shown(replace(STATE, nodes=(replace(STATE.nodes[0], maps=(table,)),)))
