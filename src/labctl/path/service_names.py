"""What a captured packet has to do with a Service, in words: before it is translated and after. Pure.

It stands alone because a capture's file has these words as comments, and only where a lab has Services.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from labctl.model.lab import Lab, ServiceProtocol
from labctl.path.frame import PROTOCOL_TCP, PROTOCOL_UDP, Frame, Ipv4, Tcp, Udp, decode, ip_text

_NUMBERS = {ServiceProtocol.TCP: PROTOCOL_TCP, ServiceProtocol.UDP: PROTOCOL_UDP}
_Place = tuple[bytes, int, int]


class ServiceNames:
    """The addresses of a lab's Services and of the pods behind them."""

    def __init__(self, lab: Lab) -> None:
        self._services: dict[_Place, str] = {}
        self._backends: dict[_Place, tuple[str, list[str]]] = {}
        for service in lab.services:
            number = _NUMBERS[service.protocol]
            self._services[service.address.packed, service.port, number] = service.name
            if service.node_port is not None:
                for node in lab.nodes:
                    self._services[node.address.ip.packed, service.node_port, number] = service.name
            for name in service.backends:
                place = (lab.pod(name).address.packed, service.target_port, number)
                self._backends.setdefault(place, (name, []))[1].append(service.name)

    def comment(self, data: bytes) -> str:
        """Of a frame, or of the frame inside its envelope; empty where no Service is in it."""
        frame = decode(data)
        if frame is None:
            return ""
        words = (self._words(frame.inner or frame, is_source) for is_source in (False, True))
        return "; ".join(filter(None, words))

    def _words(self, frame: Frame, is_source: bool) -> str:
        network, transport = frame.network, frame.transport
        if not isinstance(network, Ipv4) or not isinstance(transport, (Tcp, Udp)):
            return ""
        address, port = (network.src, transport.src_port) if is_source else (network.dst, transport.dst_port)
        place, way = (address, port, network.protocol), "from" if is_source else "to"
        if (service := self._services.get(place)) is not None:
            return f"{way} Service {service} ({ip_text(address)}:{port}), not translated here"
        if (backend := self._backends.get(place)) is not None:
            name, services = backend
            return f"{way} pod {name} ({IPv4Address(address)}:{port}), behind Service {', '.join(services)}"
        return ""
