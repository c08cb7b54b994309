"""Hubble and pwru beside the monitors, through scripted doors: heard where they can be, a line why where not."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from labctl.errors import MeasureFailed
from labctl.model.evidence import Evidence
from labctl.model.lab import Lab, Placement
from labctl.providers.base import Completed, Running, TargetKind
from labctl.providers.cilium.hubble_pwru import MOST_EVENTS
from labctl.providers.cilium.monitor import Devices
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.cilium.watch import MonitorWatch, Unheard, Wish, host_of, watching, wishes
from labctl.testing.labs import example_lab

from .cilium_recordings import recorded

TIMES = b"labctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.01s\n"
KERNEL = "boot=here\nrelease=6.8.0\nbtf=yes\nkprobes=yes\ntracing=/sys/kernel/tracing\nversion=pwru 1.0.12\n"
PLACES = {
    "node1": "boot=here\nnetns=net:[4026532575]\nlink=12 lxc3a6f7d4e8c73\nlink=9 eth0\n",
    "node2": "boot=here\nnetns=net:[4026532700]\nlink=9 eth0\n",
    "client": "boot=here\nnetns=net:[4026532801]\nlink=2 eth0\n",
    "server": "boot=here\nnetns=net:[4026532802]\nlink=2 eth0\n",
}
HUBBLE = recorded("encoded/hubble-jsonpb.1.16.0.txt")
PWRU = recorded("documented/pwru-json.txt")
RUNS = '{"hubble": {"state": "Ok"}}'
TCP_EVENTS = 3


def done(argv: Sequence[str], text: str) -> Completed:
    return Completed(argv=tuple(argv), returncode=0, stdout=text.encode(), stderr=TIMES, duration_s=0.1)


@dataclass
class Tools:
    """Answers by what stands in the command line. `silent` and `broken` are programs that never get ready, `ending`
    those that end by themselves."""

    found: tuple[str, ...] = ("pwru",)
    prefix: tuple[str, ...] = ()
    kernel: str = KERNEL
    status: str = RUNS
    hubble: str = HUBBLE
    pwru: str = PWRU
    monitor: str = ""
    silent: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=lambda: dict(PLACES))
    said: list[str] = field(default_factory=list)

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self.found else None

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        self.said.append(line)
        if "status -o json" in line:
            return done(argv, self.status)
        if "netns=" in line:
            return done(argv, self.places[argv[1]])
        if "pwru --version" in line:
            return done(argv, self.kernel)
        if "kill -" in line:
            return done(argv, "")
        raise AssertionError(f"unexpected command: {line}")

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> AbstractContextManager[Running]:
        self.said.append(" ".join(argv))
        return self._started(tuple(argv))

    @contextlib.contextmanager
    def _started(self, argv: tuple[str, ...]) -> Iterator[Running]:
        word = next(name for name in ("hubble observe", "pwru", "monitor") if name in " ".join(argv)).split()[0]
        yield Told(argv, word, self)


@dataclass
class Told:
    argv: tuple[str, ...]
    word: str
    tools: Tools
    ended: bool = False

    def is_alive(self) -> bool:
        return not self.ended and self.word not in (*self.tools.broken, *self.tools.ending)

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        if self.word in (*self.tools.silent, *self.tools.broken):
            raise MeasureFailed(what=f"no {text}", cause="nothing was said")
        assert self.word == "monitor" or text in {"hubble": self.tools.hubble, "pwru": self.tools.pwru}[self.word]

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> Completed:
        self.ended = True
        told = {"hubble": self.tools.hubble, "pwru": self.tools.pwru, "monitor": self.tools.monitor}
        return done(self.argv, told[self.word])


def behind(tools: Tools, name: str, *door: str) -> DoorTarget:
    return DoorTarget(name=name, kind=TargetKind.NODE, door=Door(closed=door, open=door), commands=tools)


def wished(tools: Tools, lab: Lab, config: Mapping[str, str], *, on_machines: bool = False) -> tuple[Wish, ...]:
    targets = {name: behind(tools, name, *(() if on_machines else ("into", name))) for name in PLACES}
    agents = {name: behind(tools, f"agent-{name}", "into", f"agent-{name}") for name in ("node1", "node2")}
    return wishes(
        lab, lab.pairs[0], namespace="labctl-example", agents=agents, targets=targets, config=config, values={}
    )


@contextlib.contextmanager
def watched(tools: Tools, lab: Lab | None = None, hubble: str = "true") -> Iterator[MonitorWatch]:
    lab = lab or example_lab()
    agents = {name: behind(tools, f"agent-{name}", "into", f"agent-{name}") for name in ("node1", "node2")}
    devices = {lab.pod(name).node: Devices(lxcs={7: lab.pod(name).lxc}) for name in ("client", "server")}
    others = wished(tools, lab, {"enable-hubble": hubble})
    with watching(lab, lab.pairs[0], agents, devices, "none", lambda: (), others) as watch:
        yield watch


def findings(watch: MonitorWatch) -> list[str]:
    return [f"{one.witness} {one.where}: {one.finding}" for one in watch.evidence() if one.witness != "monitor"]


def test_both_are_read_and_reported_by_node() -> None:
    with watched(Tools()) as watch:
        movements = watch.movements()
        evidence = watch.evidence()
    assert {(m.what, m.node) for m in movements} == {
        ("hubble", "node1"), ("hubble", "node2"), ("pwru", "node1"), ("pwru", "node2"),
    }  # fmt: skip
    assert [(one.witness, one.where, one.supports) for one in evidence] == [
        ("monitor", "node1", None), ("monitor", "node2", None),
        ("pwru", "this host", None), ("hubble", "node1", None), ("hubble", "node2", None),
    ]  # fmt: skip
    evidence = evidence[2:]
    assert evidence[0].finding.startswith("3 events of the pair: node1 ip_rcv 1×, node1 ip_forward 1×, node2 kfree_skb")
    assert evidence[1].command.startswith("into agent-node1 hubble observe --follow")


def test_the_older_flow_that_showed_hubble_listening_is_not_of_this_trace() -> None:
    with watched(Tools(found=())) as watch:
        movements = watch.movements()
    assert len(movements) == 2 * TCP_EVENTS
    assert {m.packet.protocol for m in movements} == {"tcp"}


def test_without_an_older_flow_nothing_is_cut_off() -> None:
    with watched(Tools(found=(), silent=("hubble",))) as watch:
        movements, gaps = watch.movements(), watch.gaps()
    assert len(movements) == 2 * (TCP_EVENTS + 1)
    assert gaps == ("hubble on node1 lost 3 events", "hubble on node2 lost 3 events")


def test_packets_of_others_are_left_out() -> None:
    tools = Tools(hubble=HUBBLE.replace("10.244.1.20", "10.244.1.99"), pwru=PWRU.replace("10.244.1.20", "10.244.1.99"))
    with watched(tools) as watch:
        assert watch.movements() == ()
        assert all(one.finding == "no event of the pair" for one in watch.evidence())


def test_pwru_runs_once_on_a_host_that_carries_all_nodes() -> None:
    tools = Tools()
    with watched(tools, hubble="false") as watch:
        watch.movements()
    (line,) = [line for line in tools.said if "--output-json" in line]
    assert "into node" not in line
    assert "--filter-netns" not in line
    assert line.endswith("host 10.244.0.10 and host 10.244.1.20")


def test_pods_of_one_node_are_listened_to_in_its_namespace_alone() -> None:
    tools = Tools()
    lab = example_lab(placement=Placement.SAME_NODE)
    with watched(tools, lab, hubble="false") as watch:
        watch.movements()
    (line,) = [line for line in tools.said if "--output-json" in line]
    assert "--filter-netns inode:4026532575" in line


def test_on_machines_pwru_runs_on_each_of_the_pairs() -> None:
    tools = Tools(prefix=("ssh", "machine"))
    tools.places = {"-c": PLACES["node1"]}  # no door: the word after `sh`
    found = wished(tools, example_lab(), {"enable-hubble": "false"}, on_machines=True)
    assert [(wish.witness, wish.where) for wish in found] == [
        ("pwru", "node1"), ("pwru", "node2"), ("hubble", "node1, node2"),
    ]  # fmt: skip


def test_only_this_hosts_clock_gives_events_a_time() -> None:
    for prefix, is_timed in (((), True), (("ssh", "machine"), False)):
        with watched(Tools(prefix=prefix), hubble="false") as watch:
            assert {m.time_ns is not None for m in watch.movements()} == {is_timed}


@pytest.mark.parametrize(
    ("tools", "hubble", "told"),
    [
        (Tools(found=()), "true", "pwru this host: not available: the program pwru is not there"),
        (
            Tools(kernel=KERNEL.replace("kprobes=yes\n", "")), "true",
            "pwru this host: not available: the kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)",
        ),
        (
            Tools(kernel=KERNEL.replace("boot=here", "boot=there")), "true",
            "pwru this host: not available: the nodes have another kernel: the engine is not on this host",
        ),
        (
            Tools(places=PLACES | {"node2": "sh: readlink: not found"}), "true",
            "pwru node1, node2: not available: cannot read the network namespace and the kernel of node2",
        ),
        (
            Tools(), "false",
            (
                "hubble node1, node2: not available: it is not enabled; "
                "cilium: {values: {hubble: {enabled: true}}} enables it"
            ),
        ),
        (
            Tools(status='{"hubble": {"state": "Failure", "msg": "no socket"}}'), "true",
            "hubble node2: not available: the agent's status says: Failure, no socket",
        ),
    ],
    ids=["no program", "no kprobes", "another kernel", "no namespace", "not enabled", "failing"],
)  # fmt: skip
def test_one_that_is_not_available_is_a_line_and_no_error(tools: Tools, hubble: str, told: str) -> None:
    with watched(tools, hubble=hubble) as watch:
        watch.movements()
        assert told in findings(watch)
        assert not [gap for gap in watch.gaps() if "lost" not in gap]


def test_where_hubble_is_off_no_agent_is_asked_for_its_status() -> None:
    tools = Tools(found=())
    wished(tools, example_lab(), {"enable-hubble": "false"})
    assert tools.said == []


def test_where_nothing_is_said_about_hubble_the_agents_decide() -> None:
    found = wished(Tools(found=(), status=recorded("status-bpf-vxlan.json")), example_lab(), {})
    assert [type(wish) for wish in found] == [Unheard, Unheard, Unheard]
    assert [wish.where for wish in found if wish.witness == "hubble"] == ["node1", "node2"]


@pytest.mark.parametrize("word", ["hubble", "pwru"])
def test_one_that_fails_when_started_is_a_gap_and_the_others_go_on(word: str) -> None:
    with watched(Tools(broken=(word,))) as watch:
        movements, gaps = watch.movements(), watch.gaps()
    assert {m.what for m in movements} == {"hubble", "pwru"} - {word}
    assert any(gap.startswith(f"{word} on ") and gap.endswith("(nothing was said)") for gap in gaps)


def test_pwru_that_ended_by_its_bound_says_so() -> None:
    with watched(Tools(pwru=PWRU + "\n" * MOST_EVENTS), hubble="false") as watch:
        watch.movements()
        assert watch.gaps() == (f"pwru on this host ended after {MOST_EVENTS} events",)


def test_a_node_without_a_door_is_its_own_host() -> None:
    tools = Tools()
    machine, container = behind(tools, "node1"), behind(tools, "node1", "docker", "exec", "worker")
    assert host_of(machine) is machine
    assert (host_of(container).name, host_of(container).door.closed) == ("this host", ())


def test_what_is_not_available_judges_nothing() -> None:
    told = Unheard(witness="pwru", where="this host", why="the program pwru is not there").evidence()
    assert told == Evidence(
        witness="pwru", where="this host", finding="not available: the program pwru is not there", supports=None
    )


def test_what_each_nodes_monitor_reported_of_the_pair_is_a_line_with_its_command() -> None:
    line = (
        "-> overlay flow 0x0 , identity 16843->23579 state new ifindex cilium_vxlan orig-ip 0.0.0.0: "
        "10.244.0.10 -> 10.244.1.20 EchoRequest\n"
    )
    with watched(Tools(monitor=line * 2 + line.replace("10.244.1.20", "10.244.1.99")), hubble="false") as watch:
        movements = [one for one in watch.movements() if one.helper == "to-overlay"]
        told = [one for one in watch.evidence() if one.witness == "monitor"]
    assert [(one.where, one.finding, one.supports) for one in told] == [
        ("node1", "2 events of the pair: to-overlay 2×", None), ("node2", "2 events of the pair: to-overlay 2×", None),
    ]  # fmt: skip
    assert len(movements) == 4
    assert told[0].command.startswith("into agent-node1 sh -c ")
    assert told[0].command.endswith("cilium monitor -j -t trace -t drop")


def test_events_that_monitor_lost_and_a_monitor_that_ended_are_gaps() -> None:
    with watched(Tools(monitor="CPU 01: Lost 12 events\n", ending=("monitor",)), hubble="false") as watch:
        watch.movements()
        gaps = watch.gaps()
    assert gaps == (
        "monitor on node1 ended by itself: later events are missing",
        "monitor on node1 lost 12 events, of these packets or of others",
        "monitor on node2 ended by itself: later events are missing",
        "monitor on node2 lost 12 events, of these packets or of others",
    )
