"""What this host must have to build labs on machines: found by trying, each with its remedy. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from labctl.errors import HostLacks
from labctl.providers.base import Probe
from labctl.providers.kubeadm.runner import ansible_playbook, playbooks_directory
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
        name="ansible-playbook", present=program is not None, found=program or "not found", needed_for=_BUILDING,
        remedy='pip install "ansible-core>=2.15"',
    )  # fmt: skip
    try:
        place = str(playbooks_directory())
        yield Probe(name="playbooks", present=True, found=place, needed_for=_BUILDING)
    except HostLacks as lacks:
        yield Probe(name="playbooks", present=False, found="not found", needed_for=_BUILDING, remedy=lacks.remedy)
    yield from tool_probes(TOOLS)
    path = process.find_program("vagrant")  # its own account of its version takes a second
    yield Probe(
        name="vagrant", present=path is not None, found=path or "not found", needed_for="machines: vagrant",
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
