"""Rules of netfilter that are changed in a running lab hold for what conntrack knew before, too."""

from __future__ import annotations

import contextlib
import os
import subprocess
from ipaddress import IPv4Address

import pytest

from labctl.cli import group
from labctl.names import namespace_of
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netfilter, netns

CLIENT = IPv4Address("10.244.0.10")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]


def of_the_client(lab: str) -> list[netfilter.Connection]:
    with netns.entered(netns.path_of(namespace_of(lab, "node1"))):
        return [one for one in netfilter.connections() if one.source == CLIENT]


def test_a_node_whose_rules_are_changed_knows_no_connection_of_before(host_as_found: str) -> None:
    """conntrack keeps a ping for 30 s, and the next one of the same process number is a packet of it."""
    lab = f"{host_as_found}-rules"
    try:
        assert group.run(["up", "docker-host-routes", "--name", lab]) == 0
        ping = ("ip", "netns", "exec", namespace_of(lab, "client"), "ping", "-c", "1", "-W", "5", "10.244.1.10")
        subprocess.run(ping, check=True, timeout=30, capture_output=True)
        assert of_the_client(lab)
        assert group.run(["up", "docker-snat", "--name", lab, "--apply"]) == 0
        assert not of_the_client(lab)
    finally:
        with contextlib.suppress(Exception):
            group.run(["down", lab])
        NetnsProvider().teardown(lab)
