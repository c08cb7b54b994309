"""100,000 short TCP connections from one pod to a host outside, through each way to masquerade.

Each connects, sends a byte, gets one back and is closed. Counted: connections that failed, by reason; those that took
longer than 0.9 s (a SYN was dropped and repeated), with what the datapath says that it dropped; and the entries of the
table that remembers them: before, right after, and when their time was up. Target: none failed, and the table is where
it began. Needs root. Takes some ten minutes, and is not part of `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address

from labctl.datapath.layout import PacketVerdict, read_metrics
from labctl.datapath.masquerading import collect_expired, masqueraded
from labctl.model.lab import Encapsulation, HostRouting, Lab, Masquerade, Outside
from labctl.names import namespace_of, stable_mac
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.watch import node_maps
from labctl.testing.labs import sample_lab

PORTS = 16
FIRST_PORT = 6000
LATE_S = 0.9
WORLD = IPv4Address("172.30.0.253")
WAYS = {
    "bpf-vxlan, eBPF": (HostRouting.BPF, Encapsulation.VXLAN, Masquerade.BPF),
    "bpf-native, eBPF": (HostRouting.BPF, Encapsulation.NATIVE, Masquerade.BPF),
    "legacy-native, eBPF": (HostRouting.LEGACY, Encapsulation.NATIVE, Masquerade.BPF),
    "legacy-native, iptables": (HostRouting.LEGACY, Encapsulation.NATIVE, Masquerade.IPTABLES),
}

SERVER = f"""
import selectors, socket
ready = selectors.DefaultSelector()
for port in range({FIRST_PORT}, {FIRST_PORT + PORTS}):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("{WORLD}", port)); one.listen(1024); one.setblocking(False)
    ready.register(one, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        try:
            taken, _ = key.fileobj.accept()
        except BlockingIOError:
            continue
        try:
            taken.setblocking(True); taken.settimeout(5)
            taken.send(taken.recv(1))
        except OSError:
            pass
        taken.close()
"""
CLIENT = f"""
import errno, json, socket, sys, time
failed, late, began = {{}}, 0, time.monotonic()
for number in range(int(sys.argv[1])):
    start = time.monotonic()
    try:
        with socket.create_connection(("{WORLD}", {FIRST_PORT} + number % {PORTS}), timeout=10) as one:
            one.send(b"x")
            if one.recv(1) != b"x":
                failed["closed early"] = failed.get("closed early", 0) + 1
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
        failed[reason] = failed.get(reason, 0) + 1
    late += time.monotonic() - start > {LATE_S}
print(json.dumps({{"failed": failed, "late": late, "duration_s": time.monotonic() - began}}))
"""


def lab_of(name: str, way: tuple[HostRouting, Encapsulation, Masquerade]) -> Lab:
    mode, how, masquerade = way
    lab = sample_lab(name, host_routing=mode, encapsulation=how, masquerade=masquerade)
    return replace(lab, outside=(Outside(name="world", address=WORLD, mac=stable_mac("outside", "world")),))


@contextmanager
def running(lab: Lab) -> Iterator[None]:
    provider = NetnsProvider()
    try:
        with provider.executor(lab) as executor:
            for step in provider.plan(lab).steps:
                executor.execute(step.actions)
            executor.finish(lab)
        yield
    finally:
        provider.teardown(lab.name)


def within(lab: Lab, part: str, *argv: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/run/netns/{namespace_of(lab.name, part)}", *argv)


class Table:
    """What remembers the connections on the pod's node: the programs' map, or conntrack."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._namespace = lab, namespace_of(lab.name, "node1")
        self._is_bpf = lab.datapath.masquerade is Masquerade.BPF

    def entries(self) -> int:
        if not self._is_bpf:
            argv = within(self._lab, "node1", "conntrack", "-C")
            return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
        with node_maps(self._namespace, "snat") as (descriptor,):
            collect_expired(descriptor)
            return sum(1 for _ in masqueraded(descriptor))

    def dropped(self) -> dict[str, int]:
        """Packets that the programs dropped, by reason."""
        found: dict[str, int] = {}
        with node_maps(self._namespace, "metrics") as (descriptor,):
            for metric in read_metrics(descriptor):
                if metric.verdict.is_drop and metric.verdict is not PacketVerdict.UNSUPPORTED_L3:
                    found[metric.verdict.name] = found.get(metric.verdict.name, 0) + metric.packets
        return found

    def settled_s(self, start: int, limit_s: float) -> float | None:
        """How long until there are no more entries than at the start; None when that did not happen in time."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            if self.entries() <= start:
                return round(time.monotonic() - began, 1)
            time.sleep(1)
        return None


def measure(name: str, way: tuple[HostRouting, Encapsulation, Masquerade], connections: int) -> dict[str, object]:
    lab = lab_of(f"bench-masq-{os.getpid()}", way)
    with running(lab):
        serving = subprocess.Popen(
            within(lab, "world", sys.executable, "-c", SERVER), stdout=subprocess.PIPE, text=True
        )
        try:
            assert serving.stdout is not None
            if serving.stdout.readline() != "ready\n":
                raise SystemExit("the server did not start")
            table = Table(lab)
            before, dropped = table.entries(), table.dropped()
            argv = within(lab, "client", sys.executable, "-c", CLIENT, str(connections))
            done = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
            right_after = table.entries()
            lost = {reason: count - dropped.get(reason, 0) for reason, count in table.dropped().items()}
            settled_s = table.settled_s(before, 240)
            after = table.entries()
        finally:
            serving.kill()
            serving.wait()
    return {
        "way": name,
        "connections": connections,
        **done,
        "connectionsPerS": round(connections / done["duration_s"]),
        "droppedPackets": {reason: count for reason, count in lost.items() if count},
        "entries": {"before": before, "rightAfter": right_after, "after": after},
        "settledS": settled_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--only", default="", help="part of the name of the ways to try")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = []
    for name, way in WAYS.items():
        if arguments.only in name:
            found.append(measure(name, way, arguments.connections))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    if arguments.json:
        environment = {"kernel": platform.release(), "cpus": os.cpu_count(), "loadBefore": os.getloadavg()[0]}
        print(json.dumps({"command": sys.argv, "environment": environment, "ways": found}, indent=1))
    for one in found if not arguments.json else ():
        failed, dropped = one["failed"] or "none", one["droppedPackets"] or "nothing"
        print(f"{one['way']}: {one['connections']} connections, {one['connectionsPerS']}/s; failed: {failed}")
        print(
            f"    late: {one['late']}; dropped: {dropped}; entries {one['entries']}, settled after {one['settledS']} s"
        )
    return int(any(one["failed"] or one["settledS"] is None for one in found))


if __name__ == "__main__":
    sys.exit(main())
