"""The mode in force: what a running lab proves about itself, as opposed to what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that was observed.

    `witness` says what kind it is (`programs`, `signature`, `netfilter`, `conntrack`, `agent-status`, …), `finding` is
    a sentence with the figures, `supports` is false when it contradicts what was asked, and None when the witness
    tells nothing about it. `command` shows the same by hand. `found` holds the claims that the witness makes about the
    mode (`{"hostRouting": "legacy"}`). A witness that knows why it is so says what mends it (`remedy`).
    """

    witness: str
    where: str
    finding: str
    supports: bool | None
    command: str = ""
    found: Mapping[str, object] | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeInForce:
    """The verdict over all evidence of one lab. `proven` needs at least one witness for and none against.

    `reason` is empty when proven; otherwise it says which evidence stands against, in one sentence.
    """

    lab: str
    asked: Mapping[str, object]
    found: Mapping[str, object]
    evidence: tuple[Evidence, ...]
    proven: bool
    reason: str = ""
    remedy: str = ""
