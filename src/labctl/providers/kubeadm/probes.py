"""What this host must have to build labs on machines: found by trying, each with its remedy. Changes nothing.

What `labctl doctor` reports on the machines of lab.yaml: asked all at once over SSH, within a deadline.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from labctl.errors import HostLacks, LabError, StepFailed
from labctl.model.sections import Kubeadm, MachineSource
from labctl.providers.base import Probe
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.preflight import CGROUP_V2, Problem, clock_problem, judge_machine
from labctl.providers.kubeadm.runner import ansible_playbook, playbooks_directory
from labctl.providers.kubeadm.ssh import Fleet
from labctl.providers.kubeadm.survey import MachineFacts, are_apart, look_at
from labctl.providers.tools import Need, tool_probes
from labctl.system import process

_BUILDING = "building labs on machines"
TOOLS = (
    Need(program="ssh", needed_for=_BUILDING),
    Need(program="helm", needed_for="rendering Cilium's chart", remedy="https://helm.sh/docs/intro/install/"),
)
_LEAST = {"ansible-core": (2, 15), "ansible-runner": (2, 3), "fabric": (3, 2)}


def probes() -> Iterator[Probe]:
    for package, least in _LEAST.items():
        yield _package(package, least)
    program = ansible_playbook()
    yield Probe(
        name="ansible-playbook", present=program is not None, found=program or "not on this host", needed_for=_BUILDING,
        remedy='pip install "ansible-core>=2.15"',
    )  # fmt: skip
    try:
        place = str(playbooks_directory())
        yield Probe(name="playbooks", present=True, found=place, needed_for=_BUILDING)
    except HostLacks as lacks:
        yield Probe(
            name="playbooks", present=False, found="not on this host", needed_for=_BUILDING, remedy=lacks.remedy
        )
    yield from tool_probes(TOOLS)
    path = process.find_program("vagrant")  # asking for its version takes a second
    yield Probe(
        name="vagrant", present=path is not None, found=path or "not on this host", needed_for="machines: vagrant",
        remedy="apt-get install vagrant vagrant-libvirt", required=False,
    )  # fmt: skip


def _package(name: str, least: tuple[int, int]) -> Probe:
    wanted = f"{name}>={least[0]}.{least[1]}"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Probe(
            name=name, present=False, found="not installed", needed_for=_BUILDING, remedy=f'pip install "{wanted}"'
        )
    numbers = tuple(int(n) for n in re.findall(r"\d+", found)[:2])
    return Probe(
        name=name, present=numbers >= least, found=found, needed_for=_BUILDING, remedy=f'pip install "{wanted}"'
    )


NEEDED_FOR = "building labs on machines"
DEADLINE_S = 30.0
"""For the slow ones: a machine that is off is known to be after the 10 s that a connection may take."""


def machine_probes(kubeadm: Kubeadm, machines: Sequence[Machine], deadline_s: float = DEADLINE_S) -> Iterator[Probe]:
    """One probe for each machine that fits, one for each problem of one that does not. VMs are made by `up`: there is
    nothing to ask yet."""
    if kubeadm.machines is MachineSource.VAGRANT:
        return
    if not machines:
        yield Probe(
            name="machines", present=False, found="lab.yaml lists none under hosts:", needed_for=NEEDED_FOR,
            remedy="list them under hosts: in lab.yaml, or kubeadm: {machines: vagrant} (docs/kubeadm.md)",
        )  # fmt: skip
        return
    answers = asked(machines, deadline_s)
    clocks = [said.clock for said in answers.values() if isinstance(said, MachineFacts) and said.clock]
    apart = are_apart(clocks, kubeadm.max_clock_offset_s)
    for machine in machines:
        yield from _probes_of(kubeadm, machine, answers[machine.node], clocks_are_apart=apart)


def asked(machines: Sequence[Machine], deadline_s: float) -> Mapping[str, MachineFacts | LabError]:
    """What each machine is like, or why that is not known; by its node. No answer is waited for beyond the deadline."""
    answers: dict[str, MachineFacts | LabError] = {
        machine.node: StepFailed(
            what=f"{machine.node} ({machine.address}): no answer in {deadline_s:g} s",
            cause=f"no answer in {deadline_s:g} s: overloaded, or sudo waits there for an unreachable name server",
            remedy=f"ssh {machine.place} 'uptime; getent ahostsv4 \"$(hostname)\"'  # must print an address at once",
        )
        for machine in machines
    }

    def ask(fleet: Fleet, node: str) -> None:
        try:
            said: MachineFacts | LabError = look_at(fleet[node], ask_s=deadline_s)
        except LabError as failed:
            said = failed
        if not is_over.is_set():
            answers[node] = said

    is_over = threading.Event()
    with Fleet(machines) as fleet:
        # Daemons: one that is stuck in a connection must not keep the process from ending.
        threads = [threading.Thread(target=ask, args=(fleet, m.node), daemon=True) for m in machines]
        until_s = time.monotonic() + deadline_s
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        is_over.set()
    return answers


def _probes_of(
    kubeadm: Kubeadm, machine: Machine, said: MachineFacts | LabError, *, clocks_are_apart: bool
) -> Iterator[Probe]:
    name = f"{machine.address}:{machine.port}" if machine.port != 22 else machine.address
    problems: list[Problem]
    if isinstance(said, LabError):
        problems = [(said.cause or said.what, said.remedy)]
    else:
        problems = judge_machine(kubeadm, machine, said)
        if clocks_are_apart and (problem := clock_problem(kubeadm, machine, said)):
            problems.append(problem)
        if not problems:
            yield Probe(name=name, present=True, found=in_words(said), needed_for=NEEDED_FOR)
    for cause, remedy in problems:
        yield Probe(name=name, present=False, found=cause, needed_for=NEEDED_FOR, remedy=remedy)


def in_words(seen: MachineFacts) -> str:
    """The facts about a machine that fits, in one line."""
    words = [f"{seen.family} family", f"Linux {seen.kernel}" if seen.kernel else ""]
    words.append(f"{seen.cpus} CPUs" if seen.cpus else "")
    words.append(f"{seen.memory_byte / 1e9:.1f} GB memory" if seen.memory_byte else "")
    words.append(f"{min(free for _, free in seen.free_byte) / 1e9:.1f} GB free" if seen.free_byte else "")
    words.append(("cgroup v2" if seen.cgroup == CGROUP_V2 else "cgroup v1") if seen.cgroup else "")
    words.append(f"containerd {seen.containerd}" if seen.containerd else "no containerd yet")
    words.append(f"kubeadm {seen.installed.kubeadm}" if seen.installed.kubeadm else "no kubeadm yet")
    words.append(f"part of lab {seen.mark}" if seen.mark else "")
    return ", ".join(word for word in words if word)
