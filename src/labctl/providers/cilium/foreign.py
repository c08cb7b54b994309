"""A cluster that labctl made with another pod network than Cilium, opened: observed, and its network's workloads asked.

It is in force where those workloads (kindnet's DaemonSet, what the manifest has) are ready and every node's container
runtime goes by a CNI configuration; what its packets show is an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from labctl.errors import MeasureFailed
from labctl.json_text import mapping_of, number_of, of_known_form, parse_json
from labctl.model.evidence import Evidence, Silence
from labctl.model.lab import Lab, Pair
from labctl.providers.base import ClockOffset, Target
from labctl.providers.cilium.commands import Commands, must, shown
from labctl.providers.cilium.manifest import Workload, workloads_in_force
from labctl.providers.cilium.observed import Found, OpenObservedLab, Seen, read_node_facts, read_pod_device
from labctl.providers.cilium.open import Ways, list_pods
from labctl.providers.cilium.settings import Cluster
from labctl.providers.cilium.verbose import parse_pod_ranges
from labctl.providers.cilium.workloads import LAB_LABEL

_ASK_S = 60.0
_AT_ONCE = 8
Clock = Callable[[str], ClockOffset]
"""Measures how far that node's clock is from this host's."""
CONFIGURATIONS = "/etc/cni/net.d"
ARGV_CONFIGURATIONS = ("ls", "-1", CONFIGURATIONS)


@of_known_form("kubectl's answer about a workload")
def parse_ready(text: str) -> tuple[int, int]:
    """How many pods of a DaemonSet or Deployment are ready, and how many there have to be."""
    document = mapping_of(parse_json(text))
    status, spec = mapping_of(document.get("status")), mapping_of(document.get("spec"))
    if document.get("kind") == "DaemonSet":
        return number_of(status.get("numberReady")), number_of(status.get("desiredNumberScheduled"))
    return number_of(status.get("readyReplicas")), number_of(spec.get("replicas", 1))


def parse_configuration(text: str) -> str:
    """The file that a container runtime goes by: the first one in the order of names that is a configuration."""
    names = sorted(line.strip() for line in text.splitlines())
    return next((name for name in names if name.endswith((".conflist", ".conf", ".json"))), "")


class OpenForeignLab(OpenObservedLab):
    """`OpenLab` of the seam."""

    def of_cluster(
        self, settings: Cluster, commands: Commands, clock: Clock | None = None, own_traffic: str = ""
    ) -> OpenForeignLab:
        """`clock` where nodes do not share this host's; `own_traffic` is what labctl itself sends past the nodes'
        uplinks (`Tap.own`)."""
        self._settings, self._commands, self._clock = settings, commands, clock
        self._own_traffic = own_traffic or self._own_traffic
        return self

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return () if self._clock is None else tuple(map(self._clock, nodes))

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        of_network = (*self._of_workloads(), *self._of_configurations(pair))
        seen = super().testimony(pair, send)
        return (*of_network, *seen)

    def has_daemon_set(self, name: str) -> bool | None:
        argv = self._settings.kubectl("-n", "kube-system", "get", "daemonset", name, "--ignore-not-found", "-o", "name")
        return bool(must(self._commands, argv, timeout_s=_ASK_S).text.strip())

    def _of_workloads(self) -> Iterator[Evidence]:
        """Whether each is ready: together they are the network that was asked for."""
        asked = self._lab.asked()
        workloads = workloads_in_force(self._lab, self._settings.files.rendered)
        if not workloads:
            yield Evidence(
                witness="network-workloads", where="the cluster", supports=None, silence=Silence.ABSENT,
                finding="the manifest has no DaemonSet and no Deployment that could be asked whether it is ready",
            )  # fmt: skip
        for one in workloads:
            argv = self._settings.kubectl("-n", one.namespace, "get", one.kind.lower(), one.name, "-o", "json")
            yield self._of_workload(one, argv, asked)

    def _of_workload(self, one: Workload, argv: tuple[str, ...], asked: Mapping[str, object]) -> Evidence:
        command = shown(self._commands, argv)
        done = self._commands.run(argv, timeout_s=_ASK_S)
        if done.returncode != 0 or done.timed_out:
            is_gone = "NotFound" in done.error_text
            return Evidence(
                witness="network-workloads", where=one.shown, command=command,
                finding=f"{one.shown} is not there" if is_gone else done.error_text.strip()[-200:],
                supports=False if is_gone else None, silence=None if is_gone else Silence.UNREAD,
            )  # fmt: skip
        ready, wanted = parse_ready(done.text)
        is_ready = wanted > 0 and ready >= wanted
        return Evidence(
            witness="network-workloads", where=one.shown, command=command,
            finding=f"{ready} of {wanted} pods of {one.shown} are ready",
            supports=is_ready, found=asked if is_ready else {},
        )  # fmt: skip

    def _of_configurations(self, pair: Pair) -> Iterator[Evidence]:
        """Which CNI configuration the nodes of the pair go by."""
        for node in self._lab.nodes_of(pair):
            target = self._targets[node]
            done = target.run(ARGV_CONFIGURATIONS, timeout_s=_ASK_S)
            name = parse_configuration(done.text) if done.returncode == 0 else ""
            finding = f"the container runtime goes by {CONFIGURATIONS}/{name}"
            yield Evidence(
                witness="cni-configuration", where=node,
                finding=finding if name else f"{CONFIGURATIONS} has no configuration",
                supports=None, silence=None if name else Silence.ABSENT,
                command=f"labctl exec {self._lab.name} {node} -- ls {CONFIGURATIONS}",
            )  # fmt: skip


def open_foreign(
    settings: Cluster, commands: Commands, ways: Ways, *, clock: Clock | None = None, own_traffic: str = ""
) -> OpenForeignLab:
    """Looks at the lab's pods and nodes; the rest as for `of_cluster`. Raises MeasureFailed with what is missing."""
    lab = settings.lab
    pods = {pod.name: pod for pod in list_pods(settings, commands, settings.namespace, LAB_LABEL)}
    missing = [pod.name for pod in lab.pods if pod.name not in pods or not pods[pod.name].is_ready]
    if missing:
        raise MeasureFailed(
            what=f"lab {lab.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not ready",
            cause="; ".join(f"{name}: {pods[name].reason}" for name in missing if name in pods) or "not there",
            remedy=f"labctl down {lab.name}, then labctl up again",
        )
    in_pods: dict[str, Target] = {pod.name: ways.pod(pods[pod.name], pod.node) for pod in lab.pods}
    on_nodes = {node: ways.node(node) for node in settings.nodes}
    capture: dict[str, Target] = {node: ways.capture(target) for node, target in on_nodes.items()}
    listed = must(commands, settings.kubectl("get", "nodes", "-o", "json"), timeout_s=_ASK_S).text
    ranges, addresses = parse_pod_ranges(listed), parse_addresses(listed)
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="labctl-look") as pool:
        looks = {name: pool.submit(read_pod_device, target) for name, target in in_pods.items()}
        asked = {
            node: pool.submit(read_node_facts, on_nodes[node], addresses.get(there, ""))
            for node, there in settings.nodes.items()
        }
        seen = Seen(
            pods={name: one.result() for name, one in looks.items()},
            facts={node: one.result() for node, one in asked.items()},
            ranges={node: str(ranges.get(there) or "") for node, there in settings.nodes.items()},
            addresses={name: pods[name].address for name in in_pods},
        )
    held = Found(nodes=settings.nodes, facts=seen.facts, ends=seen.ends(lab))
    running = OpenForeignLab(seen.lab(lab, _named(lab, seen)), {**in_pods, **on_nodes}, held, capture)
    return running.of_cluster(settings, commands, clock, own_traffic)


def _named(lab: Lab, seen: Seen) -> str:
    """The network as it was asked for, and what its devices look like."""
    return f"{lab.cni} ({seen.cni(lab)})"


@of_known_form("kubectl's list of nodes")
def parse_addresses(text: str) -> dict[str, str]:
    """The internal IPv4 address of each node, from `kubectl get nodes -o json`."""
    found: dict[str, str] = {}
    for node in parse_json(text)["items"]:
        for address in node.get("status", {}).get("addresses") or ():
            if address.get("type") == "InternalIP" and ":" not in str(address.get("address")):
                found.setdefault(str(node["metadata"]["name"]), str(address["address"]))
    return found
