"""Routing daemons (FRR) of a router or node, one process each in its namespace, and the wait for what they learn.

Each router has a folder of its own below FRR's, named after its namespace: configuration, pid files, logs and the
sockets that vtysh talks to. The daemons see it in place of FRR's own (FRR's path spaces, `-N`, leave some files in
common). The processes end with the namespace when the lab is removed; the folder is removed by its name.
"""

from __future__ import annotations

import errno
import pwd
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from labctl.errors import HostLacks, StepFailed
from labctl.json_text import parse_json
from labctl.names import split_namespace
from labctl.planning.shell import quoted, word, written
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    Object,
    ObjectKind,
    Thing,
)
from labctl.providers.netns.kinds.link import OnDevice, ip
from labctl.providers.netns.kinds.routing import LEARNED, AddressAdd
from labctl.system import files, host_files, netns, rtnetlink, rtnetlink_changes
from labctl.system.clock import Deadline
from labctl.values import dataclass

FOLDER = Path("/run/frr")
PROGRAMS = Path("/usr/lib/frr")
_USER = "frr"
_OWN_FOLDER = f'mount --bind "$1" {FOLDER} && shift && exec "$@"'
_START_TIMEOUT_S = 20.0
_POLL_S = 0.02
_ANSWER_S = 5.0
_MOST_ANSWER_BYTE = 8 << 20
ZEBRA, _BGPD = "zebra", "bgpd"
_ADDRESS_S = 0.5
"""Seconds after which an address that zebra does not know is said again."""
_TIMERS = re.compile(r"timers bgp (\d+) (\d+)")
LACKS = "sudo make setup-networks"
"""What installs FRR, in the folder that this program came in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One daemon by its program's name (`zebra`), and its configuration."""

    name: str
    configuration: str


def path_space(namespace: str) -> str:
    """The folder's name. Names of labs and their parts have no underscores."""
    return namespace.replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrStart(Object):
    """Starts the daemons of one router, in their order."""

    namespace: str
    daemons: tuple[Daemon, ...]

    @property
    def folder(self) -> Path:
        return FOLDER / path_space(self.namespace)

    def argv(self, daemon: Daemon) -> tuple[str, ...]:
        return (
            "unshare", "--mount", "--", "sh", "-c", _OWN_FOLDER, "sh", str(self.folder),
            str(PROGRAMS / daemon.name), "-d", "-f", str(FOLDER / f"{daemon.name}.conf"),
            "--log", f"file:{FOLDER / daemon.name}.log", "--log-level", "warnings",
        )  # fmt: skip

    def shell(self) -> str:
        lines = [f"install -d -o {_USER} -g {_USER} -m 750 {word(FOLDER)} {word(self.folder)}"]
        lines.append(f": > {word(self.folder / 'vtysh.conf')}")
        lines += [written(self.folder / f"{daemon.name}.conf", daemon.configuration) for daemon in self.daemons]
        lines.append(f"chown {_USER}:{_USER} {word(self.folder)}/*.conf")
        lines += [self.by_hand(daemon) for daemon in self.daemons]
        return "\n".join(lines)

    def by_hand(self, daemon: Daemon) -> str:
        """What a person types to start that one."""
        return quoted(netns.command(self.namespace, self.argv(daemon)))

    def things(self) -> Iterator[Thing]:
        for daemon in self.daemons:
            yield Thing(self.namespace, ObjectKind.DAEMON, _daemon_name(daemon.name))

    def undo(self) -> tuple[Object, ...]:
        return (FrrRemove(namespace=self.namespace),)

    def batch(self) -> Batch:
        return (_start_all,)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrRestart(FrrStart):
    """Ends what is left of the daemons of one router, and starts them all."""

    def shell(self) -> str:
        names = " ".join(daemon.name for daemon in self.daemons)
        ended = f"ip netns pids {word(self.namespace)} | xargs -r ps -o pid=,comm= -p"
        return f"{ended} | grep -wE {word(names.replace(' ', '|'))} | awk '{{print $1}}' | xargs -r kill -9\n" + (
            FrrStart.shell(self)
        )

    def batch(self) -> Batch:
        return (_restart_all,)


def _restart_all(objects: Sequence[FrrRestart], context: BuildContext) -> None:
    for one in objects:
        names = {daemon.name for daemon in one.daemons}
        if (key := netns.key_of(one.namespace)) is not None:
            for pid in netns.processes_in([key]):
                if netns.name_of(pid) in names:
                    netns.end_process(pid, [key])
    _start_all(objects, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrConfigure(Object):
    """Tells a routing daemon what it is to go by. `commands` are statements of its configuration, each behind those
    that it stands in."""

    namespace: str
    daemon: str
    commands: tuple[tuple[str, ...], ...]

    @property
    def timers(self) -> tuple[int, int] | None:
        """The keepalive and hold time, in seconds, that BGP's sessions are to have; None where it says none."""
        said = next((_TIMERS.fullmatch(lines[-1]) for lines in self.commands if _TIMERS.fullmatch(lines[-1])), None)
        return (int(said[1]), int(said[2])) if said else None

    @property
    def is_removal(self) -> bool:
        return all(lines[-1].startswith("no ") for lines in self.commands)

    def argv(self) -> tuple[str, ...]:
        words = ["-d", self.daemon]
        for lines in self.commands:
            for line in ("configure terminal", *lines, "end"):
                words += ["-c", line]
        return netns.command(self.namespace, vtysh(self.namespace, words))

    def shell(self) -> str:
        return quoted(self.argv())

    def make(self, context: BuildContext) -> None:
        from labctl.system.process import Process  # not where a lab is only planned

        with Process(self.argv()) as process:
            done = process.wait(timeout_s=_START_TIMEOUT_S)
        # What is to go may be gone with what it stood in.
        if done.timed_out or (done.returncode and not self.is_removal):
            raise StepFailed(
                what=f"FRR's {self.daemon} in {self.namespace} did not take a statement",
                cause=(done.error_text or done.text).strip()[-500:],
                remedy=self.shell(),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressesTell(Object):
    """Waits until the zebra that runs in a namespace knows addresses that devices got after it started, and has the
    kernel say those again that it missed: FRR 8 drops one that comes before it has read the device's own message, and
    BGP then has no session over that device."""

    namespace: str
    addresses: tuple[AddressAdd, ...]
    timeout_s: float = 20.0

    def shell(self) -> str:
        return "\n".join(
            f"{ip(self.namespace)} address replace {one.address} dev {word(one.device)}" for one in self.addresses
        )

    def make(self, context: BuildContext) -> None:
        channel, deadline = context.namespaces.channel(self.namespace), Deadline.after(self.timeout_s)
        say_again = Deadline.after(_ADDRESS_S)
        while lacking := self._lacking():
            if deadline.is_over():
                _, part = split_namespace(self.namespace) or ("", self.namespace)
                raise StepFailed(
                    what=f"the zebra of {part} does not know {lacking[0].address} after {self.timeout_s:g} s",
                    cause=f"{len(lacking)} addresses of devices that were made while it ran are missing",
                    remedy=f"{ip(self.namespace)} address replace {lacking[0].address} dev {word(lacking[0].device)}",
                )
            if say_again.is_over():
                channel.send([rtnetlink_changes.address_replace(one.index, one.address) for one in lacking])
                say_again = Deadline.after(_ADDRESS_S)
            time.sleep(_POLL_S)

    def _lacking(self) -> list[AddressAdd]:
        asked = "show interface brief json"
        try:
            known = parse_json(_said(self.namespace, ZEBRA, asked))
        except (ConnectionRefusedError, FileNotFoundError):
            return []  # none runs there, and one that starts reads what is there
        except (OSError, ValueError) as failed:
            raise StepFailed(
                what=f"the zebra in {self.namespace} does not say which addresses it knows",
                cause=str(failed),
                remedy=quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", asked)))),
            ) from failed
        return [one for one in self.addresses if str(one.address) not in known.get(one.device, {}).get("addresses", ())]


def addresses_told(actions: Iterable[Object], running: Collection[str]) -> Iterator[AddressesTell]:
    """For the daemons that run already in these namespaces and stay, when these actions are carried out."""
    added: dict[str, list[AddressAdd]] = {}
    for one in actions:
        if isinstance(one, AddressAdd) and one.namespace in running:
            added.setdefault(one.namespace, []).append(one)
    return (AddressesTell(namespace=namespace, addresses=tuple(those)) for namespace, those in added.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsClear(Object):
    """Clears the BGP sessions of a router that run with other timers than these: both ends agree on them when a session
    begins (RFC 4271, 4.2), and keep them whatever they are told later."""

    namespace: str
    keepalive_s: int
    hold_s: int

    def shell(self) -> str:
        return quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", "clear bgp *"))))

    def make(self, context: BuildContext) -> None:
        for peer, timers in _sessions(self.namespace).items():
            if timers is not None and timers != _agreed(self.keepalive_s, self.hold_s):
                _said(self.namespace, _BGPD, f"clear bgp {peer}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsAwait(Object):
    """Waits until all BGP sessions of a router are established, with these timers."""

    namespace: str
    keepalive_s: int
    hold_s: int
    timeout_s: float = 60.0

    def shell(self) -> str:
        asked = quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", "show bgp neighbors json"))))
        return f"while {asked} | grep '\"bgpState\"' | grep -qv Established; do sleep 0.1; done"

    def make(self, context: BuildContext) -> None:
        deadline = Deadline.after(self.timeout_s)
        wanted = _agreed(self.keepalive_s, self.hold_s)
        while lacking := [peer for peer, timers in _sessions(self.namespace).items() if timers != wanted]:
            if deadline.is_over():
                _, part = split_namespace(self.namespace) or ("", self.namespace)
                raise StepFailed(
                    what=f"{part} has no BGP session with {lacking[0]} by its timers after {self.timeout_s:g} s",
                    cause=f"{len(lacking)} sessions are not established, or run with other timers",
                    remedy=quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", "show bgp summary")))),
                )
            time.sleep(_POLL_S)


def _agreed(keepalive_s: int, hold_s: int) -> tuple[int, int]:
    """In milliseconds, between two that are told the same. FRR keeps alive three times in a hold time at least."""
    return min(keepalive_s, hold_s // 3) * 1000, hold_s * 1000


def _sessions(namespace: str) -> dict[str, tuple[int, int] | None]:
    """Keepalive and hold time, in milliseconds, of each of a router's sessions, by the neighbour's address; None of
    one that is not established. Raises StepFailed."""
    try:
        said = parse_json(_said(namespace, _BGPD, "show bgp neighbors json"))
    except (OSError, ValueError) as failed:
        raise StepFailed(
            what=f"the BGP sessions of {namespace} cannot be read",
            cause=str(failed),
            remedy=quoted(netns.command(namespace, vtysh(namespace, ("-c", "show bgp neighbors")))),
        ) from failed
    return {
        peer: (about["bgpTimerKeepAliveIntervalMsecs"], about["bgpTimerHoldTimeMsecs"])
        if about.get("bgpState") == "Established"
        else None
        for peer, about in said.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd(Object):
    """Kills a process of the namespace. A number that has passed to a process elsewhere is left alone."""

    namespace: str
    pid: int
    name: str

    def shell(self) -> str:
        return f"kill -9 {self.pid}  # {word(' '.join(self.name.split()))}"  # a comment ends with its line

    def make(self, context: BuildContext) -> None:
        if (key := netns.key_of(self.namespace)) is not None:
            netns.end_process(self.pid, [key])


_ANSWER_END = b"\0\0\0"


def running_configuration(namespace: str, daemon: str) -> str:
    """What a daemon says that it goes by. Raises OSError."""
    return _said(namespace, daemon, "show running-config")


def _said(namespace: str, daemon: str, told: str) -> str:
    """A daemon's answer to a command, asked as vtysh asks: by its socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(_ANSWER_S)
        asking.connect(str(FOLDER / path_space(namespace) / f"{daemon}.vty"))
        text = b""
        for command in ("enable", told):
            asking.sendall(command.encode() + b"\0")
            text = _answer(asking)
    return text.decode(errors="replace")


def _answer(asking: socket.socket) -> bytes:
    """An answer ends with three zeros and a status."""
    received = b""
    while received[-4:-1] != _ANSWER_END:
        if len(received) > _MOST_ANSWER_BYTE:
            raise OSError(errno.EMSGSIZE, "the answer does not end")
        part = asking.recv(1 << 16)
        if not part:
            raise OSError(errno.ECONNRESET, "the daemon closed its socket")
        received += part
    return received[:-4]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrRemove(Object):
    """Ends what runs in the namespace, and removes the folder."""

    namespace: str

    def shell(self) -> str:
        ended = f"ip netns pids {word(self.namespace)} | xargs -r kill -9"
        return f"{ended}\nrm -rf {word(FOLDER / path_space(self.namespace))}"

    def make(self, context: BuildContext) -> None:
        if self.namespace in context.made and (key := netns.key_of(self.namespace)) is not None:
            netns.end_processes([key])
        files.remove_tree(FOLDER / path_space(self.namespace))


def _start_all(objects: Sequence[FrrStart], context: BuildContext) -> None:
    """The daemons of all routers at the same time, each router's in their order: each forks when it is ready."""
    from labctl.system.process import Process  # not where a lab is only planned

    try:
        account = pwd.getpwnam(_USER)
    except KeyError:
        raise _lacking("this host has no user frr, which the package makes") from None
    for one in objects:
        files.remove_tree(one.folder)  # what is left of a lab of that name
        host_files.make_folder_of(
            FOLDER / path_space(one.namespace),
            {"vtysh.conf": "", **{f"{daemon.name}.conf": daemon.configuration for daemon in one.daemons}},
            owner=(account.pw_uid, account.pw_gid),
        )
    for turn in range(max(len(one.daemons) for one in objects)):
        started = [(one, one.daemons[turn]) for one in objects if turn < len(one.daemons)]
        for program in {PROGRAMS / daemon.name for _, daemon in started}:
            if not program.exists():
                raise _lacking(f"{program} is not there")
        running = [
            (one, daemon, Process(one.argv(daemon), namespace=netns.path_of(one.namespace))) for one, daemon in started
        ]
        for one, daemon, process in running:
            done = process.wait(timeout_s=_START_TIMEOUT_S)
            if done.returncode or done.timed_out:
                raise StepFailed(
                    what=f"FRR's {daemon.name} did not start in {one.namespace}",
                    cause=done.error_text.strip()[-500:] or f"it ended with status {done.returncode}",
                    remedy=quoted(netns.command(one.namespace, one.argv(daemon))),
                )


def _lacking(cause: str) -> HostLacks:
    return HostLacks(what="this lab needs FRR, the routing daemons", cause=cause, remedy=LACKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesAwait(Object):
    """Waits until the namespace has a route to each of these networks."""

    namespace: str
    destinations: tuple[IPv4Network, ...]
    timeout_s: float = 60.0

    def details(self) -> Iterator[Thing]:
        for one in self.destinations:
            yield Thing(self.namespace, ObjectKind.ROUTE, f"{LEARNED}{one}")

    def shell(self) -> str:
        routes = " ".join(map(str, self.destinations))
        return (
            f"for route in {routes}; do\n"
            f'    until [ -n "$(ip -n {word(self.namespace)} route show "$route")" ]; do sleep 0.1; done\n'
            "done"
        )

    def make(self, context: BuildContext) -> None:
        channel = context.namespaces.channel(self.namespace)
        wanted = {(str(one.network_address), one.prefixlen) for one in self.destinations}
        deadline = Deadline.after(self.timeout_s)
        while True:
            routes = map(rtnetlink.parse_route, channel.ask(rtnetlink.all_routes()))
            lacking = wanted - {(route.destination, route.prefix) for route in routes if route is not None}
            if not lacking:
                return
            if deadline.is_over():
                address, prefix = min(lacking)
                _, part = split_namespace(self.namespace) or ("", self.namespace)
                raise StepFailed(
                    what=f"{part} has learned no route to {address}/{prefix} after {self.timeout_s:g} s",
                    cause=f"{len(lacking)} of {len(wanted)} routes are missing",
                    remedy=quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", "show ip route")))),
                )
            time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHopsAwait(Object):
    """Waits until the namespace reaches each of these networks by exactly those gateways."""

    namespace: str
    routes: tuple[tuple[IPv4Network, tuple[IPv4Address, ...]], ...]
    timeout_s: float = 60.0

    def shell(self) -> str:
        lines = []
        for destination, gateways in self.routes:
            shown = f"ip -n {word(self.namespace)} route show exact {destination}"
            wanted = " ".join(map(str, sorted(gateways)))
            found = f"$({shown} | grep -o 'via [0-9.]*' | cut -d ' ' -f 2 | sort -V | xargs)"
            lines.append(f'until [ "{found}" = "{wanted}" ]; do sleep 0.1; done')
        return "\n".join(lines)

    def make(self, context: BuildContext) -> None:
        channel = context.namespaces.channel(self.namespace)
        wanted = {
            (str(network.network_address), network.prefixlen): frozenset(map(str, gateways))
            for network, gateways in self.routes
        }
        deadline = Deadline.after(self.timeout_s)
        while True:
            routes = map(rtnetlink.parse_route, channel.ask(rtnetlink.all_routes()))
            found = {(one.destination, one.prefix): _gateways(one) for one in routes if one is not None}
            lacking = {key for key, gateways in wanted.items() if found.get(key) != gateways}
            if not lacking:
                return
            if deadline.is_over():
                key = min(lacking)
                _, part = split_namespace(self.namespace) or ("", self.namespace)
                has = ", ".join(sorted(found.get(key, ()))) or "none"
                raise StepFailed(
                    what=f"{part} has not the ways to {key[0]}/{key[1]} after {self.timeout_s:g} s",
                    cause=f"its next hops are {has}; expected are {', '.join(sorted(wanted[key]))}",
                    remedy=quoted(netns.command(self.namespace, vtysh(self.namespace, ("-c", "show ip route")))),
                )
            time.sleep(_POLL_S)


def _gateways(route: rtnetlink.Route) -> frozenset[str]:
    """Of one next hop or of several."""
    return frozenset(gateway for _, gateway in route.hops) or frozenset({route.gateway} - {""})


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelsAwait(OnDevice):
    """Waits until a vxlan device sends what is for all to each of these nodes."""

    nodes: tuple[IPv4Address, ...]
    timeout_s: float = 60.0

    def shell(self) -> str:
        nodes = " ".join(map(str, self.nodes))
        shown = f"bridge -n {word(self.namespace)} fdb show dev {word(self.device)}"
        return f'for node in {nodes}; do\n    until {shown} | grep -q "^00:.* dst $node "; do sleep 0.1; done\ndone'

    def batch(self) -> Batch:
        return (_await_tunnels, self.namespace)


def _await_tunnels(objects: Sequence[TunnelsAwait], context: BuildContext) -> None:
    for one in objects:
        channel, deadline = context.namespaces.channel(one.namespace), Deadline.after(one.timeout_s)
        wanted = set(map(str, one.nodes))
        while True:
            entries = map(rtnetlink.parse_tunnel_entry, channel.ask(rtnetlink.all_tunnel_entries()))
            known = {entry.node for entry in entries if entry is not None and entry.mac == rtnetlink.ANY_MAC}
            if wanted <= known:
                break
            if deadline.is_over():
                raise StepFailed(
                    what=f"{one.device} in {one.namespace} does not know {min(wanted - known)}",
                    cause=f"{len(wanted - known)} of {len(wanted)} nodes are missing after {one.timeout_s:g} s",
                    remedy=quoted(netns.command(one.namespace, vtysh(one.namespace, ("-c", "show bgp l2vpn evpn")))),
                )
            time.sleep(_POLL_S)


def vtysh(namespace: str, words: Sequence[str]) -> tuple[str, ...]:
    """FRR's shell for the daemons of that namespace."""
    space = path_space(namespace)
    return ("vtysh", "--vty_socket", str(FOLDER / space), "--config_dir", str(FOLDER / space), *words)


def _daemon_name(daemon: str) -> str:
    return f"daemon {daemon}"


def _daemons(look: NamespaceReader) -> Iterator[Found]:
    key = netns.own_key()
    return (Found(_daemon_name(netns.name_of(pid))) for pid in netns.processes_in([key]))


DAEMONS = Kind(
    name=ObjectKind.DAEMON,
    objects=(
        FrrStart,
        FrrRestart,
        FrrConfigure,
        AddressesTell,
        SessionsClear,
        SessionsAwait,
        FrrRemove,
        ProcessEnd,
        RoutesAwait,
        NextHopsAwait,
        TunnelsAwait,
    ),
    read=_daemons,
)
