"""The provider of CONTRIBUTING.md, "Add a provider": nodes and pods are folders, and commands run in them.

Pods have addresses of the loopback network, which this host answers everywhere: ping and iperf3 measure something.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from labctl.errors import StepFailed, UsageError
from labctl.model.evidence import DatapathState, Evidence, ModeInForce
from labctl.model.impairment import ImpairedWay
from labctl.model.lab import Lab, Pair
from labctl.model.node_status import NodeStatus
from labctl.model.plan import Action, Plan, Step
from labctl.model.service_lists import NodeServices
from labctl.model.signature import Role
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.planning.shell import word
from labctl.providers.base import (
    Capabilities,
    ClockOffset,
    Completed,
    OpenDevice,
    Probe,
    Running,
    RunningLab,
    Tap,
    Target,
    TargetKind,
    Watch,
)
from labctl.system import process
from labctl.testing.scripted import NO_STATE, NOTHING_WATCHED

MARK, RECORD = ".labctl-toy", "lab.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeFolder:
    """A folder; it may be there already."""

    path: Path

    def shell(self) -> str:
        return f"mkdir -p {word(self.path)}"

    def record(self) -> dict[str, object]:
        return {"kind": "make-folder", "path": str(self.path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFolder:
    """The folder with everything in it, if it is there."""

    path: Path

    def shell(self) -> str:
        return f"rm -rf {word(self.path)}"

    def record(self) -> dict[str, object]:
        return {"kind": "remove-folder", "path": str(self.path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMark:
    """Says whose the folder is, before anything else is in it."""

    path: Path
    scenario: str
    digest: str

    @property
    def text(self) -> str:
        return json.dumps({"scenario": self.scenario, "digest": self.digest})

    def shell(self) -> str:
        return f"printf %s {word(self.text)} > {word(self.path)}"

    def record(self) -> dict[str, object]:
        return {"kind": "write-mark", "path": str(self.path), "text": self.text}


class ToyProvider:
    """`Provider` of the seam. Its labs are the folders below `root` that carry the mark."""

    name = "toy"
    statement = "Folders of this host: there is no datapath."
    capabilities = Capabilities(runs_tools_here=True)

    def __init__(self, root: Path) -> None:
        self._root = root

    def statements(self, lab: Lab) -> tuple[str, ...]:
        return (self.statement,)

    def probes(self) -> Iterator[Probe]:
        found = process.find_program("env")
        yield Probe(
            name="env", present=found is not None, found=found or "not there", needed_for="commands in pods",
            remedy="apt-get install coreutils",
        )  # fmt: skip

    def refuse(self, lab: Lab) -> None:
        if lab.datapath.faults:
            raise UsageError(what="folders have no datapath to put faults into", key="datapath.faults")

    def plan(self, lab: Lab) -> Plan:
        self.refuse(lab)
        folder = self._root / lab.name
        mark = WriteMark(path=folder / MARK, scenario=lab.scenario, digest=lab.digest)
        first = Step(
            id="mark",
            title="the lab's folder, marked",
            actions=(MakeFolder(path=folder), mark),
            undo=(RemoveFolder(path=folder),),
        )
        parts = tuple(
            Step(
                id=name,
                title=f"{name}: its folder",
                actions=(MakeFolder(path=folder / name),),
                undo=(RemoveFolder(path=folder / name),),
            )
            for name in parts_of(lab)
        )
        return Plan(lab=lab.name, provider=self.name, steps=(first, *parts))

    def executor(self, lab: Lab) -> AbstractContextManager[ToyExecutor]:
        return nullcontext(ToyExecutor(self._root))

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        folders = (mark.parent for mark in sorted(self._root.glob(f"*/{MARK}")))
        return tuple(_found(folder) for folder in folders if name in (None, folder.name))

    def teardown(self, name: str) -> None:
        if (self._root / name / MARK).is_file():
            shutil.rmtree(self._root / name)

    def open(self, lab: Lab) -> AbstractContextManager[ToyLab]:
        if missing := _missing(self._root / lab.name, lab):
            raise UsageError(what=f"the lab {lab.name} is incomplete", cause=f"missing: {', '.join(missing)}")
        return nullcontext(ToyLab(self._root / lab.name, lab))


def parts_of(lab: Lab) -> tuple[str, ...]:
    return (*(node.name for node in lab.nodes), *(pod.name for pod in lab.pods))


def _missing(folder: Path, lab: Lab) -> tuple[str, ...]:
    return tuple(part for part in parts_of(lab) if not (folder / part).is_dir())


def _found(folder: Path) -> RunningLab:
    """The lab of that folder, from its mark; its record is there once it was whole."""
    mark, lab = json.loads((folder / MARK).read_text()), None
    with contextlib.suppress(FileNotFoundError):
        lab = lab_from_json(json.loads((folder / RECORD).read_text()))
    missing = _missing(folder, lab) if lab else ("its record",)
    return RunningLab(
        name=folder.name,
        provider=ToyProvider.name,
        scenario=mark["scenario"],
        digest=mark["digest"],
        is_whole=not missing,
        lab=lab,
        missing=missing,
    )


@dataclass(frozen=True, slots=True)
class ToyExecutor:
    """`Executor` of the seam."""

    root: Path

    def execute(self, actions: Sequence[Action]) -> None:
        for action in actions:
            try:
                self._act(action)
            except OSError as failed:
                raise StepFailed(what=str(failed), remedy=action.shell()) from failed

    def _act(self, action: Action) -> None:
        match action:
            case MakeFolder(path=path):
                path.mkdir(parents=True, exist_ok=True)
            case RemoveFolder(path=path):
                shutil.rmtree(path, ignore_errors=True)
            case WriteMark():
                action.path.write_text(action.text)
            case _:
                raise TypeError(f"the toy has no action {type(action).__name__}")

    def finish(self, lab: Lab) -> None:
        (self.root / lab.name / RECORD).write_text(json.dumps(lab_to_json(lab)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyTarget:
    """`Target` of the seam: a folder."""

    name: str
    kind: TargetKind
    folder: Path

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        return ("env", "-C", str(self.folder), *argv)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        return process.run(argv, timeout_s=timeout_s, cpu=cpu, stdin=stdin, directory=self.folder)

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        return process.Process(argv, cpu=cpu, output=output, directory=self.folder)


class ToyLab:
    """`OpenLab` of the seam. The pods have the addresses that they really have: 127.0.1.1, 127.0.1.2, …"""

    def __init__(self, folder: Path, lab: Lab) -> None:
        addressed = (replace(pod, address=IPv4Address("127.0.1.0") + n) for n, pod in enumerate(lab.pods, start=1))
        self.lab = replace(lab, pods=tuple(addressed))
        nodes = {node.name for node in lab.nodes}
        self._targets = {
            part: ToyTarget(name=part, kind=TargetKind.NODE if part in nodes else TargetKind.POD, folder=folder / part)
            for part in parts_of(lab)
        }

    def target(self, name: str) -> Target:
        if name not in self._targets:
            raise UsageError(what=f"the lab has no {name}", cause=f"it has: {', '.join(self._targets)}")
        return self._targets[name]

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._targets.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        ends = ((Role.CLIENT_ETH0, pair.client), (Role.SERVER_ETH0, pair.server))
        return tuple(Tap(name=f"{pod}:lo", role=role, target=self.target(pod), interface="lo") for role, pod in ends)

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        return tuple(OpenDevice(role=str(tap.role), mac="00:00:00:00:00:00") for tap in self.taps(pair))

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return ()

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        send()
        return ()

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        return nullcontext(NOTHING_WATCHED)

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        return ()

    def services(self) -> tuple[NodeServices, ...]:
        return ()

    def has_daemon_set(self, name: str) -> bool | None:
        return None

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        return ()

    def datapath_state(self) -> DatapathState:
        return NO_STATE
