from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from labctl.services.frontends import frontends
from services.service_labs import lab_with_services


def test_a_frontend_has_its_backends_with_their_nodes() -> None:
    web, local, names, none = frontends(lab_with_services())
    assert [(backend.name, backend.node) for backend in web.backends] == [
        ("10.244.0.3:5205", "node1"),
        ("10.244.1.2:5205", "node2"),
    ]
    assert web.full_name == "labctl-demo/web"
    assert [backend.name for backend in web.local_backends("node2")] == ["10.244.1.2:5205"]
    assert not local.local_backends("node1")
    assert (names.protocol, names.node_port) == ("udp", None)
    assert not none.backends
    assert not any(frontend.is_filler for frontend in (web, local, names, none))


def test_fillers_come_after_the_scenarios_services_with_addresses_of_their_own() -> None:
    made = frontends(lab_with_services(extra_services=10_000))
    fillers = made[4:]
    assert len(fillers) == 10_000
    assert all(frontend.is_filler for frontend in fillers)
    assert len({frontend.address for frontend in made}) == len(made)
    assert len({frontend.name for frontend in made}) == len(made)
    assert all(frontend.address in IPv4Network("10.96.0.0/16") for frontend in made)
    assert fillers[0].address == IPv4Address("10.96.0.15")


def test_no_packet_of_a_lab_goes_to_a_fillers_backend() -> None:
    nowhere = IPv4Network("198.18.0.0/15")
    backends = [backend for one in frontends(lab_with_services(extra_services=20_000))[4:] for backend in one.backends]
    assert len(set(backends)) == 20_000
    assert all(backend.address in nowhere and not backend.node for backend in backends)
