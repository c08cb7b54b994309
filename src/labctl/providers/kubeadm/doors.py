"""Which of a lab's machines answer, all asked at once: the places where its images may be. Changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from labctl.errors import LabError
from labctl.providers.cilium.files import read_state
from labctl.providers.kubeadm.here import HereCommands
from labctl.providers.kubeadm.images import Doors
from labctl.providers.kubeadm.settings import Settings
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands

_ASK_S = 15.0


def open_doors(settings: Settings, fleet: Fleet) -> Doors:
    """Machines that do not answer, and why, are in `silence`."""
    commands = list(fleet)
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(commands)))) as pool:
        reasons = list(pool.map(_silence, commands))
    asked = list(zip(commands, reasons, strict=True))
    return Doors(
        here=HereCommands(),
        machines=tuple((one.machine.node, one) for one, why in asked if not why),
        silence={one.machine.node: why for one, why in asked if why},
        rendered=read_state(settings.files.rendered) or "",
    )


def _silence(commands: MachineCommands) -> str:
    """Why nothing can be asked there; empty when it answers as root."""
    try:
        done = commands.run(("true",), timeout_s=_ASK_S)
    except LabError as failed:
        return failed.cause or failed.what
    return "" if done.returncode == 0 and not done.timed_out else done.error_text.strip()[-200:] or "no answer"
