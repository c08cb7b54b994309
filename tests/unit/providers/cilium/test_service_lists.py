"""Reading `cilium-dbg service list` and `cilium-dbg bpf lb list`, in the forms of several versions."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from labctl.errors import MeasureFailed
from labctl.model.lab import Lab, Service, ServiceProtocol, ServiceType
from labctl.providers.cilium.service_lists import parse_lb_list, parse_service_list, read_services
from labctl.providers.cilium.status import IN_AGENT
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import Answer, ScriptedTarget

# The lines of Cilium v1.16.0-rc.0 on Kubernetes v1.20.2; the column heads and the pods' addresses are the lab's here.
SERVICE_LIST = """\
ID   Frontend             Service Type   Backend
1    10.96.0.1:443        ClusterIP      1 => 172.30.0.2:6443 (active)
5    10.96.0.11:80        ClusterIP      1 => 10.244.0.3:5205 (active)
                                         2 => 10.244.1.2:5205 (terminating)
7    10.96.101.85:5205    ClusterIP
12   172.30.0.3:30205     NodePort       1 => 10.244.0.3:5205 (active)
"""
NEWER = """\
ID   Frontend                Service Type   Backend
5    10.96.0.11:80/TCP       ClusterIP      1 => 10.244.0.3:5205/TCP (active)
12   172.30.0.3:30205/TCP/i  NodePort       1 => 10.244.1.2:5205/TCP (active)
"""
LB_LIST = """\
SERVICE ADDRESS         BACKEND ADDRESS (REVNAT_ID) (SLOT)
10.96.31.173:5205 (0)   0.0.0.0:0 (5) (0) [ClusterIP, non-routable]
10.96.31.173:5205 (1)   10.244.0.42:5205 (5) (1)
172.30.0.3:30215/i (0)  0.0.0.0:0 (14) (0) [NodePort, Local, two-scopes]
"""


def make_lab() -> Lab:
    web = Service(
        name="web",
        address=IPv4Address("10.96.0.11"),
        port=80,
        target_port=5205,
        protocol=ServiceProtocol.TCP,
        backends=("neighbour", "server"),
        selector={},
        type=ServiceType.NODE_PORT,
        node_port=30205,
    )
    return replace(sample_lab("t"), services=(web,))


def test_every_frontend_has_its_backends_and_the_labs_names() -> None:
    api, web, empty, port = parse_service_list(SERVICE_LIST, make_lab())
    assert (api.id, api.service, api.backends[0].pod) == (1, "", "")
    assert (web.service, web.frontend, web.protocol, web.type) == ("web", "10.96.0.11:80", "tcp", "ClusterIP")
    assert [(one.number, one.pod, one.active) for one in web.backends] == [(1, "neighbour", True), (2, "server", False)]
    assert empty.backends == ()
    assert (port.service, port.type) == ("web", "NodePort")


def test_newer_versions_write_the_protocol_and_the_scope() -> None:
    web, inside = parse_service_list(NEWER, make_lab())
    assert (web.frontend, web.protocol, web.backends[0].address) == ("10.96.0.11:80", "tcp", "10.244.0.3:5205")
    assert (inside.frontend, inside.scope) == ("172.30.0.3:30205", "internal")


def test_the_maps_lines_are_kept_as_they_are() -> None:
    lines = [(one.service, one.backend) for one in parse_lb_list(LB_LIST)]
    assert lines == [
        ("10.96.31.173:5205 (0)", "0.0.0.0:0 (5) (0) [ClusterIP, non-routable]"),
        ("10.96.31.173:5205 (1)", "10.244.0.42:5205 (5) (1)"),
        ("172.30.0.3:30215/i (0)", "0.0.0.0:0 (14) (0) [NodePort, Local, two-scopes]"),
    ]


def test_each_node_is_asked_and_a_refusal_is_an_error_with_the_agents_words() -> None:
    agent = ScriptedTarget(
        "agent",
        [
            Answer(argv=(*IN_AGENT, "service", "list"), stdout=SERVICE_LIST.encode()),
            Answer(argv=(*IN_AGENT, "bpf", "lb", "list"), stdout=LB_LIST.encode()),
        ],
    )
    (node,) = read_services(make_lab(), {"node1": agent})
    assert (len(node.frontends), len(node.entries)) == (4, 3)
    assert node.service_command == "in agent cilium service list"
    broken = ScriptedTarget("agent", [Answer(argv=IN_AGENT, returncode=1, stderr=b"connection refused")])
    with pytest.raises(MeasureFailed, match="Services of node node1") as failed:
        read_services(make_lab(), {"node1": broken})
    assert failed.value.cause == "connection refused"
