"""The files of this host that lab.yaml may name: passwords for sudo, host keys, and packages.

Whoever writes a lab.yaml names the machines in it. If it could name any file as a password, it could have that file
sent to a machine of its choice; if it could name any file of host keys, the keys that vouch for that machine would come
with it. So both are read from the person's own folders alone, where no clone and no download puts a file: a password
goes to machines whose host keys the person has accepted. Packages may be anywhere, and have to be packages.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.sections import Kubeadm, PackageSource
from labctl.providers.cilium.commands import state_root
from labctl.providers.kubeadm.machines import Machine
from labctl.system.files import Folder, open_folder, person, read_file, why_untrusted

LONGEST_PASSWORD_BYTE = 1024
_PACKAGES = {".deb": b"!<arch>\n", ".rpm": b"\xed\xab\xee\xdb"}
"""What the file of a package begins with: deb(5), and the lead of an RPM."""
_CORRECT = "correct sudoPasswordFile: under hosts: in lab.yaml"


def config_folders() -> tuple[Path, ...]:
    """labctl's own configuration, of the user that it runs as and of the person behind sudo. Passwords are here."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    first = (Path(given) / "labctl",) if given.startswith("/") else ()
    return (*first, *(home / ".config" / "labctl" for home in _homes()))


def host_key_folders() -> tuple[Path, ...]:
    """Where files of host keys are: ssh's own folders, labctl's configuration, and what labctl recorded of VMs."""
    return (*(home / ".ssh" for home in _homes()), Path("/etc/ssh"), *config_folders(), state_root("kubeadm"))


def _homes() -> Iterator[Path]:
    yield Path.home()
    for uid in {os.geteuid(), person().uid}:
        try:
            yield Path(pwd.getpwuid(uid).pw_dir)
        except KeyError:  # a container's user without a name
            continue


def require_places(machines: Sequence[Machine]) -> None:
    """Raises UsageError for a machine whose password or host keys would be read from elsewhere. Opens no file."""
    for machine in machines:
        if _has_password(machine) and not _is_in(machine.sudo_password_file, config_folders()):
            raise UsageError(
                what=f"{machine.node} ({machine.address}): {machine.sudo_password_file} cannot be its sudoPasswordFile",
                cause="the content of that file is sent to the machine, so only files in ~/.config/labctl are allowed, "
                "whatever lab.yaml says",
                remedy="mkdir -p -m 700 ~/.config/labctl\n"
                "(umask 077; cat > ~/.config/labctl/sudo-password)  # type the password, Enter, Ctrl-D\n"
                "# in lab.yaml, under hosts: sudoPasswordFile: ~/.config/labctl/sudo-password",
            )
        if machine.known_hosts and not _is_in(machine.known_hosts, host_key_folders()):
            raise UsageError(
                what=f"{machine.node} ({machine.address}): {machine.known_hosts} cannot be its knownHosts",
                cause="a lab.yaml that names a machine cannot vouch for it as well: only host keys in ~/.ssh, /etc/ssh "
                "or ~/.config/labctl are trusted",
                remedy="# in lab.yaml, under hosts: no knownHosts:, or a file in ~/.ssh; then\n"
                f"ssh{_port(machine)} {machine.user}@{machine.address} true  # compare the key, yes",
            )


def require_own(machine: Machine) -> None:
    """Raises UsageError as `require_places`, and StepFailed for host keys that another user could have written."""
    require_places([machine])
    if not machine.known_hosts:
        return
    try:
        why = why_untrusted(_full(machine.known_hosts).stat())
    except OSError:  # none is known by it, which shows when the machine presents its own
        return
    if why:
        raise StepFailed(
            what=f"{machine.node} ({machine.address}): its knownHosts could have been written by another user",
            cause=f"{machine.known_hosts}: {why}",
            remedy=f"ls -l {shlex.quote(machine.known_hosts)}",
        )


def sudo_password(machine: Machine) -> bytes:
    """The password with a line end, empty where none is named or root logs in.

    Raises UsageError for a file elsewhere, StepFailed for one that is not the person's own, mode 0600, of one line.
    """
    if not _has_password(machine):
        return b""
    require_places([machine])
    path = _full(machine.sudo_password_file)
    try:
        if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and not path.is_symlink():
            raise StepFailed(
                what=f"other users can read the sudo password of {machine.node} in {machine.sudo_password_file}",
                remedy=f"chmod 600 {shlex.quote(machine.sudo_password_file)}",
            )
        content = read_file(path, most_byte=LONGEST_PASSWORD_BYTE, owned=True)
    except OSError as failed:
        cause = "it is a symbolic link; name the file itself" if failed.errno == errno.ELOOP else failed.strerror
        raise _unfit(machine, f"{cause}: {machine.sudo_password_file}") from failed
    line, _, rest = content.partition(b"\n")
    line = line.rstrip(b"\r")
    if not line or rest or b"\0" in line:
        raise _unfit(machine, f"it must have exactly one line, the password: {machine.sudo_password_file}")
    return line + b"\n"


def require_packages(settings: Kubeadm) -> None:
    """Raises UsageError unless the folder that is copied to the machines has packages in it and nothing else."""
    if settings.package_source is not PackageSource.BUNDLE:
        return
    path = settings.packages.bundle
    found, other = 0, ""
    try:
        with open_folder(_full(path), follow=True) as folder:
            for name in folder.names():
                if not _is_package(folder, name):
                    other = name
                    break
                found += 1
    except OSError as failed:
        raise _no_packages(path, f"{failed.strerror}: {path}") from failed
    if other:
        raise _no_packages(path, f"{other} in it is no .deb or .rpm file, and the whole folder would be sent")
    if not found:
        raise _no_packages(path, "it is empty")


def _is_package(folder: Folder, name: str) -> bool:
    beginning = _PACKAGES.get(Path(name).suffix)
    if beginning is None or folder.kind(name) != stat.S_IFREG:
        return False
    return next(folder.stream(name), b"").startswith(beginning)


def _no_packages(path: str, cause: str) -> UsageError:
    return UsageError(
        what=f"{path} cannot be packages.bundle", cause=cause,
        remedy="# a folder with .deb or .rpm files and nothing else, under kubeadm: packages: bundle: in lab.yaml\n"
        f"ls -la {shlex.quote(path)}",
    )  # fmt: skip


def _unfit(machine: Machine, cause: str) -> LabError:
    return StepFailed(what=f"cannot read the sudo password of {machine.node}", cause=cause, remedy=_CORRECT)


def _has_password(machine: Machine) -> bool:
    return bool(machine.sudo_password_file) and machine.user != "root"


def _full(path: str) -> Path:
    """Without `..`, which would lead out of a folder that the path begins with."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))


def _is_in(path: str, folders: Sequence[Path]) -> bool:
    full = _full(path)
    return any(full != folder and full.is_relative_to(folder) for folder in folders)


def _port(machine: Machine) -> str:
    return "" if machine.port == 22 else f" -p {machine.port}"
