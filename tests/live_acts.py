"""What a person does with a lab, through the command line, in one table that runs against any provider that is there.

`make test-machines` and `make test-kind` run it live, an integration test on netns; what held where goes to
live_results.py. The acts stand in the order of a lab's life, and each needs those before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLOW_S = 0.2
LARGE_BYTE = 20_000_000
"""More than a pipe, a channel's window or a packet holds."""
TAPS = 40


@dataclass(frozen=True, kw_only=True)
class Live:
    """One lab of one provider. `phases` are the steps of `up` in which Ctrl-C is pressed, each going on from
    the last; `sever`, `silence`, `slow` and `stop_engine` do that to what labctl works through, while their context
    lasts; `strays` lists what labctl left."""

    provider: str
    name: str
    scenario: str
    other: str
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    up_s: float = 120.0
    act_s: float = 120.0
    phases: tuple[int, ...] = ()
    taps: int = 0
    options: tuple[str, ...] = ()
    """For `up` and `compare`."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Acts that mean nothing for it, with the reason."""
    sever: Callable[[], None] | None = None
    silence: Callable[[], AbstractContextManager[None]] | None = None
    slow: Callable[[float], AbstractContextManager[None]] | None = None
    stop_engine: Callable[[], AbstractContextManager[None]] | None = None
    strays: Callable[[], list[str]] = list

    def argv(self, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "labctl", *words)

    def run(
        self, *words: str, timeout_s: float | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """labctl with these words, to its end."""
        done = subprocess.run(
            self.argv(*words), cwd=self.directory, env={**os.environ, **self.environment}, input=stdin,
            capture_output=True, timeout=timeout_s or self.act_s, check=False,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, _said(done)
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(*words), cwd=self.directory, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def document(self, *words: str, timeout_s: float | None = None) -> Any:
        """What labctl prints with --json; it has to end well."""
        done = self.run(*words, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, _said(done)
        return json.loads(done.stdout)

    def up_words(self) -> tuple[str, ...]:
        return ("up", self.scenario, "--provider", self.provider, "--name", self.name, *self.options)

    def up(self) -> Any:
        return self.document(*self.up_words(), timeout_s=self.up_s)

    def listed(self) -> list[dict[str, Any]]:
        return [one for one in self.document("list")["labs"] if one["lab"] == self.name]


PAIRS = 9
"""Two pods each on node1, so that this node has more than 40 taps."""


def write_scenarios(folder: Path, datapaths: Mapping[str, str]) -> None:
    """A scenario of each name with that `datapath`: pairs on one node and across nodes, and many taps on node1."""
    pods = "".join(f"  - {{ name: {side}{n}, node: node1 }}\n" for n in range(PAIRS) for side in ("from", "to"))
    pairs = "".join(f"  - {{ client: from{n}, server: to{n}, placement: same-node }}\n" for n in range(PAIRS))
    (folder / "scenarios").mkdir()
    for name, datapath in datapaths.items():
        (folder / "scenarios" / f"{name}.yaml").write_text(
            f"""apiVersion: labctl/v1
kind: Scenario
pods:
  - {{ name: client, node: node1 }}
  - {{ name: neighbour, node: node1 }}
  - {{ name: server, node: node2 }}
{pods}pairs:
  - {{ client: client, server: neighbour, placement: same-node }}
  - {{ client: client, server: server, placement: cross-node }}
{pairs}datapath: {datapath}
checks:
  - {{ check: ping, count: 20, intervalS: 0.01 }}
"""
        )


VXLAN = {mode: f"{{ hostRouting: {mode}, encapsulation: vxlan }}" for mode in ("legacy", "bpf")}
"""For providers that make the mode that is asked for."""


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    words = shlex.join(str(word) for word in done.args[2:])
    return f"{words} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-3000:]}"


def _fails_soundly(done: subprocess.CompletedProcess[bytes]) -> None:
    """An error of labctl's own that says what to do."""
    text = done.stderr.decode(errors="replace")
    assert done.returncode not in (0, 1, 2), _said(done)
    assert "error:" in text, _said(done)


def ctrl_c_in_each_phase(live: Live) -> None:
    for phase in live.phases:
        building = live.start(*live.up_words())
        assert building.stderr is not None
        seen = b""
        try:
            for line in building.stderr:
                seen += line
                if line.startswith(f"[{phase}/".encode()):
                    break
            else:
                raise AssertionError(f"there is no phase {phase}: {seen.decode(errors='replace')[-2000:]}")
            building.send_signal(signal.SIGINT)
            _, rest = building.communicate(timeout=live.act_s)
        finally:
            _end(building)
        assert building.returncode == 130, f"phase {phase}: {(seen + rest).decode(errors='replace')[-2000:]}"
        assert b"Traceback" not in seen + rest


def up(live: Live) -> Mapping[str, Any]:
    """Gives the seconds of each phase that took one or more."""
    found = live.up()
    assert found["outcome"] == "built", found
    # Where a lab is proven when it is built there is nothing left to prove here.
    assert found["modeInForce"] is None or found["modeInForce"]["proven"], found["modeInForce"]
    phases = {phase["step"]: round(phase["durationS"], 1) for phase in found["phases"]}
    return {"phases": {step: seconds for step, seconds in phases.items() if seconds >= 1.0}}


def up_again(live: Live) -> None:
    found = live.up()
    assert found["outcome"] == "unchanged", found


def status(live: Live) -> None:
    found = live.document("status", live.name)
    assert found["modeInForce"]["proven"], found["modeInForce"]


def list_labs(live: Live) -> None:
    (found,) = live.listed()
    assert found["provider"] == live.provider, found
    assert found["whole"], found
    assert not found["missing"], found


def check(live: Live) -> None:
    results = live.document("check", live.name, "ping")["results"]
    assert results
    assert {result["verdict"] for result in results} == {"pass"}, results


def trace(live: Live) -> None:
    done = live.run("trace", live.name, "client", "server", "--json", "--no-run")
    assert done.returncode == 0, _said(done)
    assert json.loads(done.stdout)


def capture_with_40_taps(live: Live) -> None:
    listed = live.run("capture", live.name, "--list")
    assert listed.returncode == 0, _said(listed)
    if live.taps:
        assert len(re.findall(rb":\S+", listed.stdout)) >= live.taps, listed.stdout.decode()
    with tempfile.TemporaryDirectory() as folder:
        capturing = live.start("capture", live.name, "--filter", "icmp", "--write", f"{folder}/packets.pcapng")
        try:
            _until_it_captures(live, capturing, Path(folder) / "packets.pcapng")
            pinged = live.run(
                "exec", live.name, "client", "--", "ping", "-c", "5", "-i", "0.2", _address(live, "server")
            )
            assert pinged.returncode == 0, _said(pinged)
            time.sleep(1.0)
            capturing.send_signal(signal.SIGINT)
            _, said = capturing.communicate(timeout=live.act_s)
        finally:
            _end(capturing)
        text = said.decode(errors="replace")
        assert "Traceback" not in text, text
        assert (Path(folder) / "packets.pcapng").stat().st_size > 1000, text
    assert live.strays() == []


def _until_it_captures(live: Live, capturing: subprocess.Popen[bytes], packets: Path) -> None:
    """Its file is there once every tap listens."""
    deadline = time.monotonic() + live.act_s
    while not packets.exists():
        assert capturing.poll() is None, capturing.communicate()[1].decode(errors="replace")
        assert time.monotonic() < deadline, f"no tap listens after {live.act_s:g} s"
        time.sleep(0.2)


def _address(live: Live, pod: str) -> str:
    done = live.run("exec", live.name, pod, "--", "ip", "-4", "-o", "address", "show", "dev", "eth0")
    found = re.search(rb"inet (\d+\.\d+\.\d+\.\d+)", done.stdout)
    assert found, _said(done)
    return found[1].decode()


def exec_with_large_output(live: Live) -> None:
    script = f"head -c {LARGE_BYTE} /dev/zero | tr '\\0' x"
    done = live.run("exec", live.name, "client", "--", "sh", "-c", script)
    assert done.returncode == 0, _said(done)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(b"x" * LARGE_BYTE).digest(), len(done.stdout)


def exec_with_standard_input(live: Live) -> None:
    sent = bytes(range(256)) * 4096
    done = live.run("exec", live.name, "server", "--", "sha256sum", stdin=sent)
    assert done.returncode == 0, _said(done)
    assert done.stdout.split()[0].decode() == hashlib.sha256(sent).hexdigest()


def a_slow_link(live: Live) -> None:
    assert live.slow is not None
    with live.slow(SLOW_S):
        status(live)
        check(live)
    assert live.strays() == []


def connections_cut(live: Live) -> None:
    assert live.sever is not None
    with tempfile.TemporaryDirectory() as folder:
        capturing = live.start("capture", live.name, "--filter", "icmp", "--write", f"{folder}/packets.pcapng")
        try:
            _until_it_captures(live, capturing, Path(folder) / "packets.pcapng")
            live.sever()
            _, said = capturing.communicate(timeout=live.act_s)
        finally:
            _end(capturing)
    text = said.decode(errors="replace")
    assert capturing.returncode not in (0, None), text
    assert "Traceback" not in text, text
    assert "error:" in text, text
    _until_no_strays(live)
    check(live)


def a_machine_that_is_gone(live: Live) -> None:
    assert live.silence is not None
    with live.silence():
        _fails_soundly(live.run("status", live.name, timeout_s=300.0))
        assert live.listed()
    check(live)


def an_engine_that_is_gone(live: Live) -> None:
    assert live.stop_engine is not None
    with live.stop_engine():
        _fails_soundly(live.run("status", live.name, timeout_s=300.0))
    check(live)


def kill_9(live: Live) -> None:
    """In the middle of a check; what it started ends by itself."""
    checking = live.start("check", live.name)
    time.sleep(6.0)
    os.killpg(checking.pid, signal.SIGKILL)
    _end(checking)
    _until_no_strays(live)


def up_after_kill_9(live: Live) -> None:
    assert live.up()["outcome"] == "unchanged"
    check(live)


def compare_by_switching(live: Live) -> None:
    _compare(live, "switch")


def compare_in_parallel(live: Live) -> None:
    _compare(live, "parallel")


def _compare(live: Live, strategy: str) -> None:
    found = live.document(
        "compare", live.scenario, live.other, "--provider", live.provider, "--name", f"{live.name}-{strategy[0]}",
        "--rounds", "2", "--checks", "ping", "--duration", "0.5", "--strategy", strategy, *live.options,
        timeout_s=3 * live.up_s,
    )  # fmt: skip
    assert [mode["proven"] for mode in found["modeInForce"]] == [True, True]
    assert {row["placement"] for row in found["metrics"] if row["check"] == "ping"} == {"same-node", "cross-node"}


def down(live: Live) -> None:
    done = live.run("down", live.name, timeout_s=live.up_s)
    assert done.returncode == 0, _said(done)
    assert live.listed() == []
    assert live.strays() == []


def down_twice(live: Live) -> None:
    done = live.run("down", live.name, timeout_s=live.up_s)
    assert done.returncode in (0, 2), _said(done)
    assert live.run("status", live.name).returncode == 2


def _until_no_strays(live: Live, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while left := live.strays():
        assert time.monotonic() < deadline, f"still running after {within_s:g} s: {left}"
        time.sleep(1.0)


def _end(started: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    for stream in (started.stdout, started.stderr):
        if stream is not None:
            stream.close()
    started.wait(timeout=60)


ACTS: dict[str, Callable[[Live], Mapping[str, Any] | None]] = {
    "Ctrl-C in each phase of up": ctrl_c_in_each_phase,
    "up": up,
    "up again": up_again,
    "status": status,
    "list": list_labs,
    "check": check,
    "trace": trace,
    f"capture with {TAPS} taps": capture_with_40_taps,
    "exec with large output": exec_with_large_output,
    "exec with standard input": exec_with_standard_input,
    "slow link of 200 ms": a_slow_link,
    "connections cut": connections_cut,
    "machine gone": a_machine_that_is_gone,
    "engine gone": an_engine_that_is_gone,
    "kill -9": kill_9,
    "up after kill -9": up_after_kill_9,
    "down": down,
    "down twice": down_twice,
    "compare, by switching": compare_by_switching,
    "compare, in parallel": compare_in_parallel,
}
"""What an act gives is noted beside its time."""
