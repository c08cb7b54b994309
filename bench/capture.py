"""How fast labctl takes captured packets in: parsing, writing pcapng, decoding to lines; and a capture at line rate.

    .venv/bin/python bench/capture.py            # parsing alone: no root needed
    sudo .venv/bin/python bench/capture.py LAB   # and, on a running lab, `capture -w` beside iperf3 between its pods
    sudo .venv/bin/python bench/capture.py LAB --trace   # and the time of `labctl trace`, start-up included

Rates are packets per second of this process's CPU time, so that a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from labctl.model.signature import Role
from labctl.model.trace import TapDirection
from labctl.path.decode_text import packet_text, time_text
from labctl.path.pcap import PcapFeed, read_pcap
from labctl.path.pcapng import packet_maker
from labctl.path.sighting import match_echo, sightings
from labctl.testing import packets

COUNT = 200_000
CHUNK_BYTE = 1 << 16
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
CLIENT, SERVER = "10.244.0.10", "10.244.1.10"
TOKEN = b"\xab" * 16


def stream(*, enveloped: bool) -> bytes:
    """A pcap stream of echo requests, plain or inside VXLAN."""
    inner = packets.ethernet(
        MAC_A,
        MAC_B,
        packets.ipv4(
            CLIENT, SERVER, packets.icmp_echo(is_request=True, identifier=1, sequence=1, payload=TOKEN * 3), protocol=1
        ),
    )
    frame = (
        packets.enveloped(inner, src="172.30.0.2", dst="172.30.0.3", src_mac=MAC_A, dst_mac=MAC_B, vni=16843)
        if enveloped
        else inner
    )
    one = packets.pcap_file([(1_700_000_000_000_000_000, frame)], nanoseconds=True)
    return one[:24] + one[24:] * COUNT


def rate(work: Callable[[], int]) -> float:
    """Packets per second of CPU time, the best of three."""
    best = 0.0
    for _ in range(3):
        before = time.process_time()
        done = work()
        best = max(best, done / (time.process_time() - before))
    return best


def feed_and_write(data: bytes) -> int:
    feed, make = PcapFeed(), packet_maker(0, TapDirection.IN)
    held = []
    for at in range(0, len(data), CHUNK_BYTE):
        for record in feed.feed(data[at : at + CHUNK_BYTE]):
            held.append((record.time_ns, 0, record))
    held.sort()
    out = b"".join([make(time_ns, record.frame, record.wire_byte) for time_ns, _, record in held])
    return len(held) if out else 0


def find(data: bytes) -> int:
    matcher = match_echo(IPv4Address(CLIENT), IPv4Address(SERVER), TOKEN)
    return sum(1 for _ in sightings(read_pcap(data), matcher, tap="t", role=Role.CLIENT_ETH0))


def print_lines(data: bytes) -> int:
    return sum(1 for r in read_pcap(data) if time_text(r.time_ns) + packet_text(r.frame, r.wire_byte))


def parsing() -> None:
    for name, enveloped in (("plain", False), ("vxlan", True)):
        data = stream(enveloped=enveloped)
        print(f"{name}: pcap to pcapng       {rate(lambda d=data: feed_and_write(d)):12,.0f} packets/s")
        print(f"{name}: read and decode      {rate(lambda d=data: sum(1 for _ in decode_all(d))):12,.0f} packets/s")
        print(f"{name}: a line for each      {rate(lambda d=data: print_lines(d)):12,.0f} packets/s")
        print(f"{name}: a sighting for each  {rate(lambda d=data: find(d)):12,.0f} packets/s (every one matches)")


def decode_all(data: bytes):  # type: ignore[no-untyped-def]
    from labctl.path.frame import decode

    return (decode(record.frame) for record in read_pcap(data))


def line_rate(lab: str, snap: int, taps: tuple[str, ...]) -> None:
    """`capture -w` for 3 s while iperf3 runs as fast as it can between the lab's pods."""
    labctl = (sys.executable, "-m", "labctl")
    server = subprocess.Popen((*labctl, "exec", lab, "server", "--", "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    address = (
        subprocess.run(
            (*labctl, "exec", lab, "server", "--", "ip", "-4", "-o", "addr", "show", "eth0"),
            check=True,
            capture_output=True,
            text=True,
        )
        .stdout.split()[3]
        .partition("/")[0]
    )
    client = subprocess.Popen(
        (*labctl, "exec", lab, "client", "--", "iperf3", "-c", address, "-t", "6"), stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.0)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "line-rate.pcapng"
        done = subprocess.run(
            (*labctl, "capture", lab, *taps, "-w", str(file), "--snap", str(snap), "--duration", "3"),
            check=True,
            capture_output=True,
            text=True,
        )
    said = done.stderr.strip().splitlines()[-1]
    output, _ = client.communicate()
    server.wait()
    speed = re.findall(r"([\d.]+ [GM]bits/sec).*receiver", output)
    print(f"capture -w, snap {snap}, taps {' '.join(taps)}, iperf3 {speed[0] if speed else '?'}: {said}")


def tracing(lab: str) -> None:
    times = []
    for _ in range(10):
        begun = time.monotonic()
        subprocess.run(
            (sys.executable, "-m", "labctl", "trace", lab, "client", "server", "--json"),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append(time.monotonic() - begun)
    times.sort()
    print(f"labctl trace, start-up included: median {times[5]:.2f} s, worst of 10 {times[-1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lab", nargs="?", help="a running lab with pods `client` and `server`")
    parser.add_argument("--trace", action="store_true")
    wanted = parser.parse_args()
    parsing()
    if wanted.lab:
        for snap in (128, 65_535):
            line_rate(wanted.lab, snap, ("client:eth0",))
            line_rate(wanted.lab, snap, ("client", "server"))
        if wanted.trace:
            tracing(wanted.lab)


if __name__ == "__main__":
    main()
