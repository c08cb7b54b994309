"""The logins of a class: a user of this host for each student, and the one way that leads them to labctl, as root, for
their own labs. Shown before it is made; removed with all that it left.

The way is a script of root's (`labctl`) and a rule for sudo that lets these users run that script and nothing else. The
script drops the environment and asks `labctl class enter`, which holds every command line against what a student may
do.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from labctl.errors import StepFailed, UsageError
from labctl.model.classroom import Classroom, Student
from labctl.system import files, host_files, process, users

SUDOERS, LIBRARY, PROFILE = Path("/etc/sudoers.d"), Path("/usr/local/lib/labctl"), Path("/etc/profile.d")
_SUDO_FILE, _SCRIPT = 0o440, 0o755
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that are taken for each other on paper."""
_PASSWORD_LETTERS = 12
_TIMEOUT_S = 30.0
_PACKAGE = Path(__file__).resolve().parents[2]
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mark_of(name: str) -> str:
    """The comment by which a user is known as a class's."""
    return f"labctl class {name}"


def script_path(name: str) -> Path:
    return LIBRARY / f"class-{name}" / "labctl"


def rule_path(name: str) -> Path:
    return SUDOERS / f"labctl-class-{name}"


def profile_path(name: str) -> Path:
    return PROFILE / f"labctl-class-{name}.sh"


def script_text(name: str) -> str:
    """What a student's `labctl` is, for the student and then, by sudo, for root. Only words of a known form pass."""
    python = shlex.join((sys.executable, "-X", "utf8", "-P", "-s", "-m", "labctl"))
    return f"""#!/bin/sh
# Made by `labctl class start`; `labctl class stop` removes it. The way of class {name} to its students' own labs.
set -eu
PATH={_SYSTEM_PATH}
export PATH
self={shlex.quote(str(script_path(name)))}
if [ "$(id -u)" -ne 0 ]; then
  exec sudo -n -- "$self" "$@"
fi
word() {{ case $1 in *[!A-Za-z0-9_.@-]*) ;; *) printf %s "$1" ;; esac; }}
umask 022
exec env -i PATH="$PATH" HOME=/root PYTHONPATH={shlex.quote(str(_PACKAGE))} \\
  TERM="$(word "${{TERM:-dumb}}")" LANG="$(word "${{LANG:-}}")" LC_ALL="$(word "${{LC_ALL:-}}")" \\
  SUDO_USER="$(word "${{SUDO_USER:-}}")" SUDO_UID="$(word "${{SUDO_UID:-}}")" SUDO_GID="$(word "${{SUDO_GID:-}}")" \\
  {python} class enter {shlex.quote(name)} -- "$@"
"""


def rule_text(classroom: Classroom) -> str:
    """The rule for sudo: these users, that script, no password, no environment of theirs."""
    names = ", ".join(student.user for student in classroom.students)
    alias = "LABCTL_" + classroom.name.upper().replace("-", "_")
    script = script_path(classroom.name)
    return f"""# Made by `labctl class start`; `labctl class stop` removes it.
User_Alias {alias} = {names}
Defaults:{alias} env_reset, !setenv, secure_path="{script.parent}:{_SYSTEM_PATH}"
{alias} ALL = (root) NOPASSWD: NOSETENV: {script}
"""


def profile_text(name: str) -> str:
    """`labctl` without its place, for these users alone."""
    return f"""# Made by `labctl class start`; `labctl class stop` removes it.
if [ "$(getent passwd "$(id -un)" | cut -d: -f5)" = {shlex.quote(mark_of(name))} ]; then
  PATH={script_path(name).parent}:$PATH
fi
"""


def shown(classroom: Classroom) -> Iterator[str]:
    """What is made on this host, as commands and files, in its order."""
    for student in classroom.students:
        yield shlex.join(users.argv_make(student.user, mark_of(classroom.name)))
    yield "chpasswd  # a password each, which is shown once"
    yield f"install -m 755 labctl {script_path(classroom.name)}"
    yield f"install -m 440 rule {rule_path(classroom.name)}"
    yield f"install -m 644 path {profile_path(classroom.name)}"


def require_free(classroom: Classroom) -> None:
    """Raises UsageError with every user that is there already and is not this class's."""
    taken = [
        f"{student.user}: {why}" for student in classroom.students if student.uid < 0
        and (why := users.why_taken(student.user))
    ]  # fmt: skip
    if taken:
        raise UsageError(
            what=f"{len(taken)} of {len(classroom.students)} logins cannot be made",
            cause="; ".join(taken),
            remedy="other names in the roster; labctl takes over no user, group or folder that it has not made",
        )


def make(
    classroom: Classroom, write_down: Callable[[Classroom], None], done: Callable[[str], None]
) -> tuple[Classroom, Mapping[str, str]]:
    """Makes what is missing of the logins; gives the class with its users' numbers, and a password for each student.
    `write_down` is called before and after each user is made, so that `remove` finds whatever a crash left. Raises
    StepFailed."""
    for student in classroom.students:
        if student.uid < 0:
            user = users.make(student.user, mark_of(classroom.name))
            classroom = _with(classroom, replace(student, uid=user.uid))
            write_down(classroom)
        done(student.user)
    passwords = {student.name: password() for student in classroom.students}
    users.set_passwords([(student.user, passwords[student.name]) for student in classroom.students])
    _install(script_path(classroom.name), script_text(classroom.name), _SCRIPT)
    _install(profile_path(classroom.name), profile_text(classroom.name), files.TO_SHOW)
    _install_rule(classroom)
    return classroom, passwords


def password() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_PASSWORD_LETTERS))


def _with(classroom: Classroom, student: Student) -> Classroom:
    return replace(
        classroom, students=tuple(student if one.name == student.name else one for one in classroom.students)
    )


def _install_rule(classroom: Classroom) -> None:
    """A rule that sudo does not understand would lock everybody out of sudo: it is tried before it is there."""
    text = rule_text(classroom)
    with files.temporary_folder() as folder:
        files.write_atomically(folder / "rule", text.encode(), mode=_SUDO_FILE)
        tried = process.run(("visudo", "-c", "-f", str(folder / "rule")), timeout_s=_TIMEOUT_S)
    if tried.returncode:
        raise StepFailed(
            what="sudo does not accept the rule of the class",
            cause=(tried.text.strip() or tried.error_text.strip()).partition("\n")[0],
            remedy="sudo visudo -c",
        )
    _install(rule_path(classroom.name), text, _SUDO_FILE)


def _install(path: Path, text: str, mode: int) -> None:
    try:
        host_files.write_of_host(path, text.encode(), mode=mode)
    except OSError as failed:
        raise StepFailed(
            what=f"{path} cannot be written", cause=failed.strerror or str(failed), remedy=f"ls -ld {path.parent}"
        ) from failed


def close(classroom: Classroom) -> None:
    """No student gets in any more, and none reaches labctl: the first act of removing. Raises StepFailed."""
    with _told(rule_path(classroom.name)):
        host_files.remove_of_host(rule_path(classroom.name))
        host_files.remove_of_host(profile_path(classroom.name))
    for student in classroom.students:
        if _own(classroom, student) is not None:
            users.lock(student.user)


def remove(classroom: Classroom, done: Callable[[str, int], None]) -> None:
    """Each user with its processes, home and files; `done` gets the user and how many processes it had. Raises
    StepFailed at the first that stays, after the others are gone."""
    stopped: StepFailed | None = None
    for student in classroom.students:
        if (user := _own(classroom, student)) is None:
            continue
        try:
            ended = users.end_processes_of(user.uid)
            users.remove(user)
            done(user.name, ended)
        except StepFailed as failed:
            stopped = stopped or failed
    script = script_path(classroom.name)
    with _told(script):
        host_files.remove_of_host(script)
        for folder in (script.parent, LIBRARY):
            with contextlib.suppress(FileNotFoundError, OSError):
                files.remove_empty(folder)
    if stopped is not None:
        raise stopped


def _own(classroom: Classroom, student: Student) -> users.User | None:
    """The user, if it is there and is the one that this class made. A crash between making and writing down leaves a
    user with the class's mark whose number is not known yet."""
    user = users.find(student.user)
    if user is None or user.mark != mark_of(classroom.name) or user.uid == 0:
        return None
    return user if student.uid in (-1, user.uid) else None


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as failed:
        raise StepFailed(
            what=f"{path} cannot be removed", cause=failed.strerror or str(failed), remedy=f"ls -ld {path.parent}"
        ) from failed
