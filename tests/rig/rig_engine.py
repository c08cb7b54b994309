"""The rig's own docker daemon: started, used, and removed with all that it changed on this host.

Another socket, data root, exec root and pid file than the host's docker has, no rules of its own, one bridge network.
What the machines' kubelets change for the whole kernel (sysctls) is written down before and put back after. Everything
of a rig carries the name of RUN or of the rig, so that it is found whoever made it: when the process that started it
ends, in whatever way, a guard that outlives it takes down what it left, and so does the next start.

python3 tests/rig/rig_engine.py guard TOKEN     what `start` runs: waits for the end of its standard input, then clears
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rig_place import BRIDGE, CACHE, GATEWAY, HERE, INSTANCE, NAME, RUN, SUBNET, RigFailed, run

SOCKET = RUN / "docker.sock"
DATA = CACHE / f"docker{INSTANCE or ''}"
IMAGE = f"{NAME}/node:1"
_SAVED = RUN / "sysctls.json"
NETWORKS = {NAME: (BRIDGE, SUBNET, GATEWAY), "kind": (f"{BRIDGE}k", f"10.204.{INSTANCE}.0/24", f"10.204.{INSTANCE}.1")}
"""Bridge, addresses and gateway of each. kind takes the network of its name where there is one."""
_OWNER = RUN / "owner"
"""Which start this rig is of: a guard clears its own one's, and no later one's."""
_LOCK = CACHE / f"{NAME}.lock"
_SYS = Path("/proc/sys")
_guards: list[int] = []
"""The writing ends of the pipes that guards of this process wait at: the kernel closes them, however it ends."""
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


def start(*, guarded: bool = True) -> None:
    """From whatever was left to a daemon with the node image and the network; `guarded`: it goes with this process.
    Raises RigFailed."""
    token = secrets.token_hex(8)
    with _alone():
        _clear()
        RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
        _OWNER.write_text(token)
        remember_sysctls(_SAVED)
    if guarded and not os.environ.get("LABCTL_RIG_KEEP"):
        _guard(token)
    settings = {
        "hosts": [f"unix://{SOCKET}"], "data-root": str(DATA), "exec-root": str(RUN / "exec"),
        "pidfile": str(RUN / "docker.pid"), "iptables": False, "ip6tables": False, "ip-forward": False,
        "ip-masq": False, "userland-proxy": True, "bridge": "none", "storage-driver": "overlay2",
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
    for name, (bridge, subnet, gateway) in NETWORKS.items():
        docker("network", "create", "--driver", "bridge", "--subnet", subnet, "--gateway", gateway,
               "--opt", f"com.docker.network.bridge.name={bridge}", name)  # fmt: skip
        _let_through(bridge)
    _load_node_image()


def _load_node_image() -> None:
    """Imports the machines' file system unless the data root has it from the same archive."""
    archive = CACHE / "node.tar"
    made = f"{archive.stat().st_mtime_ns}"
    asked = docker("image", "inspect", "--format", '{{index .Config.Labels "made"}}', IMAGE, check=False).strip()
    if asked != made:
        docker("import", "--change", f"LABEL made={made}", str(archive), IMAGE, timeout_s=600)


def _let_through(bridge: str) -> None:
    """Where the host's FORWARD chain drops what is not its own docker's, frames from machine to machine need a rule."""
    chains = run(("iptables", "-S"), check=False).stdout.splitlines()
    chain = "DOCKER-USER" if "-N DOCKER-USER" in chains else "FORWARD"
    if chain == "DOCKER-USER" or "-P FORWARD DROP" in chains:
        run(("iptables", "-I", chain, *_rule(bridge)))


def _rule(bridge: str) -> tuple[str, ...]:
    return ("-i", bridge, "-o", bridge, "-m", "comment", "--comment", NAME, "-j", "ACCEPT")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A guard that takes down an old rig, and a start that makes the next one, wait for each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _guard(token: str) -> None:
    """A process of its own session that lives until this one has ended."""
    its, ours = os.pipe()
    _guards.append(ours)
    with (RUN / "guard.log").open("ab") as log:
        # Nobody's child, as the daemon.
        argv = ("setsid", "--fork", sys.executable, __file__, "guard", token)
        subprocess.run(argv, check=True, stdin=its, stdout=log, stderr=log)
    os.close(its)


def guard(token: str) -> None:
    """Returns once standard input has ended and nothing of the rig with that token is there."""
    sys.stdin.buffer.read()
    with _alone():
        if _OWNER.exists() and _OWNER.read_text() == token:
            _clear()


def remember_sysctls(saved: Path, top: Path = _SYS) -> None:
    """Writes down what the host has, once and whole, and raises what three machines with systemd need."""
    values = {}
    for pattern in _SYSCTLS:
        for path in top.glob(pattern):
            if not path.stat().st_mode & stat.S_IWUSR:
                continue  # it counts something
            with contextlib.suppress(OSError, UnicodeDecodeError):
                values[str(path.relative_to(top))] = path.read_text().strip()
    if not saved.exists():
        fresh = saved.with_suffix(".new")
        fresh.write_text(json.dumps(values, indent=1))
        fresh.replace(saved)
    for name, least in _NEEDED.items():
        if int((top / name).read_text()) < least:
            (top / name).write_text(str(least))


def put_back_sysctls(saved: Path, top: Path = _SYS) -> list[str]:
    """Gives the names of those that are still other than they were: a limit may not go below another one, so there are
    two rounds."""
    if not saved.exists():
        return []
    before = json.loads(saved.read_text())

    def other() -> list[str]:
        found = []
        for name, value in before.items():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if (top / name).read_text().strip() != value:
                    found.append(name)
        return found

    for _ in range(2):
        for name in other():
            with contextlib.suppress(OSError):
                (top / name).write_text(before[name])
    return other()


def clear() -> None:
    """Takes down all that is there of a rig, whole or in pieces; twice is no error. What is in the cache stays. Raises
    RigFailed for a sysctl that cannot be put back."""
    with _alone():
        _clear()


def _clear() -> None:
    if is_up():
        with contextlib.suppress(RigFailed):
            if names := docker("ps", "--all", "--quiet", "--no-trunc").split():
                docker("rm", "--force", "--volumes", *names, timeout_s=300)
            docker("network", "rm", *NETWORKS, check=False)
            docker("volume", "prune", "--force", check=False)
    for number, wait_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        _end(number, wait_s)
    for point in reversed(_mounts()):
        run(("umount", "--lazy", point), check=False)
    for bridge, _, _ in NETWORKS.values():
        run(("ip", "link", "delete", bridge), check=False)
        for chain in ("DOCKER-USER", "FORWARD"):
            while run(("iptables", "-D", chain, *_rule(bridge)), check=False).returncode == 0:
                pass
    _remove_cgroups()
    left = put_back_sysctls(_SAVED)
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in ("containers", "network"):
        shutil.rmtree(DATA / folder, ignore_errors=True)
    if left:
        raise RigFailed(f"this host's sysctls are not as they were: {', '.join(left)}")


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


if __name__ == "__main__" and sys.argv[1:2] == ["guard"]:
    guard(sys.argv[2])
