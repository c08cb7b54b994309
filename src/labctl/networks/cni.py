"""Pods that a chain of CNI plugins attaches, the real programs; nodes that have routes to each other's pods. Pure.

The scenario has the list of plugins, as a node has it in /etc/cni/net.d. What is another on every node stands in it as
containerd's templates have it (`{{.PodCIDR}}`). The first plugin makes the pod's device: what its taps show is known of
ptp, bridge and macvlan, and of any other one it is observed. Routes between nodes are none of CNI's business; here the
nodes have them, as a cloud or a routing daemon would give them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network

from labctl.errors import UsageError
from labctl.fabrics.base import NodeObjects
from labctl.model.evidence import Evidence, Silence
from labctl.model.interfaces import UPLINK
from labctl.model.lab import Lab, Node, Pair, Placement, Pod
from labctl.model.plan import Step
from labctl.model.pod_network import PLUGIN_DIRECTORY, PodNetworkChoice
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks.base import NodeReadings, PodObjects
from labctl.networks.carried import CarriedNetwork, NodeDevices, routed_ways, routes_by_uplink
from labctl.networks.flannel import ROUTED, bridged
from labctl.networks.shared import ON_UPLINK, ON_WIRE
from labctl.networks.way import Row, expected_from, frame
from labctl.providers.netns.kinds.base import Object, step
from labctl.providers.netns.kinds.plugin import (
    CHECKED_SINCE,
    Plugin,
    PluginsAdd,
    PluginsFind,
    WantedPlugin,
    state_folder,
)

DEFAULT_BRIDGE = "cni0"
_DEFAULT_MTU_BYTE = 1500
PTP, BRIDGE, MACVLAN = "ptp", "bridge", "macvlan"
KNOWN = (PTP, BRIDGE, MACVLAN)
"""The plugins that make a pod's device in a way of which it is known what each tap shows."""
_KEEPS_FILES = {"host-local": "networks", "tuning": "tuning"}
"""Plugins that keep files, each in the folder that `dataDir` names, and what that is called here."""


class CniNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    title = "CNI's"
    remark = "The plugins are the real ones; the routes between the nodes are labctl's."

    def __init__(self, choice: PodNetworkChoice) -> None:
        self._choice = choice
        first = choice.first_plugin
        self._first = str(first.get("type", ""))
        is_bridge = self._first == BRIDGE
        self.devices = NodeDevices(bridge=str(first.get("bridge", DEFAULT_BRIDGE)) if is_bridge else "")

    def statements(self, lab: Lab) -> tuple[str, ...]:
        observed = (
            "" if self._first in KNOWN else f" What the taps of {self._first} should show is not known: observed."
        )
        chain = " → ".join(self._choice.chain)
        return (f"{self.remark} The chain: {chain}, of {self._directory}.{observed}", *super().statements(lab)[1:])

    def refuse(self, lab: Lab) -> None:
        """As every such network, and where a range of host-local's has no room for the pods of a node."""
        super().refuse(lab)
        for node in lab.nodes:
            ipam = filled(self._ipam(), lab, node)
            ranges = list(_ranges(ipam)) if isinstance(ipam, Mapping) else []
            for pod in lab.pods_on(node.name) if ranges else ():
                if not any(pod.address in one for one in ranges):
                    raise UsageError(
                        what=f"host-local has no range with {pod.address}, the address of the pod {pod.name}",
                        cause=f"on {node.name} it has {', '.join(map(str, ranges))}; the node's is {node.pod_cidr}",
                        remedy='subnet: "{{.PodCIDR}}"',
                        key="podNetwork.conflist.plugins",
                    )

    @property
    def _directory(self) -> str:
        return self._choice.plugin_directory or PLUGIN_DIRECTORY

    @property
    def _version(self) -> str:
        return str((self._choice.conflist or {}).get("cniVersion", ""))

    def _ipam(self) -> object:
        return self._choice.first_plugin.get("ipam", {})

    def _programs(self) -> tuple[WantedPlugin, ...]:
        """Those of the chain, and those that they call for addresses, each once."""
        found: dict[str, str] = {}
        for number, plugin in enumerate(_plugins(self._choice)):
            key = f"podNetwork.conflist.plugins.{number}"
            found.setdefault(str(plugin["type"]), f"{key}.type")
            if name := _object(plugin.get("ipam")).get("type"):
                found.setdefault(str(name), f"{key}.ipam.type")
        return tuple(WantedPlugin(name=name, key=key) for name, key in found.items())

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        if self._choice.is_on_uplink:
            return NodeObjects(says="its uplink shared with pods by a plugin")
        says = f"pods of {node.pod_cidr} by plugins, routes to the other nodes' pods"
        return NodeObjects(says=says, routes=routes_by_uplink(lab, node))

    def steps(self, lab: Lab) -> Iterator[Step]:
        wanted = self._programs()
        yield step(
            "plugins",
            f"plugins: {len(wanted)} of {self._directory} asked which CNI they speak",
            (
                PluginsFind(
                    folder=str(state_folder(lab.name)),
                    directory=self._directory,
                    wanted=wanted,
                    version=self._version,
                ),
            ),
        )
        yield from super().steps(lab)

    def pods(self, lab: Lab, node: Node) -> Iterator[PodObjects]:
        for pod in lab.pods_on(node.name):
            chain = " → ".join(self._choice.chain)
            yield PodObjects(pod=pod, says=f"by {chain}", objects=(), together=(self._attached(lab, node, pod),))

    def _attached(self, lab: Lab, node: Node, pod: Pod) -> Object:
        conflist = self._choice.conflist or {}
        version = tuple(map(int, self._version.split(".")))
        prefix = lab.network.pod_cidr.prefixlen if self._choice.is_on_uplink else node.pod_cidr.prefixlen
        address = IPv4Interface(f"{pod.address}/{prefix}")
        return PluginsAdd(
            namespace=namespace_of(lab.name, node.name),
            inside=namespace_of(lab.name, pod.name),
            folder=str(state_folder(lab.name)),
            directory=self._directory,
            address=address,
            arguments=f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod.name};IP={address}",
            is_checked=version >= CHECKED_SINCE and conflist.get("disableCheck") is not True,
            plugins=tuple(
                Plugin(
                    name=str(plugin["type"]),
                    configuration=json.dumps(self._configuration(lab, node, pod, plugin), ensure_ascii=True),
                    key=f"podNetwork.conflist.plugins.{number}",
                )
                for number, plugin in enumerate(_plugins(self._choice))
            ),
        )

    def _configuration(self, lab: Lab, node: Node, pod: Pod, plugin: Mapping[str, object]) -> dict[str, object]:
        """What the plugin reads: its own keys, the name and version of the list, what a runtime gives for those of its
        capabilities that it says it has, and where it may keep files."""
        conflist = self._choice.conflist or {}
        own = {"cniVersion": self._version, "name": conflist.get("name"), **_object(filled(plugin, lab, node))}
        capabilities = _object(own.get("capabilities"))
        given = _object((self._choice.runtime_config or {}).get(pod.name))
        if runtime := {key: given[key] for key, wanted in capabilities.items() if wanted is True and key in given}:
            own["runtimeConfig"] = runtime
        keeps = state_folder(lab.name) / node.name
        ipam = _object(own.get("ipam"))
        if str(ipam.get("type")) in _KEEPS_FILES:
            own["ipam"] = {**ipam, "dataDir": str(keeps / _KEEPS_FILES[str(ipam["type"])])}
        if str(own.get("type")) in _KEEPS_FILES:
            own["dataDir"] = str(keeps / _KEEPS_FILES[str(own["type"])])
        return own

    def mtu(self, lab: Lab) -> int:
        """That of the device that the first plugin makes: what the list says, or the kernel's own; a macvlan has that
        of the device below it."""
        said = self._choice.first_plugin.get("mtu")
        if isinstance(said, int) and not isinstance(said, bool) and said > 0:
            return said
        return lab.network.mtu if self._choice.is_on_uplink else _DEFAULT_MTU_BYTE

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        return () if self._choice.is_on_uplink else routed_ways(lab, pair)

    def testify(self, lab: Lab, pair: Pair, looks: Iterable[NodeReadings]) -> tuple[Evidence, ...]:
        """As every such network, and what the plugins answered held against the devices that are there."""
        seen = tuple(looks)
        return (*(self._results(lab, look) for look in seen), *super().testify(lab, pair, seen))

    def _results(self, lab: Lab, look: NodeReadings) -> Evidence:
        """Where they speak a version that has CHECK, also what they themselves say now."""
        chain, asked = " → ".join(self._choice.chain), lab.asked()
        about = [one for one in look.attached if one.pod in {pod.name for pod in lab.pods_on(look.after.node)}]
        gone = [f"{one.pod}: {name} is not there" for one in about for name in one.missing]
        gone += [f"{one.pod}: {said}" for one in about for said in one.refused]
        says = [f"{one.pod}: {one.says}" for one in about]
        checks = tuple(dict.fromkeys(one.checks for one in about if one.checks))
        finding = f"what {chain} answered is there: {'; '.join((*says, *checks))}"
        if not about or gone:
            finding = f"{chain}: {'; '.join(gone)}" if gone else "no plugin's result is kept"
        return Evidence(
            witness="plugin-results",
            where=look.after.node,
            finding=finding,
            supports=None if not about else not gone,
            command=about[0].command if about else "",
            found=asked if about and not gone else {},
            silence=None if about else Silence.ABSENT,
        )

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        crosses = pair.placement is Placement.CROSS_NODE
        rows = {
            PTP: _ROUTED if crosses else _SAME_NODE,
            BRIDGE: ROUTED if crosses else bridged(self.devices),
            MACVLAN: ON_WIRE if crosses else ON_UPLINK,
        }[self._first]
        return expected_from(
            rows,
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=f"what the plugin {self._first} makes, seen on this kernel with Debian's plugins",
        )


def filled(value: object, lab: Lab, node: Node) -> object:
    """With the node's own values in the place of `{{.PodCIDR}}` and its kind, at any depth."""
    if isinstance(value, str):
        for key, text in places(lab, node).items():
            value = value.replace(f"{{{{.{key}}}}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: filled(one, lab, node) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [filled(one, lab, node) for one in value]
    return value


def places(lab: Lab, node: Node) -> dict[str, str]:
    """What may stand in a list of plugins, and what it is on that node."""
    return {
        "PodCIDR": str(node.pod_cidr),
        "PodGateway": str(node.router),
        "ClusterCIDR": str(lab.network.pod_cidr),
        "Uplink": UPLINK,
        "NodeName": node.name,
    }


def _plugins(choice: PodNetworkChoice) -> tuple[Mapping[str, object], ...]:
    listed = (choice.conflist or {}).get("plugins")
    return tuple(one for one in listed if isinstance(one, Mapping)) if isinstance(listed, list | tuple) else ()


def _object(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


def _ranges(ipam: Mapping[str, object]) -> Iterator[IPv4Network]:
    """The networks of host-local, as both of its forms say them. What is none the plugin itself refuses."""
    if ipam.get("type") != "host-local":
        return
    sets = ipam.get("ranges")
    said = [ipam.get("subnet")]
    for one in sets if isinstance(sets, list) else ():
        said += [each.get("subnet") for each in one if isinstance(each, Mapping)] if isinstance(one, list) else []
    for subnet in said:
        try:
            network = IPv4Network(str(subnet), strict=False)
        except ValueError:
            continue
        yield network


_SENT = frame(64, Role.CLIENT_ETH0, Role.CLIENT_VETH)
_BETWEEN = frame(63, Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_TO_SERVER = frame(62, Role.SERVER_VETH, Role.SERVER_ETH0)
_TO_NEIGHBOUR = frame(63, Role.SERVER_VETH, Role.SERVER_ETH0)
_ROUTED: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_UPLINK, _BETWEEN),
    (Role.CLIENT_LO, None),
    (Role.SERVER_LO, None),
    (Role.SERVER_UPLINK, _BETWEEN),
    (Role.SERVER_VETH, _TO_SERVER),
    (Role.SERVER_ETH0, _TO_SERVER),
)
"""ptp: a wire to the node for each pod, and the node's routes."""
_SAME_NODE: tuple[Row, ...] = (
    (Role.CLIENT_ETH0, _SENT),
    (Role.CLIENT_VETH, _SENT),
    (Role.CLIENT_UPLINK, None),
    (Role.CLIENT_LO, None),
    (Role.SERVER_VETH, _TO_NEIGHBOUR),
    (Role.SERVER_ETH0, _TO_NEIGHBOUR),
)
