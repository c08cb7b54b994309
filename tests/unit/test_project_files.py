"""What the project says about itself is true: README, Makefile, packages and launcher agree with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.cli.group import COMMANDS

TREE = Path(__file__).resolve().parents[2]
README = (TREE / "README.md").read_text(encoding="utf-8")
PACKAGES = [
    line.split()
    for line in (TREE / "setup/packages.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed = set(re.findall(r"^\| `labctl ([a-z]+)", README, re.MULTILINE))
    assert listed == set(COMMANDS)


def test_what_the_readme_calls_not_yet_is_not_there() -> None:
    lines = [line for line in README.splitlines() if line.startswith("Not yet:")]
    assert not set(re.findall(r"`labctl ([a-z]+)`", " ".join(lines))) & set(COMMANDS)


def test_the_readme_lists_every_scenario_and_no_other() -> None:
    table = README.partition("## Scenarios")[2].partition("##")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)`", table, re.MULTILINE)) == {
        path.stem for path in (TREE / "scenarios").glob("*.yaml")
    }


@pytest.mark.parametrize("document", ["README.md", "docs/README.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = TREE / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (TREE / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^(?:sudo )?make ([a-z]+)", README, re.MULTILINE))
    named |= set(re.findall(r"^(?:sudo )?make ([a-z]+)", (TREE / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert {"compare", "test"} <= named <= targets


def test_every_line_of_the_package_list_is_understood() -> None:
    assert len(PACKAGES) > 10
    for group, how, _, package in PACKAGES:
        assert group in {"run", "lint", "test", "distros", "networks", "vm", "machines"}
        assert how in {"command", "library", "header", "keys", "file"}
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package)


def test_every_program_that_a_check_runs_is_in_the_package_list() -> None:
    from labctl import app

    listed = {name for group, how, name, _ in PACKAGES if group in {"run", "networks"} and how == "command"}
    needed = {tool for check in app.checks().values() for tool in check.tools}
    assert needed <= listed


MADE_FROM = ("pyproject.toml", "requirements.txt", "requirements-dev.txt", "setup/requirements-build.txt")


def write_what_a_venv_is_made_from(tree: Path) -> None:
    (tree / "setup").mkdir(exist_ok=True)
    for name in MADE_FROM:
        (tree / name).write_text("")


def test_the_launcher_works_through_a_symlink_from_anywhere(tmp_path: Path) -> None:
    """Tried on a copy of the launcher with a .venv that only says what it was called with."""
    tree = tmp_path / "tree"
    (tree / ".venv/bin").mkdir(parents=True)
    shutil.copy(TREE / "labctl", tree / "labctl")
    write_what_a_venv_is_made_from(tree)
    python = tree / ".venv/bin/python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    (tree / ".venv/labctl-stamp").write_text("")
    for name in MADE_FROM:
        os.utime(tree / name, (0, 0))
    (tmp_path / "link").symlink_to(tree / "labctl")
    said = subprocess.run(
        [str(tmp_path / "link"), "exec", "a lab", "--", "*"], cwd="/", capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["-X", "utf8", "-P", "-m", "labctl", "exec", "a lab", "--", "*"]


@pytest.mark.parametrize("state", ["no venv", "no stamp", *MADE_FROM])
def test_the_launcher_sets_up_first_when_the_venv_is_not_ready(tmp_path: Path, state: str) -> None:
    """`state` may be a file that is newer than the stamp."""
    write_what_a_venv_is_made_from(tmp_path)
    shutil.copy(TREE / "labctl", tmp_path / "labctl")
    prepare = tmp_path / "setup/prepare.sh"
    prepare.write_text("#!/bin/sh\necho preparing; exit 3\n")
    prepare.chmod(0o755)
    if state != "no venv":
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/python").symlink_to("/bin/true")
    for name in MADE_FROM:
        os.utime(tmp_path / name, (0, 0))
    if state in MADE_FROM:
        (tmp_path / ".venv/labctl-stamp").write_text("")
        os.utime(tmp_path / state, (2**31, 2**31))
    said = subprocess.run([str(tmp_path / "labctl")], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (3, "preparing\n")


def test_setup_refuses_unknown_groups() -> None:
    said = subprocess.run([str(TREE / "setup/prepare.sh"), "everything"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.startswith("usage: setup/prepare.sh")


def test_the_venv_check_names_a_package_that_lost_a_file_and_one_that_is_missing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "labctl_datapath-1.dist-info").mkdir(parents=True)
    (site / "labctl_datapath-1.dist-info/METADATA").write_text(
        "Name: labctl-datapath\nVersion: 1\nRequires-Dist: nothere>=1\n"
    )
    (site / "labctl_datapath-1.dist-info/RECORD").write_text("labctl/lost.py,,\nlabctl/__pycache__/lost.pyc,,\n")
    program = f"import sys; sys.path[:] = [{str(site)!r}, *sys.path[1:3]]; sys.argv = ['x', {str(tmp_path)!r}];"
    program += f"exec(compile(open({str(TREE / 'setup/check_venv.py')!r}).read(), 'check_venv.py', 'exec'))"
    said = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    venv = Path(sys.executable).parents[1].name
    assert said.stderr.splitlines() == [
        f"setup: {venv}: labctl is not installed from {tmp_path}",
        f"setup: {venv}: labctl-datapath needs nothere",
        f"setup: {venv}: labctl-datapath has lost labctl/lost.py",
    ]
