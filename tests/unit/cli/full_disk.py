"""What `test_cut_short.py` runs in a mount namespace of its own: a comparison on a disk that gets full, and its rest.

Prints one JSON document a command line. The labs and checks are scripted; the disk is a real one, of 400 KiB.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.conftest import VerdictCheck
from labctl import app
from labctl.checks.base import CheckContext
from labctl.cli import group
from labctl.cli.options import load_lab
from labctl.model.result import CheckResult
from labctl.testing.provider import ScriptedProvider
from labctl.testing.scripted import ScriptedLab, ScriptedTarget


@dataclass(kw_only=True)
class LoudCheck(VerdictCheck):
    """The tool of ping prints 30 KiB."""

    def run(self, context: CheckContext) -> CheckResult:
        if self.kind == "ping":
            context.raw.save("noise", b"x" * 30 * 1024)
        return super().run(context)


def main(place: Path) -> None:
    mount(place, "size=400k")
    provider = ScriptedProvider(name="netns")
    lab = load_lab("bpf", provider=None, name=None, overrides=())
    names = [*(node.name for node in lab.nodes), *(pod.name for pod in lab.pods)]
    provider.open_lab = ScriptedLab(lab, [ScriptedTarget(name) for name in names])
    kinds = ("ping", "latency", "iperf", "tcpdump")
    app.provider = lambda name, **_: provider
    app.providers = lambda **_: iter((provider,))
    app.checks = lambda: {kind: LoudCheck(kind=kind, verdicts={}) for kind in kinds}
    asked = ("compare", "legacy", "bpf", "--checks", "ping", "--rounds", "5", "--runs-dir", str(place), "--seed", "1")
    say(*asked)
    (run,) = place.iterdir()
    say("report", str(run))
    mount(place, "remount,size=8m")
    say("compare", "--resume", str(run))
    say("report", str(run), "--json")


def mount(place: Path, options: str) -> None:
    subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)), check=True, timeout=60)


def say(*argv: str) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = group.run(list(argv))
    said = {name: made.buffer.getvalue().decode() for name, made in (("out", out), ("err", err))}
    print(json.dumps({"code": code, **said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
