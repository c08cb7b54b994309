"""What is tried inside a guest: doctor, every scenario from up to down, and the tests that live closest to the kernel.

    tests/vm/guest.py RESULTS [PYTEST ARGUMENT…]

Without tests it is the short form: SCENARIOS alone, with the checks of SHORT. Writes RESULTS as JSON; judges nothing.
Commands are run as a person runs them, each in a process of its own; that process is forked from one that has read
labctl in already, since reading it takes longest where a machine is emulated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
SCENARIOS = ("legacy", "bpf-native", "bpf", "legacy-native")
CHECKS = ("ping", "tcpdump", "addressing", "netfilter")
SHORT = ("netfilter",)
OTHERS = {
    "services": (("ping", "service"), ("client", "web")),
    "nodeport": (("ping", "service"), ("outside", "web@node2")),
    "masquerade": (("ping", "masquerade"), ("client", "world")),
    "services-iptables": (("ping", "service"), ("client", "web")),
    "services-nftables": (("ping", "service"), ("client", "web")),
    "bpf+geneve": (CHECKS, ("client", "server")),
}
"""Scenarios of Services and masquerading, and one with another encapsulation, which follows its name; with their checks
and the pair that is traced; not in the short form."""
CPUS = 2
_SETTLE_S = 30.0

Command = dict[str, Any]


def labctl(*argv: str) -> Command:
    """`{"argv", "code", "stdout", "stderr", "seconds"}` of one command."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            sys.argv = ["labctl", *argv]
            try:
                from labctl.cli.group import run

                code = run(list(argv))
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 99
            os._exit(code)
        _, status = os.waitpid(child, 0)
        seconds = round(time.monotonic() - begun, 1)
        print(f"{time.monotonic():7.1f} s: labctl {' '.join(argv)} took {seconds} s", flush=True)
        texts = []
        for stream in (out, error):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    code = os.waitstatus_to_exitcode(status)
    if code:
        print(f"exit code {code}: {texts[1]}", flush=True)
    return {
        "argv": list(argv),
        "code": code,
        "stdout": texts[0],
        "stderr": texts[1],
        "seconds": seconds,
    }


def scenario(name: str, checks: tuple[str, ...], pair: tuple[str, str] = ("client", "server")) -> dict[str, Command]:
    lab, (base, _, tunnel) = f"vm-{name.replace('+', '-')}", name.partition("+")
    asked = ("--set", f"datapath.encapsulation={tunnel}") if tunnel else ()
    done = {"up": labctl("up", base, "--name", lab, *asked, "--json")}
    if done["up"]["code"] == 0:
        if checks != SHORT:  # a check proves the mode too, so that the short form can do without
            done["status"] = labctl("status", lab, "--json")
        done["check"] = labctl("check", lab, *checks, "--json")
        done["trace"] = labctl("trace", lab, *pair, "--json")
    done["down"] = labctl("down", lab)
    return done


def objects() -> dict[str, str]:
    """Every shipped object, also those that no scenario below asks for: "", or why this kernel does not load it."""
    from labctl.datapath.loader import load_object
    from labctl.errors import LabError

    found = {}
    for path in sorted((TREE / "src/labctl/datapath/objects").glob("*.o")):
        begun = time.monotonic()
        try:
            load_object(path).close()
            found[path.stem] = ""
        except LabError as refused:
            found[path.stem] = "\n".join(refused.lines())
        seconds = round(time.monotonic() - begun, 1)
        print(f"{time.monotonic():7.1f} s: {path.name} took {seconds} s {found[path.stem]}", flush=True)
    return found


def scenarios(is_short: bool) -> dict[str, dict[str, Command]]:
    """As many at a time as there are processors, each by a process that has nothing else to do."""
    asked: list[tuple[Any, ...]] = [(name, SHORT if is_short else CHECKS) for name in SCENARIOS]
    if not is_short:
        asked += [(name, checks, pair) for name, (checks, pair) in OTHERS.items()]
    pipes = []
    for worker in range(CPUS):
        reading, writing = os.pipe()
        if os.fork() == 0:
            mine = {one[0]: scenario(*one) for one in asked[worker::CPUS]}
            with os.fdopen(writing, "w") as pipe:
                json.dump(mine, pipe)
            os._exit(0)
        os.close(writing)
        pipes.append(reading)
    found: dict[str, dict[str, Command]] = {}
    for reading in pipes:
        with os.fdopen(reading) as pipe:
            found |= json.loads(pipe.read() or "{}")
    for _ in pipes:
        os.wait()
    return found


def left_behind() -> dict[str, list[str]]:
    """Namespaces by name, programs and maps by id: everything that a lab could leave on this kernel."""
    found = {"namespaces": sorted(path.name for path in Path("/run/netns").glob("*"))}
    for kind in ("prog", "map"):
        listed = subprocess.run(("bpftool", kind, "list", "-j"), capture_output=True, text=True, check=False)
        found[f"{kind}s"] = [f"{one['id']} {one.get('name', '')}" for one in json.loads(listed.stdout or "[]")]
    return found


def what_is_new(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is there now and was not then. The kernel frees programs and namespaces a while after their last user."""
    until = time.monotonic() + _SETTLE_S
    while True:
        new = {kind: sorted({*names} - {*before[kind]}) for kind, names in left_behind().items()}
        if not any(new.values()) or time.monotonic() > until:
            return new
        time.sleep(0.5)


def tests(argv: list[str], folder: Path) -> dict[str, Any]:
    """What pytest prints goes to a file as it comes, so that one can look on."""
    log = folder / "tests.log"
    with log.open("w") as out:
        code = subprocess.call(
            (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *argv),
            cwd=TREE, env=os.environ | {"LABCTL_NO_SKIP": "1"}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    return {"argv": argv, "code": code, "stdout": log.read_text(errors="replace")}


def read_in() -> None:
    """Everything that the commands below read, once."""
    import importlib
    import pkgutil

    import labctl

    packages = ("cli", "engine", "checks", "path", "report", "store", "loading", "planning", "providers.netns")
    for package in packages:
        module = importlib.import_module(f"labctl.{package}")
        for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
            importlib.import_module(found.name)
    assert labctl


def main(arguments: list[str]) -> int:
    results, *pytest_arguments = arguments
    os.chdir(TREE)
    os.environ["LABCTL_RUNS_DIR"] = tempfile.mkdtemp()
    begun = time.monotonic()
    read_in()
    print(f"{time.monotonic():7.1f} s: labctl is read in", flush=True)
    before = left_behind()
    found: dict[str, Any] = {"kernel": os.uname().release, "doctor": labctl("doctor", "--json")}
    if pytest_arguments:
        found["objects"] = objects()
    found["scenarios"] = scenarios(is_short=not pytest_arguments)
    found["leftBehind"] = what_is_new(before)
    if pytest_arguments:
        Path(results).write_text(json.dumps(found, indent=1))  # what is known, should the tests come to no end
        found["tests"] = tests(pytest_arguments, Path(results).parent)
    found["seconds"] = round(time.monotonic() - begun, 1)
    Path(results).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
