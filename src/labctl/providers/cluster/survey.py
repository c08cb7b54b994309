"""`labctl survey`: every node of a cluster asked, many at once, and a random sample of node pairs measured.

What the API server knows comes in one list; the mode in force is asked of each node's Cilium agent. Pairs are measured
from pod to pod, by pods without any powers in a namespace of the survey's own, which goes when it ends. One node that
does not answer costs its own time limit and nothing else, and when a person stops the survey, what was asked stays.
"""

from __future__ import annotations

import random
import re
import secrets
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import combinations
from typing import TypeVar

from labctl.errors import Interrupted, LabError, MeasureFailed, StepFailed
from labctl.json_text import mapping_of, object_of
from labctl.model.lab import Pod
from labctl.model.sections import ExistingCluster, HelperUse
from labctl.model.survey import Survey, SurveyedNode, SurveyedPair
from labctl.model.tools import require_success, why
from labctl.names import stable_mac
from labctl.providers.base import TargetKind
from labctl.providers.cilium.commands import Commands, HostCommands, state_root
from labctl.providers.cilium.evidence import found_by_agent
from labctl.providers.cilium.open import AGENT_CONTAINER
from labctl.providers.cilium.status import AgentStatus, argv_status, parse_status
from labctl.providers.cilium.targets import DoorTarget, pod_door
from labctl.providers.cilium.workloads import CONTAINER
from labctl.providers.cluster.access import Access, Say, said
from labctl.providers.cluster.failures import is_forbidden
from labctl.providers.cluster.files import ClusterFiles
from labctl.providers.cluster.manifests import namespace_text, workloads_text
from labctl.providers.cluster.nodes import ClusterNode, is_node_name
from labctl.providers.cluster.open import find_agents
from labctl.providers.cluster.provider import located_in, made_by
from labctl.providers.cluster.rights import CONFIG_MAP, SYSTEM
from labctl.providers.cluster.settings import ClusterSettings, bare_lab
from labctl.system.signals import uninterrupted
from labctl.values import dataclass

_AGENT_S = 30.0
_PING_S = 30.0
PINGS = 10
_INTERVAL_S = "0.2"
_READY_S = 120.0
_PROXY_FIELDS = ("jsonpath={range .items[*]}{.spec.nodeName}{'\\t'}{.status.phase}{'\\n'}{end}").replace("'", '"')
_PROXY = "k8s-app=kube-proxy"
_TIMES = re.compile(r"time=([0-9.]+) ms")
_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) (?:packets )?received")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRequest:
    """What to ask. `sample` pairs at most are measured, none with 0; `parallel` nodes are asked at once."""

    sample: int
    seed: int
    parallel: int


def survey(section: ExistingCluster, request: SurveyRequest, say: Say, commands: Commands | None = None) -> Survey:
    """Raises LabError when the cluster cannot be asked for its nodes at all; a node that cannot be asked is in the
    result, with its reason."""
    access = _access(section, commands or HostCommands("cluster"), f"survey-{secrets.token_hex(3)}")
    nodes = access.nodes()
    say(f"{len(nodes)} nodes")
    version = _server_version(access)
    agents = find_agents(access)
    notes = [f"Cilium's agents could not be looked for: {agents.refused}"] if agents.refused else []
    proxies = _proxies(access, notes)
    config = _config(access) if agents.pods else {}
    surveyed = {node.name: _from_api(node, agents.pods, agents.refused, proxies) for node in nodes}
    pairs: list[SurveyedPair] = []
    is_stopped = False
    try:
        asked = [name for name in surveyed if name in agents.pods]
        look = _agent_asker(access, agents.pods)
        for name, answer in _each(asked, look, request.parallel, say, "agents asked"):
            surveyed[name] = _with_answer(surveyed[name], answer, config)
        measure_pairs(access, nodes, request, pairs, say, notes)
    except (KeyboardInterrupt, Interrupted):
        is_stopped = True
    return Survey(
        cluster=access.settings.context,
        version=version,
        cni="cilium" if agents.pods else "not known",
        nodes=tuple(surveyed.values()),
        pairs=tuple(pairs),
        seed=request.seed,
        sample=request.sample,
        interrupted=is_stopped,
        notes=tuple(notes),
    )


def _access(section: ExistingCluster, commands: Commands, name: str) -> Access:
    section = section.model_copy(update={"helpers": HelperUse.NEVER})
    lab = bare_lab(name)
    files = ClusterFiles.of(state_root("cluster"), name)
    settings = ClusterSettings(lab=lab, section=section, files=files)
    return Access(settings=located_in(settings, commands), commands=commands)


def _server_version(access: Access) -> str:
    """The API server's own; empty where it does not say."""
    done = access.ask("get", "--raw", "/version")
    found = re.search(r'"gitVersion":\s*"(v[^"]{1,60})"', done.text) if done.returncode == 0 else None
    return found[1] if found else ""


def _proxies(access: Access, notes: list[str]) -> frozenset[str] | None:
    """The nodes on which a kube-proxy runs as a pod; None where that may not be asked."""
    done = access.ask("-n", SYSTEM, "get", "pods", "-l", _PROXY, "-o", _PROXY_FIELDS)
    if done.returncode != 0 or done.timed_out:
        why_not = said(done) if is_forbidden(done.error_text) else why(done)
        notes.append(f"whether kube-proxy runs could not be asked: {why_not}")
        return None
    lines = (line.partition("\t") for line in done.text.splitlines())
    return frozenset(node for node, _, phase in lines if phase.strip() == "Running" and is_node_name(node))


def _config(access: Access) -> dict[str, str]:
    """`cilium-config`, for agents up to 1.15, whose status lacks the network mode; empty where it may not be read."""
    done = access.ask("-n", SYSTEM, "get", "configmap", CONFIG_MAP, "-o", "json")
    data = mapping_of(object_of(done.text).get("data")) if done.returncode == 0 else {}
    return {str(key): str(value) for key, value in data.items()}


def _from_api(
    node: ClusterNode, agents: Mapping[str, str], refused: str, proxies: frozenset[str] | None
) -> SurveyedNode:
    unasked = ""
    if agents and node.name not in agents:
        unasked = "no Cilium agent is ready on it"
    elif refused:
        unasked = f"its agent may not be asked: {refused}"
    return SurveyedNode(
        name=node.name,
        is_ready=node.is_ready,
        zone=node.zone,
        address=node.address,
        kernel=node.kernel,
        kubelet=node.kubelet,
        runtime=node.runtime,
        os=node.os_image,
        architecture=node.architecture,
        taints=node.taints,
        mode={},
        kube_proxy=None if proxies is None else node.name in proxies,
        unasked=unasked,
    )


def _agent_asker(access: Access, agents: Mapping[str, str]) -> Callable[[str], AgentStatus]:
    kubectl = access.settings.kubectl()

    def look(node: str) -> AgentStatus:
        door = pod_door(kubectl, SYSTEM, agents[node], AGENT_CONTAINER)
        target = DoorTarget(name=agents[node], kind=TargetKind.NODE, door=door, commands=access.commands)
        done = target.run(argv_status(), timeout_s=_AGENT_S)
        if not done.stdout:
            raise MeasureFailed(what=f"the agent on {node} gives no status", cause=why(done))
        return parse_status(done.text)

    return look


def _with_answer(node: SurveyedNode, answer: AgentStatus | LabError, config: Mapping[str, str]) -> SurveyedNode:
    if isinstance(answer, LabError):
        return replace(node, unasked=": ".join(filter(None, (answer.what, answer.cause))))
    return replace(node, agent=answer.version, mode=found_by_agent(answer, config))


def _each(
    names: Sequence[T], look: Callable[[T], R], at_once: int, say: Say, what: str
) -> Iterable[tuple[T, R | LabError]]:
    """Every answer as it comes; an error is an answer. When the reader stops, what was not begun is not begun."""
    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="labctl-survey")
    try:
        begun: dict[Future[R], T] = {pool.submit(look, name): name for name in names}
        for number, done in enumerate(as_completed(begun), start=1):
            say(f"{number} of {len(names)} {what}")
            try:
                yield begun[done], done.result()
            except LabError as failed:
                if isinstance(failed, Interrupted):
                    raise
                yield begun[done], failed
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def sampled(nodes: Sequence[str], sample: int, seed: int) -> tuple[tuple[str, str], ...]:
    """At most `sample` different pairs of those nodes, each in either order; the same for the same seed. Pure."""
    chooser = random.Random(seed)  # nosec B311  # a sample that can be drawn again, no secret
    count = len(nodes) * (len(nodes) - 1) // 2
    if count <= sample:
        pairs = list(combinations(nodes, 2))
        chooser.shuffle(pairs)
    else:
        chosen: dict[tuple[str, str], None] = {}
        while len(chosen) < sample:
            a, b = chooser.sample(range(len(nodes)), 2)
            chosen.setdefault((nodes[min(a, b)], nodes[max(a, b)]))
        pairs = list(chosen)
    return tuple((b, a) if chooser.random() < 0.5 else (a, b) for a, b in pairs)


def measure_pairs(
    access: Access,
    nodes: Sequence[ClusterNode],
    request: SurveyRequest,
    into: list[SurveyedPair],
    say: Say,
    notes: list[str],
) -> None:
    """Measures a sample of the nodes on which a pod may stand, and appends what it finds. The namespace that it makes
    is removed, however it ends."""
    tolerates = access.settings.section.tolerate_taints
    fit = [node.name for node in nodes if not node.why_not(tolerates=tolerates)]
    pairs = sampled(fit, request.sample, request.seed)
    if not pairs:
        if request.sample:
            notes.append(f"no pair was measured: {len(fit)} of {len(nodes)} nodes take pods")
        return
    places = {name: f"n{number}" for number, name in enumerate(sorted({name for pair in pairs for name in pair}))}
    lab = replace(access.settings.lab, pods=tuple(_pod(place) for place in places.values()))
    settings = replace(access.settings, lab=lab, nodes={place: name for name, place in places.items()})
    access = replace(access, settings=settings)
    lab_id = secrets.token_hex(4)
    try:
        text = namespace_text(settings, lab_id=lab_id, made_by=made_by())
        access.must("create", "--validate=false", "-f", "-", what="the survey's namespace cannot be made",
                    stdin=text.encode(), acts=True)  # fmt: skip
        say(f"{len(places)} pods for {len(pairs)} pairs, in namespace {settings.namespace}")
        access.must("create", "--validate=false", "-f", "-", what="the survey's pods cannot be made",
                    stdin=workloads_text(settings).encode(), timeout_s=120.0, acts=True)  # fmt: skip
        ready, trouble = _ready(access, tuple(places.values()), say)
        doors = {name: _door(access, place) for name, place in places.items()}

        def look(pair: tuple[str, str]) -> SurveyedPair:
            a, b = pair
            lacking = [name for name in pair if places[name] not in ready]
            if lacking:
                raise MeasureFailed(what=f"no pod is ready on {' and '.join(lacking)}", cause=trouble)
            return ping(doors[a], a, b, ready[places[b]])

        for (a, b), found in _each(pairs, look, request.parallel, say, "pairs measured"):
            if isinstance(found, LabError):
                told = ": ".join(filter(None, (found.what, found.cause)))
                found = SurveyedPair(a=a, b=b, sent=0, received=0, failed=told)
            into.append(found)
    except LabError as failed:
        if isinstance(failed, Interrupted):
            raise
        notes.append(f"pairs could not be measured: {': '.join(filter(None, (failed.what, failed.cause)))}")
        measured = {(pair.a, pair.b) for pair in into}
        into += [
            SurveyedPair(a=a, b=b, sent=0, received=0, failed=failed.what) for a, b in pairs if (a, b) not in measured
        ]
    finally:
        with uninterrupted():
            _remove(access, lab_id, say, notes)


def _remove(access: Access, lab_id: str, say: Say, notes: list[str]) -> None:
    try:
        access.remove_namespace(lab_id, say)
    except LabError as failed:
        by_hand = shlex.join(access.settings.kubectl("delete", "namespace", access.settings.namespace))
        notes.append(f"namespace {access.settings.namespace} is left: {failed.what}; by hand: {by_hand}")


def _ready(access: Access, names: Sequence[str], say: Say) -> tuple[dict[str, str], str]:
    """The addresses of the pods that are ready, and why the others are not: one bad node does not keep the rest from
    being measured."""
    with suppress(StepFailed):
        pods = access.wait_for(names, timeout_s=_READY_S, say=say, what="waiting for the survey's pods")
        return {name: pod.address for name, pod in pods.items()}, ""
    pods = access.pods()
    trouble = "; ".join(dict.fromkeys(pods[name].reason for name in names if name in pods and not pods[name].is_ready))
    return {name: pods[name].address for name in names if name in pods and pods[name].is_ready}, trouble[:500]


def _pod(place: str) -> Pod:
    mac = stable_mac("survey", place)
    return Pod(
        name=place, node=place, address=IPv4Address(0), mac=mac, lxc=f"lxc{place}", lxc_mac=mac, identity=256,
        labels={"app": "labctl-survey"},
    )  # fmt: skip


def _door(access: Access, pod: str) -> DoorTarget:
    settings = access.settings
    door = pod_door(settings.kubectl(), settings.namespace, pod, CONTAINER)
    return DoorTarget(name=pod, kind=TargetKind.POD, door=door, commands=access.commands)


def ping(target: DoorTarget, a: str, b: str, address: str) -> SurveyedPair:
    """Raises MeasureFailed when ping could not send; that nothing answered is a result."""
    argv = ("ping", "-n", "-c", str(PINGS), "-i", _INTERVAL_S, "-W", "2", address)
    done = target.run(argv, timeout_s=_PING_S)
    counts = _COUNTS.search(done.text)
    if counts is None:
        require_success(done, f"ping could not be run on {a}")
        raise MeasureFailed(what=f"ping's output on {a} cannot be read", cause=done.text.strip()[-200:])
    times = sorted(float(text) / 1000 for text in _TIMES.findall(done.text))
    return SurveyedPair(
        a=a,
        b=b,
        sent=int(counts[1]),
        received=int(counts[2]),
        rtt_min_s=times[0] if times else None,
        rtt_p50_s=times[len(times) // 2] if times else None,
        rtt_max_s=times[-1] if times else None,
    )
