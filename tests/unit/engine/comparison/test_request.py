"""What a comparison is asked: refused in words before anything is built, and stopped where it was told to stop."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from engine.engine_world import SPECS, ImaginedPing, World, lab
from labctl.checks.base import CheckContext
from labctl.checks.registry import all_checks
from labctl.checks.server import address_of
from labctl.codec import json_line
from labctl.engine.comparison.request import Options, ask, asked_from, compared_specs, declared_metrics, with_given
from labctl.errors import LabError, UsageError
from labctl.model.lab import CheckSpec, Placement
from labctl.model.parameters import (
    CheckParameters,
    CompareParameters,
    ConnectParameters,
    LoadParameters,
    PingParameters,
)
from labctl.model.result import CheckResult, Metric
from labctl.names import is_name

OPTIONS = Options(seed=7, token="abcd")
PARAMETERS = CompareParameters(rounds=6, checks=("ping",))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(runs_dir=tmp_path)


def test_what_was_asked_comes_back_from_the_manifest_as_it_was(world: World) -> None:
    asked = world.question("legacy", "bpf", "third", rounds=10, until=0.02).asked
    settings = json.loads(json_line(asked.settings()))
    assert asked_from(settings, "run.json") == asked
    assert settings["order"] == asked.schedule().text()


def test_a_manifest_without_what_was_asked_is_refused() -> None:
    with pytest.raises(LabError, match=r"run\.json cannot be read") as refused:
        asked_from({"seed": 7}, "run.json")
    assert refused.value.cause == "Asked: it is missing"


def test_the_labs_are_named_after_the_run_and_so_never_meet_another(world: World) -> None:
    assert [side.lab.name for side in world.question().sides] == ["legacy-a-abcd", "bpf-b-abcd"]


def test_the_labs_of_a_named_comparison_begin_with_its_name_and_still_never_meet_another(world: World) -> None:
    asked = replace(OPTIONS, name="monday")
    question = ask(
        [lab("legacy"), lab("bpf"), lab("bpf")], {"imagined": world.provider}, world.checks, PARAMETERS, asked
    )
    assert [side.lab.name for side in question.sides] == ["monday-a-abcd", "monday-b-abcd", "monday-c-abcd"]
    assert [side.lab.scenario for side in question.sides] == ["legacy", "bpf", "bpf"]


@pytest.mark.parametrize("name", ["Monday", "a b", "-a", "a" * 34, "a/b", "ü"])
def test_a_comparison_whose_labs_could_not_be_called_so_is_refused(world: World, name: str) -> None:
    with pytest.raises(UsageError, match="the labs of a comparison cannot be called") as refused:
        ask(
            [lab("legacy"), lab("bpf")],
            {"imagined": world.provider},
            world.checks,
            PARAMETERS,
            replace(OPTIONS, name=name),
        )
    assert "--name" in refused.value.remedy
    assert world.provider.events == []


def test_the_longest_name_of_a_comparison_leaves_room_for_the_labs_of_all_its_sides(world: World) -> None:
    asked = replace(OPTIONS, name="a" * 33)
    question = ask([lab("legacy")] * 26, {"imagined": world.provider}, world.checks, PARAMETERS, asked)
    assert all(is_name(side.lab.name) for side in question.sides)


@pytest.mark.parametrize("expression", ["cross-node rtt_p51 > +5%", "rtt_p50 > 5", "jitter > +5%"])
def test_a_threshold_that_names_nothing_is_refused_before_anything_is_built(world: World, expression: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        ask(
            [lab("legacy"), lab("bpf")],
            {"imagined": world.provider},
            world.checks,
            PARAMETERS,
            replace(OPTIONS, fail_if=(expression,)),
        )
    assert world.provider.events == []


def test_a_threshold_on_a_placement_that_is_not_measured_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="no metric is called"):
        ask(
            [lab("legacy"), lab("bpf")],
            {"imagined": world.provider},
            world.checks,
            PARAMETERS,
            replace(OPTIONS, fail_if=("same-node rtt_p50 > +5%",)),
        )


@pytest.mark.parametrize("count", [1, 27])
def test_a_comparison_has_at_least_two_sides_and_as_many_as_the_alphabet_at_most(world: World, count: int) -> None:
    labs = [lab("legacy")] * count
    with pytest.raises(UsageError, match=f"2 to 26 sides, not {count}"):
        ask(labs, {"imagined": world.provider}, world.checks, PARAMETERS, OPTIONS)


def test_checks_that_differ_between_the_sides_are_refused(world: World) -> None:
    other = replace(
        lab("bpf"), checks=(CheckSpec(name="ping", kind="ping", parameters=PingParameters(count=3)), *SPECS[1:])
    )
    with pytest.raises(UsageError, match="do not agree on check ping"):
        ask([lab("legacy"), other], {"imagined": world.provider}, world.checks, PARAMETERS, OPTIONS)


def test_a_placement_that_no_pair_has_is_refused_with_the_pairs_that_there_are(world: World) -> None:
    options = replace(OPTIONS, placements=(Placement.SAME_NODE,))
    with pytest.raises(UsageError, match="no same-node pair") as refused:
        ask([lab("legacy"), lab("bpf")], {"imagined": world.provider}, world.checks, PARAMETERS, options)
    assert "client→server (cross-node)" in refused.value.cause


def test_a_reference_adds_the_pair_of_nodes_to_every_block(world: World) -> None:
    options = replace(OPTIONS, reference=True)
    asked = ask([lab("legacy"), lab("bpf")], {"imagined": world.provider}, world.checks, PARAMETERS, options).asked
    assert [(item.client, item.server) for item in asked.work] == [("client", "server"), ("node1", "node2")]
    assert asked.limits() == {("client", "server"): ("node1", "node2")}


class WithoutNumbers(ImaginedPing):
    """As a netfilter check: it asks about pods, and would find none by a node's name."""

    def metrics(self, parameters: CheckParameters) -> tuple[Metric, ...]:
        return ()


def test_checks_without_numbers_are_not_run_between_the_nodes(world: World) -> None:
    labs = [lab("legacy"), lab("bpf")]
    both = replace(PARAMETERS, checks=("ping", "netfilter"))
    checks = {**world.checks, "netfilter": WithoutNumbers()}
    asked = ask(labs, {"imagined": world.provider}, checks, both, replace(OPTIONS, reference=True)).asked
    assert [(item.check, item.client, item.server) for item in asked.work] == [
        ("ping", "client", "server"),
        ("netfilter", "client", "server"),
        ("ping", "node1", "node2"),
    ]


def test_fewer_blocks_than_the_first_look_needs_are_refused(world: World) -> None:
    options = replace(OPTIONS, until=0.02, most_rounds=7)
    with pytest.raises(UsageError, match="at most 7 blocks leave no room for the first look, which is after 8"):
        ask([lab("legacy"), lab("bpf")], {"imagined": world.provider}, world.checks, PARAMETERS, options)


def test_a_check_that_no_scenario_has_is_told_with_the_nearest(world: World) -> None:
    with pytest.raises(UsageError, match="no check is called pingg") as refused:
        compared_specs([lab("legacy"), lab("bpf")], replace(PARAMETERS, checks=("pingg",)))
    assert refused.value.remedy == "did you mean ping?"


def test_a_reference_makes_no_rows_of_its_own_but_a_limit_beside_the_pairs_row(world: World) -> None:
    options = replace(OPTIONS, reference=True)
    question = ask([lab("legacy"), lab("bpf")], {"imagined": world.provider}, world.checks, PARAMETERS, options)
    (comparison,) = world.measure(question)
    (row,) = comparison.rows
    assert (row.client, row.server) == ("client", "server")
    assert row.limit is not None
    # The imagined wire between the nodes takes as long as the way between the pods.
    assert row.limit.a is not None
    assert row.limit.a.estimate == 0.0
    assert row.change is not None
    assert row.change.p_adjusted == row.change.p_value, "the reference is not among the rows that are corrected for"


def test_a_fixed_number_of_blocks_has_intervals_of_95_percent(world: World) -> None:
    (comparison,) = world.measure(world.question(rounds=6))
    assert comparison.stopping is None
    assert comparison.rows[0].change is not None
    assert comparison.rows[0].change.confidence == pytest.approx(0.95)


def test_until_stops_at_the_first_look_whose_intervals_are_narrow(world: World) -> None:
    (comparison,) = world.measure(world.question(rounds=8, until=0.2))
    assert comparison.rounds == 8
    assert comparison.stopping is not None
    assert comparison.stopping.is_reached
    assert [look.rounds for look in comparison.stopping.looks] == [8, 16, 32]
    assert comparison.rows[0].change is not None
    assert comparison.rows[0].change.confidence == pytest.approx(1 - 0.05 / 4)
    assert comparison.cautions == ()
    assert world.read().comparisons() == (comparison,)


def test_until_goes_on_to_its_limit_and_says_what_was_reached(world: World) -> None:
    world.ping.spread = 0.05
    (comparison,) = world.measure(world.question(rounds=8, until=0.0001))
    assert comparison.rounds == 32
    assert comparison.stopping is not None
    assert not comparison.stopping.is_reached
    assert comparison.rows[0].change is not None
    assert comparison.rows[0].change.confidence == pytest.approx(1 - 0.05 / 2)


def test_until_rebuilds_the_labs_about_twice_between_looks(world: World) -> None:
    world.measure(world.question(rounds=8, until=0.2))
    assert world.provider.events.count("built legacy") == 2


def test_a_kind_that_no_scenario_has_a_check_of_is_run_with_its_defaults() -> None:
    parameters = CompareParameters(checks=("ping", "connect"), duration_s=0.5)
    specs = compared_specs([lab("legacy"), lab("bpf")], parameters)
    assert [(spec.name, spec.parameters) for spec in specs] == [
        ("ping", PingParameters(count=1600, interval_s=0, slices=32)),
        ("connect", ConnectParameters(duration_s=0.5)),
    ]


def given(**options: Any) -> CompareParameters:
    return with_given(CompareParameters(), **{"rounds": None, "duration_s": None, "checks": None, **options})


def test_tools_of_the_field_are_checks_beside_those_that_were_named() -> None:
    assert given(checks=("ping", "load"), tools=("sockperf", "iperf")).checks == ("ping", "load", "latency", "iperf")
    assert given(tools=("sockperf",)).checks == (*CompareParameters().checks, "latency")
    assert given(checks=("ping", "latency"), tools=("sockperf",)).checks == ("ping", "latency")
    with pytest.raises(UsageError, match="no tool is called 'iperf4'") as refused:
        given(tools=("iperf4",))
    assert refused.value.remedy == "did you mean iperf?"


def test_quick_is_six_short_blocks_and_what_is_given_wins() -> None:
    quick = given(is_quick=True)
    assert (quick.rounds, quick.duration_s, quick.checks) == (6, 0.3, ("ping", "load"))
    assert (quick.ping_count, quick.ping_slices) == (400, 8)
    more = given(is_quick=True, rounds=8, duration_s=0.1, checks=("ping",))
    assert (more.rounds, more.duration_s, more.checks) == (8, 0.1, ("ping",))


def test_without_a_spinner_the_load_program_lets_cpus_sleep_and_nothing_else_has_one() -> None:
    asleep = given(checks=("load",), spin=False)
    (spec,) = compared_specs([lab("legacy"), lab("bpf")], asleep)
    assert spec.parameters == LoadParameters(duration_s=1.0, spin=False)
    with pytest.raises(UsageError, match="--no-spin has no meaning here"):
        given(checks=("ping",), spin=False)


@pytest.mark.parametrize(
    ("checks", "judged"),
    [
        (("ping", "latency", "iperf"), {"ping", "latency", "iperf"}),
        (("ping", "load", "latency", "iperf"), {"ping", "load"}),
    ],
)
def test_beside_the_load_program_the_rows_of_the_tools_are_secondary(checks: tuple[str, ...], judged: set[str]) -> None:
    specs = compared_specs([lab("legacy"), lab("bpf")], CompareParameters(checks=checks))
    declared = declared_metrics(all_checks(), specs)
    assert {each.check for each in declared if any(metric.primary for metric in each.metrics)} == judged


def test_pods_elsewhere_are_measured_by_the_load_program_too(world: World) -> None:
    parameters = replace(PARAMETERS, checks=("ping", "load"))
    sides = [lab("legacy"), lab("bpf")]
    assert not world.provider.capabilities.runs_tools_here
    question = ask(sides, {"imagined": world.provider}, all_checks(), parameters, OPTIONS)
    assert [spec.kind for spec in question.specs] == ["ping", "load"]


def test_a_pair_of_nodes_is_addressed_on_the_underlay() -> None:
    made = lab("legacy")
    assert str(address_of(made, "node2")) == "172.30.0.4"
    assert address_of(made, "server") == made.pod("server").address


@dataclass
class SlicedPing(ImaginedPing):
    """A run of three slices; `slices` tells whose turn it was, warm-up left out."""

    slices: list[str] = field(default_factory=list)

    def run_in_slices(self, context: CheckContext) -> Generator[None, None, CheckResult]:
        result = self.run(context)
        for number in range(3):
            if number:
                yield
            if "warm-up" not in result.raw[0]:
                self.slices.append(context.open_lab.lab.scenario)
        return result


def test_runs_in_slices_stand_together_in_a_block_and_take_turns_forth_and_back(world: World) -> None:
    world.ping = ping = SlicedPing()
    question = world.question(rounds=6)
    assert question.asked.together == ("ping",)
    (comparison,) = world.measure(question)
    planned = [[{"a": "legacy", "b": "bpf"}[run.side] for run in block] for block in question.asked.schedule().blocks]
    assert ping.slices == [side for block in planned for side in (*block, *block[::-1], *block)]
    assert comparison.rows[0].change is not None
    assert comparison.rows[0].change.n == 6


def test_a_check_is_not_asked_of_pairs_that_it_has_no_meaning_for() -> None:
    from labctl.checks.paths import ConvergenceCheck
    from labctl.engine.comparison.request import _with_a_meaning, work_of
    from labctl.loading import load_scenario
    from labctl.model.lab import CheckSpec
    from labctl.model.parameters import ConvergenceParameters
    from labctl.planning.resolve import resolve

    checkout = Path(__file__).resolve().parents[4]
    spec = CheckSpec(name="convergence", kind="convergence", parameters=ConvergenceParameters())
    checks = {"convergence": ConvergenceCheck()}

    def asked(name: str) -> list[str]:
        lab = resolve(load_scenario(name, start=checkout))
        work = work_of((spec,), lab.pairs)
        return [item.server for item in _with_a_meaning(work, (lab, lab), checks, (spec,))]

    assert asked("clos-bgp") == ["server"]
    assert asked("flannel-vxlan") == ["neighbour", "server"]  # of none: the report says why
