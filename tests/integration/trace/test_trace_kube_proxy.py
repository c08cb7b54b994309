"""`labctl trace` where kube-proxy's rules translate: every tap shows what follows from them, and netfilter is named."""

from __future__ import annotations

import pytest
from test_trace_services import lab_with_services, told, traced
from tracing_labs import needs

from labctl.model.lab import Encapsulation, HostRouting, KubeProxy, Masquerade
from labctl.model.trace import Translator, Way
from labctl.testing.labs import RECORDED

pytestmark = needs

WAYS = (
    ("world", "far@node1"),
    ("world", "far@node2"),
    ("world", "local@node2"),
    ("world", "names@node1"),
    ("client", "far"),
    ("client", "near"),
    ("client", "names"),
    ("node1", "far"),
    ("node1", "near"),
)


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("mode", [KubeProxy.IPTABLES, pytest.param(KubeProxy.NFTABLES, marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_every_tap_shows_what_follows_from_the_rules(
    host_as_found: str, mode: KubeProxy, encapsulation: Encapsulation
) -> None:
    asked = {"masquerade": Masquerade.IPTABLES, "kube_proxy_replacement": False, "kube_proxy": mode}
    with lab_with_services(host_as_found, HostRouting.LEGACY, encapsulation, **asked) as (lab, open_lab):
        ways = {ends: traced(lab, open_lab, *ends) for ends in WAYS}
    assert {ends: found.wrong.sentence for ends, found in ways.items() if found.wrong is not None} == {}
    assert all(found.expected_source and found.replied == 1 for found in ways.values())
    for (client, server), found in ways.items():
        if client == "node1":  # translated in OUTPUT, before any tap could see it
            continue
        at = server.partition("@")[2] if client == "world" else "node1"
        for way in Way:
            assert {(by, node) for by, node, _ in told(found, way)} == {(Translator.NETFILTER, at)}, (client, server)
