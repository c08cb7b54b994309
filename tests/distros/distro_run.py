"""`make test-distros`: both commands of the README in fresh Debian systems, each from nothing.

    tests/distros/distro_run.py [--keep] [--newest] [--tests ARGS] [--steps "compare test"] SUITE…

For each suite: a base system by debootstrap, kept in ${LABCTL_DISTROS:-~/.cache/labctl/distros} and made again when it
is a week old; a copy of it; in the copy a clone of this tree, with what is not committed yet; then `sudo make compare`
and `sudo make test` as a person with sudo. The copy runs in its own mount, PID, UTS and cgroup namespaces, and nothing
of it outlives the run. It shares the host's network namespace, where labs put nothing.

A complete run (both steps, all tests) is recorded in results/SUITE.json, or SUITE-newest.json when `make test` was to
ignore the lock, and in docs/platforms.md. Standard library only. Exit codes: 0 all passed, 1 something failed, 2 usage,
3 the host lacks something.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distro_host
import distro_results

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
SUITES = ("bookworm", "trixie", "sid")
STEPS = ("compare", "test")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INCLUDE = "ca-certificates,git,make,sudo"
"""What a machine has on which somebody could clone this tree and type `sudo make`; setup has to bring the rest."""

BASE_AGE_S = 7 * 24 * 3600
DEBOOTSTRAP_S = 3600
RUN_S = 4 * 3600
NAMESPACES = ("--mount", "--pid", "--uts", "--cgroup", "--fork", "--kill-child=SIGKILL")
INSIDE = "var/lib/labctl-distros"


class Lacks(Exception):
    """What the host has not got: what, why, and what to try."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"error: {what}\n  why: {why}\n  try: {remedy}")


def say(line: str) -> None:
    print(f"distros: {line}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    if named := os.environ.get("LABCTL_DISTROS"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "labctl/distros"


def require_host() -> None:
    if os.geteuid() != 0:
        raise Lacks("make test-distros needs root", "it makes and enters root file systems", "sudo make test-distros")
    for program, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("git", "git")):
        if shutil.which(program) is None:
            raise Lacks(f"{program} is not installed", "fresh systems are made with it", f"apt-get install {package}")
    if not KEYRING.exists():
        why = f"{KEYRING} is missing, so no archive can be trusted"
        raise Lacks("Debian's archive keys are not installed", why, "apt-get install debian-archive-keyring")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run a suite at a time; the kernel gives the lock back however we end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = f"it holds {folder / 'lock'}"
            raise Lacks(f"another run uses {folder.name}", why, f"fuser -v {folder / 'lock'}") from None
        yield


def contained(*argv: str | Path) -> list[str]:
    """The command in namespaces of its own, which end when it does, and when we do."""
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--", *map(str, argv)]


def heed_signals() -> None:
    """A shell's background job ignores SIGINT and SIGQUIT, nohup SIGHUP; inside it shall be as in a terminal."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run_contained(argv: Sequence[str | Path], timeout_s: float, log: Path | None = None) -> int:
    """Gives the exit code. On a deadline, Ctrl-C or SIGTERM everything inside is killed before we go on."""
    output = log.open("w") if log else None
    process = subprocess.Popen(
        contained(*argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        preexec_fn=heed_signals,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        say(f"not done after {timeout_s / 60:.0f} minutes: ended")
        return 124
    finally:
        process.kill()
        process.wait()
        if output:
            output.close()


def base_system(suite: str, folder: Path) -> Path:
    """The root of a fresh system, made by debootstrap when there is none or it is old."""
    root, stamp = folder / "base", folder / "base.json"
    mirror = distro_host.host_archive().mirror
    wanted = {"suite": suite, "mirror": mirror, "include": INCLUDE}
    if root.is_dir() and stamp.exists():
        made = json.loads(stamp.read_text(encoding="utf-8"))
        if {key: made.get(key) for key in wanted} == wanted and 0 <= time.time() - made["time"] < BASE_AGE_S:
            return root
    say(f"making a base system of {suite} in {root}")
    stamp.unlink(missing_ok=True)
    remove(root)
    log = folder / "debootstrap.log"
    argv = ["debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={INCLUDE}", suite, str(root)]
    status = run_contained([*argv, *([mirror] if mirror else [])], DEBOOTSTRAP_S, log)
    if status:
        words = distro_results.last_words(log.read_text(encoding="utf-8", errors="replace"))
        raise Lacks(
            f"debootstrap could not make {suite}", f"exit code {status}; its last output: {words}", f"less {log}"
        )
    stamp.write_text(json.dumps({**wanted, "time": time.time()}) + "\n", encoding="utf-8")
    return root


def remove(root: Path) -> None:
    """Removes a root file system, never what is mounted in it."""
    if root.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)


def git(*argv: str, **extra: str) -> str:
    done = subprocess.run(
        ["git", "-c", f"safe.directory={TREE}", "-C", str(TREE), *argv],
        env={**os.environ, **extra},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise Lacks(f"git {argv[0]} failed", words[-1] if words else "it printed nothing", f"git -C '{TREE}' status")
    return done.stdout.strip()


RECORDS = ("tests/distros/results", "docs/platforms.md")
"""What a run writes into the tree itself."""


def differs(head: str, commit: str) -> bool:
    """Whether what is tried is not HEAD's, apart from what earlier runs recorded."""
    return bool(git("diff", "--name-only", head, commit, "--", ".", *(f":!{path}" for path in RECORDS)))


def snapshot() -> tuple[str, str]:
    """HEAD, and the commit to be tried: HEAD itself, or one on top of it with what is not committed yet. The index and
    the work tree stay as they are."""
    head = git("rev-parse", "HEAD")
    if not git("--no-optional-locks", "status", "--porcelain"):
        return head, head
    with tempfile.TemporaryDirectory() as directory:
        index = {"GIT_INDEX_FILE": f"{directory}/index"}
        git("read-tree", "HEAD", **index)
        git("add", "--all", **index)
        tree = git("write-tree", **index)
    who = ("-c", "user.name=labctl", "-c", "user.email=labctl@localhost")
    return head, git(*who, "commit-tree", tree, "-p", head, "-m", "what is not committed yet")


def clone_into(clone: Path, commit: str) -> None:
    subprocess.run(["git", "init", "--quiet", str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "config", "receive.shallowUpdate", "true"], check=True)
    git("push", "--quiet", str(clone), f"{commit}:refs/heads/tried")
    subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", "tried"], check=True)


def os_release(root: Path) -> dict[str, str]:
    lines = (root / "etc/os-release").read_text(encoding="utf-8").splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def name_of(root: Path, suite: str) -> str:
    """Debian's unstable calls itself by the name of the next release: its own name is sid."""
    return "Debian sid" if suite == distro_host.ROLLING else os_release(root)["PRETTY_NAME"].replace(" GNU/Linux", "")


def try_suite(suite: str, steps: Sequence[str], tests: str, *, newest: bool, keep: bool) -> bool:
    """Whether everything passed."""
    folder = cache_folder() / suite
    with locked(folder):
        for old in folder.glob("run-*"):
            remove(old)
        base = base_system(suite, folder)
        root = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        try:
            record = _try_in(root, base, suite, steps, tests, newest=newest)
        finally:
            if keep:
                say(f"kept. To look around: unshare {' '.join(NAMESPACES)} {HERE / 'enter.sh'} {root} {suite} bash -l")
            else:
                remove(root)
    if tuple(steps) == STEPS and not tests:
        name = f"{suite}-newest" if newest else suite
        say(f"recorded in {distro_results.write_result(name, record)}")
        distro_results.update_document()
    passed = distro_results.is_green(record)
    for step, found in record["steps"].items():
        say(f"{record['name']}: make {step}: {distro_results.outcome(found)}; the log is {folder / step}.log")
    return passed


def _try_in(root: Path, base: Path, suite: str, steps: Sequence[str], tests: str, *, newest: bool) -> dict[str, Any]:
    head, commit = snapshot()
    subprocess.run(["cp", "--archive", "--reflink=auto", f"{base}/.", str(root)], check=True)
    root.chmod(0o755)
    mirror = (root / "etc/apt/sources.list").read_text(encoding="utf-8").split()[1]
    distro_host.carry_over(root, suite, mirror)
    inside = root / INSIDE
    inside.mkdir(parents=True)
    clone_into(inside / "labctl", commit)
    shutil.copy(HERE / "inside.sh", inside)
    asked = (f"/{INSIDE}/inside.sh", tests, "NEWEST=1" if newest else "", *steps)
    status = run_contained([HERE / "enter.sh", root, suite, *asked], RUN_S)
    found = {}
    for step in steps:
        log = inside / f"{step}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if log.exists():
            shutil.copy(log, root.parent / f"{step}.log")
        ended = [_number(inside / f"{step}.{what}") for what in ("status", "seconds")]
        found[step] = distro_results.step_record(
            text, (status or 1) if ended[0] is None else ended[0], ended[1] or 0, step
        )
    versions, packages = (inside / name for name in ("versions", "packages"))
    lock = (TREE / "requirements-dev.txt").read_text(encoding="utf-8")
    return {
        "suite": suite,
        "name": name_of(root, suite),
        "release": os_release(root).get("VERSION_ID", "") if suite != distro_host.ROLLING else "",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": head,
        "changed": differs(head, commit),
        "newest": distro_results.not_locked(packages.read_text(encoding="utf-8"), lock) if packages.exists() else None,
        "versions": distro_results.parse_versions(versions.read_text(encoding="utf-8") if versions.exists() else ""),
        "steps": found,
    }


def _number(path: Path) -> int | None:
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-distros", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave each root file system, to look around in it")
    parser.add_argument("--newest", action="store_true", help="`make test` ignores the lock (NEWEST=1)")
    parser.add_argument("--tests", default="", help="arguments of pytest")
    parser.add_argument("--steps", default=" ".join(STEPS), help="which of: compare test")
    parser.add_argument("suites", nargs="+", help=f"which of: {' '.join(SUITES)}")
    asked = parser.parse_args(arguments)
    asked.steps = asked.steps.split()
    for what, words, known in (("step", asked.steps, STEPS), ("distribution", asked.suites, SUITES)):
        for word in words:
            if word not in known:
                parser.error(f"unknown {what} “{word}”: there are {', '.join(known)}")
    return asked


def main() -> int:
    asked = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        require_host()
        passed = [
            try_suite(suite, asked.steps, asked.tests, newest=asked.newest, keep=asked.keep) for suite in asked.suites
        ]
    except Lacks as lacking:
        print(lacking, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0 if all(passed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
