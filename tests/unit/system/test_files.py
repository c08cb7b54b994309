"""The door to files: nobody is led elsewhere by it, whatever stands in the folder."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.system import files
from labctl.system.files import (
    create_stream,
    open_folder,
    read_file,
    remove_tree,
    why_untrusted,
    write_atomically,
)


def test_a_file_is_replaced_whole_and_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "facts"
    path.write_bytes(b"old")
    write_atomically(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_own_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with open_folder(tmp_path / "runs" / "one", make=True) as folder:
            folder.write("run.json", b"{}")
            os.close(folder.create("raw.txt"))
            os.close(folder.open_own("journal.jsonl"))
        write_atomically(tmp_path / "page.html", b"")
    finally:
        os.umask(before)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("page.html") == 0o644 & ~umask
    assert set(modes.values()) == {0o600, 0o700}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"runs", "runs/one"}


def a_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "secret")


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "not there")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def a_folder(path: Path) -> None:
    path.mkdir()


TRAPS = (a_link, a_dangling_link, a_pipe, a_socket, a_folder)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_not_read_and_nothing_waits(inside: Path, trap: Callable[[Path], None]) -> None:
    trap(inside / "name")
    with open_folder(inside) as folder:
        for read in (
            lambda: folder.read("name"),
            lambda: read_file(inside / "name"),
            lambda: list(folder.stream("name")),
        ):
            with pytest.raises(OSError, match=r".") as refused:
                read()
            assert refused.value.errno


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_not_appended_to(inside: Path, trap: Callable[[Path], None]) -> None:
    trap(inside / "journal.jsonl")
    with open_folder(inside) as folder, pytest.raises(OSError, match=r"."):
        folder.open_own("journal.jsonl")
    assert (inside.parent / "secret").read_bytes() == b"secret"
    assert not (inside.parent / "not there").exists()


def test_a_file_with_a_second_name_is_not_appended_to(inside: Path) -> None:
    os.link(inside.parent / "secret", inside / "journal.jsonl")
    with open_folder(inside) as folder, pytest.raises(OSError, match="second name"):
        folder.open_own("journal.jsonl")


@pytest.mark.parametrize("trap", TRAPS)
def test_what_is_no_file_is_not_written_over_and_a_link_is_not_followed(
    inside: Path, trap: Callable[[Path], None]
) -> None:
    trap(inside / "page.html")
    with pytest.raises(OSError, match=r"not a regular file|symbolic link"):
        write_atomically(inside / "page.html", b"page")
    assert (inside.parent / "secret").read_bytes() == b"secret"
    assert not (inside.parent / "not there").exists()
    assert [path.name for path in inside.iterdir()] == ["page.html"]


@pytest.mark.parametrize("trap", [a_link, a_dangling_link, a_socket, a_folder])
def test_a_stream_is_not_written_through_a_trap(inside: Path, trap: Callable[[Path], None]) -> None:
    trap(inside / "way.pcapng")
    with pytest.raises(OSError, match=r"not a regular file|symbolic link"):
        create_stream(inside / "way.pcapng")
    assert (inside.parent / "secret").read_bytes() == b"secret"


def test_a_stream_does_not_truncate_the_file_that_another_name_still_has(inside: Path) -> None:
    os.link(inside.parent / "secret", inside / "way.pcapng")
    os.close(create_stream(inside / "way.pcapng"))
    assert (inside / "way.pcapng").read_bytes() == b""
    assert (inside.parent / "secret").read_bytes() == b"secret"


def test_a_stream_goes_into_ones_own_pipe_and_not_into_one_open_to_every_user(inside: Path) -> None:
    pipe = inside / "way.pcapng"
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.write(stream := create_stream(pipe), b"packet")
        os.close(stream)
        assert os.read(reader, 10) == b"packet"
        pipe.chmod(0o666)
        with pytest.raises(PermissionError, match="every user may write to it"):
            create_stream(pipe)
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../secret", "a\0b"])
def test_a_name_is_one_component(inside: Path, name: str) -> None:
    with open_folder(inside) as folder:
        for act in (folder.read, folder.remove, folder.sub, folder.make, folder.create, folder.open_own, folder.kind):
            with pytest.raises(ValueError, match="not the name of one file"):
                act(name)


def test_a_folder_that_is_swapped_for_a_link_meanwhile_changes_nothing(inside: Path) -> None:
    elsewhere = inside.parent / "elsewhere"
    elsewhere.mkdir()
    with open_folder(inside) as folder:
        inside.rename(inside.parent / "moved")
        inside.symlink_to(elsewhere)
        folder.write("run.json", b"{}")
        os.close(folder.create("raw.txt"))
        folder.sub("raw", make=True).close()
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in (inside.parent / "moved").iterdir()} == {"run.json", "raw.txt", "raw"}


def test_a_folder_behind_a_link_is_opened_only_where_a_person_named_it(inside: Path) -> None:
    link = inside.parent / "link"
    link.symlink_to(inside)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        open_folder(link)
    open_folder(link, follow=True).close()
    with open_folder(inside.parent) as outer, pytest.raises(OSError, match=r"Not a directory|symbolic"):
        outer.sub("link")


def test_a_tree_is_removed_and_what_its_links_point_to_stays(inside: Path) -> None:
    kept = inside.parent / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    lab = inside / "lab"
    (lab / "deep" / "deeper").mkdir(parents=True)
    (lab / "deep" / "file").write_text("goes")
    (lab / "deep" / "link").symlink_to(kept)
    (lab / "deep" / "file link").symlink_to(kept / "file")
    remove_tree(lab)
    assert not lab.exists()
    assert (kept / "file").read_text() == "kept"


@pytest.mark.parametrize("trap", [a_link, a_dangling_link, a_pipe, a_socket])
def test_removing_a_tree_that_is_something_else_removes_that_alone(inside: Path, trap: Callable[[Path], None]) -> None:
    trap(inside / "lab")
    remove_tree(inside / "lab")
    assert not os.path.lexists(inside / "lab")
    assert (inside.parent / "secret").read_bytes() == b"secret"


def test_removing_what_is_not_there_is_no_error(inside: Path) -> None:
    remove_tree(inside / "no" / "lab")
    remove_tree(inside / "lab")


def test_a_file_that_is_too_large_is_refused_without_being_read_whole(inside: Path) -> None:
    with (inside / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match="larger than 1,048,576 bytes"):
        read_file(inside / "sparse", most_byte=1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_file_of_just_the_allowed_size_is_read(inside: Path) -> None:
    (inside / "full").write_bytes(b"x" * 10)
    assert read_file(inside / "full", most_byte=10) == b"x" * 10


@pytest.mark.parametrize(("mode", "why"), [(0o602, "every user"), (0o666, "every user"), (0o600, "")])
def test_world_writable_files_are_not_trusted(inside: Path, mode: int, why: str) -> None:
    (inside / "file").touch()
    (inside / "file").chmod(mode)
    assert (why in why_untrusted((inside / "file").stat())) if why else not why_untrusted((inside / "file").stat())


def test_the_files_of_root_of_oneself_and_of_the_person_behind_sudo_are_trusted(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1000")
    assert files.trusted_users() == {0, 1000}
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert files.trusted_users() == {0, 1234}


@pytest.mark.parametrize("said", ["", "-1", "1e3", "٣", "root", " 7"])
def test_a_user_id_that_sudo_would_not_say_is_not_believed(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", said)
    monkeypatch.setenv("SUDO_GID", said)
    assert files.person().uid == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_under_sudo_what_is_written_belongs_to_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "12345")
    with open_folder(tmp_path / "runs" / "one", make=True) as folder:
        folder.write("run.json", b"{}")
        os.close(folder.open_own("journal.jsonl"))
        folder.sub("raw", make=True).close()
    write_atomically(tmp_path / "page.html", b"")
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {12345}


def test_where_nothing_is_yet_nothing_is_written_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    rename = os.rename

    def noted(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        renamed.append(new)
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", noted)
    for data in (b"one", b"two"):
        descriptor = create_stream(tmp_path / "seen")
        os.write(descriptor, data)
        os.close(descriptor)
        assert (tmp_path / "seen").read_bytes() == data
    assert renamed == ["seen"]


def test_what_a_writer_that_was_killed_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        os.close(folder.create(".facts.0123456789ab"))
        (tmp_path / ".hidden").touch()
        name, descriptor = folder._aside("facts", 0o600)
        folder.remove_asides()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted((name, ".hidden"))
        os.close(descriptor)
        folder.remove_asides()
    assert [entry.name for entry in tmp_path.iterdir()] == [".hidden"]


def test_writing_a_file_removes_what_killed_writers_of_it_left(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        for left in (".facts.0123456789ab", ".other.0123456789ab"):
            os.close(folder.create(left))
        folder.write("facts", b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.0123456789ab", "facts"]


def test_a_file_that_was_taken_for_a_dead_ones_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = files.Folder.create

    def removed_at_once(self: files.Folder, name: str, *, mode: int = 0o600) -> int:
        descriptor = create(self, name, mode=mode)
        made.append(name)
        if len(made) == 1:
            self.remove(name)
        return descriptor

    monkeypatch.setattr(files.Folder, "create", removed_at_once)
    with open_folder(tmp_path) as folder:
        folder.write("facts", b"new")
    assert len(made) == 2
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("facts", b"new")]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_could_not_be_made_private_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "refused")

    monkeypatch.setattr(os, "fchmod", refused)
    with open_folder(tmp_path) as folder, pytest.raises(PermissionError):
        folder.create("it") if what == "file" else folder.make("it")
    assert list(tmp_path.iterdir()) == []
