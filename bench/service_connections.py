"""100,000 short TCP connections to a Service, through each way in which eBPF translates it.

    sudo python bench/service_connections.py [--count N] [--way NAME]… [--output FILE]

Each connects, is sent a byte and closed by the server, and is closed. Counted: connections that failed, by reason;
those that took longer than 0.9 s (a SYN was dropped and repeated), with what the programs say that they dropped; and
the entries of the maps that remember them: before, right after, and when their time was up (that of a closed connection
is 10 s; labctl collects expired ones, as Cilium does in its agent). Target: none failed, and the maps are where they
began. Needs root, and is not part of `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from labctl.datapath import bpf
from labctl.datapath.layout import read_metrics
from labctl.datapath.service_maps import collect_expired
from labctl.engine.build import build, remove
from labctl.model.lab import Encapsulation, HostRouting, Lab, Outside, Service, ServiceProtocol, ServiceType
from labctl.names import cgroup_of, namespace_of, stable_mac
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.watch import node_maps
from labctl.system import cgroups
from labctl.testing.labs import sample_lab

RESULT = Path(__file__).parent / "results" / "service_connections.json"
VIP, NODE_PORT = IPv4Address("10.96.0.11"), 30205
LATE_S = 0.9
WAYS = {
    "at the socket": (HostRouting.BPF, Encapsulation.VXLAN, True, "client"),
    "in packets of pods": (HostRouting.BPF, Encapsulation.NATIVE, False, "client"),
    "node port, vxlan": (HostRouting.BPF, Encapsulation.VXLAN, True, "world"),
    "node port, native, Legacy": (HostRouting.LEGACY, Encapsulation.NATIVE, True, "world"),
}

SERVER = """
import socket
one = socket.create_server(("0.0.0.0", 5205), backlog=4096)
print("ready", flush=True)
while True:
    taken, _ = one.accept()
    try:
        taken.send(b"x")
    except OSError:
        pass
    taken.close()
"""
CLIENT = """
import collections, json, selectors, socket, sys, time
host, port, count, late = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
ready, begun, failed, slow, open_now, made = selectors.DefaultSelector(), {}, collections.Counter(), 0, 0, 0
def one_more():
    global open_now, made
    made += 1
    sock = socket.socket()
    sock.setblocking(False)
    begun[sock] = time.monotonic()
    try:
        sock.connect((host, port))
    except BlockingIOError:
        pass
    except OSError as error:
        failed[error.strerror] += 1
        sock.close()
        return
    ready.register(sock, selectors.EVENT_READ)
    open_now += 1
while made < count or open_now:
    while made < count and open_now < 64:
        one_more()
    for key, _ in ready.select(1):
        sock = key.fileobj
        try:
            data = sock.recv(1)
        except OSError as error:
            failed[error.strerror] += 1
            data = b""
        if not data:
            slow += time.monotonic() - begun.pop(sock) > late
            ready.unregister(sock)
            sock.close()
            open_now -= 1
    for sock, since in list(begun.items()) if open_now else ():
        if sock.fileno() >= 0 and time.monotonic() - since > 60:
            failed["no answer in 60 s"] += 1
            ready.unregister(sock); sock.close(); begun.pop(sock); open_now -= 1
print(json.dumps({"failed": failed, "slow": slow}))
"""


def lab_of(host_routing: HostRouting, encapsulation: Encapsulation, socket_lb: bool) -> Lab:
    lab = sample_lab(
        f"bench-sc-{os.getpid()}", host_routing=host_routing, encapsulation=encapsulation, socket_lb=socket_lb
    )
    web = Service(
        name="web", address=VIP, port=80, target_port=5205, protocol=ServiceProtocol.TCP,
        backends=("neighbour", "server"), selector={}, type=ServiceType.NODE_PORT, node_port=NODE_PORT,
    )  # fmt: skip
    world = Outside(name="world", address=IPv4Address("172.30.0.200"), mac=stable_mac("world", "eth0"))
    return replace(lab, services=(web,), outside=(world,))


@contextmanager
def running(lab: Lab) -> Iterator[OpenLab]:
    provider = NetnsProvider()
    build(provider, lab, lambda event: None)
    try:
        with provider.open(lab) as open_lab, ExitStack() as stack:
            for pod in ("neighbour", "server"):
                started = stack.enter_context(open_lab.target(pod).start((sys.executable, "-c", SERVER)))
                started.wait_for_output("ready", timeout_s=60)
            yield open_lab
    finally:
        remove(provider, lab.name, lambda event: None)


def entries(lab: Lab) -> dict[str, int]:
    """How many node1 remembers: connections translated in packets, and sockets."""
    with node_maps(namespace_of(lab.name, "node1"), "ct") as (ct,):
        found = {"ct": sum(1 for _ in bpf.keys(ct, bpf.map_info(ct).key_size))}
    with cgroups.opened(cgroup_of(lab.name, "node1", "node")) as group:
        (number,) = bpf.attached_to_cgroup(group, bpf.CgroupHook.CONNECT4)
    program = bpf.program_descriptor(number)
    maps = bpf.maps_of_program(program)
    found["reverse_sk"] = sum(1 for _ in bpf.keys(maps["reverse_sk"], bpf.map_info(maps["reverse_sk"]).key_size))
    bpf.close_all((program, *maps.values()))
    return found


def dropped(lab: Lab) -> dict[str, int]:
    with node_maps(namespace_of(lab.name, "node1"), "metrics") as (metrics,):
        return {one.words: one.packets for one in read_metrics(metrics) if one.verdict.is_drop}


def measure(name: str, count: int) -> dict[str, object]:
    host_routing, encapsulation, socket_lb, client = WAYS[name]
    lab = lab_of(host_routing, encapsulation, socket_lb)
    to = (str(VIP), "80") if client == "client" else (str(lab.node("node1").address.ip), str(NODE_PORT))
    with running(lab) as open_lab:
        before = entries(lab)
        begun = time.monotonic()
        argv = (sys.executable, "-c", CLIENT, *to, str(count), str(LATE_S))
        done = open_lab.target(client).run(argv, timeout_s=3600)
        took = time.monotonic() - begun
        if done.returncode:
            raise SystemExit(done.error_text)
        after = entries(lab)
        deadline = time.monotonic() + 75  # an entry without an answer lives for 60 s
        while (rest := entries(lab)) != before and time.monotonic() < deadline:
            with node_maps(namespace_of(lab.name, "node1"), "ct") as (ct,):
                collect_expired(ct)
            time.sleep(1)
        return {
            **json.loads(done.text),
            "connections": count,
            "seconds": round(took, 1),
            "entriesBefore": before,
            "entriesAfter": after,
            "entriesWhenTimeIsUp": rest,
            "dropped": dropped(lab),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="default: all of them")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    found = {}
    for name in given.way or WAYS:
        found[name] = measure(name, given.count)
        print(name, json.dumps(found[name]), flush=True)
    document = {"bench": "service_connections", "kernel": platform.release(), "command": sys.argv, "ways": found}
    given.output.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    is_well = all(not one["failed"] and one["entriesWhenTimeIsUp"] == one["entriesBefore"] for one in found.values())
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
