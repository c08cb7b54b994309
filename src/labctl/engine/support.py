"""One archive with everything about a lab that helps to find what is wrong with it (the field's word: sysdump).

It works for a lab that is whole, damaged, half gone or only remembered: what cannot be read is in it with the reason,
and stops nothing. Every text passes through `redact` before it is cut to its size, so that no secret escapes by being
cut in two. Several exhibits are read at a time, each within its own limits; the whole has a limit of time and of size.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from labctl import __version__
from labctl.codec import json_document, plain
from labctl.engine.redact import Redactor
from labctl.errors import Interrupted, LabError
from labctl.planning.record import lab_to_json
from labctl.planning.show import as_text
from labctl.providers.base import Exhibit, Provider, RunningLab
from labctl.store.environment import fingerprint
from labctl.store.journal import JOURNAL_FILE, MANIFEST_FILE
from labctl.store.reading import StoredRun, list_runs
from labctl.system import files, process
from labctl.system.archives import write_archive
from labctl.system.clock import Deadline, utc_now
from labctl.system.files import MIB
from labctl.system.signals import all_at_once, stop_if_asked, uninterrupted
from labctl.values import dataclass

INDEX, README = "index.json", "README.txt"
_AT_ONCE = 6
_COMMAND_S = 20.0
_RUNS = 3
_MOST_FILE_BYTE = 8 * MIB
_HOST: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("uname.txt", ("uname", "-a")),
    ("os-release.txt", ("cat", "/etc/os-release")),
    ("memory.txt", ("free", "-m")),
    ("disks.txt", ("df", "-h")),
    ("inodes.txt", ("df", "-i")),
    ("processes.txt", ("ps", "-eo", "pid,ppid,user,etimes,rss,comm")),
    ("kernel-log.txt", ("dmesg", "--ctime")),
    ("inotify.txt", ("sysctl", "fs.inotify")),
    ("modules.txt", ("lsmod",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large an exhibit and the whole may be, unpacked, and how long reading may take."""

    exhibit_byte: int = 2 * MIB
    whole_byte: int = 32 * MIB
    time_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """An exhibit as it is in the archive. `cut_byte`: what was left out in its middle; `problem`: why it is not
    there."""

    file: str
    source: str
    text: str = field(repr=False, default="")
    removed: int = 0
    cut_byte: int = 0
    problem: str = ""

    @property
    def size_byte(self) -> int:
        return len(self.text.encode())

    def record(self) -> dict[str, object]:
        return {
            "file": self.file,
            "source": self.source,
            "byte": self.size_byte,
            "cutByte": self.cut_byte,
            "secretsRemoved": self.removed,
            "problem": self.problem,
        }


def exhibits_of_any(running: RunningLab | None, provider: Provider, runs_dir: Path) -> Iterator[Exhibit]:
    """What every lab has, whatever its provider: who labctl is, its plan and record, this host, the newest runs."""
    yield Exhibit(file="labctl/version.json", source="labctl --version", read=_version)
    if running is not None:
        yield Exhibit(file="labctl/found.json", source="labctl list --json", read=lambda: _found(running))
    lab = running.lab if running is not None else None
    if lab is not None:
        yield Exhibit(file="labctl/lab.json", source="the record of the lab", read=lambda: _json(lab_to_json(lab)))
        plan = f"labctl plan {lab.source or lab.scenario}"
        yield Exhibit(file="labctl/plan.txt", source=plan, read=lambda: as_text(provider.plan(lab)))
    doctor = f"labctl doctor --provider {provider.name}"
    yield Exhibit(file="labctl/doctor.json", source=doctor, read=lambda: _doctor(provider))
    yield Exhibit(
        file="host/environment.json",
        source="this host: kernel, processor, memory, sysctls, versions of the tools",
        read=lambda: _json(plain(fingerprint(process.output_of))),
    )
    for file, argv in _HOST:
        yield _command(f"host/{file}", argv)
    for run in _newest(runs_dir):
        for file in (MANIFEST_FILE, JOURNAL_FILE):
            path = run.path / file
            yield _tail(f"runs/{run.path.name}/{file}", path)


def _command(file: str, argv: Sequence[str]) -> Exhibit:
    return Exhibit(file=file, source=shlex.join(argv), read=lambda: _printed(argv))


def _printed(argv: Sequence[str]) -> str:
    """Raises MeasureFailed when the program is not there."""
    done = process.run(argv, timeout_s=_COMMAND_S)
    ended = "" if done.returncode == 0 else f"\n[labctl: exit status {done.returncode}]\n"
    return done.text + done.error_text + (f"\n[labctl: not over in {_COMMAND_S:g} s]\n" if done.timed_out else ended)


def _tail(file: str, path: Path) -> Exhibit:
    """A file of this host; of a large one, its end."""

    def read() -> str:
        return files.read_tail(path, most_byte=_MOST_FILE_BYTE).decode("utf-8", errors="replace")

    return Exhibit(file=file, source=str(path), read=read)


def collected(exhibits: Sequence[Exhibit], secrets: Sequence[str], limits: Limits) -> list[Filed]:
    """All of them, in their order, read several at a time. Raises Interrupted."""
    redactor, deadline = Redactor(secrets), Deadline.after(limits.time_s)
    filed: dict[int, Filed] = {}
    numbers = iter(range(len(exhibits)))

    def work() -> None:
        for number in numbers:
            stop_if_asked()
            filed[number] = _filed(exhibits[number], redactor, deadline, limits)

    all_at_once([work] * min(_AT_ONCE, len(exhibits)))
    return list(_within([filed[number] for number in sorted(filed)], limits.whole_byte))


def _filed(exhibit: Exhibit, redactor: Redactor, deadline: Deadline, limits: Limits) -> Filed:
    """Every way in which reading may fail is a note."""
    source = redactor.redacted(exhibit.source).text
    if deadline.is_over():
        problem = f"not read: {limits.time_s:.0f} s were over"
        return Filed(file=exhibit.file, source=source, problem=problem)
    try:
        text = exhibit.read()
    except Interrupted:
        raise
    except LabError as failed:
        return _unread(exhibit, source, redactor, "; ".join(part for part in (failed.what, failed.cause) if part))
    except OSError as failed:
        return _unread(exhibit, source, redactor, f"{failed.strerror or failed}")
    except Exception as bug:  # a damaged lab may show what nobody thought of: the rest matters more
        return _unread(exhibit, source, redactor, f"{type(bug).__name__}: {bug}")
    found = redactor.redacted(text)
    shown, cut_byte = cut(found.text, limits.exhibit_byte)
    return Filed(file=exhibit.file, source=source, text=shown, removed=found.removed, cut_byte=cut_byte)


def _unread(exhibit: Exhibit, source: str, redactor: Redactor, why: str) -> Filed:
    said = redactor.redacted(why)
    text = f"labctl could not read this.\nsource: {source}\nwhy: {said.text}\n"
    return Filed(file=exhibit.file, source=source, text=text, removed=said.removed, problem=said.text)


def cut(text: str, most_byte: int) -> tuple[str, int]:
    """The text with its middle left out where it is larger: its beginning says what it is, its end what happened last.
    Also how many bytes were left out."""
    data = text.encode()
    if len(data) <= most_byte:
        return text, 0
    head, tail = most_byte // 4, most_byte - most_byte // 4
    left_out = len(data) - head - tail
    note = f"\n[labctl: {left_out} bytes are left out here]\n"
    return data[:head].decode(errors="ignore") + note + data[-tail:].decode(errors="ignore"), left_out


def _within(filed: Sequence[Filed], most_byte: int) -> Iterator[Filed]:
    """Until the whole is full; what is left out then is named."""
    used_byte = 0
    for one in filed:
        used_byte += one.size_byte
        if used_byte <= most_byte:
            yield one
            continue
        used_byte -= one.size_byte
        problem = f"left out: the archive would be larger than {most_byte // MIB} MiB unpacked"
        yield Filed(file=one.file, source=one.source, problem=problem, cut_byte=one.size_byte)


def write(path: Path, lab: str, provider: str, filed: Sequence[Filed]) -> int:
    """Gives its size in bytes. Raises LabError."""
    folder = f"support-{lab}"
    index = {
        "apiVersion": "labctl/v1",
        "kind": "Support",
        "lab": lab,
        "provider": provider,
        "at": utc_now(),
        "labctlVersion": __version__,
        "parts": [one.record() for one in filed],
    }
    members = [
        (f"{folder}/{README}", _readme(lab, filed).encode()),
        (f"{folder}/{INDEX}", json_document(index)),
        *((f"{folder}/{one.file}", one.text.encode()) for one in filed if one.text or not one.problem),
    ]
    try:
        with uninterrupted():
            return write_archive(path, members)
    except OSError as failed:
        raise LabError(
            what=f"cannot write {path}", cause=failed.strerror or str(failed), remedy=f"df -h {path.parent}"
        ) from failed


def _readme(lab: str, filed: Sequence[Filed]) -> str:
    removed, unread = sum(one.removed for one in filed), [one for one in filed if one.problem]
    lines = [
        f"What labctl {__version__} found of lab {lab}, {utc_now()}.",
        f"{INDEX} names every file, what it was read from, what was cut, and why a file is missing.",
        f"{removed} secrets were removed; [removed: …] stands in their place. Look through it before you pass it on.",
        "",
        *(f"not read: {one.file}: {one.problem}" for one in unread),
    ]
    return "\n".join(lines) + "\n"


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _version() -> str:
    return _json(
        {
            "labctl": __version__,
            "python": sys.version,
            "platform": platform.platform(),
            "argv": sys.argv,
            "at": utc_now(),
        }
    )


def _found(running: RunningLab) -> str:
    why = running.unasked
    return _json(
        {
            "lab": running.name,
            "provider": running.provider,
            "scenario": running.scenario,
            "digest": running.digest,
            "whole": running.is_whole,
            "beingBuilt": running.is_being_built,
            "byRecord": running.is_by_record,
            "missing": list(running.missing),
            "notAsked": None if why is None else {"what": why.what, "cause": why.cause, "remedy": why.remedy},
        }
    )


def _doctor(provider: Provider) -> str:
    probes: list[Mapping[str, object]] = [
        {
            "name": probe.name,
            "present": probe.present,
            "found": probe.found,
            "version": probe.version,
            "path": probe.path,
            "lookedAt": probe.is_looked_at,
        }
        for probe in provider.probes()
    ]
    return _json(probes)


def _newest(runs_dir: Path) -> list[StoredRun]:
    runs = [run for run in list_runs(runs_dir) if isinstance(run, StoredRun)]
    return runs[-_RUNS:][::-1]
