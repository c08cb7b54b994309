"""Faults of Kubernetes clusters, in the form of `table`: programs of a node that are stopped. Pure.

They are put on the server's node of a pair across nodes, as the seed chooses. It stands alone because these faults are
commands on a node, and none of what `places` knows of namespaces.
"""

from __future__ import annotations

from labctl.faults.places import Across, Unfit
from labctl.faults.table import FaultEntry
from labctl.model.fault import Command, FaultAct, FaultSite, FaultText
from labctl.model.lab import Lab

_STOP = ("systemctl", "stop", "kubelet")
_START = ("systemctl", "start", "kubelet")
_STOP_AGENT = ("sh", "-c", 'crictl stop $(crictl ps --quiet --name "^cilium-agent$")')


def _on_servers_node(across: Across, breaks: tuple[FaultAct, ...]) -> FaultSite:
    node = across.there.name
    return FaultSite(
        where=node,
        pair=(across.client.name, across.server.name),
        breaks=breaks,
        mends=(Command(part=node, argv=_START),),
    )


def stopped_kubelet(lab: Lab, across: Across) -> FaultSite:
    del lab
    return _on_servers_node(across, (Command(part=across.there.name, argv=_STOP),))


def stopped_agent(lab: Lab, across: Across) -> FaultSite:
    """The kubelet would start the agent again at once: it is stopped first."""
    if lab.pod_network.is_of_a_cluster:
        raise Unfit(f"the pod network of this lab is {lab.cni or lab.pod_network.type}, which has no agent of Cilium")
    node = across.there.name
    return _on_servers_node(across, (Command(part=node, argv=_STOP), Command(part=node, argv=_STOP_AGENT)))


CLUSTER_FAULTS: tuple[FaultEntry, ...] = (
    FaultEntry(
        text=FaultText(
            name="stopped-kubelet",
            what="the kubelet of the server's node is stopped",
            seen="the node is NotReady after 40 s, and nothing starts on it; packets of pods that are there go on",
            finds="labctl diff LAB",
            named="NotReady",
            repair="systemctl start kubelet on that node",
        ),
        place=stopped_kubelet,
    ),
    FaultEntry(
        text=FaultText(
            name="stopped-agent",
            what="Cilium's agent on the server's node is stopped, and the kubelet, which would start it again",
            seen="what its programs do goes on; nothing new reaches them: no pod, no Service, no node",
            finds="labctl status LAB; labctl diff LAB",
            named="NotReady",
            repair="systemctl start kubelet on that node, which starts the agent",
        ),
        place=stopped_agent,
    ),
)
