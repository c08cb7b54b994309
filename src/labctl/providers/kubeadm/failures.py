"""What a failed task means: one sentence why, and what to try, for failures seen in practice. Pure.

The patterns are those of OpenSSH, sudo, apt, dnf, kubeadm, containerd and of labctl's own playbooks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from labctl.errors import StepFailed
from labctl.providers.cilium.commands import errors_in, joined
from labctl.providers.kubeadm.machines import Machine
from labctl.values import dataclass

_LONGEST_MESSAGE = 300
_WARNINGS = re.compile(
    r"^sudo: unable to resolve host .*$|^Warning: Permanently added .*$|^To see the stack trace of this error .*$|"
    r"^\s*\[WARNING .*$|^For security reasons, the password you type will not be visible.*$",
    re.MULTILINE,
)
"""Lines that appear with a failure and have nothing to do with it."""
_OF_SSH = re.compile(
    r"\bssh:|via ssh|Shared connection|closed by remote host|^Connection (?:to|closed by|reset by) ", re.MULTILINE
)
_TELLING = re.compile(r"\[ERROR|^E: |error|fail|denied|refused|invalid|not ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """A failure that is recognised by `pattern`. In `cause` and `remedy`, `{name}` stands for a group of the pattern,
    `{host}`, `{place}` (what to type after ssh), `{address}`, `{user}` for the machine."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str
    is_ssh: bool = False
    """Only what SSH says counts: programs on the machine have connections of their own that are refused."""


def _known(pattern: str, cause: str, *remedies: str, is_ssh: bool = False) -> KnownFailure:
    return KnownFailure(re.compile(pattern, re.IGNORECASE | re.DOTALL), cause, "\n".join(remedies), is_ssh)


KNOWN: tuple[KnownFailure, ...] = (
    _known(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED(?: \((?P<known_as>\S+)\))?|"
        r"host key for .* has changed|host key .* does not match",
        "the machine at {address} presents a host key other than the known one: it was reinstalled, or it is "
        "another machine",
        "ssh-keygen {forget}  # if you know why it changed",
        "ssh {place} true  # and compare the key that it presents",
    ),
    _known(
        r"Host key verification failed|No .* host key is known for|not found in known_hosts",
        "the host key of {address} is not known yet, and labctl never accepts a key by itself",
        "ssh {place} true  # compare the key that it presents, answer yes",
    ),
    _known(
        r"you must have a tty to run sudo",
        "sudo on {address} requires a terminal (requiretty), which labctl does not have",
        "ssh -t {place} 'echo \"Defaults:{user} !requiretty\" | sudo tee /etc/sudoers.d/{user}-tty'",
    ),
    _known(
        r"is not in the sudoers file|may not run sudo|is not allowed to run sudo|I'm afraid I can't do that",
        "{user} may not become root",
        "ssh -t {place} \"su -c '/usr/sbin/usermod -aG sudo {user}'\"  # RHEL: wheel; it asks for root's password",
    ),
    _known(
        r"user \S+ (is not allowed to execute|may not run )",
        "sudo allows {user} only some programs as root, and labctl needs all of them",
        'ssh -t {place} "su -c \'echo \\"{user} ALL=(ALL) ALL\\" > /etc/sudoers.d/{user}\'"  # root\'s password',
    ),
    _known(
        r"env: \W*sudo\W*: |sudo: (command )?not found|sudo: No such file|Unknown command:? \W*sudo",
        "there is no sudo on {address}, and {user} is not root",
        "ssh -t {place} \"su -c 'apt-get install -y sudo'\"  # RHEL: dnf; it asks for root's password",
        "# or in lab.yaml, under hosts: user: root",
    ),
    _known(
        r"no new privileges|no_new_privs|must be owned by uid 0 and have the setuid bit|effective uid is not 0|"
        r"sudo: .{0,60}nosuid",
        "sudo cannot become root on {address}: it is not set-uid there, or a container forbids it",
        "ssh {place} 'ls -l $(command -v sudo); findmnt -T $(command -v sudo)'",
        "# or in lab.yaml, under hosts: user: root",
    ),
    _known(
        r"no valid sudoers sources found|sudoers\S*:\d+(:\d+)?: syntax error|syntax error near line \d+|"
        r"sudoers is (world|group) writable|sudo: invalid configuration",
        "sudo on {address} refuses its own configuration",
        "ssh -t {place} \"su -c 'visudo -c'\"  # says where; it asks for root's password",
    ),
    _known(
        r"sudo: .{0,60}(account validation failure|Account or password is expired|account has expired|"
        r"PAM account management error)",
        "the account {user} is locked or has expired, and sudo refuses it",
        "ssh -t {place} \"su -c 'chage -l {user}'\"  # asks for root's password",
    ),
    _known(
        r"waiting for privilege escalation prompt|sudo: timed out reading password",
        "sudo does not answer in time on {address}; usually it waits for a name server to resolve the machine's "
        "own name",
        "ssh -t {place} 'echo \"127.0.1.1 $(hostname)\" | sudo tee -a /etc/hosts'",
    ),
    _known(
        r"Incorrect sudo password|incorrect (password|authentication) attempt|Sorry, try again|"
        r"sudo: [^\n]{0,40}(Authentication failed, try again|incorrect password)",
        "sudo rejects the password of {user}",
        "ssh -t {place} sudo -k true  # then write the right one to the file that sudoPasswordFile: names",
    ),
    _known(
        r"Missing sudo password|(a password|interactive authentication) is required|sudo: a terminal is required|"
        r"no tty present and no askpass program|sudo: no password was provided",
        "sudo asks {user} for a password, and none is configured",
        "# in lab.yaml, under hosts: sudoPasswordFile: FILE (mode 0600)",
        "ssh -t {place} \"echo '{user} ALL=(ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/{user}\"  # or this",
    ),
    _known(
        r"Too many authentication failures",
        "{address} was offered too many keys and disconnected before the right one",
        "# in lab.yaml, under hosts: key: FILE; or IdentitiesOnly yes for this Host in ~/.ssh/config",
    ),
    _known(
        r"Permission denied \((publickey|password|keyboard|gssapi)[^)]*\)|Authentication failed|"
        r"No authentication methods",
        "{address} accepts none of the available keys for {user}",
        "ssh-copy-id {place}",
        "ssh-add  # if the key has a passphrase: labctl asks for none",
        "# or in lab.yaml, under hosts: user: and key: of this machine",
    ),
    _known(
        r"Connection refused",
        "no SSH server answers at {address}",
        "apt-get install openssh-server  # on the machine (or dnf)",
        "# or in lab.yaml, under hosts: port: of this machine",
        is_ssh=True,
    ),
    _known(
        r"Could not resolve hostname|Name or service not known|Temporary failure in name resolution|"
        r"No address associated with hostname",
        "the name {address} does not resolve, and ~/.ssh/config has no HostName for it",
        "getent hosts {address}",
        "# in lab.yaml, under hosts: the machine's address; or a Host entry in ~/.ssh/config",
        is_ssh=True,
    ),
    _known(
        r"Bad owner or permissions on \S+",
        "ssh does not read a configuration that other users can write",
        "chmod 600 ~/.ssh/config",
        is_ssh=True,
    ),
    _known(
        r"too long for Unix domain socket",
        "the path of ssh's control socket is too long",
        "export TMPDIR=/tmp  # then the same command",
        is_ssh=True,
    ),
    _known(
        r"no matching (host key type|key exchange method|cipher|MAC)[^\n]*|Unable to negotiate|"
        r"Incompatible ssh (peer|server)",
        "this host and {address} have no SSH algorithm in common: one of them is much older",
        "ssh {place} true  # shows what each of them offers",
        "# or in ~/.ssh/config, for this Host: HostKeyAlgorithms +ssh-rsa and PubkeyAcceptedAlgorithms +ssh-rsa",
    ),
    _known(
        r"Connection timed out|No route to host|Network is unreachable|Operation timed out|"
        r"Connection reset|Broken pipe|closed by (?:remote host|\S+ port)|Shared connection .* closed|"
        r"Timeout before authentication",
        "{address} does not answer, or dropped the connection",
        "ping -c 1 {address}",
        "ssh {place} true  # then the same labctl command: it continues where it stopped",
        is_ssh=True,
    ),
    _known(
        r"no python3 on this machine|python3: (command )?not found|/usr/bin/python3?: No such file",
        "Ansible needs Python 3 on the machine",
        "ssh {place} 'sudo apt-get install -y python3'  # RHEL: dnf install -y python3",
    ),
    _known(
        r"SyntaxError: future feature annotations|ansible-core requires a minimum of Python|"
        r"No module named '?ansible\.module_utils\.six",
        "the machine's Python is too old for this host's Ansible",
        "ssh {place} python3 --version",
        ".venv/bin/pip install 'ansible-core<2.17'  # here: works with Python 3.6 on machines",
    ),
    _known(
        r"Could not get lock|dpkg frontend lock|dpkg/lock|lock-frontend|Failed to lock apt|waiting for cache lock|"
        r"Waiting for process with pid \d+ to finish|another (app|copy) is (currently )?(holding|running)",
        "another package manager is running (often the automatic upgrade after a boot)",
        "ssh {place} sudo fuser /var/lib/dpkg/lock-frontend  # when it prints nothing, the same command again",
    ),
    _known(
        r"Packages were downgraded",
        "a newer version of a package of the bundle is installed, and labctl could not restore it afterwards",
        "ssh {place} 'dpkg -l | grep -i kube'  # remove it, or use a bundle of that version",
    ),
    _known(
        r"dpkg was interrupted",
        "an earlier installation was interrupted",
        "ssh {place} sudo dpkg --configure -a",
    ),
    _known(
        r"unmet dependencies|have been kept back.{0,80}broken|you have held broken packages|pkgProblemResolver",
        "packages on the machine conflict with each other",
        "ssh {place} sudo apt-get -f install",
        "ssh {place} 'apt-mark showhold; apt-cache policy kubeadm kubelet containerd containerd.io'",
    ),
    _known(
        r"NO_PUBKEY|EXPKEYSIG|is not signed|GPG check FAILED|signatures (couldn't be verified|were invalid)",
        "the machine lacks, or no longer accepts, the key that a package source is signed with",
        "ssh {place} sudo apt-get update  # names the source",
        "# a mirror's own: kubeadm.packages.repositoryKey",
    ),
    _known(
        r"Release file .{0,120}is not valid yet|Release file .{0,120}(is )?expired",
        "by the machine's clock its package sources are not valid yet, or have expired",
        "ssh {place} sudo timedatectl set-ntp true",
        "ssh {place} date",
    ),
    _known(
        r"\[ERROR Port-(?P<port>\d+)\]|port (?P<port2>\d+) is in use",
        "port {port}{port2} is taken on the machine, perhaps by another cluster",
        "ssh {place} 'sudo ss -ltnp \"sport = :{port}{port2}\"'",
    ),
    _known(
        r"\[ERROR Swap\]|labctl: swap is on(?P<swap>[^\n]*)|running with swap on is not supported",
        "swap is on{swap}, and kubeadm.swap is refuse",
        "# in lab.yaml, kubeadm.swap: keep (the kubelet tolerates it) or off (until labctl down)",
    ),
    _known(
        r"misconfiguration: kubelet cgroup driver|cgroup driver.{0,40}is different|cgroupDriver.{0,60}mismatch|"
        r"failed to create kubelet: .*cgroup driver",
        "the kubelet and containerd use different cgroup drivers",
        "# in lab.yaml, kubeadm.cgroupDriver: systemd (or cgroupfs), and kubeadm.runtime.configure: true",
    ),
    _known(
        r"configured to not run on a host using cgroup v1|\[ERROR SystemVerification\]: cgroups v1",
        "the kubelet refuses cgroup v1 from Kubernetes 1.35 on",
        "ssh {place} cat /proc/cmdline  # booted with systemd.unified_cgroup_hierarchy=1 it has cgroup v2",
        '# or in lab.yaml: kubeadm: {kubelet: {failCgroupV1: false}}, or kubeadm.kubernetes: "1.34.2"',
    ),
    _known(
        r"too many open files|failed to create fsnotify watcher|failed to create inotify|inotify_(init|add_watch)|"
        r"inotify (watches|instances)",
        "the machine has reached its limit of inotify watches or open files",
        "ssh {place} sudo sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288",
        "ssh {place} 'cat /proc/sys/fs/file-nr; ulimit -n'",
    ),
    _known(
        r"toomanyrequests|pull rate limit|429 Too Many Requests",
        "the registry's rate limit for anonymous pulls is reached",
        "# in lab.yaml, kubeadm.imageRepository: a mirror; or kubeadm.images.archives",
    ),
    _known(
        r"x509: certificate signed by unknown authority.{0,300}(ErrImagePull|pull|manifests)|"
        r"(pull|resolve reference|manifests).{0,400}x509: certificate signed by unknown authority|"
        r"http: server gave HTTP response to HTTPS client",
        "the machine does not trust the registry's certificate, or that of a proxy in front of it",
        "ssh {place} sudo tee /usr/local/share/ca-certificates/lab.crt < CA.crt",
        "ssh {place} sudo update-ca-certificates",
        "ssh {place} sudo systemctl restart containerd",
    ),
    _known(
        r"proxyconnect|407 Proxy Authentication Required",
        "the machine's proxy refuses the connection",
        "ssh {place} 'env | grep -i _proxy; systemctl show containerd --property Environment'",
    ),
    _known(
        r"failed to pull image|ErrImagePull|ImagePullBackOff",
        "cannot pull an image",
        "# in lab.yaml, kubeadm.offline: true if the images are on the machines; else",
        "# kubeadm.imageRepository: a mirror that they reach, or kubeadm.images.archives",
    ),
    _known(
        r"labctl: pods have ended: (?P<pods>[^\n\"]*(?:Evicted|low on resource|DiskPressure|MemoryPressure|PIDPressure)"
        r"[^\n\"]*)",
        "the kubelet evicted pods, or did not admit them, because the machine lacks room: {pods}",
        "ssh {place} 'df -h / /var; df -i / /var; free -h'  # make room there",
        "# then the same labctl command: it replaces them",
    ),
    _known(
        r"labctl: pods have ended: (?P<pods>[^\n\"]+)",
        "pods have ended, and nothing starts them again: {pods}",
        "ssh {place} 'sudo journalctl -u kubelet -n 30'  # then the same labctl command: it replaces them",
    ),
    _known(
        r"apparmor_parser|unable to apply apparmor profile",
        "containerd uses AppArmor, and the machine's apparmor_parser is missing or fails",
        "ssh {place} sudo apt-get install -y apparmor",
        "ssh {place} sudo systemctl restart apparmor containerd",
    ),
    _known(
        r"the kubelet says: [^\n]*?(?P<said>(OCI runtime create failed|failed to create shim)[^\n]*)",
        "no container can be started on the machine, not even the sandbox of a pod: {said}",
        "ssh {place} 'sudo journalctl -u containerd -n 20; runc --version'  # a machine that is itself a container "
        "must be allowed to run nested containers",
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
        r"(uploading crisocket|kubelet-start|phase (preflight|discovery)|join).{0,400}Unauthorized|"
        r"token id \S+ is invalid|could not find a JWS signature|no JWS signed token",
        "the control plane rejects the token that this machine joins with: it has expired, or belongs to "
        "another cluster",
        "ssh {place} date  # on every machine: tokens expire early where clocks differ",
        "# then the same labctl command: each attempt makes a new token",
    ),
    _known(
        r"\[ERROR (File|Dir)Available--[A-Za-z0-9._-]+\]",
        "there are files of an earlier cluster that labctl did not make",
        "ssh {place} sudo kubeadm reset  # if that cluster may be deleted",
    ),
    _known(
        r"\[ERROR FileContent--proc-sys-net-ipv4-ip_forward\]",
        "the machine does not forward packets",
        "ssh {place} sudo sysctl -w net.ipv4.ip_forward=1",
    ),
    _known(
        r"\[ERROR FileExisting-(?P<program>[a-z0-9]+)\]",
        "kubeadm does not find {program} on the machine",
        "ssh {place} command -v {program}  # install it; or kubeadm.ignorePreflightErrors: "
        "[Swap, FileExisting-{program}]",
    ),
    _known(
        r"timed out waiting for the condition|exceeded its progress deadline|context deadline exceeded",
        "it was not ready within the time limit",
        "ssh {place} 'sudo kubectl --kubeconfig /etc/kubernetes/admin.conf get pods -A -o wide'  # then try again",
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
        "the control plane needs two CPUs",
        "# a larger machine, or in lab.yaml, kubeadm.ignorePreflightErrors: [Swap, NumCPU]",
    ),
    _known(
        r"\[ERROR Mem\]",
        "the control plane needs 1700 MB of memory",
        "# a larger machine, or in lab.yaml, kubeadm.ignorePreflightErrors: [Swap, Mem]",
    ),
    _known(
        r"unknown service runtime\.v1",
        "containerd is older than this Kubernetes needs (1.26 and later: containerd 1.6)",
        "ssh {place} containerd --version",
    ),
    _known(
        r"\[ERROR CRI\]|container runtime is not running",
        "containerd does not answer the kubelet: it is not running, or its CRI plugin is disabled",
        "ssh {place} 'systemctl status containerd; sudo crictl info'",
    ),
    _known(
        r"pulling is disabled.*does not have (?P<images>[^\n\"]+) \(the sandbox image",
        "pulling is disabled, and containerd does not have its sandbox image {images}",
        "# in lab.yaml: an archive with a pause image under kubeadm.images.archives, and",
        "# kubeadm.runtime: {sandboxImage: IMAGE}",
    ),
    _known(
        r"containerd looks for CNI plugins in (?P<there>\S+).* goes to (?P<here>\S+)",
        "containerd looks for CNI plugins in {there}, those of the pod network are in {here}, and "
        "kubeadm.runtime.configure: false leaves containerd's configuration as it is",
        "# in lab.yaml, cilium.values: {cni: {binPath: {there}}}, or kubeadm.runtime: {configure: true}",
    ),
    _known(
        r"pulling is disabled.*does not have (?P<images>[^\n\"]+)",
        "pulling is disabled, and containerd does not have {images}",
        "# in lab.yaml: an archive with them under kubeadm.images.archives, or kubeadm.images.pull: true",
    ),
    _known(
        r"labctl: downloading is disabled.*this machine has (?P<has>[^\n\"]+)",
        "downloading is disabled, and programs are missing or of another version; the machine has {has}",
        "# install them by hand, or in lab.yaml, kubeadm.packages: {source: bundle, bundle: DIRECTORY}",
    ),
    _known(
        r"\[ERROR FileContent--proc-sys-net-bridge-bridge-nf-call-iptables\]",
        "the module br_netfilter is not loaded, and kubeadm requires it (Cilium does not)",
        "ssh {place} sudo modprobe br_netfilter",
        "# or in lab.yaml, kubeadm.ignorePreflightErrors: "
        "[Swap, FileContent--proc-sys-net-bridge-bridge-nf-call-iptables]",
    ),
    _known(
        r"No package matching|Unable to locate package|Version .* was not found|No match for argument|"
        r"no available installation candidate|Unable to find a match",
        "the machine's package sources do not have this version",
        "ssh {place} apt-cache madison kubeadm",
        "# or in lab.yaml, packages.source: installed | bundle",
    ),
    _known(
        r"Failed to (fetch|update apt cache)|Cannot download repomd|Could not connect to|Request failed: <urlopen|"
        r"Failed to download metadata",
        "the machine cannot reach its package sources",
        "# in lab.yaml, kubeadm.offline: true if everything is on it; else a mirror in kubeadm.packages.repository",
    ),
    _known(
        r"labctl: the kernel lacks: (?P<options>[^\n\"]+)",
        "the kernel lacks {options}",
        "# another kernel on that machine, or in lab.yaml, kubeadm.kernelChecks: false to continue at your own risk",
    ),
    _known(
        r"labctl: this machine is part of a cluster",
        "the machine is a node of a cluster that labctl did not make, and labctl leaves it alone",
        "ssh {place} sudo kubeadm reset  # if that cluster may be deleted; else another machine",
    ),
    _known(
        r"labctl: this machine is part of lab (?P<lab>[a-z0-9-]+)",
        "the machine belongs to lab {lab}",
        "labctl down {lab}",
    ),
    _known(
        r"\[ERROR (?P<check>[A-Za-z0-9._-]+)\]",
        "kubeadm's own check {check} failed",
        "# fix what it reports, or in lab.yaml, kubeadm.ignorePreflightErrors: [Swap, {check}] at your own risk",
    ),
    _known(
        r"labctl: cannot set (?P<name>\S+) to",
        "{name} cannot be set on the machine (is it a container?)",
        "ssh {place} sudo sysctl {name}  # or set it on the container's host",
    ),
)


VAGRANT: tuple[tuple[str, str], ...] = (
    (
        r"libvirt-sock'?: Permission denied|authentication unavailable: no polkit agent",
        "sudo usermod -aG libvirt $USER  # then log in again",
    ),
    (r"libvirt-sock'?: No such file|Failed to connect socket to .*libvirt", "sudo systemctl start libvirtd"),
    (
        r"The provider '\S+' could not be found",
        "vagrant plugin install vagrant-libvirt\n# or in lab.yaml, kubeadm.vagrant.provider: virtualbox",
    ),
    (
        r"VT-x is (not available|disabled)|AMD-V is (not available|disabled)|KVM kernel module|/dev/kvm",
        "ls -l /dev/kvm  # virtualisation is disabled in the firmware, or this host is a VM without nesting",
    ),
    (
        r"The box .{0,80}could not be found|couldn't be accessed in the remote|could not resolve host",
        "vagrant box list\nvagrant box add NAME FILE  # and kubeadm.vagrant.box: NAME, where no registry is reachable",
    ),
    (
        r"IP address configured for the host-only network is not within the",
        "# in lab.yaml, kubeadm.vagrant.network: a part of 192.168.56.0/21, or add it to /etc/vbox/networks.conf",
    ),
    (
        r"already in use by (another|the) (domain|machine)|Name .* of domain about to create is already taken",
        "virsh list --all\nvagrant global-status --prune",
    ),
    (r"No space left on device|not enough (free|disk) space", "df -h"),
    (r"Cannot allocate memory|not enough memory", "free -h  # or in lab.yaml, kubeadm.vagrant: {memoryMb: …}"),
)
"""What Vagrant and its providers say in public reports, and what to try; a line for each thing."""


def vagrant_remedy(text: str, fallback: str) -> str:
    """The remedy of the first of `VAGRANT` that is in the text, else the fallback."""
    return next((remedy for pattern, remedy in VAGRANT if re.search(pattern, text, re.IGNORECASE)), fallback)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """A task that failed on one machine. `unreachable` says that SSH itself did."""

    node: str
    task: str
    message: str
    unreachable: bool = False


def failure_of(node: str, task: str, result: Mapping[str, Any], *, unreachable: bool = False) -> TaskFailure:
    """What a task's result says went wrong: its own words, then the program's."""
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


def recognise(failure: TaskFailure) -> tuple[KnownFailure, dict[str, str]] | None:
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
        others = ", ".join(also)
        what = f"{what} (as on {others})" if _same(failures) else f"{what}; other tasks failed on {others}"
    said = shortened(first.message)
    recognised = _each_recognised(first)
    if not recognised or machine is None:
        return StepFailed(
            what=what, cause=said or "it printed nothing", remedy=f"less {shlex.quote(log)}" if log else ""
        )
    causes: dict[str, None] = {}
    remedies: dict[str, None] = {}
    for known, groups in recognised:
        words = {
            "host": machine.node, "place": machine.place, "address": machine.address, "user": machine.user,
            "forget": machine.forgetting(groups.get("known_as", "")), **groups,
        }  # fmt: skip
        causes[_filled(known.cause, words)] = None
        pasteable = words | {name: _pasteable(text) for name, text in groups.items()}
        remedies.update(dict.fromkeys(_filled(known.remedy, pasteable).splitlines()))
    cause = "; ".join(causes)
    if said and said not in cause and not said.startswith("labctl:") and "said" not in recognised[0][1]:
        cause = f"{cause}. The message: {said}"
    if log:
        remedies[f"less {shlex.quote(log)}  # the whole output of Ansible"] = None
    return StepFailed(what=what, cause=cause, remedy="\n".join(remedies))


def _each_recognised(failure: TaskFailure) -> list[tuple[KnownFailure, dict[str, str]]]:
    """What is known of the failure; where several of kubeadm's checks failed, of each of them."""
    checks = [error for error in errors_in(failure.message) if error.startswith("[ERROR ")]
    each = [replace(failure, message=check) for check in checks] if len(checks) > 1 else [failure]
    return [found for one in each if (found := recognise(one)) is not None]


def _filled(template: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: words.get(m[1], ""), template).strip()


def _pasteable(said: str) -> str:
    """A machine's words in a command that a person will paste: without what a shell would act on."""
    return re.sub(r"[^\w@%+=:,./ \[\]-]", "?", said, flags=re.ASCII)


def _same(failures: Sequence[TaskFailure]) -> bool:
    return len({(f.task, f.unreachable) for f in failures}) == 1


def _uncapitalised(task: str) -> str:
    return task[:1].lower() + task[1:] if task[1:2].islower() else task


def shortened(message: str) -> str:
    """What was wrong, in one line: the tool's own errors, whole; where no line has the form of one, the first lines
    that sound like it, not too long."""
    if errors := errors_in(message):
        return joined(errors)
    lines = [line.strip() for line in _WARNINGS.sub("", message).splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    text = "; ".join((telling or lines)[:3])
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE].rstrip() + "…"
