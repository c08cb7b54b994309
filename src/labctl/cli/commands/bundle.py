"""`labctl bundle SCENARIO -o FILE`: everything that a lab is made from in one file, for hosts without a network; with
`--class` what a class needs."""

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
from labctl.cli.output import emit_json, progress, say
from labctl.errors import UsageError
from labctl.units import readable


@click.command("bundle")
@click.argument("scenario", required=False)
@provider_option
@set_option
@trust_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to write it."
)
@click.option("--class", "is_class", is_flag=True, help="The workshop kit: packages, wheels, labctl and its lessons.")
@as_json
def command(
    scenario: str | None,
    provider: str | None,
    overrides: tuple[str, ...],
    trust: bool,
    output: Path,
    is_class: bool,
    as_json: bool,
) -> None:
    """Pack the images and the chart of SCENARIO into FILE, with checksums.

    On the other host: labctl up SCENARIO --provider PROVIDER --bundle FILE

    With --class the file is the kit of a workshop, for hosts of the same release without a network (docs/workshop.md):
    Debian packages with all that they depend on, Python's wheels, labctl with its lessons and without their solutions,
    checksums, and a script that installs them. On the other host: tar xf FILE; sudo labctl-class/install.sh
    """
    if is_class == bool(scenario):
        raise UsageError(
            what="name a scenario, or --class",
            remedy="labctl bundle SCENARIO --provider kind -o FILE; labctl bundle --class -o FILE",
        )
    if is_class or scenario is None:
        _pack_class(output, as_json=as_json)
        return
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


def _pack_class(output: Path, *, as_json: bool) -> None:
    from labctl.codec import plain
    from labctl.lessons.kit import pack_class
    from labctl.system.signals import interruptible

    if not output.parent.is_dir():
        raise UsageError(what=f"there is no directory {output.parent}", remedy=f"mkdir -p {output.parent}")
    clone = Path(__file__).resolve().parents[4]
    with interruptible():
        kit = pack_class(clone, output, progress)
    size_byte = output.stat().st_size
    if as_json:
        about = plain(kit)
        assert isinstance(about, dict)
        emit_json({"apiVersion": "labctl/v1", "kind": "ClassKit", "file": str(output), "sizeByte": size_byte, **about})
        return
    size = readable(size_byte, "byte")
    say(f"{output}: {kit.packages} packages, {kit.wheels} wheels, {len(kit.lessons)} lessons, {size}")
    say(f"for {kit.system} with Python {kit.python}; there: tar xf {output.name}; sudo labctl-class/install.sh")
