"""Failures that people meet: each ends with the machine, the reason, and what to try."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.model.sections import MachineRole
from labctl.providers.kubeadm.failures import (
    KNOWN,
    TaskFailure,
    failure_of,
    recognise,
    shortened,
    step_failed,
    vagrant_remedy,
)
from labctl.providers.kubeadm.machines import Machine

MACHINES = (
    Machine(node="node1", role=MachineRole.CONTROL_PLANE, address="192.168.56.10", user="debian"),
    Machine(node="node2", role=MachineRole.WORKER, address="192.168.56.11", user="debian", port=2222),
)

# The messages are OpenSSH's, sudo's, apt's, kubeadm's and Ansible's own, as they print them.
MET = {
    "unreachable": (
        "Failed to connect to the host via ssh: ssh: connect to host 192.168.56.10 port 22: Connection timed out",
        "192.168.56.10 does not answer", "ping -c 1 192.168.56.10",
    ),
    "no sshd": (
        "Failed to connect to the host via ssh: ssh: connect to host 192.168.56.10 port 22: Connection refused",
        "no SSH server answers at 192.168.56.10", "apt-get install openssh-server",
    ),
    "key refused": (
        "debian@192.168.56.10: Permission denied (publickey).", "accepts none of the available keys for debian",
        "ssh-copy-id",
    ),
    "host key changed": (
        "@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@\nHost key verification failed.",
        "presents a host key other than the known one", "ssh-keygen -R '192.168.56.10'",
    ),
    "host key unknown": (
        ("No ED25519 host key is known for 192.168.56.10 and you have requested strict checking.\nHost key "
        "verification failed."), "is not known yet", "ssh debian@192.168.56.10 true",
    ),
    "wrong sudo password": ("Incorrect sudo password", "sudo rejects the password of debian", "sudoPasswordFile"),
    "sudo is silent": (
        "Task failed: Timeout (12s) waiting for privilege escalation prompt:",
        "waits for a name server to resolve the machine's own name", "sudo tee -a /etc/hosts",
    ),
    "sudo asks": ("Missing sudo password", "sudo asks debian for a password", "NOPASSWD"),
    "not in sudoers": (
        "debian is not in the sudoers file.  This incident will be reported.", "may not become root", "usermod",
    ),
    "apt lock": (
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1207 (unattended-upgr)",
        "another package manager is running", "fuser /var/lib/dpkg/lock-frontend",
    ),
    "bundle older than what is there": (
        "E: Packages were downgraded and -y was used without --allow-downgrades.",
        "a newer version of a package of the bundle is installed", "dpkg -l | grep -i kube",
    ),
    "port taken": (
        ("error execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR Port-6443]: Port 6443 is "
        "in use\n[preflight] If you know what you are doing, you can make a check non-fatal"),
        "port 6443 is taken", "sport = :6443",
    ),
    "no sandbox image": (
        ("labctl: pulling is disabled (images.pull: false), and containerd does not have registry.k8s.io/pause:3.6 (the"
        " sandbox image it is configured for)"),
        "does not have its sandbox image registry.k8s.io/pause:3.6", "kubeadm.runtime: {sandboxImage: IMAGE}",
    ),
    "containerd of Debian, left alone": (
        "labctl: containerd looks for CNI plugins in /usr/lib/cni and the pod network's goes to /opt/cni/bin",
        "looks for CNI plugins in /usr/lib/cni, those of the pod network are in /opt/cni/bin",
        "cilium.values: {cni: {binPath: /usr/lib/cni}}",
    ),
    "swap on": (
        ("error execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR Swap]: running with swap "
        "on is not supported. Please disable swap"), "swap is on", "kubeadm.swap: keep",
    ),
    "cgroup driver": (
        ('failed to run Kubelet: misconfiguration: kubelet cgroup driver: "cgroupfs" is different from docker cgroup '
        'driver: "systemd"'), "use different cgroup drivers", "kubeadm.cgroupDriver: systemd",
    ),
    "cgroup driver, left alone": (
        ("labctl: cgroup driver systemd of the kubelet is different from containerd's, whose configuration is to be "
        "left alone"), "the kubelet and containerd use different cgroup drivers", "kubeadm.runtime.configure: true",
    ),
    "time skew": (
        ("error execution phase preflight: couldn't validate the identity of the API Server: Get https://10.0.0.1: "
        "x509: certificate has expired or is not yet valid: current time 2020-01-01T00:00:00Z is before"),
        "the clocks of the machines are too far apart", "timedatectl set-ntp true",
    ),
    "disk full": (
        "dpkg: error processing archive: cannot copy extracted data: failed to write (No space left on device)",
        "the disk of the machine is full", "df -h / /var",
    ),
    "no python": ("labctl: there is no python3 on this machine", "needs Python 3", "apt-get install -y python3"),
    "old containerd": (
        ("[ERROR CRI]: container runtime is not running: rpc error: code = Unimplemented desc = unknown service "
        "runtime.v1.RuntimeService"), "containerd is older than this Kubernetes needs", "containerd --version",
    ),
    "foreign cluster": (
        "labctl: this machine is part of a cluster that labctl did not make (/etc/kubernetes/kubelet.conf)",
        "labctl leaves it alone", "kubeadm reset",
    ),
    "br_netfilter": (
        "\t[ERROR FileContent--proc-sys-net-bridge-bridge-nf-call-iptables]: /proc/sys/net/bridge does not exist",
        "br_netfilter is not loaded", "modprobe br_netfilter",
    ),
    "any other check of kubeadm": (
        "\t[ERROR SystemVerification]: unsupported kernel", "check SystemVerification failed", "[Swap, SystemVer",
    ),
    "another lab": ("labctl: this machine is part of lab bpf", "belongs to lab bpf", "labctl down bpf"),
    "image missing": (
        "labctl: pulling is disabled (images.pull: false), and containerd does not have k8s.gcr.io/etcd:3.4.13-0",
        "does not have k8s.gcr.io/etcd:3.4.13-0", "kubeadm.images.archives",
    ),
    "no package": (
        "No package matching 'kubeadm=1.20.5-*' is available", "do not have this version", "packages.source",
    ),
    "dropped": (
        "Shared connection to 192.168.56.10 closed.", "dropped the connection", "it continues where it stopped",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MET)
def test_a_known_failure_names_machine_reason_and_remedy(name: str) -> None:
    message, cause, remedy = MET[name]
    failed = step_failed([TaskFailure(node="node1", task="Kubernetes is installed", message=message)], MACHINES, "LOG")
    assert failed.what == "node1 (192.168.56.10): kubernetes is installed: failed"
    assert cause in failed.cause
    assert remedy in failed.remedy
    assert failed.remedy.splitlines()[-1].startswith("less LOG  #")


# As sudo 1.9 (and 1.8, where it says so) and sudo-rs print them with LC_ALL=C; sudo-rs's from its source
# (src/common/error.rs, src/pam/error.rs).
SUDO = {
    "requiretty": ("sudo: sorry, you must have a tty to run sudo", "requires a terminal (requiretty)", "!requiretty"),
    "wrong": (
        "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt",
        "rejects the password", "sudoPasswordFile",
    ),
    "wrong, after the lecture": (
        ("We trust you have received the usual lecture.\nFor security reasons, the password you type will not be "
        "visible.\nSorry, try again.\nsudo: 3 incorrect password attempts"),
        "rejects the password", "sudoPasswordFile",
    ),
    "wrong, sudo-rs": (
        "sudo: Authentication failed, try again.\nsudo: Maximum 3 incorrect authentication attempts",
        "rejects the password", "sudoPasswordFile",
    ),
    "none": ("sudo: a password is required", "asks debian for a password", "NOPASSWD"),
    "none, sudo-rs": ("sudo: interactive authentication is required", "asks debian for a password", "NOPASSWD"),
    "none, 1.8": (
        "sudo: no tty present and no askpass program specified", "asks debian for a password", "NOPASSWD",
    ),
    "no permission": ("debian is not in the sudoers file.", "may not become root", "usermod -aG sudo debian"),
    "no permission at all": (
        "Sorry, user debian may not run sudo on node1.", "may not become root", "usermod -aG sudo debian",
    ),
    "no permission, sudo-rs": (
        "sudo: I'm sorry debian. I'm afraid I can't do that", "may not become root", "usermod -aG sudo debian",
    ),
    "some programs": (
        "Sorry, user debian is not allowed to execute '/usr/bin/env PATH=/usr/bin id' as root on node1.",
        "allows debian only some programs", "ALL=(ALL) ALL",
    ),
    "not there": ("env: 'sudo': No such file or directory", "there is no sudo", "apt-get install -y sudo"),
    "not there, in German": (
        "env: \u201esudo\u201c: Datei oder Verzeichnis nicht gefunden", "there is no sudo", "apt-get install -y sudo",
    ),
    "not set-uid": (
        "sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set", "cannot become root", "ls -l",
    ),
    "in a container": (
        'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.', "cannot become root",
        "user: root",
    ),
    "broken": (
        "/etc/sudoers.d/x:1:9: syntax error\nsudo: no valid sudoers sources found, quitting",
        "refuses its own", "visudo",
    ),
    "locked": (
        "sudo: account validation failure, is your account locked?", "locked or has expired", "chage -l debian",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUDO)
def test_what_sudo_says_is_recognised(name: str) -> None:
    message, cause, remedy = SUDO[name]
    failed = step_failed([TaskFailure(node="node1", task="Look at the machine", message=message)], MACHINES)
    assert cause in failed.cause
    assert remedy in failed.remedy


# The messages are those of public reports, with what stands around them.
MORE = {
    "join refused": (
        ("[kubelet-start] Starting the kubelet\nerror execution phase kubelet-start: error uploading crisocket: "
        "Unauthorized\nTo see the stack trace of this error execute with --v=5 or higher"),
        "rejects the token", "date",
    ),
    "token expired": (
        ("error execution phase preflight: couldn't validate the identity of the API Server: could not find a JWS "
        'signature in the cluster-info ConfigMap for token ID "abcdef"'), "rejects the token", "date",
    ),
    "rate limit": (
        ("failed to pull image registry-1.docker.io/x: 429 Too Many Requests - toomanyrequests: You have reached your "
        "pull rate limit"), "rate limit for anonymous pulls", "imageRepository",
    ),
    "registry's certificate": (
        ('failed to pull and unpack image "r:5000/pause:3.9": failed to resolve reference: failed to do request: Head '
        '"https://r:5000/v2/": x509: certificate signed by unknown authority'),
        "does not trust", "update-ca-certificates",
    ),
    "too many open files": (
        "the kubelet says: failed to create fsnotify watcher: too many open files", "reached its limit",
        "fs.inotify.max_user_inst",
    ),
    "old cluster": (
        "\t[ERROR FileAvailable--etc-kubernetes-kubelet.conf]: /etc/kubernetes/kubelet.conf already exists",
        "files of an earlier cluster", "sudo kubeadm reset",
    ),
    "no forwarding": (
        "\t[ERROR FileContent--proc-sys-net-ipv4-ip_forward]: contents are not set to 1", "does not forward",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "cgroup v1": (
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported",
        "refuses cgroup v1", "failCgroupV1",
    ),
    "a warning beside the error": (
        ("\t[WARNING Swap]: running with swap on is not supported. Please disable swap\n"
        "\t[ERROR FileExisting-conntrack]: conntrack not found in system path"),
        "does not find conntrack", "FileExisting-conntrack",
    ),
    "source not signed": (
        ("W: GPG error: https://pkgs.k8s.io InRelease: The following signatures couldn't be verified because the "
        "public key is not available: NO_PUBKEY 234654DA9A296436"),
        "the key that a package source is signed with", "apt-get update",
    ),
    "too many keys": (
        "Received disconnect from 192.168.56.10 port 22:2: Too many authentication failures", "too many keys",
        "key: FILE",
    ),
    "long TMPDIR": (
        'Failed to connect to the host via ssh: unix_listener: path "/tmp/x" too long for Unix domain socket',
        "control socket is too long", "export TMPDIR=/tmp",
    ),
    "python too old": (
        "SyntaxError: future feature annotations is not defined", "Python is too old", "ansible-core<2.17",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_what_is_often_reported_has_a_remedy_that_fits(name: str) -> None:
    message, cause, remedy = MORE[name]
    failed = step_failed([TaskFailure(node="node1", task="Kubernetes starts", message=message)], MACHINES)
    assert cause in failed.cause
    assert remedy in failed.remedy


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            (
                "Error while connecting to Libvirt: Call to virConnectOpen failed: Failed to connect socket to "
                "'/var/run/libvirt/libvirt-sock': Permission denied"
            ),
            "usermod -aG libvirt",
        ),
        (
            "Call to virConnectOpen failed: Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file",
            "systemctl start libvirtd",
        ),
        ("The provider 'libvirt' could not be found, but was requested to\nback the machine", "plugin install"),
        (
            "VBoxManage: error: VT-x is disabled in the BIOS for all CPU modes (VERR_VMX_MSR_ALL_VMX_DISABLED)",
            "/dev/kvm",
        ),
        ("The box 'debian/bookworm64' could not be found or\ncould not be accessed in the remote catalog.", "box add"),
        ("the moon is full", "by hand"),
    ],
)
def test_what_vagrant_says_has_a_remedy_that_fits(said: str, remedy: str) -> None:
    assert remedy in vagrant_remedy(said, "by hand")


def test_every_line_of_a_remedy_can_be_pasted() -> None:
    for known in KNOWN:
        text = known.remedy.replace("{place}", MACHINES[1].place).replace("{user}", "debian")
        for line in re.sub(r"\{(\w+)\}", r"\1", text).splitlines():
            assert line.split()[0] in COMMANDS, line
            done = subprocess.run(("bash", "-n", "-c", line), capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)


COMMANDS = {
    "#", "ssh", "ssh-add", "ssh-copy-id", "ssh-keygen", "ping", "getent", "chmod", "export", "apt-get", "labctl",
    ".venv/bin/pip",
}  # fmt: skip
"""What a remedy begins with: a command of this host, or a comment about lab.yaml."""


def test_no_known_failure_leaves_a_hole_in_its_sentence() -> None:
    for known in KNOWN:
        names = set(known.pattern.groupindex) | {"host", "place", "address", "user", "forget"}
        assert set(re.findall(r"\{(\w+)\}", known.cause + known.remedy)) <= names, known.cause


def test_an_unknown_failure_points_to_the_log_and_says_what_was_said() -> None:
    failed = step_failed([TaskFailure(node="node1", task="X", message="the moon is full")], MACHINES, "/run/LOG")
    assert failed.cause == "the moon is full"
    assert failed.remedy == "less /run/LOG"


def test_the_others_that_failed_are_named() -> None:
    both = [TaskFailure(node=node, task="T", message="boom") for node in ("node1", "node2")]
    assert step_failed(both, MACHINES, "L").what == "node1 (192.168.56.10): T: failed (as on node2)"


def test_a_changed_key_on_another_port_is_removed_under_its_name_with_port() -> None:
    failed = step_failed(
        [TaskFailure(node="node2", task="T", message="REMOTE HOST IDENTIFICATION HAS CHANGED", unreachable=True)],
        MACHINES,
        "L",
    )
    assert failed.what == "node2 (192.168.56.11): cannot be reached"
    assert "ssh-keygen -R '[192.168.56.11]:2222'" in failed.remedy


def test_what_the_program_said_is_preferred_to_ansibles_phrase() -> None:
    failure = failure_of("node1", "T", {"msg": "non-zero return code", "stderr": "E: nothing", "stdout": "…"})
    assert failure.message == "E: nothing"


def test_a_long_message_is_cut_to_the_lines_that_matter() -> None:
    text = "\n".join([*("noise" for _ in range(50)), "E: the one that matters", *("more" for _ in range(50))])
    assert shortened(text) == "E: the one that matters"
    assert len(shortened("error " * 400)) <= 301


def test_an_unmet_message_is_not_mistaken_for_a_known_one() -> None:
    assert recognise(TaskFailure(node="node1", task="T", message="everything went well")) is None


def test_what_kubeadm_says_of_its_configuration_is_reported_and_not_its_hint_at_more_output() -> None:
    said = (
        "invalid configuration for GroupVersionKind /, Kind=: kind and apiVersion is mandatory information "
        "that must be specified\nTo see the stack trace of this error execute with --v=5 or higher"
    )
    assert shortened(said) == said.splitlines()[0]


WAITED = "error execution phase wait-control-plane: couldn't initialize a Kubernetes cluster\n"
# Recorded with kubelet 1.20.2 and containerd 1.6.20 on a machine that may not nest containers.
NO_NESTING = (
    "RunPodSandbox from runtime service failed: rpc error: code = Unknown desc = failed to create containerd task: "
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    "can't get final child's PID from pipe: EOF: unknown"
)
OTHER_DRIVER = (
    'failed to run Kubelet: misconfiguration: kubelet cgroup driver: "cgroupfs" is different from docker cgroup '
    'driver: "systemd"'
)


@pytest.mark.parametrize(
    ("says", "cause", "remedy"),
    [
        (NO_NESTING, "not even the sandbox of a pod: failed to create shim task: OCI", "journalctl -u containerd"),
        (OTHER_DRIVER, "use different cgroup drivers", "kubeadm.cgroupDriver: systemd"),
        ('failed to pull image "k8s.gcr.io/etcd:1"', "cannot pull an image", "kubeadm.offline: true"),
        ("the moon is full", "the kubelet says: the moon is full", "journalctl -u kubelet -n 30"),
    ],
)  # fmt: skip
def test_why_a_control_plane_does_not_come_up_is_what_the_kubelet_says(says: str, cause: str, remedy: str) -> None:
    message = f"{WAITED}the kubelet says: {says}\n"
    failed = step_failed([TaskFailure(node="node1", task="Kubernetes starts", message=message)], MACHINES, "LOG")
    assert cause in failed.cause
    assert remedy in failed.remedy


@pytest.mark.parametrize(
    "message",
    [
        'Get "http://127.0.0.1:10248/healthz": dial tcp 127.0.0.1:10248: connect: connection refused',
        "Error: cannot reach 10.0.0.1:6443: Connection timed out",
    ],
)
def test_a_connection_that_a_program_was_refused_is_not_taken_for_ssh(message: str) -> None:
    failure = TaskFailure(node="node1", task="Kubernetes starts", message=message)
    assert recognise(failure) is None
    assert recognise(replace(failure, unreachable=True)) is not None


KLOG = """I1122 14:44:00.1 1 kubelet.go:1] starting
E1122 14:49:52.786273    1489 kubelet.go:2243] node "node1" not found
E1122 14:49:52.887401    1489 kubelet.go:2243] node "node1" not found
E1122 14:49:52.887401    1489 kubelet.go:2243] node "node1" not found
E1122 14:49:53.000001    1489 remote_runtime.go:116] RunPodSandbox from runtime service failed: why
E1122 14:49:53.100001    1489 remote_runtime.go:116] RunPodSandbox from runtime service failed: why
E1122 14:49:53.100002    1489 other.go:1] once
"""


def test_of_the_kubelets_log_the_line_that_comes_most_often_and_is_meaningful(tmp_path: Path) -> None:
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\ncat <<'END'\n{KLOG}END\n")
    (tmp_path / "journalctl").chmod(0o755)
    script = Path(__file__).resolve().parents[4] / "playbooks" / "files" / "kubelet-says.sh"
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(("sh", str(script)), env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stderr == "the kubelet says: RunPodSandbox from runtime service failed: why\n"
