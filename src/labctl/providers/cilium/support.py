"""What a cluster with Cilium shows for a support archive: its files on this host, Kubernetes' objects and events, the
agents' status and logs, and each node. Reads, and changes nothing.

A place that does not answer once is not asked for all the rest: a machine that is off costs one timeout and not thirty.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from labctl.errors import LabError, MeasureFailed
from labctl.providers.base import Completed, Exhibit
from labctl.providers.cilium.commands import Commands, LabFiles, read_state, shown
from labctl.providers.cilium.workloads import parse_pods
from labctl.system import files

_COMMAND_S = 20.0
_LINES = "3000"
_MOST_TIMEOUTS = 2
_RUNS_KEPT = 2
SECRET_KEYS = ("client-key-data", "token", "password", "client-certificate-data")
"""Of a kubeconfig, what lets whoever has it in."""

NODE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("uname.txt", ("uname", "-a")),
    ("os-release.txt", ("cat", "/etc/os-release")),
    ("addresses.txt", ("ip", "-details", "address")),
    ("links.txt", ("ip", "-statistics", "link")),
    ("routes.txt", ("ip", "route", "show", "table", "all")),
    ("rules.txt", ("ip", "rule")),
    ("neighbours.txt", ("ip", "neighbour")),
    ("iptables.txt", ("iptables-save", "--counters")),
    ("nftables.txt", ("nft", "list", "ruleset")),
    ("sockets.txt", ("ss", "-tuanp")),
    ("bpf-attached.txt", ("bpftool", "net")),
    ("bpf-programs.txt", ("bpftool", "prog", "list")),
    ("sysctls.txt", ("sysctl", "--all", "--pattern", r"^(net\.(core|ipv4|bridge|netfilter)|fs\.inotify|kernel\.bpf)")),
    ("services.txt", ("systemctl", "status", "kubelet", "containerd", "--no-pager", "--lines", "0")),
    ("kubelet.txt", ("journalctl", "--unit", "kubelet", "--no-pager", "--lines", _LINES)),
    ("containerd.txt", ("journalctl", "--unit", "containerd", "--no-pager", "--lines", "1000")),
    ("containerd-config.txt", ("cat", "/etc/containerd/config.toml")),
    ("kubelet-config.txt", ("cat", "/var/lib/kubelet/config.yaml")),
    ("sandboxes.txt", ("crictl", "--timeout", "10s", "pods")),
    ("containers.txt", ("crictl", "--timeout", "10s", "ps", "--all")),
    ("images.txt", ("crictl", "--timeout", "10s", "images")),
    ("cni.txt", ("ls", "-l", "/etc/cni/net.d", "/opt/cni/bin")),
    ("disks.txt", ("df", "-h")),
    ("inodes.txt", ("df", "-i")),
    ("memory.txt", ("cat", "/proc/meminfo")),
    ("processes.txt", ("ps", "-eo", "pid,ppid,user,etimes,rss,comm")),
    ("kernel-log.txt", ("dmesg", "--ctime")),
)
_SYSTEM = ("-n", "kube-system")
_AGENTS = (*_SYSTEM, "logs", "--selector", "k8s-app=cilium", "--container", "cilium-agent", "--prefix")
CLUSTER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("version.txt", ("version",)),
    ("ready.txt", ("get", "--raw", "/readyz?verbose")),
    ("nodes.txt", ("get", "nodes", "-o", "wide")),
    ("nodes-described.txt", ("describe", "nodes")),
    ("pods.txt", ("get", "pods", "--all-namespaces", "-o", "wide")),
    ("events.txt", ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")),
    ("services.txt", ("get", "services,endpoints", "--all-namespaces", "-o", "wide")),
    ("kubeadm-config.yaml", (*_SYSTEM, "get", "configmap", "kubeadm-config", "-o", "yaml")),
    ("cilium-config.yaml", (*_SYSTEM, "get", "configmap", "cilium-config", "-o", "yaml")),
    ("cilium-workloads.yaml", (*_SYSTEM, "get", "daemonsets,deployments", "-o", "yaml")),
    ("cilium-nodes.yaml", ("get", "ciliumnodes.cilium.io", "-o", "yaml")),
    ("cilium-endpoints.txt", ("get", "ciliumendpoints.cilium.io", "--all-namespaces", "-o", "wide")),
    ("system-pods-described.txt", (*_SYSTEM, "describe", "pods")),
    ("agents.log", (*_AGENTS, f"--tail={_LINES}")),
    ("agents-before.log", (*_AGENTS, "--previous", "--tail=1000")),
    ("operator.log", (*_SYSTEM, "logs", "--selector", "name=cilium-operator", "--prefix", f"--tail={_LINES}")),
)
AGENT: tuple[tuple[str, str], ...] = (
    ("status.txt", "status --verbose"),
    ("endpoints.txt", "endpoint list"),
    ("services.txt", "service list"),
    ("tunnels.txt", "bpf tunnel list"),
    ("metrics.txt", "bpf metrics list"),
)
"""Of `cilium-dbg` in each agent, which was called `cilium` before 1.15."""


class Place:
    """Where programs run: the engine's node, a machine, a cluster. Silent from then on when it did not answer."""

    def __init__(
        self, run: Callable[[Sequence[str]], Completed], as_typed: Callable[[Sequence[str]], str] = shlex.join
    ) -> None:
        self._run, self.as_typed = run, as_typed
        self._silent: LabError | None = None
        self._timeouts = 0
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._has_answered = False

    @classmethod
    def of(cls, commands: Commands, *before: str) -> Place:
        """Whatever `commands` reach, with the words that lead from there to it."""
        return cls(
            lambda argv: commands.run((*before, *argv), timeout_s=_COMMAND_S),
            lambda argv: shown(commands, (*before, *argv)),
        )

    def printed(self, argv: Sequence[str]) -> str:
        """What it prints on both streams. Raises LabError where the place does not answer. Until it has answered once,
        it is asked by one thread at a time."""
        if self._has_answered:
            return self._asked(argv)
        with self._first:
            return self._asked(argv)

    def _asked(self, argv: Sequence[str]) -> str:
        if self._silent is not None:
            raise self._silent
        try:
            done = self._run(argv)
        except LabError as failed:
            self._silent = failed
            raise
        if done.timed_out:
            with self._lock:
                self._timeouts += 1
                if self._timeouts >= _MOST_TIMEOUTS:
                    self._silent = MeasureFailed(
                        what="it does not answer any more",
                        cause=f"{self._timeouts} programs were not over in {_COMMAND_S:g} s",
                    )
            return f"{done.text}{done.error_text}\n[labctl: not over in {_COMMAND_S:g} s]\n"
        self._has_answered = True
        ended = f"\n[labctl: exit status {done.returncode}]\n" if done.returncode else ""
        return f"{done.text}{done.error_text}{ended}"

    def exhibit(self, file: str, argv: Sequence[str]) -> Exhibit:
        return Exhibit(file=file, source=self.as_typed(argv), read=lambda: self.printed(argv))


def node_exhibits(node: str, place: Place, more: Sequence[tuple[str, tuple[str, ...]]] = ()) -> Iterator[Exhibit]:
    for file, argv in (*NODE, *more):
        yield place.exhibit(f"nodes/{node}/{file}", argv)


def cluster_exhibits(place: Place, namespace: str) -> Iterator[Exhibit]:
    """`place` takes kubectl's arguments. The agents are asked for at once, since their names are in the list."""
    for file, arguments in CLUSTER:
        yield place.exhibit(f"cluster/{file}", arguments)
    yield place.exhibit("cluster/lab-pods-described.txt", ("-n", namespace, "describe", "pods"))
    yield place.exhibit("cluster/lab-pods.yaml", ("-n", namespace, "get", "pods,services", "-o", "yaml"))
    listed = (*_SYSTEM, "get", "pods", "--selector", "k8s-app=cilium", "-o", "json")
    try:
        agents = parse_pods(place.printed(listed))
    except LabError as failed:
        yield failing("agents/list.txt", place.as_typed(listed), failed)
        return
    for agent in agents:
        for file, words in AGENT:
            script = f"cilium-dbg {words} || cilium {words}"
            argv = (*_SYSTEM, "exec", agent.name, "--container", "cilium-agent", "--", "sh", "-c", script)
            yield place.exhibit(f"agents/{agent.node or agent.name}/{file}", argv)


def failing(file: str, source: str, why: LabError) -> Exhibit:
    """Something that could not even be listed."""

    def read() -> str:
        raise why

    return Exhibit(file=file, source=source, read=read)


def state_exhibits(lab_files: LabFiles) -> Iterator[Exhibit]:
    """The lab's files on this host, and what was kept of builds that failed; never the kubeconfig."""
    for path in _plain_files(lab_files.folder):
        if path.name != lab_files.kubeconfig.name:
            yield _file(f"state/{path.name}", path)
    for path in _plain_files(lab_files.logs):
        yield _file(f"logs/{path.name}", path)
    artifacts = lab_files.logs / "artifacts"
    runs = sorted(path for path in artifacts.iterdir() if path.is_dir()) if artifacts.is_dir() else []
    for run in runs[-_RUNS_KEPT:]:
        yield _file(f"logs/{run.name}.txt", run / "stdout")


def _plain_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return []


def _file(name: str, path: Path) -> Exhibit:
    return Exhibit(file=name, source=str(path), read=lambda: files.read_own(path).decode("utf-8", errors="replace"))


def kubeconfig_secrets(lab_files: LabFiles) -> tuple[str, ...]:
    """What in the lab's kubeconfig lets whoever has it in."""
    try:
        said = yaml.safe_load(read_state(lab_files.kubeconfig) or "{}")
        users: list[Mapping[str, object]] = [one["user"] for one in said.get("users") or ()]
        return tuple(str(user[key]) for user in users for key in SECRET_KEYS if user.get(key))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
