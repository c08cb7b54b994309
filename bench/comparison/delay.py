"""What `datapath.extraDelayNs` really adds to a packet, by the kernel's own clock (BPF_PROG_TEST_RUN). Needs root."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from statistics import median

from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG_KEY, Config, pack_config
from labctl.datapath.loader import load
from labctl.model.lab import Encapsulation, HostRouting

PACKETS = 1_001
# Ethernet and IPv4, nothing else: the programs wait before they look further.
PACKET = bytes(12) + b"\x08\x00\x45" + bytes(19)
DELAYED = "cil_from_container"


def added_ns(delay_ns: int) -> float:
    """The difference of the medians of single packets with that delay and without, in nanoseconds."""
    return _median_ns(delay_ns) - _median_ns(0)


def _median_ns(delay_ns: int) -> float:
    config = Config(
        node_address=IPv4Address("192.0.2.1"),
        router_address=IPv4Address("198.51.100.1"),
        pod_cidr=IPv4Network("198.51.100.0/24"),
        uplink_ifindex=2,
        cilium_net_ifindex=3,
        cilium_vxlan_ifindex=4,
        cilium_host_mac="02:00:00:00:00:01",
        extra_delay_ns=delay_ns,
    )
    with load(HostRouting.LEGACY, Encapsulation.NATIVE) as loaded:
        bpf.update(loaded.maps["config"], [(CONFIG_KEY, pack_config(config))])
        program = loaded.programs[DELAYED]
        return median(bpf.run_program(program, PACKET).duration_ns for _ in range(PACKETS))
