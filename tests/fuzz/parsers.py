"""Every reader of what another program, a file or a person wrote: what to call, what it is like, what it may raise.

`tests/unit/test_parsers.py` runs each on random input and holds that none is missing here; `make fuzz` runs each under
coverage. `may_raise` is what its docstring promises besides LabError.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.errors import LabError
from labctl.path.pcap import PcapError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MESSAGE = (struct.error, OSError, ValueError)
"""Of a message of the kernel that is shorter than its kind, or whose address has another length: it sends none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """`sample` names recorded output (a pattern below tests/fixtures); `more` are further arguments."""

    of_bytes: bool = False
    sample: str = ""
    more: tuple[Any, ...] = ()
    may_raise: tuple[type[Exception], ...] = ()


T, B = Parser(), Parser(of_bytes=True)
KERNEL = Parser(of_bytes=True, may_raise=MESSAGE)
VALUE = Parser(may_raise=(ValueError,))

PARSERS: dict[str, Parser] = {
    "checks.addressing_findings.parse_default_route": T,
    "checks.addressing_findings.parse_device": T,
    "checks.addressing_findings.parse_neighbour": Parser(more=("10.0.0.1",)),
    "checks.captures.parse_counts": Parser(sample="tcpdump.stderr"),
    "checks.connect.parse_connect": T,
    "checks.iperf.parse_iperf": Parser(sample="iperf3-tcp.json"),
    "checks.iperf.read_iperf": Parser(sample="iperf3-tcp.json"),
    "checks.iperf.parse_udp_counters": T,
    "checks.kube_proxy.parse_chains": T,
    "checks.kube_proxy.parse_lists": Parser(more=(re.compile("10.96.0.1"),)),
    "checks.kube_proxy.parse_rules": Parser(more=(re.compile("10.96.0.1"),)),
    "checks.latency.parse_sockperf": Parser(sample="sockperf-pass"),
    "checks.netfilter.parse_connections": Parser(sample="conntrack-entries"),
    "checks.paced.parse_paced": Parser(sample="sockperf-paced", more=("",)),
    "checks.service.parse_connections": Parser(more=(3,)),
    "checks.service.parse_exchange": Parser(more=("", "")),
    "checks.sessions.parse_bgp": T,
    "checks.sessions.parse_ospf": T,
    "checks.wire.parse_next_hop": Parser(more=("10.0.0.1",)),
    "compare.thresholds.parse_threshold": T,
    "datapath.events.decode_event": Parser(of_bytes=True, may_raise=(struct.error, ValueError)),
    "datapath.layout.unpack_config": Parser(of_bytes=True, may_raise=(struct.error, ValueError)),
    "datapath.layout.unpack_endpoint": KERNEL,
    "datapath.layout.unpack_ipcache": KERNEL,
    "datapath.layout.unpack_metric_key": Parser(of_bytes=True, may_raise=(struct.error, ValueError)),
    "datapath.layout.unpack_tunnel_key": Parser(of_bytes=True, may_raise=(struct.error, ValueError)),
    "datapath.service_maps.unpack_port": B,
    "drift.rule_lines.parse_blocks": T,
    "drift.rule_lines.parse_listing": T,
    "facts.tunnel_facts.parse_evpn": T,
    "facts.tunnel_facts.parse_fdb": T,
    "json_text.parse_json": VALUE,
    "load.places.read_places_file": B,
    "load.slices.read_slices": B,
    "load.slices.read_slices_file": B,
    "loading.lesson_texts.parse_text": T,
    "path.frame.decode": B,
    "path.pcap.read_pcap": Parser(of_bytes=True, may_raise=(PcapError,)),
    "path.sent.parse_ping": Parser(sample="ping-pass"),
    "planning.snapshot.parse_snapshot": Parser(of_bytes=True, may_raise=(ValueError,)),
    "providers.cilium.bundle.parse_digest": T,
    "providers.cilium.bundle.parse_digests": T,
    "providers.cilium.cluster_facts.parse_cilium_nodes": T,
    "providers.cilium.cluster_facts.parse_endpoints": T,
    "providers.cilium.cluster_facts.parse_links": T,
    "providers.cilium.cluster_facts.parse_tunnels": T,
    "providers.cilium.foreign.parse_addresses": T,
    "providers.cilium.foreign.parse_configuration": T,
    "providers.cilium.foreign.parse_ready": T,
    "providers.cilium.hubble_pwru.parse_hubble": T,
    "providers.cilium.hubble_pwru.parse_kernel": T,
    "providers.cilium.hubble_pwru.parse_pwru": Parser(more=((),)),
    "providers.cilium.images.parse_images": T,
    "providers.cilium.inspect_datapath.parse_net_show": Parser(more=("bpftool net show",)),
    "providers.cilium.manifest.parse_manifest": Parser(more=(Path("network.yaml"),)),
    "providers.cilium.monitor.parse_monitor": T,
    "providers.cilium.node_facts.parse_addresses": T,
    "providers.cilium.node_facts.parse_devices": T,
    "providers.cilium.node_facts.parse_pod_device": T,
    "providers.cilium.node_facts.parse_routes": T,
    "providers.cilium.rendered.parse_rendered": T,
    "providers.cilium.service_lists.parse_lb_list": T,
    "providers.cilium.status.parse_status": T,
    "providers.cilium.targets.parse_times": T,
    "providers.cilium.verbose.parse_pod_ranges": T,
    "providers.cilium.verbose.parse_verbose": T,
    "providers.cilium.waiting.parse_nodes": T,
    "providers.cilium.workloads.parse_events": Parser(more=(5,)),
    "providers.cilium.workloads.parse_pods": T,
    "providers.cluster.access.parse_namespace": T,
    "providers.cluster.nodes.parse_nodes": T,
    "providers.kind.clusters.parse_inspect": T,
    "providers.kind.config.parse_mark": T,
    "providers.kind.outside.parse_address": T,
    "providers.kind.probes.parse_cgroup2": T,
    "providers.kind.probes.parse_kernel_config": T,
    "providers.kind.probes.parse_tool_version": T,
    "providers.kubeadm.images.parse_images": T,
    "providers.kubeadm.images.parse_list": Parser(more=("m1",)),
    "providers.kubeadm.kubernetes.parse_version": VALUE,
    "providers.kubeadm.marks.parse_mark": T,
    "providers.kubeadm.open.parse_pid": T,
    "providers.netns.counters.parse_iptables_save": Parser(sample="iptables-save"),
    "providers.netns.kernel.parse_release": T,
    "providers.netns.kinds.plugin.parse_result": T,
    "providers.netns.netfilter_watch.parse_chain": Parser(more=("filter", "FORWARD")),
    "providers.netns.record.parse_document": T,
    "providers.netns.record.parse_mark": T,
    "system.link_state.parse_state": KERNEL,
    "system.netfilter.parse_arrivals": Parser(may_raise=(OSError,)),
    "system.netfilter.parse_entries": KERNEL,
    "system.netfilter.parse_rule": KERNEL,
    "system.netfilter.parse_trace": KERNEL,
    "system.rtnetlink.parse_address": KERNEL,
    "system.rtnetlink.parse_filter": KERNEL,
    "system.rtnetlink.parse_link": KERNEL,
    "system.rtnetlink.parse_neighbour": KERNEL,
    "system.rtnetlink.parse_port": KERNEL,
    "system.rtnetlink.parse_route": KERNEL,
    "system.rtnetlink.parse_tunnel_entry": KERNEL,
    "system.rtnetlink_readings.parse_any_filter": KERNEL,
    "system.rtnetlink_readings.parse_any_route": KERNEL,
    "system.rtnetlink_readings.parse_conf": KERNEL,
    "system.rtnetlink_readings.parse_link_detail": KERNEL,
    "system.rtnetlink_readings.parse_namespace_number": KERNEL,
    "system.rtnetlink_readings.parse_policy_rule": KERNEL,
    "system.rtnetlink_readings.parse_proxy": KERNEL,
    "system.rtnetlink_readings.parse_qdisc": KERNEL,
    "system.view.parse_mounts": VALUE,
}

ELSEWHERE = {
    "checks.addressing_findings.parse_sized_ping": "takes a program's end; its text goes through parse_ping",
    "checks.host_reachable.parse_client": "takes a program's end; its text goes through parse_ping",
    "checks.netfilter.parse_counters": "its rules are those of parse_iptables_save",
    "datapath.layout.decode_metrics": "takes the map's entries: unpack_metric_key",
    "datapath.masquerading.unpack_masqueraded": "a key and a value: test_map_entries_of_any_bytes",
    "datapath.service_maps.unpack_backend": "a key and a value: test_map_entries_of_any_bytes",
    "datapath.service_maps.unpack_flow": "a key and a value: test_map_entries_of_any_bytes",
    "datapath.service_maps.unpack_service": "a key and a value: test_map_entries_of_any_bytes",
    "datapath.service_maps.unpack_socket": "a key and a value: test_map_entries_of_any_bytes",
    "lessons.answers.parse_answer": "once for each kind: test_an_answer_of_any_kind",
    "loading.yaml_files.decode": "a part of the loader, which test_properties.py runs as a whole",
    "providers.cilium.chart.parse_chart": "takes the files of a chart: the tests of charts",
    "providers.cilium.hubble_pwru.parse_place": "a line of parse_pwru's places",
    "providers.cilium.inspect_datapath.parse_list": "lists of the agent, by kind: tests of the state",
    "providers.cilium.service_lists.parse_service_list": "needs a lab; its text is that of parse_lb_list",
    "providers.kubeadm.ssh_config.parse_answer": "needs a machine: the tests of ssh_config",
    "providers.kubeadm.survey.parse_survey": "needs a node's clock: the tests of the survey",
    "providers.kubeadm.survey.parse_time": "a part of parse_survey",
    "providers.kind.bundle.unpack": "takes a file: the tests of bundles",
    "providers.kubeadm.bundle.unpack": "takes a file: the tests of bundles",
}
"""Functions with a reader's name that are none, or that others run on random input."""

READERS = re.compile(r"(parse|decode|unpack)(_|$)")


def function_of(name: str) -> Callable[..., object]:
    module, _, function = name.rpartition(".")
    found = getattr(importlib.import_module(f"labctl.{module}"), function)
    assert callable(found)
    return found  # type: ignore[no-any-return]


def read(name: str, data: bytes | str) -> None:
    """Runs the reader to its end; what it promises to raise is swallowed, everything else is a defect."""
    parser = PARSERS[name]
    promised: tuple[type[Exception], ...] = (LabError, *parser.may_raise)
    try:
        found = function_of(name)(data, *parser.more)
        if isinstance(found, Iterator):
            for _ in found:
                pass
    except promised:
        return


def samples(name: str) -> list[bytes]:
    """Recorded output to begin with."""
    pattern = PARSERS[name].sample
    found = [path.read_bytes() for path in sorted(FIXTURES.rglob(pattern))[:4]] if pattern else []
    return found or [b'[{"name": "x", "id": 1, "ifname": "eth0", "addr_info": []}]']
