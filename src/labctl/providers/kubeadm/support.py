"""What a lab on machines shows for a support archive: each machine by SSH, the cluster by the control plane's kubectl.

It stands alone because only `labctl support` loads it. Every machine is tried once, all at the same time; one that does
not answer is one part of the archive's list, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from labctl.errors import LabError
from labctl.providers.base import Exhibit
from labctl.providers.cilium.commands import shown
from labctl.providers.cilium.support import (
    Place,
    cluster_exhibits,
    failing,
    kubeconfig_secrets,
    node_exhibits,
    state_exhibits,
)
from labctl.providers.kubeadm.files import KubeadmFiles
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.own_files import sudo_password
from labctl.providers.kubeadm.ssh import Fleet

LOGIN_S = 10.0
"""For each answer of a machine's sshd: who wants to know what is wrong does not wait for a machine that is gone."""
_ADMIN = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout=10s")
_MACHINE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mark.json", ("cat", "/etc/labctl/lab.json")),
    ("before.json", ("cat", "/etc/labctl/before/record.json")),
    ("kubeadm.yaml", ("cat", "/etc/labctl/kubeadm.yaml")),
    ("kubeadm-version.txt", ("kubeadm", "version", "-o", "short")),
    ("time.txt", ("timedatectl",)),
    ("name.txt", ("hostname", "--fqdn")),
)


def exhibits(
    name: str, files: KubeadmFiles, fleet: Fleet, problem: LabError | None, silent: Mapping[str, LabError]
) -> Iterator[Exhibit]:
    """`problem`: why it is not known which machines are the lab's. `silent`: why machines cannot be asked, by node."""
    yield from state_exhibits(files)
    if problem is not None:
        yield failing("nodes/which.txt", str(files.state), problem)
    for commands in fleet:
        node = commands.machine.node
        if node in silent:
            yield failing(f"nodes/{node}/no-answer.txt", shown(commands, ("true",)), silent[node])
        else:
            yield from node_exhibits(node, Place.of(commands), _MACHINE)
    if not fleet.machines:
        return
    leader = fleet.control_plane
    if (why := silent.get(leader.machine.node)) is not None:
        yield failing("cluster/no-answer.txt", shown(leader, (*_ADMIN, "get", "nodes")), why)
    else:
        yield from cluster_exhibits(Place.of(leader, *_ADMIN), f"labctl-{name}")


def secrets(files: KubeadmFiles, machines: Sequence[Machine]) -> tuple[str, ...]:
    """Passwords that sudo on the machines asks for, and what the kubeconfig lets in with."""
    found = list(kubeconfig_secrets(files))
    for machine in machines:
        try:
            found.append(sudo_password(machine).decode("utf-8", errors="replace").strip())
        except LabError:
            continue
    return tuple(one for one in found if one)
