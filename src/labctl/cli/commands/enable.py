"""`labctl enable LAB`: a unit of systemd that brings the lab back at every boot, shown before it is written."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, find_running, kept_of
from labctl.cli.output import emit, emit_json, say
from labctl.errors import UsageError


@click.command("enable")
@click.argument("lab")
@click.option("--show", is_flag=True, help="Only show the unit: nothing is written.")
@as_json
def command(lab: str, show: bool, as_json: bool) -> None:
    """Have LAB brought back whenever this host is started, as `labctl up --again LAB` does.

    It is done by a unit of systemd of its own, which is shown and then written. labctl disable LAB removes it, and so
    does labctl down LAB. Where systemd does not run, the exit code is 3.
    """
    from labctl.system import systemd

    if not show:
        systemd.refuse(lab)
    if kept_of(lab) is None:
        _keep(lab, is_only_shown=show)
    path, text = systemd.path_of(lab), systemd.text_of(lab)
    if not as_json:
        say(f"the unit {path}:")
        emit(text, nl=False, as_it_is=True)
    if not show:
        systemd.enable(lab)
    if as_json:
        document = {"lab": lab, "path": str(path), "text": text, "enabled": not show}
        emit_json({"apiVersion": "labctl/v1", "kind": "Unit", **document})
    elif not show:
        say(f"{lab} comes back at every boot; not any more after: labctl disable {lab}")


def _keep(lab: str, *, is_only_shown: bool) -> None:
    """Of a lab that is up and that nothing is kept of: another command than `labctl up` built it. Raises UsageError for
    one that a boot does not take."""
    from labctl.engine.again import keep

    found, running, provider = find_running(lab)
    if provider.capabilities.keeping is None:
        raise UsageError(
            what=f"enable is for labs of the provider netns, and lab {lab} is built by {running.provider}",
            cause=provider.capabilities.after_boot,
            remedy=f"labctl status {lab}",
        )
    if not is_only_shown:
        keep(provider, found)
