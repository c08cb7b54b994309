"""The acts that bring images to a kind lab: into the engine, from there into the nodes, and from mirrors. None acts.

`execute.py` carries them out; the other acts are `actions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.planning.shell import quoted, word
from labctl.providers.kind.actions import Act


@dataclass(frozen=True, slots=True, kw_only=True)
class HaveImage(Act):
    """Sees to it that the engine has an image: pulls it where that is allowed, else says that it is missing."""

    engine: str
    reference: str
    pull: bool
    timeout_s: float

    def shell(self) -> str:
        has = f"{quoted((self.engine, 'image', 'inspect', self.reference))} >/dev/null"
        return f"{has} 2>&1 || {quoted((self.engine, 'pull', self.reference))}" if self.pull else has


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadImage(Act):
    """Brings an image of the engine into every node: by kind, or, where that stumbles over a multi-platform image of
    which the engine has one platform only, by what kind does less its `--all-platforms`."""

    engine: str
    cluster: str
    nodes: tuple[str, ...]
    reference: str
    timeout_s: float

    @property
    def argv(self) -> tuple[str, ...]:
        return ("kind", "load", "docker-image", self.reference, "--name", self.cluster)

    def argv_save(self, archive: str) -> tuple[str, ...]:
        return (self.engine, "save", "--output", archive, self.reference)

    def argvs_import(self, archive: str, node: str) -> tuple[tuple[str, ...], ...]:
        """The node's own /tmp is a tmpfs that `cp` does not see."""
        inside = "/kind/labctl-image.tar"
        return (
            (self.engine, "cp", archive, f"{node}:{inside}"),
            (self.engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "import", "--digests", inside),
            (self.engine, "exec", node, "rm", "-f", inside),
        )

    def shell(self) -> str:
        return quoted(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesHaveImages(Act):
    """Stops when an image is missing on a node, and says on which."""

    engine: str
    nodes: tuple[str, ...]
    references: tuple[str, ...]

    def shell(self) -> str:
        lines = []
        for node in self.nodes:
            for reference in self.references:
                listed = quoted((self.engine, "exec", node, "ctr", "--namespace", "k8s.io", "images", "ls", "-q"))
                lines.append(f"{listed} | grep -qxF -e {word(stored_name(reference))}")
        return "\n".join(lines)


def stored_name(reference: str) -> str:
    """The name that containerd gives to a reference: with its registry, `library/` and tag spelt out."""
    name, _, digest = reference.partition("@")
    head, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in head and ":" not in head and head != "localhost":
        name = f"docker.io/{head}/{rest}"
    if digest:
        return f"{name}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMirrors(Act):
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
