"""`make fuzz`: coverage-guided random input (atheris, libFuzzer) for everything that reads what others wrote.

    fuzz.py [TARGET…] [--seconds 600] [--at-once 2] [-o FILE]     all targets, each in a process of its own
    fuzz.py --only TARGET --seconds N FOLDER                      one of them, in this process

A crash is any exception that the docstring does not promise, a hang any input that takes longer than 25 s; more
than 2 GiB of memory ends a target, too. What a value must be is asserted where something can be said of it (`sound`: no
sample that is not finite). FOLDER keeps the inputs that reached something new; a crash leaves its input there. Prints a
line for each target; the exit code is 1 where there was a crash.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
HANG_S, MEMORY_MIB, SLACK_S = 25, 2048, 600
TARGETS = ("loader", "tools", "kernel", "captures", "runs", "lessons", "snapshots")
_SEEN = re.compile(r"^#(\d+)\t", re.MULTILINE)
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")


# ---- one target, in this process


def target(name: str, folder: Path) -> Callable[[bytes], None]:
    """What to call with each input; writes its first inputs into `folder`."""
    import parsers

    def of(*wanted: str) -> list[str]:
        return sorted(key for key in parsers.PARSERS if key.startswith(wanted))

    def any_of(names: list[str]) -> Callable[[bytes], None]:
        """The first byte of an input chooses the reader."""
        for number, one in enumerate(names):
            parsers.function_of(one)  # read in here, where modules are instrumented
            for sample in parsers.samples(one):
                keep(folder, bytes([number]) + sample)

        def run(data: bytes) -> None:
            if not data:
                return
            one = names[data[0] % len(names)]
            rest = data[1:]
            parsers.read(one, rest if parsers.PARSERS[one].of_bytes else rest.decode(errors="replace"))

        return run

    if name == "tools":
        return any_of(of("checks", "drift", "facts", "providers", "compare", "json_text"))
    if name == "kernel":
        return any_of(of("system", "datapath"))
    if name == "captures":
        return captures(folder)
    if name == "runs":
        return runs(folder)
    if name == "lessons":
        return lessons(folder)
    if name == "snapshots":
        return any_of(of("planning.snapshot", "providers.netns.record"))
    return loader(folder)


def keep(folder: Path, data: bytes) -> None:
    (folder / f"first-{len(list(folder.iterdir())):04d}").write_bytes(data)


def sound(value: float) -> None:
    assert math.isfinite(value), f"{value} is no measurement"


def loader(folder: Path) -> Callable[[bytes], None]:
    from labctl.errors import LabError
    from labctl.loading import load_scenario
    from labctl.planning.resolve import resolve

    for path in sorted((TREE / "scenarios").glob("*.yaml")):
        keep(folder, path.read_bytes())
    file = Path(tempfile.mkdtemp(prefix="labctl-fuzz-")) / "made.yaml"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        try:
            resolve(load_scenario(str(file), start=TREE))
        except LabError as told:
            if told.exit_code != 2:
                raise AssertionError("a scenario is refused with another exit code") from told

    return run


def captures(folder: Path) -> Callable[[bytes], None]:
    from labctl.path.frame import decode
    from labctl.path.pcap import PcapError, read_pcap
    from labctl.testing import packets

    frame = packets.ethernet(
        "02:00:00:00:00:01", "02:00:00:00:00:02", packets.ipv4("10.0.0.1", "10.0.0.2", bytes(40), protocol=17)
    )
    for order in "<>":
        keep(folder, packets.pcap_file([(1, frame), (2, frame[:20])], order=order, nanoseconds=order == "<"))

    def run(data: bytes) -> None:
        try:
            for record in read_pcap(data):
                assert record.wire_byte >= 0
                decode(record.frame)
        except PcapError:
            return

    return run


def runs(folder: Path) -> Callable[[bytes], None]:
    """A run's folder whose journal, record or result is the input."""
    import shutil

    from labctl.engine.comparison.stored import read_checks, read_comparison
    from labctl.engine.trace import read_trace
    from labctl.errors import LabError
    from labctl.store.reading import open_run

    stored = TREE / "tests" / "fixtures" / "stored"
    files = ("journal.jsonl", "run.json", "result.json")
    readers = {"compare": read_comparison, "check": read_checks, "trace": read_trace}
    place = Path(tempfile.mkdtemp(prefix="labctl-fuzz-"))
    for kind in readers:
        shutil.copytree(stored / kind, place / kind)
        (place / kind / "SHA256SUMS").unlink()
    choices = [(kind, file) for kind in readers for file in files]
    for number, (kind, file) in enumerate(choices):
        keep(folder, bytes([number]) + (stored / kind / file).read_bytes()[:20_000])

    def run(data: bytes) -> None:
        if not data:
            return
        kind, file = choices[data[0] % len(choices)]
        path = place / kind / file
        path.write_bytes(data[1:])
        try:
            opened = open_run(place / kind)
            opened.result()
            found: Any = readers[kind](opened)
            if kind == "compare":
                for comparison in found.comparisons() if found.measured.records else ():
                    for row in comparison.rows:
                        for value in (*row.a.samples, *row.b.samples):
                            sound(value)
        except LabError:
            return
        finally:
            path.write_bytes((stored / kind / file).read_bytes())

    return run


def lessons(folder: Path) -> Callable[[bytes], None]:
    """A lesson's file of one of three kinds: the first byte chooses."""
    import shutil

    from labctl.errors import LabError
    from labctl.loading.lessons import load_lesson
    from labctl.loading.rosters import load_roster

    place = Path(tempfile.mkdtemp(prefix="labctl-fuzz-"))
    names = sorted(path.name for path in (TREE / "lessons").iterdir() if (path / "lesson.yaml").is_file())
    name = names[0]
    shutil.copytree(TREE / "lessons" / name, place / "lessons" / name)
    for beside in ("scenarios", "lab.yaml"):
        source = TREE / beside
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place / beside)
    inside = [path for path in sorted((place / "lessons" / name).iterdir()) if path.is_file()]
    whole = {path: path.read_bytes() for path in inside}
    for other in names:
        keep(
            folder,
            bytes([inside.index(place / "lessons" / name / "lesson.yaml")])
            + (TREE / "lessons" / other / "lesson.yaml").read_bytes(),
        )
    roster = place / "roster.yaml"
    keep(folder, bytes([len(inside)]) + b"apiVersion: labctl/v1\nkind: Class\nname: x\nstudents: [a, b]\n")

    def run(data: bytes) -> None:
        if not data:
            return
        number = data[0] % (len(inside) + 1)
        try:
            if number == len(inside):
                roster.write_bytes(data[1:])
                load_roster(roster)
                return
            inside[number].write_bytes(data[1:])
            load_lesson(name, start=place, faults=())
        except LabError:
            return
        finally:
            if number < len(inside):
                inside[number].write_bytes(whole[inside[number]])

    return run


def one(name: str, seconds: int, folder: Path) -> None:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    sys.path.insert(0, str(HERE))
    folder.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["labctl"]):
        run = target(name, folder)
    options = (
        f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MIB}", "-print_final_stats=1",
        f"-artifact_prefix={folder}/crash-", "-max_len=30000",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder)], run)
    atheris.Fuzz()


# ---- all of them, each in a process of its own


def ran(name: str, seconds: int, keeping: Path) -> dict[str, Any]:
    folder = keeping / name
    begun = time.monotonic()
    argv = (sys.executable, __file__, "--only", name, "--seconds", str(seconds), str(folder))
    try:
        ended = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=seconds + SLACK_S, check=False
        )
        said, code = ended.stderr + ended.stdout, ended.returncode
    except subprocess.TimeoutExpired as late:
        said, code = (late.stderr or b"").decode(errors="replace"), -1
    seen, covered = _SEEN.findall(said), _COVERAGE.findall(said)
    found = {
        "target": name,
        "seconds": round(time.monotonic() - begun),
        "inputs": int(seen[-1]) if seen else 0,
        "coverage": int(covered[-1][0]) if covered else 0,
        "crashed": code != 0,  # or it had not ended long after its time
        "crash": "" if code == 0 else "\n".join(said.splitlines()[-40:]),
    }
    print(
        f"{name}: {found['inputs']:,} inputs in {found['seconds']} s, {'CRASHED' if code else 'no crash'}", flush=True
    )
    return found


def main() -> int:
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("targets", nargs="*", metavar="TARGET")
    asking.add_argument("--seconds", type=int, default=600)
    asking.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    asking.add_argument("-o", dest="output", type=Path)
    asking.add_argument("--only", choices=TARGETS)
    given = asking.parse_args()
    if given.only:
        one(given.only, given.seconds, Path(given.targets[0]))
        return 0
    chosen = given.targets or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        asking.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    keeping = Path(tempfile.mkdtemp(prefix="labctl-fuzz-"))
    with ThreadPoolExecutor(max_workers=given.at_once) as pool:
        results = list(pool.map(lambda name: ran(name, given.seconds, keeping), chosen))
    crashed = [found for found in results if found["crashed"]]
    for found in crashed:
        print(f"\n== {found['target']} ({keeping / found['target']})\n{found['crash']}")
    if given.output is not None:
        command = f'make fuzz FUZZ="--seconds {given.seconds} --at-once {given.at_once} {" ".join(given.targets)}"'
        given.output.write_text(json.dumps({"command": command.strip(), "targets": results}, indent=1) + "\n")
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
