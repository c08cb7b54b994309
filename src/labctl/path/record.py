"""A signature as JSON-ready data, in the shape that `labctl compare --json` promises, and back."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.model.lab import Encapsulation
from labctl.model.signature import Outer, Role, Seen, Signature, TapSight


def signature_record(signature: Signature) -> dict[str, object]:
    """`{"placement", "encapsulation", "pingTtl", "taps": [{"tap", "role", "request", "reply"}]}`; unseen is null."""
    return {
        "placement": signature.placement,
        "encapsulation": str(signature.encapsulation),
        "pingTtl": signature.ping_ttl,
        "taps": [
            {
                "tap": sight.tap,
                "role": str(sight.role),
                "request": _seen_record(sight.request),
                "reply": _seen_record(sight.reply),
            }
            for sight in signature.taps
        ],
    }


def signature_from_record(record: Mapping[str, object]) -> Signature:
    """The inverse. A tap without a `role` is named by its role, as in recordings of real clusters.

    Raises ValueError for anything that `signature_record` would not have written.
    """
    taps = record.get("taps")
    if not isinstance(taps, list):
        raise ValueError("taps: a list was expected")
    ping_ttl = record.get("pingTtl")
    return Signature(
        placement=_text(record, "placement"),
        encapsulation=Encapsulation(_text(record, "encapsulation")),
        taps=tuple(_sight(tap) for tap in taps),
        ping_ttl=None if ping_ttl is None else _number(record, "pingTtl"),
    )


def _seen_record(seen: Seen | None) -> dict[str, object] | None:
    if seen is None:
        return None
    record: dict[str, object] = {
        "packets": seen.packets,
        "ttl": seen.ttl,
        "srcMac": seen.src_mac,
        "dstMac": seen.dst_mac,
    }
    if seen.outer is not None:
        record["outer"] = {
            "src": seen.outer.src,
            "dstPort": seen.outer.dst_port,
            "ttl": seen.outer.ttl,
            "vni": seen.outer.vni,
            "srcMac": seen.outer.src_mac,
            "dstMac": seen.outer.dst_mac,
        }
    return record


def _sight(tap: object) -> TapSight:
    record = _mapping(tap, "tap")
    name = _text(record, "tap")
    return TapSight(
        tap=name,
        role=Role(_text(record, "role") if "role" in record else name),
        request=_seen(record.get("request")),
        reply=_seen(record.get("reply")),
    )


def _seen(value: object) -> Seen | None:
    if value is None:
        return None
    record = _mapping(value, "request or reply")
    outer = record.get("outer")
    return Seen(
        packets=_number(record, "packets"),
        ttl=_number(record, "ttl"),
        src_mac=_text(record, "srcMac"),
        dst_mac=_text(record, "dstMac"),
        outer=None if outer is None else _outer(_mapping(outer, "outer")),
    )


def _outer(record: Mapping[str, object]) -> Outer:
    return Outer(
        src=_text(record, "src"),
        dst_port=_number(record, "dstPort"),
        ttl=_number(record, "ttl"),
        vni=_number(record, "vni"),
        src_mac=_text(record, "srcMac"),
        dst_mac=_text(record, "dstMac"),
    )


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what}: an object was expected, not {value!r}")
    return value


def _text(record: Mapping[str, object], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: text was expected, not {value!r}")
    return value


def _number(record: Mapping[str, object], key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key}: a whole number was expected, not {value!r}")
    return value
