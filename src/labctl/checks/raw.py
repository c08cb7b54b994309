"""Keeps what the tools printed, before anything parses it, and brings it back to be parsed again.

Each finished process becomes three files: `NAME.json` (argv, exit status, times), `NAME.stdout` and `NAME.stderr`;
a capture's standard output is `NAME.pcap`, so that Wireshark opens it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from labctl.checks.base import RawSink
from labctl.json_text import parse_json
from labctl.providers.base import Completed


class RawFiles:
    """Saves into one check's raw sink and remembers the paths, in the order of saving."""

    def __init__(self, sink: RawSink) -> None:
        self._sink = sink
        self._paths: list[str] = []

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._paths)

    def save(self, name: str, data: bytes) -> None:
        self._paths.append(self._sink.save(name, data))

    def save_completed(self, name: str, completed: Completed, *, output: str = "stdout") -> Completed:
        """Saves everything about a process that has ended; gives it back, so that saving comes before parsing."""
        self.save(f"{name}.json", completed_record(completed))
        self.save(f"{name}.{output}", completed.stdout)
        self.save(f"{name}.stderr", completed.stderr)
        return completed


def completed_record(completed: Completed) -> bytes:
    """Everything about the process but its output, as JSON."""
    record = {
        "argv": completed.argv,
        "returncode": completed.returncode,
        "duration_s": completed.duration_s,
        "cpu_s": completed.cpu_s,
        "timed_out": completed.timed_out,
    }
    return json.dumps(record, indent=1).encode() + b"\n"


def load_completed(name: str, load: Callable[[str], bytes], *, output: str = "stdout") -> Completed:
    """The process that `save_completed` stored under `name`; `load` gives the content of one file."""
    record = parse_json(load(f"{name}.json"))
    return Completed(
        argv=tuple(record["argv"]),
        returncode=record["returncode"],
        stdout=load(f"{name}.{output}"),
        stderr=load(f"{name}.stderr"),
        duration_s=record["duration_s"],
        cpu_s=record["cpu_s"],
        timed_out=record["timed_out"],
    )
