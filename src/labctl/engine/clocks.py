"""Asks an open lab how far apart the clocks of two pods' nodes are, where they have clocks of their own."""

from __future__ import annotations

from labctl.model.lab import Lab, Pair
from labctl.path.clocks import Clocks
from labctl.providers.base import HasClocks, OpenLab
from labctl.units import NANO


def clocks_between(open_lab: OpenLab, pair: Pair) -> Clocks | None:
    """The server's node against the client's; None where they share a clock. Raises MeasureFailed or StepFailed."""
    lab: Lab = open_lab.lab
    client, server = lab.pod(pair.client).node, lab.pod(pair.server).node
    if client == server or not isinstance(open_lab, HasClocks):
        return None
    offsets = {offset.node: offset for offset in open_lab.clock_offsets((client, server))}
    return Clocks(
        reference=client,
        node=server,
        offset_ns=round((offsets[server].offset_s - offsets[client].offset_s) / NANO),
        error_ns=round((offsets[server].error_s + offsets[client].error_s) / NANO),
    )
