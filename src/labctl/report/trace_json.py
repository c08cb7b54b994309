"""A trace as JSON-ready data: what `labctl trace --json` prints. Pure.

Base units throughout; times in ns, since a hop takes microseconds. Addresses come with whose they are. It stands alone
since the sentences of a trace are its own, which no other document needs.
"""

from __future__ import annotations

from labctl.codec import Rest, View, viewed
from labctl.model.evidence import Evidence
from labctl.model.signature import Signature
from labctl.model.trace import Movement, PacketPath, Trace, Unshown
from labctl.report.trace_words import unshown_words


def trace_document(trace: Trace) -> dict[str, object]:
    """`{"apiVersion", "kind": "Trace", "lab", …, "taps", "paths": [{"way", "number", "hops", …}], "signature", …}`."""
    return {"apiVersion": "labctl/v1", "kind": "Trace"} | viewed(trace, _VIEWS)


def _end(pod: str, address: str, node: str) -> dict[str, object]:
    return {"pod": pod, "address": address, "node": node}


_ENDS = ("client", "server", "client_address", "server_address", "client_node", "server_node")
_VIEWS: View = {
    Signature: (Rest("hindrances"),),
    Evidence: ("witness", "where", "finding", "command"),
    Movement: (Rest("packet"),),
    PacketPath: (
        "way", "number", "what", "arrived", ("sent", lambda path: path.is_sent), "lost", "lost_tap", "hops",
        "skipped", "after",
    ),
    Unshown: (Rest(), ("sentence", unshown_words)),
    Trace: (
        "lab",
        "scenario",
        "provider",
        "statement",
        ("client", lambda trace: _end(trace.client, trace.client_address, trace.client_node)),
        ("server", lambda trace: _end(trace.server, trace.server_address, trace.server_node)),
        Rest("lab", "scenario", "provider", "statement", *_ENDS),
    ),
}  # fmt: skip
