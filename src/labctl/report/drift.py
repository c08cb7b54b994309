"""What differs in a lab, for a terminal and as JSON: each difference with the command that mends it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from labctl.codec import plain
from labctl.model.drift import Drift, Unread


def drift_record(drift: Drift) -> dict[str, object]:
    """One JSON document."""
    return {
        "apiVersion": "labctl/v1",
        "kind": "Drift",
        "lab": drift.lab,
        "provider": drift.provider,
        "comparedWith": drift.scenario or None,
        "asWanted": drift.is_as_wanted,
        "differences": [plain(one) for one in drift.differences],
        "unread": [plain(one) for one in drift.unread],
    }


def headline(drift: Drift) -> str:
    """One line: whether the lab is as it was built."""
    with_what = f"scenario {drift.scenario}" if drift.scenario else "its plan"
    if drift.unread and not drift.differences:
        return f"lab {drift.lab}: what could be read is as {with_what} says"
    if not drift.differences:
        return f"lab {drift.lab} is as {with_what} says"
    count = len(drift.differences)
    return f"lab {drift.lab} differs from {with_what} in {f'{count} places' if count > 1 else '1 place'}:"


def standing_line(drift: Drift) -> str:
    """The line of `labctl status`."""
    if drift.differences:
        count = len(drift.differences)
        places = f"{count} places" if count > 1 else "1 place"
        return f"as built:  no, it differs in {places}; labctl diff {drift.lab} shows them"
    if drift.unread:
        return f"as built:  not known: {drift.unread[0].kind} of {drift.unread[0].part} cannot be read"
    return "as built:  yes"


def unread_sentence(one: Unread) -> str:
    return f"{one.part}: {one.kind} could not be read: {one.why}"


def drift_lines(drift: Drift) -> Iterator[tuple[str, str, str]]:
    """(sentence, key of the scenario, command) of each difference."""
    for one in drift.differences:
        yield one.words(), one.key, one.command
