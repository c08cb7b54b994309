"""`labctl exec LAB POD|NODE -- ARGV…`: a command in a pod or on a node, with this terminal."""

from __future__ import annotations

import os

import click

from labctl.cli.options import find_lab
from labctl.errors import HostLacks


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("lab")
@click.argument("target", metavar="POD|NODE")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- ARGV…")
def command(lab: str, target: str, argv: tuple[str, ...]) -> None:
    """Run ARGV in a pod or on a node of LAB. Its exit code is this command's.

    \b
    labctl exec bpf client -- ping -c 3 10.244.1.10
    labctl exec bpf node1 -- tcpdump -nei cilium_vxlan
    """
    found, provider = find_lab(lab)
    with provider.open(found) as open_lab:
        full = open_lab.target(target).command(argv)
    try:
        os.execvp(full[0], full)
    except FileNotFoundError as missing:
        raise HostLacks(
            what=f"{full[0]} is not on this host", remedy=f"labctl doctor --provider {found.provider}"
        ) from missing
