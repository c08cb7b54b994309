"""The seam between the engine and whatever builds a lab.

A provider plans (pure), carries out actions, finds what it made by its mark, removes it, and opens a running lab.
A check sees only `OpenLab` and `Target`: a name, a way to run argv there, and the taps on the way of a pair. The same
check therefore runs in a namespace, a kind node or a virtual machine.

What may be done to a lab that is up is `live`. What every provider has are the methods of `Provider`, `Executor` and
`OpenLab`; what only some have is one value, `Capabilities`. How to add one: CONTRIBUTING.md.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labctl.errors import LabError
from labctl.model.result import Completed as Completed
from labctl.providers.live import Changing as Changing
from labctl.providers.live import Keeping as Keeping
from labctl.providers.live import Kept as Kept
from labctl.values import dataclass

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.model.drift import Drift
    from labctl.model.evidence import DatapathState, Evidence, ModeInForce
    from labctl.model.impairment import ImpairedWay
    from labctl.model.lab import Lab, Pair
    from labctl.model.lab_event import LabEvent, LiveState
    from labctl.model.node_status import NodeStatus
    from labctl.model.plan import Action, Plan
    from labctl.model.service_lists import NodeServices
    from labctl.model.signature import Role
    from labctl.model.trace import Movement, PacketKey, Unshown


class Provider(Protocol):
    """Builds, finds, opens and removes labs of one kind."""

    @property
    def name(self) -> str: ...

    @property
    def statement(self) -> str:
        """One sentence about what the datapath is, for status and reports (netns: labctl's own, not Cilium)."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its labs can do beyond what every lab can."""
        ...

    def statements(self, lab: Lab) -> tuple[str, ...]:
        """What a reader of this lab's figures must know first: `statement`, and what the node carries (iptables
        rules, conntrack), since the size of an effect depends on it."""
        ...

    def probes(self) -> Iterator[Probe]:
        """What this host has and lacks, found by trying."""
        ...

    def refuse(self, lab: Lab) -> None:
        """Raises UsageError, with the key at fault, for what `plan` would refuse in any lab of that scenario, and costs
        little. Pure: it asks nothing of the host."""
        ...

    def plan(self, lab: Lab) -> Plan:
        """Pure. Raises UsageError when the lab asks for what this provider cannot do."""
        ...

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        """What carries out the actions of this provider's plans."""
        ...

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        """Every lab of this provider on this host, whole or in pieces; with `name` only that one, which is quicker.
        Raises HostLacks when it has no right to look."""
        ...

    def teardown(self, name: str) -> None:
        """Removes the lab of that name, whole or in pieces, and nothing that does not carry its mark.
        Idempotent."""
        ...

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]: ...


class Executor(Protocol):
    """Carries out actions, several at once where that is faster."""

    def execute(self, actions: Sequence[Action]) -> None:
        """Raises StepFailed with the command that a person would have typed and what the kernel or tool said."""
        ...

    def finish(self, lab: Lab) -> None:
        """Called after the last step: records that the lab is whole."""
        ...


class Packing(Protocol):
    """For labs that are made from images and a chart, which can be listed and carried to another host."""

    def images(self, lab: Lab) -> tuple[Part, ...]:
        """Every image and the chart of the lab, with the digests that are known here."""
        ...

    def pack(self, lab: Lab, output: Path) -> tuple[Part, ...]:
        """Writes a bundle of them. Raises UsageError when one is missing here, StepFailed when writing fails."""
        ...

    def unpack(self, path: Path) -> Mapping[str, Mapping[str, object]]:
        """Verifies a bundle, puts it where this host needs it, and returns what to lay over a lab's settings, by
        section, so that nothing else is used; None removes a key. Raises UsageError."""
        ...


class Switching(Protocol):
    """For changing the datapath of a lab that is up."""

    def strategy(self, lab: Lab, *, sides: int = 2) -> StrategyChoice:
        """What the scenario says, else what this host has room for."""
        ...

    def switch(self, before: Lab, after: Lab) -> Plan:
        """From `before`, which is up, to `after`, which has the same name. Pure. Raises UsageError when they differ in
        more than the datapath."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A lab as it is, compared with what is wanted of it, and the steps that bring it there: none where it is."""

    drift: Drift
    plan: Plan


class Drifting(Protocol):
    """For comparing a lab that is up with its plan, or with another one, and for changing what differs."""

    @property
    def is_quick(self) -> bool:
        """Whether comparing takes so little that `status` and `list` do it unasked."""
        ...

    def compared(self, lab: Lab, *, parts: Collection[str] = (), scenario: str = "") -> Compared:
        """What of the lab of that name differs from `lab`, and how it gets there; with `parts` only of those.
        `scenario` names what it is compared with, where that is not its own plan. Raises LabError."""
        ...

    def recorded(self, name: str) -> Lab | None:
        """What the lab was built as, by its record alone; None where one has to look whether it is there at all."""
        ...

    def begin_change(self, after: Lab) -> None:
        """Writes down what the lab of that name is about to become, until `end_change`."""
        ...

    def end_change(self, lab: Lab) -> None: ...

    def cut_off(self, name: str) -> Lab | None:
        """What the lab was about to become when labctl was killed; None otherwise, or if a labctl is at work on it."""
        ...

    def forget_changes(self, lab: Lab, parts: Collection[str] = ()) -> None:
        """The lab is as its plan says again: nothing of it is changed on purpose any more; with `parts` nothing of
        those, the links that end at them included."""
        ...

    def mending(self, lab: Lab) -> AbstractContextManager[Executor]:
        """Carries out the steps of `compared`. Raises UsageError while another labctl changes the lab."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Something that is waited for, as it is now. `what` and `seen` are phrases: what it is, and what was seen of it
    last. `usual_s`: how long it took here before, None where it was never waited for."""

    what: str
    seen: str
    waited_s: float
    usual_s: float | None = None


class EventSource(Protocol):
    """What happens in a lab that is up, told by its kernel as it happens."""

    def wait(self, timeout_s: float) -> tuple[LabEvent, ...]:
        """What happened since; empty when nothing did within that time."""
        ...

    def look(self) -> LiveState:
        """The nodes and links as they are now."""
        ...

    def follow(self, lab: Lab) -> None:
        """The lab of that name became this one: from now on `look` is at its nodes and links."""
        ...


Tell = Callable[[str | Wait, float | None], None]
"""Called with a phrase when an act begins (None), and again when it has ended, with its seconds. An act that turned out
to be unneeded has no end. Called with a `Wait` each time that something else is seen of what is waited for."""


def untold(act: str | Wait, duration_s: float | None) -> None:
    """The `Tell` of callers that show nothing."""
    del act, duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """One thing that a support archive takes: `file` is its path in it, `source` the command or the file that a person
    would look at, `read` gives its text. `read` raises LabError or OSError, and is called in a thread of its own."""

    file: str
    source: str
    read: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidenced:
    """What a provider has to show of a lab, and secrets (passwords, keys) that it knows to look for in all of it.
    `unopened`: why the lab cannot be opened, where asking for the exhibits has shown that already."""

    exhibits: tuple[Exhibit, ...]
    secrets: tuple[str, ...] = ()
    unopened: LabError | None = None


class Supporting(Protocol):
    """For putting everything about a lab into one archive, however damaged the lab is."""

    def has_left(self, name: str) -> bool:
        """Whether this host has files of a lab of that name, though it is not found: those of a build that failed."""
        ...

    def evidenced(self, name: str, running: RunningLab | None) -> AbstractContextManager[Evidenced]:
        """What there is to read, as far as is known beforehand; nothing is read yet but what the list needs, and what
        cannot be asked is an exhibit that says so. Raises nothing that a damaged lab can be the reason of."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Whether several labs are built at the same time, or one after the other; `because` is a sentence for the run."""

    at_once: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the labs of one provider can do beyond what every lab can. The defaults: they cannot."""

    runs_tools_here: bool = False
    """The tools are children of this process, so that their CPU time is known apart from other processes'."""
    is_proven_when_built: bool = False
    """Other software makes the datapath (Cilium): the mode in force is checked as soon as the lab is up."""
    packing: Packing | None = None
    support: Supporting | None = None
    """Its labs have more to show for a support archive than what any lab has."""
    switching: Switching | None = None
    keeping: Keeping | None = None
    """A boot takes its labs; they can be brought back from what is kept of them."""
    after_boot: str = "its nodes come back by themselves"
    """Where a boot takes no lab: what becomes of one, as a phrase."""
    changing: Changing | None = None
    """Links, nodes and what else a person may change while a lab is up."""
    drifting: Drifting | None = None
    """Its labs can be compared with their plans, thing by thing."""
    events: Callable[[Lab], AbstractContextManager[EventSource]] | None = None
    """What happens in a lab can be listened to, without asking."""
    enter: Callable[[Lab, str, bool], tuple[str, ...]] | None = None
    """Labctl's own process enters that pod or node, to become a program there. What returns from this call is inside,
    with the powers and the process numbers that `Target.run` gives: a child of the calling process, which waits outside
    and ends as the child does. With True (privileged) it is the calling process itself, with all its powers. Returns a
    sentence about each thing that is not as it should be. Raises MeasureFailed."""
    argv_inside: Callable[[Lab, str, Sequence[str]], tuple[str, ...]] = lambda lab, target, argv: tuple(argv)
    """What a process that has entered that pod or node becomes for argv: the same, or with options that a program
    needs there."""
    processes: Callable[[str], tuple[str, ...]] = lambda name: ()
    """A person's processes run in the lab of that name as long as it is there: those inside it now, each by its name
    and number."""
    telling: Callable[[Tell], AbstractContextManager[None]] = lambda tell: nullcontext()
    """Steps take long: while the context lasts `tell` is called for each act, of building and of teardown alike."""
    together: Callable[[Sequence[Lab]], Together] = lambda labs: Together(
        at_once=False, because="its labs are built one after the other"
    )
    """Several labs can be built at the same time, where this host has room for that."""
    machine_probes: Callable[[], Iterator[Probe]] = lambda: iter(())
    """Labs are on machines other than this host: what those of lab.yaml have and lack, read on them."""
    needs: Callable[[Lab], tuple[str, ...]] = lambda lab: ()
    """What this lab needs of the host beside what every lab does: names of probes."""
    tidy: Callable[[], None] = lambda: None
    """A labctl that was killed can leave what no lab's name leads to (a lock, half a file, a mount): removes it, and
    nothing of a lab that is there or is being built. Raises LabError."""
    placement: Callable[[str], Mapping[str, str]] = lambda name: {}
    """The lab's nodes are nodes of a cluster that was there: by the lab's name, the name in the cluster of each of its
    nodes."""
    rights: Callable[[Lab, str, bool], str] | None = None
    """Building takes rights that somebody has to give: the manifest that gives the smallest that do, for that subject
    (`user:NAME`, `group:NAME`, `serviceaccount:NAMESPACE:NAME`); with True those to ask the cluster's own agents too.
    Raises UsageError."""
    seek: Callable[[str], RunningLab | None] = lambda name: None
    """Labs are on other machines, where their mark outlives this host's record: looks on the machines themselves
    for the lab of that name, which takes seconds. None when no machine carries its mark. Raises StepFailed when none
    does and some did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing the host must have, and whether it has it.

    `needed_for` is a phrase ("building labs", "check latency"); `remedy` is a command that mends it. Of a program,
    `path`, `implementation` and `version` are those of the one that was found (empty where not known), and `needs` is
    what is required.
    """

    name: str
    present: bool
    found: str
    needed_for: str
    remedy: str = ""
    required: bool = True
    path: str = ""
    implementation: str = ""
    version: str = ""
    needs: str = ""
    is_looked_at: bool = True
    """False where it could not even be tried: then nothing is known, and `found` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLab:
    """A lab that was found by its mark. `is_whole` is false when parts are missing, and where no machine answered;
    `lab` is None when only the mark is left (after a crash)."""

    name: str
    provider: str
    scenario: str
    digest: str
    is_whole: bool
    lab: Lab | None
    missing: tuple[str, ...] = ()
    is_resumable: bool = False
    """A half-built one is resumed, not removed first."""
    is_being_built: bool = False
    """A labctl that is alive is building it now; no other process may touch it."""
    can_be_opened: bool = False
    """Though something is missing, every place that commands run in is there: the lab can be looked at and measured."""
    unasked: LabError | None = None
    """Why the engine or the machines of the lab could not be read. Only this host's record is known: the lab may be
    whole, so it must not be changed on that ground."""
    can_be_removed: bool = False
    """Though `unasked` says why it could not be read, all that is its own is known by its mark."""
    is_by_record: bool = False
    """It is known from this host's record alone; its machines were not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that a lab is made from. `role` is `node`, `agent`, `operator`, `tools`, `chart`, or the name of one of
    Kubernetes' own images; `digest` is empty where it is not known here (not pulled yet). `source` says what lists it,
    where that is not the scenario."""

    role: str
    reference: str
    digest: str
    source: str = ""

    def record(self) -> dict[str, object]:
        said = {"source": self.source} if self.source else {}
        return {"role": self.role, "reference": self.reference, "digest": self.digest or None, **said}


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyChoice:
    """Whether the sides of a comparison take turns on one lab (`switches`), or stand side by side. `because` is a
    sentence for the report; `is_asked` means that the scenario says so."""

    switches: bool
    because: str
    is_asked: bool = False


class OpenLab(Protocol):
    """A running lab that checks can look at."""

    @property
    def lab(self) -> Lab:
        """The resolved lab, with addresses, MACs and identities as they are on the running lab."""
        ...

    def target(self, name: str) -> Target:
        """The pod, node or host outside of that name. Raises UsageError with a suggestion."""
        ...

    def targets(self) -> tuple[Target, ...]: ...

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        """Every tap on the way of the pair, in the order from client to server (both nodes' taps; one node's
        for a same-node pair)."""
        ...

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        """The devices on the way with their MACs; roles are those of `Role`, for naming MACs."""
        ...

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        """Of those nodes, measured now; empty where all nodes have this host's clock. Raises MeasureFailed or
        StepFailed."""
        ...

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        """Reads every witness of the provider, calls `send` (which sends known traffic between the pair), reads again,
        and returns what the difference means. Must not read what was asked except to judge `supports`."""
        ...

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        """Makes every node of the lab report each packet between the two pods, plain or encapsulated, while the
        context lasts; afterwards the nodes are as before. Must not read what was asked for. Raises MeasureFailed."""
        ...

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        """Those nodes as `cilium status --verbose` shows them, with the lines of `mode` that packets showed. Empty
        where the lab has nothing of the kind. Raises MeasureFailed."""
        ...

    def services(self) -> tuple[NodeServices, ...]:
        """What each node translates of Services now, read from what is in force. Raises MeasureFailed."""
        ...

    def has_daemon_set(self, name: str) -> bool | None:
        """Whether kube-system has that DaemonSet; None where there is no Kubernetes. Raises MeasureFailed."""
        ...

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        """Each direction of a link that loses, delays or otherwise impairs packets on purpose, as it is now."""
        ...

    def datapath_state(self) -> DatapathState:
        """What is attached to the nodes' devices now and what the maps hold, with the commands that show it by hand.
        Raises MeasureFailed."""
        ...


class Running(Protocol):
    """A process that was started and is not waited for yet. Leaving its context kills it."""

    @property
    def argv(self) -> tuple[str, ...]: ...

    def is_alive(self) -> bool: ...

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        """Blocks until `text` was in stdout or stderr. Raises MeasureFailed with what was last seen."""
        ...

    def stop(self, *, sig: int = signal.SIGTERM, timeout_s: float = 5.0) -> Completed:
        """Sends the signal (unless it has ended), waits, kills at the deadline, and gives everything it printed."""
        ...

    def wait(self, *, timeout_s: float) -> Completed:
        """Waits for its own end; kills it at the deadline (`timed_out`)."""
        ...


class TargetKind(StrEnum):
    NODE = "node"
    POD = "pod"
    OUTSIDE = "outside"
    ROUTER = "router"
    UNDERLAY = "underlay"


class Target(Protocol):
    """A place where argv can be run: a node, a pod, a host outside, or (for `netns`) the underlay."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> TargetKind: ...

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        """The full command that a person would paste to run argv there. `with_input`: argv reads its standard input."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        """Runs argv to its end, with LC_ALL=C, pinned to `cpu` where given. Raises MeasureFailed if the
        program is not there."""
        ...

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        """Starts argv; leaving the context ends it whatever happens. With `output`, a descriptor, what it prints on
        standard output goes there as it comes and is not kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """An interface where packets can be seen. `name` is unique in the lab (`node1:lxc3f…`, `client:eth0`). `own` is the
    pcap expression for labctl's own traffic that passes there, which no capture takes; empty where none does."""

    name: str
    role: Role
    target: Target
    interface: str
    own: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice:
    """A device of the lab with its MAC address, so that an address in a capture can be named by its role."""

    role: str
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """`offset_s` is the node's clock minus this host's; the truth is within `error_s` of it on either side."""

    node: str
    offset_s: float
    error_s: float


class Watch(Protocol):
    """What a provider's witnesses saw of single packets, since it was opened. See `OpenLab.watching`."""

    def movements(self) -> tuple[Movement, ...]:
        """Everything so far, each node's in the order in which it happened."""
        ...

    def evidence(self) -> tuple[Evidence, ...]:
        """What the nodes show of the pair now: connections tracked, rules that dropped."""
        ...

    def gaps(self) -> tuple[str, ...]:
        """What could not be watched, each as a sentence; events that were lost, too."""
        ...

    def unshown(self) -> tuple[Unshown, ...]:
        """What the nodes' kernel cannot report of any packet."""
        ...

    def act_before_tap(self, part: str, device: str, packet: PacketKey, frame: bytes) -> Movement | None:
        """What a program that stands before any tap of that device does with this frame; None where there is none, or
        it lets it pass. Asked where a frame left for the device and its tap did not see it."""
        ...
