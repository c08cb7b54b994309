"""Machines for tests, made on the spot: each with its own network, processes, file system view and a real sshd.

A machine is a set of Linux namespaces over an overlay of this host's root file system: what is changed on it is gone
with it. A small server on loopback hands every connection to an sshd that runs inside. Kubernetes programs and
systemctl are stand-ins (`stand_ins/kubernetes`) that leave the files of the real ones behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labctl.providers.kubeadm import own_files

STAND_INS = ("kubeadm", "kubectl", "kubelet", "containerd", "ctr", "crictl", "journalctl", "modprobe", "systemctl")
HERE = Path(__file__).parent / "integration" / "kubeadm"
IMAGES = "\n".join(
    (
        "k8s.gcr.io/kube-apiserver:v1.20.2", "k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/pause:3.2",
        "quay.io/cilium/cilium:v1.13.12", "quay.io/cilium/operator-generic:v1.13.12",
        "docker.io/nicolaka/netshoot:v0.13", "",
    )
)  # fmt: skip
"""What a test writes to /var/standin/images of a machine that shall have all images of a lab of Kubernetes 1.20.2."""
USER = "learner"
PASSWORD = "right-horse"

_SETUP = r"""
set -eu
base=$1; name=$2
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
root=$base/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/bpf" 2>/dev/null || true
mount --rbind /dev "$root/dev"
for directory in run tmp root home etc/labctl; do
    mkdir -p "$root/$directory"
    mount -t tmpfs -o mode=755 tmpfs "$root/$directory"
done
rmdir "$root/etc/labctl" 2>/dev/null || umount "$root/etc/labctl" && rmdir "$root/etc/labctl"
chmod 1777 "$root/tmp"
mkdir -p "$root/run/systemd/system" "$root/run/sshd" "$root/root/.ssh" "$root/run/lock"
# Limits of inotify are the whole host's; a machine has a copy to change.
inotify=$root/proc/sys/fs/inotify
set -- "$inotify"/*
for file; do cat "$file" >"$base/${file##*/}"; done
mount -t tmpfs tmpfs "$inotify"
for file; do cp "$base/${file##*/}" "$file"; done
printf 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n' >"$base/swaps"
mount --bind "$base/swaps" "$root/proc/swaps"
ip link set lo up
hostname "$name"
mkdir -p "$root/usr/local/lib/machine"
printf '#!/bin/sh\ntrap "exit 0" TERM\nwhile :; do sleep 3600 & wait; done\n' >"$root/usr/local/lib/machine/systemd"
chmod 755 "$root/usr/local/lib/machine/systemd"
touch "$root/run/ready"
exec chroot "$root" /usr/local/lib/machine/systemd
"""

_LISTING = r"""
for directory in /etc /opt /var/lib /var/run /usr/local /lib/systemd; do
    find $directory -xdev \( -path /var/lib/apt -o -path /run/sshd -o -path /run/lock \) -prune -o \( \
        -type f -printf '%p f %m %s\n' -o -type l -printf '%p l %l\n' -o -type d -printf '%p d %m\n' \) 2>/dev/null
done
"""
_NETWORK = "ip -o link show | cut -d' ' -f2; ip route; ip rule; iptables-save | grep -v '^#' || true"
_SYSCTLS = (
    "cd /proc/sys && cat net/ipv4/ip_forward net/ipv4/conf/all/rp_filter net/ipv6/conf/all/forwarding fs/inotify/*"
)

_SSHD = """
HostKey /run/sshd/host_key
AuthorizedKeysFile /run/sshd/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""


@dataclass
class TestMachine:
    """One running machine. `port` is where its sshd answers on loopback. While `drop` is set it hangs up at once, while
    `silent` is set it takes connections and says nothing; `connections` counts those that were made."""

    __test__ = False

    name: str
    base: Path
    process: subprocess.Popen[bytes]
    pid: int
    host_key: str
    server: socket.socket
    port: int
    drop: threading.Event = field(default_factory=threading.Event)
    silent: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    held: list[socket.socket] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """Runs a program on the machine, not over SSH."""
        done = subprocess.run(
            (*self.enter(), *argv), input=stdin.encode(), capture_output=True, check=False, timeout=300
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def enter(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-r", "-w", "--")

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        self.run("sh", "-c", f'mkdir -p "$(dirname {path})" && cat > {path} && chmod {mode:o} {path}', stdin=content)

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def exists(self, path: str) -> bool:
        return self.run("sh", "-c", f"[ -e {path} ] && echo yes || true").strip() == "yes"

    def calls(self) -> list[str]:
        """What the stand-ins were called with."""
        return self.run("sh", "-c", "cat /var/standin/calls 2>/dev/null || true").splitlines()

    def state(self) -> dict[str, object]:
        """Everything that a lab may change: files with content and mode, network, sysctls, services."""
        listing = sorted(self.run("sh", "-c", _LISTING).splitlines())
        return {
            "files": [line for line in listing if "/var/lib/dpkg" not in line and "__pycache__" not in line],
            "containerd": self.run("sh", "-c", "cat /etc/containerd/config.toml 2>/dev/null || true"),
            "network": self.run("sh", "-c", _NETWORK),
            "sysctls": self.run("sh", "-c", _SYSCTLS),
            "services": sorted(self.run("sh", "-c", "ls /var/standin | grep service || true").split()),
        }


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _started(parent: int) -> int:
    """The first process of the machine, once its file system is in place; 0 before."""
    with contextlib.suppress(OSError):
        for pid in _children(parent):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
    return 0


def _make(name: str, directory: Path, key: Path, address: str, undo: contextlib.ExitStack) -> TestMachine:
    base = directory / name
    base.mkdir()
    process = subprocess.Popen(
        ("unshare", "--mount", "--propagation", "private", "--net", "--uts", "--pid", "--fork", "--kill-child=KILL",
         "sh", "-c", _SETUP, "setup", str(base), name),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    undo.callback(_stop, process)
    deadline = time.monotonic() + 120
    while not (pid := _started(process.pid)):
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(f"machine {name} did not start: {process.stdout.read().decode()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"machine {name} did not start in 2 minutes")
        time.sleep(0.02)
    server = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    machine = TestMachine(
        name=name, base=base, process=process, pid=pid, host_key="", server=server, port=server.getsockname()[1]
    )
    for program in STAND_INS:
        machine.write(f"/usr/local/bin/{program}", (HERE / "stand_ins" / "kubernetes").read_text(), 0o755)
    machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/sshd/host_key")
    machine.host_key = machine.read("/run/sshd/host_key.pub").strip()
    machine.write("/run/sshd/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
    machine.write("/run/sshd/config", _SSHD)
    machine.run("sh", "-c", "mkdir -p /etc/containerd /var/standin && touch /var/standin/service-containerd.active")
    machine.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    # A user whose sudo asks for a password, as on most machines.
    machine.run("sh", "-c", f"useradd --create-home {USER} && echo {USER}:{PASSWORD} | chpasswd")
    machine.write(f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) ALL\nDefaults:{USER} !lecture\n", 0o440)
    serving = threading.Thread(target=_serve, args=(machine,), daemon=True)
    undo.callback(_hang_up, machine, serving)
    serving.start()
    return machine


def _serve(machine: TestMachine) -> None:
    """Hands each connection to an sshd inside the machine."""
    while True:
        try:
            connection, _ = machine.server.accept()
        except OSError:
            return
        with connection:
            machine.connections += 1
            if machine.silent.is_set():
                machine.held.append(connection.dup())
                continue
            if machine.drop.is_set():
                continue
            machine.children.append(
                subprocess.Popen(
                    (*machine.enter(), "/usr/sbin/sshd", "-i", "-f", "/run/sshd/config"),
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=subprocess.DEVNULL,
                )
            )


def _hang_up(machine: TestMachine, serving: threading.Thread) -> None:
    """Ends the server and what it started. A thread that is left in accept() would take connections to the next socket
    that gets this number, and hand them to a machine that is gone."""
    with contextlib.suppress(OSError):
        machine.server.shutdown(socket.SHUT_RDWR)  # which wakes the thread; closing alone does not
    serving.join(timeout=60)
    assert not serving.is_alive(), f"the server thread of {machine.name} does not end"
    with contextlib.suppress(ProcessLookupError):
        os.kill(machine.pid, signal.SIGKILL)  # and with it the kernel ends all that runs on the machine
    for held in machine.held:
        held.close()
    for child in machine.children:
        child.wait(timeout=60)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for pid in _children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)


def let_user_in(machine: TestMachine, key: Path) -> None:
    """Gives the user with the sudo password the same key as root."""
    machine.write(f"/home/{USER}/.ssh/authorized_keys", key.with_suffix(".pub").read_text())
    keys = "AuthorizedKeysFile /run/sshd/authorized_keys .ssh/authorized_keys"
    machine.run("sed", "-i", f"s#^AuthorizedKeysFile.*#{keys}#", "/run/sshd/config")
    machine.run("chmod", "644", "/run/sshd/authorized_keys")


@dataclass
class Farm:
    """Test machines that know each other's keys. `known_hosts` and `key` are what a user would have."""

    directory: Path
    machines: list[TestMachine]
    key: Path
    known_hosts: Path

    def hosts(self) -> list[dict[str, object]]:
        """The section `hosts:` for these machines."""
        return [
            {
                "address": "127.0.0.1", "port": m.port, "user": "root", "key": str(self.key),
                "knownHosts": str(self.known_hosts), "nodeAddress": f"10.0.0.{number}",
            }
            for number, m in enumerate(self.machines, start=1)
        ]  # fmt: skip

    def write_known_hosts(self) -> None:
        self.known_hosts.write_text(
            "".join(f"[127.0.0.1]:{m.port} {' '.join(m.host_key.split()[:2])}\n" for m in self.machines)
        )


@contextlib.contextmanager
def farm(directory: Path, count: int) -> Iterator[Farm]:
    """`count` machines, gone at the end whatever happens."""
    key = directory / "key"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    with contextlib.ExitStack() as undo:
        made = [_make(f"machine{n}", directory, key, f"10.0.0.{n}", undo) for n in range(1, count + 1)]
        grown = Farm(directory=directory, machines=made, key=key, known_hosts=directory / "known_hosts")
        grown.write_known_hosts()
        # What tests write down of passwords and host keys stands for what is in ~/.config/labctl.
        folders = own_files.config_folders
        patched = undo.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(own_files, "config_folders", lambda: (*folders(), directory.parent))
        yield grown


def why_not() -> str:
    """Why machines cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    for program in ("unshare", "nsenter", "ssh", "ssh-keygen", "iptables"):
        if shutil.which(program) is None:
            return f"{program} is not on this host"
    if not Path("/usr/sbin/sshd").exists():
        return "sshd is not on this host: apt-get install openssh-server"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system"
    return ""


def two_machines(directory: Path) -> Iterator[Farm]:
    """What the fixtures of the test modules give; skips with the reason where machines cannot be made."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with farm(directory, 2) as grown:
        yield grown
