"""`labctl doctor --fix`: installs what labs need and the host lacks, of the distribution's packages, after showing it.

Only packages that change nothing but what programs there are: none of them starts a service, and apt must not remove
anything for them. What else is missing keeps the command that a person can run (`labctl doctor`). It stands alone
because it is the one part of the command that changes the host.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

import click

from labctl.cli.output import tell, translated
from labctl.errors import HostLacks, NeedsRoot, StepFailed
from labctl.providers.base import Probe
from labctl.system import process

SAFE = frozenset({
    "iproute2", "iputils-ping", "iperf3", "sockperf", "tcpdump", "iptables", "nftables", "conntrack", "procps",
    "util-linux", "ethtool", "libbpf1", "bash", "python3", "containernetworking-plugins",
})  # fmt: skip
"""Those that `make setup` installs, as setup/packages.txt lists them; not frr, whose package starts daemons."""

_REMEDY = re.compile(r"(?:sudo )?apt-get install(?: -y)?((?: [a-z0-9][a-z0-9+.-]*)+)")
_ACT = re.compile(r"^(Inst|Remv) (\S+)", re.MULTILINE)
_ASK_S, _INSTALL_S = 120.0, 1800.0


def packages_of(probes: Sequence[Probe]) -> tuple[str, ...]:
    """The safe packages that the remedies of missing probes name, each once."""
    found: dict[str, None] = {}
    for probe in probes:
        if probe.present or not probe.is_looked_at:
            continue
        for line in probe.remedy.splitlines():
            named = _REMEDY.fullmatch(line.partition("  #")[0].strip())
            if named is not None:
                found |= dict.fromkeys(name for name in named[1].split() if name in SAFE)
    return tuple(found)


def acts_of(simulated: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `apt-get --simulate` would install, and what it would remove. Pure."""
    acts = _ACT.findall(simulated)
    return tuple(name for act, name in acts if act == "Inst"), tuple(name for act, name in acts if act == "Remv")


def install_missing(probes: Sequence[Probe], *, is_agreed: bool) -> None:
    """Shows what apt would do, asks, and does it. Nothing where nothing that is safe is missing. Raises HostLacks where
    there is no apt, or it would remove something; NeedsRoot; StepFailed."""
    wanted = packages_of(probes)
    if not wanted:
        tell("nothing that can be installed safely is missing")
        return
    command = ("apt-get", "install", "--yes", "--no-install-recommends", "--no-remove", *wanted)
    shown = shlex.join(command)
    if process.find_program("apt-get") is None:
        raise HostLacks(what="apt-get is not on this host", cause=f"missing: {', '.join(wanted)}")
    simulated = process.run((*command, "--simulate"), timeout_s=_ASK_S)
    if simulated.returncode != 0 or simulated.timed_out:
        raise StepFailed(
            what="apt cannot install what is missing",
            cause=simulated.error_text.strip()[-500:],
            remedy=f"sudo apt-get update\nsudo {shown}",
        )
    installed, removed = acts_of(simulated.text)
    if removed:
        raise HostLacks(
            what="apt would remove packages for what is missing",
            cause=", ".join(removed),
            remedy=f"apt-get install --simulate {' '.join(wanted)}",
        )
    tell(f"to be installed: {', '.join(installed or wanted)}")
    tell(f"  {shown}")
    if os.geteuid() != 0:
        raise NeedsRoot("only root may install packages")
    if not is_agreed and not click.confirm(translated("Install them?"), err=True):
        tell("nothing was installed")
        return
    done = process.run(command, timeout_s=_INSTALL_S, environment={"DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode != 0 or done.timed_out:
        raise StepFailed(
            what="apt could not install what is missing",
            cause=(done.error_text or done.text).strip()[-500:],
            remedy=f"sudo {shown}",
        )
    tell(f"installed: {', '.join(wanted)}")
