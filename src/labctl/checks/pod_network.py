"""How a pod's own network is set up, as iproute2 tells it, and the largest packet that leaves it. Argv, parsers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.tools import why
from labctl.path.sent import has_no_way, read_ping
from labctl.providers.base import Completed

ICMP_OVER_IPV4_BYTE = 28
"""The IPv4 header and the ICMP header: what a ping's payload is smaller than the packet."""
_EMSGSIZE = re.compile(r"message too (?:long|large)(?:, mtu ?= ?(?P<mtu>\d+))?", re.IGNORECASE)
"""What the C library calls EMSGSIZE (glibc: long, musl: large). iputils 20221126 has it from the socket's error queue,
with the MTU (`local error: message too long, mtu=1450`), 20240905 from the call (`sendmsg: Message too long`)."""
_TOO_BIG = re.compile(r"frag(?:mentation)? needed[^(]*\(mtu ?= ?(?P<mtu>\d+)\)", re.IGNORECASE)
_WARNING = re.compile(r"^warning:", re.IGNORECASE)
_OWN_NAME = re.compile(r"^\S*ping: ")
"""With its path or without, by version."""


class Fate(StrEnum):
    """What became of an echo request that nobody may fragment."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By the sender's own kernel, before anything was sent (EMSGSIZE)."""
    TOO_BIG = "too big"
    """For a router on the way, which said so (ICMP type 3, code 4)."""
    NO_ROUTE = "no route"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedPing:
    """`mtu` in bytes as whoever refused named it, None when it was not named; `words` are ping's about it, or empty."""

    fate: Fate
    mtu: int | None = None
    words: str = ""


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


def parse_sized_ping(completed: Completed) -> SizedPing:
    """What became of the one request of `argv_largest`.

    The refusal is known by the C library's name of the errno, which all versions of ping print, each with words of its
    own around it. Raises MeasureFailed with ping's words when ping failed or says what is not known here: that is no
    verdict on the network.
    """
    if words := has_no_way(completed):
        return SizedPing(fate=Fate.NO_ROUTE, words=words)
    report = read_ping(completed)
    if report.received:
        return SizedPing(fate=Fate.ANSWERED)
    told = [_OWN_NAME.sub("", line) for line in (*report.troubles, *report.warnings)]
    for pattern, fate in ((_EMSGSIZE, Fate.REFUSED), (_TOO_BIG, Fate.TOO_BIG)):
        for line in told:
            if (found := pattern.search(line)) is not None:
                return SizedPing(fate=fate, mtu=None if found["mtu"] is None else int(found["mtu"]), words=line)
    if any(not _WARNING.match(_OWN_NAME.sub("", line)) for line in report.warnings):
        raise MeasureFailed(f"ping ended with status {completed.returncode}", why(completed))
    return SizedPing(fate=Fate.UNANSWERED, words=told[0] if report.troubles else "")


def _entries(text: str, program: str) -> list[dict[str, Any]]:
    try:
        entries = parse_json(text or "[]")
    except ValueError as failed:
        raise MeasureFailed(f"the output of {program} cannot be read", text.strip()[:200]) from failed
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MeasureFailed(f"the output of {program} cannot be read", "it is no list of objects")
    return [entry for entry in entries if entry]
