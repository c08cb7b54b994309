"""`labctl disable LAB`: removes the unit that brings the lab back at boot. The lab, if it is up, stays up."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, kept_of, unknown_lab
from labctl.cli.output import emit_json, say


@click.command("disable")
@click.argument("lab")
@as_json
def command(lab: str, as_json: bool) -> None:
    """Undo labctl enable: LAB is not brought back at boot any more. `labctl up --again LAB` still does it by hand."""
    from labctl import app
    from labctl.engine.build import find
    from labctl.names import is_name
    from labctl.system import systemd

    was_enabled = is_name(lab) and systemd.disable(lab)
    if not was_enabled and kept_of(lab) is None and find(app.providers_with_labs(), lab) is None:
        raise unknown_lab(lab, app.providers_with_labs())
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Unit", "lab": lab, "enabled": False, "removed": was_enabled})
    elif was_enabled:
        say(f"lab {lab} is not brought back at boot any more: {systemd.path_of(lab)} is removed")
    else:
        say(f"lab {lab} was not enabled: nothing to do")
