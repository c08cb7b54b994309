"""A lab as the kind provider reads it: sections validated, names, versions, images and places decided. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.sections import Cilium, ControlPlane, KindCluster
from labctl.model.versions import Version
from labctl.providers.cilium.commands import LabFiles
from labctl.providers.cilium.settings import Cluster, section_of
from labctl.providers.cilium.values import split_reference
from labctl.providers.kind.endpoint import HERE, LOOPBACK, EngineEndpoint
from labctl.values import dataclass

CLUSTER_PREFIX = "labctl-"
API_PORT = 6443
UPLINK = "eth0"
DEFAULT_KUBERNETES = "1.32.2"

NODE_IMAGES: Mapping[str, str] = {
    "1.20.2": "kindest/node:v1.20.2@sha256:8f7ea6e7642c0da54f04a7ee10431549c0257315b3a634f6ef2fecaaedb19bab",
    "1.21.1": "kindest/node:v1.21.1@sha256:69860bda5563ac81e3c0057d654b5253219618a22ec3a346306239bba8cfa1a6",
    "1.23.4": "kindest/node:v1.23.4@sha256:0e34f0d0fd448aa2f2819cfd74e99fe5793a6e4938b328f657c8e3f81ee0dfb9",
    "1.24.0": "kindest/node:v1.24.0@sha256:0866296e693efe1fed79d5e6c7af8df71fc73ae45e3679af05342239cdc5bc8e",
    "1.25.3": "kindest/node:v1.25.3@sha256:f52781bc0d7a19fb6c405c2af83abfeb311f130707a0e219175677e366cc45d1",
    "1.26.3": "kindest/node:v1.26.3@sha256:61b92f38dff6ccc29969e7aa154d34e38b89443af1a2c14e6cfbd2df6419c66f",
    "1.27.3": "kindest/node:v1.27.3@sha256:3966ac761ae0136263ffdb6cfd4db23ef8a83cba8a463690e98317add2c9ba72",
    "1.29.2": "kindest/node:v1.29.2@sha256:51a1434a5397193442f0be2a297b488b6c919ce8a3931be0ce822606ea5ca245",
    "1.30.0": "kindest/node:v1.30.0@sha256:047357ac0cfea04663786a612ba1eaba9702bef25227a794b52890dd8bcd692e",
    "1.31.2": "kindest/node:v1.31.2@sha256:18fbefc20a7113353c7b75b5c869d7145a6abd6269154825872dc59c1329912e",
    "1.32.2": "kindest/node:v1.32.2@sha256:f226345927d7e348497136874b6d207e0b32cc52154ad8323129352923a3142f",
    "1.33.1": "kindest/node:v1.33.1@sha256:050072256b9a903bd914c0b2866828150cb229cea0efe5892e2b644d5dd3b34f",
    "1.34.0": "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a",
    "1.35.0": "kindest/node:v1.35.0@sha256:452d707d4862f52530247495d180205e029056831160e22870e37e3f6c1ac31f",
    "1.36.1": "kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5",
}
"""The default node image of each kind release (pkg/apis/config/defaults/image.go), newest release per version."""

_TAG = re.compile(r":v?(\d+\.\d+\.\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFiles(LabFiles):
    """With the cluster's configuration."""

    @property
    def kind_config(self) -> Path:
        return self.folder / "kind.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSettings(Cluster):
    """Everything decided. The Kubernetes nodes are also the containers."""

    cluster: KindCluster
    cluster_name: str
    node_image: str
    nodes: Mapping[str, str]
    control_planes: tuple[str, ...]
    files: KindFiles
    endpoint: EngineEndpoint

    @property
    def all_nodes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.control_planes, *self.nodes.values())))

    @property
    def api_server_address(self) -> str:
        """Where the API server is published: 127.0.0.1 of another host is not 127.0.0.1 here. Empty when the engine is
        on a host whose name does not resolve."""
        return self.cluster.api_server_address or (self.endpoint.address if self.endpoint.is_remote else LOOPBACK)

    @property
    def api_server_port(self) -> int:
        """0 lets kind look for a free port by listening at the address itself, which it can only where that is this
        host's: -1 leaves it to the engine."""
        return self.cluster.api_server_port or (0 if self.api_server_address == LOOPBACK else -1)

    @property
    def tools_image(self) -> str:
        return self.cluster.tools_image

    @property
    def pulls_images(self) -> bool:
        return self.cluster.pull

    def uplink(self, node: str) -> str:
        """The engine gives every container its network as `eth0`."""
        return UPLINK

    @property
    def api_host(self) -> str:
        """The API server's name on the engine's network, which the nodes resolve."""
        if len(self.control_planes) > 1:
            return f"{self.cluster_name}-external-load-balancer"
        return self.control_planes[0]

    @property
    def api_port(self) -> int:
        return API_PORT

    @property
    def cilium_devices(self) -> str:
        return self.cluster.devices

    @property
    def extra_images(self) -> tuple[str, ...]:
        return tuple(self.cluster.extra_images)

    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        """The user's context is never read."""
        return ("kubectl", "--kubeconfig", str(self.files.kubeconfig), *arguments)


def read_settings(lab: Lab, root: Path, endpoint: EngineEndpoint = HERE) -> KindSettings:
    """Raises UsageError for what cannot be decided from the scenario alone. `endpoint` is where the engine is."""
    cluster = section_of(KindCluster, lab, "kindCluster")
    cilium = section_of(Cilium, lab, "cilium")
    image, kubernetes = _node_image(cluster)
    version = Version.parse(cilium.version)
    _refuse_operator_image(cilium, version)
    cluster_name = f"{CLUSTER_PREFIX}{lab.name}"
    nodes, control_planes = _nodes(lab, cluster, cluster_name)
    return KindSettings(
        lab=lab,
        cluster=cluster,
        cilium=cilium,
        cluster_name=cluster_name,
        node_image=image,
        kubernetes=kubernetes,
        cilium_version=version,
        nodes=nodes,
        control_planes=control_planes,
        files=KindFiles.of(root, lab.name),
        endpoint=endpoint,
    )


def _refuse_operator_image(cilium: Cilium, version: Version) -> None:
    """Charts before 1.12 append the suffix to the name themselves, and accept no full reference."""
    image = cilium.operator_image or ""
    if not image or version.series >= (1, 12) or split_reference(image)[0].endswith("-generic"):
        return
    name, tag = split_reference(image)
    raise UsageError(
        what=f"cilium.operatorImage: the chart of Cilium {version} cannot use {image}",
        cause="it appends -generic to the name itself",
        remedy=f"docker tag {image} {name}-generic:{tag}, and cilium.operatorImage: {name}-generic:{tag}",
        key="cilium.operatorImage",
    )


def _node_image(cluster: KindCluster) -> tuple[str, Version]:
    version = (cluster.kubernetes or "").removeprefix("v")
    if cluster.image is None:
        version = version or DEFAULT_KUBERNETES
        if version not in NODE_IMAGES:
            raise UsageError(
                what=f"labctl knows no node image of Kubernetes {version}",
                cause=f"it knows the defaults of kind's releases: {', '.join(NODE_IMAGES)}",
                remedy=f"kindCluster.image: kindest/node:v{version}@sha256:… "
                "(digests: https://github.com/kubernetes-sigs/kind/releases)",
                key="kindCluster.kubernetes",
            )
        return NODE_IMAGES[version], Version.parse(version)
    tag = _TAG.search(cluster.image.partition("@")[0])
    if not version and tag is None:
        raise UsageError(
            what=f"the Kubernetes version of the node image {cluster.image} is not known",
            cause="its tag does not show it, and value names and checks depend on it",
            remedy='set it: kindCluster.kubernetes: "1.20.2"',
            key="kindCluster.image",
        )
    return cluster.image, Version.parse(version or (tag.group(1) if tag else ""))


def _nodes(lab: Lab, cluster: KindCluster, name: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """kind calls its nodes NAME-control-plane, NAME-control-plane2, NAME-worker, NAME-worker2, …

    The control plane is kept apart from the pods where the scenario leaves a node without any.
    """
    control_planes = tuple(
        f"{name}-control-plane{number if number > 1 else ''}" for number in range(1, cluster.control_planes + 1)
    )
    leader = lab.nodes[0].name if cluster.control_plane is ControlPlane.FIRST else ""
    if cluster.control_plane is ControlPlane.AUTO:
        leader = next((node.name for node in reversed(lab.nodes) if not lab.pods_on(node.name)), "")
    workers = [node.name for node in lab.nodes if node.name != leader]
    roles = {worker: f"{name}-worker{n if n > 1 else ''}" for n, worker in enumerate(workers, start=1)}
    return {node.name: roles.get(node.name, control_planes[0]) for node in lab.nodes}, control_planes
