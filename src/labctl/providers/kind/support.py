"""What a kind lab shows for a support archive: the engine, node containers that carry its mark, the cluster in them.

It stands alone because only `labctl support` loads it. kubectl is run in the control plane's container: there it works
whatever became of the kubeconfig and of the way to the API server.
"""

from __future__ import annotations

from collections.abc import Iterator

from labctl.errors import LabError
from labctl.providers.base import Exhibit
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.support import Place, cluster_exhibits, failing, node_exhibits, state_exhibits
from labctl.providers.kind import clusters
from labctl.providers.kind.presence import CLUSTER_LABEL, argv_list
from labctl.providers.kind.settings import KindFiles

_ADMIN = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout=10s")


def exhibits(name: str, files: KindFiles, engine: str, commands: Commands) -> Iterator[Exhibit]:
    yield from state_exhibits(files)
    here = Place.of(commands)
    yield here.exhibit("engine/info.txt", (engine, "info"))
    yield here.exhibit("engine/version.txt", (engine, "version"))
    yield here.exhibit("engine/containers.txt", (engine, "ps", "--all", "--filter", f"label={CLUSTER_LABEL}"))
    yield here.exhibit("engine/images.txt", (engine, "image", "ls"))
    yield here.exhibit("engine/kind.txt", ("kind", "version"))
    try:
        found = clusters.nodes_of(commands, engine)
    except LabError as failed:
        yield failing("engine/nodes.txt", " ".join(argv_list(engine)), failed)
        return
    nodes = [node for node in found if node.mark is not None and node.mark.lab == name]
    for node in nodes:
        yield here.exhibit(f"nodes/{node.name}/container.json", (engine, "inspect", node.name))
        yield here.exhibit(f"nodes/{node.name}/boot.log", (engine, "logs", "--tail", "2000", node.name))
        if node.is_running:
            yield from node_exhibits(node.name, Place.of(commands, engine, "exec", node.name))
    leader = next((node for node in nodes if node.role == "control-plane" and node.is_running), None)
    if leader is not None:
        yield from cluster_exhibits(Place.of(commands, engine, "exec", leader.name, *_ADMIN), f"labctl-{name}")
