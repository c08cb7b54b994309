"""Files that mean harm, or are no files at all: a clear error, in bounded time and memory."""

from __future__ import annotations

import os
import random
import signal
import socket
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid, UsageError
from labctl.loading import load_scenario, validate_files

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
BASE = """apiVersion: labctl/v1
kind: Scenario
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
datapath: {hostRouting: legacy}
"""
LONGEST_CPU_S = 10
LONGEST_WAIT_S = 120
OURS = "# apiVersion: labctl/v1\n"
"""Of a file that is not labctl's nothing is parsed."""
MOST_MEMORY_BYTE = 256 * 1024 * 1024


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Nothing in here may work long (in CPU time, as the machine may be busy) or hang (in wall time)."""

    def too_long(signum: int, frame: object) -> None:
        raise TimeoutError(f"took longer than {LONGEST_CPU_S} s of CPU time, or hung for {LONGEST_WAIT_S} s")

    before = [(number, signal.signal(number, too_long)) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before:
        signal.signal(number, handler)


def _said(data: bytes | str, directory: Path) -> list[str]:
    file = directory / "hostile.yaml"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return [str(problem) for problem in validate_files(["hostile.yaml"], start=directory)]


def _laughs(levels: int, width: int = 9) -> str:
    lines = [f"    a0: &a0 [{', '.join(['lol'] * width)}]"]
    lines += [f"    a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return BASE + "cilium:\n  values:\n" + "\n".join(lines) + "\n"


def test_aliases_that_would_explode_are_refused_before_anything_grows(tmp_path: Path) -> None:
    tracemalloc.start()
    said = _said(_laughs(12), tmp_path)
    _, peak_byte = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said == ["hostile.yaml:13:14: the file has more than 100,000 values, aliases counted in full"]
    assert peak_byte < MOST_MEMORY_BYTE


def test_aliases_that_nest_deeper_than_the_text_does_are_refused(tmp_path: Path) -> None:
    lines = ["    a0: &a0 [deep]", *(f"    a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60))]
    said = _said(BASE + "cilium:\n  values:\n" + "\n".join(lines) + "\n", tmp_path)
    assert len(said) == 1
    assert said[0].endswith(": values are nested more than 32 levels deep")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{", "&a ["])
def test_values_nested_without_end_are_refused(opening: str, tmp_path: Path) -> None:
    said = _said(opening * (1_000_000 // len(opening)) + "\n" + OURS, tmp_path)
    assert len(said) == 1
    assert said[0].endswith(": values are nested more than 32 levels deep")


def test_a_hundred_megabytes_are_refused_without_reading_them(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as large:
        large.truncate(100 * 1024 * 1024)
    tracemalloc.start()
    said = [str(problem) for problem in validate_files(["large.yaml"], start=tmp_path)]
    _, peak_byte = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said == ["large.yaml: is larger than 1 MiB (allowed: at most 1 MiB)"]
    assert peak_byte < 16 * 1024 * 1024


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n" * 150_000,
        "".join(f"key{number}: 1\n" for number in range(80_000)),
        "x" * 1_000_000,
        "'" + "x" * 1_000_000,
        "x" * 1_000_000 + ": 1",
        "k: " + "9" * 1_000_000,
        "k: 0x" + "f" * 1_000_000,
        "k: " + "1" * 500_000 + "e5",
        "pods: [" + "{}," * 150_000 + "]",
        "nodes: [" + "~," * 190_000 + "]",
        "&a " * 300_000,
        "!!" * 400_000,
        "#" * 1_000_000,
        "\n" * 1_000_000,
        "- " * 20 + "x: [" + "1, " * 200_000,
        "pods: [" + "{name: a, node: b}," * 40_000 + "]",
        "---\n" * 200_000,
        "a: *b\n" * 100_000,
        "extends: " + "../" * 2_000 + "x.yaml",
        "extends: " + "a" * 5_000 + ".yaml",
        "extends: /dev/zero/x.yaml",
    ],
    ids=lambda text: f"{text[:12]!r} and {len(text)} characters",
)
def test_a_file_that_is_large_in_one_way_is_refused_in_time(text: str, tmp_path: Path) -> None:
    said = _said(OURS + text, tmp_path)
    assert 1 <= len(said) <= 205
    assert all(len(line) < 1_000 for line in said)
    assert all(line.isprintable() for line in said)


def test_what_is_no_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "nowhere.yaml").symlink_to("gone.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.yaml"))
        names = ["directory", "pipe", "loop", "nowhere", "zero", "socket", "missing"]
        said = [str(problem) for problem in validate_files([f"{name}.yaml" for name in names], start=tmp_path)]
    assert said == [
        "directory.yaml: is a directory, not a file (allowed: a text file in UTF-8)",
        "pipe.yaml: is a named pipe, not a file (allowed: a text file in UTF-8)",
        "loop.yaml: is a symbolic link, which can lead to any file (allowed: the file itself)",
        "nowhere.yaml: is a symbolic link, which can lead to any file (allowed: the file itself)",
        "zero.yaml: is a symbolic link, which can lead to any file (allowed: the file itself)",
        "socket.yaml: is a socket, not a file (allowed: a text file in UTF-8)",
        "missing.yaml: there is no such file",
    ]


def test_a_loop_of_links_given_to_load_is_an_error_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ScenarioInvalid) as caught:
        load_scenario("loop.yaml", start=tmp_path)
    assert [str(problem) for problem in caught.value.problems] == [
        "loop.yaml: is a symbolic link, which can lead to any file (allowed: the file itself)"
    ]


def test_a_site_file_that_is_hostile_is_an_error_of_the_site_file(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_bytes(b"\xff\xfea")
    (tmp_path / "fine.yaml").write_text(BASE)
    with pytest.raises(ScenarioInvalid) as caught:
        load_scenario("fine.yaml", start=tmp_path)
    assert [str(problem) for problem in caught.value.problems] == [
        "lab.yaml: is written in UTF-16, not in UTF-8 (allowed: a text file in UTF-8)"
    ]


def test_a_thousand_parents_are_too_many(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"s{number}.yaml").write_text(f"apiVersion: labctl/v1\nkind: Scenario\nextends: s{number + 1}\n")
    said = [str(problem) for problem in validate_files(["s0.yaml"], start=tmp_path)]
    assert said == ["s15.yaml:3:10: extends: there are more than 16 scenarios in a row that extend one another"]


def _changed(text: bytes, random_of: random.Random) -> bytes:
    """A valid file with a few bytes or lines changed, as an accident or a fuzzer would."""
    data = bytearray(text)
    for _ in range(random_of.randint(1, 4)):
        at = random_of.randrange(len(data) + 1)
        act = random_of.randrange(6)
        if act == 0:
            data[at:at] = random_of.choice((b"\t", b"\x00", b"&a ", b"*a", b"!!x ", b"? ", b"[", b"}", b": ", b"\xff"))
        elif act == 1:
            data[at : at + random_of.randint(1, 20)] = b""
        elif act == 2:
            data[at : at + 1] = bytes((random_of.randrange(256),))
        elif act == 3:
            lines = bytes(data).split(b"\n")
            random_of.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        elif act == 4:
            start = random_of.randrange(len(data) + 1)
            data[at:at] = data[start : start + random_of.randint(1, 60)]
        else:
            data[at:at] = random_of.choice((b"\n---\n", b"\n- ", b" ~ ", b"'", b'"', b"#", b"9" * 50, b"|\n", b"\n  "))
        if not data:
            data = bytearray(b" ")
    return bytes(data)


def _refusal(name: str, overrides: Sequence[str], directory: Path) -> tuple[str, ...]:
    """What loading says, or nothing when it goes well. Any other exception than these two is a defect."""
    try:
        load_scenario(name, overrides=overrides, start=directory)
    except (ScenarioInvalid, UsageError) as error:
        said = error.lines()
    else:
        return ()
    assert said
    assert [line for line in said if not line.isprintable()] == []
    return said


@pytest.mark.parametrize("seed", range(6))
def test_a_valid_file_changed_at_random_is_valid_or_says_what_is_wrong(seed: int, tmp_path: Path) -> None:
    random_of = random.Random(seed)
    bases = [file.read_bytes() for file in sorted((CORPUS / "valid").glob("*.yaml"))]
    file = tmp_path / "changed.yaml"
    refused = 0
    for _ in range(150):
        file.write_bytes(_changed(random_of.choice(bases), random_of))
        refused += bool(_refusal("changed.yaml", (), tmp_path))
    assert refused > 20


@pytest.mark.parametrize("seed", range(4))
def test_options_changed_at_random_are_valid_or_say_what_is_wrong(seed: int, tmp_path: Path) -> None:
    random_of = random.Random(seed)
    (tmp_path / "base.yaml").write_text(BASE)
    options = ("checks.ping.count=5", "nodes=4", "pods[0].node=node3", "datapath.faults=[netfilter-drop]")
    for _ in range(150):
        changed = _changed(random_of.choice(options).encode(), random_of).decode("utf-8", errors="surrogateescape")
        _refusal("base.yaml", (changed,), tmp_path)
