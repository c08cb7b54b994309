"""What this host looks like, so that a test can prove that it left it as it found it.

Only what a test could have changed is compared: the host's own namespace, the things whose names begin with the test's
lab prefix, and the test's own descendants. Other labs on the same machine may come and go, and so may docker's
containers and networks. With LABCTL_ALONE=1 (CI) nobody else works here, and every lab namespace, device, rule, eBPF
program and map counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NETNS = Path("/run/netns")
KEPT = Path("/var/lib/labctl/labs")
SETTLE_S = 60.0
"""The kernel frees namespaces, programs and maps a little after their last user has gone."""

_VOLATILE_SYSCTL = re.compile(r"netfilter/nf_conntrack_count$|/flush$|sunrpc/|ipv6/conf/[^/]+/stable_secret$")
_LINK_SYSCTL = re.compile(r"^net/ipv[46]/(conf|neigh)/")
_SAVED = ("iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save")
_HOST = (
    ("links", ("ip", "-j", "link", "show")),
    ("addresses", ("ip", "-j", "address", "show")),
    ("routes", ("ip", "-j", "route", "show", "table", "all")),
    ("rules", ("ip", "-j", "rule", "show")),
    ("qdiscs", ("tc", "-j", "qdisc", "show")),
    ("nftables", ("nft", "-s", "list", "ruleset")),
)
_OF_CONTAINERS = re.compile(r"\b(?:veth[0-9a-f]{7}|docker0|br-[0-9a-f]{12})\b|\bDOCKER\b")
"""What docker calls its devices and chains in the host's namespace. labctl's own tests make none of them there."""
_LINK_FACTS = ("ifname", "address", "mtu", "flags", "link", "master", "qdisc", "linkinfo", "xdp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The facts, each a set of lines under a heading, so that a difference can be read."""

    facts: Mapping[str, frozenset[str]]

    def differences(self, later: Snapshot) -> tuple[str, ...]:
        found = []
        for heading, before in self.facts.items():
            after = later.facts.get(heading, frozenset())
            found += [f"{heading}: gone: {line}" for line in sorted(before - after)]
            found += [
                f"{heading}: left behind: {line}" for line in sorted(after - before) if self._counts(heading, line)
            ]
        return tuple(found)

    def _counts(self, heading: str, line: str) -> bool:
        """False for a sysctl that came with a kernel module (the first VXLAN device loads one), not with a link."""
        key = line.partition(" = ")[0]
        return (
            heading != "sysctls"
            or bool(_LINK_SYSCTL.search(key))
            or any(known.startswith(f"{key} = ") for known in self.facts[heading])
        )


def snapshot(prefix: str) -> Snapshot:
    """The host now. `prefix` is what the names of the test's labs begin with."""
    alone = os.environ.get("LABCTL_ALONE") == "1"
    ours = re.compile(r"^labctl\." if alone else rf"^labctl\.{re.escape(prefix)}")
    facts = {
        "namespaces": {path.name for path in NETNS.glob("*") if ours.match(path.name)},
        "processes": set(_descendants(os.getpid())),
        "mounts": set(_mounts(ours)),
        "cgroups": {str(path) for top in _cgroup_tops() for path in top.iterdir() if ours.match(path.name)},
        "bpffs": {str(path) for path in _files(Path("/sys/fs/bpf")) if alone or prefix in path.name},
        "sysctls": set(_sysctls()),
        "kept labs": {path.name for path in KEPT.glob("*") if alone or path.name.startswith(prefix)},
    }
    for heading, argv in _HOST:
        facts[heading] = set(_lines(heading, _output(argv)))
    for program in _SAVED:
        facts[program] = set(_rules(_output((program,))))
    if not alone:
        of_host = ("sysctls", *(heading for heading, _ in _HOST), *_SAVED)
        facts |= {name: {line for line in facts[name] if not _OF_CONTAINERS.search(line)} for name in of_host}
    else:
        facts["eBPF programs"] = set(_bpf("prog", "sched_cls"))
        facts["eBPF maps"] = set(_bpf("map", ""))
    return Snapshot(facts={heading: frozenset(lines) for heading, lines in facts.items()})


def settled(before: Snapshot, prefix: str) -> tuple[str, ...]:
    """The differences that are still there after the kernel had time to free what nobody uses."""
    deadline = time.monotonic() + SETTLE_S
    while (found := before.differences(snapshot(prefix))) and time.monotonic() < deadline:
        time.sleep(0.05)
        _collect_orphans()
    return found


def collect_all_orphans() -> None:
    """Until there are none: a machine of an earlier test ends when those of its processes that came to this one have
    been collected, and would otherwise be seen to go by the next test."""
    while _collect_orphans():
        time.sleep(0.05)


def _collect_orphans() -> bool:
    """Collects the ended children of this process, as init does everywhere else: those of a labctl that was killed have
    come to it, and their PID namespace stays for as long as one of them has not been collected. True if there
    were any."""
    has_collected = False
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            has_collected = True
    return has_collected


def _output(argv: tuple[str, ...]) -> str:
    """What the tool prints; empty where this host has not got it."""
    if shutil.which(argv[0]) is None:
        return ""
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return ended.stdout


def _lines(heading: str, output: str) -> Iterator[str]:
    if not output.startswith("["):
        yield from (line for line in output.splitlines() if line.strip())
        return
    for item in json.loads(output):
        if not item:  # `ip -j` prints {} for what a filter left out
            continue
        if heading == "links":
            item = {key: item[key] for key in _LINK_FACTS if key in item}
        for address in item.get("addr_info", ()):
            # Lifetimes of leased addresses count down by themselves.
            address.pop("valid_life_time", None)
            address.pop("preferred_life_time", None)
        item.pop("expires", None)
        yield json.dumps(item, sort_keys=True)


def _rules(saved: str) -> Iterator[str]:
    """Rules and policies without counters, time stamps and empty tables that another reader of them left."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith(":"):
            chain, policy = line.split()[:2]
            if policy != "ACCEPT":
                yield f"{table} {chain} {policy}"
        elif line.startswith("-"):
            yield f"{table} {line}"


def _sysctls() -> Iterator[str]:
    """Every readable value under net, except what counts by itself."""
    for path in _files(Path("/proc/sys/net")):
        name = str(path.relative_to("/proc/sys"))
        if _VOLATILE_SYSCTL.search(name):
            continue
        try:
            yield f"{name} = {path.read_text().strip()}"
        except (OSError, UnicodeDecodeError):
            continue


def _mounts(ours: re.Pattern[str]) -> Iterator[str]:
    """Mount points without the namespaces of other labs. /run/netns is made by the first `ip netns add` and stays."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4])
        if point == NETNS or (point.parent == NETNS and not ours.match(point.name)):
            continue
        yield str(point)


def _cgroup_tops() -> Iterator[Path]:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        if " - cgroup2 " in line:
            yield Path(line.split()[4])


def _files(top: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(top):
        yield from (Path(directory) / name for name in names)


def _descendants(pid: int) -> Iterator[str]:
    """Living descendants. The fixture makes pytest their subreaper, so daemons that were set adrift are here too."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = tail.split()[:2]
        if state != "Z":
            parents.setdefault(int(parent), []).append((int(stat.parent.name), head.partition("(")[2]))
    waiting = [pid]
    while waiting:
        for child, name in parents.get(waiting.pop(), ()):
            waiting.append(child)
            yield f"{child} {name}"


def _bpf(what: str, kind: str) -> Iterator[str]:
    output = _output(("bpftool", "-j", what, "show"))
    for item in json.loads(output) if output.startswith("[") else ():
        if kind in item.get("type", ""):
            yield f"{item['id']} {item.get('type')} {item.get('name', '')}"
