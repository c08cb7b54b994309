"""The door to docker, kind, kubectl and helm: argv in, what they printed out. Owns no knowledge of any of them.

Which container engine kind will use here, and how it lists kind's node containers. Pure but for the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from labctl.errors import HostLacks
from labctl.providers.base import Completed, Running
from labctl.providers.cilium.commands import Commands as Commands
from labctl.system import process

INSTALL = {
    "docker": "apt-get install docker.io  # or https://docs.docker.com/engine/install/",
    "podman": "apt-get install podman",
    "nerdctl": "# https://github.com/containerd/nerdctl/releases",
    "kind": "go install sigs.k8s.io/kind@v0.27.0  # or https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "# https://kubernetes.io/docs/tasks/tools/",
    "helm": "go install helm.sh/helm/v3/cmd/helm@v3.16.4  # or https://helm.sh/docs/intro/install/",
}


SPDY = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"
"""kubectl 1.31 and later try `exec` by websocket first. API servers before 1.30 refuse that, and kubectl then asks
again by SPDY, which every server takes: asked for at once, each `exec` is one connection less."""


def as_run(argv: Sequence[str]) -> tuple[str, ...]:
    """argv as it is really run; what is shown to people is argv itself, which does the same."""
    return ("env", SPDY, *argv) if argv[0] == "kubectl" else tuple(argv)


class HostCommands:
    """The programs of this host. `DOCKER_HOST`, docker contexts and KIND_EXPERIMENTAL_PROVIDER pass through."""

    prefix: tuple[str, ...] = ()

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
                what=f"the kind provider needs {argv[0]}, which is not on this host",
                remedy=INSTALL.get(argv[0], "labctl doctor --provider kind"),
            )


ENGINES = ("docker", "nerdctl", "podman")
"""In the order in which kind looks for them."""
CLUSTER_LABEL = "io.x-k8s.kind.cluster"
ROLE_LABEL = "io.x-k8s.kind.role"


def engine_of(environment: Mapping[str, str], find: Callable[[str], str | None]) -> str:
    """The engine that kind will use: the one that KIND_EXPERIMENTAL_PROVIDER names, else the first that is there."""
    named = environment.get("KIND_EXPERIMENTAL_PROVIDER", "")
    if named in ENGINES:
        return named
    return next((engine for engine in ENGINES if find(engine)), ENGINES[0])


def engine_here(find: Callable[[str], str | None]) -> str:
    return engine_of(os.environ, find)


def argv_list(engine: str, cluster: str = "") -> tuple[str, ...]:
    """Names of the node containers, of every kind cluster or of one, running or not."""
    chosen = f"label={CLUSTER_LABEL}={cluster}" if cluster else f"label={CLUSTER_LABEL}"
    return (engine, "ps", "--all", "--filter", chosen, "--format", "{{.Names}}")
