"""`labctl exec LAB POD|NODE -- ARGV…`: a command in a pod or on a node, with this terminal."""

from __future__ import annotations

import os
import shlex
import signal

import click

from labctl.cli.options import find_lab
from labctl.cli.output import tell
from labctl.cli.session import current_session
from labctl.errors import HostLacks, UsageError

# As a shell has it.
_NOT_EXECUTABLE = 126
_NO_SUCH_PROGRAM = 127


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--privileged", is_flag=True, help="With all root capabilities and the host's processes (netns only).")
@click.argument("lab")
@click.argument("target", metavar="POD|NODE")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- ARGV…")
def command(privileged: bool, lab: str, target: str, argv: tuple[str, ...]) -> int:
    """Run ARGV in a pod or on a node of LAB. Its exit code is this command's.

    With provider netns ARGV sees the network and the /sys of the pod or node, its own processes, and the files of the
    host. It may change that network, and nothing else of the host's kernel. This is no security boundary: ARGV is root
    where the host's files are.

    \b
    labctl exec bpf client -- ping -c 3 10.244.1.10
    labctl exec bpf node1 -- tcpdump -nei cilium_vxlan
    labctl exec --privileged bpf node1 -- strace -fp 4711
    """
    found, provider = find_lab(lab)
    with provider.open(found) as open_lab:
        inside = open_lab.target(target)
    enter = provider.capabilities.enter
    if privileged and enter is None:
        raise UsageError(
            what=f"--privileged is not for a lab of provider {found.provider}",
            cause="its pods and nodes are containers or machines, whose own settings decide what a program may do",
            remedy=f"labctl exec {lab} {target} -- {shlex.join(argv)}",
        )
    if enter is not None:
        for lacking in enter(found, target, privileged):
            tell(f"note: {lacking}")
    session = current_session()
    if session is not None:
        argv = session.as_student(argv)
    if enter is None:
        full = inside.command(argv, with_input=not _is_behind())
    else:
        full = provider.capabilities.argv_inside(found, target, argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what it becomes would too
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):  # heard just before the other program is there, it would be lost
            signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(full[0], full)
    except OSError as failed:
        if enter is None:
            raise HostLacks(
                what=f"{full[0]} is not on this host", remedy=f"labctl doctor --provider {found.provider}"
            ) from failed
        tell(f"{full[0]}: {failed.strerror}")
        return _NO_SUCH_PROGRAM if isinstance(failed, FileNotFoundError) else _NOT_EXECUTABLE


def _is_behind() -> bool:
    """Whether this is a shell's background job: its terminal would stop whoever reads from it."""
    return os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp()
