"""Routing daemons (FRR) of a router or node, one process each in its namespace, and the wait for what they learn.

Each router has a folder of its own below FRR's, named after its namespace: configuration, pid files, logs and the
sockets that vtysh talks to. The daemons see it in place of FRR's own (FRR's path spaces, `-N`, leave some files in
common). The processes end with the namespace when the lab is removed; the folder is removed by its name.
"""

from __future__ import annotations

import errno
import pwd
import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from labctl.errors import HostLacks, StepFailed
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
from labctl.providers.netns.kinds.link import OnDevice
from labctl.providers.netns.kinds.routing import LEARNED
from labctl.system import files, host_files, netns, rtnetlink
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
        is_removal = all(lines[-1].startswith("no ") for lines in self.commands)
        if done.timed_out or (done.returncode and not is_removal):
            raise StepFailed(
                what=f"FRR's {self.daemon} in {self.namespace} did not take a statement",
                cause=(done.error_text or done.text).strip()[-500:],
                remedy=self.shell(),
            )


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
    """What a daemon says that it goes by, asked as vtysh asks: by its socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(_ANSWER_S)
        asking.connect(str(FOLDER / path_space(namespace) / f"{daemon}.vty"))
        text = b""
        for command in (b"enable", b"show running-config"):
            asking.sendall(command + b"\0")
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
    objects=(FrrStart, FrrRestart, FrrConfigure, FrrRemove, ProcessEnd, RoutesAwait, NextHopsAwait, TunnelsAwait),
    read=_daemons,
)
