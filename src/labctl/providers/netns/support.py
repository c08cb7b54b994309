"""What a netns lab shows for a support archive: everything in each of the namespaces that carry its mark.

It stands alone because only `labctl support` loads it. What is there decides, not the record: of a damaged lab the
namespaces that are left are read, and those that only look like its are named.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labctl.names import split_namespace
from labctl.providers.base import Exhibit
from labctl.providers.netns.discover import Remains, remains
from labctl.providers.netns.record import record_path
from labctl.system import files, netns, process

_COMMAND_S = 20.0
_INSIDE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("addresses.txt", ("ip", "-details", "address")),
    ("links.txt", ("ip", "-statistics", "link")),
    ("routes.txt", ("ip", "route", "show", "table", "all")),
    ("rules.txt", ("ip", "rule")),
    ("neighbours.txt", ("ip", "neighbour")),
    ("bridges.txt", ("bridge", "fdb", "show")),
    ("queues.txt", ("tc", "-statistics", "qdisc")),
    ("iptables.txt", ("iptables-save", "--counters")),
    ("nftables.txt", ("nft", "list", "ruleset")),
    ("conntrack.txt", ("conntrack", "-L")),
    ("sockets.txt", ("ss", "-tuanp")),
    ("bpf-attached.txt", ("bpftool", "net")),
    ("sysctls.txt", ("sysctl", "--all", "--pattern", r"^net\.(core|ipv4)")),
)
_HERE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bpf-programs.txt", ("bpftool", "prog", "list")),
    ("bpf-maps.txt", ("bpftool", "map", "list")),
    ("namespaces.txt", ("ip", "netns", "list")),
)


def exhibits(name: str, processes: Callable[[str], tuple[str, ...]]) -> Iterator[Exhibit]:
    """`processes` gives those that run in the lab of that name."""
    record = record_path(name)
    yield Exhibit(
        file="state/lab.json",
        source=str(record),
        read=lambda: files.read_own(record).decode("utf-8", errors="replace"),
    )
    found = remains(name).get(name, Remains())
    yield Exhibit(file="state/marks.txt", source="ip netns list, and the marks in it", read=lambda: _marks(name, found))
    yield Exhibit(
        file="state/processes.txt", source="processes in the lab", read=lambda: "\n".join(processes(name)) + "\n"
    )
    for file, argv in _HERE:
        yield _exhibit(f"host/{file}", argv, None)
    for namespace in found.namespaces:
        part = (split_namespace(namespace) or ("", namespace))[1]
        for file, argv in _INSIDE:
            yield _exhibit(f"namespaces/{part}/{file}", argv, netns.path_of(namespace))


def _marks(name: str, found: Remains) -> str:
    lines = [f"{namespace}: {mark}" for namespace, mark in found.namespaces.items()]
    lines += [f"{one}: no namespace is mounted there" for one in found.leftovers]
    lines += [f"{one}: no mark of labctl, and not the lab's" for one in found.strangers]
    return "\n".join([*lines, f"record: {'there' if record_path(name).is_file() else 'missing'}"]) + "\n"


def _exhibit(file: str, argv: Sequence[str], namespace: Path | None) -> Exhibit:
    typed = shlex.join(argv) if namespace is None else f"ip netns exec {namespace.name} {shlex.join(argv)}"
    return Exhibit(file=file, source=typed, read=_reading(argv, namespace))


def _reading(argv: Sequence[str], namespace: Path | None) -> Callable[[], str]:
    def read() -> str:
        done = process.run(argv, timeout_s=_COMMAND_S, namespace=namespace)
        ended = f"\n[labctl: exit status {done.returncode}]\n" if done.returncode else ""
        return f"{done.text}{done.error_text}{ended}"

    return read
