"""Debian's kernels: fetched with apt into a cache, unpacked, and an initrd that mounts this host's files.

Everything is made from packages of the archive that this host's apt uses; the host's own apt is asked and not changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import lzma
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITES = {"5.10": "bullseye-security", "6.1": "bookworm", "6.12": "trixie"}
"""The distribution that ships each kernel; every other one is looked for in OTHERS."""
OTHERS = "trixie-backports"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN_SUITES = ("bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable")
KEPT = re.compile(
    r"arch/|crypto/|lib/|fs/(9p|netfs|fscache|overlayfs)/|drivers/(virtio|char/hw_random)/|drivers/net/[^/]+$"
    r"|drivers/net/(vxlan|ipvlan|bonding|wireguard)/|net/(?!mac80211|wireless|bluetooth|can|nfc|sunrpc|tipc|dccp|rds)"
)
"""Modules that labs could load, or that the machine needs: a tenth of the package."""
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng")


class CannotBoot(Exception):
    """Why a kernel cannot be tried here, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that was fetched. `folder` has vmlinuz and modules/RELEASE."""

    wanted: str
    release: str
    package: str
    folder: Path


def cache() -> Path:
    """Outside of the tree: what is in it outlives a clone."""
    named = os.environ.get("LABCTL_VM_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named).resolve() if named else caches / "labctl" / "vm"


def prepared(wanted: str) -> Kernel:
    """The kernel of that version (`6.1`; `7` or `7.x` for the newest of them). From the cache when it is there: remove
    its folder to have a newer package. Raises CannotBoot."""
    version = wanted.removesuffix(".x")
    if not re.fullmatch(r"\d+(\.\d+)?", version):
        raise CannotBoot(f"{wanted} is no version of a kernel: 6.1, 6.12, 7.x")
    folder = cache() / f"kernel-{version}"
    with _locked():
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            packages = _fetched(version, folder)
            _unpack(packages, folder)
            (folder / "ready").write_text(packages[0].name.partition("_")[0])
    release = next((folder / "modules").iterdir()).name
    package_name = (folder / "ready").read_text()
    return Kernel(wanted=wanted, release=release, package=package_name, folder=folder)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- the package


def _fetched(version: str, folder: Path) -> list[Path]:
    """The image's package, and those of the same build in which newer Debians have what belongs to it."""
    suite = SUITES.get(version, OTHERS)
    with _private_apt(folder / "apt", suite) as apt:
        _said(("apt-get", *apt, "-qq", "update"))
        pattern = rf"^linux-image-{re.escape(version)}\.[0-9].*-amd64$"
        listed = _said(("apt-cache", *apt, "search", "--names-only", pattern)).splitlines()
        names = [name for name in (line.split()[0] for line in listed) if not re.search(r"-(rt|cloud)-amd64$", name)]
        if not names:
            raise CannotBoot(
                f"Debian's {suite} has no linux-image-{version}.*-amd64 (any more): is that a kernel of it?"
            )
        newest = max(names, key=_by_number)
        depends = _said(("apt-cache", *apt, "depends", newest))
        parts = re.findall(r"^  Depends: (linux-(?:binary|modules|base)-[0-9]\S*)$", depends, re.MULTILINE)
        _said(("apt-get", *apt, "-qq", "download", newest, *parts), cwd=folder)
    return [next(folder.glob(f"{name}_*.deb")) for name in (newest, *parts)]


def _by_number(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


@contextlib.contextmanager
def _private_apt(folder: Path, suite: str) -> Iterator[tuple[str, ...]]:
    """Options by which apt knows that suite alone, and keeps what it fetches in `folder`, which is gone at the end."""
    for needed in ("state/lists/partial", "cache/archives/partial", "preferences"):
        (folder / needed).mkdir(parents=True)
    keyring = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb {keyring}{_mirror(suite)} {suite} main\n")
    (folder / "status").touch()
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": folder / "preferences",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    try:
        yield tuple(word for name, value in options.items() for word in ("-o", f"{name}={value}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mirror(suite: str) -> str:
    """Where this host's own apt has Debian, or Debian's security updates, from."""
    printed = _said(("apt-get", "update", "--print-uris"))
    found: list[tuple[str, str]] = re.findall(r"^'(\S+?)/dists/([^/ ]+)/InRelease'", printed, re.MULTILINE)
    wanted = "-security" if suite.endswith("-security") else ""
    for uri, its_suite in found:
        if its_suite in {f"{known}{wanted}" for known in DEBIAN_SUITES}:
            return uri
    raise CannotBoot(f"this host's apt has no Debian{wanted} archive, of which {suite} could be asked")


# ---- what is made of it


def _unpack(packages: Sequence[Path], folder: Path) -> None:
    """The kernel and the modules that labs could load, uncompressed, and depmod's lists. Removes the packages. Raises
    CannotBoot."""
    for package in packages:
        argv = ("dpkg-deb", "--fsys-tarfile", str(package))
        with (
            subprocess.Popen(argv, stdout=subprocess.PIPE) as unpacking,
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
        ):
            for member in archive:
                if (target := _place(member.name)) is not None and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    _write(folder / target, content.read())
        if unpacking.returncode:
            raise CannotBoot(f"dpkg-deb could not unpack {package.name}")
        package.unlink()
    if not (folder / "vmlinuz").exists() or not (folder / "lib/modules").is_dir():
        raise CannotBoot(f"no kernel, or none of its modules, is in {', '.join(one.name for one in packages)}")
    releases = list((folder / "lib/modules").iterdir())
    _said(("depmod", "-b", str(folder), releases[0].name))
    (folder / "lib/modules").rename(folder / "modules")
    (folder / "lib").rmdir()


def _place(name: str) -> str | None:
    path = name.removeprefix("./").removeprefix("usr/")
    if re.fullmatch(r"boot/vmlinuz-[^/]+|lib/modules/[^/]+/vmlinuz", path):
        return "vmlinuz"
    inside = re.fullmatch(r"lib/modules/[^/]+/kernel/(.*)", path)
    if (
        path.startswith("lib/modules/")
        and not path.endswith("/System.map")
        and (inside is None or KEPT.match(inside[1]))
    ):
        return path
    return None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xz":
        path, data = path.with_suffix(""), lzma.decompress(data)
    path.write_bytes(data)


def make_initrd(kernel: Kernel, out: Path) -> Path:
    """In `out`: busybox, the modules without which nothing can be mounted, and `init`. Raises CannotBoot."""
    inside, initrd = out / "initrd.d", out / "initrd"
    (inside / "bin").mkdir(parents=True)
    (inside / "modules").mkdir()
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CannotBoot("busybox is not here: setup/prepare.sh vm")
    shutil.copy(busybox, inside / "bin/busybox")
    shutil.copy(HERE / "init.sh", inside / "init")
    (inside / "init").chmod(0o755)
    files = boot_modules(kernel.folder / "modules" / kernel.release)
    for file in files:
        shutil.copy(file, inside / "modules" / file.name)
    (inside / "modules/list").write_text("".join(f"{file.name}\n" for file in files))
    names = "\n".join(str(path.relative_to(inside)) for path in [*inside.rglob("*")])
    with initrd.open("wb") as image:
        subprocess.run(
            ("busybox", "cpio", "-o", "-H", "newc"),
            cwd=inside, input=names.encode(), stdout=image, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    shutil.rmtree(inside)
    return initrd


def boot_modules(modules: Path) -> list[Path]:
    """In the order in which they have to be loaded. What is built in needs no file; what is neither is named. Raises
    CannotBoot."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[_module_name(path)] = [path, *others.split()]
    builtin = {_module_name(path) for path in (modules / "modules.builtin").read_text().splitlines()}
    ordered: dict[str, None] = {}
    for wanted in BOOT_MODULES:
        if wanted in needs:
            # modules.dep lists what a module needs from the nearest to the farthest
            ordered |= dict.fromkeys(reversed(needs[wanted]))
        elif wanted not in builtin:
            raise CannotBoot(f"the kernel {modules.name} has no module {wanted}, without which nothing can be mounted")
    return [modules / path for path in ordered]


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _said(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    """What a program printed. Raises CannotBoot with its last words."""
    if shutil.which(argv[0]) is None:
        raise CannotBoot(f"{argv[0]} is not here: setup/prepare.sh vm")
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise CannotBoot(f"{argv[0]} failed: {'; '.join(words[-3:]) or f'status {done.returncode}'}")
    return done.stdout
