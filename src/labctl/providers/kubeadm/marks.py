"""The mark that a lab leaves on its machines, and what it says when this host has no record of the lab any more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from labctl.errors import LabError, StepFailed
from labctl.json_text import parse_json
from labctl.names import is_name
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.values import dataclass

MARK_FILE = "/etc/labctl/lab.json"
_ASK_S = 30.0
_SOCKET = "unix:///run/containerd/containerd.sock"
_POD_CIDR = "10.244.0.0/16"


_MOST_BYTE = 64 * 1024
_DIGEST = re.compile(r"[0-9a-f]{0,64}")
_SHOWN = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,200}")
_SOCKET_PATH = re.compile(r"(unix://)?/[A-Za-z0-9/._-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMark:
    """What `MARK_FILE` says. The last three are what the reset has to know; marks of older labctls lack them."""

    lab: str
    scenario: str = ""
    digest: str = ""
    node: str = ""
    cri_socket: str = _SOCKET
    pod_cidr: str = _POD_CIDR
    remove_packages: bool = True

    @property
    def variables(self) -> dict[str, Any]:
        """The variable that the playbook `reset` reads."""
        return {
            "labctl": {
                "lab": self.lab,
                "cri_socket": self.cri_socket,
                "pod_cidr": self.pod_cidr,
                "remove_packages": self.remove_packages,
            }
        }


def parse_mark(text: str) -> MachineMark | None:
    """The mark; None where the file is not one that labctl writes. It is not trusted: names are names, the socket
    is a path and the range a range, or there is no mark."""
    if len(text) > _MOST_BYTE:
        return None
    try:
        said = parse_json(text)
        mark = MachineMark(
            lab=_text(said["lab"]),
            scenario=_text(said.get("scenario", "")),
            digest=_text(said.get("digest", "")),
            node=_text(said.get("node", "")),
            cri_socket=_text(said.get("criSocket", _SOCKET)),
            pod_cidr=str(IPv4Network(_text(said.get("podCidr", _POD_CIDR)))),
            remove_packages=said.get("removePackages") is not False,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    is_ours = (
        is_name(mark.lab)
        and (is_name(mark.node) or not mark.node)
        and _SHOWN.fullmatch(mark.scenario)
        and _DIGEST.fullmatch(mark.digest)
        and _SOCKET_PATH.fullmatch(mark.cri_socket)
    )
    return mark if is_ours else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedMachines:
    """The machines that carry one lab's mark, under the names that they have in it, and those that did not answer."""

    mark: MachineMark | None
    machines: tuple[Machine, ...]
    silent: tuple[Machine, ...]
    failure: LabError | None = None

    def refuse_silence(self, name: str) -> None:
        """Raises StepFailed when no machine has the mark but not all machines answered."""
        if self.mark is None and self.failure is not None:
            raise StepFailed(
                what=f"it is not known whether lab {name} is on the machines of lab.yaml: {self.failure.what}",
                cause=self.failure.cause,
                remedy=self.failure.remedy,
            ) from self.failure


def _refusal(machine: Machine) -> StepFailed:
    return StepFailed(
        what=f"{machine.node} ({machine.address}): {MARK_FILE} is not as labctl writes it",
        cause="its names, socket or pod range are malformed, so labctl does not act on it",
        remedy=f"ssh {machine.place} cat {MARK_FILE}",
    )


def seek_mark(name: str, machines: Sequence[Machine]) -> MarkedMachines:
    """Asks all machines at the same time for the mark of lab `name`."""

    def ask(commands: MachineCommands) -> MachineMark | LabError | None:
        try:
            done = commands.run(("cat", MARK_FILE), timeout_s=_ASK_S)
            if done.returncode != 0 and "No such file" not in done.error_text:
                # sudo refused, or the machine did not answer in time: not the same as no mark.
                task = TaskFailure(node=commands.machine.node, task="Look for the mark", message=done.error_text)
                return step_failed([task], [commands.machine])
            mark = parse_mark(done.text)
            return _refusal(commands.machine) if mark is None and done.text.strip() else mark
        except LabError as failed:
            return failed

    with Fleet(machines) as fleet, ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(zip(machines, pool.map(ask, fleet), strict=True))
    found = [(machine, said) for machine, said in answers if isinstance(said, MachineMark) and said.lab == name]
    failures = [said for _, said in answers if isinstance(said, LabError)]
    return MarkedMachines(
        mark=found[0][1] if found else None,
        machines=tuple(replace(machine, node=mark.node or machine.node) for machine, mark in found),
        # By their addresses: only they know their names in the lab.
        silent=tuple(replace(m, node=m.address) for m, said in answers if isinstance(said, LabError)),
        failure=failures[0] if failures else None,
    )
