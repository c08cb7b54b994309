"""Conversations of which a pod's lxc saw one direction only: what a capture there can mislead about, in a sentence.

Only what is certain: both directions of the tap were captured and nothing was lost, a filter could not hide the one
from the other, and there was time for an answer. Where the missing packets went is shown by `labctl trace`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from labctl.engine.capture import Batch, Ended, Source, counts_by_tap
from labctl.model.lab import Lab
from labctl.model.signature import Role
from labctl.values import dataclass

LONGEST_ANSWER_NS = 500_000_000
"""A request that came later than this before the end may have its answer still to come."""
_LXC = (Role.CLIENT_LXC, Role.SERVER_LXC)
_IPV4, _ICMP, _TCP, _UDP = b"\x08\x00", 1, 6, 17
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_PROTOCOLS = {_ICMP: "icmp", _TCP: "tcp", _UDP: "udp"}
_EVEN_HANDED = re.compile(r"\(|\)|icmp|tcp|udp|ip|and|or|not|&&|\|\||!|(?:host|net|port)\s+[\w.:/-]+", re.ASCII)
"""Parts of a filter that take both directions of a conversation or neither; `src`, `ether` and `ip[8]` are others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conversation:
    """One direction of a conversation. An echo request and its reply are one conversation, whose client asks."""

    protocol: int
    client: bytes
    server: bytes
    is_answer: bool


class OneWay:
    """Watches batches go by, and reports at the end. `lab` names the pods, `expression` is the filter."""

    def __init__(self, lab: Lab, sources: Sequence[Source], expression: str) -> None:
        self._lab = lab
        self._sources = tuple(sources)
        self._lxc = {number for number, source in enumerate(sources) if source.tap.role in _LXC}
        self._is_fair = not _EVEN_HANDED.sub("", expression).strip()
        self._pods = {pod.address.packed: pod.name for pod in lab.pods}
        self._pairs = {(pair.client, pair.server) for pair in lab.pairs}
        self._first_ns: dict[tuple[str, _Conversation], int] = {}
        self._known: dict[bytes, _Conversation | None] = {}
        self._elsewhere: set[_Conversation] = set()
        self._last_ns = 0

    def watch(self, batch: Batch) -> None:
        if not self._is_fair:
            return
        self._last_ns = batch[-1][0] if batch else self._last_ns
        for time_ns, number, record in batch:
            flow = self._flow(record.frame)
            if flow is None:
                continue
            if number in self._lxc:
                self._first_ns.setdefault((self._sources[number].tap.name, flow), time_ns)
            else:
                self._elsewhere.add(flow)

    def sentences(self, ended: Sequence[Ended], end_ns: int | None) -> tuple[str, ...]:
        """One for each lxc and pair of pods, with the command that shows where the other direction went. `end_ns` is
        when the capture ended (Unix time); None when it was with its last packet."""
        end_ns = self._last_ns if end_ns is None else end_ns
        whole = {name for name, counts in counts_by_tap(ended).items() if not counts.lost}
        whole -= {one.source.tap.name for one in ended if one.trouble}
        found: dict[str, None] = {}
        for (tap, flow), first_ns in self._first_ns.items():
            other = _Conversation(
                protocol=flow.protocol, client=flow.client, server=flow.server, is_answer=not flow.is_answer
            )
            is_early = first_ns <= end_ns - LONGEST_ANSWER_NS
            # A UDP datagram need not be answered.
            is_due = flow.protocol != _UDP or other in self._elsewhere
            if tap in whole and is_early and is_due and (tap, other) not in self._first_ns:
                found[self._sentence(tap, flow)] = None
        return tuple(found)

    def _sentence(self, tap: str, flow: _Conversation) -> str:
        saw, missed = ("replies", "requests") if flow.is_answer else ("requests", "replies")
        client, server = self._pods[flow.client], self._pods[flow.server]
        protocol = _PROTOCOLS[flow.protocol]
        way = "" if protocol == "icmp" else f" --protocol {protocol}"
        return (
            f"{tap} saw {saw} and no {missed} of {client} → {server} ({protocol}): "
            f"labctl trace {self._lab.name} {client} {server}{way} shows where they went"
        )

    def _flow(self, frame: bytes) -> _Conversation | None:
        """The flow between two pods that an Ethernet frame belongs to, else None. Remembered by its header's bytes."""
        if len(frame) < 38 or frame[12:14] != _IPV4 or frame[23] not in _PROTOCOLS:
            return None
        start = 14 + 4 * (frame[14] & 15)
        if frame[20] & 0x1F or frame[21] or len(frame) <= start:  # a later fragment has no header of its own
            return None
        kind = frame[start] if frame[23] == _ICMP else 0
        key = bytes((frame[23], kind)) + frame[26:34]
        if key not in self._known:
            self._known[key] = self._made(frame[23], kind, frame[26:30], frame[30:34])
        return self._known[key]

    def _made(self, protocol: int, kind: int, source: bytes, destination: bytes) -> _Conversation | None:
        if source not in self._pods or destination not in self._pods:
            return None
        if protocol == _ICMP:
            if kind not in (_ECHO_REQUEST, _ECHO_REPLY):
                return None
            is_answer = kind == _ECHO_REPLY
        else:
            # Which of two pods asks is known from the lab's pairs alone: a capture may begin in the middle.
            names = self._pods[source], self._pods[destination]
            is_answer = names not in self._pairs and names[::-1] in self._pairs
            if names not in self._pairs and not is_answer:
                return None
        client, server = (destination, source) if is_answer else (source, destination)
        return _Conversation(protocol=protocol, client=client, server=server, is_answer=is_answer)
