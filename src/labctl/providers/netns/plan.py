"""From a resolved lab to the plan that builds it out of namespaces. Pure, and read from top to bottom:

    Lab ─┬─ fabrics/   how its nodes reach each other ──┐
         └─ networks/  what connects its pods ──────────┴─► objects (kinds/) ─► steps ─► Plan

1. `underlay`: what is between the nodes (the fabric).
2. `node-NAME`, each: its namespace, then what the fabric and the network put into it, in the order of `_node`.
3. `outside-NAME`, each: its namespace, then its wire (the fabric).
4. What the network needs on nodes that reach each other.
5. `pod-NAME`, each: its namespace, then what connects it (the network).
6. `impair-NAME`, each link that the scenario impairs.
7. `record`: the lab's facts; with them the lab is whole.

Each object says itself what a person would type for it, how it is made, how it is read back and what undoes it
(`kinds/base.py`); `execute` makes them, `observed` finds which are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from labctl.errors import UsageError
from labctl.fabrics import fabric_of
from labctl.fabrics.base import NodeObjects
from labctl.model.fabric import Router
from labctl.model.lab import Lab, Node, Outside
from labctl.model.plan import Plan, Step
from labctl.names import UNDERLAY, namespace_of
from labctl.networks import network_of
from labctl.networks.base import PodObjects
from labctl.planning.shell import remark, word
from labctl.providers.netns.kinds.base import Object, step
from labctl.providers.netns.kinds.namespace import NamespaceAdd, RecordWrite, Sysctls
from labctl.providers.netns.kinds.program import pins
from labctl.providers.netns.plan_wires import declared, impairing_objects, wires_of
from labctl.providers.netns.record import as_document, mark_of, part_names, record_path
from labctl.system import netns

NO_IPV6 = (("net.ipv6.conf.all.disable_ipv6", "1"),)
"""Keeps router solicitations and multicast reports of IPv6 out of captures; the labs are IPv4. `all` is also the
setting of devices that are made later."""
_FORWARDING = (
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
)


def plan(lab: Lab) -> Plan:
    """Raises UsageError as `refuse` does."""
    _refuse_parts(lab)
    steps = _steps(lab)
    return Plan(
        lab=lab.name,
        provider="netns",
        steps=(*steps, *_impaired(lab, steps), _record(lab)),
        preamble=_preamble(lab, network_of(lab).remark),
    )


def _steps(lab: Lab) -> tuple[Step, ...]:
    fabric, network = fabric_of(lab), network_of(lab)
    pods = tuple(pod for node in lab.nodes for pod in network.pods(lab, node))
    underlay = (*_namespace(lab, UNDERLAY, "underlay"), *fabric.underlay(lab))
    return (
        step("underlay", f"underlay: {fabric.says}", underlay),
        *(_router(lab, router, objects) for router, objects in fabric.routers(lab)),
        *_told(tuple(fabric.told(lab))),
        *(_node(lab, node, fabric.node(lab, node), network.node(lab, node)) for node in lab.nodes),
        *(_outside(lab, host, fabric.outside(lab, host)) for host in lab.outside),
        *network.steps(lab),
        *_learning((*fabric.daemons(lab), *network.daemons(lab))),
        *(_pod(lab, pod) for pod in pods),
        *_together(pods),
        *_learned((*fabric.learned(lab), *network.learned(lab))),
    )


def refuse(lab: Lab) -> None:
    """Raises UsageError when two parts of the lab would be the same namespace, for what its network or its fabric
    does not have, and for links that cannot be impaired as its scenario says."""
    _refuse_parts(lab)
    if lab.impairments:
        tuple(_impaired(lab, _steps(lab)))


def _refuse_parts(lab: Lab) -> None:
    twice = [name for name, count in Counter(part_names(lab)).items() if count > 1]
    if twice:
        raise UsageError(
            what=f"the name {twice[0]} is used twice in lab {lab.name}",
            cause=f"with netns every node, pod, host outside and '{UNDERLAY}' is a namespace of its own",
            remedy="rename the node or the pod in the scenario",
            key="pods",
        )
    network_of(lab).refuse(lab)
    for host in lab.outside:
        fabric_of(lab).outside(lab, host)


def _namespace(lab: Lab, part: str, kind: str, settings: tuple[tuple[str, str], ...] = ()) -> Iterator[Object]:
    """The namespace of a part of the lab, with its mark, before anything is in it."""
    namespace = namespace_of(lab.name, part)
    yield NamespaceAdd(namespace=namespace, alias=mark_of(lab, kind))
    yield Sysctls(namespace=namespace, settings=NO_IPV6 + settings)


def _node(lab: Lab, node: Node, fabric: NodeObjects, network: NodeObjects) -> Step:
    return step(
        f"node-{node.name}",
        f"node {node.name}: {fabric.says}, {network.says}",
        (
            *_namespace(lab, node.name, "node", _FORWARDING),
            *fabric.links,
            *network.links,
            *network.up,
            *fabric.up,
            *fabric.settings,
            *network.settings,
            *fabric.addresses,
            *network.addresses,
            *fabric.routes,
            *network.routes,
            *fabric.neighbours,
            *network.neighbours,
        ),
    )


def _router(lab: Lab, router: Router, objects: Iterable[Object]) -> Step:
    return step(
        f"router-{router.name}",
        f"router {router.name}",
        (*_namespace(lab, router.name, "router", _FORWARDING), *objects),
    )


def _told(routes: tuple[Object, ...]) -> Iterator[Step]:
    if routes:
        yield step("routes", f"routes: every router is told its ways, {len(routes)} routes", routes)


def _learning(daemons: tuple[Object, ...]) -> Iterator[Step]:
    if daemons:
        yield step("routing", f"routing: FRR's daemons on {len(daemons)} routers and nodes", daemons)


def _learned(waits: tuple[Object, ...]) -> Iterator[Step]:
    if waits:
        yield step("converged", f"converged: {len(waits)} routers, switches and nodes know their ways", waits)


def _impaired(lab: Lab, steps: Iterable[Step]) -> Iterator[Step]:
    """The last of all: what the daemons learn is learned by then."""
    if not lab.impairments:
        return
    actions = tuple(action for step in steps for action in step.actions if isinstance(action, Object))
    wires = wires_of(lab, actions)
    asked = declared(lab, wires)
    for wire in wires:
        if wire.name in asked:
            objects = impairing_objects(lab, actions, wire, asked[wire.name])
            yield step(f"impair-{wire.name}", f"impairment of link {wire.name}: {asked[wire.name].words()}", objects)


def _outside(lab: Lab, host: Outside, objects: Iterable[Object]) -> Step:
    return step(
        f"outside-{host.name}",
        f"host outside {host.name}: {host.address}, {_where(lab, host)}",
        (*_namespace(lab, host.name, "outside"), *objects),
    )


def _where(lab: Lab, host: Outside) -> str:
    return "on the nodes' network" if lab.is_near(host) else "behind the nodes' gateway"


def _pod(lab: Lab, of_pod: PodObjects) -> Step:
    pod = of_pod.pod
    return step(
        f"pod-{pod.name}",
        f"pod {pod.name} on {pod.node}: {pod.address} {of_pod.says}",
        (*_namespace(lab, pod.name, "pod"), *of_pod.objects),
    )


def _together(pods: Sequence[PodObjects]) -> Iterator[Step]:
    objects = tuple(one for pod in pods for one in pod.together)
    if objects:
        yield step("attached", f"attached: {len(pods)} pods, several at the same time", objects)


def _record(lab: Lab) -> Step:
    return step(
        "record",
        "record: the lab's facts, for labctl status",
        (RecordWrite(path=record_path(lab.name), document=as_document(lab)),),
    )


def _preamble(lab: Lab, of_network: str) -> str:
    place = word(pins(lab.name))
    first = word(netns.path_of(namespace_of(lab.name, UNDERLAY)))
    said = word(f"the lab {lab.name} is there already; remove it with: labctl down {lab.name}")
    return f"""\
{remark(of_network)}
{remark(f"Everything is made inside the lab's own namespaces; to remove it all: labctl down {lab.name}")}
if [ -e {first} ]; then
    printf '%s\\n' {said} >&2
    exit 1
fi

# bpftool and tc hand programs to each other by names in a bpffs. It is needed only while the lab is built:
# what is attached stays.
mkdir -p {place}
mount -t bpf bpf {place}
trap {word(f"umount {place}; rmdir {place}")} EXIT
"""
