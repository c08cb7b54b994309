"""Endpoints, identities and tunnels as an agent lists them: `endpoint list -o json`, `bpf tunnel list`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.json_text import of_known_form, parse_json
from labctl.names import is_device, is_mac
from labctl.providers.cilium.status import IN_AGENT


@dataclass(frozen=True, slots=True, kw_only=True)
class CiliumEndpoint:
    """One endpoint of an agent. `pod` is `namespace/name`, empty for the host and the health endpoint."""

    id: int
    pod: str
    identity: int
    address: str
    mac: str
    lxc: str
    lxc_index: int
    lxc_mac: str
    state: str


def argv_endpoints() -> tuple[str, ...]:
    return (*IN_AGENT, "endpoint", "list", "-o", "json")


@of_known_form("the agent's list of endpoints")
def parse_endpoints(text: str) -> tuple[CiliumEndpoint, ...]:
    """Raises MeasureFailed when the text is not a JSON list of endpoints."""
    try:
        entries = parse_json(text)
    except ValueError as failed:
        raise MeasureFailed(
            what="the agent's list of endpoints is not JSON", cause=text.strip()[:200] or "it is empty"
        ) from failed
    if not isinstance(entries, list):
        raise MeasureFailed(what="the agent's list of endpoints is not a list", cause=text.strip()[:200])
    return tuple(_endpoint(entry) for entry in entries)


def _endpoint(entry: dict[str, object]) -> CiliumEndpoint:
    status = _inner(entry, "status")
    identifiers = _inner(status, "external-identifiers")
    networking = _inner(status, "networking")
    addressing = networking.get("addressing")
    first = addressing[0] if isinstance(addressing, list) and addressing else {}
    namespace, name = identifiers.get("k8s-namespace"), identifiers.get("k8s-pod-name")
    return CiliumEndpoint(
        id=_whole(entry.get("id")),
        pod=f"{namespace}/{name}" if namespace and name else str(identifiers.get("pod-name", "")).strip("/"),
        identity=_whole(_inner(status, "identity").get("id")),
        address=str(first.get("ipv4", "")),
        mac=_named(networking.get("mac"), is_mac),
        lxc=_named(networking.get("interface-name"), is_device),
        lxc_index=_whole(networking.get("interface-index")),
        lxc_mac=_named(networking.get("host-mac"), is_mac),
        state=str(status.get("state", "")),
    )


def _inner(entry: dict[str, object], key: str) -> dict[str, object]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _named(value: object, is_one: Callable[[str], bool]) -> str:
    """A name that is passed to tools; empty where the agent has none. Raises MeasureFailed for an invalid one."""
    text = str(value or "")
    if text and not is_one(text):
        raise MeasureFailed(
            what="the agent's list of endpoints has an invalid device name or MAC address", cause=repr(text)[:200]
        )
    return text


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One entry of the tunnel map. In native mode entries can remain: they prove no tunnel."""

    prefix: str
    endpoint: str


def argv_tunnels() -> tuple[str, ...]:
    return (*IN_AGENT, "bpf", "tunnel", "list")


def parse_tunnels(text: str) -> tuple[Tunnel, ...]:
    tunnels = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) >= 2:
            tunnels.append(Tunnel(prefix=words[0], endpoint=words[1].rsplit(":", 1)[0]))
    return tuple(tunnels)


def endpoint_of(endpoints: Sequence[CiliumEndpoint], pod: str) -> CiliumEndpoint | None:
    """The endpoint of `namespace/name`, or None."""
    return next((endpoint for endpoint in endpoints if endpoint.pod == pod), None)
