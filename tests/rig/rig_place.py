"""Where the rig is: its folders, its names and addresses, what it needs, and how it runs programs.

The rig is a second docker daemon on this host with three machines in it (systemd, sshd) that know nothing of the host's
own docker. What takes long to make is kept in LABCTL_RIG (default ~/.cache/labctl/rig); what lives while it runs is
in RUN.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("LABCTL_RIG") or Path.home() / ".cache" / "labctl" / "rig").resolve()
INSTANCE = int(os.environ.get("LABCTL_RIG_INSTANCE") or 0)
"""Several may be up on one host, numbered from 0 to 255; each has three machines and takes 3 GB of memory."""
NAME = f"labctl-rig{INSTANCE or ''}"
"""The mark of all that the rig makes: containers, network, cgroups, rules."""
RUN = Path("/run") / NAME
"""Sockets want a short path. It is there as long as anything of the rig is."""

BRIDGE = f"lrig{INSTANCE}"
SUBNET, GATEWAY = f"10.203.{INSTANCE}.0/24", f"10.203.{INSTANCE}.1"
MACHINES = ("rig1", "rig2", "rig3")
KUBERNETES = "1.20.2"
GO = Path("/usr/lib/go-1.19/bin/go")
PROGRAMS = ("dockerd", "docker", "containerd", "runc", "debootstrap", "ssh", "ssh-keygen", "ip", "iptables", "cc")
_LEAST_FREE_BYTE = 12 << 30


class RigFailed(Exception):
    """The rig cannot be built, or something in it failed; the message has the command and what it said."""


def address_of(machine: str) -> str:
    """The address of that machine in the rig's network."""
    return f"10.203.{INSTANCE}.{10 + MACHINES.index(machine) + 1}"


def why_not() -> str:
    """Why the rig cannot run here, with the remedy; empty when it can."""
    if os.geteuid() != 0:
        return "it needs root: sudo make test-machines"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"this host lacks {', '.join(missing)}: setup/prepare.sh machines"
    if not is_built() and not GO.exists():
        return f"Kubernetes {KUBERNETES} is not built yet, and {GO} is not here: setup/prepare.sh machines"
    filesystems = Path("/proc/filesystems").read_text().split()
    if lacking := [name for name in ("overlay", "cgroup") if name not in filesystems]:
        return f"this kernel has no {' and no '.join(lacking)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free
    if free < _LEAST_FREE_BYTE:
        return f"{CACHE} has {free >> 30} GiB free, and three machines need 12; LABCTL_RIG names another folder"
    return ""


def is_built() -> bool:
    """True once everything that takes long is in the cache."""
    programs = (
        "kubeadm",
        "kubectl",
        "kubelet",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    )
    return all((CACHE / "bin" / name).exists() for name in (*programs, "pause", "crictl", "coredns")) and all(
        (CACHE / f"{name}.tar").exists() for name in ("node", "tools")
    )


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 120,
    stdin: bytes | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs argv to its end. Raises RigFailed when it fails and `check` is set, or takes longer."""
    try:
        done = subprocess.run(
            tuple(argv), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
            timeout=timeout_s, check=False, env={**os.environ, **(environment or {}), "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise RigFailed(f"{' '.join(argv)[:300]} did not end within {timeout_s:g} s") from late
    ended = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check and ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip())[-3000:]
        raise RigFailed(f"{' '.join(argv)[:300]}\nended with {ended.returncode}: {said}")
    return ended


def build() -> None:
    """Makes what is not in the cache yet: the file systems and Kubernetes. Raises RigFailed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for script, timeout_s in (("roots.sh", 1800.0), ("kubernetes.sh", 7200.0)):
        run(("nice", "-n", "10", str(HERE / script), str(CACHE)), timeout_s=timeout_s)
