"""What a comparison is asked: everything that is decided, or refused in words, before anything is built.

It stands in the run's manifest: together with the journal it gives the result again, and lets a run that was cut short
be resumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from labctl.checks.base import Abreast, Check, ForSomePairs, InSlices
from labctl.codec import plain, typed
from labctl.compare.order import Schedule, WorkItem, schedule
from labctl.compare.statistics import CONFIDENCE
from labctl.compare.thresholds import require_named
from labctl.compare.verdict import FEWEST_PAIRS, confidence_at, looks
from labctl.compare.warnings import rounds_needed
from labctl.engine.comparison.sides import KEYS, LabSide, choose, require_own_names, sides_of
from labctl.errors import UsageError
from labctl.model.comparison import CheckMetrics, InterimLook, Side, Stopping
from labctl.model.document import PROVIDER_SECTIONS
from labctl.model.lab import CheckSpec, Lab, Pair, Placement, Strategy
from labctl.model.parameters import (
    CHECK_OF_TOOL,
    LOAD,
    PARAMETERS_OF,
    CheckParameters,
    CompareParameters,
    LoadParameters,
    PingParameters,
    TimedParameters,
)
from labctl.model.result import Metric
from labctl.names import is_name
from labctl.providers.base import Provider
from labctl.values import dataclass

SETTING = "asked"
MOST_ROUNDS = 10_000
MOST_WORK = 10_000
MOST_RUNS = 1_000_000
"""The schedule of a comparison is made in memory: what a run on disk asks for has to fit there."""

_TOKEN = re.compile(r"[a-z0-9]{0,40}")
_KEY = re.compile(r"[a-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The order follows from `sides`, `work`, `rounds`, `seed`, `rebuilds`, `together` and `takes_turns` alone.

    `token` is in the names of the labs. `references` are pairs of nodes whose runs show the physical limit. With
    `until` the comparison may end at one of `looks`, before `rounds`.
    """

    sides: tuple[Side, ...]
    token: str
    seed: int
    rounds: int
    rebuilds: int
    work: tuple[WorkItem, ...]
    together: tuple[str, ...]
    checks: tuple[CheckMetrics, ...]
    parameters: CompareParameters
    references: tuple[Reference, ...] = ()
    until: float | None = None
    looks: tuple[InterimLook, ...] = ()
    fail_if: tuple[str, ...] = ()
    takes_turns: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what no command line could have asked: a run on disk may say anything."""
        keys = [side.key for side in self.sides]
        if not all(map(_KEY.fullmatch, keys)) or len(set(keys)) != len(keys) or len(keys) < 2:
            raise ValueError(f"its sides are {', '.join(key[:20] for key in keys)}, not a, b, …")
        if not all(side.against in ("", *keys) for side in self.sides):
            raise ValueError("a side is compared with one that there is not")
        if not _TOKEN.fullmatch(self.token):
            raise ValueError("its token cannot be part of a lab's name")
        if not all(is_name(side.lab) or not side.lab for side in self.sides):
            raise ValueError("a side has a lab whose name cannot be one")
        runs = self.rounds * len(self.work) * len(self.sides)
        if not 1 <= self.rounds <= MOST_ROUNDS or len(self.work) > MOST_WORK or runs > MOST_RUNS:
            raise ValueError(f"it asks for {self.rounds:,} rounds of {len(self.work):,} runs a side")
        if not 0 <= self.rebuilds <= self.rounds:
            raise ValueError(f"it asks for {self.rebuilds:,} rebuilds in {self.rounds:,} rounds")

    def schedule(self) -> Schedule:
        return schedule(
            [side.key for side in self.sides],
            self.work,
            self.rounds,
            self.seed,
            rebuilds=self.rebuilds,
            together=self.together,
            takes_turns=self.takes_turns,
        )

    def confidence(self, blocks: int) -> float:
        """The level of the intervals after that many blocks."""
        return confidence_at(self.looks, blocks) if self.looks else CONFIDENCE

    def stopping(self, blocks: int) -> Stopping | None:
        if self.until is None:
            return None
        return Stopping(until=self.until, looks=self.looks, after=blocks, half_width=None)

    def limits(self) -> Mapping[tuple[str, str], tuple[str, str]]:
        """The two nodes between which the limit of a pair was measured, by client and server."""
        return {(each.client, each.server): (each.client_node, each.server_node) for each in self.references}

    def rounds_needed(self) -> int:
        """How many blocks it takes until any row can get a difference word."""
        between_nodes = {(each.client_node, each.server_node) for each in self.references}
        runs = [item.check for item in self.work if (item.client, item.server) not in between_nodes]
        return rounds_needed(self.checks, runs)

    def settings(self) -> dict[str, object]:
        """For the manifest: the same for programs, and the order for people."""
        order = self.schedule().text()
        return {"seed": self.seed, "rounds": self.rounds, "order": order, SETTING: plain(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The physical limit of a pair: the same checks between the nodes that its pods are on."""

    client: str
    server: str
    client_node: str
    server_node: str

    def pair(self) -> Pair:
        return Pair(client=self.client_node, server=self.server_node, placement=Placement.CROSS_NODE)


def asked_from(settings: Mapping[str, object], where: str) -> Asked:
    """The inverse of `Asked.settings`. Raises LabError when it was written by another version, or changed."""
    return typed(Asked, settings.get(SETTING), where=where)


_QUICK_CHECKS = ("ping", LOAD)
_QUICK_S = 0.3
_QUICK_PINGS, _PINGS_OF_A_SLICE = 400, 50

SEQUENTIAL_BLOCKS = 4
"""How many times the blocks of `--rounds` a comparison with `until` has at most, unless that is given."""
FEWEST_SEQUENTIAL = 8
"""With the 1.25 % that the first of three looks has, no interval of fewer pairs can reach its level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line or the matrix file says beside the scenarios.

    `name` is what the labs' names begin with; empty for the scenarios' own.
    `until` is half the width (relative) that the primary intervals should have; `most_rounds` bounds it. Of every
    `group` labs the first is what the others are compared with; 0: the first of all.
    """

    seed: int
    token: str
    name: str = ""
    placements: tuple[Placement, ...] = ()
    reference: bool = False
    until: float | None = None
    most_rounds: int | None = None
    fail_if: tuple[str, ...] = ()
    strategy: Strategy = Strategy.AUTO
    group: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and the labs and checks with which it is answered; `checks` by their kind."""

    asked: Asked
    sides: tuple[LabSide, ...]
    specs: tuple[CheckSpec, ...]
    checks: Mapping[str, Check]


def with_given(
    parameters: CompareParameters,
    *,
    rounds: int | None,
    duration_s: float | None,
    checks: Sequence[str] | None,
    tools: Sequence[str] = (),
    spin: bool = True,
    is_quick: bool = False,
) -> CompareParameters:
    """The scenario's parameters, except for what the command line or the matrix file says.

    `tools` are checks with the field's own tools, beside the others. Quick are six short blocks of what measures in
    slices, unless the number, the duration or the checks are given. Raises UsageError for what has no meaning.
    """
    if is_quick:
        parameters = replace(
            parameters,
            rounds=FEWEST_PAIRS,
            duration_s=_QUICK_S,
            ping_count=_QUICK_PINGS,
            ping_slices=_QUICK_PINGS // _PINGS_OF_A_SLICE,
            checks=_QUICK_CHECKS,
        )
    named = parameters.checks if checks is None else tuple(checks)
    chosen = tuple(dict.fromkeys((*named, *map(_check_of_tool, tools))))
    if not spin and LOAD not in chosen:
        raise UsageError(
            what="--no-spin has no meaning here",
            cause=f"only the check {LOAD} keeps CPUs awake while it measures, and it is not among {', '.join(chosen)}",
            remedy=f"--checks ping,{LOAD} --no-spin, or without --no-spin",
        )
    return replace(
        parameters,
        rounds=parameters.rounds if rounds is None else rounds,
        duration_s=parameters.duration_s if duration_s is None else duration_s,
        checks=chosen,
        spin=spin,
    )


def _check_of_tool(name: str) -> str:
    if name in CHECK_OF_TOOL:
        return CHECK_OF_TOOL[name]
    near = get_close_matches(name, CHECK_OF_TOOL, n=1)
    raise UsageError(
        what=f"--tools: no tool is called {name!r}",
        cause=f"there are: {', '.join(CHECK_OF_TOOL)}",
        remedy=f"did you mean {near[0]}?" if near else "name one of those",
    )


def ask(
    labs: Sequence[Lab],
    providers: Mapping[str, Provider],
    checks: Mapping[str, Check],
    parameters: CompareParameters,
    options: Options,
) -> Question:
    """Raises UsageError when the labs cannot be compared so, or when a threshold names nothing that is measured."""
    if not 2 <= len(labs) <= len(KEYS):
        raise UsageError(
            what=f"a comparison has 2 to {len(KEYS)} sides, not {len(labs)}", remedy="labctl compare legacy bpf"
        )
    specs = compared_specs(labs, parameters)
    pairs = _placed(common_pairs(labs), options.placements)
    references = _references(labs, pairs) if options.reference else ()
    declared = declared_metrics(checks, specs)
    together = neighbouring(checks, specs)
    work = (
        *_with_a_meaning(work_of(specs, pairs), labs, checks, specs),
        *work_of(_measuring(specs, declared), _once(reference.pair() for reference in references)),
    )
    rounds = parameters.rounds
    planned: tuple[InterimLook, ...] = ()
    rebuilds = 1 if rounds >= FEWEST_PAIRS else 0
    if options.until is not None:
        first = max(rounds, FEWEST_SEQUENTIAL)
        rounds = _most_rounds(first, options)
        planned = looks(first, rounds)
        rebuilds = round(2 * rounds / first) - 1
    turns = choose(labs, providers, options.strategy)
    sides = sides_of(labs, providers, options.token, turns, name=options.name)
    require_named(options.fail_if, declared, [pair.placement for pair in pairs])
    asked = Asked(
        sides=_grouped([side.described() for side in sides], options.group),
        token=options.token,
        seed=options.seed,
        rounds=rounds,
        rebuilds=rebuilds,
        work=work,
        together=together,
        checks=declared,
        parameters=parameters,
        references=references,
        until=options.until,
        looks=planned,
        fail_if=options.fail_if,
        takes_turns=turns.takes_turns,
    )
    return Question(asked=asked, sides=sides, specs=specs, checks=checks)


def _grouped(sides: Sequence[Side], group: int) -> tuple[Side, ...]:
    """The first of a group is compared with nothing, and says so by its own key."""
    if not group:
        return tuple(sides)
    return tuple(replace(side, against=sides[number // group * group].key) for number, side in enumerate(sides))


def again(
    asked: Asked, labs: Mapping[str, Lab], providers: Mapping[str, Provider], checks: Mapping[str, Check]
) -> Question:
    """The question of a run that was cut short, to be answered to its end; `labs` are those of its manifest.

    Raises UsageError when labctl cannot have written it: its labs are not those of its sides, have names that
    are not the comparison's own, or what their providers would have refused in a scenario.
    """
    if {key: _named(lab) for key, lab in labs.items()} != {
        side.key: (side.lab, side.provider, side.digest) for side in asked.sides
    }:
        raise UsageError(
            what="the run's labs are not those of its sides",
            cause="; ".join(f"side {key} has lab {lab.name} ({lab.provider})" for key, lab in labs.items()),
            remedy="measure again: labctl compare A B",
        )
    require_own_names({side.key: labs[side.key] for side in asked.sides}, asked.token, takes_turns=asked.takes_turns)
    for lab in labs.values():
        _refuse_unknown_sections(lab)
        providers[lab.provider].refuse(lab)
    sides = tuple(
        LabSide(key=side.key, lab=labs[side.key], provider=providers[labs[side.key].provider]) for side in asked.sides
    )
    specs = compared_specs([side.lab for side in sides], asked.parameters)
    return Question(asked=asked, sides=sides, specs=specs, checks=checks)


def _named(lab: Lab) -> tuple[str, str, str]:
    return lab.name, lab.provider, lab.digest


def _refuse_unknown_sections(lab: Lab) -> None:
    unknown = [
        name
        for name in lab.settings
        if name not in PROVIDER_SECTIONS or lab.provider not in PROVIDER_SECTIONS[name].providers
    ]
    if unknown:
        raise UsageError(
            what=f"lab {lab.name} of the run has settings that no scenario can have",
            cause=f"the provider {lab.provider} has no section {', '.join(name[:40] for name in unknown)}",
            remedy="measure again: labctl compare A B",
        )


def without_token(asked: Asked) -> Asked:
    """What was asked less what is different each time: the names of the labs, the seed."""
    sides = tuple(replace(side, lab="") for side in asked.sides)
    return replace(asked, token="", seed=0, sides=sides)  # nosec B106  # part of a lab's name, no secret


def common_pairs(labs: Sequence[Lab]) -> tuple[Pair, ...]:
    """The pairs that every lab has, with the same placement. Raises UsageError when there are none."""
    pairs = tuple(pair for pair in labs[0].pairs if all(pair in lab.pairs for lab in labs[1:]))
    if not pairs:
        raise UsageError(
            what="the scenarios have no pair in common",
            cause="; ".join(
                f"the pairs of {lab.scenario}: {', '.join(pair.name for pair in lab.pairs) or 'none'}" for lab in labs
            ),
            remedy="give both scenarios a pair with the same client, server and placement",
        )
    return pairs


def compared_specs(labs: Sequence[Lab], parameters: CompareParameters) -> tuple[CheckSpec, ...]:
    """The checks that a block runs, with the comparison's duration. A kind of check that no scenario has a check of
    is run with its default parameters.

    Raises UsageError when the scenarios give a check of one name different parameters: the sides would not be
    measured alike.
    """
    by_name = [{spec.name: spec for spec in lab.checks} for lab in labs]
    specs = []
    for name in parameters.checks:
        found = [specs_of.get(name) for specs_of in by_name]
        if name in PARAMETERS_OF and not any(found):
            found = [CheckSpec(name=name, kind=name, parameters=PARAMETERS_OF[name]())] * len(labs)
        if not any(found):
            raise _no_check(name, by_name)
        first = found[0]
        if first is None or any(other != first for other in found[1:]):
            raise UsageError(
                what=f"the scenarios do not agree on check {name}",
                cause="; ".join(
                    f"{lab.scenario}: {spec.parameters if spec else 'has no such check'}"
                    for lab, spec in zip(labs, found, strict=True)
                ),
                remedy="give the check the same parameters in both, or choose others with --set compare.checks=[…]",
            )
        specs.append(replace(first, parameters=as_compared(first.parameters, parameters)))
    return tuple(specs)


def _no_check(name: str, by_name: Sequence[Mapping[str, CheckSpec]]) -> UsageError:
    there_are = sorted({*PARAMETERS_OF, *(each for specs in by_name for each in specs)})
    near = get_close_matches(name, there_are, n=1)
    return UsageError(
        what=f"no check is called {name}",
        cause=f"there are: {', '.join(there_are)}",
        remedy=f"did you mean {near[0]}?" if near else "name one of those",
    )


def as_compared(check: CheckParameters, compared: CompareParameters) -> CheckParameters:
    """The same check with the comparison's duration, or its way to ping; other checks stay as they are."""
    if isinstance(check, LoadParameters):
        return replace(check, duration_s=compared.duration_s, spin=check.spin and compared.spin)
    if isinstance(check, TimedParameters):
        return replace(check, duration_s=compared.duration_s)
    if isinstance(check, PingParameters):
        return replace(
            check, count=compared.ping_count, interval_s=compared.ping_interval_s, slices=compared.ping_slices
        )
    return check


def work_of(specs: Sequence[CheckSpec], pairs: Sequence[Pair]) -> tuple[WorkItem, ...]:
    """What every side runs once in every block."""
    return tuple(
        WorkItem(check=spec.name, client=pair.client, server=pair.destination, placement=pair.placement)
        for pair in pairs
        for spec in specs
    )


def _with_a_meaning(
    work: Sequence[WorkItem], labs: Sequence[Lab], checks: Mapping[str, Check], specs: Sequence[CheckSpec]
) -> tuple[WorkItem, ...]:
    """Without the pairs that a check has a meaning for in no lab, unless that is all of them: then a reader has to be
    told why."""
    by_name = {spec.name: checks[spec.kind] for spec in specs}

    def has_one(item: WorkItem) -> bool:
        check = by_name[item.check]
        pair = Pair.between(item.client, item.server, item.placement)
        return not isinstance(check, ForSomePairs) or any(not check.unfit(lab, pair) for lab in labs)

    kept = tuple(item for item in work if has_one(item))
    missing = {item.check for item in work} - {item.check for item in kept}
    return tuple(item for item in work if item in kept or item.check in missing)


def neighbouring(checks: Mapping[str, Check], specs: Sequence[CheckSpec]) -> tuple[str, ...]:
    """The checks whose runs stand together in a block, since they may overlap or take turns slice by slice; sorted."""
    names = {
        spec.name
        for spec in specs
        if isinstance(checks[spec.kind], InSlices | Abreast)
        or checks[spec.kind].next_start_s(spec.parameters) is not None
    }
    return tuple(sorted(names))


def declared_metrics(checks: Mapping[str, Check], specs: Sequence[CheckSpec]) -> tuple[CheckMetrics, ...]:
    """What each check will measure, fixed before anything runs.

    Where labctl's own load program measures, the verdicts are on its rows, and those of the field's own tools are
    secondary: the same question has one answer with a word.
    """
    is_second = any(spec.kind == LOAD for spec in specs)

    def declared(spec: CheckSpec) -> tuple[Metric, ...]:
        metrics = checks[spec.kind].metrics(spec.parameters)
        if is_second and spec.kind in CHECK_OF_TOOL.values():
            return tuple(replace(metric, primary=False) for metric in metrics)
        return metrics

    return tuple(CheckMetrics(check=spec.name, kind=spec.kind, metrics=declared(spec)) for spec in specs)


def _most_rounds(first: int, options: Options) -> int:
    """How many blocks a comparison with `until` has at most. Raises UsageError when that is before its first look."""
    most = options.most_rounds or SEQUENTIAL_BLOCKS * first
    if most < first:
        raise UsageError(
            what=f"at most {most} blocks leave no room for the first look, which is after {first}",
            cause=f"intervals are looked at after --rounds blocks, and never before {FEWEST_SEQUENTIAL}",
            remedy=f"--max-rounds {first} or more, or fewer --rounds",
        )
    return most


def _measuring(specs: Sequence[CheckSpec], declared: Sequence[CheckMetrics]) -> tuple[CheckSpec, ...]:
    """The checks that yield numbers: what a way between two nodes can be the limit of. The others ask about pods."""
    with_numbers = {each.check for each in declared if each.metrics}
    return tuple(spec for spec in specs if spec.name in with_numbers)


def _placed(pairs: Sequence[Pair], placements: Sequence[Placement]) -> tuple[Pair, ...]:
    chosen = tuple(pair for pair in pairs if not placements or pair.placement in placements)
    if not chosen:
        raise UsageError(
            what=f"the scenarios have no {' or '.join(placements)} pair in common",
            cause=f"they have: {', '.join(f'{pair.name} ({pair.placement})' for pair in pairs)}",
            remedy="take other placements, or give the scenarios such a pair",
        )
    return chosen


def _references(labs: Sequence[Lab], pairs: Sequence[Pair]) -> tuple[Reference, ...]:
    """For each pair across nodes, the nodes of its pods: the same in every lab."""
    found = []
    for pair in pairs:
        if pair.placement is not Placement.CROSS_NODE or not all(lab.is_between_pods(pair) for lab in labs):
            continue
        between = {(lab.pod(pair.client).node, lab.pod(pair.server).node) for lab in labs}
        if len(between) > 1:
            raise UsageError(
                what=f"there is no common reference for {pair.name}",
                cause="its pods are on other nodes in each scenario",
                remedy="leave out --reference, or put the pods on the same nodes",
            )
        client, server = between.pop()
        found.append(Reference(client=pair.client, server=pair.server, client_node=client, server_node=server))
    if not found:
        raise UsageError(
            what="--reference needs a pair across nodes",
            cause="the reference is measured between two nodes",
            remedy="leave it out, or compare scenarios with a cross-node pair",
        )
    return tuple(found)


def _once(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    return tuple(dict.fromkeys(pairs))
