"""The kind provider: plans, builds, finds, opens and removes labs that are kind clusters with real Cilium.

The record of a whole lab is a convenience: the mark in a cluster's nodes says which lab owns it, also when no record
is left.

Into the pods and nodes of a kind lab: `kubectl exec` into pods, `docker exec` into nodes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import HostLacks, LabError, UsageError
from labctl.model.lab import Lab, Strategy
from labctl.model.plan import Plan, Step
from labctl.model.sections import Capture, KindCluster
from labctl.providers.base import (
    Capabilities,
    Evidenced,
    Executor,
    OpenLab,
    Probe,
    RunningLab,
    StrategyChoice,
    TargetKind,
    Tell,
    Together,
    untold,
)
from labctl.providers.cilium.commands import (
    BUNDLES,
    LOGS,
    RECORD,
    Commands,
    HostCommands,
    is_lab_folder,
    kept,
    read_state,
    state_root,
    write_private,
)
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.drifting import ClusterDrifting, Planned
from labctl.providers.cilium.foreign import open_foreign
from labctl.providers.cilium.open import open_lab
from labctl.providers.cilium.settings import read_record, refuse_differing, statement_of_proxy, write_record
from labctl.providers.cilium.support import kubeconfig_secrets
from labctl.providers.cilium.targets import Door, DoorTarget, pod_door
from labctl.providers.cilium.values import expected_config
from labctl.providers.cilium.waiting import USUAL_FILE, Usual
from labctl.providers.cilium.workloads import CONTAINER, PodState, helper_name, objects
from labctl.providers.kind import bundle, clusters, config, outside, presence
from labctl.providers.kind.actions import Command, RefuseOverlap
from labctl.providers.kind.bundle import Part, parts
from labctl.providers.kind.clusters import NodeContainer
from labctl.providers.kind.endpoint import EngineEndpoint, engine_endpoint
from labctl.providers.kind.execute import KindExecutor
from labctl.providers.kind.plan import plan_lab, plan_switch, pods_step, refuse
from labctl.providers.kind.presence import engine_here
from labctl.providers.kind.probes import INOTIFY_INSTANCES, MEMORY_PER_NODE_BYTE, USUAL_NODES, probes, read_text
from labctl.providers.kind.settings import KindFiles, KindSettings, read_settings
from labctl.system.files import digest_of
from labctl.values import dataclass

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.providers.cilium.changing import ClusterChanging

_DELETE_S = 180.0


class KindProvider:
    """`Provider` of the seam."""

    name = "kind"
    statement = (
        "Kubernetes in containers (kind), whose nodes all share this host's kernel: "
        "with real Cilium, or the network that the scenario names"
    )

    def __init__(self, commands: Commands | None = None, root: Path | None = None) -> None:
        self._commands: Commands = commands or HostCommands(self.name)
        self._root = root or state_root(self.name)
        self._found_endpoint: EngineEndpoint | None = None
        self._tell: ContextVar[Tell] = ContextVar("labctl-kind-tell", default=untold)
        """Of each build its own, where several are built at the same time."""
        self._planned: dict[str, tuple[config.Ranges, config.Ranges]] = {}
        """The address ranges of labs planned here whose files are not written yet: as asked, and as placed."""
        self._planning = threading.RLock()

    @property
    def engine(self) -> str:
        return engine_here(self._commands.find)

    @property
    def _endpoint(self) -> EngineEndpoint:
        """Asked once: a name has to be resolved."""
        if self._found_endpoint is None:
            self._found_endpoint = engine_endpoint(self.engine, self._commands)
        return self._found_endpoint

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            is_proven_when_built=True,
            packing=self,
            switching=self,
            support=self,
            telling=self.telling,
            together=self.together,
            after_boot="its nodes are containers, which stay: docker start NODE starts one that the engine did not",
            drifting=self._drifting,
            changing=self._changing,
        )

    @property
    def _changing(self) -> ClusterChanging:
        from labctl.providers.cilium.changing import ClusterChanging

        return ClusterChanging(
            provider=self.name,
            elsewhere="its nodes are containers: docker pause, docker stop, tc in their network",
            files=self._files,
            nodes=lambda lab: contextlib.nullcontext(
                KindWays(settings=self.settings(lab), engine=self.engine, commands=self._commands).node
            ),
        )

    @property
    def _drifting(self) -> ClusterDrifting:
        return ClusterDrifting(
            provider=self.name,
            planned=self._planned_cluster,
            commands=lambda lab: contextlib.nullcontext(self._commands),
            files=self._files,
            executor=self.executor,
            again=self._again,
            remove=lambda lab, argv: Command(argv=argv, timeout_s=_DELETE_S),
            unlike=lambda before, after: self._refuse_different_clusters(before, after, with_pods=False),
        )

    def _planned_cluster(self, lab: Lab) -> Planned:
        settings = self.settings(lab)
        config = expected_config(settings.wanted, settings.user_values) if has_cilium(lab) else {}
        return Planned(
            settings=settings, config=config, objects=tuple(objects(settings)), others=tuple(settings.all_nodes)
        )

    def _again(self, lab: Lab, with_cilium: bool) -> tuple[Step, ...]:
        settings = self.settings(lab)
        return plan_switch(settings, settings).steps if with_cilium else (pods_step(settings),)

    @contextlib.contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        """What is loaded and waited for, of the lab that this thread builds."""
        before = self._tell.set(tell)
        try:
            yield
        finally:
            self._tell.reset(before)

    def together(self, labs: Sequence[Lab]) -> Together:
        """Clusters are made at the same time where there is room for all of them, which is what they will need when
        they stand side by side; else one after the other, so that each takes what is left."""
        nodes = sum(len(self.settings(lab).all_nodes) for lab in labs)
        choice = by_memory(
            nodes * MEMORY_PER_NODE_BYTE, self._free_memory(), f"{len(labs)} clusters with {nodes} nodes"
        )
        return Together(at_once=not choice.switches, because=choice.because)

    def statements(self, lab: Lab) -> tuple[str, ...]:
        settings = self.settings(lab)
        return (
            self.statement,
            f"{settings.network_in_words} on Kubernetes {settings.kubernetes}, {statement_of_proxy(lab)}",
            "the uplinks are veth pairs on one bridge: no real network card, no offload",
            "monitor aggregation is off and datapath debugging is on, unless cilium.values says otherwise"
            if has_cilium(lab)
            else f"what taps should show with {lab.cni} is not known: it is observed",
        )

    def settings(self, lab: Lab) -> KindSettings:
        """The lab as this provider reads it, with address ranges that no other kind lab here has: its own once it has
        some, else free ones. Raises UsageError."""
        with self._planning:
            ranges = config.ranges_of(read_state(self._files(lab.name).kind_config) or "")
            asked, planned = self._planned.get(lab.name, ((), ()))
            if not ranges and asked == _ranges(lab):
                ranges = planned
            placed = config.moved(lab, *ranges) if len(ranges) == 2 else config.settle(lab, self._others(lab.name))
        return read_settings(placed, self._root, self._endpoint)

    def probes(self) -> Iterator[Probe]:
        return probes(self._commands)

    def refuse(self, lab: Lab) -> None:
        """Wherever the engine is, and whichever address ranges are free."""
        refuse(read_settings(lab, self._root))

    def plan(self, lab: Lab) -> Plan:
        """Makes nothing; reads which address ranges other kind labs on this host have, and keeps those of this lab for
        it, so that another one that is planned at the same time takes others."""
        with self._planning:
            settings = self.settings(lab)
            planned = plan_lab(settings, self.engine)
            self._planned[lab.name] = _ranges(lab), _ranges(settings.lab)
        return planned

    def switch(self, before: Lab, after: Lab) -> Plan:
        """From `before`, which is up, to `after` on the same cluster. `after` must have the same name, nodes, pods and
        versions. Raises UsageError when it has not."""
        self._refuse_different_clusters(before, after)
        return plan_switch(self.settings(before), self.settings(after))

    def images(self, lab: Lab) -> tuple[Part, ...]:
        """Every image and the chart of the lab, with the digests that are known here."""
        return parts(self.settings(lab), self.engine, self._commands)

    def pack(self, lab: Lab, output: Path) -> tuple[Part, ...]:
        """Writes a bundle of them. Raises UsageError when an image is not in the engine."""
        return bundle.pack(self.settings(lab), self.engine, self._commands, output)

    def unpack(self, path: Path) -> dict[str, dict[str, object]]:
        """Verifies a bundle, gives the node image to the engine, and gives what to lay over the sections `cilium` and
        `kindCluster` of a lab so that nothing else is used."""
        unpacked = bundle.unpack(path, self._root / BUNDLES / digest_of(path)[:16])
        bundle.load_node_image(unpacked, self.engine, self._commands)
        return unpacked.settings()

    def strategy(self, lab: Lab, *, sides: int = 2) -> StrategyChoice:
        """Clusters side by side or one that is switched: the scenario's choice, else by what this host has room for."""
        settings = self.settings(lab)
        asked = settings.cluster.strategy
        if asked is not Strategy.AUTO:
            return StrategyChoice(
                switches=asked is Strategy.SWITCH, because=f"kindCluster.strategy is {asked}", is_asked=True
            )
        nodes = sides * len(settings.all_nodes)
        what = f"{sides} clusters with {nodes} nodes in total"
        choice = by_memory(nodes * MEMORY_PER_NODE_BYTE, self._free_memory(), what)
        watches = None if choice.switches or self._endpoint.is_remote else inotify_instances()
        if watches is not None and nodes > USUAL_NODES and watches < INOTIFY_INSTANCES:
            return StrategyChoice(
                switches=True,
                because=f"fs.inotify.max_user_instances is {watches}, and kind advises {INOTIFY_INSTANCES} for {what}",
            )
        return choice

    def _free_memory(self) -> int:
        """Of this host, or all that a remote engine's host has: the engine does not report how much of it is free."""
        if not self._endpoint.is_remote:
            return free_memory_byte()
        asked = self._commands.run((self.engine, "info", "--format", "{{.MemTotal}}"), timeout_s=clusters.LOOK_S)
        return int(asked.text) if asked.text.strip().isdigit() else 0

    @contextlib.contextmanager
    def _executor(self, lab: Lab) -> Iterator[Executor]:
        files = self.settings(lab).files

        def recorded(whole: Lab) -> None:
            write_record(files.record, whole)

        yield KindExecutor(
            self._commands, overlapping=self._overlapping, record=recorded, logs=files.logs, tell=self._tell.get(),
            usual=Usual(self._root / LOGS / USUAL_FILE),
        )  # fmt: skip

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        return self._executor(lab)

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        """Labs by their mark. Where there is no engine, or it does not answer, those on record, with the reason why
        nothing is known of them."""
        try:
            if self._commands.find(self.engine) is None:
                raise self._no_engine()
            nodes = clusters.nodes_of(self._commands, self.engine, timeout_s=presence.LOOK_S)
        except LabError as failed:
            return tuple(_unasked(lab, failed) for lab in self._recorded() if name in (None, lab.name))
        by_lab: dict[str, list[NodeContainer]] = {}
        for node in nodes:
            if node.mark is not None and name in (None, node.mark.lab):
                by_lab.setdefault(node.mark.lab, []).append(node)
        return tuple(self._running(lab, found) for lab, found in sorted(by_lab.items()))

    def _no_engine(self) -> HostLacks:
        return HostLacks(
            what=f"{self.engine} is not on this host",
            cause="the nodes of kind labs run in it, and it is not in PATH",
            remedy="put it back on PATH, then run the same command again; labctl doctor --provider kind",
        )

    def _running(self, name: str, nodes: list[NodeContainer]) -> RunningLab:
        mark = nodes[0].mark
        lab = read_record(self._files(name).record)
        missing: list[str] = []
        if lab is None:
            missing.append("its record (the build was interrupted)")
        else:
            there = {node.name for node in nodes if node.is_running}
            settings = self.settings(lab)
            missing += [f"node {node}" for node in settings.all_nodes if node not in there]
            up = outside.running(self._commands, self.engine, name) if lab.outside else ()
            missing += [
                f"host outside {host.name}"
                for host in lab.outside
                if outside.container_of(settings.cluster_name, host.name) not in up
            ]
        return RunningLab(
            name=name,
            provider=self.name,
            scenario=lab.scenario if lab else (mark.scenario if mark else ""),
            digest=lab.digest if lab else (mark.digest if mark else ""),
            is_whole=not missing,
            lab=lab,
            missing=tuple(missing),
        )

    def teardown(self, name: str) -> None:
        files = self._files(name)
        if self._commands.find(self.engine) is not None:
            nodes = clusters.nodes_of(self._commands, self.engine)
            ours = {node.cluster for node in nodes if node.mark is not None and node.mark.lab == name}
            for cluster in sorted(ours):
                argv = ("kind", "delete", "cluster", "--name", cluster, "--kubeconfig", str(files.kubeconfig))
                clusters.delete(self._commands, self.engine, cluster, name, files.kubeconfig, argv, _DELETE_S)
            outside.remove(self._commands, outside.RemoveOutside(engine=self.engine, lab=name, timeout_s=_DELETE_S))
        elif files.record.exists():
            raise self._no_engine()
        files.remove()
        self._planned.pop(name, None)

    @contextlib.contextmanager
    def _open(self, lab: Lab) -> Iterator[OpenLab]:
        settings = self.settings(lab)
        if not settings.files.kubeconfig.exists():
            self._fetch_kubeconfig(settings)
        ways = KindWays(settings=settings, engine=self.engine, commands=self._commands)
        if not has_cilium(lab):
            yield open_foreign(settings, self._commands, ways)
            return
        if not lab.outside:
            yield open_lab(settings, self._commands, ways)
            return
        placed = outside.with_addresses(settings.lab, self._commands, self.engine, settings.cluster_name)
        hosts = outside.targets(placed, self._commands, self.engine, settings.cluster_name)
        yield open_lab(replace(settings, lab=placed), self._commands, ways, outside=hosts)

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        return self._open(lab)

    def _fetch_kubeconfig(self, settings: KindSettings) -> None:
        """The state folder may be gone while the cluster is there: kind can write the file again."""
        done = self._commands.run(
            ("kind", "get", "kubeconfig", "--name", settings.cluster_name), timeout_s=clusters.LOOK_S
        )
        if done.returncode != 0 or done.timed_out:
            raise UsageError(
                what=f"lab {settings.lab.name} is not up: there is no kind cluster {settings.cluster_name}",
                cause=done.error_text.strip()[-200:],
                remedy=f"labctl up {settings.lab.scenario} --provider kind",
            )
        write_private(settings.files.kubeconfig, done.text)

    def has_left(self, name: str) -> bool:
        return is_lab_folder(name) and any(path.is_dir() for path in (self._files(name).folder, self._files(name).logs))

    @contextlib.contextmanager
    def evidenced(self, name: str, running: RunningLab | None) -> Iterator[Evidenced]:
        from labctl.providers.kind.support import exhibits

        files = self._files(name)
        yield Evidenced(
            exhibits=tuple(exhibits(name, files, self.engine, self._commands)), secrets=kubeconfig_secrets(files)
        )

    def _files(self, name: str) -> KindFiles:
        return KindFiles.of(self._root, name)

    def _recorded(self) -> tuple[Lab, ...]:
        labs = (read_record(path) for path in kept(self._root, RECORD))
        return tuple(lab for lab in labs if lab is not None)

    def _others(self, name: str) -> tuple[tuple[str, config.Ranges], ...]:
        """The ranges of the other labs, also of those that are still being built: their kind configuration has them."""
        configs = kept(self._root, "kind.yaml")
        texts = ((path.parent.name, read_state(path)) for path in configs if path.parent.name != name)
        found = {lab: config.ranges_of(text or "") for lab, text in texts if is_lab_folder(lab)}
        planned = {lab: placed for lab, (_, placed) in list(self._planned.items()) if lab != name}
        return tuple((lab, ranges) for lab, ranges in (planned | found).items() if ranges)

    def _overlapping(self, action: RefuseOverlap) -> Sequence[str]:
        return config.overlapping((IPv4Network(text) for text in action.ranges), self._others(action.lab))

    def _refuse_different_clusters(self, before: Lab, after: Lab, *, with_pods: bool = True) -> None:
        one, two = self.settings(before), self.settings(after)
        pods = [[(p.name, p.node) for p in lab.pods] if with_pods else [] for lab in (before, after)]
        refuse_differing(
            before,
            after,
            (
                ("name", before.name, after.name),
                ("nodes", one.nodes, two.nodes),
                ("pods", pods[0], pods[1]),
                ("address ranges", before.network.pod_cidr, after.network.pod_cidr),
                ("Kubernetes", (one.kubernetes, one.node_image), (two.kubernetes, two.node_image)),
                ("kindCluster", _cluster_less_strategy(one), _cluster_less_strategy(two)),
                ("pod network", before.pod_network, after.pod_network),
                ("Cilium", one.cilium_version, two.cilium_version),
                ("kube-proxy", statement_of_proxy(before), statement_of_proxy(after)),
            ),
            remedy="compare them side by side: kindCluster.strategy: parallel",
        )


def _ranges(lab: Lab) -> config.Ranges:
    return lab.network.pod_cidr, lab.network.service_cidr


def _unasked(lab: Lab, why: LabError) -> RunningLab:
    return RunningLab(
        name=lab.name,
        provider=KindProvider.name,
        scenario=lab.scenario,
        digest=lab.digest,
        is_whole=False,
        lab=lab,
        unasked=why,
    )


def _cluster_less_strategy(settings: KindSettings) -> KindCluster:
    return settings.cluster.model_copy(update={"strategy": Strategy.AUTO})


def by_memory(need_byte: int, free_byte: int, what: str) -> StrategyChoice:
    """Side by side where there is room for it."""
    figures = f"{what} need about {need_byte / 2**30:.1f} GiB, {free_byte / 2**30:.1f} GiB are free"
    return StrategyChoice(switches=free_byte < need_byte, because=figures)


def inotify_instances() -> int | None:
    """How many inotify instances root may have on this host; every node's systemd, containerd and kubelet take some."""
    text = (read_text("/proc/sys/fs/inotify/max_user_instances") or "").strip()
    return int(text) if text.isdigit() else None


def free_memory_byte() -> int:
    """MemAvailable of this host."""
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


_ASK_S = 60.0


def node_door(engine: str, container: str) -> Door:
    return Door(closed=(engine, "exec", container), open=(engine, "exec", "-i", container))


@dataclass(frozen=True, slots=True, kw_only=True)
class KindWays:
    """`Ways` of `providers/cilium/open.py`."""

    settings: KindSettings
    engine: str
    commands: Commands

    def node(self, node: str) -> DoorTarget:
        return DoorTarget(
            name=node,
            kind=TargetKind.NODE,
            door=node_door(self.engine, self.settings.nodes[node]),
            commands=self.commands,
        )

    def pod(self, pod: PodState, node: str) -> DoorTarget:
        return DoorTarget(name=pod.name, kind=TargetKind.POD, door=self._door(pod.name), commands=self.commands)

    def capture(self, node: DoorTarget) -> DoorTarget:
        """Where tcpdump sees the node's devices: the node's container if it has tcpdump, else the helper pod, which
        shares the node's network namespace."""
        helper = DoorTarget(
            name=node.name, kind=TargetKind.NODE, door=self._door(helper_name(node.name)), commands=self.commands
        )
        if self.settings.cluster.capture is Capture.POD:
            return helper
        if self.settings.cluster.capture is Capture.NODE:
            return node
        has = node.run(("sh", "-c", "command -v tcpdump"), timeout_s=_ASK_S)
        return node if has.returncode == 0 else helper

    def _door(self, pod: str) -> Door:
        return pod_door(self.settings.kubectl(), self.settings.namespace, pod, CONTAINER)
