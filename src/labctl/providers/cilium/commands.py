"""How programs are run: argv in, their output out. On this host, on a machine over SSH, or by a test's script.

Where a lab on real Cilium keeps its own files on this host; what kind and kubeadm have in common.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from labctl.errors import HostLacks, MeasureFailed, StepFailed, UsageError
from labctl.names import is_name
from labctl.planning.shell import word, written
from labctl.providers.base import Completed, Running
from labctl.providers.cilium.tool_errors import errors_in, joined
from labctl.system import files, process


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
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        """Starts argv; leaving the context ends it. With `output`, a descriptor, its standard output goes there as it
        comes and is not kept."""
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
        self, argv: Sequence[str], *, stdin: bytes = b"", output: int | None = None
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
