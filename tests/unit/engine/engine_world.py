"""A world in which comparisons can be measured without a network: labs that are names, checks that make numbers.

The numbers follow from side, block and metric alone, so that a run that went on after a stop can be held against one
that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from labctl.checks.base import Check, CheckContext
from labctl.compare.order import PlannedRun
from labctl.engine.comparison.compare import measure_blocks
from labctl.engine.comparison.measure import Measurement, narrow_enough
from labctl.engine.comparison.request import Options, Question, ask
from labctl.engine.comparison.stored import COMPARE, MeasuredBlocks, StoredComparison, comparisons, read_comparison
from labctl.engine.events import silent
from labctl.model.comparison import Comparison, Environment, Noise
from labctl.model.evidence import Evidence
from labctl.model.lab import CheckSpec, Encapsulation, HostRouting, Lab
from labctl.model.parameters import CompareParameters, PingParameters, TcpdumpParameters
from labctl.model.plan import Action, Plan
from labctl.model.result import Better, CheckResult, Metric, MetricFamily, Sample, Verdict
from labctl.model.signature import Role, Seen, Signature, TapSight
from labctl.planning.record import digest_of, lab_to_json
from labctl.providers.base import Capabilities, OpenLab, Probe, RunningLab
from labctl.report.json import matrix_document
from labctl.store.reading import open_run
from labctl.store.runs import create_run, resume_run
from labctl.testing.labs import example_lab
from labctl.testing.scripted import ScriptedCheck, ScriptedLab

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2, pinning="client on CPU 0, server on CPU 1")
P50 = Metric(
    name="rtt_p50", label="round trip", unit="s", better=Better.LOWER, family=MetricFamily.LATENCY, primary=True
)
SPECS = (
    CheckSpec(name="ping", kind="ping", parameters=PingParameters()),
    CheckSpec(name="tcpdump", kind="tcpdump", parameters=TcpdumpParameters()),
)


def lab(scenario: str, host_routing: HostRouting = HostRouting.BPF) -> Lab:
    made = replace(
        example_lab(host_routing=host_routing, checks=SPECS),
        name=scenario,
        scenario=scenario,
        source=f"{scenario}.yaml",
        provider="imagined",
        compare=CompareParameters(rounds=6, checks=("ping",)),
    )
    return replace(made, digest=digest_of(made))


@dataclass
class ImaginedProvider:
    """Labs that are there when they were built and gone when they were removed. `events` tells in which order."""

    name: str = "imagined"
    statement: str = "Nothing of this is real."
    up: dict[str, Lab] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    is_in_force: bool = True
    capabilities: Capabilities = field(default_factory=Capabilities)

    def statements(self, lab: Lab) -> tuple[str, ...]:
        return (self.statement, f"{lab.scenario} carries nothing.")

    def probes(self) -> Iterator[Probe]:
        return iter(())

    def refuse(self, lab: Lab) -> None:
        """It can build every lab."""

    def plan(self, lab: Lab) -> Plan:
        return Plan(lab=lab.name, provider=self.name, steps=())

    @contextmanager
    def executor(self, lab: Lab) -> Iterator[ImaginedProvider]:
        yield self

    def execute(self, actions: Sequence[Action]) -> None:
        assert not actions

    def finish(self, lab: Lab) -> None:
        assert lab.name not in self.up, f"{lab.name} is up already"
        self.up[lab.name] = lab
        self.events.append(f"built {lab.scenario}")

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        return tuple(
            RunningLab(name=n, provider=self.name, scenario=x.scenario, digest=x.digest, is_whole=True, lab=x)
            for n, x in self.up.items()
            if name in (None, n)
        )

    def teardown(self, name: str) -> None:
        if self.up.pop(name, None) is not None:
            self.events.append("removed one")

    @contextmanager
    def open(self, lab: Lab) -> Iterator[OpenLab]:
        assert lab.name in self.up
        evidence = Evidence(
            witness="imagination",
            where="here",
            finding="it is so" if self.is_in_force else "it fell back",
            supports=self.is_in_force,
            found={"hostRouting": str(lab.datapath.host_routing)},
        )
        yield ScriptedLab(lab, (), evidence=(evidence,))


@dataclass
class ImaginedPing(ScriptedCheck):
    """Numbers by side and block: B is a tenth faster. `before` is asked before each run and may raise."""

    kind: str = "ping"
    measures: tuple[Metric, ...] = (P50,)
    before: Callable[[str], None] = lambda side: None
    spread: float = 0.01
    speed: dict[str, float] = field(default_factory=lambda: {"legacy": 1.0, "bpf": 0.9, "third": 1.2})
    counts: dict[str, int] = field(default_factory=dict)

    def run(self, context: CheckContext) -> CheckResult:
        scenario = context.open_lab.lab.scenario
        path = context.raw.save("ping.txt", b"64 bytes\n")
        if "warm-up" not in path:
            self.before(scenario)
        block = int(path.partition("block")[2][:3] or 0)
        sign = 1 if (block * 7 + sum(map(ord, scenario))) % 3 else -1
        value = 50e-6 * self.speed[scenario] * (1 + sign * self.spread * (block % 4))
        return self.result(
            context, Verdict.PASS, "so imagined", samples=(Sample(metric=P50.name, value=value, unit="s"),), raw=(path,)
        )


@dataclass
class ImaginedTcpdump(ScriptedCheck):
    kind: str = "tcpdump"

    def run(self, context: CheckContext) -> CheckResult:
        seen = Seen(packets=3, ttl=64, src_mac="client-eth0", dst_mac="client-lxc")
        sight = TapSight(tap="client:eth0", role=Role.CLIENT_ETH0, request=seen, reply=None)
        signature = Signature(placement="cross-node", encapsulation=Encapsulation.VXLAN, taps=(sight,), ping_ttl=62)
        return self.result(context, Verdict.PASS, "so imagined", signature=signature)


@dataclass
class World:
    """Everything that a comparison needs, and `measure`, which carries one out into a run on disk."""

    runs_dir: Path
    provider: ImaginedProvider = field(default_factory=ImaginedProvider)
    ping: ImaginedPing = field(default_factory=ImaginedPing)

    @property
    def checks(self) -> dict[str, Check]:
        return {"ping": self.ping, "tcpdump": ImaginedTcpdump()}

    def question(
        self, *scenarios: str, rounds: int = 6, seed: int = 7, until: float | None = None, token: str = "abcd"
    ) -> Question:
        options = Options(seed=seed, token=token, until=until)
        parameters = CompareParameters(rounds=rounds, checks=("ping",))
        labs = [lab(name) for name in scenarios or ("legacy", "bpf")]
        return ask(labs, {"imagined": self.provider}, self.checks, parameters, options)

    def measure(self, question: Question, *, name: str = "a-b") -> tuple[Comparison, ...]:
        """Raises what the checks raise; the run is then what there was up to there."""
        with create_run(
            self.runs_dir,
            kind=COMPARE,
            name=name,
            labs={side.key: lab_to_json(side.lab) for side in question.sides},
            settings=question.asked.settings(),
            environment=HERE,
            argv=["labctl"],
        ) as run:
            measured = MeasuredBlocks()
            with Measurement(
                question.sides, question.specs, self.checks, run, silent, measured=measured
            ) as measurement:
                measure_blocks(measurement, question.asked.schedule(), quiet, narrow_enough(question.asked, HERE))
            found = comparisons(question.asked, measured, HERE, run.id)
            run.save_result(matrix_document(found))
        return found

    def go_on(self, path: Path, question: Question) -> None:
        stored = read_comparison(open_run(path))
        stored.measured.go_on()
        with (
            resume_run(path) as run,
            Measurement(
                question.sides,
                question.specs,
                self.checks,
                run,
                silent,
                measured=stored.measured,
            ) as measurement,
        ):
            measurement.remove_remains()
            measure_blocks(measurement, question.asked.schedule(), quiet, narrow_enough(question.asked, HERE))

    def only_run(self) -> Path:
        (path,) = (each.parent for each in self.runs_dir.glob("*/run.json"))
        return path

    def read(self) -> StoredComparison:
        return read_comparison(open_run(self.only_run()))


def quiet(block: int) -> Noise:
    return Noise(block=block, cpu_pressure_share=0.01, steal_share=0.0, neighbours_share=0.0)


def planned_of(question: Question) -> list[PlannedRun]:
    return list(question.asked.schedule().runs())
