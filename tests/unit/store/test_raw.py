"""Raw files: nothing is overwritten and nothing leaves its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.store.runs import MemorySinks, RawDirectory, safe_name
from labctl.system.files import open_folder


def test_a_name_used_twice_gets_a_number_and_nothing_is_overwritten(tmp_path: Path) -> None:
    written: list[str] = []
    sink = RawDirectory(open_folder(tmp_path), "0001-ping", written.append)
    names = [sink.save("out.tar.gz", data) for data in (b"1", b"2", b"3")]
    assert names == [f"raw/0001-ping/out{number}.tar.gz" for number in ("", "-2", "-3")]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"1", b"2", b"3"]
    assert written == names


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "lxc3f → x", "x" * 300])
def test_a_hostile_name_stays_inside_the_directory(tmp_path: Path, name: str) -> None:
    stored = RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None).save(name, b"data")
    path = (tmp_path / stored).resolve()
    assert path.parent == tmp_path / "raw/0001-ping"
    assert path.read_bytes() == b"data"


def test_a_sink_that_saved_nothing_leaves_no_directory(tmp_path: Path) -> None:
    RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(LabError, match="cannot write to"):
        RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None).save("out", b"")


def test_safe_names_keep_what_is_harmless() -> None:
    assert safe_name("iperf_udp-client-server.json") == "iperf_udp-client-server.json"


def test_memory_sinks_keep_files_by_name() -> None:
    sinks = MemorySinks()
    assert [sinks("ping").save("out.txt", data) for data in (b"1", b"2")] == ["out.txt", "out-2.txt"]
    assert sinks("ping").files == {"out.txt": b"1", "out-2.txt": b"2"}
    assert sinks("iperf").files == {}
