"""`labctl bundle SCENARIO -o FILE`: everything that a lab is made from in one file, for hosts without a network."""

from __future__ import annotations

from pathlib import Path

import click

from labctl.cli.options import (
    as_json,
    load_lab,
    packing,
    provider_of,
    provider_option,
    set_option,
    trust_option,
)
from labctl.cli.output import emit_json, say
from labctl.errors import UsageError
from labctl.units import readable


@click.command("bundle")
@click.argument("scenario")
@provider_option
@set_option
@trust_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to write it."
)
@as_json
def command(
    scenario: str, provider: str | None, overrides: tuple[str, ...], trust: bool, output: Path, as_json: bool
) -> None:
    """Pack the images and the chart of SCENARIO into FILE, with checksums.

    On the other host: labctl up SCENARIO --provider PROVIDER --bundle FILE
    """
    from labctl.engine.build import require_host
    from labctl.system.signals import interruptible

    lab = load_lab(scenario, provider=provider, name=None, overrides=overrides, trust=trust)
    chosen = provider_of(lab)
    packs = packing(chosen, lab)
    if output.exists():
        raise UsageError(what=f"{output} already exists", remedy=f"another name, or: rm {output}")
    if not output.parent.is_dir():
        raise UsageError(what=f"there is no directory {output.parent}", remedy=f"mkdir -p {output.parent}")
    require_host(chosen)
    with interruptible():
        parts = packs.pack(lab, output)
    size_byte = output.stat().st_size
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Bundle",
                "scenario": lab.scenario,
                "provider": lab.provider,
                "file": str(output),
                "sizeByte": size_byte,
                "parts": [part.record() for part in parts],
            }
        )
        return
    say(f"{output}: {len(parts)} parts, {readable(size_byte, 'byte')}")
    say(f"on the other host: labctl up {lab.scenario} --provider {lab.provider} --bundle {output.name}")
