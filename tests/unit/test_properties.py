"""What a tool prints, a record says or a scenario holds is an error in words, or data of the loader's own types.

Hypothesis makes the input: noise, and real samples cut short, doubled and with hostile pieces put in.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.checks import (
    addressing_findings,
    captures,
    connect,
    iperf,
    kube_proxy,
    latency,
    netfilter,
    paced,
    service,
)
from labctl.errors import LabError
from labctl.loading import load_scenario, scenario_names
from labctl.loading.schema import schema
from labctl.model.lab import Lab
from labctl.model.section import SCENARIO
from labctl.names import is_device, is_mac, is_name
from labctl.path import sent
from labctl.path.pcap import PcapError, read_pcap
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.planning.resolve import resolve
from labctl.providers.cilium import cluster_facts, hubble_pwru, monitor, status, workloads
from labctl.providers.kind import clusters
from labctl.providers.kubeadm import marks
from labctl.providers.netns import counters, plan, record
from labctl.system import netns
from labctl.system.netfilter import parse_arrivals

TREE = Path(__file__).resolve().parents[2]
SAMPLES = TREE / "tests" / "fixtures"
HOSTILE = (
    "../../../../etc", "/etc/passwd", "-rf", "--post-renderer=/tmp/x", "$(touch /tmp/x)", "`id`",
    "{{ lookup('pipe','id') }}",
    "<script>alert(1)</script>", "\x1b]0;x\x07", "\x9b31m", "\u202e", "\x00", "9" * 5000, "[" * 3000, "1e999", "NaN",
    "\n", "",
)  # fmt: skip
quick = settings(max_examples=60)

# ---- what tools print

READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "ping": (sent.parse_ping, "ping-pass"),
    "tcpdump's counts": (captures.parse_counts, "tcpdump.stderr"),
    "iperf3": (iperf.parse_iperf, "iperf3-tcp.json"),
    "sockperf": (latency.parse_sockperf, "sockperf-pass"),
    "sockperf, paced": (lambda text: paced.parse_paced(text, text), "sockperf-paced"),
    "connect": (connect.parse_connect, ""),
    "iperf3, connections": (lambda text: service.parse_connections(text, 3), ""),
    "rules of a Service": (lambda text: kube_proxy.parse_rules(text, re.compile("10.96.0.1")), ""),
    "chains of kube-proxy": (kube_proxy.parse_chains, ""),
    "ip address": (addressing_findings.parse_device, ""),
    "ip route": (addressing_findings.parse_default_route, ""),
    "ip neigh": (lambda text: addressing_findings.parse_neighbour(text, "10.0.0.1"), ""),
    "conntrack": (netfilter.parse_connections, "conntrack-entries"),
    "iptables-save": (counters.parse_iptables_save, "iptables-save"),
    "UDP counters": (iperf.parse_udp_counters, ""),
    "/proc/net/snmp": (parse_arrivals, ""),
    "cilium status": (status.parse_status, ""),
    "cilium endpoint list": (cluster_facts.parse_endpoints, ""),
    "cilium monitor": (monitor.parse_monitor, ""),
    "hubble": (hubble_pwru.parse_hubble, ""),
    "kubectl get pods": (workloads.parse_pods, ""),
    "kubectl get events": (workloads.parse_events, ""),
    "kubectl get ciliumnodes": (cluster_facts.parse_cilium_nodes, ""),
    "cilium bpf tunnel list": (cluster_facts.parse_tunnels, ""),
    "links of a node": (cluster_facts.parse_links, ""),
    "docker inspect": (clusters.parse_inspect, ""),
    "a machine's mark": (marks.parse_mark, ""),
}


def sample(name: str) -> str:
    found = sorted(SAMPLES.rglob(name)) if name else []
    return (
        found[0].read_text(encoding="utf-8", errors="replace")
        if found
        else '[{"name": "x", "id": 1, "ifname": "eth0"}]'
    )


@st.composite
def printed(draw: st.DrawFn, real: str) -> str:
    """Noise, or a real sample: cut, doubled, with hostile pieces in the place of its words."""
    how = draw(st.integers(0, 4))
    if how == 0:
        return draw(st.text(max_size=400))
    if how == 1:
        return json.dumps(draw(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), _nested)))
    start = draw(st.integers(0, len(real)))
    end = draw(st.integers(start, len(real)))
    piece = draw(st.sampled_from(HOSTILE))
    return {2: real[:start] + real[end:], 3: real[:start] + piece + real[end:], 4: real + real[start:end] + piece}[how]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(
        ["name", "id", "status", "items", "metadata", "end", "spec", "ifname", "addr_info", "summary"]
    )
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


@pytest.mark.parametrize("tool", READERS)
def test_what_a_tool_prints_is_read_or_an_error_in_words(tool: str) -> None:
    read, name = READERS[tool]
    real = sample(name)

    @quick
    @given(printed(real))
    def holds(text: str) -> None:
        try:
            read(text)
        except LabError as error:
            assert error.what  # noqa: PT017
        except OSError as error:  # of the kernel's own files, whose readers say what could not be read
            assert error.strerror  # noqa: PT017

    holds()


@quick
@given(st.binary(max_size=300))
def test_a_capture_of_any_bytes_is_packets_or_an_error(data: bytes) -> None:
    for head in (b"", bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")):
        try:
            list(read_pcap(head + data))
        except PcapError as error:
            assert str(error)  # noqa: PT017


# ---- records

LABS = [resolve(load_scenario(name, start=TREE)) for name in scenario_names(TREE)]
NOT_DIGESTED = ("apiVersion", "kind", "name", "scenario", "source", "digest")


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A lab's record with one to three values replaced by hostile ones, under a digest that fits again."""
    data: Any = copy.deepcopy(lab_to_json(draw(st.sampled_from(LABS))))
    for _ in range(draw(st.integers(1, 3))):
        at = data
        while True:
            step = draw(st.sampled_from(sorted(at)) if isinstance(at, dict) else st.integers(0, len(at) - 1))
            if isinstance(at[step], (dict, list)) and at[step] and draw(st.booleans()):
                at = at[step]
                continue
            at[step] = draw(st.sampled_from([*HOSTILE, None, -1, 2**70, 1.5, True, [], {}, ["x"], {"x": "y"}]))
            break
    content = {key: value for key, value in data.items() if key not in NOT_DIGESTED}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**data, "digest": hashlib.sha256(text.encode()).hexdigest()}


def require_names(lab: Lab) -> None:
    """Everything of a lab that becomes a path, a device or an argument."""
    names = [lab.name, lab.provider, *(node.name for node in lab.nodes), *(check.name for check in lab.checks)]
    names += [name for pod in lab.pods for name in (pod.name, pod.node)]
    names += [name for pair in lab.pairs for name in (pair.client, pair.server)]
    assert all(map(is_name, names))
    assert all(is_mac(mac) for node in lab.nodes for mac in (node.mac,))
    assert all(is_mac(pod.mac) and is_mac(pod.lxc_mac) and is_device(pod.lxc) for pod in lab.pods)
    assert record.record_path(lab.name).parent.parent == netns.RUN_DIRECTORY / "labs"


@settings(quick, max_examples=300)
@given(records())
def test_a_record_is_refused_or_leads_nowhere_else(data: dict[str, Any]) -> None:
    try:
        lab = lab_from_json(json.loads(json.dumps(data)))
    except LabError as error:
        assert error.what == "the lab's record cannot be read"  # noqa: PT017
        return
    require_names(lab)


@quick
@given(st.text(max_size=200) | records().map(json.dumps))
def test_the_record_of_a_running_lab_is_read_or_taken_for_none(text: str) -> None:
    record.parse_document(text)


# ---- scenarios


KEYS = (
    "name", "network.podCIDR", "network.mtu", "pods", "pairs", "datapath.faults", "checks", "nodes", "services",
    "compare.checks", "datapath.extraIptablesRules", "cilium.chart", "kindCluster.network", "extends",
)  # fmt: skip
VALUES = (
    *HOSTILE, "[{name: -x, node: node1}]", "[{client: ../x, server: $(id)}]", "{a: b}", "[x, x]",
    "!!python/name:os.system",
)  # fmt: skip


@settings(quick, max_examples=150)
@given(
    name=st.sampled_from(sorted(scenario_names(TREE))),
    key=st.sampled_from(KEYS),
    value=st.sampled_from(VALUES) | st.text(max_size=30) | st.integers().map(str),
)
def test_a_scenario_is_refused_or_a_lab_of_plain_names(name: str, key: str, value: str) -> None:
    try:
        lab = resolve(load_scenario(name, overrides=[f"{key}={value}"], start=TREE))
    except LabError as error:
        assert error.exit_code == 2  # noqa: PT017
        return
    require_names(lab)
    if lab.provider == "netns":
        assert plan.plan(lab).steps


DOCUMENT = schema(SCENARIO)


def made_of(part: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that the schema's `part` describes in their kind, with hostile text wherever it allows text."""
    if "$ref" in part:
        inner = DOCUMENT
        for step in part["$ref"].removeprefix("#/").split("/"):
            inner = inner[step]
        return made_of(inner, depth)
    if "const" in part:
        return st.just(part["const"])
    if "enum" in part:
        return st.sampled_from([*part["enum"], *HOSTILE[:4]])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in part:
            return st.one_of([made_of(each, depth) for each in part[key]])
    kind = part.get("type")
    if kind == "object" and depth < 5:
        known = {name: made_of(each, depth + 1) for name, each in part.get("properties", {}).items()}
        required = {name: known.pop(name) for name in part.get("required", ()) if name in known}
        return st.fixed_dictionaries(required, optional=known)
    if kind == "array" and depth < 5:
        return st.lists(made_of(part.get("items", {}), depth + 1), max_size=2)
    return {
        "integer": st.integers(-1, 100_000) | st.just(2**70),
        "number": st.floats(-1, 1e6),
        "boolean": st.booleans(),
        "null": st.none(),
    }.get(kind, st.sampled_from(HOSTILE) | st.sampled_from(["client", "server", "node1", "10.1.0.0/16", "1.18.2"]))


@settings(max_examples=250)
@given(document=made_of(DOCUMENT), base=st.sampled_from(["bpf", "legacy-native", None]))
def test_a_scenario_made_from_the_schema_is_refused_or_a_lab_of_plain_names(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], base: str | None
) -> None:
    """JSON is YAML, so a document is its own file. With a base that is whole, more of them come to be labs."""
    document = {**document, "apiVersion": "labctl/v1", "kind": SCENARIO}
    document.pop("extends", None)
    if base is not None:
        document["extends"] = str(TREE / "scenarios" / f"{base}.yaml")
    file = tmp_path_factory.mktemp("scenario") / "made.yaml"
    file.write_text(json.dumps(document), encoding="utf-8")
    try:
        lab = resolve(load_scenario(str(file), start=TREE))
    except LabError as error:
        assert error.exit_code == 2  # noqa: PT017
        return
    require_names(lab)
