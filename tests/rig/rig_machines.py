"""Three machines with systemd and sshd in containers of the rig, reached over SSH as any machine is."""

from __future__ import annotations

import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import rig_engine
from rig_place import CACHE, MACHINES, NAME, RUN, RigFailed, address_of, run

KEY, KNOWN_HOSTS = RUN / "id_ed25519", RUN / "known_hosts"
_PROGRAMS = ("kubeadm", "kubelet", "kubectl", "crictl")
_VOLUMES = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/labctl")
"""Not on the container's own overlay: containerd's snapshots are overlays themselves."""
CONTAINERD = """version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RigMachine:
    """One of them. `node` is what a scenario calls it."""

    name: str
    node: str

    @property
    def address(self) -> str:
        return address_of(self.name)

    def run(self, *words: str, timeout_s: float = 120, check: bool = True, stdin: bytes | None = None) -> str:
        """What a program prints there, by docker: the SSH connections are labctl's to use. Raises RigFailed."""
        options = ("-i",) if stdin is not None else ()
        return rig_engine.docker("exec", *options, self.name, *words, timeout_s=timeout_s, check=check, stdin=stdin)

    def shell(self, script: str, *, timeout_s: float = 120, check: bool = True) -> str:
        return self.run("bash", "-c", f"set -o pipefail; {script}", timeout_s=timeout_s, check=check)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Puts a file there, with its folder."""
        place = shlex.quote(path)
        self.run("sh", "-c", f'mkdir -p "$(dirname {place})" && cat > {place} && chmod {mode:o} {place}',
                 stdin=text.encode())  # fmt: skip

    def host(self) -> dict[str, object]:
        """Its entry in `hosts:` of a lab.yaml."""
        return {"address": self.address, "user": "root", "key": str(KEY)}


def machines() -> tuple[RigMachine, ...]:
    return tuple(RigMachine(name=name, node=f"node{number}") for number, name in enumerate(MACHINES, start=1))


def start() -> tuple[RigMachine, ...]:
    """All three, once they answer over SSH. Raises RigFailed."""
    made = machines()
    if not KEY.exists():
        run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f", str(KEY)))
    with ThreadPoolExecutor(max_workers=len(made)) as pool:
        list(pool.map(_start, made))
    KNOWN_HOSTS.write_text(
        "".join(
            f"{one.address} {' '.join(one.run('cat', '/etc/ssh/ssh_host_ed25519_key.pub').split()[:2])}\n"
            for one in made
        )
    )
    for one in made:
        _wait_for_ssh(one)
    return made


def _start(one: RigMachine) -> None:
    binds = [word for name in _PROGRAMS for word in ("--volume", f"{CACHE / 'bin' / name}:/usr/local/bin/{name}:ro")]
    volumes = [word for place in _VOLUMES for word in ("--volume", place)]
    rig_engine.docker(
        "run", "--detach", "--pull=never", "--stop-signal=SIGRTMIN+3",
        "--privileged", "--cgroupns=private", "--name", one.name, "--hostname", one.name,
        "--network", NAME, "--ip", one.address, "--tmpfs", "/run:exec,mode=755", "--tmpfs", "/tmp",
        "--volume", f"{RUN / 'runc'}:/usr/local/sbin/runc:ro", "--volume", "/lib/modules:/lib/modules:ro",
        *binds, *volumes, "--env", "container=docker", rig_engine.IMAGE, "/sbin/init",
    )  # fmt: skip
    deadline = time.monotonic() + 120
    # `degraded`: a unit that a container cannot start; which ones do not matter here.
    while (state := one.run("systemctl", "is-system-running", check=False).strip()) not in ("running", "degraded"):
        if time.monotonic() > deadline:
            raise RigFailed(f"{one.name}: systemd is {state or 'silent'} after 2 minutes: {logs(one)}")
        time.sleep(0.3)
    one.write("/etc/containerd/config.toml", CONTAINERD)
    one.write("/root/.ssh/authorized_keys", KEY.with_suffix(".pub").read_text(), 0o600)
    # No name server is reachable, and who asks shall know at once.
    one.shell("echo 'nameserver 127.0.0.1' > /etc/resolv.conf")
    one.shell("mount --make-rshared / && ssh-keygen -A && systemctl reset-failed ssh; systemctl restart containerd ssh")


def _wait_for_ssh(one: RigMachine) -> None:
    deadline = time.monotonic() + 60
    while (done := run(argv_ssh(one, "true"), timeout_s=30, check=False)).returncode != 0:
        if time.monotonic() > deadline:
            raise RigFailed(f"{one.name} does not answer over SSH: {done.stderr.strip()}")
        time.sleep(0.3)


def argv_ssh(one: RigMachine, *words: str) -> tuple[str, ...]:
    """ssh to that machine, with the rig's own key and known hosts."""
    return ("ssh", "-F", "none", "-i", str(KEY), "-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=5", f"root@{one.address}", *words)  # fmt: skip


def logs(one: RigMachine) -> str:
    """The last of what its systemd and services say, for a message."""
    said = one.run("journalctl", "--no-pager", "--lines", "60", check=False)
    return said[-4000:] or rig_engine.docker("logs", "--tail", "40", one.name, check=False)


def copy_in(one: RigMachine, source: Path, target: str) -> None:
    """Copies a file of this host onto the machine. (`docker cp` does not see a machine's tmpfs mounts.)"""
    with source.open("rb") as content:
        done = subprocess.run(
            ("docker", "--host", f"unix://{rig_engine.SOCKET}", "exec", "-i", one.name, "sh", "-c", 'cat > "$0"',
             target),
            stdin=content, capture_output=True, timeout=600, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise RigFailed(f"cannot copy {source} to {one.name}: {done.stderr.decode(errors='replace')}")
