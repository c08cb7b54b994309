"""A playbook and what comes after it: archives that machines have are not sent, and waits say what they see."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kind_world import completed
from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import StepFailed
from labctl.providers.base import Completed, Wait
from labctl.providers.kubeadm.actions import Play
from labctl.providers.kubeadm.execute import KubeadmExecutor
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.plan import plan_lab
from labctl.providers.kubeadm.settings import KubeadmSettings, read_settings

ID = "a" * 64
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
GONE = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "cilium-agent", "restartCount": 0,
         "state": {"waiting": {"reason": "ErrImagePull", "message": "quay.io/cilium/cilium:v9: not found"}}},
    ],
}  # fmt: skip


class OnMachine:
    """What one machine says."""

    prefix: tuple[str, ...] = ()

    def __init__(self, machine: Machine, fleet: Fleet) -> None:
        self.machine, self.fleet = machine, fleet

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if argv[0] == "crictl":
            if self.machine.node in self.fleet.silent:
                raise StepFailed("it does not answer")
            return completed(argv, json.dumps({"images": self.fleet.images.get(self.machine.node, [])}))
        assert self.machine.is_control_plane
        count = 3 if "k8s-app=cilium" in argv else 1 if "name=cilium-operator" in argv else 8
        if "pods" in argv:
            items = [
                {"metadata": {"name": f"p{n}", "namespace": "x"}, "spec": {"nodeName": "node1"}, "status": status}
                for n, status in enumerate([self.fleet.first, *[READY] * (count - 1)])
            ]
            return completed(argv, json.dumps({"items": items}))
        if "daemonset" in argv:
            fields = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
            return completed(argv, json.dumps({"metadata": {}, "status": dict.fromkeys(fields, 3)}))
        if "nodes" in argv:
            items = [{"metadata": {"name": f"n{n}"}, "status": {"conditions": READY["conditions"]}} for n in range(3)]
            return completed(argv, json.dumps({"items": items}))
        return completed(argv, json.dumps({"items": []}))


class Fleet:
    def __init__(self, settings: KubeadmSettings) -> None:
        self.images: dict[str, list[dict[str, Any]]] = {}
        self.silent: set[str] = set()
        self.first: Mapping[str, Any] = READY
        self._machines = [OnMachine(machine, self) for machine in settings.machines]
        self.control_plane = self._machines[0]

    def __iter__(self) -> Iterator[OnMachine]:
        return iter(self._machines)


class Runner:
    def __init__(self) -> None:
        self.played: list[tuple[str, dict[str, Any]]] = []

    def play(self, playbook: str, inventory: object, variables: dict[str, Any], **_: Any) -> None:
        self.played.append((playbook, variables["labctl"]))


def archive(path: Path, *names: str) -> Path:
    data = json.dumps([{"Config": f"{ID}.json", "RepoTags": list(names)}]).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return path


def listed(name: str, digest: str = ID) -> dict[str, Any]:
    return {"id": f"sha256:{digest}", "repoTags": [name]}


def executor(tmp_path: Path, *archives: Path) -> tuple[KubeadmExecutor, Fleet, Runner, list[Wait], KubeadmSettings]:
    images = {"archives": [str(path) for path in archives]}
    settings = read_settings(make_lab(hosts=THREE_HOSTS, kubeadm={"images": images}), tmp_path / "state")
    fleet, runner, told = Fleet(settings), Runner(), list[Wait]()

    def tell(act: str | Wait, duration_s: float | None) -> None:
        assert isinstance(act, Wait)
        told.append(act)

    made = KubeadmExecutor(settings, fleet, runner, tell=tell)  # type: ignore[arg-type]
    return made, fleet, runner, told, settings


def play(settings: KubeadmSettings, playbook: str) -> Play:
    actions = [action for step in plan_lab(settings).steps for action in step.actions]
    return next(action for action in actions if isinstance(action, Play) and action.playbook == playbook)


def test_an_archive_goes_where_an_image_of_it_is_missing_or_is_another(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", "tools:1", "quay.io/x/a:1")
    made, fleet, runner, _, settings = executor(tmp_path, path)
    full, other = "docker.io/library/tools:1", "quay.io/x/a:1"
    fleet.images = {
        "node1": [listed(full), listed(other)],
        "node2": [listed(full)],
        "node3": [listed(full), listed(other, "b" * 64)],
    }
    made.execute([play(settings, "prepare")])
    ((_, variables),) = runner.played
    assert variables["archives"] == [
        {"path": str(path), "name": "a.tar", "images": sorted((full, other)), "there": ["node1"]}
    ]


def test_a_machine_that_cannot_say_what_it_has_gets_the_archive(tmp_path: Path) -> None:
    """containerd is not installed yet, or crictl is not."""
    made, fleet, runner, _, settings = executor(tmp_path, archive(tmp_path / "a.tar", "tools:1"))
    fleet.images = {node: [listed("docker.io/library/tools:1")] for node in ("node1", "node2", "node3")}
    fleet.silent = {"node2"}
    made.execute([play(settings, "prepare")])
    assert runner.played[0][1]["archives"][0]["there"] == ["node1", "node3"]


@pytest.mark.parametrize("playbook", ["cilium", "pods"])
def test_labctl_waits_itself_and_the_playbook_does_not(playbook: str, tmp_path: Path) -> None:
    made, _, runner, _, settings = executor(tmp_path)
    made.execute([play(settings, playbook)])
    assert [(name, variables["wait_s"]) for name, variables in runner.played] == [(playbook, 0)]
    assert play(settings, playbook).variables["labctl"]["wait_s"] > 0  # one that is run by hand does
    assert play(settings, playbook).waits


def test_an_agent_whose_image_cannot_be_pulled_is_told_at_once_with_a_remedy(tmp_path: Path) -> None:
    made, fleet, _, told, settings = executor(tmp_path)
    fleet.first = GONE
    with pytest.raises(StepFailed, match="Cilium agents: 2 of 3 are ready; the others will not become ready") as failed:
        made.execute([play(settings, "cilium")])
    assert "cilium-agent: ErrImagePull (quay.io/cilium/cilium:v9: not found)" in failed.value.cause
    assert failed.value.remedy
    assert told[0].seen.startswith("2 of 3 are ready; pod p0 on node1: cilium-agent: ErrImagePull")
