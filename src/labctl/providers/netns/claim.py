"""Whose a lab is for the moment: of the labctl that builds it, and of the one that watches it. Both end with their
process, so that nothing stays behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from labctl.errors import UsageError
from labctl.names import UNDERLAY, namespace_of
from labctl.system import locks, netns

_CLAIM_S = 0.2
"""Who asks `is_claimed` holds the lock for a moment."""


@contextlib.contextmanager
def claimed(lab: str) -> Iterator[None]:
    """Holds the name while the lab is being built. Raises UsageError while another labctl has it."""
    with locks.held(_building(lab), timeout_s=_CLAIM_S) as is_mine:
        if not is_mine:
            raise UsageError(
                what=f"the lab {lab} is being built by another labctl right now",
                remedy="wait for it, or choose another name: labctl up … --name OTHER",
            )
        yield


def is_claimed(lab: str) -> bool:
    """True while a labctl that is alive builds the lab of that name."""
    return locks.is_held(_building(lab))


@contextlib.contextmanager
def turn(lab: str, *, timeout_s: float) -> Iterator[bool]:
    """Whether the turn to watch the lab was had within that time; it lasts as long as the context. Raises OSError when
    the lab is gone."""
    netns.path_of(namespace_of(lab, UNDERLAY)).stat()
    with locks.held(watching_lock(lab), timeout_s=timeout_s) as is_mine:
        yield is_mine


def watching_lock(lab: str) -> str:
    """The name of the lock of `turn`."""
    return f"watch-{lab}"


def _building(lab: str) -> str:
    return f"build-{lab}"
