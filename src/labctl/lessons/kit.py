"""The workshop kit: what a class needs on hosts without a network, in one file with checksums.

In the tar stand `manifest.json`, `SHA256SUMS` and `install.sh`, and three folders: `labctl/` (the clone without the
authors' solutions), `packages/` (Debian packages with all that they depend on, as a repository), `wheels/` (Python's,
of the lock files). Packages are those of the release that this host has, wheels those for its Python.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labctl.errors import HostLacks, StepFailed, UsageError
from labctl.loading.project import LESSON_DIRECTORY, SOLUTION_DIRECTORY
from labctl.planning.shell import quoted
from labctl.system import files, process
from labctl.values import dataclass

GROUPS = ("run", "networks")
"""Of setup/packages.txt: what labs and checks need, and FRR for the lessons about routing."""
_MORE = ("python3-venv", "bpftool")
"""What `.venv` is made with, and what lessons show maps with; bpftool where the release has a package of that name."""
_CLONE = (
    "labctl", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "lab.yaml", "pyproject.toml",
    "requirements.txt", "setup", "src", "scenarios", LESSON_DIRECTORY, "playbooks", "docs",
)  # fmt: skip
_LOCKS = ("setup/requirements-build.txt", "requirements.txt")
_LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info")
_FETCH_S = 1800.0
_LOOK_S = 120.0
_INSTALL = """\
#!/bin/sh
# Installs labctl on this host from what is beside this file; nothing is taken from a network.
#   sudo ./install.sh [FOLDER]      FOLDER: where labctl goes, /opt/labctl without it
set -eu
here=$(cd "$(dirname "$0")" && pwd)
there=${1:-/opt/labctl}
cd "$here"
sha256sum --quiet --strict --check SHA256SUMS
[ "$(id -u)" = 0 ] || { echo "error: this needs root" >&2; echo "  try: sudo $0 $there" >&2; exit 3; }
[ ! -e "$there" ] || { echo "error: $there is there already" >&2; echo "  try: another folder" >&2; exit 2; }
aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT
mkdir -p "$aside/parts" "$aside/lists/partial"
ln -s "$here/packages" "$here/wheels" "$aside" # neither apt nor pip takes a path with spaces
echo "deb [trusted=yes] file:$aside/packages ./" > "$aside/sources.list"
cat > "$aside/apt.conf" <<END
Dir::Etc::sourcelist "$aside/sources.list";
Dir::Etc::sourceparts "$aside/parts";
Dir::State::lists "$aside/lists";
APT::Sandbox::User "root";
END
export APT_CONFIG="$aside/apt.conf" PIP_NO_INDEX=1 PIP_FIND_LINKS="$aside/wheels"
mkdir -p "$(dirname "$there")"
cp -R labctl "$there"
"$there/setup/prepare.sh" @GROUPS@
if grep -qx bpftool packages/wanted.txt && ! command -v bpftool > /dev/null; then
  apt-get -q -y --no-install-recommends install bpftool < /dev/null
fi
ln -sf "$there/labctl" /usr/local/bin/labctl
echo "labctl is in $there; next: labctl doctor; labctl lesson list"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What is in the file: how many packages, wheels and lessons, and for which system."""

    packages: int
    wheels: int
    lessons: tuple[str, ...]
    system: str
    python: str


def pack_class(clone: Path, output: Path, tell: Callable[[str], object]) -> Kit:
    """Writes the kit to `output`. Raises UsageError where labctl does not run from a clone and where there is a file
    already, HostLacks without apt-get, StepFailed when something cannot be fetched."""
    if not (clone / "setup" / "packages.txt").is_file():
        raise UsageError(
            what="a kit is made from a clone of labctl's repository",
            cause=f"{clone} has no setup/packages.txt",
            remedy="./labctl bundle --class -o FILE in the clone",
        )
    if os.path.lexists(output):
        raise UsageError(what=f"{output} already exists", remedy=f"another name, or: rm {shlex.quote(str(output))}")
    if shutil.which("apt-get") is None:
        raise HostLacks(
            what="this host has no apt-get",
            cause="the packages of a kit are Debian's or Ubuntu's",
            remedy="make the kit on a host with the release that the class has",
        )
    with files.temporary_folder(beside=output) as folder:
        tell("the clone, without the authors' solutions")
        _copy_clone(clone, folder / "labctl")
        tell("packages of the distribution, with all that they depend on")
        packages = _fetch_packages(
            wanted_packages(files.read_file(clone / "setup" / "packages.txt").decode()), folder / "packages"
        )
        tell("Python's wheels of the lock files")
        wheels = _fetch_wheels(clone, folder / "wheels")
        there = folder / "labctl" / LESSON_DIRECTORY
        kit = Kit(
            packages=packages,
            wheels=wheels,
            lessons=tuple(sorted(one.name for one in there.iterdir() if one.is_dir())),
            system=_system(),
            python=".".join(map(str, sys.version_info[:2])),
        )
        script = folder / "install.sh"
        script.write_text(_INSTALL.replace("@GROUPS@", " ".join(GROUPS)))
        script.chmod(0o755)
        (folder / "manifest.json").write_text(json.dumps(_manifest(kit), indent=2) + "\n")
        (folder / "SHA256SUMS").write_text("".join(checksums(folder)))
        tell("the file itself")
        _write(folder, output)
    return kit


def wanted_packages(listed: str) -> tuple[str, ...]:
    """Those of the groups that a class needs, out of setup/packages.txt. Pure."""
    rows = [line.split() for line in listed.splitlines() if line.strip() and not line.startswith("#")]
    return tuple(dict.fromkeys((*sorted(row[3] for row in rows if row[0] in GROUPS), *_MORE)))


def checksums(folder: Path) -> Iterator[str]:
    """A line as sha256sum writes it for every file below."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != "SHA256SUMS":
            digest = files.digest_of(path)
            yield f"{digest}  {path.relative_to(folder)}\n"


def _copy_clone(clone: Path, to: Path) -> None:
    to.mkdir(mode=0o755)
    ignore = shutil.ignore_patterns(*_LEFT_OUT)
    for name in _CLONE:
        source = clone / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignore, symlinks=True)
        elif source.is_file():
            shutil.copy2(source, to / name)
    if (to / SOLUTION_DIRECTORY).exists():
        raise StepFailed(what="the authors' solutions would be in the kit", cause=str(to / SOLUTION_DIRECTORY))


def _fetch_packages(wanted: Sequence[str], folder: Path) -> int:
    """Everything that an empty system of this release would need, whatever this host has already."""
    (folder / "partial").mkdir(parents=True)
    nothing = folder / "partial" / "status"
    nothing.touch()
    known = _ran(("apt-cache", "pkgnames"), _LOOK_S, "the package lists cannot be read").split()
    names = [name for name in wanted if name in known]
    if lacking := [name for name in wanted if name not in known and name not in _MORE]:
        raise StepFailed(
            what=f"this release has no package {', '.join(lacking)}",
            cause="apt-cache pkgnames",
            remedy="apt-get update",
        )
    options = ("-o", f"Dir::State::status={nothing}", "-o", f"Dir::Cache::archives={folder}",
               "-o", "APT::Sandbox::User=root")  # fmt: skip
    argv = ("apt-get", "-q", "-y", "--no-install-recommends", *options, "--download-only", "install", *names)
    _ran(argv, _FETCH_S, "packages cannot be fetched")
    fetched = sorted(folder.glob("*.deb"))
    (folder / "Packages").write_text("".join(_index(fetched)))
    (folder / "wanted.txt").write_text("\n".join(names) + "\n")
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink(missing_ok=True)
    return len(fetched)


def _index(fetched: Sequence[Path]) -> Iterator[str]:
    """What apt reads of a repository: each package's own control file, and where its file is."""
    for path in fetched:
        control = _ran(("dpkg-deb", "--field", str(path)), _LOOK_S, f"{path.name} cannot be read").rstrip("\n")
        size, digest = path.stat().st_size, files.digest_of(path)
        yield f"{control}\nFilename: ./{path.name}\nSize: {size}\nSHA256: {digest}\n\n"


def _fetch_wheels(clone: Path, folder: Path) -> int:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--only-binary", ":all:",
           "--require-hashes", "--dest", str(folder))  # fmt: skip
    for lock in _LOCKS:
        _ran((*pip, "-r", str(clone / lock)), _FETCH_S, f"the wheels of {lock} cannot be fetched")
    return len(list(folder.glob("*.whl")))


def _ran(argv: tuple[str, ...], timeout_s: float, what: str) -> str:
    done = process.run(argv, timeout_s=timeout_s)
    if done.timed_out or done.returncode:
        said = (done.error_text or done.text).strip()[-500:]
        raise StepFailed(what=what, cause=said or f"it did not end within {timeout_s:g} s", remedy=quoted(argv))
    return done.text


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return f"{release.get('ID', 'unknown')} {release.get('VERSION_ID', '')}".strip() + f" {platform.machine()}"


def _manifest(kit: Kit) -> dict[str, object]:
    return {
        "apiVersion": "labctl/v1", "kind": "ClassKit", "system": kit.system, "python": kit.python,
        "packages": kit.packages, "wheels": kit.wheels, "lessons": list(kit.lessons),
    }  # fmt: skip


def _write(folder: Path, output: Path) -> None:
    """Owned by root and without the times at which this host made things."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    whole = folder / "kit.tar"
    with tarfile.open(whole, "w") as tar:
        for path in sorted(folder.iterdir()):
            if path != whole:
                tar.add(path, arcname=f"labctl-class/{path.name}", filter=plain)
    files.move_into_place(whole, output)
