"""Programs that cannot do their work, on a real lab: no check fails for them, and no packet is LOST."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl.checks.addressing import AddressingCheck
from labctl.checks.base import Check, CheckContext
from labctl.checks.ping import PingCheck
from labctl.checks.tcpdump import TcpdumpCheck
from labctl.engine.build import build, remove
from labctl.engine.trace import pair_between, trace
from labctl.errors import MeasureFailed
from labctl.model.lab import CheckSpec, Encapsulation, HostRouting
from labctl.model.parameters import PARAMETERS_OF
from labctl.model.result import CheckResult, Verdict
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab
from labctl.testing.scripted import MemoryRaw

NEEDED = ("ping", "tcpdump", "setpriv")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in NEEDED), reason=f"needs {', '.join(NEEDED)}"),
]
PING = shutil.which("ping") or "ping"
NO_RIGHT = "setpriv --bounding-set=-net_raw --inh-caps=-net_raw --"
KILLED = r"""printf '\324\303\262\241\2\0\4\0'; head -c 8 /dev/zero; printf '\0\2\0\0\1\0\0\0'
echo 'tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 512 bytes' >&2
sleep 0.05
kill -9 $$"""


@contextmanager
def running(name: str) -> Iterator[OpenLab]:
    provider = NetnsProvider()
    lab = sample_lab(name, host_routing=HostRouting.BPF, encapsulation=Encapsulation.VXLAN)
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab:
            yield open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def checked(open_lab: OpenLab, check: Check) -> CheckResult:
    spec = CheckSpec(name=check.kind, kind=check.kind, parameters=PARAMETERS_OF[check.kind]())
    return check.run(CheckContext(open_lab=open_lab, pair=open_lab.lab.pairs[0], spec=spec, raw=MemoryRaw()))


def test_programs_that_cannot_do_their_work_are_errors_and_lose_no_packet(
    host_as_found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    copy = shutil.copy(PING, tmp_path / "copy")  # without the file's own capabilities
    cases = [
        ("ping", f'exec {NO_RIGHT} {copy} "$@"', (PingCheck(), TcpdumpCheck(), AddressingCheck()), "not permitted"),
        ("tcpdump", KILLED, (TcpdumpCheck(), AddressingCheck()), "killed by signal 9"),
    ]
    if (busybox := shutil.which("busybox")) is not None:
        cases.append(("ping", f'exec {busybox} ping "$@"', (PingCheck(), AddressingCheck()), "iputils ping is needed"))
    with running(f"{host_as_found}tools") as open_lab:
        for number, (program, script, checks, told) in enumerate(cases):
            folder = tmp_path / str(number)
            folder.mkdir()
            stand_in(folder, program, script)
            monkeypatch.setenv("PATH", f"{folder}:{path}")
            for check in checks:
                result = checked(open_lab, check)
                assert result.verdict is Verdict.ERROR, (program, check.kind, result.reason)
                assert told in result.reason
            with pytest.raises(MeasureFailed) as raised:
                trace(open_lab, pair_between(open_lab.lab, "client", "server"))
            assert told in raised.value.cause
        monkeypatch.setenv("PATH", path)
        assert checked(open_lab, PingCheck()).verdict is Verdict.PASS
