"""Removes what a labctl that was killed left and no lab's name leads to. Apart from `discover` so that `list` is quick.

What a lab leaves is found with it, by its namespaces, which are made first and go last, or by its record. Beside that
there are locks that nobody holds, files that nobody is writing any more, copies for after a boot that were cut off
while they were written, and the mount of /run/netns.
"""

from __future__ import annotations

import contextlib
import os

from labctl.providers.netns import kept
from labctl.providers.netns.discover import remains
from labctl.providers.netns.record import CLAIM, is_claimed
from labctl.system import files, locks, netns


def tidy() -> None:
    """What the user may not see is not looked for. Raises LabError."""
    half = kept.cut_off()
    there = remains() if half else {}
    for name in half:
        if name not in there and not is_claimed(name):
            kept.NetnsKeeping().forget(name)
    locks.remove_free()
    for folder in ("tags", "rules"):
        with contextlib.suppress(OSError), files.open_folder(netns.RUN_DIRECTORY / folder) as these:
            these.remove_asides()
    if os.geteuid() == 0 and not locks.held_names(CLAIM):
        netns.tidy_directory()
