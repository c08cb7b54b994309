"""A lab as a plan for kind: which steps, in which order, each with its undo. Pure.

Order: errors that can be known beforehand are found before the cluster costs a minute (foreign cluster, images, the
rendered chart), then the cluster, images into nodes, Cilium, pods. The whole plan is also a shell script.
"""

from __future__ import annotations

from pathlib import Path

from labctl.errors import UsageError
from labctl.model.plan import Action, Plan, Step
from labctl.planning.shell import remark
from labctl.providers.cilium.commands import WriteFile
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.manifest import KINDNET, manifest_of
from labctl.providers.cilium.settings import refuse_unfit
from labctl.providers.cilium.waiting import WaitForNodes, WaitForPods
from labctl.providers.cilium.workloads import CONTAINER, ENDED, LAB_LABEL, nodes_with_helper
from labctl.providers.cilium.workloads import workloads as workloads_text
from labctl.providers.kind.actions import (
    CollectLogs,
    Command,
    CreateCluster,
    DeleteCluster,
    HaveImage,
    LoadArchives,
    LoadImages,
    NodesHaveImages,
    RefuseForeign,
    RefuseOverlap,
    RenderChart,
    RestartAgents,
    VerifyChart,
    WriteMirrors,
)
from labctl.providers.kind.config import kind_config, mark_of
from labctl.providers.kind.outside import NETWORK, RemoveOutside, StartOutside, container_of
from labctl.providers.kind.settings import KindSettings

AGENTS = "k8s-app=cilium"
OPERATOR = "name=cilium-operator"
_QUICK_S = 60.0
_SERVICE_S = 0.2
"""For an extra Service and its EndpointSlice: kubectl asks for each first, and keeps to 50 requests a second."""
_PULL_S = 1800.0


def refuse(settings: KindSettings) -> None:
    """Raises UsageError for pairs of versions that cannot work, for values that do not take effect, and for what real
    Cilium does not do."""
    refuse_unfit(settings.lab, settings.cilium, settings.kubernetes)
    manifest_of(settings.lab)


def plan_lab(settings: KindSettings, engine: str) -> Plan:
    """Raises UsageError as `refuse` does, and for an engine on a host whose address is not known."""
    _refuse_unknown_host(settings)
    refuse(settings)
    return Plan(
        lab=settings.lab.name,
        provider="kind",
        steps=tuple(
            step
            for step in (
                _look(settings, engine),
                _images(settings, engine),
                _chart(settings),
                _cluster(settings, engine),
                _load(settings, engine),
                _outside(settings, engine),
                _cilium(settings) if has_cilium(settings.lab) else _network(settings),
                pods_step(settings),
            )
            if step.actions
        ),
        preamble=(
            "# Needs: docker (or podman, nerdctl), kind, kubectl, helm. Everything of the lab is in the cluster\n"
            + remark(f"{settings.cluster_name} and in {settings.files.folder}; your own ~/.kube/config is not touched.")
            + "\n"
            "umask 077"
        ),
    )


def plan_switch(before: KindSettings, after: KindSettings) -> Plan:
    """From one datapath of Cilium to another on the cluster that is there: configuration, agents restarted, new pods.

    Both labs have the same nodes and pods. Pods are created again because a pod keeps the route MTU of its creation.
    """
    remove = Command(
        argv=after.kubectl("-n", after.namespace, "delete", "pods", "-l", LAB_LABEL, "--wait", "--timeout=120s"),
        timeout_s=150.0,
    )
    if not has_cilium(after.lab):
        title = f"{after.mode} stays: there is nothing of Cilium to switch, pods are made again"
        again = Step(id="switch", title=title, actions=(remove,))
        return Plan(lab=after.lab.name, provider="kind", steps=(again, pods_step(after)))
    after_steps = (
        _chart(after),
        Step(
            id="switch",
            title=f"Cilium: {before.mode} → {after.mode}",
            actions=(
                _apply(after, after.files.rendered),
                RestartAgents(kubectl=after.kubectl(), timeout_s=after.cluster.ready_timeout_s),
                _wait_for_agents(after),
                remove,
            ),
        ),
        pods_step(after),
    )
    return Plan(lab=after.lab.name, provider="kind", steps=after_steps)


def _refuse_unknown_host(settings: KindSettings) -> None:
    if not settings.api_server_address:
        raise UsageError(
            what=f"the container engine is on {settings.endpoint.host}, and that name does not resolve here",
            cause=f"the name is in {settings.endpoint.url}; kind publishes the API server at an address of that host, "
            "and kubectl has to reach it from here",
            remedy="kindCluster.apiServerAddress: ADDRESS-OF-THAT-HOST",
        )


def _look(settings: KindSettings, engine: str) -> Step:
    network = settings.lab.network
    return Step(
        id="look",
        title=f"no other cluster has the name {settings.cluster_name} or these addresses",
        actions=(
            RefuseForeign(engine=engine, cluster=settings.cluster_name, lab=settings.lab.name),
            RefuseOverlap(lab=settings.lab.name, ranges=(str(network.pod_cidr), str(network.service_cidr))),
        ),
    )


def _images(settings: KindSettings, engine: str) -> Step:
    """kind fetches the node image itself; with `pull: false` its absence is reported here, in labctl's words."""
    wanted: list[str] = []
    if not settings.cluster.pull:
        wanted.append(settings.node_image)
    if not settings.cluster.preloaded and not settings.cluster.archives:
        wanted += settings.images
    if settings.lab.outside:
        wanted.append(settings.tools_image)
    return Step(
        id="images",
        title="images are there",
        actions=tuple(
            HaveImage(engine=engine, reference=image, pull=settings.cluster.pull, timeout_s=_PULL_S)
            for image in dict.fromkeys(wanted)
        ),
    )


def _chart(settings: KindSettings) -> Step:
    if not has_cilium(settings.lab):
        return Step(id="chart", title="no chart", actions=())
    actions: list[Action] = [
        WriteFile(path=settings.files.values, text=settings.values_text),
    ]
    if settings.argv_pull:
        actions.append(
            Command(
                argv=settings.argv_pull,
                timeout_s=_PULL_S,
                remedy="cilium.chart: PATH of a local .tgz, if this host cannot reach the repository",
            )
        )
    actions += [
        RenderChart(argv=settings.argv_render, output=settings.files.rendered, timeout_s=_QUICK_S),
        VerifyChart(
            rendered=settings.files.rendered,
            chart=settings.chart,
            wanted=settings.wanted,
            user_values=settings.cilium.values,
            images=None if settings.cluster.pull else settings.images,
        ),
    ]
    return Step(
        id="chart",
        title=f"Cilium {settings.cilium_version} rendered for {settings.mode} and verified",
        actions=tuple(actions),
    )


def _cluster(settings: KindSettings, engine: str) -> Step:
    files, cluster = settings.files, settings.cluster
    environment = {"KIND_EXPERIMENTAL_DOCKER_NETWORK": cluster.network} if cluster.network else {}
    return Step(
        id="cluster",
        title=f"cluster {settings.cluster_name}: {len(settings.all_nodes)} nodes, Kubernetes {settings.kubernetes}",
        actions=(
            WriteFile(path=files.kind_config, text=kind_config(settings)),
            CreateCluster(
                engine=engine,
                cluster=settings.cluster_name,
                lab=settings.lab.name,
                digest=mark_of(settings.lab).digest,
                nodes=settings.all_nodes,
                argv=(
                    "kind",
                    "create",
                    "cluster",
                    "--name",
                    settings.cluster_name,
                    "--config",
                    str(files.kind_config),
                    "--kubeconfig",
                    str(files.kubeconfig),
                    "--retain",
                ),
                environment=environment,
                kubeconfig=files.kubeconfig,
                timeout_s=cluster.create_timeout_s,
            ),
        ),
        undo=(
            CollectLogs(
                cluster=settings.cluster_name, kubeconfig=files.kubeconfig, folder=files.logs, timeout_s=_QUICK_S
            ),
            DeleteCluster(
                engine=engine,
                cluster=settings.cluster_name,
                lab=settings.lab.name,
                kubeconfig=files.kubeconfig,
                timeout_s=180.0,
            ),
        ),
    )


def _load(settings: KindSettings, engine: str) -> Step:
    cluster, name = settings.cluster, settings.cluster_name
    actions: list[Action] = [
        WriteMirrors(engine=engine, nodes=settings.all_nodes, registry=registry, mirror=mirror)
        for registry, mirror in cluster.registry_mirrors.items()
    ]
    if cluster.archives:
        actions.append(
            LoadArchives(
                engine=engine, cluster=name, nodes=settings.all_nodes, archives=tuple(map(str, cluster.archives)),
                timeout_s=_PULL_S,
            )
        )  # fmt: skip
    elif not cluster.preloaded:
        actions.append(
            LoadImages(
                engine=engine, cluster=name, nodes=settings.all_nodes,
                references=tuple(dict.fromkeys(settings.images)), timeout_s=_PULL_S,
            )
        )  # fmt: skip
    if not cluster.pull:
        actions.append(NodesHaveImages(engine=engine, nodes=settings.all_nodes, references=settings.images))
    return Step(id="load", title="images in every node", actions=tuple(actions))


def _outside(settings: KindSettings, engine: str) -> Step:
    """Beside the cluster, on its network: no action where the lab has no such host."""
    lab = settings.lab.name
    return Step(
        id="outside",
        title="hosts outside, each a container on the nodes' network",
        actions=tuple(
            StartOutside(
                engine=engine,
                lab=lab,
                container=container_of(settings.cluster_name, host.name),
                image=settings.tools_image,
                network=settings.cluster.network or NETWORK,
                timeout_s=_PULL_S,
            )
            for host in settings.lab.outside
        ),
        undo=(RemoveOutside(engine=engine, lab=lab, timeout_s=_QUICK_S),),
    )


def _apply(settings: KindSettings, path: Path) -> Command:
    # The chart is rendered for this very Kubernetes; validation would only fetch its schema once more.
    most_s = _QUICK_S * 2 + _SERVICE_S * settings.lab.datapath.extra_services
    return Command(argv=settings.kubectl("apply", "--validate=false", "-f", str(path)), timeout_s=most_s)


def _wait_for_agents(settings: KindSettings) -> WaitForPods:
    return WaitForPods(
        kubectl=settings.kubectl(),
        namespace="kube-system",
        selector=AGENTS,
        count=len(settings.all_nodes),
        what="Cilium agents",
        timeout_s=settings.cluster.ready_timeout_s,
        daemonset="cilium",
    )


def _cilium(settings: KindSettings) -> Step:
    timeout_s = settings.cluster.ready_timeout_s
    return Step(
        id="cilium",
        title=f"Cilium {settings.cilium_version} on every node",
        actions=(
            _apply(settings, settings.files.rendered),
            _wait_for_agents(settings),
            WaitForPods(
                kubectl=settings.kubectl(),
                namespace="kube-system",
                selector=OPERATOR,
                count=1,
                what="the Cilium operator",
                timeout_s=timeout_s,
            ),
            WaitForNodes(kubectl=settings.kubectl(), count=len(settings.all_nodes), timeout_s=timeout_s),
        ),
    )


def _network(settings: KindSettings) -> Step:
    """Another network than Cilium: kind's own is there with the nodes; of a manifest, what was read of it is applied as
    the cluster's administrator. A node is Ready once it has a network."""
    cluster, manifest = settings.cluster, settings.manifest
    applied = () if manifest is None else (
        manifest.written(settings.files.rendered), _apply(settings, settings.files.rendered),
    )  # fmt: skip
    workloads = (KINDNET,) if manifest is None else manifest.workloads
    names = ", ".join(one.shown for one in workloads) or "no DaemonSet, no Deployment"
    wait = WaitForNodes(kubectl=settings.kubectl(), count=len(settings.all_nodes), timeout_s=cluster.ready_timeout_s)
    title = f"{settings.network_in_words} on every node ({names})"
    return Step(id="network", title=title, actions=(*applied, wait))


def pods_step(settings: KindSettings) -> Step:
    pods = len(settings.lab.pods)
    return Step(
        id="pods",
        title=f"{pods} pods, and a helper on each node that has some",
        actions=(
            WriteFile(path=settings.files.workloads, text=workloads_text(settings)),
            # `apply` leaves a pod alone that was evicted or has ended: it is there, and is what the manifest says.
            Command(
                argv=settings.kubectl(
                    "-n", settings.namespace, "delete", "pods", f"--field-selector={ENDED}", "--ignore-not-found"
                ),
                timeout_s=_QUICK_S * 2,
            ),
            _apply(settings, settings.files.workloads),
            WaitForPods(
                kubectl=settings.kubectl(),
                namespace=settings.namespace,
                selector=LAB_LABEL,
                count=pods + len(nodes_with_helper(settings)),
                what=f"pods ({CONTAINER} image {settings.cluster.tools_image})",
                timeout_s=settings.cluster.ready_timeout_s,
            ),
        ),
    )
