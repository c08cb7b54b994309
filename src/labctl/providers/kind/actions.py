"""The acts that a kind lab is built from, as frozen values. Each knows its shell equivalent and its record; none acts.

`execute.py` carries them out.

The acts that bring images to a kind lab: into the engine, from there into the nodes, and from mirrors. None acts.

`execute.py` carries them out; the other acts are `actions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from labctl.planning.shell import quoted, remark, with_environment, word
from labctl.providers.cilium.images import in_full
from labctl.providers.cilium.values import Wanted, expected_config
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KindAct:
    def record(self) -> Mapping[str, object]:
        name = re.sub(r"(?<!^)([A-Z])", r"-\1", type(self).__name__).lower()
        return {"kind": name, **{key: _plain(value) for key, value in asdict(self).items()}}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(KindAct):
    """One command of a tool. `remedy` is for its failure, where the tool's own words give none."""

    argv: tuple[str, ...]
    timeout_s: float
    remedy: str = ""

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseForeign(KindAct):
    """Stops when a cluster of that name exists that does not carry this lab's mark."""

    engine: str
    cluster: str
    lab: str

    def shell(self) -> str:
        listed = quoted(
            (
                self.engine,
                "ps",
                "-a",
                "--filter",
                f"label=io.x-k8s.kind.cluster={self.cluster}",
                "--format",
                "{{.Names}}",
            )
        )
        said = word(f"a cluster named {self.cluster} exists already")
        return f"! {listed} | grep -q . || {{ printf '%s\\n' {said} >&2; exit 1; }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseOverlap(KindAct):
    """Stops when another lab's pods or Services have addresses of these ranges."""

    lab: str
    ranges: tuple[str, ...]

    def shell(self) -> str:
        return remark(f"the ranges {', '.join(self.ranges)} must not be another cluster's on this host")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderChart(KindAct):
    """Renders the chart into a file: what is verified is what is applied."""

    argv: tuple[str, ...]
    output: Path
    timeout_s: float

    def shell(self) -> str:
        return f"{quoted(self.argv)} > {word(self.output)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyChart(KindAct):
    """Compares the rendered `cilium-config` with what was meant, and the user's values with what the chart knows.

    `images` are those that the nodes will have, where nothing may be fetched; None where the chart may name others."""

    rendered: Path
    chart: str
    wanted: Wanted
    user_values: Mapping[str, object]
    images: tuple[str, ...] | None = None

    def shell(self) -> str:
        lines = []
        for key, meant in expected_config(self.wanted, self.user_values).items():
            if meant is None:
                expression, wants = f"^  {key}: ", "! "
            elif meant == "false" and key == "enable-bpf-masquerade":
                expression, wants = f'^  {key}: "?true"?$', "! "
            else:
                expression, wants = f'^  {key}: "?{re.escape(meant)}"?$', ""
            lines.append(f"{wants}grep -qE {word(expression)} {word(self.rendered)}")
        return "\n".join(lines)

    def record(self) -> Mapping[str, object]:
        return {
            "kind": "verify-chart",
            "rendered": str(self.rendered),
            "chart": self.chart,
            "expected": expected_config(self.wanted, self.user_values),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCluster(KindAct):
    """`kind create cluster`; a whole cluster of this very lab (`digest`) that is there already is kept, half a one or
    one that was made from another content is replaced."""

    engine: str
    cluster: str
    lab: str
    digest: str
    nodes: tuple[str, ...]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    kubeconfig: Path
    timeout_s: float

    def shell(self) -> str:
        return f"{with_environment(self.environment, self.argv)}\nchmod 600 {word(self.kubeconfig)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteCluster(KindAct):
    """Removes the cluster, if it carries this lab's mark."""

    engine: str
    cluster: str
    lab: str
    kubeconfig: Path
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        return ("kind", "delete", "cluster", "--name", self.cluster, "--kubeconfig", str(self.kubeconfig))

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectLogs(KindAct):
    """Keeps what a failed build said: `kind export logs`, the agents' logs, the events. Never fails."""

    cluster: str
    kubeconfig: Path
    folder: Path
    timeout_s: float

    @property
    def argvs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        kubectl = ("kubectl", "--kubeconfig", str(self.kubeconfig), "--request-timeout=10s")
        return (
            ("kind-export.txt", ("kind", "export", "logs", str(self.folder / "kind"), "--name", self.cluster)),
            ("pods.txt", (*kubectl, "get", "pods", "-A", "-o", "wide")),
            ("events.txt", (*kubectl, "get", "events", "-A", "--sort-by=.lastTimestamp")),
            (
                "agents.txt",
                (
                    *kubectl,
                    "-n",
                    "kube-system",
                    "logs",
                    "-l",
                    "k8s-app=cilium",
                    "-c",
                    "cilium-agent",
                    "--prefix",
                    "--tail=500",
                ),
            ),
        )

    def shell(self) -> str:
        lines = [f"mkdir -p {word(self.folder)}"]
        for name, argv in self.argvs:
            lines.append(f"{quoted(argv)} > {word(self.folder / name)} 2>&1 || true")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartAgents(KindAct):
    """Restarts every Cilium agent, so that it reads its configuration again. `WaitForPods` waits for the last one."""

    kubectl: tuple[str, ...]
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self.kubectl, "-n", "kube-system", "rollout", "restart", "daemonset/cilium")

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class HaveImage(KindAct):
    """Makes sure that the engine has an image: pulls it where that is allowed, else reports that it is missing."""

    engine: str
    reference: str
    pull: bool
    timeout_s: float

    def shell(self) -> str:
        has = f"{quoted((self.engine, 'image', 'inspect', self.reference))} >/dev/null"
        return f"{has} 2>&1 || {quoted((self.engine, 'pull', self.reference))}" if self.pull else has


IN_NODE = "/kind/labctl-images.tar"
"""Where an archive is in a node while it is imported: the node's own /tmp is a tmpfs that `cp` does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadImages(KindAct):
    """Brings images of the engine into the nodes that lack them: all in one archive, imported on all of these nodes at
    once, by kind, or, where that fails on a multi-platform image of which the engine has one platform only and with
    engines other than docker, by kind's own steps without `--all-platforms`."""

    engine: str
    cluster: str
    nodes: tuple[str, ...]
    references: tuple[str, ...]
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        return self.argv_load(self.references, self.nodes)

    def argv_ids(self, reference: str) -> tuple[str, ...]:
        return (self.engine, "image", "inspect", reference)

    def argv_load(self, references: tuple[str, ...], nodes: tuple[str, ...]) -> tuple[str, ...]:
        """kind saves them once, leaves out what a node has, and imports on all nodes at the same time."""
        chosen = () if nodes == self.nodes else ("--nodes", ",".join(nodes))
        return ("kind", "load", "docker-image", *references, "--name", self.cluster, *chosen)

    def argv_save(self, archive: str, references: tuple[str, ...]) -> tuple[str, ...]:
        return (self.engine, "save", "--output", archive, *references)

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadArchives(KindAct):
    """Brings what is in image archives into the nodes that lack it: each archive on all of these nodes at once."""

    engine: str
    cluster: str
    nodes: tuple[str, ...]
    archives: tuple[str, ...]
    timeout_s: float

    def argv_load(self, archive: str, nodes: tuple[str, ...]) -> tuple[str, ...]:
        chosen = () if nodes == self.nodes else ("--nodes", ",".join(nodes))
        return ("kind", "load", "image-archive", archive, "--name", self.cluster, *chosen)

    def shell(self) -> str:
        return "\n".join(quoted(self.argv_load(archive, self.nodes)) for archive in self.archives)


def argvs_import(engine: str, archive: str, node: str) -> tuple[tuple[str, ...], ...]:
    return (
        (engine, "cp", archive, f"{node}:{IN_NODE}"),
        (engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "import", "--digests", IN_NODE),
        (engine, "exec", node, "rm", "-f", IN_NODE),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesHaveImages(KindAct):
    """Stops when an image is missing on a node, and says on which."""

    engine: str
    nodes: tuple[str, ...]
    references: tuple[str, ...]

    def shell(self) -> str:
        lines = []
        for node in self.nodes:
            for reference in self.references:
                listed = quoted((self.engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "ls", "-q"))
                lines.append(f"{listed} | grep -qxF -e {word(in_full(reference))}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMirrors(KindAct):
    """Tells each node's containerd to ask a mirror for one registry's images."""

    engine: str
    nodes: tuple[str, ...]
    registry: str
    mirror: str

    @property
    def text(self) -> str:
        return f'server = "https://{self.registry}"\n\n[host."{self.mirror}"]\n  capabilities = ["pull", "resolve"]\n'

    @property
    def script(self) -> str:
        folder = f"/etc/containerd/certs.d/{self.registry}"
        return f"mkdir -p {word(folder)} && cat > {word(folder + '/hosts.toml')}"

    def argv(self, node: str) -> tuple[str, ...]:
        return (self.engine, "exec", "-i", node, "sh", "-c", self.script)

    def shell(self) -> str:
        return "\n".join(f"printf '%s' {word(self.text)} | {quoted(self.argv(node))}" for node in self.nodes)
