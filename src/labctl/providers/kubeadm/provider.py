"""The kubeadm provider: plans, builds, finds, opens and removes labs on machines, with real Cilium."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import LabError, StepFailed, UsageError
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.model.plan import Plan, Step
from labctl.model.sections import Kubeadm, MachineSource
from labctl.providers.base import (
    Capabilities,
    Evidenced,
    Executor,
    OpenLab,
    Part,
    Probe,
    RunningLab,
    StrategyChoice,
    Tell,
    untold,
)
from labctl.providers.cilium.bundle import chart_part, refuse_unpackable
from labctl.providers.cilium.commands import BUNDLES, LOGS, Commands, is_lab_folder, read_state, state_root
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.drifting import ClusterDrifting, Planned
from labctl.providers.cilium.manifest import manifest_of
from labctl.providers.cilium.settings import read_record, refuse_differing, statement_of_proxy
from labctl.providers.cilium.values import expected_config
from labctl.providers.cilium.waiting import USUAL_FILE, Usual
from labctl.providers.cilium.workloads import objects
from labctl.providers.kubeadm.actions import RemovePods
from labctl.providers.kubeadm.events import Narrator, TaskEvent, TaskObserver, unheard
from labctl.providers.kubeadm.files import KubeadmFiles
from labctl.providers.kubeadm.images import Doors, locate
from labctl.providers.kubeadm.inventory import inventory
from labctl.providers.kubeadm.machines import Machine, has_no_machines, machine_from_record
from labctl.providers.kubeadm.own_files import require_places
from labctl.providers.kubeadm.plan import plan_lab, plan_switch, pods_step
from labctl.providers.kubeadm.probes import probes
from labctl.providers.kubeadm.runner import playbooks_directory
from labctl.providers.kubeadm.settings import KubeadmSettings, read_settings
from labctl.providers.kubeadm.ssh_config import settled
from labctl.system.files import digest_of

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.providers.cilium.changing import ClusterChanging, Nodes


class KubeadmProvider:
    """`Provider` of the seam. `observer` receives every Ansible task; `site` gives the machines of lab.yaml, for labs
    whose record on this host is lost and for `doctor`; `site_section` what lab.yaml says under `kubeadm:`."""

    name = "kubeadm"
    statement = (
        "Kubernetes by kubeadm, on machines of their own: with real Cilium, or the network that the scenario names"
    )

    def __init__(
        self,
        root: Path | None = None,
        observer: TaskObserver = unheard,
        site: Callable[[], tuple[Machine, ...]] = tuple,
        site_section: Callable[[], Kubeadm] = Kubeadm,
    ) -> None:
        self._root = root or state_root(self.name)
        self._observer = observer
        self._tell: Tell = untold
        self._site = site
        self._site_section = site_section

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            is_proven_when_built=True, packing=self, switching=self, support=self, telling=self.telling,
            machine_probes=self.machine_probes, seek=self.seek,
            after_boot="its nodes are machines, whose kubelet starts when they do (vagrant up, if they are off)",
            drifting=self._drifting, changing=self._changing,
        )  # fmt: skip

    @property
    def _changing(self) -> ClusterChanging:
        from labctl.providers.cilium.changing import ClusterChanging

        return ClusterChanging(
            provider=self.name, elsewhere="its nodes are machines: their own tools stop them", files=self._files,
            nodes=self._nodes,
        )  # fmt: skip

    @contextlib.contextmanager
    def _nodes(self, lab: Lab) -> Iterator[Nodes]:
        from labctl.providers.kubeadm.open import SshWays
        from labctl.providers.kubeadm.ssh import Fleet

        settings = self.settings(lab)
        with Fleet(settings.machines) as fleet:
            yield SshWays(settings, fleet).node

    @property
    def _drifting(self) -> ClusterDrifting:
        return ClusterDrifting(
            provider=self.name, planned=self._planned, commands=self._control_plane, files=self._files,
            executor=self.executor, again=self._again, remove=self._removal,
            unlike=lambda before, after: self._refuse_different(before, after, with_pods=False),
        )  # fmt: skip

    def _planned(self, lab: Lab) -> Planned:
        settings = self.settings(lab)
        config = expected_config(settings.wanted, settings.user_values) if has_cilium(lab) else {}
        others = tuple(machine.node for machine in settings.machines)
        return Planned(settings=settings, config=config, objects=tuple(objects(settings)), others=others)

    @contextlib.contextmanager
    def _control_plane(self, lab: Lab) -> Iterator[Commands]:
        """Where kubectl runs: the API server need not be reachable from this host."""
        from labctl.providers.kubeadm.ssh import Fleet

        settings = self.settings(lab)
        with Fleet(settings.machines) as fleet:
            yield fleet[settings.control_plane.node]

    def _again(self, lab: Lab, with_cilium: bool) -> tuple[Step, ...]:
        settings = self.settings(lab)
        return plan_switch(settings, settings).steps if with_cilium else (pods_step(settings),)

    def _removal(self, lab: Lab, argv: tuple[str, ...]) -> RemovePods:
        return RemovePods(argv=argv, place=self.settings(lab).control_plane.place)

    def statements(self, lab: Lab) -> tuple[str, ...]:
        settings = self.settings(lab)
        return (
            self.statement,
            f"{settings.network_in_words} on Kubernetes {settings.kubernetes}, {statement_of_proxy(lab)}",
            f"{len(settings.machines)} machines: {', '.join(m.address for m in settings.machines)}",
            "monitor aggregation is off and datapath debugging is on, unless cilium.values says otherwise"
            if has_cilium(lab)
            else f"what taps should show with {lab.cni} is not known: it is observed",
        )

    def settings(self, lab: Lab) -> KubeadmSettings:
        settings = read_settings(lab, self._root)
        if settings.kubeadm.machines is MachineSource.VAGRANT:
            known, keys = str(settings.files.known_hosts), playbooks_directory().parent
            machines = tuple(
                replace(machine, known_hosts=known, key=str(keys / machine.key)) for machine in settings.machines
            )
            return replace(settings, machines=machines)
        if has_no_machines(lab):
            return settings
        machines = settled(settings.machines)
        require_places(machines)
        return replace(settings, machines=machines)

    def probes(self) -> Iterator[Probe]:
        return probes()

    def machine_probes(self) -> Iterator[Probe]:
        """Of the machines of lab.yaml, asked over SSH."""
        from labctl.providers.kubeadm.probes import machine_probes

        # Without Fabric no machine can be asked, which `probes` has reported.
        if all(probe.present for probe in probes() if probe.name == "fabric"):
            yield from machine_probes(self._site_section(), settled(self._site()))

    def refuse(self, lab: Lab) -> None:
        settings = read_settings(lab, self._root)
        manifest_of(lab)
        require_places(settings.machines)

    def plan(self, lab: Lab) -> Plan:
        manifest_of(lab)
        return plan_lab(self.settings(lab))

    def switch(self, before: Lab, after: Lab) -> Plan:
        """From `before`, which is up, to `after` on the same cluster, by Cilium's configuration alone."""
        self._refuse_different(before, after)
        return plan_switch(self.settings(before), self.settings(after))

    def _refuse_different(self, before: Lab, after: Lab, *, with_pods: bool = True) -> None:
        """Raises UsageError for two labs that one set of machines is not switched between."""
        pods = [[(p.name, p.node) for p in lab.pods] if with_pods else [] for lab in (before, after)]
        refuse_differing(
            before,
            after,
            (
                ("name", before.name, after.name),
                ("nodes", [n.name for n in before.nodes], [n.name for n in after.nodes]),
                ("pods", pods[0], pods[1]),
                ("pod range", before.network.pod_cidr, after.network.pod_cidr),
                ("kubeadm:", before.settings.get("kubeadm"), after.settings.get("kubeadm")),
                ("hosts:", before.settings.get("hosts"), after.settings.get("hosts")),
                ("pod network", before.pod_network, after.pod_network),
                ("kube-proxy", statement_of_proxy(before), statement_of_proxy(after)),
            ),
            remedy=f"labctl down {before.name}, then build the other one",
        )

    def images(self, lab: Lab) -> tuple[Part, ...]:
        """Every image and the chart of the lab. kubeadm and containerd on the machines are asked where they answer."""
        settings = self.settings(lab)
        with self._doors(lab, settings) as doors:
            chart = (chart_part(settings),) if has_cilium(lab) else ()
            return (*(found.part for found in locate(settings, doors)), *chart)

    def pack(self, lab: Lab, output: Path) -> tuple[Part, ...]:
        """Writes a bundle of them. Raises UsageError that names every image that is neither in an archive, nor on a
        machine, nor in docker."""
        from labctl.providers.kubeadm import bundle

        refuse_unpackable(lab)
        settings = self.settings(lab)
        with self._doors(lab, settings) as doors:
            return bundle.pack(settings, doors, output)

    def unpack(self, path: Path) -> dict[str, dict[str, object]]:
        """Verifies a bundle, and gives what to lay over the sections `cilium` and `kubeadm` of a lab so that nothing
        else is used. The playbooks bring the archives to the machines."""
        from labctl.providers.kubeadm import bundle

        return bundle.unpack(path, self._root / BUNDLES / digest_of(path)[:16])

    @contextlib.contextmanager
    def _doors(self, lab: Lab, settings: KubeadmSettings) -> Iterator[Doors]:
        """Where images may be, now. Machines that do not answer are reported, and do not stop anything."""
        from labctl.providers.kubeadm.images import open_doors
        from labctl.providers.kubeadm.ssh import Fleet

        with Fleet(() if has_no_machines(lab) else settings.machines) as fleet:
            yield open_doors(settings, fleet)

    def strategy(self, lab: Lab, *, sides: int = 2) -> StrategyChoice:
        """There is only one set of machines, so the sides take turns on them."""
        return StrategyChoice(switches=True, because="there is only one set of machines", is_asked=True)

    @contextlib.contextmanager
    def _executor(self, lab: Lab) -> Iterator[Executor]:
        from labctl.providers.kubeadm.execute import KubeadmExecutor
        from labctl.providers.kubeadm.runner import AnsibleRunner
        from labctl.providers.kubeadm.ssh import Fleet

        if has_no_machines(lab):
            raise UsageError(
                what="the provider kubeadm has no machines to build on",
                cause=f"lab.yaml lists none under hosts:, and {len(lab.nodes)} are needed",
                remedy="list them under hosts: in lab.yaml, or kubeadm: {machines: vagrant} (see docs/kubeadm.md)",
            )
        settings = self.settings(lab)
        with (
            Fleet(settings.machines) as fleet,
            AnsibleRunner(settings.files.logs, settings.machines, self._observer) as runner,
        ):
            yield KubeadmExecutor(settings, fleet, runner, tell=self._tell, usual=Usual(self._root / LOGS / USUAL_FILE))

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        return self._executor(lab)

    @contextlib.contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        """Every Ansible task is an act, on all machines together."""
        before, narrator, told = self._observer, Narrator(tell), self._tell

        def both(event: TaskEvent) -> None:
            before(event)
            narrator(event)

        self._observer, self._tell = both, tell
        try:
            yield
        finally:
            self._observer, self._tell = before, told

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        """Labs that this host has on record. Machines are not asked: that would take seconds for each that is off."""
        if not self._root.is_dir():
            return ()
        names = (folder.name for folder in sorted(self._root.iterdir()) if is_lab_folder(folder.name))
        return tuple(
            self._running(lab, state)
            for lab in names
            if name in (None, lab) and (state := self._state(lab)) is not None
        )

    def _files(self, name: str) -> KubeadmFiles:
        return KubeadmFiles.of(self._root, name)

    def _state(self, name: str) -> dict[str, Any] | None:
        try:
            state = parse_json(read_state(self._files(name).state) or "null")
        except (ValueError, RecursionError):
            return None
        return state if isinstance(state, dict) else None

    def _running(self, name: str, state: dict[str, Any]) -> RunningLab:
        lab = read_record(self._files(name).record)
        return RunningLab(
            name=name,
            provider=self.name,
            scenario=str(state.get("scenario", "")),
            digest=str(state.get("digest", "")),
            is_whole=lab is not None,
            lab=lab,
            missing=() if lab else ("finished build",),
            is_resumable=True,
            is_by_record=True,
        )

    def seek(self, name: str) -> RunningLab | None:
        """Asks the machines of lab.yaml."""
        from labctl.providers.kubeadm.marks import seek_mark

        machines = settled(self._site())
        require_places(machines)
        if not machines:
            return None
        marked = seek_mark(name, machines)
        marked.refuse_silence(name)
        if marked.mark is None:
            return None
        return RunningLab(
            name=name,
            provider=self.name,
            scenario=marked.mark.scenario,
            digest=marked.mark.digest,
            is_whole=False,
            lab=None,
            missing=("its record on this host",),
            is_resumable=True,
        )

    def has_left(self, name: str) -> bool:
        return is_lab_folder(name) and any(path.is_dir() for path in (self._files(name).folder, self._files(name).logs))

    @contextlib.contextmanager
    def evidenced(self, name: str, running: RunningLab | None) -> Iterator[Evidenced]:
        """Of the machines on record; where there is no record, of those of lab.yaml that carry the lab's mark."""
        from labctl.providers.kubeadm.ssh import Fleet
        from labctl.providers.kubeadm.support import LOGIN_S, exhibits, secrets

        files, state = self._files(name), self._state(name)
        problem: LabError | None = None
        machines: tuple[Machine, ...] = ()
        try:
            machines, _ = self._marked(name) if state is None else self._recorded(name, state)
        except LabError as failed:
            problem = failed
        with Fleet(machines, LOGIN_S) as fleet:
            silent = fleet.unreached(LOGIN_S)
            yield Evidenced(
                exhibits=tuple(exhibits(name, files, fleet, problem, silent)),
                secrets=secrets(files, machines),
                unopened=next(iter(silent.values()), None),
            )

    def teardown(self, name: str) -> None:
        """Puts the lab's machines back as they were. Only machines with this lab's mark are touched; where some
        cannot be reached the others are done, the error names them, and the record stays."""
        from labctl.providers.kubeadm.execute import vagrant
        from labctl.providers.kubeadm.runner import AnsibleRunner
        from labctl.providers.kubeadm.ssh import Fleet

        files, state = self._files(name), self._state(name)
        if state is not None and state.get("machineSource") == MachineSource.VAGRANT:
            vagrant(("vagrant", "destroy", "--force"), {"LABCTL_LAB": name})
        else:
            machines, variables = self._marked(name) if state is None else self._recorded(name, state)
            if machines:
                with Fleet(machines) as fleet:
                    fleet.end_strays(every=True)
                with AnsibleRunner(files.logs, machines, self._observer) as runner:
                    runner.play("reset", inventory(machines), variables)
        files.remove()

    def _marked(self, name: str) -> tuple[tuple[Machine, ...], dict[str, Any]]:
        """Nothing is on record here: the machines of lab.yaml that carry the mark. Those that do not answer are tried
        too, so that the error names them."""
        from labctl.providers.kubeadm.marks import seek_mark

        site = settled(self._site())
        if not site:
            return (), {}
        marked = seek_mark(name, site)
        marked.refuse_silence(name)
        return ((*marked.machines, *marked.silent), marked.mark.variables) if marked.mark else ((), {})

    def _recorded(self, name: str, state: dict[str, Any]) -> tuple[tuple[Machine, ...], dict[str, Any]]:
        try:
            return tuple(machine_from_record(record) for record in state["machines"]), state["variables"]
        except (KeyError, TypeError, ValueError) as broken:
            raise StepFailed(
                what=f"the record of lab {name} cannot be read", cause=str(broken),
                remedy=f"rm {self._files(name).state}  # with the machines under hosts: in lab.yaml\n"
                f"labctl down {name} --machines  # the machines remember their original state",
            ) from broken  # fmt: skip

    @contextlib.contextmanager
    def _open(self, lab: Lab) -> Iterator[OpenLab]:
        from labctl.providers.kubeadm.open import opened

        with opened(self.settings(lab)) as running:
            yield running

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        return self._open(lab)
