"""What a fresh system takes over from this host to reach the same archives and indexes: never more than that.

apt's mirror, proxy and clock settings, pip's settings, proxies of the environment, and certificates that the host's
administrator added. All of it is read from the host's own configuration, so that nothing here names a server.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")
ROLLING = "sid"
_TARGETS = "$(SITE)\t$(RELEASE)\t$(ORIGIN)\t$(LABEL)\t$(COMPONENT)"
_APT_SETTING = re.compile(
    r"^(Acquire::(?:(?:http|https)(?:::[^ ]*)?::(?:Proxy|CaInfo|Verify-Peer|Verify-Host)|Check-Valid-Until|Check-Date"
    r'|(?:http|https)::Proxy::\S+)) "(.+)";$',
    re.IGNORECASE,
)
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_NOT_PIP_SETTINGS = {"PIP_CONFIG_FILE", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where the host's apt gets Debian from; None where it gets none, as on Ubuntu: debootstrap's default serves."""

    mirror: str | None = None
    security: str | None = None


def archive_of(targets: str) -> Archive:
    """From `apt-get indextargets`, one line each: site, release, origin, label, component."""
    mirror = security = None
    for line in targets.splitlines():
        site, release, origin, label, component = (line.split("\t") + [""] * 5)[:5]
        if origin != "Debian" or component != "main":
            continue
        if label == "Debian-Security":
            security = security or site
        elif label == "Debian" and "-" not in release:
            mirror = mirror or site
    return Archive(mirror=mirror, security=security)


def sources_list(suite: str, archive: Archive, mirror: str) -> str:
    """The sources of a fresh system: with updates and security fixes, which a rolling suite does not have."""
    lines = [f"deb {mirror} {suite} main"]
    if suite != ROLLING:
        lines.append(f"deb {mirror} {suite}-updates main")
        if archive.security:
            lines.append(f"deb {archive.security} {suite}-security main")
    return "\n".join(lines) + "\n"


def apt_settings(dump: str) -> str:
    """The lines of `apt-config dump` that decide whether and how an archive is reached."""
    kept = [line for line in dump.splitlines() if _APT_SETTING.match(line)]
    return "".join(f"{line}\n" for line in kept)


def pip_settings(files: Iterable[str], environment: Mapping[str, str], *, has_own_certificates: bool) -> str:
    """One pip.conf that says what pip's own files (the last one wins) and PIP_* of the environment say together."""
    merged = configparser.RawConfigParser(delimiters=("=",))
    for text in files:
        merged.read_string(text)
    if not merged.has_section("global"):
        merged.add_section("global")
    for name, value in sorted(environment.items()):
        if name.startswith("PIP_") and name not in _NOT_PIP_SETTINGS and value:
            merged.set("global", name[4:].lower().replace("_", "-"), value)
    if has_own_certificates:
        merged.set("global", "cert", SYSTEM_BUNDLE)
    out = io.StringIO()
    merged.write(out)
    return out.getvalue()


def local_folders(pip_conf: str) -> tuple[Path, ...]:
    """Folders of wheels on this host that pip's settings name: the fresh system needs them at the same place."""
    settings = configparser.RawConfigParser(delimiters=("=",))
    settings.read_string(pip_conf)
    words = [
        word for section in settings.sections() for value in dict(settings[section]).values() for word in value.split()
    ]
    return tuple(Path(word) for word in dict.fromkeys(words) if word.startswith("/") and Path(word).is_dir())


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    names = [name for proxy in _PROXIES for name in (proxy, proxy.upper())]
    return {name: environment[name] for name in names if environment.get(name)}


def certificates(environment: Mapping[str, str], folder: Path = OWN_CERTIFICATES) -> tuple[str, ...]:
    """PEM blocks that the host trusts beyond its distribution's: added by its administrator, or in a bundle that the
    environment names instead of the system's."""
    files = sorted(folder.rglob("*.crt")) if folder.is_dir() else []
    named = [Path(environment[name]) for name in _BUNDLES if environment.get(name)]
    files += [path for path in dict.fromkeys(named) if path != Path(SYSTEM_BUNDLE) and path.is_file()]
    blocks = [block for path in files for block in _CERTIFICATE.findall(path.read_text(encoding="utf-8"))]
    return tuple(dict.fromkeys(blocks))


def _output(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=environment).stdout


def host_archive() -> Archive:
    return archive_of(_output("apt-get", "indextargets", "--format", _TARGETS))


def host_pip_files() -> list[str]:
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE", "")
    paths = [
        *(Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf")),
        *(home / ".pip/pip.conf", home / ".config/pip/pip.conf"),
        *([Path(named)] if named else []),
    ]
    return [path.read_text(encoding="utf-8") for path in paths if path.is_file()]


def carry_over(root: Path, suite: str, mirror: str) -> None:
    """Writes all of it into the root of a fresh system, which is not running yet."""
    archive = host_archive()
    _write(root / "etc/apt/sources.list", sources_list(suite, archive, mirror))
    _write(root / "etc/apt/apt.conf.d/90-as-the-host", apt_settings(_output("apt-config", "dump")))
    blocks = certificates(os.environ)
    for number, block in enumerate(blocks, 1):
        _write(root / f"usr/local/share/ca-certificates/host-{number}.crt", block + "\n")
    pip_conf = pip_settings(host_pip_files(), os.environ, has_own_certificates=bool(blocks))
    _write(root / "etc/pip.conf", pip_conf)
    for folder in local_folders(pip_conf):
        shutil.copytree(folder, root / folder.relative_to("/"), dirs_exist_ok=True)
    found = proxies(os.environ)
    _write(root / "etc/environment", "".join(f'{name}="{value}"\n' for name, value in found.items()))
    keep = f'Defaults env_keep += "{" ".join(found)}"\n' if found else ""
    _write(root / "etc/sudoers.d/person", f"{keep}person ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
    shutil.copyfile("/etc/resolv.conf", _fresh(root / "etc/resolv.conf"))
    hosts = Path("/etc/hosts").read_text(encoding="utf-8")
    _write(root / "etc/hosts", f"127.0.1.1 {suite}\n{hosts}")
    _write(root / "etc/hostname", f"{suite}\n")


def _fresh(path: Path) -> Path:
    """A place to write to: a link there would lead out of the root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    _fresh(path).write_text(text, encoding="utf-8")
    path.chmod(mode)
