"""The file of a capture: pcapng that is valid after every write, also when the disk is full or the reader has gone."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from labctl import __version__
from labctl.engine.capture import Batch, Ended, Source, counts_by_tap
from labctl.errors import LabError, MeasureFailed, UsageError
from labctl.path import pcapng
from labctl.providers.base import Tap
from labctl.system.files import bring_to_disk, create_stream


def _refused(path: str, failed: OSError) -> LabError:
    what, cause = f"cannot write the capture to {path}", failed.strerror or str(failed)
    if failed.errno not in (errno.ELOOP, errno.EINVAL, errno.EPERM):
        return LabError(what=what, cause=cause, remedy=f"ls -ld {shlex.quote(str(Path(path).parent))}")
    if os.path.realpath(path) == os.path.realpath("/dev/stdout"):
        return UsageError(what=what, cause=cause, remedy="-w -  # standard output")
    return UsageError(what=what, cause=cause, remedy=f"ls -l {shlex.quote(path)}  # then name a file of your own")


class CaptureFile:
    """Writes whole blocks. `path` `-` is standard output. Use it in a `with`.

    Raises LabError when the file cannot be made, UsageError for a link and for what is no file; a write raises
    MeasureFailed when the disk is full, after the part of a block that went in has been cut off again, and
    BrokenPipeError when the reader has gone.
    """

    def __init__(
        self,
        path: str,
        taps: Sequence[Tap],
        sources: Sequence[Source],
        *,
        expression: str,
        snap_byte: int,
        comment: Callable[[bytes], str] | None = None,
    ) -> None:
        """`comment` gives what a frame's comment in the file is, empty for none."""
        self._path = path
        self._numbers: dict[str, int] = {}
        self._owns = path != "-"
        try:
            self._file = create_stream(Path(path)) if self._owns else os.dup(1)
        except OSError as failed:
            raise _refused(path, failed) from failed
        self._is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        self._written = 0
        head = [pcapng.section(f"labctl {__version__}")]
        for number, tap in enumerate(taps):
            self._numbers[tap.name] = number
            about = pcapng.Interface(
                name=tap.name,
                description=f"{tap.target.kind} {tap.name.rpartition(':')[0]}, {tap.role}",
                filter=expression,
                snap_byte=snap_byte,
            )
            head.append(pcapng.interface(about))
        self._makers = [pcapng.packet_maker(self._numbers[s.tap.name], s.direction, comment) for s in sources]
        try:
            self._write(head)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def size_byte(self) -> int:
        return self._written

    def write(self, batch: Batch) -> None:
        makers = self._makers
        self._write([makers[number](time_ns, record.frame, record.wire_byte) for time_ns, number, record in batch])

    def finish(self, ended: Sequence[Ended], time_ns: int) -> None:
        """Adds what each interface received and lost, and brings the file to the disk."""
        self._write(
            [
                pcapng.statistics(self._numbers[name], time_ns=time_ns, received=counts.received, dropped=counts.lost)
                for name, counts in counts_by_tap(ended).items()
            ]
        )
        if self._is_regular and self._owns:
            try:
                bring_to_disk(self._file, Path(self._path))
            except OSError as failed:
                raise self._ended_early(failed) from failed

    def _write(self, blocks: Sequence[bytes]) -> None:
        data = b"".join(blocks)
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.write(self._file, view[done:])
        except OSError as failed:
            self._cut(blocks, done)
            if failed.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise self._ended_early(failed) from failed
            raise
        self._written += len(data)

    def _ended_early(self, failed: OSError) -> MeasureFailed:
        return MeasureFailed(
            what=f"the capture ended early: {failed.strerror}",
            cause=f"{self._path} holds {self._written} bytes and is a valid file up to there",
            remedy=f"df -h {Path(self._path).parent}  # then capture less: --filter, --snap, --duration",
        )

    def _cut(self, blocks: Sequence[bytes], done: int) -> None:
        """Removes a block that was written only in part."""
        whole = 0
        for block in blocks:
            if whole + len(block) > done:
                break
            whole += len(block)
        self._written += whole
        if self._is_regular:
            os.ftruncate(self._file, self._written)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
