"""A unit of systemd for each lab that is to come back at boot: its text, and writing and removing it.

Only units with labctl's first line are removed. It stands alone because every door to the machine does.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from labctl.errors import HostLacks, NeedsRoot, StepFailed
from labctl.model.result import Completed
from labctl.system import files, host_files, process

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
"""Is there where systemd is the first process (sd_booted(3))."""
_WANTED_BY = "multi-user.target"
_PACKAGE = Path(__file__).resolve().parents[2]
_FIRST_LINE = "# Made by: labctl enable"
_NOT_IN_PROGRAMS = "\\\"'"
_TIMEOUT_S = 90.0


def is_running() -> bool:
    return RUNNING.is_dir()


def path_of(lab: str) -> Path:
    """Where the unit of that lab is. A lab's name needs no escape in a unit's."""
    return UNITS / f"labctl-{lab}.service"


def text_of(lab: str) -> str:
    """The unit that runs `labctl up --again LAB` at boot, by the Python and the package that run now.

    The lab's processes (routing daemons) are in the unit's cgroup: KillMode=process leaves them alone when somebody
    stops the unit, which is no wish to break the lab.
    """
    mounts = dict.fromkeys((sys.executable, str(_PACKAGE), "/var/lib/labctl"))
    return f"""{_FIRST_LINE} {lab}
# To remove it: labctl disable {lab}
[Unit]
Description=labctl lab {lab}, as it was before the boot
After=network-pre.target systemd-modules-load.service systemd-sysctl.service
RequiresMountsFor={" ".join(map(_word, mounts))}

[Service]
Type=oneshot
RemainAfterExit=yes
Environment={_word(f"PYTHONPATH={_PACKAGE}")}
ExecStart={_word(sys.executable)} -m labctl up --again {lab}
KillMode=process
TimeoutStartSec=15min
LimitMEMLOCK=infinity

[Install]
WantedBy={_WANTED_BY}
"""


def _word(text: str) -> str:
    """One word of a setting: quoted, with what systemd reads as an escape (C) or a specifier (%) as it is."""
    escaped = "".join(f"\\x{ord(sign):02x}" if sign in "\\\"'" or ord(sign) < 0x20 else sign for sign in text)
    escaped = escaped.replace("%", "%%")
    return f'"{escaped}"' if " " in text or escaped != text else text


def is_enabled(lab: str) -> bool:
    """Whether the host has a unit of labctl's for that lab."""
    try:
        return files.read_file(path_of(lab)).decode(errors="replace").startswith(_FIRST_LINE)
    except OSError:
        return False


def refuse(lab: str) -> None:
    """Raises what keeps `enable` from being tried: HostLacks where systemd does not run, NeedsRoot, StepFailed."""
    if not is_running():
        raise HostLacks(
            what="systemd does not run here: no lab can be brought back at boot by it",
            cause=f"{RUNNING} is not there (a container, or another init)",
            remedy=f"labctl up --again {lab}  # by hand, or from what this host runs at boot",
        )
    if os.geteuid() != 0:
        raise NeedsRoot(what="enabling a lab needs root", cause=f"only root may write to {UNITS}")
    if any(sign in sys.executable for sign in _NOT_IN_PROGRAMS):
        raise StepFailed(
            what="systemd runs no program whose path has a quotation mark or a backslash in it", cause=sys.executable,
            remedy="labctl in a folder of another name",
        )  # fmt: skip
    path = path_of(lab)
    if os.path.lexists(path) and not is_enabled(lab):
        raise StepFailed(
            what=f"{path} is not labctl's, and is left alone", cause="its first line is not labctl's",
            remedy=f"systemctl cat {path.name}",
        )  # fmt: skip


def enable(lab: str) -> None:
    """Writes the unit and has it started at boot. Raises as `refuse`, and StepFailed."""
    refuse(lab)
    path = path_of(lab)
    try:
        host_files.write_of_host(path, text_of(lab).encode())
    except OSError as failed:
        raise StepFailed(
            what=f"cannot write {path}", cause=failed.strerror or str(failed), remedy=f"ls -ld {UNITS}"
        ) from failed
    for argv in (("systemctl", "daemon-reload"), ("systemctl", "enable", path.name)):
        done = process.run(argv, timeout_s=_TIMEOUT_S)
        if done.returncode or done.timed_out:
            disable(lab)
            raise _failed(argv, done)


def disable(lab: str) -> bool:
    """Removes the unit, whether or not systemd runs; gives whether there was one. Raises NeedsRoot, StepFailed."""
    if not is_enabled(lab):
        return False
    if os.geteuid() != 0:
        raise NeedsRoot(what="disabling a lab needs root", cause=f"only root may write to {UNITS}")
    path = path_of(lab)
    try:
        for folder in (UNITS / f"{_WANTED_BY}.wants", UNITS):
            host_files.remove_of_host(folder / path.name)
    except OSError as failed:
        raise StepFailed(
            what=f"cannot remove {path}", cause=failed.strerror or str(failed), remedy=f"rm {path}"
        ) from failed
    if is_running():
        argv = ("systemctl", "daemon-reload")
        done = process.run(argv, timeout_s=_TIMEOUT_S)
        if done.returncode or done.timed_out:
            raise _failed(argv, done)
    return True


def _failed(argv: Sequence[str], done: Completed) -> StepFailed:
    return StepFailed(
        what=f"{shlex.join(argv)} failed",
        cause=done.error_text.strip()[-500:] or f"it ended with status {done.returncode}",
        remedy=shlex.join(argv),
    )
