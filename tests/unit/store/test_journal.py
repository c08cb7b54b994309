"""The journal: what is appended comes back, what was cut short is left out, what was damaged is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.store.journal import JournalWriter, read_journal
from labctl.system.files import open_folder


def written(path: Path, count: int) -> bytes:
    journal = JournalWriter(open_folder(path.parent))
    for number in range(count):
        journal.append("block", "2026-11-22T10:00:00Z", {"n": number, "text": "über\nzwei Zeilen"})
    journal.sync()
    journal.close()
    return path.read_bytes()


def test_entries_come_back_in_order_with_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 3)
    entries = list(read_journal(path))
    assert [entry.content for entry in entries] == [{"n": n, "text": "über\nzwei Zeilen"} for n in range(3)]
    assert {(entry.kind, entry.at) for entry in entries} == {("block", "2026-11-22T10:00:00Z")}


def test_cut_at_any_byte_it_reads_as_the_whole_lines_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    data = written(path, 3)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        assert len(list(read_journal(path))) == data[:length].count(b"\n")


def test_a_writer_that_opens_a_cut_journal_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    data = written(path, 2)
    for cut in (1, 10, len(data) // 2 + 5, len(data) - 1):
        path.write_bytes(data[:cut])
        written(path, 1)
        assert len(list(read_journal(path))) == data[:cut].count(b"\n") + 1


def test_a_half_line_longer_than_one_read_is_removed_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    data = written(path, 1)
    path.write_bytes(data + b"x" * 200_000)
    JournalWriter(open_folder(path.parent)).close()
    assert path.read_bytes() == data


def test_no_journal_is_no_entries(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b'{"kind":"x"}', b"\xff", b""])
def test_a_damaged_line_in_the_middle_is_reported_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    data = written(path, 1)
    path.write_bytes(data + line + b"\n" + data)
    with pytest.raises(LabError, match=r"journal\.jsonl:2: this line is not a journal entry"):
        list(read_journal(path))


def test_what_has_no_plain_form_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = JournalWriter(open_folder(path.parent))
    with pytest.raises(TypeError, match="object has no plain JSON form"):
        journal.append("block", "now", {"what": object()})
    journal.close()
    assert path.read_bytes() == b""
