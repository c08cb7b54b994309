"""The defaults that hold where neither lab.yaml nor a scenario says anything.

The shipped lab.yaml writes the same values out, with comments; a test holds the two equal. They are here as well so
that a scenario file means the same without any project around it (an installed package, a file sent by mail).
"""

from __future__ import annotations

from labctl.loading.tree import Place, Tree, planted

BUILT_IN = "built-in default"


def built_in() -> Tree:
    return planted(
        {
            "provider": "netns",
            "nodes": 3,
            "network": {
                "underlayCIDR": "172.30.0.0/24",
                "podCIDR": "10.244.0.0/16",
                "serviceCIDR": "10.96.0.0/16",
                "mtu": 1500,
            },
            "datapath": {"encapsulation": "vxlan", "masquerade": "bpf", "kubeProxyReplacement": True},
            "checks": [
                {"check": "ping"},
                {"check": "latency"},
                {"check": "iperf"},
                {"check": "iperf", "name": "iperf-many", "streams": 4},
                {"check": "iperf", "name": "iperf-udp", "protocol": "udp"},
                {"check": "tcpdump"},
            ],
        },
        Place(BUILT_IN, 0, 0),
    )
