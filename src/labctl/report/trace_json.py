"""A trace as JSON-ready data: what `labctl trace --json` prints. Pure.

Base units throughout; times in ns, since a hop takes microseconds. Addresses come with whose they are.
"""

from __future__ import annotations

from labctl.model.trace import Hop, HopEnvelope, KnownAddress, Movement, PacketPath, Skipped, Trace
from labctl.path.record import signature_record
from labctl.report.trace_words import unshown_words


def trace_document(trace: Trace) -> dict[str, object]:
    """`{"apiVersion", "kind": "Trace", "lab", …, "taps", "paths": [{"way", "number", "hops", …}], "signature", …}`."""
    return {
        "apiVersion": "labctl/v1",
        "kind": "Trace",
        "lab": trace.lab,
        "scenario": trace.scenario,
        "provider": trace.provider,
        "statement": trace.statement,
        "client": {"pod": trace.client, "address": trace.client_address, "node": trace.client_node},
        "server": {"pod": trace.server, "address": trace.server_address, "node": trace.server_node},
        "placement": str(trace.placement),
        "asked": dict(trace.asked),
        "protocol": str(trace.protocol),
        "command": trace.command,
        "startedNs": trace.started_ns,
        "durationS": trace.duration_s,
        "sent": trace.sent,
        "replied": trace.replied,
        "wrong": None
        if trace.wrong is None
        else {
            "way": str(trace.wrong.way),
            "number": trace.wrong.number,
            "tap": trace.wrong.tap or None,
            "role": trace.wrong.role or None,
            "sentence": trace.wrong.sentence,
        },
        "hostRouting": trace.host_routing or None,
        "recognised": trace.recognised,
        "differences": list(trace.differences),
        "expectedSource": trace.expected_source,
        "taps": [
            {
                "tap": tap.name,
                "role": str(tap.role),
                "part": tap.part,
                "partKind": tap.part_kind,
                "node": tap.node or None,
                "device": tap.device,
            }
            for tap in trace.taps
        ],
        "paths": [_path(path) for path in trace.paths],
        "signature": signature_record(trace.signature),
        "evidence": [
            {"witness": one.witness, "where": one.where, "finding": one.finding, "command": one.command}
            for one in trace.evidence
        ],
        "notes": list(trace.notes),
        "unshown": [
            {"mover": str(one.mover), "kernel": one.kernel, "since": one.since, "sentence": unshown_words(one)}
            for one in trace.unshown
        ],
    }


def _path(path: PacketPath) -> dict[str, object]:
    return {
        "way": str(path.way),
        "number": path.number,
        "what": path.what,
        "arrived": path.arrived,
        "sent": path.is_sent,
        "lost": path.lost or None,
        "lostTap": path.lost_tap or None,
        "hops": [_hop(hop) for hop in path.hops],
        "skipped": [_skipped(one) for one in path.skipped],
        "after": [_movement(one) for one in path.after],
    }


def _hop(hop: Hop) -> dict[str, object]:
    return {
        "tap": hop.tap,
        "role": str(hop.role),
        "node": hop.node or None,
        "device": hop.device,
        "direction": None if hop.direction is None else str(hop.direction),
        "timeNs": hop.time_ns,
        "sincePreviousNs": hop.since_previous_ns,
        "src": hop.src,
        "dst": hop.dst,
        "srcMac": _named(hop.src_mac),
        "dstMac": _named(hop.dst_mac),
        "ttl": hop.ttl,
        "outer": None if hop.envelope is None else _envelope(hop.envelope),
        "carriage": str(hop.carriage),
        "because": hop.because,
        "movedBy": [_movement(one) for one in hop.moved_by],
    }


def _envelope(envelope: HopEnvelope) -> dict[str, object]:
    return {
        "src": _named(envelope.src),
        "dst": _named(envelope.dst),
        "srcMac": _named(envelope.src_mac),
        "dstMac": _named(envelope.dst_mac),
        "srcPort": envelope.src_port,
        "dstPort": envelope.dst_port,
        "ttl": envelope.ttl,
        "vni": envelope.vni,
        "identityPods": list(envelope.identity_pods),
        "identityLabels": list(envelope.identity_labels),
        "isSenders": envelope.is_senders,
    }


def _named(named: KnownAddress) -> dict[str, object]:
    return {"address": named.address, "role": named.role or None, "owner": named.owner or None}


def _skipped(one: Skipped) -> dict[str, object]:
    return {"tap": one.tap, "role": str(one.role), "reason": one.reason, "isObserved": one.is_observed}


def _movement(one: Movement) -> dict[str, object]:
    return {
        "node": one.node,
        "mover": str(one.mover),
        "what": one.what,
        "device": one.device or None,
        "hook": one.hook,
        "helper": str(one.helper),
        "target": one.target or None,
        "reason": one.reason or None,
        "timeNs": one.time_ns,
        "ttlIn": one.ttl_in or None,
        "ttlOut": one.ttl_out or None,
        "identity": one.identity or None,
        "encapsulated": one.encapsulated,
        "raw": one.raw or None,
    }
