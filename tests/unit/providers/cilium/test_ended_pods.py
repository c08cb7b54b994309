"""Pods of an earlier attempt that were evicted or have ended: known as such, replaced, and never waited for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from labctl.model.sections import MachineRole
from labctl.providers.cilium.workloads import ENDED, parse_pods
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.machines import Machine

PLAYBOOKS = Path(__file__).parents[4] / "playbooks"
LOW = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 900Mi. "
KILLED = {
    "containerStatuses": [
        {
            "name": "tools",
            "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}},
        }
    ],
    "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [tools]"}],
}
ENDED_STATES: dict[str, tuple[dict[str, Any], str]] = {
    "evicted": ({"phase": "Failed", "reason": "Evicted", "message": LOW, **KILLED}, f"Evicted: {LOW.strip()}"),
    "not admitted": (
        {"phase": "Failed", "reason": "OutOfmemory", "message": "Pod was rejected: Node didn't have enough resource"},
        "OutOfmemory: Pod was rejected: Node didn't have enough resource",
    ),
    "the node was shut down": (
        {
            "phase": "Failed",
            "reason": "Terminated",
            "message": "Pod was terminated in response to a node shutdown.",
        },
        "Terminated: Pod was terminated in response to a node shutdown.",
    ),
    "the node was lost": ({"phase": "Failed", "reason": "NodeLost", **KILLED}, "NodeLost"),
    "killed": ({"phase": "Failed", **KILLED}, "tools: ended with status 137"),
    "ended by itself": ({"phase": "Succeeded", "conditions": []}, "Succeeded"),
}


def listed(status: dict[str, Any], **meta: Any) -> str:
    meta = {"name": "client", "namespace": "labctl-bpf", **meta}
    return json.dumps({"items": [{"metadata": meta, "spec": {"nodeName": "node1"}, "status": status}]})


@pytest.mark.parametrize("case", ENDED_STATES)
def test_a_pod_that_has_ended_says_why_and_is_not_waited_for(case: str) -> None:
    status, reason = ENDED_STATES[case]
    (pod,) = parse_pods(listed(status))
    assert (pod.is_ready, pod.reason, pod.is_hopeless) == (False, reason, True)


@pytest.mark.parametrize("case", ENDED_STATES)
def test_one_that_its_controller_replaced_is_none_of_the_pods(case: str) -> None:
    status, _ = ENDED_STATES[case]
    owner = {"kind": "ReplicaSet", "name": "cilium-operator-1", "controller": True}
    assert parse_pods(listed(status, ownerReferences=[owner])) == ()
    assert len(parse_pods(listed({"phase": "Pending"}, ownerReferences=[owner]))) == 1


# kubectl's field selector, and `wait` and `get`, over pods in a file.
KUBECTL = """#!/usr/bin/python3
import json, os, re, sys
path = os.environ["PODS"]
pods = json.load(open(path))
words = sys.argv[1:]
selector = next((word.partition("=")[2] for word in words if word.startswith("--field-selector=")), "")
def fits(pod):
    tests = [re.fullmatch(r"status.phase(!?=)(\\w+)", one).groups() for one in selector.split(",") if one]
    return all((pod["phase"] == phase) is (how == "=") for how, phase in tests)
if "delete" in words:
    for name in [name for name, pod in pods.items() if fits(pod)]:
        del pods[name]
        print(f'pod "{name}" deleted')
    json.dump(pods, open(path, "w"))
elif "get" in words:
    print("".join(f"{n} on node1: {p.get('reason', '')} {p.get('message', '')}; "
        for n, p in pods.items() if fits(p)), end="")
elif "wait" in words:
    print("waited", file=open(path + ".waits", "a"))
    late = [name for name, pod in pods.items() if pod["phase"] != "Running"]
    if late:
        sys.exit(f"error: timed out waiting for the condition on pods/{late[0]}")
"""


def run(tmp_path: Path, pods: dict[str, dict[str, str]], argv: list[str], wait_s: int = 20) -> tuple[int, str, int]:
    """Exit status, standard error, and how often it was asked to wait."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "pods.json").write_text(json.dumps(pods))
    world = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PODS": str(tmp_path / "pods.json")}
    world |= {"NAMESPACE": "labctl-bpf", "WAIT_S": str(wait_s)}
    done = subprocess.run(argv, env=world, capture_output=True, text=True, check=False, timeout=120)
    waits = tmp_path / "pods.json.waits"
    return done.returncode, done.stderr, len(waits.read_text().splitlines()) if waits.exists() else 0


def tasks() -> list[dict[str, Any]]:
    return list(yaml.safe_load((PLAYBOOKS / "pods.yml").read_text())[0]["tasks"])


def test_the_playbook_removes_what_has_ended_before_it_applies(tmp_path: Path) -> None:
    names = [task["name"] for task in tasks()]
    gone = "Pods of an earlier attempt that have ended are gone"
    assert names.index(gone) < names.index("The pods are what the manifest says")
    argv = tasks()[names.index(gone)]["ansible.builtin.command"]["argv"]
    assert f"--field-selector={ENDED}" in argv
    phases = ("Running", "Pending", "Unknown", "Failed", "Succeeded")
    run(tmp_path, {phase.lower(): {"phase": phase} for phase in phases}, argv)
    assert set(json.loads((tmp_path / "pods.json").read_text())) == {"running", "pending", "unknown"}


SCRIPT = ["sh", "-c", (PLAYBOOKS / "files" / "pods-ready.sh").read_text()]


def test_an_eviction_while_waiting_is_told_after_one_wait_with_its_reason_and_remedy(tmp_path: Path) -> None:
    pods = {"client": {"phase": "Running"}, "server": {"phase": "Failed", "reason": "Evicted", "message": LOW.strip()}}
    status, said, waits = run(tmp_path, pods, SCRIPT)
    assert status == 1
    assert waits == 1
    assert said == f"labctl: pods have ended: server on node1: Evicted {LOW.strip()}\n"
    machine = Machine(node="node1", role=MachineRole.CONTROL_PLANE, address="192.168.56.10", user="debian")
    failed = step_failed([TaskFailure(node="node1", task="T", message=said)], (machine,), "LOG")
    assert LOW.strip() in failed.cause
    assert "df -h" in failed.remedy


def test_ready_pods_are_ready_and_late_ones_are_named_when_the_time_is_over(tmp_path: Path) -> None:
    assert run(tmp_path, {"client": {"phase": "Running"}}, SCRIPT)[0] == 0
    status, said, _ = run(tmp_path, {"client": {"phase": "Pending"}}, SCRIPT, wait_s=1)
    assert (status, said) == (1, "error: timed out waiting for the condition on pods/client\n")
