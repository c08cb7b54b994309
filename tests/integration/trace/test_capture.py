"""`labctl capture` on a real lab: live lines, one pcapng for many taps, and every way in which it can end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tracing_labs import labctl, needs, running, tshark

from labctl.engine.capture import Batch, Limits, sources_of, streaming
from labctl.engine.capture import capture as run_capture
from labctl.model.lab import Encapsulation, HostRouting
from labctl.model.signature import Role
from labctl.providers.base import OpenLab, Running, Target

pytestmark = [
    *needs,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark: apt-get install tshark"),
]

DECODE_VXLAN = ("-d", "udp.port==8472,vxlan")
END_S = 120.0


class Capturing:
    """A `labctl capture` that is running and listens."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.process = process
        self.said = said

    def end(self, sig: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(sig)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=END_S)
        return self.process.returncode, out, self.said + err


@contextmanager
def capture(*argv: str) -> Iterator[Capturing]:
    process = subprocess.Popen(
        (sys.executable, "-m", "labctl", "capture", *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    while not re.search(r"^capturing at ", said, re.MULTILINE):
        line = process.stderr.readline()
        assert line, f"ended before it captured: {said}"
        said += line
    try:
        yield Capturing(process, said)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def send(open_lab: OpenLab, count: int = 3, server: str = "server") -> None:
    address = str(open_lab.lab.pod(server).address)
    done = open_lab.target("client").run(("ping", "-n", "-c", str(count), "-i", "0.01", address), timeout_s=120)
    assert done.returncode == 0


def processes_of(open_lab: OpenLab) -> list[str]:
    parts = [target.name for target in open_lab.targets()]
    name = open_lab.lab.name
    found = [
        subprocess.run(("ip", "netns", "pids", f"labctl.{name}.{part}"), capture_output=True, text=True, check=True)
        for part in parts
    ]
    return [pid for one in found for pid in one.stdout.split()]


def test_a_file_has_an_interface_per_tap_and_vxlan_that_decodes(host_as_found: str, tmp_path: Path) -> None:
    file = str(tmp_path / "way.pcapng")
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (lab, open_lab):
        # It ends by itself: tcpdump leaves what is still in the kernel's buffer when a signal ends it.
        with capture(host_as_found, "-w", file, "--count", "54", "--filter", "icmp or udp port 8472") as live:
            send(open_lab, 3)
            code, out, err = live.wait()
        assert processes_of(open_lab) == []
    assert (code, out) == (0, "")
    assert re.search(r"\d+ packets captured, 0 lost", err)
    rows = tshark(
        file,
        "frame.interface_name",
        "frame.interface_description",
        "frame.packet_flags_direction",
        "vxlan.vni",
        "icmp.type",
        options=DECODE_VXLAN,
    )
    uplink = [row for row in rows if row[0] == "node1:eth0"]
    assert [(int(row[2], 16), row[3], row[4]) for row in uplink] == [
        (2, str(lab.pod("client").identity), "8"),
        (1, str(lab.pod("server").identity), "0"),
    ] * 3
    assert {row[1] for row in uplink} == {"node node1, client-node-uplink"}
    lxc = f"node2:{lab.pod('server').lxc}"
    assert [row[4] for row in rows if row[0] == lxc] == ["0", "0", "0"]  # replies alone: BPF host routing
    assert {"client:eth0", "server:eth0", "underlay:port1", "node2:cilium_vxlan"} <= {row[0] for row in rows}
    assert len(rows) == 18 * 3


def test_lines_say_tap_and_direction_and_open_the_envelope(host_as_found: str) -> None:
    with (
        running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (lab, open_lab),
        capture(host_as_found, "client", "node1:eth0", "--count", "4", "--filter", "icmp or udp port 8472") as live,
    ):
        send(open_lab, 1)
        code, out, err = live.wait()
    assert code == 0
    lines = out.splitlines()
    client = lab.pod("client")
    ends = re.escape(f"{client.address} > {lab.pod('server').address}")
    assert len(lines) == 4, out
    assert re.match(
        rf"\d\d:\d\d:\d\d\.\d{{6}} client:eth0 out {client.mac} > {client.lxc_mac} {ends} ttl 64 "
        r"ICMP echo request id \d+ seq 1 length 98$",
        lines[0],
    )
    assert re.search(
        rf"node1:eth0  out .* 172\.30\.0\.2\.\d+ > 172\.30\.0\.3\.8472 ttl 64 VXLAN vni {lab.pod('client').identity} "
        rf"length 148 \| .* {ends} ttl 64 ICMP echo request",
        lines[1],
    )
    assert "4 packets captured, 0 lost" in err


def test_a_count_and_a_duration_end_it(host_as_found: str, tmp_path: Path) -> None:
    file = str(tmp_path / "counted.pcapng")
    with running(host_as_found, HostRouting.LEGACY, Encapsulation.NATIVE) as (_lab, open_lab):
        with capture(host_as_found, "client:eth0", "--filter", "icmp", "--count", "3", "-w", file) as live:
            send(open_lab, 5)
            code, _, err = live.wait()
        assert (code, len(tshark(file, "icmp.type"))) == (0, 3)
        assert "3 packets captured" in err
        done = labctl("capture", host_as_found, "client:eth0", "--duration", "0.2", "--filter", "port 9")
        assert done.returncode == 0
        assert "0 packets captured, 0 lost" in done.stderr
        assert "--sanity" in done.stderr


def test_sanity_proves_the_filter_or_refuses_to_believe_its_silence(host_as_found: str) -> None:
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN):
        good = labctl("capture", host_as_found, "--sanity", "--filter", "icmp", "--duration", "0.2")
        assert good.returncode == 0, good.stderr
        assert "sanity: the filter can match packets" in good.stderr
        blind = labctl(
            "capture", host_as_found, "--sanity", "--filter", "ether host 02:02:02:02:02:02", "--duration", "0.2"
        )
        assert blind.returncode == 4
        assert "the filter matches none of the known packets" in blind.stderr
        assert "capturing" not in blind.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("node1:eht0",), ("no tap named node1:eht0", "did you mean node1:eth0?")),
        (("--filter", "icpm"), ("tcpdump does not understand the filter: icpm", "man pcap-filter")),
        (("--filter", "host ("), ("tcpdump does not understand the filter",)),
    ],
)
def test_what_cannot_be_captured_is_refused_before_anything_starts(
    host_as_found: str, argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN):
        done = labctl("capture", host_as_found, *argv)
    assert done.returncode == 2
    assert "capturing" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_place_that_cannot_be_written_is_said(host_as_found: str) -> None:
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (_lab, open_lab):
        done = labctl("capture", host_as_found, "-w", "/nowhere/at/all.pcapng")
        assert processes_of(open_lab) == []
    assert done.returncode == 4
    assert "cannot write /nowhere/at/all.pcapng" in done.stderr


def test_a_full_disk_leaves_a_valid_file_and_a_message(host_as_found: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)), check=True)
    try:
        file = str(small / "full.pcapng")
        with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (_lab, open_lab):
            with capture(host_as_found, "-w", file, "--filter", "icmp or udp port 8472") as live:
                address = str(open_lab.lab.pod("server").address)
                flood = ("ping", "-n", "-c", "200", "-i", "0.002", "-s", "1000", address)
                open_lab.target("client").run(flood, timeout_s=120)
                code, _, err = live.wait()
            assert processes_of(open_lab) == []
        assert code == 4
        assert "the capture ended early: No space left on device" in err
        assert "is a valid file up to there" in err
        assert len(tshark(file, "frame.number")) > 10  # tshark fails on a file that is cut inside a block
    finally:
        subprocess.run(("umount", str(small)), check=True)


@pytest.mark.parametrize("argv", [(), ("-w", "-")])
def test_a_reader_that_goes_away_ends_it_without_noise(host_as_found: str, argv: tuple[str, ...]) -> None:
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (_lab, open_lab):
        with capture(host_as_found, "client:eth0", "--filter", "icmp", *argv) as live:
            assert live.process.stdout is not None
            live.process.stdout.close()
            deadline = time.monotonic() + END_S
            while live.process.poll() is None and time.monotonic() < deadline:
                send(open_lab, 2)
            assert live.process.poll() == 0
            assert live.process.stderr is not None
            assert "Traceback" not in live.process.stderr.read()
            live.process.stdout = None
        assert processes_of(open_lab) == []


def test_a_labctl_that_is_killed_leaves_no_tcpdump(host_as_found: str) -> None:
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (_lab, open_lab):
        with capture(host_as_found) as live:
            assert processes_of(open_lab)
            os.kill(live.process.pid, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while processes_of(open_lab) and time.monotonic() < deadline:
                time.sleep(0.05)
        assert processes_of(open_lab) == []


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="needs iperf3: apt-get install iperf3")
def test_at_line_rate_every_packet_is_captured_or_counted_as_lost(host_as_found: str, tmp_path: Path) -> None:
    file = str(tmp_path / "fast.pcapng")
    with running(host_as_found, HostRouting.BPF, Encapsulation.VXLAN) as (lab, open_lab):
        server, client = open_lab.target("server"), open_lab.target("client")
        with server.start(("iperf3", "-s", "-1", "--forceflush")) as serving:
            serving.wait_for_output("Server listening", timeout_s=120)
            with capture(host_as_found, "client:eth0", "-w", file, "--filter", "tcp port 5201") as live:
                address = str(lab.pod("server").address)
                before = _sent(open_lab)
                client.run(("iperf3", "-c", address, "-t", "2"), timeout_s=60)
                went_by = _sent(open_lab) - before
                code, _, err = live.end()
    assert code == 0
    counts = re.search(r"(\d+) packets captured, (\d+) lost", err)
    assert counts is not None
    captured, lost = int(counts[1]), int(counts[2])
    assert captured == len(tshark(file, "frame.number"))
    assert captured > 0
    # The device counts what its driver took; ARP and a closing packet more or less do not matter.
    assert abs(captured + lost - went_by) <= max(20, 0.01 * went_by)


def _sent(open_lab: OpenLab) -> int:
    import json

    done = open_lab.target("client").run(("ip", "-j", "-s", "link", "show", "eth0"), timeout_s=60)
    counts = json.loads(done.text)[0]["stats64"]
    return int(counts["rx"]["packets"]) + int(counts["tx"]["packets"])


class SlowToStart:
    """A target whose captures begin late, as on a machine that is far away or busy."""

    def __init__(self, target: Target, delay_s: float) -> None:
        self._target, self._delay_s = target, delay_s
        self.name, self.kind = target.name, target.kind

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        late = ("sh", "-c", f'sleep {self._delay_s}; exec "$@"', "sh", *argv)
        return self._target.start(late, cpu=cpu, output=output)


@pytest.mark.parametrize("is_live", [True, False])
def test_what_is_captured_before_every_tap_listens_is_not_shown(host_as_found: str, is_live: bool) -> None:
    with running(host_as_found, HostRouting.LEGACY, Encapsulation.VXLAN) as (_, open_lab):
        pair = next(pair for pair in open_lab.lab.pairs if pair.client == "client" and pair.server == "server")
        taps = [tap for tap in open_lab.taps(pair) if tap.role in (Role.CLIENT_ETH0, Role.CLIENT_LXC, Role.SERVER_ETH0)]
        taps[-1] = replace(taps[-1], target=cast(Target, SlowToStart(taps[-1].target, 0.7)))
        sources = sources_of(taps)
        seen: dict[str, list[int]] = {tap.name: [] for tap in taps}

        def take(batch: Batch) -> None:
            for _, number, record in batch:
                icmp = record.frame[34:]
                if icmp[0] == 8:
                    seen[sources[number].tap.name].append(int.from_bytes(icmp[6:8], "big"))

        address = str(open_lab.lab.pod("server").address)
        with open_lab.target("client").start(("ping", "-n", "-i", "0.01", address)) as ping:
            time.sleep(0.2)
            with streaming(sources, "icmp", snap_byte=96, immediate=is_live) as stream:
                ended, count = run_capture(stream, Limits(duration_s=1.0), take, lambda: 0, immediate=is_live)
            ping.stop()
    firsts = {name: numbers[0] for name, numbers in seen.items()}
    # One may be between two taps at that moment.
    assert max(firsts.values()) - min(firsts.values()) <= 1, firsts
    assert min(firsts.values()) > 40
    lengths = {name: len(numbers) for name, numbers in seen.items()}
    assert max(lengths.values()) - min(lengths.values()) <= 2, lengths
    early = {one.source.tap.name for one in ended if one.early}
    assert early >= {tap.name for tap in taps[:-1]}
    assert count >= sum(lengths.values())
