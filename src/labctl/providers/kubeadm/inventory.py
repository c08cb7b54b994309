"""What is passed to Ansible: the inventory and the variables of one lab. Pure; holds no secret and no path to remember.

The inventory is generated for every run. Hosts carry the names of the lab's nodes, so that messages do as well.

`to_ansible` is the one door: to Ansible every text is a template unless it is marked, and a template runs programs on
this host. What lab.yaml, a scenario, a record or a machine said is marked `!unsafe`, all of it; `Template` is for the
constants of this module. It is YAML with tags and not JSON with `__ansible_unsafe`, which Ansible reads as plain YAML,
marks ignored, as soon as a key in the data makes no sense to its JSON decoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from labctl.model.lab import Lab
from labctl.model.section import MACHINE_ADDRESS_PATTERN
from labctl.model.sections import Kubeadm
from labctl.model.versions import Version
from labctl.providers.cilium.compatibility import has_cilium, proxy_gates
from labctl.providers.kubeadm.config import ClusterShape, Document, checks_apart, init_documents, join_document
from labctl.providers.kubeadm.kubernetes import (
    RP_FILTER,
    SYSCTLS,
    SkipProxy,
    cri_socket,
    kernel_modules,
    kernel_options,
    needs_rp_filter_override,
    parse_version,
    skip_proxy,
)
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.ssh_config import ansible_arguments
from labctl.values import dataclass

CONTROL_PLANE_GROUP = "control_plane"
WORKER_GROUP = "workers"
FIRST_IN_VENDOR_REPOSITORY = (1, 24)

FILES = (
    "/etc/containerd/config.toml",
    "/etc/crictl.yaml",
    "/etc/fstab",
    "/etc/hosts",
    "/etc/modules-load.d/labctl.conf",
    "/etc/sysctl.d/99-labctl.conf",
    "/etc/sysctl.d/99-override_cilium_rp_filter.conf",
    "/etc/sysctl.d/99-zzz-override_cilium.conf",
    "/etc/apt/keyrings/labctl-kubernetes.asc",
    "/etc/apt/sources.list.d/labctl-kubernetes.list",
    "/etc/yum.repos.d/labctl-kubernetes.repo",
    "/etc/yum.repos.d/labctl-containerd.repo",
    "/etc/systemd/system/kubelet.service",
)
"""Files that the playbooks and Cilium write; `down` puts back what was there, or nothing where nothing was."""

DIRECTORIES = (
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/etc/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/etcd",
    "/var/lib/cni",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/opt/labctl",
    "/var/run/cilium",
    "/var/lib/cilium",
    "/var/log/pods",
    "/var/log/containers",
    "/root/.kube/cache/discovery",
    "/root/.kube/cache/http",
    "/root/.kube/cache",
)
"""Directories of which `down` removes what was not in them, and with them those above that were not there. Deepest
first. kubectl keeps in the last three what it learned of the cluster; it runs as root, with root's home."""

PACKAGES = (
    "kubeadm", "kubelet", "kubectl", "cri-tools", "kubernetes-cni", "containerd", "containerd.io", "runc",
    "conntrack", "conntrack-tools", "iptables", "iptables-nft", "iproute2", "iproute-tc", "ethtool", "socat", "ipset",
)  # fmt: skip
SERVICES = ("containerd", "kubelet", "firewalld")
WATCHED_SYSCTLS = (
    "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter", "net.core.bpf_jit_enable",
    "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
    "vm.overcommit_memory", "vm.panic_on_oom",
    "kernel.timer_migration", "net.ipv4.fib_multipath_use_neigh",
)  # fmt: skip
"""What Cilium and the kubelet set by themselves (the kubelet as soon as it starts)."""
SUDO = "env LC_ALL=C sudo"
"""By env, since not every login shell knows `LC_ALL=C sudo`."""
_HOST = re.compile(MACHINE_ADDRESS_PATTERN)
"""A node's name, or the address of a machine that is not one yet."""
HOLLOW = (
    "/etc/ssl/certs", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
    "/usr/libexec/kubernetes/kubelet-plugins/volume/exec", "/run/netns",
)  # fmt: skip
"""Directories that the kubelet makes for the control plane's pods, and containerd for the network namespaces of pods;
those that were not there go if they are empty."""


def inventory(machines: Sequence[Machine], join: Mapping[str, Document] | None = None) -> Document:
    """The machines as an Ansible inventory. `join` gives each worker's JoinConfiguration.

    Raises ValueError for a name that Ansible would read as a pattern or a range.
    """
    for machine in machines:
        if not _HOST.fullmatch(machine.node):
            raise ValueError(f"{machine.node!r} cannot be a host's name")
    hosts = {machine.node: host_variables(machine) for machine in machines}
    for node, document in (join or {}).items():
        hosts[node]["join_document"] = document
    control = {m.node: hosts[m.node] for m in machines if m.is_control_plane}
    workers = {m.node: hosts[m.node] for m in machines if not m.is_control_plane}
    return {
        "all": {"children": {CONTROL_PLANE_GROUP: {"hosts": control}, WORKER_GROUP: {"hosts": workers}}},
    }


def host_variables(machine: Machine) -> Document:
    variables: Document = {
        "ansible_host": machine.address,
        "ansible_port": machine.port,
        "ansible_user": machine.user,
        "ansible_python_interpreter": "auto_silent",
        # sudo's words are recognised, by Ansible too, which waits for some of them: they come in English.
        "ansible_become_exe": SUDO,
    }
    arguments = ansible_arguments(machine)
    if arguments:
        # Not by ansible_ssh_private_key_file, of which Ansible neither doubles % nor escapes quotes for ssh.
        variables["ansible_ssh_common_args"] = arguments
    if machine.user == "root":
        variables["ansible_become"] = False
    elif machine.sudo_password_file:
        # Read by Ansible when it is needed: the password itself is in no file that labctl writes.
        variables["labctl_sudo_password_file"] = str(Path(machine.sudo_password_file).expanduser())
        variables["ansible_become_password"] = _SUDO_PASSWORD
    return variables


class Template(str):
    """A text that Ansible may take for a template: a constant of this module, with nothing put into it."""

    __slots__ = ()


_SUDO_PASSWORD = Template(
    "{{ lookup('ansible.builtin.file', labctl_sudo_password_file, rstrip=False).splitlines() | first | default('') }}"
)


_TEXT = "tag:yaml.org,2002:str"


class _Marking(yaml.SafeDumper):
    """Writes every text with the tag `!unsafe`, and templates as they are; both in quotes.

    Since ansible-core 2.19 the tag makes a number of "1.20" and nothing of "", quotes or not. What is a number, a date,
    a truth value or nothing to YAML has no brace in it, so that it is no template, and needs no tag.
    """

    def represent_text(self, text: str) -> yaml.ScalarNode:
        tag = self.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return self.represent_scalar("!unsafe" if tag == _TEXT else _TEXT, text, style='"')

    def represent_template(self, text: Template) -> yaml.ScalarNode:
        return self.represent_scalar(_TEXT, text, style='"')

    def represent_named(self, values: Mapping[Any, Any]) -> yaml.MappingNode:
        """Keys are names, of which Ansible makes no templates. Those that are no text become one, as in JSON."""
        pairs = [
            (
                self.represent_template(Template(key if isinstance(key, str) else json.dumps(key))),
                self.represent_data(value),
            )
            for key, value in values.items()
        ]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Marking.add_representer(str, _Marking.represent_text)
_Marking.add_representer(Template, _Marking.represent_template)
_Marking.add_representer(dict, _Marking.represent_named)


def to_ansible(values: Mapping[str, Any]) -> str:
    """Variables or an inventory as a file that Ansible reads: YAML in which no text is a template but `Template`s.

    Raises yaml.YAMLError for what is no plain data.
    """
    return yaml.dump(dict(values), Dumper=_Marking, sort_keys=False, allow_unicode=False, width=2**20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where packages come from when they are not there yet. URLs; empty where not used."""

    kubernetes: str
    kubernetes_key: str
    runtime: str = "https://download.docker.com/linux/centos/$releasever/$basearch/stable"
    runtime_key: str = "https://download.docker.com/linux/centos/gpg"


def sources(settings: Kubeadm, family: str) -> Sources:
    """The vendor's repository for that minor version, or the mirror that the settings name."""
    version = parse_version(settings.kubernetes)
    minor = f"v{version.major}.{version.minor}"
    kind = "deb" if family == "Debian" else "rpm"
    vendor = f"https://pkgs.k8s.io/core:/stable:/{minor}/{kind}/"
    key = f"{vendor}Release.key" if family == "Debian" else f"{vendor}repodata/repomd.xml.key"
    if settings.packages.repository:
        return Sources(
            kubernetes=settings.packages.repository.replace("{minor}", minor),
            kubernetes_key=settings.packages.repository_key.replace("{minor}", minor),
        )
    return Sources(kubernetes=vendor, kubernetes_key=key)


def sandbox_image(settings: Kubeadm) -> str:
    """The pause image that containerd is configured to use; empty leaves what it has."""
    if settings.runtime.sandbox_image:
        return settings.runtime.sandbox_image
    if settings.image_repository:
        return f"{settings.image_repository}/pause:{pause_tag(parse_version(settings.kubernetes))}"
    return ""


def pause_tag(version: Version) -> str:
    """The pause image of each Kubernetes, from kubeadm's constants (`PauseVersion`)."""
    for since, tag in (((1, 34), "3.10.1"), ((1, 31), "3.10"), ((1, 26), "3.9"), ((1, 25), "3.8"), ((1, 24), "3.7"),
                       ((1, 23), "3.6"), ((1, 22), "3.5"), ((1, 21), "3.4.1")):  # fmt: skip
        if version.series >= since:
            return tag
    return "3.2"


def shape_of(lab: Lab, machines: Sequence[Machine], kubernetes: Version) -> ClusterShape:
    return ClusterShape(
        name=lab.name,
        pod_cidr=str(lab.network.pod_cidr),
        service_cidr=str(lab.network.service_cidr),
        control_plane=machines[0].node,
        kube_proxy="" if lab.datapath.kube_proxy_replacement else str(lab.datapath.kube_proxy),
        proxy_gates=proxy_gates(lab, kubernetes),
    )


def join_documents(settings: Kubeadm, machines: Sequence[Machine]) -> dict[str, Document]:
    endpoint = f"{machines[0].cluster_address}:{settings.api_port}"
    return {
        m.node: join_document(settings, m.node, m.cluster_address, endpoint) for m in machines if not m.is_control_plane
    }


def variables(lab: Lab, settings: Kubeadm, machines: Sequence[Machine], cilium: Version, family: str) -> Document:
    """The variable `labctl` that every playbook reads."""
    version = parse_version(settings.kubernetes)
    where, shape = sources(settings, family), shape_of(lab, machines, version)
    return {
        "labctl": {
            "lab": lab.name,
            "scenario": lab.scenario,
            "digest": lab.digest,
            "kubernetes": str(version),
            "kubernetes_minor": f"{version.major}.{version.minor}",
            "image_repository": settings.image_repository or "",
            "sandbox_image": sandbox_image(settings),
            "package_source": str(settings.package_source),
            "bundle": settings.packages.bundle.rstrip("/"),
            "repository": where.kubernetes,
            "repository_key": where.kubernetes_key,
            "runtime_repository": where.runtime,
            "runtime_repository_key": where.runtime_key,
            "pull": settings.pulls_images,
            "archives": [{"path": path, "name": PurePath(path).name} for path in settings.images.archives],
            "socket": settings.runtime.socket,
            "cri_socket": cri_socket(version, settings.runtime.socket),
            "configure_runtime": settings.runtime.configure,
            "cgroup_driver": str(settings.cgroup_driver),
            "swap": str(settings.swap),
            "kernel_checks": settings.kernel_checks,
            "kernel_options": ";".join(option.line for option in kernel_options(lab.datapath)),
            "modules": list(kernel_modules(lab.datapath)),
            "sysctls": SYSCTLS,
            "rp_filter": RP_FILTER if has_cilium(lab) and needs_rp_filter_override(cilium) else "",
            "init_documents": list(init_documents(settings, shape, machines[0].cluster_address)),
            "init_flags": init_flags(settings, with_proxy=not lab.datapath.kube_proxy_replacement),
            "checks_apart": checks_apart(settings),
            "pod_cidr": str(lab.network.pod_cidr),
            "remove_packages": settings.remove_packages,
            "wait_s": 300,
            # The executor says where this host has one.
            "kubectl_here": "",
            "remember": remembered(lab),
        }
    }


def init_flags(settings: Kubeadm, *, with_proxy: bool = False) -> str:
    """What kubeadm init gets on its command line, since this version's configuration has no place for it."""
    if skip_proxy(parse_version(settings.kubernetes)) is not SkipProxy.FLAG:
        return ""
    phases = [*(() if with_proxy else ("addon/kube-proxy",)), *(("preflight",) if checks_apart(settings) else ())]
    return f"--skip-phases={','.join(phases)}" if phases else ""


def remembered(lab: Lab) -> dict[str, Any]:
    """What is written down of a machine before anything is changed."""
    return {
        "files": list(FILES),
        "directories": list(DIRECTORIES),
        "hollow": list(HOLLOW),
        "sysctls": [*SYSCTLS, *WATCHED_SYSCTLS],
        "services": list(SERVICES),
        "packages": list(PACKAGES),
        "modules": list(kernel_modules(lab.datapath)),
    }
