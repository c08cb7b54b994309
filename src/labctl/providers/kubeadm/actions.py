"""The acts that a kubeadm lab is built from, as frozen values. Each knows its shell equivalent and its record; none
acts: `execute.py` carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labctl.planning.shell import quoted, through, with_environment, word, written
from labctl.providers.cilium.values import Wanted, expected_config
from labctl.providers.cilium.waiting import WaitForNodes, WaitForPods
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Every machine is looked at over SSH; what stands in the way is reported before anything is changed."""

    machines: tuple[str, ...]

    def shell(self) -> str:
        return "\n".join(f"ssh {place} true" for place in self.machines)

    def record(self) -> Mapping[str, object]:
        return {"kind": "survey", "machines": list(self.machines)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeMachines:
    """`vagrant up`, from labctl's own Vagrantfile."""

    lab: str
    scenario: str
    nodes: int
    provider: str

    @property
    def argv(self) -> tuple[str, ...]:
        return ("vagrant", "up", f"--provider={self.provider}")

    @property
    def environment(self) -> dict[str, str]:
        return {"LABCTL_SCENARIO": self.scenario, "LABCTL_NODES": str(self.nodes), "LABCTL_LAB": self.lab}

    def shell(self) -> str:
        return with_environment(self.environment, self.argv)

    def record(self) -> Mapping[str, object]:
        return {"kind": "make-machines", "argv": list(self.argv), "environment": self.environment}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderCilium:
    """Writes the values, renders the chart on this host, and compares `cilium-config` with what was meant."""

    values: str
    pull: tuple[str, ...]
    argv: tuple[str, ...]
    output: Path
    values_path: Path
    chart: str
    wanted: Wanted
    user_values: Mapping[str, object]

    def shell(self) -> str:
        lines = [f"mkdir -p -m 700 {word(self.output.parent)}"]
        lines.append(written(self.values_path, self.values))
        if self.pull:
            lines.append(f"mkdir -p {word(Path(self.chart).parent)}")
            lines.append(quoted(self.pull))
        lines.append(f"{quoted(self.argv)} > {word(self.output)}")
        return "\n".join(lines)

    def record(self) -> Mapping[str, object]:
        return {
            "kind": "render-cilium",
            "argv": list(self.argv),
            "output": str(self.output),
            "expected": expected_config(self.wanted, self.user_values),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One playbook against all machines, then what has to be ready on the cluster. `by_hand` is what a person would
    type instead, which waits, too."""

    playbook: str
    by_hand: str
    variables: Mapping[str, Any]
    waits: tuple[WaitForPods | WaitForNodes, ...] = ()

    def shell(self) -> str:
        return self.by_hand

    def record(self) -> Mapping[str, object]:
        return {
            "kind": "play",
            "playbook": f"playbooks/{self.playbook}.yml",
            "variables": dict(self.variables),
            "waits": [wait.record() for wait in self.waits],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchKubeconfig:
    """Copies the cluster's kubeconfig into the lab's directory, for the owner's eyes only."""

    place: str
    path: Path
    is_root: bool

    def shell(self) -> str:
        sudo = "" if self.is_root else "sudo "
        return f"(umask 077; ssh {self.place} {sudo}cat /etc/kubernetes/admin.conf > {word(self.path)})"

    def record(self) -> Mapping[str, object]:
        return {"kind": "fetch-kubeconfig", "path": str(self.path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePods:
    """Deletes the lab's pods, since a pod keeps the route MTU of its creation."""

    argv: tuple[str, ...]
    place: str

    def shell(self) -> str:
        return through(f"ssh {self.place}", ("sudo", *self.argv))

    def record(self) -> Mapping[str, object]:
        return {"kind": "remove-pods", "argv": list(self.argv)}
