"""What a person would type instead of each playbook: the sequence that this project's notes began with. Pure text.

Every block runs on a machine through `ssh … sudo sh -eu`, so that the whole plan is one script for this host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.model.lab import KubeProxy
from labctl.model.sections import CgroupDriver, PackageSource, Swap
from labctl.planning.shell import fed, quoted, substitute, through, word, written
from labctl.providers.cilium.compatibility import has_cilium, proxy_gates
from labctl.providers.kubeadm.inventory import FIRST_IN_VENDOR_REPOSITORY, sandbox_image, sources
from labctl.providers.kubeadm.kubernetes import RP_FILTER, SYSCTLS, kernel_modules, needs_rp_filter_override
from labctl.providers.kubeadm.machines import Machine
from labctl.providers.kubeadm.settings import ADMIN_CONF, KubeadmSettings

END = "ON_THE_MACHINE"


def on(machine: Machine, script: str) -> str:
    """The script, run as root on that machine."""
    sudo = "" if machine.user == "root" else "sudo "
    return fed(f"ssh {machine.place} {sudo}sh -eu", f"{script.rstrip()}\n", end=END)


def everywhere(machines: Sequence[Machine], script: str) -> str:
    """The same script on every machine, one after the other."""
    places = [machine.place + ("" if machine.user == "root" else " sudo") for machine in machines]
    # A path with a blank in it is quoted within the place, which only a second reading takes, as it does ~.
    ssh = 'eval ssh "$machine"' if any(re.search("['~]", place) for place in places) else "ssh $machine"
    listed = " ".join(f"'{place}'" if "'" not in place else word(place) for place in places)
    command = fed(f"{ssh} sh -eu", f"{script.rstrip()}\n", end=END)
    return f"for machine in {listed}; do\n  {command}\ndone"


def kubeadm_init(settings: KubeadmSettings) -> str:
    """The command of the notes, with what real machines need after it."""
    kubeadm, network = settings.kubeadm, settings.lab.network
    words = ["kubeadm", "init", f"--kubernetes-version=v{settings.kubernetes}"]
    if kubeadm.image_repository:
        words += ["--image-repository", kubeadm.image_repository]
    words += [
        f"--pod-network-cidr={network.pod_cidr}",
        f"--service-cidr={network.service_cidr}",
        *(("--skip-phases=addon/kube-proxy",) if settings.lab.datapath.kube_proxy_replacement else ()),
    ]
    if kubeadm.ignore_preflight_errors:
        words.append(f"--ignore-preflight-errors={','.join(kubeadm.ignore_preflight_errors)}")
    machine = settings.control_plane
    more = []
    if machine.cluster_address:
        more += [f"--apiserver-advertise-address={machine.cluster_address}", f"--node-name={machine.node}"]
    if kubeadm.api_port != 6443:
        more.append(f"--apiserver-bind-port={kubeadm.api_port}")
    return " \\\n  ".join([quoted(words), *map(word, more)])


def prepare(settings: KubeadmSettings) -> str:
    kubeadm, modules = settings.kubeadm, kernel_modules(settings.lab.datapath)
    lines = [
        "# kernel modules and forwarding, now and after a reboot",
        f"printf '%s\\n' {' '.join(map(word, modules))} > /etc/modules-load.d/labctl.conf",
        f'for module in {" ".join(map(word, modules))}; do modprobe "$module" || true; done',
        written(
            Path("/etc/sysctl.d/99-labctl.conf"), "".join(f"{name} = {value}\n" for name, value in SYSCTLS.items())
        ),
    ]
    if has_cilium(settings.lab) and needs_rp_filter_override(settings.cilium_version):
        lines.append(written(Path("/etc/sysctl.d/99-override_cilium_rp_filter.conf"), f"{RP_FILTER.rstrip()}\n"))
    lines.append("sysctl --system >/dev/null")
    if kubeadm.swap is Swap.OFF:
        lines += ["# swap", "swapoff -a"]
    lines += _packages(settings)
    if kubeadm.runtime.configure:
        lines += _runtime(settings)
    blocks = [everywhere(settings.machines, "\n".join(lines)), "# the kubelet: cgroup driver, swap, its own address"]
    for machine in settings.machines:
        arguments = f"KUBELET_EXTRA_ARGS={_kubelet_arguments(settings, machine)}\n"
        blocks.append(on(machine, f"{written(Path('/etc/default/kubelet'), arguments)}\nsystemctl enable kubelet"))
    return "\n".join(blocks)


def _kubelet_arguments(settings: KubeadmSettings, machine: Machine) -> str:
    words = [f"--cgroup-driver={_driver(settings)}"]
    if settings.kubeadm.swap is Swap.KEEP:
        words.append("--fail-swap-on=false")
    if machine.cluster_address:
        words.append(f"--node-ip={machine.cluster_address}")
    return " ".join(words)


def _driver(settings: KubeadmSettings) -> str:
    asked = settings.kubeadm.cgroup_driver
    return str(CgroupDriver.SYSTEMD if asked is CgroupDriver.AUTO else asked)


def _packages(settings: KubeadmSettings) -> list[str]:
    kubeadm, version = settings.kubeadm, settings.kubernetes
    if kubeadm.package_source is PackageSource.INSTALLED:
        return ["# kubeadm, kubelet, kubectl and containerd are there", "kubeadm version -o short"]
    where = sources(kubeadm, "Debian")
    source_line = f"deb [signed-by=/etc/apt/keyrings/labctl-kubernetes.asc] {where.kubernetes} /"
    lines = ["# containerd and Kubernetes (Debian and Ubuntu; with dnf on the RHEL family)"]
    if kubeadm.package_source in (PackageSource.AUTO, PackageSource.REPOSITORY):
        lines += [
            "mkdir -p /etc/apt/keyrings",
            quoted(("curl", "-fsSL", "-o", "/etc/apt/keyrings/labctl-kubernetes.asc", "--", where.kubernetes_key)),
            written(Path("/etc/apt/sources.list.d/labctl-kubernetes.list"), f"{source_line}\n"),
        ]
    if version.series < FIRST_IN_VENDOR_REPOSITORY and not kubeadm.packages.repository:
        lines = [f"# the vendor's repository begins with 1.24: provide the packages of {version}, or a mirror of them"]
    pinned = " ".join(word(f"{name}={version}-*") for name in ("kubeadm", "kubelet", "kubectl"))
    install = f"apt-get install -y containerd conntrack socat {pinned}"
    return [*lines, "apt-get update", install, "apt-mark hold kubeadm kubelet kubectl"]


def _runtime(settings: KubeadmSettings) -> list[str]:
    is_systemd = "true" if _driver(settings) == "systemd" else "false"
    edits = [f"-e {substitute('SystemdCgroup', is_systemd)}"]
    image = sandbox_image(settings.kubeadm)
    if image:
        edits.append("-e " + substitute("sandbox_image", f'"{image}"'))
    return [
        "# containerd",
        "mkdir -p /etc/containerd",
        f"containerd config default | sed {' '.join(edits)} > /etc/containerd/config.toml",
        "systemctl enable containerd && systemctl restart containerd",
    ]


def control_plane(settings: KubeadmSettings) -> str:
    untaint = (
        f"kubectl --kubeconfig {ADMIN_CONF} taint nodes --all node-role.kubernetes.io/master- "
        "node-role.kubernetes.io/control-plane- || true"
    )
    return on(settings.control_plane, "\n".join((kubeadm_init(settings), untaint, *_proxy_mode(settings))))


def _proxy_mode(settings: KubeadmSettings) -> Iterator[str]:
    """kubeadm's command line has no word for the mode: the configuration that it made is changed. iptables is what an
    empty mode means."""
    datapath = settings.lab.datapath
    if datapath.kube_proxy_replacement or datapath.kube_proxy is not KubeProxy.NFTABLES:
        return
    needed = proxy_gates(settings.lab, settings.kubernetes)
    gates = [f"      {name}: {str(value).lower()}" for name, value in needed.items()]
    with_gates = "\\n".join(("    featureGates:", *gates)) + "\\n" if gates else ""
    kubectl = f"kubectl --kubeconfig {ADMIN_CONF} --namespace kube-system"
    yield f"{kubectl} get configmap kube-proxy --output yaml |"
    yield f"  sed 's/^    mode: .*/{with_gates}    mode: nftables/' | {kubectl} apply --filename -"
    yield f"{kubectl} rollout restart daemonset/kube-proxy"


def join(settings: KubeadmSettings) -> str:
    leader = settings.control_plane
    sudo = "" if leader.user == "root" else "sudo "
    lines = [f"join=$(ssh {leader.place} {sudo}kubeadm token create --ttl 15m --print-join-command)"]
    ignored = ",".join(settings.kubeadm.ignore_preflight_errors)
    flags = [f"--ignore-preflight-errors={ignored}"] if ignored else []
    for machine in settings.machines[1:]:
        sudo = "" if machine.user == "root" else "sudo "
        # The token goes through standard input: a command line can be read by every user of the machine.
        more = word(" ".join(map(word, (f"--node-name={machine.node}", *flags))))
        lines.append(f"printf '%s %s\\n' \"$join\" {more} | ssh {machine.place} {sudo}sh -eu")
    return "\n".join(lines)


def apply(settings: KubeadmSettings, path: Path, then: Sequence[str]) -> str:
    """Sends a manifest to the control plane and applies it there; `then` is what kubectl does next."""
    leader = settings.control_plane
    sudo = () if leader.user == "root" else ("sudo",)

    def there(*arguments: str) -> str:
        return through(f"ssh {leader.place}", (*sudo, *settings.kubectl(*arguments)))

    return f"{there('apply', '--validate=false', '-f', '-')} < {word(path)}\n{there(*then)}"


def reset(settings: KubeadmSettings) -> str:
    return everywhere(settings.machines, "kubeadm reset --force\nrm -rf /etc/cni/net.d/05-cilium.conf* /var/run/cilium")
