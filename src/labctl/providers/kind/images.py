"""The images and the chart of a lab, with digests: what `labctl images` lists and `labctl bundle` packs."""

from __future__ import annotations

from pathlib import Path

from labctl.providers.base import Part as Part
from labctl.providers.cilium.bundle import engine_digest
from labctl.providers.cilium.bundle import parse_digest as parse_digest
from labctl.providers.cilium.install import REPOSITORY
from labctl.providers.kind.plan import chart_place
from labctl.providers.kind.settings import Settings
from labctl.providers.kind.tools import Commands
from labctl.system import files

EXTRA = "extra"
"""Images that a lab has beyond the usual three are `extra1`, `extra2`, …"""


def parts(settings: Settings, engine: str, commands: Commands) -> tuple[Part, ...]:
    """Every image and the chart. Digests are those of this engine and of the local chart file."""
    agent, operator, tools, *extra = settings.images
    listed = [("node", settings.node_image), ("agent", agent), ("operator", operator), ("tools", tools)]
    listed += [(f"{EXTRA}{number}", reference) for number, reference in enumerate(extra, start=1)]
    found = [
        Part(role=role, reference=reference, digest=digest_of(reference, engine, commands))
        for role, reference in listed
    ]
    chart = Path(chart_place(settings))
    reference = settings.cilium.chart or f"cilium {settings.cilium_version} of {REPOSITORY}"
    digest = f"sha256:{files.digest_of(chart)}" if chart.is_file() else ""
    return (*found, Part(role="chart", reference=reference, digest=digest))


def digest_of(reference: str, engine: str, commands: Commands) -> str:
    """The digest in the reference itself, else the registry's, else the local image's id; empty when it is not here."""
    if "@" in reference:
        return reference.partition("@")[2]
    return engine_digest(reference, engine, commands)
