"""The set-up installs what the lock files say, in any folder and under any locale; `make upgrade` makes the locks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from labctl.errors import MeasureFailed
from labctl.system.libraries import differing

TREE = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11.2", "3.12.1", "3.13.5", "3.14.0")
RUN, DEV = "requirements.txt", "requirements-dev.txt"
TOOLS = ("setup/requirements-build.txt", "setup/requirements-upgrade.txt")
PYPROJECT = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))
WANTED = {
    RUN: PYPROJECT["project"]["dependencies"],
    DEV: [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["dev"]],
    TOOLS[0]: PYPROJECT["build-system"]["requires"],
}
STAMP = Path(sys.prefix, "labctl-stamp")
IS_NEWEST = STAMP.is_file() and "mode newest" in STAMP.read_text(encoding="utf-8").splitlines()


def text(name: str) -> str:
    return (TREE / name).read_text(encoding="utf-8")


def upgrade() -> ModuleType:
    specification = importlib.util.spec_from_file_location("upgrade", TREE / "setup/upgrade.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


UPGRADE = upgrade()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lock: str, python: str) -> dict[str, Requirement]:
    """What a lock gives to that Python, on Linux."""
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, Requirement] = {}
    for line in text(lock).splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
                assert requirement.name not in found, f"two versions of {requirement.name}"
                found[requirement.name] = requirement
    return found


def version(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "=="
    return only.version


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", WANTED)
def test_the_lock_has_every_package_of_pyproject_within_its_range(lock: str, python: str) -> None:
    locked = pinned(lock, python)
    for line in WANTED[lock]:
        wanted = Requirement(line)
        assert version(locked[canonical(wanted.name)]) in wanted.specifier


@pytest.mark.parametrize("python", PYTHONS)
def test_running_and_developing_have_the_same_versions(python: str) -> None:
    run, dev = (
        {name: version(requirement) for name, requirement in pinned(lock, python).items()} for lock in (RUN, DEV)
    )
    assert run.items() <= dev.items()


@pytest.mark.parametrize("lock", [RUN, DEV, *TOOLS])
def test_every_package_of_a_lock_has_hashes(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", text(lock))[1:]
    assert entries
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    "name", [RUN, DEV, *TOOLS, "setup/pins.txt", "setup/prepare.sh", "setup/upgrade.py", "Makefile"]
)
def test_no_index_of_packages_is_named(name: str) -> None:
    found = re.findall(r"(?i)\S*pypi\S*|--(?:extra-)?index-url \S+|--find-links \S+|\S+ @ \S+", text(name))
    assert found == []


def test_the_pins_are_the_versions_of_the_tools_that_are_locked() -> None:
    pins = UPGRADE.pins(text("setup/pins.txt"))
    assert set(pins) == {"pip", "setuptools", "uv", "kind", "helm"}
    for lock, names in UPGRADE.TOOLS.items():
        assert UPGRADE.versions(text(lock)) == {name: (pins[name],) for name in names}


def test_the_oldest_python_is_the_one_that_the_locks_are_made_for() -> None:
    assert PYPROJECT["project"]["requires-python"] == f">={UPGRADE.PYTHON_SERIES}"


def test_the_installed_versions_are_those_of_the_lock() -> None:
    """With NEWEST=1 they are not, and are in a place of their own: the locked ones stay as they are."""
    if IS_NEWEST:
        assert Path(sys.prefix).name == ".venv-newest"
    else:
        assert differing() == ()


def _tree_with(tmp_path: Path, lock: str) -> Path:
    (tmp_path / "setup").mkdir()
    shutil.copy(TREE / "setup/check_venv.py", tmp_path / "setup")
    for name in (RUN, DEV):
        (tmp_path / name).write_text(lock)
    (tmp_path / "setup/requirements-build.txt").write_text("")
    return tmp_path


def test_a_package_that_is_not_the_locked_one_is_named_with_both_versions(tmp_path: Path) -> None:
    lock = (
        "click==0.1 \\\n    --hash=sha256:00\nno-such==1.0 ; python_full_version >= '3.11' \\\n    --hash=sha256:00\n"
        "nor-this==1.0 ; python_full_version < '3.11' \\\n    --hash=sha256:00\n"
    )
    installed = importlib.metadata.version("click")
    assert [str(found) for found in differing(_tree_with(tmp_path, lock))] == [
        f"click {installed} (locked: 0.1)",
        "no-such is missing (locked: 1.0)",
    ]


def test_where_no_lock_is_nothing_differs(tmp_path: Path) -> None:
    assert differing(tmp_path) == ()


def test_a_lock_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeasureFailed) as failed:
        differing(_tree_with(tmp_path, "click=?=1\n"))
    assert failed.value.cause


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"a": ("1",)}, {"a": ("1",)}, []),
        ({"a": ("1",)}, {"a": ("2",)}, ["  a: 1 → 2"]),
        ({}, {"a": ("1", "2")}, ["  a: - → 1, 2"]),
        ({"a": ("1", "2"), "b": ("3",)}, {"b": ("4",)}, ["  a: 1, 2 → -", "  b: 3 → 4"]),
    ],
)
def test_an_upgrade_shows_the_old_and_the_new_version(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]], lines: list[str]
) -> None:
    assert UPGRADE.changes(before, after) == lines


def test_only_the_deprecations_of_ansible_runner_are_let_through() -> None:
    said = "codecs.open() is deprecated. Use open() instead."
    warnings.warn_explicit(said, DeprecationWarning, "loader.py", 1, module="ansible_runner.loader")
    for module, category in (
        ("labctl.system.files", DeprecationWarning),
        ("ansible_runners", DeprecationWarning),
        ("ansible_runner.loader", ResourceWarning),
    ):
        with pytest.raises(category):
            warnings.warn_explicit(said, category, "x.py", 1, module=module)


LOCALES = ("C", "POSIX", "C.UTF-8", "tr_TR.UTF-8", "xx_YY.ISO-8859-1")
"""Some are on no machine. Under those Python takes the C locale, as programs do."""

FOLDERS = ("Übung mit Leerzeichen", "лаба 実験", "it's $HOME", "ſ\u0130ı -x")

PIP = '''
"""Stands in for pip and setuptools: writes what an editable install writes, in the encoding that they use."""
import locale, pathlib, site, sys
arguments, here = sys.argv[1:], pathlib.Path(site.getsitepackages()[0])
if "--editable" in arguments:
    (here / "labctl_datapath-1.dist-info").mkdir(exist_ok=True)
    (here / "labctl_datapath-1.dist-info/METADATA").write_text("Name: labctl-datapath\\nVersion: 1\\n")
    (here / "labctl_datapath-1.dist-info/RECORD").write_text("__editable__.labctl_datapath-1.pth,,\\n")
    source = pathlib.Path(arguments[arguments.index("--editable") + 1]) / "src"
    encoding = "utf-8" if sys.version_info >= (3, 13) else locale.getencoding()
    (here / "__editable__.labctl_datapath-1.pth").write_text(f"{source}\\n", encoding=encoding)
'''

STUB = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3" && cp -r "{pip}" "$3"/lib/python3.*/site-packages/
"""


def clone(folder: Path) -> Path:
    """A tree with the real launcher and set-up, and a labctl that says what it was called with."""
    (folder / "setup").mkdir(parents=True)
    (folder / "src/labctl").mkdir(parents=True)
    shutil.copy(TREE / "labctl", folder)
    for name in ("prepare.sh", "check_venv.py", "packages.txt", "pins.txt"):
        shutil.copy(TREE / "setup" / name, folder / "setup")
    for name in ("pyproject.toml", RUN, DEV, TOOLS[0]):
        (folder / name).write_text("")
    (folder / "src/labctl/__init__.py").write_text("")
    (folder / "src/labctl/__main__.py").write_text("import sys; print('labctl', *map(ascii, sys.argv[1:]))")
    return folder


def stand_ins(directory: Path) -> Path:
    """A Python whose virtual environments have a pip that needs no network. Returns its path."""
    (directory / "pip/_vendor/packaging").mkdir(parents=True)
    (directory / "pip/__main__.py").write_text(PIP)
    (directory / "pip/_vendor/packaging/requirements.py").write_text("Requirement = None\n")
    python = directory / "python"
    base = shlex.quote(sys._base_executable)  # type: ignore[attr-defined]
    python.write_text(STUB.format(python=base, pip=directory / "pip"))
    python.chmod(0o755)
    return python


def under(locale: str, *argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        argv, env={**clean, "LC_ALL": locale, **environment}, capture_output=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_clone_in_any_folder_starts_under_any_locale_whichever_it_was_set_up_under(
    folder: str, tmp_path: Path
) -> None:
    tree = clone(tmp_path / folder)
    python = stand_ins(tmp_path / "stand-ins")
    set_up_under = LOCALES[FOLDERS.index(folder)]
    first = under(set_up_under, tree / "labctl", "first", PYTHON=str(python))
    assert (first.returncode, first.stdout) == (0, "labctl 'first'\n"), first.stderr
    for locale in LOCALES:
        later = under(locale, tree / "labctl", "x")
        assert (later.returncode, later.stdout, later.stderr) == (0, "labctl 'x'\n", "")
    isolated = under("C", tree / ".venv/bin/python", "-I", "-m", "labctl", "x")
    assert isolated.stdout == "labctl 'x'\n"
    (pth,) = (tree / ".venv").glob("lib/python3.*/site-packages/*labctl*.pth")
    assert pth.read_bytes().isascii()


def test_a_changed_lock_is_met_at_the_next_start(tmp_path: Path) -> None:
    tree, python = clone(tmp_path / "a b"), stand_ins(tmp_path / "stand-ins")
    under("C", tree / "labctl", PYTHON=str(python))
    assert under("C", tree / "labctl", PYTHON=str(python)).stderr == ""
    (tree / RUN).write_text("# changed\n")
    os.utime(tree / RUN, (2**31, 2**31))
    said = under("C", tree / "labctl", PYTHON=str(python))
    assert "setup: installing labctl into .venv" in said.stderr


def test_a_setup_that_fails_names_the_step_and_a_command_that_can_be_pasted(tmp_path: Path) -> None:
    tree, python = clone(tmp_path / "it's a b"), stand_ins(tmp_path / "stand-ins")
    refuse = "import sys; sys.exit(0 if sys.argv[-1] == '--version' else 'no route')"
    (tmp_path / "stand-ins/pip/__main__.py").write_text(refuse)
    said = under("C", tree / "setup/prepare.sh", PYTHON=str(python))
    assert said.returncode == 3
    assert said.stderr.count("no route") == 2
    assert "error: pip could not install labctl into .venv" in said.stderr
    command = said.stderr.rpartition("then again: ")[2].strip()
    assert shlex.split(command) == [str(tree / "setup/prepare.sh")]


@pytest.mark.root
@pytest.mark.parametrize("made", [(), ("labctl.egg-info",), ("labctl.egg-info", "other one.egg-info")])
def test_under_sudo_in_a_persons_clone_what_set_up_made_is_the_persons(made: tuple[str, ...], tmp_path: Path) -> None:
    """A build back end may leave an .egg-info in src/, or none."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    tree, python = clone(tmp_path / "a b"), stand_ins(tmp_path / "stand-ins")
    os.chown(tree, 65534, 65534)
    for name in made:
        (tree / "src" / name).mkdir()
    said = under("C", tree / "setup/prepare.sh", PYTHON=str(python))
    assert said.returncode == 0, said.stderr
    assert "chown" not in said.stderr
    ours = [tree / ".venv", tree / ".venv/bin/python", *(tree / "src" / name for name in made)]
    assert {path.lstat().st_uid for path in ours} == {65534}


def test_the_newest_versions_leave_the_locked_ones_alone(tmp_path: Path) -> None:
    tree, python = clone(tmp_path / "a b"), stand_ins(tmp_path / "stand-ins")
    under("C", tree / "setup/prepare.sh", PYTHON=str(python))
    before = (tree / ".venv/labctl-stamp").read_text()
    said = under("C", tree / "setup/prepare.sh", "--newest", PYTHON=str(python))
    assert said.returncode == 0, said.stderr
    assert "mode lock" in before.splitlines()
    assert (tree / ".venv/labctl-stamp").read_text() == before
    assert "mode newest" in (tree / ".venv-newest/labctl-stamp").read_text().splitlines()


def test_no_python_is_told_with_what_is_there(tmp_path: Path) -> None:
    tree = clone(tmp_path / "a b")
    old = tmp_path / "bin/python3"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\n[ "$2" = "-" ] && exit 1\ncase $2 in *join*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    (tree / "setup/prepare.sh").write_text(
        (tree / "setup/prepare.sh").read_text().replace(" /usr/bin/python3 ", " ").replace("python3.1", "nopython3.1")
    )
    said = under("C", tree / "setup/prepare.sh", PATH=f"{old.parent}:/usr/bin:/bin")
    assert said.returncode == 3
    assert f"  why: {old} is Python 3.9.2\n" in said.stderr


@pytest.mark.parametrize(("before", "after"), [("0000", "0022"), ("0002", "0022"), ("0077", "0077"), ("0027", "0027")])
def test_labctl_makes_nothing_that_others_may_write_and_takes_no_right_back(
    tmp_path: Path, before: str, after: str
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(TREE / "labctl", tmp_path)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\numask\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    for name in ("pyproject.toml", RUN, ".venv/labctl-stamp"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "pyproject.toml", (1, 1))
    os.utime(tmp_path / RUN, (1, 1))
    (tmp_path / "setup").mkdir()
    (tmp_path / "setup/requirements-build.txt").touch()
    os.utime(tmp_path / "setup/requirements-build.txt", (1, 1))
    argv = ["sh", "-c", f"umask {before}; exec {shlex.quote(str(tmp_path / 'labctl'))}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == after


def test_the_set_up_makes_nothing_that_others_may_write() -> None:
    commands = [line for line in text("setup/prepare.sh").splitlines() if line and not line.startswith("#")]
    assert [line.partition(" #")[0] for line in commands[:2]] == ["set -euo pipefail", "umask go-w"]
