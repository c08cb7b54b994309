"""The door to archives: what somebody else packed takes neither the memory nor another place."""

from __future__ import annotations

import errno
import gzip
import io
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.system.archives import content_of, open_archive
from labctl.system.files import MIB


def packed(path: Path, files: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read_all(path: Path, most_byte: int = 16 * MIB) -> dict[str, bytes]:
    with open_archive(path, most_byte=most_byte) as tar:
        return {member.name: content_of(tar, member) for member in tar}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_read_whether_packed_or_not(tmp_path: Path, mode: str) -> None:
    files = {"manifest.json": b"[]", "large": b"x" * (3 * MIB)}
    assert read_all(packed(tmp_path / "a.tar", files, mode=mode)) == files


def lying_header(path: Path) -> None:
    """An extended header that says that it has 8 GiB."""
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)


def long_name(path: Path) -> None:
    """A name of 2 GiB, in GNU's way."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2 << 30
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096)


def bomb(path: Path) -> None:
    """Some 200 kB that unpack to 200 MiB."""
    zeros = bytes(MIB)
    member = tarfile.TarInfo("zeros")
    member.size = 200 * MIB
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member.tobuf())
        for _ in range(200):
            file.write(zeros)


def large_part(path: Path) -> None:
    """A part that says that it has 1 TiB."""
    member = tarfile.TarInfo("manifest.json")
    member.size = 1 << 40
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"{}" * 4096)


@pytest.mark.parametrize("make", [lying_header, long_name, bomb, large_part])
def test_what_says_that_it_is_large_is_refused_before_it_is_in_memory(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.tar")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((OSError, tarfile.TarError)) as refused:
        read_all(tmp_path / "a.tar")
    assert not isinstance(refused.value, OSError) or refused.value.errno == errno.EFBIG
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_part_that_is_no_file_has_no_content(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.linkname = kind, "/etc/shadow"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(OSError, match="not a regular file"):
        read_all(tmp_path / "a.tar")


@pytest.mark.parametrize("trap", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_trap_is_no_archive_and_nothing_waits(tmp_path: Path, trap: Callable[[Path], None]) -> None:
    trap(tmp_path / "a.tar")
    with pytest.raises(OSError, match=r"regular file|directory"):
        read_all(tmp_path / "a.tar")
