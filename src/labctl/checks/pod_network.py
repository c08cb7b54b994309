"""How a pod's own network is set up, as iproute2 tells it, and the largest packet that leaves it. Argv, parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.errors import MeasureFailed
from labctl.providers.base import Completed

ICMP_OVER_IPV4_BYTE = 28
"""The IPv4 header and the ICMP header: what a ping's payload is smaller than the packet."""
_TOO_LONG = re.compile(r"local error: message too long, mtu=(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One IPv4 address of a device."""

    address: str
    prefix_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    """Where a pod sends everything. `mtu` is the route's own in bytes, None where it is the device's; `is_on_link` says
    that another route declares the gateway to be reached on that device itself."""

    gateway: str
    device: str
    mtu: int | None
    is_on_link: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The pod's device. `mtu` in bytes."""

    mtu: int
    addresses: tuple[Address, ...]


def argv_addresses(device: str) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "address", "show", "dev", device)


def argv_routes() -> tuple[str, ...]:
    return ("ip", "-j", "-4", "route", "show")


def argv_neighbours(device: str) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "neighbour", "show", "dev", device)


def argv_forget_neighbour(address: str, device: str) -> tuple[str, ...]:
    """Makes the pod ask again."""
    return ("ip", "neighbour", "flush", "to", address, "dev", device)


def argv_largest(destination: str, payload_byte: int) -> tuple[str, ...]:
    """One echo request of that payload that nobody may fragment."""
    return ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(payload_byte), destination)


def parse_device(text: str) -> Device:
    """Raises MeasureFailed when it is not what `ip -j address` prints."""
    entries = [entry for entry in _entries(text, "ip address") if "addr_info" in entry]
    if len(entries) != 1:
        raise MeasureFailed("the pod's device cannot be read", f"ip address named {len(entries)} devices, not one")
    return Device(
        mtu=int(entries[0].get("mtu", 0)),
        addresses=tuple(
            Address(address=str(one["local"]), prefix_length=int(one["prefixlen"]))
            for one in entries[0]["addr_info"]
            if one.get("family", "inet") == "inet" and one.get("scope", "global") == "global"
        ),
    )


def parse_default_route(text: str) -> DefaultRoute | None:
    """The default route, or None when the pod has none. Raises MeasureFailed for other output."""
    routes = _entries(text, "ip route")
    default = next((route for route in routes if route.get("dst") == "default"), None)
    if default is None or "gateway" not in default:
        return None
    gateway, device = str(default["gateway"]), str(default.get("dev", ""))
    metrics: Sequence[Mapping[str, Any]] = default.get("metrics", ())
    return DefaultRoute(
        gateway=gateway,
        device=device,
        mtu=next((int(metric["mtu"]) for metric in metrics if "mtu" in metric), None),
        is_on_link=any(
            str(route.get("dst")) in (gateway, f"{gateway}/32")
            and route.get("scope") == "link"
            and route.get("dev") == device
            for route in routes
        ),
    )


def parse_neighbour(text: str, address: str) -> str | None:
    """The MAC address that is known for `address`, or None. Raises MeasureFailed for other output."""
    for entry in _entries(text, "ip neighbour"):
        if entry.get("dst") == address and "lladdr" in entry:
            return str(entry["lladdr"]).lower()
    return None


def refused_mtu(completed: Completed) -> int | None:
    """The MTU that ping's kernel named when it refused to send, or None when it did not refuse."""
    found = _TOO_LONG.search(completed.error_text) or _TOO_LONG.search(completed.text)
    return int(found[1]) if found else None


def _entries(text: str, program: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(text or "[]")
    except ValueError as failed:
        raise MeasureFailed(f"the output of {program} cannot be read", text.strip()[:200]) from failed
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MeasureFailed(f"the output of {program} cannot be read", "it is no list of objects")
    return [entry for entry in entries if entry]
