"""`labctl images SCENARIO`: everything that a lab is made from, with digests."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, load_lab, provider_of, provider_option, set_option, trust_option
from labctl.cli.output import emit_json, say, show


@click.command("images")
@click.argument("scenario")
@provider_option
@set_option
@trust_option
@as_json
def command(scenario: str, provider: str | None, overrides: tuple[str, ...], trust: bool, as_json: bool) -> None:
    """List every image and the chart of SCENARIO. A digest is shown where this host knows it."""
    lab = load_lab(scenario, provider=provider, name=None, overrides=overrides, trust=trust)
    chosen = provider_of(lab)
    packing = chosen.capabilities.packing
    parts = packing.images(lab) if packing else ()
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Images",
                "scenario": lab.scenario,
                "provider": lab.provider,
                "parts": [part.record() for part in parts],
            }
        )
        return
    if not parts:
        say(f"the provider {chosen.name} needs no images: {chosen.statement}")
        return
    from labctl.report.grid import Column, Grid

    columns = (Column(title="what"), Column(title="reference", is_text=True), Column(title="digest", is_text=True))
    show(Grid(columns, [(part.role, part.reference, part.digest or "not on this host") for part in parts]))
    for source in dict.fromkeys(part.source for part in parts if part.source):
        roles = ", ".join(part.role for part in parts if part.source == source)
        say(f"{roles}: by {source}")
