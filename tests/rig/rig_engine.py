"""The rig's own docker daemon: started, used, and removed with all that it changed on this host.

Another socket, data root, exec root and pid file than the host's docker has, no rules of its own, one bridge network.
What the machines' kubelets change for the whole kernel (sysctls) is written down before and put back after. A rig whose
owner was killed is taken down by the next start: everything of it carries the name of RUN or of the rig.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rig_place import BRIDGE, CACHE, GATEWAY, HERE, INSTANCE, NAME, RUN, SUBNET, RigFailed, run

SOCKET = RUN / "docker.sock"
DATA = CACHE / f"docker{INSTANCE or ''}"
IMAGE = f"{NAME}/node:1"
_SAVED = RUN / "sysctls.json"
_NEEDED = {"fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 524288}
_SYSCTLS = ("kernel/panic*", "kernel/keys/*", "kernel/pid_max", "vm/overcommit_memory", "vm/panic_on_oom",
            "vm/max_map_count", "fs/inotify/*", "net/netfilter/nf_conntrack_*", "net/bridge/*", "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding", "net/core/bpf_jit_*")  # fmt: skip
"""What a kubelet, kube-proxy or Cilium sets that is not only of a machine's own namespaces."""


def docker(*words: str, timeout_s: float = 120, check: bool = True, stdin: bytes | None = None) -> str:
    """What docker prints, asked of the rig's daemon. Raises RigFailed."""
    return run(("docker", "--host", f"unix://{SOCKET}", *words), timeout_s=timeout_s, check=check, stdin=stdin).stdout


def is_up() -> bool:
    return SOCKET.exists() and run(
        ("docker", "--host", f"unix://{SOCKET}", "version"), timeout_s=30, check=False
    ).returncode == 0  # fmt: skip


def start() -> None:
    """From whatever was left to a daemon with the node image and the network. Raises RigFailed."""
    clear()
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    remember_sysctls()
    settings = {
        "hosts": [f"unix://{SOCKET}"], "data-root": str(DATA), "exec-root": str(RUN / "exec"),
        "pidfile": str(RUN / "docker.pid"), "iptables": False, "ip6tables": False, "ip-forward": False,
        "ip-masq": False, "userland-proxy": False, "bridge": "none", "storage-driver": "overlay2",
        "cgroup-parent": f"/{NAME}",
        "runtimes": {"rig": {"path": str(RUN / "runc")}}, "default-runtime": "rig", "log-opts": {"max-size": "10m"},
    }  # fmt: skip
    shutil.copy(HERE / "runc", RUN / "runc")
    (RUN / "daemon.json").write_text(json.dumps(settings))
    with (RUN / "docker.log").open("ab") as log:
        # Nobody's child: it outlives who started it, until `clear` ends it.
        subprocess.run(("setsid", "--fork", "dockerd", "--config-file", str(RUN / "daemon.json")), check=True,
                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    deadline = time.monotonic() + 60
    while not is_up():
        if time.monotonic() > deadline:
            said = (RUN / "docker.log").read_text(errors="replace")[-2000:]
            raise RigFailed(f"the rig's dockerd does not answer within 60 s: {said}")
        time.sleep(0.2)
    docker("network", "create", "--driver", "bridge", "--subnet", SUBNET, "--gateway", GATEWAY,
           "--opt", f"com.docker.network.bridge.name={BRIDGE}", NAME)  # fmt: skip
    _let_through()
    _load_node_image()


def _load_node_image() -> None:
    """Imports the machines' file system unless the data root has it from the same archive."""
    archive = CACHE / "node.tar"
    made = f"{archive.stat().st_mtime_ns}"
    asked = docker("image", "inspect", "--format", '{{index .Config.Labels "made"}}', IMAGE, check=False).strip()
    if asked != made:
        docker("import", "--change", f"LABEL made={made}", str(archive), IMAGE, timeout_s=600)


def _let_through() -> None:
    """Where the host's FORWARD chain drops what is not its own docker's, frames from machine to machine need a rule."""
    chains = run(("iptables", "-S"), check=False).stdout.splitlines()
    chain = "DOCKER-USER" if "-N DOCKER-USER" in chains else "FORWARD"
    if chain == "DOCKER-USER" or "-P FORWARD DROP" in chains:
        run(("iptables", "-I", chain, *_rule()))


def _rule() -> tuple[str, ...]:
    return ("-i", BRIDGE, "-o", BRIDGE, "-m", "comment", "--comment", NAME, "-j", "ACCEPT")


def remember_sysctls() -> None:
    """Writes down what the host has, once, and raises what three machines with systemd need."""
    top = Path("/proc/sys")
    values = {}
    for pattern in _SYSCTLS:
        for path in top.glob(pattern):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                values[str(path.relative_to(top))] = path.read_text().strip()
    if not _SAVED.exists():
        _SAVED.write_text(json.dumps(values, indent=1))
    for name, least in _NEEDED.items():
        if int((top / name).read_text()) < least:
            (top / name).write_text(str(least))


def _put_back_sysctls() -> None:
    if not _SAVED.exists():
        return
    for name, value in json.loads(_SAVED.read_text()).items():
        path = Path("/proc/sys") / name
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text().strip() != value:
                path.write_text(value)


def clear() -> None:
    """Takes down all that is there of a rig, whole or in pieces; twice is no error. What is in the cache stays."""
    if is_up():
        with contextlib.suppress(RigFailed):
            if names := docker("ps", "--all", "--quiet", "--no-trunc").split():
                docker("rm", "--force", "--volumes", *names, timeout_s=300)
            docker("network", "rm", NAME, check=False)
            docker("volume", "prune", "--force", check=False)
    for number, wait_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        _end(number, wait_s)
    for point in reversed(_mounts()):
        run(("umount", "--lazy", point), check=False)
    run(("ip", "link", "delete", BRIDGE), check=False)
    for chain in ("DOCKER-USER", "FORWARD"):
        while run(("iptables", "-D", chain, *_rule()), check=False).returncode == 0:
            pass
    _remove_cgroups()
    _put_back_sysctls()
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in ("containers", "network"):
        shutil.rmtree(DATA / folder, ignore_errors=True)


def _end(number: signal.Signals, wait_s: float) -> None:
    """Ends the daemon, its containerd and the shims: those whose command line or executable bundle is of the rig."""
    deadline = time.monotonic() + wait_s
    for pid in _processes():
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    while _processes() and time.monotonic() < deadline:
        time.sleep(0.1)


def _processes() -> list[int]:
    """Those with a path below RUN as a word of their command line, but ours; and what is in the rig's cgroups."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            is_daemons = Path(os.fsdecode(words[0])).name.startswith(("dockerd", "containerd"))
            if is_daemons and any(f"{RUN}/".encode() in word for word in words[1:]):
                found.add(int(path.parent.name))
    for group in Path("/sys/fs/cgroup").glob(f"*/{NAME}"):
        for tasks in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in tasks.read_text().split()}
    return sorted(found - {os.getpid()})


def _mounts() -> list[str]:
    roots = (str(RUN) + "/", str(DATA) + "/")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if f"{point}/".startswith(roots)]


def _remove_cgroups() -> None:
    for top in (*Path("/sys/fs/cgroup").glob(f"*/{NAME}"), Path("/sys/fs/cgroup") / NAME):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """The daemon for as long as the context lasts."""
    try:
        start()
        yield
    finally:
        clear()
