"""Files that decide what root does: whose they may be, and of which of them something is quoted."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.cli import group
from labctl.errors import LabError, ScenarioInvalid, UsageError
from labctl.loading import load_scenario, project, validate_files
from labctl.loading.load import load_matrix, site_section
from labctl.system import files

SCENARIO = """apiVersion: labctl/v1
kind: Scenario
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
datapath: {hostRouting: legacy}
"""
CHILD = "apiVersion: labctl/v1\nkind: Scenario\nextends: %s\n"
SITE = "apiVersion: labctl/v1\nkind: Site\nnodes: 2\n"
MATRIX = "apiVersion: labctl/v1\nkind: Matrix\nscenarios: [parent.yaml, ../clean/other.yaml]\n"
BROKEN = "apiVersion: labctl/v1\nkind: Scenario\nsecret-key: secret-value\n"
STRANGER = 54321


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """labctl is root, and the user of the tests is the person behind sudo."""
    behind = (os.getuid(), os.getgid())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(behind[0]))
    monkeypatch.setenv("SUDO_GID", str(behind[1]))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project in `clean`, and a second folder `foreign` with one file of each kind; nothing of it is foreign yet."""
    for name in ("clean", "foreign"):
        (tmp_path / name).mkdir(mode=0o755)
        for file, text in {
            "child.yaml": CHILD % "parent",
            "parent.yaml": SCENARIO,
            "other.yaml": SCENARIO,
            "lab.yaml": SITE,
            "matrix.yaml": MATRIX,
            "broken.yaml": BROKEN,
        }.items():
            (tmp_path / name / file).write_text(text)
            (tmp_path / name / file).chmod(0o644)
    (tmp_path / "clean" / "leads-out.yaml").write_text(CHILD % "../foreign/parent.yaml")
    (tmp_path / "clean" / "leads-out.yaml").chmod(0o644)
    return tmp_path


def everybody_writes(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWOTH)


READERS: dict[str, Callable[[Path, Path, bool], object]] = {
    "a scenario by its path": lambda clean, foreign, trust: load_scenario(
        str(foreign / "parent.yaml"), start=clean, trust=trust
    ),
    "what it extends": lambda clean, foreign, trust: load_scenario("leads-out.yaml", start=clean, trust=trust),
    "lab.yaml": lambda clean, foreign, trust: load_scenario(str(clean / "parent.yaml"), start=foreign, trust=trust),
    "lab.yaml by itself": lambda clean, foreign, trust: site_section("hosts", start=foreign, trust=trust),
    "a matrix": lambda clean, foreign, trust: load_matrix(foreign / "matrix.yaml", start=clean, trust=trust),
    "validate": lambda clean, foreign, trust: validate_files([foreign / "parent.yaml"], start=clean, trust=trust),
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_others_may_write_decides_nothing_without_trust(reader: str, place: Path) -> None:
    read = READERS[reader]
    read(place / "clean", place / "foreign", False)
    everybody_writes(place / "foreign")
    with pytest.raises(UsageError, match="dubious ownership") as refused:
        read(place / "clean", place / "foreign", False)
    assert refused.value.exit_code == 2
    assert not isinstance(refused.value, ScenarioInvalid)
    assert f"its folder {place / 'foreign'}: every user may write to it" in refused.value.cause
    assert "--trust" in refused.value.remedy
    read(place / "clean", place / "foreign", True)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("file", "start", "named"),
    [
        ("parent.yaml", "clean", "parent.yaml"),
        ("parent.yaml", "clean", "leads-out.yaml"),
        ("lab.yaml", "foreign", "child.yaml"),
    ],
)
def test_one_file_that_others_may_write_decides_nothing_in_a_folder_of_ones_own(
    file: str, start: str, named: str, place: Path
) -> None:
    everybody_writes(place / "foreign" / file)
    path = place / ("clean" if named == "leads-out.yaml" else "foreign") / named
    with pytest.raises(UsageError, match="dubious ownership") as refused:
        load_scenario(str(path), start=place / start)
    assert "every user may write to it" in refused.value.cause
    assert "folder" not in refused.value.cause


@pytest.mark.usefixtures("root")
def test_a_file_or_folder_of_a_stranger_decides_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "trusted_users", lambda: frozenset({STRANGER}))
    with pytest.raises(UsageError, match="dubious ownership") as refused:
        load_scenario("parent.yaml", start=place / "clean")
    assert f"it belongs to user {os.getuid()}" in refused.value.cause


@pytest.mark.usefixtures("root")
def test_the_parents_of_the_folder_are_not_judged(place: Path) -> None:
    place.chmod(0o777)
    assert load_scenario("parent.yaml", start=place / "clean").name == "parent"


@pytest.mark.usefixtures("root")
def test_ones_own_file_in_a_sticky_folder_is_no_nuisance_and_another_one_there_is_refused(place: Path) -> None:
    (place / "foreign").chmod(0o1777)
    load_scenario("parent.yaml", start=place / "foreign")
    everybody_writes(place / "foreign" / "lab.yaml")
    with pytest.raises(UsageError, match=r"lab\.yaml has dubious ownership"):
        load_scenario("parent.yaml", start=place / "foreign")


def test_without_root_nobody_but_the_reader_can_be_harmed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    everybody_writes(place / "foreign")
    assert load_scenario("parent.yaml", start=place / "foreign").name == "parent"


@pytest.mark.usefixtures("root")
def test_the_clone_that_labctl_runs_from_is_trusted_as_its_code_is_and_nothing_else_in_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = place / "foreign"
    monkeypatch.setattr(project, "_CHECKOUT", clone)
    for name in ("scenarios", "lessons/one", "scenarios-of-others"):
        (clone / name).mkdir(parents=True)
        (clone / name / "fine.yaml").write_text(SCENARIO)
        (clone / name).chmod(0o777)
    everybody_writes(clone)
    for name in ("fine", "scenarios/fine.yaml", "lessons/one/fine.yaml"):
        load_scenario(name, start=clone)
    for name in ("scenarios-of-others/fine.yaml", "parent.yaml"):
        with pytest.raises(UsageError, match="dubious ownership"):
            load_scenario(name, start=clone)
    # A link into the clone changes nothing for what is beside it.
    (place / "clean" / "way").symlink_to(clone / "scenarios")
    load_scenario("way/fine.yaml", start=place / "clean")
    with pytest.raises(UsageError, match="dubious ownership"):
        load_scenario("way/../parent.yaml", start=place / "clean")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "line",
    [
        ("validate", "{}/broken.yaml"),
        ("plan", "{}/broken.yaml"),
        ("up", "{}/broken.yaml"),
        ("check", "{}/broken.yaml"),
        ("images", "{}/broken.yaml"),
        ("bundle", "{}/broken.yaml", "-o", "never.tar"),
        ("compare", "{}/broken.yaml", "legacy"),
        ("matrix", "{}/broken.yaml"),
    ],
    ids=lambda line: line[0],
)
def test_every_command_refuses_before_anything_is_parsed_or_shown_and_takes_trust(
    line: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everybody_writes(place / "foreign")
    words = [word.format(place / "foreign") for word in line]
    assert group.run(words) == 2
    said = capsys.readouterr()
    assert "dubious ownership" in said.err
    assert "secret" not in said.err + said.out
    assert group.run([words[0], "--trust", *words[1:]]) == 2
    said = capsys.readouterr()
    assert "dubious ownership" not in said.err
    assert "secret-key" in said.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["folder", "file"])
def test_root_refuses_what_really_belongs_to_another_user(
    given: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "foreign" / "parent.yaml"
    os.chown(path if given == "file" else path.parent, STRANGER, STRANGER)
    assert group.run(["plan", str(path)]) == 2
    assert f"belongs to user {STRANGER}" in capsys.readouterr().err
    assert group.run(["plan", str(path), "--trust"]) == 0
    # The same user behind sudo reads their own file.
    os.chown(path, STRANGER, STRANGER)
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    monkeypatch.setenv("SUDO_GID", str(STRANGER))
    assert group.run(["plan", str(path)]) == 0


# ---- what is shown of files that are not labctl's

SECRETS = {
    "of a line for each user": "root:$6$secret$hash:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n",
    "of YAML": "network:\n  wifis:\n    wlan0: {access-points: {home: {password: secret}}}\n",
    "of YAML with an apiVersion": "apiVersion: v1\nkind: Config\nusers: [{name: admin, user: {token: secret}}]\n",
    "of YAML that is broken": "password: 'secret\nother: *secret\n",
    "of JSON": json.dumps({"auths": {"registry": {"auth": "secret"}}}),
    "of a key": "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n-----END OPENSSH PRIVATE KEY-----\n",
    "of zeros between": "HOME=/root\0TOKEN=secret\0",
    "of tags and duplicate keys": "secret: !secret 1\nsecret: 2\n",
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("way", ["named", "a second name", "extended", "lab.yaml", "in a matrix"])
def test_nothing_is_quoted_of_a_file_that_is_not_labctls(kind: str, way: str, place: Path) -> None:
    clean = place / "clean"
    (place / "kept").write_text(SECRETS[kind])
    named = clean / {"lab.yaml": "lab.yaml"}.get(way, "led.yaml")
    named.unlink(missing_ok=True)
    named.hardlink_to(place / "kept")
    (clean / "child.yaml").write_text(CHILD % "led.yaml")
    (clean / "matrix.yaml").write_text("apiVersion: labctl/v1\nkind: Matrix\nscenarios: [led.yaml, led.yaml]\n")
    file = {"named": str(place / "kept"), "a second name": "led.yaml", "in a matrix": "matrix.yaml"}
    said = [str(problem) for problem in validate_files([file.get(way, "child.yaml")], start=clean)]
    assert any("is not a labctl file" in line for line in said)
    text = "".join(said).replace(str(place), "")
    assert not any(word in text for word in ("secret", "root", "daemon", "password", "token", "TOKEN", "auth", "BEGIN"))


@pytest.mark.parametrize("path", ["/proc/self/environ", "/etc/passwd", "/proc/self/cmdline"])
def test_nothing_is_quoted_of_the_systems_own_files(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert group.run(["validate", path]) == 2
    said = capsys.readouterr().err
    assert (
        said.splitlines()[0]
        == f"{path}: is not a labctl file: it has no apiVersion (allowed: apiVersion: labctl/v1, …)"
    )
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize("way", ["named", "extended", "lab.yaml", "neighbour", "in scenarios/", "in a matrix"])
def test_no_link_is_followed_to_a_file(way: str, place: Path) -> None:
    clean = place / "clean"
    (clean / "scenarios").mkdir()
    link = {"lab.yaml": clean / "lab.yaml", "in scenarios/": clean / "scenarios" / "led.yaml"}.get(
        way, clean / "led.yaml"
    )
    link.unlink(missing_ok=True)
    link.symlink_to(place / "foreign" / ("lab.yaml" if way == "lab.yaml" else "broken.yaml"))
    (clean / "child.yaml").write_text(CHILD % ("led" if way == "neighbour" else "led.yaml"))
    (clean / "matrix.yaml").write_text(MATRIX.replace("parent.yaml", "led.yaml"))
    wanted = {"named": "led.yaml", "lab.yaml": "parent.yaml", "in scenarios/": "led", "in a matrix": "matrix.yaml"}
    said = [str(problem) for problem in validate_files([wanted.get(way, "child.yaml")], start=clean)]
    assert any("is a symbolic link, which can lead to any file" in line for line in said)
    assert not any("secret" in line for line in said)
    if way != "in a matrix":
        with pytest.raises(LabError):
            load_scenario(wanted.get(way, "child.yaml"), start=clean)
