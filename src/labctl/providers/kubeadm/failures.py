"""What a failed task means: one sentence why, and what to try, for the failures that people really meet. Pure.

The patterns are those of OpenSSH, sudo, apt, dnf, kubeadm, containerd and of labctl's own playbooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.errors import StepFailed
from labctl.providers.kubeadm.machines import Machine

_LONGEST_MESSAGE = 300
_WARNINGS = re.compile(
    r"^sudo: unable to resolve host .*$|^Warning: Permanently added .*$|^To see the stack trace of this error .*$",
    re.MULTILINE,
)
"""Lines that stand beside a failure and have nothing to do with it."""
_OF_SSH = re.compile(r"\bssh:|via ssh|Shared connection|closed by remote host|^Connection to ", re.MULTILINE)
_TELLING = re.compile(r"\[ERROR|^E: |error|fail|denied|refused|invalid|not ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Known:
    """A failure that is recognised by `pattern`. In `cause` and `remedy`, `{name}` stands for a group of the pattern,
    `{host}`, `{place}` (what to type after ssh), `{address}`, `{user}` for the machine."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str
    is_ssh: bool = False
    """Only what SSH says counts: programs on the machine have connections of their own that are refused."""


def _known(pattern: str, cause: str, remedy: str, *, is_ssh: bool = False) -> Known:
    return Known(re.compile(pattern, re.IGNORECASE | re.DOTALL), cause, remedy, is_ssh)


KNOWN: tuple[Known, ...] = (
    _known(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed|host key .* does not match",
        "the machine at {address} shows another host key than the one known for it: it was installed anew, or it is "
        "another machine",
        "if you know why: ssh-keygen {forget} && ssh {place} true  # and compare the key it shows",
    ),
    _known(
        r"Host key verification failed|No .* host key is known for|not found in known_hosts",
        "the host key of {address} is not known yet, and labctl accepts none on its own",
        "ssh {place} true  # compare the key it shows, answer yes",
    ),
    _known(
        r"Permission denied \((publickey|password|keyboard)[^)]*\)|Authentication failed|No authentication methods",
        "{address} does not let {user} in with the keys at hand",
        "ssh-copy-id {place}, or set user: and key: of this machine under hosts: in lab.yaml",
    ),
    _known(
        r"Connection refused",
        "no SSH server answers at {address}",
        "on the machine: apt-get install openssh-server (or dnf), or set port: under hosts: in lab.yaml",
        is_ssh=True,
    ),
    _known(
        r"Could not resolve hostname|Name or service not known|Temporary failure in name resolution",
        "the name {address} leads nowhere",
        "use the machine's address under hosts: in lab.yaml",
        is_ssh=True,
    ),
    _known(
        r"Connection timed out|No route to host|Network is unreachable|Operation timed out|"
        r"Connection reset|Broken pipe|closed by remote host|Shared connection .* closed|Timeout before authentication",
        "{address} does not answer, or dropped the connection",
        "ping -c 1 {address}; ssh {place} true; then the same labctl command: it goes on where it stopped",
        is_ssh=True,
    ),
    _known(
        r"waiting for privilege escalation prompt",
        "sudo does not answer in time on {address}; mostly it waits for a name server to tell the machine's own name",
        "ssh -t {place} 'echo \"127.0.1.1 $(hostname)\" | sudo tee -a /etc/hosts'",
    ),
    _known(
        r"(Incorrect|Sorry, try again|incorrect password attempt).*sudo|sudo.*(incorrect|Sorry)",
        "sudo does not take the password of {user}",
        "check the file that sudoPasswordFile: names: ssh {place} -t sudo -k true",
    ),
    _known(
        r"Missing sudo password|sudo: a password is required|sudo: a terminal is required",
        "sudo asks {user} for a password and none is given",
        "sudoPasswordFile: FILE under hosts: in lab.yaml (mode 0600), or on the machine: "
        "echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}",
    ),
    _known(
        r"is not in the sudoers file|may not run sudo|sudo: (command )?not found|sudo: No such file",
        "{user} may not become root",
        "on the machine, as root: usermod -aG sudo {user} (RHEL: wheel)",
    ),
    _known(
        r"no python3 on this machine|python3: (command )?not found|/usr/bin/python3?: No such file",
        "Ansible needs Python 3 on the machine",
        "ssh {place} 'sudo apt-get install -y python3'  # RHEL: dnf install -y python3",
    ),
    _known(
        r"Could not get lock|dpkg frontend lock|dpkg/lock|lock-frontend|Failed to lock apt|waiting for cache lock",
        "another package manager is at work (often the automatic upgrade after a boot)",
        "wait until this prints nothing: ssh {place} sudo fuser /var/lib/dpkg/lock-frontend; then the same command",
    ),
    _known(
        r"Packages were downgraded",
        "a newer version of a package of the bundle is installed, and labctl could not put it back afterwards",
        "ssh {place} 'dpkg -l | grep -i kube', take it away, or bring the bundle of that version",
    ),
    _known(
        r"dpkg was interrupted",
        "an earlier installation was cut off",
        "ssh {place} sudo dpkg --configure -a",
    ),
    _known(
        r"\[ERROR Port-(?P<port>\d+)\]|port (?P<port2>\d+) is in use",
        "port {port}{port2} is taken on the machine, perhaps by another cluster",
        "ssh {place} 'sudo ss -ltnp \"sport = :{port}{port2}\"'",
    ),
    _known(
        r"running with swap on is not supported|\[ERROR Swap\]|labctl: swap is on(?P<swap>[^\n]*)",
        "swap is on{swap}, and it was asked to refuse that",
        "kubeadm.swap: keep (the kubelet lives with it) or off (until labctl down) in lab.yaml",
    ),
    _known(
        r"misconfiguration: kubelet cgroup driver|cgroup driver.{0,40}is different|cgroupDriver.{0,60}mismatch|"
        r"failed to create kubelet: .*cgroup driver",
        "the kubelet and containerd use different cgroup drivers",
        "kubeadm.cgroupDriver: systemd (or cgroupfs), and kubeadm.runtime.configure: true",
    ),
    _known(
        r"failed to pull image|ErrImagePull|ImagePullBackOff",
        "an image cannot be had from its registry",
        "kubeadm.offline: true if the images are on the machines; else kubeadm.imageRepository: a mirror "
        "that they reach, or kubeadm.images.archives",
    ),
    _known(
        r"the kubelet says: [^\n]*?(?P<said>(OCI runtime create failed|failed to create shim)[^\n]*)",
        "no container can be started on the machine, not even the sandbox of a pod: {said}",
        "ssh {place} 'sudo journalctl -u containerd -n 20; runc --version'; where the machine is a container "
        "itself, it has to be one that may nest others",
    ),
    _known(
        r"the kubelet says: (?P<said>[^\n]+)",
        "the control plane or the node did not come up; the kubelet says: {said}",
        "ssh {place} 'sudo journalctl -u kubelet -n 30; sudo crictl ps -a'",
    ),
    _known(
        r"The kubelet is not running|kubelet isn.t running|phase wait-control-plane|"
        r"couldn't initialize a Kubernetes cluster",
        "the kubelet does not start the control plane (often: cgroup driver, swap, or an image that cannot be pulled)",
        "ssh {place} 'sudo journalctl -u kubelet -n 30; sudo crictl ps -a'",
    ),
    _known(
        r"x509: certificate has expired or is not yet valid|labctl: the clock|clock .*(skew|ahead|behind)",
        "the clocks of the machines are too far apart",
        "ssh {place} 'sudo timedatectl set-ntp true; timedatectl'",
    ),
    _known(
        r"timed out waiting for the condition|exceeded its progress deadline|context deadline exceeded",
        "it was not ready in the time given",
        "ssh {place} 'sudo kubectl --kubeconfig /etc/kubernetes/admin.conf get pods -A -o wide'; then the same command",
    ),
    _known(
        r"No space left on device|not enough free (disk )?space|You don't have enough free space|disk quota exceeded",
        "the disk of the machine is full",
        "ssh {place} df -h / /var /var/lib/containerd",
    ),
    _known(
        r"Read-only file system",
        "a file system of the machine cannot be written",
        "ssh {place} 'grep \" ro[ ,]\" /proc/mounts'",
    ),
    _known(
        r"\[ERROR NumCPU\]",
        "the control plane wants two CPUs",
        "a larger machine, or kubeadm.ignorePreflightErrors: [Swap, NumCPU]",
    ),
    _known(
        r"\[ERROR Mem\]",
        "the control plane wants 1700 MB of memory",
        "a larger machine, or kubeadm.ignorePreflightErrors: [Swap, Mem]",
    ),
    _known(
        r"unknown service runtime\.v1",
        "containerd is older than this Kubernetes needs (1.26 and later: containerd 1.6)",
        "ssh {place} containerd --version",
    ),
    _known(
        r"\[ERROR CRI\]|container runtime is not running",
        "containerd does not answer the kubelet: it is not running, its CRI is disabled",
        "ssh {place} 'systemctl status containerd; sudo crictl info'",
    ),
    _known(
        r"nothing may be pulled.*has not got (?P<images>[^\n\"]+) \(the sandbox image",
        "nothing may be pulled, and containerd has not got its sandbox image {images}",
        "put a pause image into an archive under kubeadm.images.archives, and kubeadm.runtime: {sandboxImage: IMAGE}",
    ),
    _known(
        r"containerd looks for CNI plugins in (?P<there>\S+).* goes to (?P<here>\S+)",
        "containerd looks for CNI plugins in {there}, Cilium puts its own into {here}, and containerd's "
        "configuration is to be left alone",
        "cilium.values: {cni: {binPath: {there}}}, or kubeadm.runtime: {configure: true}",
    ),
    _known(
        r"nothing may be pulled.*has not got (?P<images>[^\n\"]+)",
        "nothing may be pulled, and containerd has not got {images}",
        "put them in an archive and name it under kubeadm.images.archives, or kubeadm.images.pull: true",
    ),
    _known(
        r"labctl: nothing may be downloaded.*this machine has (?P<has>[^\n\"]+)",
        "nothing may be downloaded, and programs are missing or of another version; it has {has}",
        "install them by hand, or kubeadm.packages: {source: bundle, bundle: DIRECTORY}",
    ),
    _known(
        r"\[ERROR FileContent--proc-sys-net-bridge-bridge-nf-call-iptables\]",
        "the module br_netfilter is not loaded, and kubeadm asks for it (Cilium does not)",
        "ssh {place} sudo modprobe br_netfilter, or kubeadm.ignorePreflightErrors: "
        "[Swap, FileContent--proc-sys-net-bridge-bridge-nf-call-iptables]",
    ),
    _known(
        r"No package matching|Unable to locate package|Version .* was not found|No match for argument|"
        r"no available installation candidate|Unable to find a match",
        "the machine's package sources have not got this version",
        "ssh {place} apt-cache madison kubeadm; or packages.source: installed | bundle in lab.yaml",
    ),
    _known(
        r"Failed to (fetch|update apt cache)|Cannot download repomd|Could not connect to|Request failed: <urlopen|"
        r"Failed to download metadata",
        "the machine cannot reach its package sources",
        "kubeadm.offline: true if everything is on it; else a mirror in kubeadm.packages.repository",
    ),
    _known(
        r"labctl: the kernel lacks: (?P<options>[^\n\"]+)",
        "the kernel lacks {options}",
        "another kernel on that machine, or kubeadm.kernelChecks: false to go on at your own risk",
    ),
    _known(
        r"labctl: this machine is part of a cluster",
        "the machine is a node of a cluster that labctl did not make, and labctl leaves it alone",
        "another machine; or, if that cluster may go: ssh {place} sudo kubeadm reset",
    ),
    _known(
        r"labctl: this machine is part of lab (?P<lab>[a-z0-9-]+)",
        "the machine belongs to lab {lab}",
        "labctl down {lab}",
    ),
    _known(
        r"\[ERROR (?P<check>[A-Za-z0-9-]+)\]",
        "kubeadm's own check {check} failed",
        "mend what it says, or kubeadm.ignorePreflightErrors: [Swap, {check}] at your own risk",
    ),
    _known(
        r"labctl: cannot set (?P<name>\S+) to",
        "the machine does not let {name} be set (is it a container?)",
        "ssh {place} sudo sysctl -w {name}=…  # or set it where the container's host does",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """A task that failed on one machine. `unreachable` says that SSH itself did."""

    node: str
    task: str
    message: str
    unreachable: bool = False


def failure_of(node: str, task: str, result: Mapping[str, Any], *, unreachable: bool = False) -> TaskFailure:
    """What a task's result says went wrong: its own words, the program's, in that order of worth."""
    message = str(result.get("msg") or "")
    said = [str(result.get(key) or "") for key in ("stderr", "module_stderr", "stdout", "module_stdout")]
    failed_items = [r for r in result.get("results") or () if isinstance(r, Mapping) and r.get("failed")]
    if failed_items:
        said += [str(failed_items[0].get(key) or "") for key in ("msg", "stderr")]
    if message in ("non-zero return code", "MODULE FAILURE") or not message or failed_items:
        message = next((text for text in said if text.strip()), message)
    elif said[0] and said[0] not in message:
        message = f"{message}\n{said[0]}"
    return TaskFailure(node=node, task=task, message=message.strip(), unreachable=unreachable)


def recognise(failure: TaskFailure) -> tuple[Known, dict[str, str]] | None:
    """The first known failure in the message, with its groups."""
    message = _WARNINGS.sub("", failure.message)
    is_ssh = failure.unreachable or _OF_SSH.search(message)
    for known in KNOWN:
        found = known.pattern.search(message) if is_ssh or not known.is_ssh else None
        if found:
            return known, {name: text or "" for name, text in found.groupdict().items()}
    return None


def step_failed(failures: Sequence[TaskFailure], machines: Sequence[Machine], log: str = "") -> StepFailed:
    """One error for all that failed in a play: the first in full, the others by name."""
    first = failures[0]
    by_node = {machine.node: machine for machine in machines}
    machine = by_node.get(first.node)
    also = sorted({f.node for f in failures[1:]} - {first.node})
    where = f"{first.node} ({machine.address})" if machine else first.node
    what = f"{where}: cannot be reached" if first.unreachable else f"{where}: {_uncapitalised(first.task)}: failed"
    if also:
        what += f" (as on {', '.join(also)})" if _same(failures) else f"; something failed on {', '.join(also)} too"
    recognised = recognise(first)
    said = shortened(first.message)
    if recognised is None or machine is None:
        return StepFailed(what=what, cause=said or "it said nothing", remedy=f"read the log: less {log}" if log else "")
    known, groups = recognised
    words = {
        "host": machine.node, "place": machine.place, "address": machine.address, "user": machine.user,
        "forget": machine.forget, **groups,
    }  # fmt: skip
    cause = _filled(known.cause, words)
    if said and said not in cause and not said.startswith("labctl:") and "said" not in groups:
        cause += f". It said: {said}"
    remedy = _filled(known.remedy, words)
    return StepFailed(what=what, cause=cause, remedy=f"{remedy}   (log: {log})" if log else remedy)


def _filled(template: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: words.get(m[1], ""), template).strip()


def _same(failures: Sequence[TaskFailure]) -> bool:
    return len({(f.task, f.unreachable) for f in failures}) == 1


def _uncapitalised(task: str) -> str:
    return task[:1].lower() + task[1:] if task[1:2].islower() else task


def shortened(message: str) -> str:
    """The lines that say what was wrong: errors first, then the last ones; one line, not too long."""
    lines = [line.strip() for line in _WARNINGS.sub("", message).splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    text = "; ".join((telling or lines)[:3])
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE].rstrip() + "…"
