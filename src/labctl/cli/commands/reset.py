"""`labctl reset LAB [PART…]`: brings a running lab back to its plan, by the least change, or by building it again."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, find_standing
from labctl.cli.output import emit_json, say
from labctl.cli.progress import Progress
from labctl.errors import UsageError


@click.command("reset")
@click.argument("lab")
@click.argument("parts", nargs=-1, metavar="[PART]…")
@click.option("--hard", is_flag=True, help="Remove the lab and build it again, from its own record.")
@as_json
def command(lab: str, parts: tuple[str, ...], hard: bool, as_json: bool) -> None:
    """Mend what labctl diff LAB lists: all of it, or only that of the nodes, pods, routers and hosts PART….

    Everything else stays as it is, and traffic elsewhere is not disturbed. What cannot be changed in place (a device of
    another kind) is made again. With --hard the whole lab is, and the processes in it end.
    """
    from labctl.engine.mend import mend, rebuild
    from labctl.report.drift import drift_record
    from labctl.system.signals import interruptible

    if hard and parts:
        raise UsageError(
            what="--hard builds the whole lab again: no PART can be named with it",
            remedy=f"labctl reset {lab} --hard; or labctl reset {lab} {' '.join(parts)}",
        )
    found, provider = find_standing(lab)
    with interruptible(), Progress(quiet=as_json) as progress:
        if hard:
            took_s = rebuild(provider, found, progress)
            if as_json:
                emit_json({"apiVersion": "labctl/v1", "kind": "Reset", "lab": lab, "hard": True, "durationS": took_s})
            else:
                say(f"lab {lab} was built again in {took_s:.2f} s")
            return
        mended = mend(provider, found, progress, parts=parts)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Reset",
                "lab": lab,
                "hard": False,
                "mended": drift_record(mended.before)["differences"],
                "steps": mended.steps,
                "durationS": mended.duration_s,
            }
        )
        return
    count = len(mended.before.differences)
    if not mended.steps:
        say(f"lab {lab} is as its plan says: nothing to do")
    else:
        say(f"lab {lab} is as its plan says again: {count} mended in {mended.duration_s:.2f} s")
