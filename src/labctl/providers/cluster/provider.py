"""The provider cluster: labs as a namespace of pods on a cluster that is there; its datapath is looked at, never made.

What a lab is known by on this host is one file, written before anything is made: which context of which kubeconfig, and
the id that its namespace carries. On the cluster it is the namespace's label and annotations.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from labctl.errors import LabError, UsageError
from labctl.json_text import mapping_of, parse_json
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.model.sections import ExistingCluster
from labctl.providers.base import Capabilities, Executor, OpenLab, Probe, RunningLab, Tell, Wait
from labctl.providers.cilium.commands import (
    INSTALL,
    Commands,
    HostCommands,
    is_lab_folder,
    read_state,
    state_root,
    write_private,
)
from labctl.providers.cilium.drifting import ClusterDrifting, Planned
from labctl.providers.cilium.settings import read_record, section_of, write_record
from labctl.providers.cluster.access import Access
from labctl.providers.cluster.execute import ClusterExecutor
from labctl.providers.cluster.files import ClusterFiles
from labctl.providers.cluster.manifests import objects
from labctl.providers.cluster.nodes import choose
from labctl.providers.cluster.plan import plan_lab
from labctl.providers.cluster.rights import Subject, rbac_text
from labctl.providers.cluster.settings import ClusterSettings, bare_lab, in_words, read_settings

_LOOK_S = 15.0
_ID_BYTE = 4


def _silent(text: str | Wait, duration_s: float | None) -> None:
    """Nobody listens."""


class ClusterProvider:
    """`Provider` of the seam. `site` gives what lab.yaml says under `cluster:`, for labs whose record on this host is
    lost."""

    name = "cluster"
    statement = "a cluster that is there: labctl added pods in a namespace of their own, and changed nothing else of it"

    def __init__(
        self,
        commands: Commands | None = None,
        root: Path | None = None,
        site: Callable[[], ExistingCluster] = ExistingCluster,
    ) -> None:
        self._commands: Commands = commands or HostCommands(self.name)
        self._root = root or state_root(self.name)
        self._site = site
        self._tell: Tell = _silent
        self._sought: dict[str, tuple[Access, str]] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            is_proven_when_built=True, telling=self.telling, seek=self.seek, placement=self.placement,
            rights=self.rights, after_boot="its pods are on a cluster that labctl did not make and does not start",
            drifting=self._drifting,
        )  # fmt: skip

    @property
    def _drifting(self) -> ClusterDrifting:
        """Compared alone: the datapath is the cluster's own, and pods that are gone are made by `up`."""
        return ClusterDrifting(
            provider=self.name, planned=self._planned, commands=lambda lab: contextlib.nullcontext(self._commands),
            files=self._files, executor=self.executor,
        )  # fmt: skip

    def _planned(self, lab: Lab) -> Planned:
        settings = replace(self.settings(lab), nodes=self.placement(lab.name))
        return Planned(settings=settings, config={}, objects=tuple(objects(settings)), others=None)

    def statements(self, lab: Lab) -> tuple[str, ...]:
        settings = self.settings(lab)
        placed = self.placement(lab.name)
        return (
            self.statement,
            f"context {settings.context or 'current'}, namespace {settings.namespace}",
            *((in_words(placed),) if placed else ()),
            *(
                ("nothing is asked of the datapath: what is in force is taken as it is",)
                if lab.datapath.observed
                else ()
            ),
        )

    def settings(self, lab: Lab) -> ClusterSettings:
        """The lab as this provider reads it; on the cluster where it is, once it is on one. Raises UsageError."""
        settings = read_settings(lab, self._root)
        state = self._state(lab.name)
        if state is None:
            return settings
        where = {key: str(state[key]) for key in ("context", "kubeconfig") if state.get(key)}
        return replace(settings, section=settings.section.model_copy(update=where))

    def _access(self, settings: ClusterSettings) -> Access:
        return Access(settings=settings, commands=self._commands)

    def probes(self) -> Iterator[Probe]:
        path = self._commands.find("kubectl")
        yield Probe(
            name="kubectl", present=path is not None, found=path or "not there",
            needed_for="all that is asked of a cluster", remedy=INSTALL["kubectl"], path=path or "",
        )  # fmt: skip
        if path is None:
            return
        done = self._commands.run(("kubectl", "config", "get-contexts", "-o", "name"), timeout_s=_LOOK_S)
        contexts = done.text.split()
        some = ", ".join(contexts[:5]) + (f" and {len(contexts) - 5} more" if len(contexts) > 5 else "")
        yield Probe(
            name="kubeconfig", present=bool(contexts), found=f"contexts: {some}" if contexts else "no context",
            needed_for="reaching a cluster", remedy="export KUBECONFIG=FILE  # or cluster.kubeconfig in lab.yaml",
            required=False,
        )  # fmt: skip

    def refuse(self, lab: Lab) -> None:
        read_settings(lab, self._root)

    def plan(self, lab: Lab) -> Plan:
        """Makes nothing; asks the cluster for its nodes. Raises MeasureFailed when it does not answer, StepFailed when
        it has too few."""
        return plan_lab(self._with_nodes(self.settings(lab)))

    def _with_nodes(self, settings: ClusterSettings) -> ClusterSettings:
        located = located_in(settings, self._commands)
        return replace(located, nodes=choose(located, self._access(located).nodes()))

    def rights(self, lab: Lab, subject: str, with_agents: bool) -> str:
        """The manifest of the rights that the lab takes, for that subject. Asks nothing of the cluster."""
        return rbac_text(self.settings(lab), Subject.parse(subject), with_agents=with_agents)

    @contextlib.contextmanager
    def _executor(self, lab: Lab) -> Iterator[Executor]:
        settings = located_in(self.settings(lab), self._commands)
        lab_id = secrets.token_hex(_ID_BYTE)
        state = {
            "lab": lab.name, "scenario": lab.scenario, "digest": lab.digest, "id": lab_id,
            "context": settings.section.context, "kubeconfig": settings.section.kubeconfig,
        }  # fmt: skip

        def begin() -> str:
            write_private(settings.files.state, json.dumps(state, indent=1) + "\n")
            return lab_id

        def record(whole: Lab) -> None:
            placed = access.placed(access.pods()).settings.nodes
            write_private(settings.files.state, json.dumps({**state, "nodes": dict(placed)}, indent=1) + "\n")
            write_record(settings.files.record, whole)

        access = self._access(settings)
        yield ClusterExecutor(access, begin=begin, record=record, made_by=made_by(), tell=self._tell)

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        return self._executor(lab)

    @contextlib.contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        before, self._tell = self._tell, tell
        try:
            yield
        finally:
            self._tell = before

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        """Labs that this host has on record, each looked for on its cluster; of one that does not answer, why not."""
        if not self._root.is_dir():
            return ()
        names = [folder.name for folder in sorted(self._root.iterdir()) if is_lab_folder(folder.name)]
        found = ((lab, self._state(lab)) for lab in names if name in (None, lab))
        return tuple(self._running(lab, state) for lab, state in found if state is not None)

    def _running(self, name: str, state: Mapping[str, Any]) -> RunningLab:
        lab = read_record(self._files(name).record)
        missing: tuple[str, ...] = ()
        unasked: LabError | None = None
        try:
            missing = self._missing(name, state, lab)
        except LabError as failed:
            unasked = failed
        if lab is None:
            missing = (*missing, "its record (the build was interrupted)")
        return RunningLab(
            name=name,
            provider=self.name,
            scenario=str(state.get("scenario", "")),
            digest=str(state.get("digest", "")),
            is_whole=not missing and unasked is None,
            lab=lab,
            missing=missing,
            unasked=unasked,
        )

    def _missing(self, name: str, state: Mapping[str, Any], lab: Lab | None) -> tuple[str, ...]:
        """What of the lab is not on its cluster. Raises what kept the cluster from being asked."""
        access = self._access(self._bare(name, state, lab))
        facts = access.namespace()
        if facts is None:
            return (f"namespace {access.settings.namespace}",)
        if facts.lab != name or facts.lab_id not in ("", state.get("id")):
            return (f"namespace {facts.name}, which is another lab's now",)
        if facts.is_terminating:
            return (f"namespace {facts.name}, which is being deleted",)
        if lab is None:
            return ()
        pods = access.pods()
        return tuple(
            f"pod {pod.name}" + (f" ({pods[pod.name].reason})" if pod.name in pods else "")
            for pod in lab.pods
            if pod.name not in pods or not pods[pod.name].is_ready
        )

    def _bare(self, name: str, state: Mapping[str, Any], lab: Lab | None) -> ClusterSettings:
        """Settings that are enough to find the namespace by, whether or not there is a record of the lab."""
        section = section_of(ExistingCluster, lab, "cluster") if lab is not None else self._site()
        where = {key: str(state[key]) for key in ("context", "kubeconfig") if state.get(key)}
        return ClusterSettings(
            lab=lab or bare_lab(name), section=section.model_copy(update=where), files=self._files(name)
        )

    def placement(self, name: str) -> Mapping[str, str]:
        """The node of the cluster that each node of the lab is; empty where that is not on record."""
        state = self._state(name) or {}
        return {str(node): str(there) for node, there in mapping_of(state.get("nodes")).items()}

    def seek(self, name: str) -> RunningLab | None:
        """Asks the cluster of lab.yaml, or of the current context, for a namespace with the mark of that lab."""
        if self._commands.find("kubectl") is None:
            return None
        access = self._access(located_in(self._bare(name, {}, None), self._commands))
        facts = access.namespace()
        if facts is None or facts.lab != name:
            return None
        if facts.made_by not in ("", made_by()):
            access.refuse_foreign(facts, "none")
        self._sought[name] = access, facts.lab_id
        return RunningLab(
            name=name, provider=self.name, scenario=facts.scenario, digest=facts.digest, is_whole=False, lab=None,
            missing=("its record on this host",),
        )  # fmt: skip

    def teardown(self, name: str) -> None:
        """Deletes the lab's namespace, and nothing else. Without a record of the lab on this host: the one that `seek`
        found, and none that was not asked for."""
        files, state = self._files(name), self._state(name)

        def say(text: str) -> None:
            self._tell(text, None)

        if state is not None:
            access = self._access(self._bare(name, state, read_record(files.record)))
            facts = access.namespace()
            # One that is another lab's by now is left alone: this lab's is gone.
            if facts is not None and facts.lab == name and facts.lab_id in ("", state.get("id")):
                access.remove_namespace(str(state.get("id", "")), say)
        elif (found := self._sought.pop(name, None)) is not None:
            access, lab_id = found
            access.remove_namespace(lab_id, say)
        files.remove()

    @contextlib.contextmanager
    def _open(self, lab: Lab) -> Iterator[OpenLab]:
        from labctl.providers.cluster.open import opened

        if self._state(lab.name) is None:
            raise UsageError(
                what=f"lab {lab.name} is not up: this host has no record of it",
                remedy=f"labctl up {lab.scenario} --provider cluster",
            )
        yield opened(self._access(self.settings(lab)), lambda text: self._tell(text, None))

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        return self._open(lab)

    def _files(self, name: str) -> ClusterFiles:
        return ClusterFiles.of(self._root, name)

    def _state(self, name: str) -> dict[str, Any] | None:
        try:
            state = parse_json(read_state(self._files(name).state) or "null")
        except (ValueError, RecursionError):
            return None
        return state if isinstance(state, dict) else None


def located_in(settings: ClusterSettings, commands: Commands) -> ClusterSettings:
    """With the context and the kubeconfig by name: what is current now may be another one when the lab is looked at."""
    section = settings.section
    if not section.context:
        done = commands.run(settings.kubectl("config", "current-context"), timeout_s=_LOOK_S)
        section = section.model_copy(update={"context": done.text.strip() if done.returncode == 0 else ""})
    if not section.kubeconfig:
        named = os.environ.get("KUBECONFIG", "")
        if named and os.pathsep not in named:
            section = section.model_copy(update={"kubeconfig": str(Path(named).absolute())})
    return replace(settings, section=section)


def made_by() -> str:
    """Who makes labs here, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
