"""What kind and kubeadm have in common of running tools: where they run, their files on this host, their error lines.

argv goes in and output comes out, on this host, on a machine over SSH, or by a test's script. A tool that failed is
described by its own error lines, whole, which are known by their form (kubeadm, kubelet, helm, kubectl, kind, docker,
containerd, crictl, apt, dpkg, dnf); warnings around them and everything else are for the file that keeps the output.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from labctl.errors import HostLacks, MeasureFailed, StepFailed, UsageError
from labctl.names import is_name
from labctl.planning.shell import word, written
from labctl.providers.base import Completed, Running
from labctl.system import files, process
from labctl.values import dataclass


class Commands(Protocol):
    """Runs programs somewhere. Tests script it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a person types before argv to run it there; empty for this host."""
        ...

    def find(self, program: str) -> str | None:
        """Where the program is, or None."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Runs argv to its end or its deadline. Raises HostLacks when the program is not there."""
        ...

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        """Starts argv; leaving the context ends it. `stdin` is what it reads, or a descriptor that it reads from; with
        `output`, a descriptor, its standard output goes there as it comes and is not kept. Both may be closed then."""
        ...


INSTALL = {
    "docker": "apt-get install docker.io  # or https://docs.docker.com/engine/install/",
    "podman": "apt-get install podman",
    "nerdctl": "# https://github.com/containerd/nerdctl/releases",
    "kind": "go install sigs.k8s.io/kind@v0.27.0  # or https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "# https://kubernetes.io/docs/tasks/tools/",
    "helm": "go install helm.sh/helm/v3/cmd/helm@v3.16.4  # or https://helm.sh/docs/intro/install/",
}


SPDY = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"
"""kubectl 1.31 and later try `exec` by websocket first. API servers before 1.30 refuse that, and kubectl then tries
SPDY, which every server accepts: with SPDY from the start, each `exec` needs one connection less."""


def as_run(argv: Sequence[str]) -> tuple[str, ...]:
    """argv as it is really run; what is shown to people is argv itself, which does the same."""
    return ("env", SPDY, *argv) if argv[0] == "kubectl" else tuple(argv)


class HostCommands:
    """The programs of this host, for a provider. `DOCKER_HOST`, docker contexts and KIND_EXPERIMENTAL_PROVIDER pass
    through."""

    prefix: tuple[str, ...] = ()

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def find(self, program: str) -> str | None:
        return process.find_program(program)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self._require(argv)
        done = process.run(as_run(argv), timeout_s=timeout_s, stdin=stdin)
        return replace(done, argv=tuple(argv))

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        self._require(argv)
        return process.Process(as_run(argv), stdin=stdin, output=output)

    def _require(self, argv: Sequence[str]) -> None:
        if self.find(argv[0]) is None:
            raise HostLacks(
                what=f"the {self._provider} provider needs {argv[0]}, which is not on this host",
                remedy=INSTALL.get(argv[0], f"labctl doctor --provider {self._provider}"),
            )


def shown(commands: Commands, argv: Sequence[str]) -> str:
    """argv as it can be pasted into a shell of this host."""
    return pasted(commands.prefix, argv)


def pasted(prefix: Sequence[str], argv: Sequence[str]) -> str:
    """Behind ssh a second shell reads the words, so they are quoted once more where that matters."""
    there = shlex.join(argv)
    if not prefix:
        return there
    return shlex.join(prefix) + " " + (there if there == " ".join(argv) else shlex.quote(there))


def with_kubeconfig(text: str, commands: Commands, kubectl: Sequence[str]) -> str:
    """A remedy that begins with a bare `kubectl`, for this cluster and from this host."""
    found = text.removeprefix("kubectl ")
    return text if found == text else f"{shown(commands, kubectl)} {found}"


def must(commands: Commands, argv: Sequence[str], *, timeout_s: float) -> Completed:
    """Runs argv to look at something. Raises MeasureFailed when it fails."""
    done = commands.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode != 0:
        lines = done.error_text.strip().splitlines() or done.text.strip().splitlines()
        last = lines[-1] if lines else f"exit status {done.returncode}, and no output"
        begun = " ".join(argv[:2])
        raise MeasureFailed(
            what=f"{begun} … did not end within {timeout_s:g} s" if done.timed_out else f"{begun} … failed",
            cause=joined(errors_in(done.error_text)) or last,
            remedy=shown(commands, argv),
        )
    return done


LOGS, BUNDLES = "logs", "bundles"
"""What else is in a provider's folder, beside the labs'."""

RECORD = "lab.json"
"""The resolved lab, once it is whole."""


def state_root(provider: str) -> Path:
    """Where labs of that provider keep kubeconfig, rendered chart and logs: below XDG_STATE_HOME."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "labctl" / provider


def kept(root: Path, record: str) -> list[Path]:
    """That file of each lab in a provider's folder. One that this person may not enter has none of theirs."""
    try:
        return sorted(root.glob(f"*/{record}"))
    except PermissionError:
        return []


def is_lab_folder(name: str) -> bool:
    """True for what a lab's folder in a provider's may be called."""
    return is_name(name) and name not in (LOGS, BUNDLES)


def read_state(path: Path) -> str | None:
    """The text of one of a lab's own files; None when it is missing, or when another user could have written it."""
    try:
        return files.read_own(path).decode("utf-8", errors="replace")
    except OSError:
        return None


def write_private(path: Path, text: str) -> None:
    """Writes one of a lab's own files. Raises StepFailed where the disk does not take it, and where another user could
    write to the folder."""
    try:
        files.write_own(path, text.encode())
    except OSError as failed:
        raise StepFailed(
            what=f"cannot write {path}",
            cause=failed.strerror or str(failed),
            remedy=f"df -h {path.parent}; or set XDG_STATE_HOME to another folder",
        ) from failed


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFile:
    """The act that puts text into one of the lab's own files on this host."""

    path: Path
    text: str

    def shell(self) -> str:
        return f"mkdir -p -m 700 {word(self.path.parent)}\n{written(self.path, self.text)}\nchmod 600 {word(self.path)}"

    def record(self) -> Mapping[str, object]:
        return {"kind": "write-file", "path": str(self.path), "text": self.text, "mode": 0o600}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFiles:
    """The files of one lab: nothing of it is the user's `~/.kube`. `record` is the resolved lab, once it is whole."""

    folder: Path
    logs: Path

    @classmethod
    def of(cls, root: Path, name: str) -> Self:
        """Those of the lab of that name below the provider's folder. Raises UsageError for what is not a lab's name: it
        would lead to a folder that is not the lab's."""
        if not is_lab_folder(name):
            raise UsageError(
                what=f"{name[:60]!r} is not a valid lab name",
                cause="names have lower-case letters, digits and hyphens, at most 40 characters, and are not "
                f"{LOGS} or {BUNDLES}, which labctl uses itself",
                remedy="labctl list  # shows the labs that are up",
            )
        return cls(folder=root / name, logs=root / LOGS / name)

    def remove(self) -> None:
        """Removes the lab's folder; its logs stay. Raises StepFailed."""
        try:
            files.remove_tree(self.folder)
        except OSError as failed:
            raise StepFailed(
                what=f"cannot remove {self.folder}",
                cause=failed.strerror or str(failed),
                remedy=f"ls -la {self.folder}",
            ) from failed

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def values(self) -> Path:
        return self.folder / "cilium-values.yaml"

    @property
    def rendered(self) -> Path:
        return self.folder / "cilium.yaml"

    @property
    def workloads(self) -> Path:
        return self.folder / "workloads.yaml"

    @property
    def charts(self) -> Path:
        return self.folder / "charts"

    @property
    def record(self) -> Path:
        return self.folder / RECORD


LONGEST = 4000
"""Characters that the errors of one failure may have; more is the machine's business, and is in the file."""
_LEAST_KNOWN = 3
_WARNING = re.compile(
    r"\s*\[WARNING |W\d{4} \d\d:|(?:time=\S+ )?level=warn|W: |WARN\[|(?:\w+: )?(?:WARNING|Warning|warning)[: ]"
    r"|debconf: "
)
"""kubeadm, klog (Kubernetes), logrus (containerd, docker), apt, crictl, helm and kubectl, debconf."""
_CAUSES = re.compile(
    r"\s*\[ERROR [\w.-]+\]"  # a preflight check of kubeadm
    r"|the kubelet says: |labctl: "  # from labctl's own scripts on the machine
    r"|The following packages have unmet dependencies:"  # apt
    r"|dpkg: error "
    r"| Problem(?: \d+)?: "  # dnf
)
"""Lines that name the cause itself; they go first."""
_ERRORS = re.compile(
    r"error execution phase |Unfortunately, an error has occurred:"  # kubeadm
    r"|Error: |ERROR: |error: |panic: |fatal: "  # helm, dnf; kind, docker compose; kubectl and kubeadm
    r"|Error from server|Unable to connect to the server: |The connection to the server "  # kubectl
    r"|The \S+ \"[^\"]*\" is invalid:"
    r"|Error response from daemon: |Cannot connect to the Docker daemon"
    r"|(?:docker|ctr|crictl|containerd|runc|apt-get|modprobe|sysctl|systemctl|kubelet|nft|iptables): "
    r"|FATA\[\d+\] |(?:time=\S+ )?level=(?:fatal|panic) "
    r"|F\d{4} \d\d:\d\d:\d\d"
    r"|E: |Err:\d+ "  # apt
    r"|(?:Job for \S+ failed|Failed to (?:start|restart|enable|reload) )"  # systemctl
)
_LOGGED = re.compile(r"E\d{4} \d\d:\d\d:\d\d|(?:time=\S+ )?level=error |ERRO\[\d+\] ")
"""Errors in a log: a program that goes on logs them, too, so they count where nothing better was said."""
_INSIDE = re.compile(r"(?:failed: |stderr: )(?=E: |Error: |error: |error execution phase )")
"""A tool's error behind the words of a module of Ansible that ran it."""
_CONTINUED = re.compile(r"\s+\S|[-*] |, ")
_ONLY_SUMS_UP = re.compile(r"error execution phase preflight: \[preflight\] Some fatal errors occurred:?$")


def errors_in(text: str) -> tuple[str, ...]:
    """Every error that the output tells, each whole and in one line, the causes first; empty where no line has the
    form of an error. Warnings, and lines that belong to a warning, are never among them."""
    causes: dict[str, None] = {}
    errors: dict[str, None] = {}
    logged: dict[str, None] = {}
    for kind, words in _told(text.splitlines()):
        {"cause": causes, "error": errors, "logged": logged}[kind].setdefault(words)
    if causes:
        errors = {words: None for words in errors if not _ONLY_SUMS_UP.match(words)}
    found = (*causes, *errors)
    return found or tuple(logged)[-_LEAST_KNOWN:]


def joined(errors: Iterable[str]) -> str:
    """The errors as one text, which ends with `…` where there is more than `LONGEST` of it."""
    text = "; ".join(errors)
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()}…"


def _told(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(kind, whole error) in the order of the lines. A line that is indented, a list's, or announced by a colon
    belongs to the one before it."""
    kind, parts = "", [""]
    for raw in lines:
        line = raw.rstrip()
        if inside := _INSIDE.search(line):
            line = line[inside.end() :]
        begins = _kind(line)
        is_more = _CONTINUED.match(line) or parts[-1].endswith(":")
        if not begins and line and kind and is_more:
            parts.append(line.strip())
            continue
        if not begins and not line and parts[-1].endswith(":"):
            continue
        if kind in ("cause", "error", "logged"):
            yield kind, " ".join(parts)
        kind, parts = begins, [line.strip()]
    if kind in ("cause", "error", "logged"):
        yield kind, " ".join(parts)


def _kind(line: str) -> str:
    """What kind of line begins here: a cause, an error, one of a log, a warning; empty for any other."""
    for kind, form in (("warning", _WARNING), ("cause", _CAUSES), ("error", _ERRORS), ("logged", _LOGGED)):
        if form.match(line):
            return kind
    return ""
