"""Which machine becomes which node of the lab. Pure: settings and lab in, machines out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pydantic import ValidationError

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.sections import HOSTS, Host, Kubeadm, MachineRole, MachineSource
from labctl.planning.shell import word
from labctl.values import dataclass

FIRST_VAGRANT_HOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine with its part in the lab. `node` is its Kubernetes name; `address` and `port` are where SSH goes.

    `node_address` is empty where the machine itself has to say it. `known_hosts` is empty for the user's own file.
    """

    node: str
    role: MachineRole
    address: str
    port: int = 22
    user: str = "root"
    key: str = ""
    node_address: str = ""
    interface: str = ""
    sudo_password_file: str = ""
    known_hosts: str = ""
    names_user: bool = True
    """False where lab.yaml leaves the user to ssh's configuration; `user` is then what holds where that is silent."""
    names_port: bool = True

    @property
    def is_control_plane(self) -> bool:
        return self.role is MachineRole.CONTROL_PLANE

    @property
    def ways(self) -> tuple[str, ...]:
        """The options that ssh needs to get there as labctl does: port, key and file of host keys, where lab.yaml says
        so. `ssh-copy-id` takes them too."""
        port = () if self.port == 22 else ("-p", str(self.port))
        # What follows -i is taken for a name first and for a pattern with % afterwards: no way of writing % fits both.
        key = ("-o", in_quotes("IdentityFile", self.key)) if "%" in self.key else ("-i", self.key) if self.key else ()
        known_hosts = ("-o", in_quotes("UserKnownHostsFile", self.known_hosts)) if self.known_hosts else ()
        return (*port, *key, *known_hosts)

    @property
    def place(self) -> str:
        """What a person types after `ssh`."""
        return " ".join((*map(_typed, self.ways), word(f"{self.user}@{self.address}")))

    def forgetting(self, known_as: str = "") -> str:
        """What a person types after `ssh-keygen` so that this machine's host key is forgotten. `known_as` is the name
        that it has in known_hosts, where ssh reported it."""
        name = known_as or (self.address if self.port == 22 else f"[{self.address}]:{self.port}")
        where = f" -f {_typed(self.known_hosts)}" if self.known_hosts else ""
        shown = word(name) if "'" in name else f"'{name}'"
        return f"-R {shown}{where}"

    @property
    def cluster_address(self) -> str:
        """The address that the cluster uses, as far as it is known: SSH's own where nothing else is said."""
        return self.node_address or (self.address if _is_ipv4(self.address) else "")

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"role": str(self.role)}


def _typed(text: str) -> str:
    """A word as a shell takes it, a leading `~/` left for the shell to read."""
    return f"~/{word(text[2:])}" if text.startswith("~/") and len(text) > 2 else word(text)


def in_quotes(option: str, path: str) -> str:
    """An option of ssh with a path: quoted where ssh would split it, % doubled where ssh would expand it."""
    text = path.replace("%", "%%")
    if not any(character in text for character in " \t\"'\\#="):
        return f"{option}={text}"
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{option}="{text}"'


def machine_from_record(record: Mapping[str, Any]) -> Machine:
    """The machine that `Machine.record` was made from. Raises KeyError, TypeError or ValueError."""
    return Machine(**{**record, "role": MachineRole(record["role"])})


def settings_of(lab: Lab) -> Kubeadm:
    """The `kubeadm:` section of the lab, defaults where it says nothing."""
    return section_of(lab.settings.get("kubeadm"))


def section_of(given: object) -> Kubeadm:
    """The section `kubeadm:`, from its plain value or what was made of it. Raises UsageError."""
    if isinstance(given, Kubeadm):
        return given
    with _named("kubeadm"):
        return Kubeadm.model_validate_json(json.dumps(given or {}))


def hosts_of(lab: Lab) -> tuple[Host, ...]:
    with _named("hosts"):
        return HOSTS.validate_json(json.dumps(lab.settings.get("hosts") or []))


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Labs from scenario files are valid; one that was put together by a program may not be."""
    try:
        yield
    except ValidationError as invalid:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in invalid.errors())
        raise UsageError(
            what=f"the section {section}: is not valid", cause=problems, remedy="labctl validate lab.yaml"
        ) from invalid


def has_no_machines(lab: Lab) -> bool:
    """True when lab.yaml lists no machines and no VMs are to be made."""
    return settings_of(lab).machines is MachineSource.HOSTS and not hosts_of(lab)


def machines_of(lab: Lab) -> tuple[Machine, ...]:
    """One machine for every node of the lab, control plane first. Raises UsageError when they do not fit.

    Where no machines are listed at all, the plan can still be shown: it then says `node1` where an address belongs.
    """
    settings = settings_of(lab)
    nodes = [node.name for node in lab.nodes]
    if has_no_machines(lab):
        return tuple(
            Machine(node=node, role=MachineRole.WORKER if index else MachineRole.CONTROL_PLANE, address=node)
            for index, node in enumerate(nodes)
        )
    if settings.machines is MachineSource.VAGRANT:
        return vagrant_machines(lab.name, nodes, settings)
    return host_machines(nodes, hosts_of(lab))


def host_machines(nodes: Sequence[str], hosts: Sequence[Host]) -> tuple[Machine, ...]:
    """Machines from `hosts:`. The first node of the scenario is the control plane; so is the host that has that
    role, and the first host where none has it. Hosts that are left over are not used."""
    if len(hosts) < len(nodes):
        raise UsageError(
            what=f"the scenario has {len(nodes)} nodes and lab.yaml lists {len(hosts)} machines under hosts:",
            cause="each node of the lab needs a machine of its own",
            remedy="list the missing machines under hosts: in lab.yaml (see docs/kubeadm.md), "
            f"or build fewer nodes: --set nodes={max(1, len(hosts))}",
            key="hosts",
        )
    ordered = sorted(hosts, key=lambda host: host.role is not MachineRole.CONTROL_PLANE)
    by_node = {host.node: host for host in ordered if host.node}
    if by_node:
        unknown = sorted(set(nodes) - set(by_node))
        if unknown:
            raise UsageError(
                what=f"no machine under hosts: has node: {unknown[0]}",
                cause=f"the machines are: {', '.join(sorted(by_node))}; the scenario's nodes: {', '.join(nodes)}",
                remedy="correct node: of the machines in lab.yaml",
                key="hosts",
            )
        leader = next((host for host in ordered if host.role is MachineRole.CONTROL_PLANE), None)
        if leader is not None and leader.node != nodes[0]:
            raise UsageError(
                what=f"the control plane is node {nodes[0]}, the scenario's first, but {leader.node} has that role",
                remedy=f"give role: control-plane to the machine with node: {nodes[0]}",
                key="hosts",
            )
        chosen = [(node, by_node[node]) for node in nodes]
    else:
        chosen = list(zip(nodes, ordered, strict=False))
    return tuple(_machine(host, node, is_first=number == 0) for number, (node, host) in enumerate(chosen))


def site_machines(section: object) -> tuple[Machine, ...]:
    """Every machine that the section `hosts:` lists, whichever lab it may be part of. Nodes' names are those that a
    scenario with `nodes: N` would give, where the section gives none."""
    with _named("hosts"):
        hosts = HOSTS.validate_json(json.dumps(section or []))
    ordered = sorted(hosts, key=lambda host: host.role is not MachineRole.CONTROL_PLANE)
    return tuple(
        _machine(host, host.node or f"node{number}", is_first=number == 1)
        for number, host in enumerate(ordered, start=1)
    )


def _machine(host: Host, node: str, *, is_first: bool) -> Machine:
    return Machine(
        node=node,
        role=MachineRole.CONTROL_PLANE if is_first else MachineRole.WORKER,
        address=host.address,
        port=host.port,
        user=host.user,
        key=host.key,
        node_address=str(host.node_address or ""),
        interface=host.interface or "",
        sudo_password_file=host.sudo_password_file,
        known_hosts=host.known_hosts,
        names_user="user" in host.model_fields_set,
        names_port="port" in host.model_fields_set,
    )


def vagrant_address(network: IPv4Network, index: int) -> IPv4Address:
    """The private address of VM number `index` (from 0); the Vagrantfile counts in the same way."""
    return network[FIRST_VAGRANT_HOST + index]


def vagrant_machines(lab: str, nodes: Sequence[str], settings: Kubeadm) -> tuple[Machine, ...]:
    """The VMs that the Vagrantfile makes for this lab, reached at their private addresses."""
    network = IPv4Network(settings.vagrant.network, strict=False)
    if FIRST_VAGRANT_HOST + len(nodes) >= network.num_addresses:
        raise UsageError(
            what=f"{len(nodes)} VMs do not fit into {network}",
            remedy="a larger kubeadm.vagrant.network in lab.yaml, such as 192.168.56.0/24",
            key="kubeadm.vagrant.network",
        )
    return tuple(
        Machine(
            node=node,
            role=MachineRole.CONTROL_PLANE if index == 0 else MachineRole.WORKER,
            address=str(vagrant_address(network, index)),
            user="vagrant",
            key=f".vagrant/machines/{node}/{settings.vagrant.provider}/private_key",
            node_address=str(vagrant_address(network, index)),
            interface=settings.vagrant.interface,
        )
        for index, node in enumerate(nodes)
    )


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
