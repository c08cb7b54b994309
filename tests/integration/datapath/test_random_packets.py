"""Every tc program of every object on random and truncated frames: none to a wrong pod, no verdict but the model's.

`BPF_PROG_TEST_RUN` runs a program on one frame without sending it (the kernel has it for no program of a cgroup: what
those do is tested with real sockets). What came of a frame is read from the program's action, its counters, the event
that it wrote and the frame that it left; `packet_model` says what each must be. The frames come from a seed. `make
test-thorough` runs many times as many.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import count

import pytest
from packet_frames import ETHERNET, OK, REDIRECTED, SHOT
from packet_model import Expected, Node
from packet_soup import Soup

from labctl.datapath import bpf
from labctl.datapath.events import EventReader, trace_pair
from labctl.datapath.layout import NO_ADDRESS, PacketVerdict, Program, unpack_metric_key
from labctl.datapath.loader import LIBBPF, LoadedDatapath, load, load_object, object_path
from labctl.model.interfaces import (
    CILIUM_HOST,
    CILIUM_HOST_INDEX,
    CILIUM_NET,
    CILIUM_NET_INDEX,
    CILIUM_TUNNEL_INDEX,
    CILIUM_VXLAN,
    UPLINK,
    UPLINK_INDEX,
    lxc_indexes,
)
from labctl.model.lab import (
    Encapsulation,
    HostRouting,
    Lab,
    Masquerade,
    Service,
    ServiceProtocol,
    ServiceType,
    TrafficPolicy,
)
from labctl.networks.cilium.contents import map_contents
from labctl.system import netns
from labctl.testing import labs

pytestmark = pytest.mark.root

HISTORY = 150
"""So many frames meet one node before it forgets: its connections are not to expire, nor its tables to be full."""
OBJECTS = [
    (routing, encapsulation, variant)
    for variant, routings in (
        ("", tuple(HostRouting)),
        ("lb", tuple(HostRouting)),
        ("kube-proxy", (HostRouting.LEGACY,)),
    )
    for routing in routings
    for encapsulation in labs.RECORDED
]
SHORTEST = 60
MARK_AT, CB_AT, DEVICE_AT, CONTEXT_BYTES = 8, 48, 40, 192
XDP_REDIRECT = 4
FORGOTTEN = ("fragments", "snat", "ct", "stack_flows")
TO_PODS = {PacketVerdict.REDIRECT, PacketVerdict.REDIRECT_PEER}


def make_lab(host_routing: HostRouting, encapsulation: Encapsulation, variant: str, masquerade: Masquerade) -> Lab:
    pods = (
        labs.make_pod("a", "node1", "10.244.0.10", identity=16843),
        labs.make_pod("b", "node1", "10.244.0.11", identity=11528),
        labs.make_pod("c", "node2", "10.244.1.10", identity=23579),
    )
    made = labs.make_lab(
        "random-packets",
        (labs.make_node(index, host=index + 3) for index in range(2)),
        pods,
        host_routing=host_routing,
        encapsulation=encapsulation,
        masquerade=masquerade,
        socket_lb=False,
        kube_proxy_replacement=variant != "kube-proxy",
    )
    return dataclasses.replace(made, services=services() if variant == "lb" else ())


def services() -> tuple[Service, ...]:
    def one(number: int, protocol: ServiceProtocol, backends: tuple[str, ...], **more: TrafficPolicy) -> Service:
        return Service(
            name=f"service{number}",
            address=IPv4Address("10.96.0.10") + number,
            port=80,
            target_port=5205 if protocol is ServiceProtocol.TCP else 5353,
            protocol=protocol,
            backends=backends,
            selector={},
            type=ServiceType.NODE_PORT,
            node_port=30200 + number,
            **more,
        )

    return (
        one(1, ServiceProtocol.TCP, ("a", "b", "c")),
        one(4, ServiceProtocol.UDP, ("b", "c")),
        one(5, ServiceProtocol.TCP, ("c",), external_traffic_policy=TrafficPolicy.LOCAL),
        one(6, ServiceProtocol.UDP, ()),
    )


# ---- a node to run the programs on


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)


@contextlib.contextmanager
def namespace_of(lab: Lab) -> Iterator[int]:
    """A namespace (an open descriptor) with the devices, addresses and routes of the lab's first node."""
    node, other = lab.nodes
    devices = {
        UPLINK: UPLINK_INDEX,
        CILIUM_HOST: CILIUM_HOST_INDEX,
        CILIUM_NET: CILIUM_NET_INDEX,
        CILIUM_VXLAN: CILIUM_TUNNEL_INDEX,
        **{lab.pod(name).lxc: index for name, index in lxc_indexes(lab, node.name).items()},
    }
    with netns.throwaway():
        ip("link", "set", "lo", "up")
        for name, index in devices.items():
            far = ("name", f"far{index}", "index", str(index + 100))
            ip("link", "add", name, "index", str(index), "up", "type", "veth", "peer", *far)
            ip("link", "set", f"far{index}", "up")
        subprocess.run(("sysctl", "-qw", "net.ipv4.ip_forward=1"), check=True)
        ip("address", "add", str(node.address), "dev", UPLINK)
        ip("address", "add", f"{node.router}/32", "dev", CILIUM_HOST)
        is_tunnelled = lab.datapath.encapsulation is Encapsulation.VXLAN
        ip("route", "add", str(node.router), "dev", CILIUM_HOST, "scope", "link")
        ip("route", "add", str(node.pod_cidr), "via", str(node.router), "dev", CILIUM_HOST)
        way = (str(node.router), CILIUM_HOST) if is_tunnelled else (str(other.address.ip), UPLINK)
        ip("route", "add", str(other.pod_cidr), "via", way[0], "dev", way[1])
        ip("route", "add", "default", "via", "172.30.0.1", "dev", UPLINK)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield home
    finally:
        os.close(home)


def _instruction(code: int, registers: int, offset: int = 0, constant: int = 0) -> bytes:
    return struct.pack("<BBhi", code, registers, offset, constant)


_CUT_AT, _IDENTITY_AT = CB_AT + 12, CB_AT + 16
_TUNNEL_KEY = range(-32, -4, 4)
_CHANGE_TAIL, _SET_TUNNEL_KEY, _TAIL_CALL = 38, 21, 12
_STOLEN = 4
"""TC_ACT_STOLEN, which no program of ours gives."""


@contextlib.contextmanager
def entered_through_a_gate(program: int) -> Iterator[int]:
    """A program that does to a frame what the kernel's test run cannot, and goes on with `program`: cuts it to the
    length in cb[3] (the kernel takes no IPv4 packet that is shorter than its header), and gives it a tunnel's key with
    the identity in cb[4], as the tunnel's device would. 0 is neither."""
    library = ctypes.CDLL(LIBBPF, use_errno=True)
    table = library.bpf_map_create(3, b"next", 4, 4, 1, None)  # BPF_MAP_TYPE_PROG_ARRAY
    assert table >= 0, os.strerror(ctypes.get_errno())
    key = [_instruction(0xB7, 0x00), *(_instruction(0x63, 0x0A, at) for at in _TUNNEL_KEY)]
    key += [
        _instruction(0x63, 0x2A, _TUNNEL_KEY[0]),
        _instruction(0xBF, 0x61),
        _instruction(0xBF, 0xA2),
        _instruction(0x07, 0x02, 0, _TUNNEL_KEY[0]),
        _instruction(0xB7, 0x03, 0, 4 * len(_TUNNEL_KEY)),
        _instruction(0xB7, 0x04, 0, 2),  # BPF_F_ZERO_CSUM_TX
        _instruction(0x85, 0x00, 0, _SET_TUNNEL_KEY),
    ]
    cut = [_instruction(0xBF, 0x61), _instruction(0xB7, 0x03), _instruction(0x85, 0x00, 0, _CHANGE_TAIL)]
    code = [
        _instruction(0xBF, 0x16),
        _instruction(0x61, 0x62, _CUT_AT),
        _instruction(0x15, 0x02, len(cut)),
        *cut,
        _instruction(0x61, 0x62, _IDENTITY_AT),
        _instruction(0x15, 0x02, len(key)),
        *key,
        _instruction(0xBF, 0x61),
        _instruction(0x18, 0x12, 0, table),
        _instruction(0, 0),
        _instruction(0xB7, 0x03),
        _instruction(0x85, 0x00, 0, _TAIL_CALL),
        _instruction(0xB7, 0x00, 0, _STOLEN),
        _instruction(0x95, 0x00),
    ]
    try:
        gate = bpf.load_program(3, b"".join(code), "gate")  # BPF_PROG_TYPE_SCHED_CLS
        try:
            bpf.update(table, [(bytes(4), struct.pack("<I", program))])
            yield gate
        finally:
            os.close(gate)
    finally:
        os.close(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What became of one frame."""

    action: int
    frame: bytes
    counted: tuple[PacketVerdict, ...]
    told: tuple[tuple[PacketVerdict, int], ...]


@dataclass(slots=True, kw_only=True)
class Bench:
    """One object with a node's maps, in the namespace of the calling thread; `gates` lead to its programs."""

    lab: Lab
    loaded: LoadedDatapath
    events: EventReader
    gates: Mapping[Program, int]
    variant: str

    def run(self, program: Program, device: int, frame: bytes, *, vni: int | None, mark: int) -> Came:
        context = bytearray(CONTEXT_BYTES)
        struct.pack_into("=I", context, MARK_AT, mark)
        struct.pack_into("=I", context, DEVICE_AT, device)
        if len(frame) < SHORTEST:
            struct.pack_into("=I", context, _CUT_AT, len(frame))
        if vni is not None:
            struct.pack_into("=I", context, _IDENTITY_AT, vni)
        ran = bpf.run_program(self.gates[program], frame.ljust(SHORTEST, b"\xee"), context=bytes(context))
        counted: list[PacketVerdict] = []
        metrics = self.loaded.maps["metrics"]
        for key, values in list(bpf.dump(metrics)):
            found = unpack_metric_key(key)
            assert (found.program, found.ifindex) == (program, device)
            counted += [found.verdict] * sum(struct.unpack_from("<Q", value)[0] for value in values)
            bpf.delete(metrics, key)
        told = list(self.events.read())
        assert all((event.program, event.ifindex) == (program, device) for event in told)
        return Came(
            action=ran.returned,
            frame=ran.packet,
            counted=tuple(sorted(counted)),
            told=tuple((event.verdict, event.target_ifindex) for event in told),
        )

    def look(self, name: str, key: bytes) -> bytes | None:
        descriptor = self.loaded.maps[name]
        return bpf.lookup(descriptor, key, bpf.map_info(descriptor).value_size)

    def forget(self) -> Node:
        for name in FORGOTTEN:
            if name in self.loaded.maps:
                descriptor = self.loaded.maps[name]
                for key in list(bpf.keys(descriptor, bpf.map_info(descriptor).key_size)):
                    bpf.delete(descriptor, key)
        return Node(lab=self.lab, name="node1", variant=self.variant, look=self.look)


@contextlib.contextmanager
def bench(lab: Lab, loaded: LoadedDatapath, variant: str) -> Iterator[Bench]:
    for name, entries in map_contents(lab, "node1").items():
        bpf.update(loaded.maps[name], entries)
    if "alive" in loaded.maps:
        bpf.update(loaded.maps["alive"], [(pod.address.packed, struct.pack("<I", UPLINK_INDEX)) for pod in lab.pods])
    trace_pair(loaded.maps["config"], NO_ADDRESS, NO_ADDRESS)
    with contextlib.ExitStack() as stack:
        gates = {
            program: stack.enter_context(entered_through_a_gate(loaded.programs[program.function]))
            for program in Program
            if program.function in loaded.programs and not program.is_at_socket
        }
        events = stack.enter_context(EventReader(loaded.maps["events"]))
        yield Bench(lab=lab, loaded=loaded, events=events, gates=gates, variant=variant)


# ---- what is required of every frame


def devices_of(lab: Lab, program: Program) -> list[tuple[int, bytes | None]]:
    """Where the program is attached, with the address of the pod behind it."""
    at = {
        Program.FROM_HOST: [CILIUM_HOST_INDEX],
        Program.TO_HOST: [CILIUM_HOST_INDEX, CILIUM_NET_INDEX],
        Program.FROM_NETDEV: [UPLINK_INDEX],
        Program.TO_NETDEV: [UPLINK_INDEX],
        Program.FROM_OVERLAY: [CILIUM_TUNNEL_INDEX],
        Program.TO_OVERLAY: [CILIUM_TUNNEL_INDEX],
    }
    if program is Program.FROM_CONTAINER:
        return [(index, lab.pod(name).address.packed) for name, index in lxc_indexes(lab, "node1").items()]
    return [(index, None) for index in at[program]]


def is_same(came: bytes, wanted: bytes) -> bool:
    """0 and 0xffff are one number in a checksum."""
    if len(came) != len(wanted):
        return False
    pairs = ((came[at : at + 2], wanted[at : at + 2]) for at in range(0, len(came), 2))
    return all(one == other or {one, other} == {b"\0\0", b"\xff\xff"} for one, other in pairs)


def require_no_wrong_pod(lab: Lab, came: Came) -> None:
    """Whatever the model says: a frame that is handed to a pod has the pod's MAC, its address, and a hop left."""
    if came.action != REDIRECTED or not TO_PODS & set(came.counted):
        return
    owners = [pod for pod in lab.pods_on("node1") if came.frame[:6] == bytes.fromhex(pod.mac.replace(":", ""))]
    assert len(owners) == 1, "the frame has no pod's MAC"
    assert came.frame[30:34] == owners[0].address.packed, f"another pod's packet went to {owners[0].name}"
    assert came.frame[22] >= 1, "a packet without a hop left was delivered"
    index = lxc_indexes(lab, "node1")[owners[0].name]
    assert all(target == index for _, target in came.told), f"the packet for {owners[0].name} went to another's device"


def require_modelled(came: Came, wanted: Expected) -> None:
    assert came.counted == tuple(sorted((*wanted.counted, wanted.verdict)))
    assert came.action == wanted.action
    assert len(came.told) <= 1
    if wanted.action != SHOT:
        assert all(told == (wanted.verdict, wanted.target) for told in came.told)
    if wanted.frame is not None:
        assert is_same(came.frame, wanted.frame), f"came {came.frame.hex()}\nwanted {wanted.frame.hex()}"


def run_histories(bench: Bench, *, seed: int, histories: int) -> Counter[str]:
    """Frames to every program; gives how many of each verdict there were. What fails says which frame it was."""
    seen = Counter[str]()
    programs = list(bench.gates)
    for history in range(histories):
        chance = random.Random(f"{seed} {history}")
        node, soup = bench.forget(), Soup(bench.lab, "node1", chance)
        for turn in range(HISTORY):
            program = chance.choice(programs)
            device, source = chance.choice(devices_of(bench.lab, program))
            frame = soup.frame(source)
            vni = chance.choice((None, 1, 2, 6, 16843, 11528, 23579)) if program is Program.FROM_OVERLAY else None
            mark = chance.choice((0, 0, 0, 0x4E4F4245, 0x534E4154)) if program is Program.TO_NETDEV else 0
            came = bench.run(program, device, frame, vni=vni, mark=mark)
            wanted: Expected | None = None
            try:
                require_no_wrong_pod(bench.lab, came)
                wanted = node.run(program, device, frame, vni=vni, mark=mark)
                require_modelled(came, wanted)
            except AssertionError as failed:
                where = f"on {device} (vni {vni}, mark {mark:#x})"
                raise AssertionError(
                    f"{bench.loaded.path.name}, seed {seed}, history {history}, frame {turn} to {program.function} "
                    f"{where}:\n  {frame.hex()}\n  came   {came}\n  wanted {wanted}\n{failed}"
                ) from failed
            seen[wanted.verdict.name] += 1
            seen.update(verdict.name for verdict in wanted.counted)
            if came.action in (OK, REDIRECTED):
                soup.keep(came.frame)
    return seen


def histories_asked_for() -> int:
    return 40 if os.environ.get("LABCTL_THOROUGH") == "1" else 2


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[Encapsulation, int]]:
    with contextlib.ExitStack() as stack:
        yield {
            encapsulation: stack.enter_context(
                namespace_of(make_lab(HostRouting.BPF, encapsulation, "", Masquerade.BPF))
            )
            for encapsulation in labs.RECORDED
        }


@pytest.mark.parametrize(("routing", "encapsulation", "variant"), OBJECTS, ids=lambda value: str(value) or "plain")
def test_no_frame_goes_to_a_wrong_pod_and_every_verdict_is_the_models(
    homes: dict[Encapsulation, int], routing: HostRouting, encapsulation: Encapsulation, variant: str
) -> None:
    seen = Counter[str]()
    seeds = count(1)
    ways = [Masquerade.IPTABLES] if variant == "kube-proxy" else list(Masquerade)
    with load(routing, encapsulation, variant) as loaded, netns.entered(homes[encapsulation]):
        for masquerade in ways:
            lab = make_lab(routing, encapsulation, variant, masquerade)
            with bench(lab, loaded, variant) as made:
                seen += run_histories(made, seed=next(seeds), histories=histories_asked_for())
    wanted = {"TO_STACK", "PASS", "INVALID", "INVALID_SOURCE", "ARP_REPLY", "TTL_EXCEEDED", "REDIRECT"}
    assert wanted <= set(seen), f"the frames reached only {sorted(seen)}"


IMPAIR_CONFIG, ALWAYS = struct.Struct("<IIIIQ"), 0xFFFFFFFF
UNSPECIFIED = 0xFFFFFFFF
"""TC_ACT_UNSPEC: the next program decides."""


def test_a_device_that_is_impaired_loses_or_corrupts_a_frame_as_told_and_else_leaves_every_byte() -> None:
    chance = random.Random(1)
    frames = [chance.randbytes(size) for size in (*range(ETHERNET, 120), 1514)]
    asked = {"": (0, 0, 0, 0), "loss": (ALWAYS, 0, 0, 0), "corrupt": (0, 0, ALWAYS, 0)}
    with load_object(object_path(HostRouting.BPF, Encapsulation.VXLAN).with_name("impair.o")) as loaded:
        for what, shares in asked.items():
            bpf.update(loaded.maps["impair_config"], [(bytes(4), IMPAIR_CONFIG.pack(*shares, 7))])
            for frame in frames:
                data = frame[:12] + b"\x12\x34" + frame[14:]  # the kernel's test run looks into IPv4 and IPv6
                ran = bpf.run_program(loaded.programs["impair"], data)
                assert ran.returned == (SHOT if what == "loss" else UNSPECIFIED)
                turned = sum((one ^ other).bit_count() for one, other in zip(ran.packet, data, strict=True))
                assert turned == (what == "corrupt" and len(data) > ETHERNET)
                assert ran.packet[:ETHERNET] == data[:ETHERNET]


def test_a_relay_that_delays_hands_on_every_byte_of_a_frame_behind_the_time_at_which_it_came() -> None:
    chance = random.Random(1)
    frames = [chance.randbytes(size) for size in (*range(ETHERNET, 120), 1514)]
    with load_object(object_path(HostRouting.BPF, Encapsulation.VXLAN).with_name("delay.o")) as loaded:
        bpf.update(loaded.maps["delay_config"], [(bytes(4), struct.pack("<IIQQ", 1, 1, 5, 0))])
        for frame in frames:
            data = frame[:12] + b"\x12\x34" + frame[14:]
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            came = bpf.run_program(loaded.programs["delay_in"], data)
            (at_ns,) = struct.unpack_from("<Q", came.packet)
            assert came.returned == XDP_REDIRECT
            assert came.packet[8:] == data
            assert before <= at_ns <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            out = bpf.run_program(loaded.programs["delay_out"], data)
            assert (out.returned, out.packet) == (REDIRECTED, data)
