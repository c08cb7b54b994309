"""What a world looks like, so that it can be said what a program left in it: by the kernel's own words, all of it.

A world is its program's alone, so that nothing has to be left out because others work there too. Of eBPF's programs and
maps, whose ids are the machine's, those are looked for that the program had open.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from labctl.json_text import parse_json
from labctl.testing.faults.world import DESK, OWN_PLACES

SETTLE_S = 60.0
"""The kernel frees namespaces, programs and maps a little after their last user has gone."""

_ASKED = (
    ("links", ("ip", "-j", "-d", "link", "show")),
    ("addresses", ("ip", "-j", "address", "show")),
    ("routes", ("ip", "-j", "route", "show", "table", "all")),
    ("routes (IPv6)", ("ip", "-j", "-6", "route", "show", "table", "all")),
    ("rules", ("ip", "-j", "rule", "show")),
    ("namespace ids", ("ip", "netns", "list-id")),
    ("qdiscs and filters", ("tc", "-j", "qdisc", "show")),
    ("nftables", ("nft", "-s", "list", "ruleset")),
)
_LINK_FACTS = ("ifname", "address", "mtu", "flags", "link", "master", "qdisc", "linkinfo", "xdp")
_VOLATILE = re.compile(r"nf_conntrack_count$|/flush$|ipv6/conf/[^/]+/stable_secret$")
_SOCKETS = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "unix")
_OWN_MOUNT = re.compile(r"/(?:run|var/lib|dev/shm|sys|proc)\b")
"""Others were there before the world, and go when their owner takes them away."""
_TIME_WAIT = "06"
_GET_BY_ID = {"prog": 13, "map": 14}
_BPF_NUMBER = {"x86_64": 321}
_OWN = ("/run/h", "/run/r", "/run/f", "/run/real", "/run/xtables.lock")
"""Of the harness, and of iptables, which makes its lock for good."""

RESULTS = DESK / "runs"
"""What is kept on purpose."""

_libc = ctypes.CDLL(None, use_errno=True)


def state() -> Mapping[str, frozenset[str]]:
    """The facts by heading. To be called by the first process of a world."""
    found = {heading: frozenset(_lines(heading, _output(argv))) for heading, argv in _ASKED}
    return found | {
        "files": frozenset(_files()),
        "mounts": frozenset(_mounts()),
        "processes": frozenset(_processes()),
        "sockets": frozenset(_sockets()),
        "sysctls": frozenset(_sysctls()),
        "bpffs": frozenset(map(str, Path("/sys/fs/bpf").rglob("*"))),
        "cgroups": frozenset(_cgroups()),
        "xtables": frozenset(_xtables()),
    }


def differences(before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Line by line, with the heading that each is under."""
    found = []
    for heading, lines in before.items():
        gone = [line for line in sorted(lines - after[heading]) if heading != "mounts" or _OWN_MOUNT.match(line)]
        found += [f"{heading}: gone: {line}" for line in gone]
        found += [f"{heading}: left: {line}" for line in sorted(after[heading] - lines)]
    return tuple(found)


def settled(
    before: Mapping[str, frozenset[str]],
    held: set[tuple[str, int]],
    meanwhile: Callable[[float], object],
    *,
    stays: re.Pattern[str] | None = None,
) -> tuple[str, ...]:
    """What is not as `before`, after the kernel had time to free what nobody uses. `held` are the eBPF programs and
    maps that have to be gone; `meanwhile` is called to wait for so many seconds; lines that `stays` matches may be
    there."""
    deadline_s = time.monotonic() + SETTLE_S
    pause_s = 0.02
    while True:
        _collect()
        found = tuple(f"eBPF: left: {kind} {one}" for kind, one in _alive(held))
        if not found or time.monotonic() > deadline_s:  # all else takes longer to look at
            found += differences(before, state())
        found = tuple(line for line in found if stays is None or not stays.search(line))
        if not found or time.monotonic() > deadline_s:
            return found
        meanwhile(pause_s)
        pause_s = min(0.5, 1.5 * pause_s)


def _collect() -> None:
    """The ended children of the first process: the orphans of its world."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def _alive(held: set[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    number = _BPF_NUMBER.get(platform.machine(), 280)
    for kind, one in sorted(held):
        attribute = ctypes.create_string_buffer(struct.pack("=I", one), 128)
        opened = _libc.syscall(ctypes.c_long(number), ctypes.c_int(_GET_BY_ID[kind]), attribute, ctypes.c_uint(128))
        if opened >= 0:
            os.close(opened)
            yield kind, one


def _output(argv: tuple[str, ...]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


def _lines(heading: str, output: str) -> Iterator[str]:
    if not output.startswith("["):
        yield from (line for line in output.splitlines() if line.strip())
        return
    for item in filter(None, parse_json(output)):
        yield json.dumps({key: item[key] for key in _LINK_FACTS if key in item} if heading == "links" else item)


def _files() -> Iterator[str]:
    for place in OWN_PLACES:
        for folder, folders, names in os.walk(place):
            at = Path(folder)
            if at == RESULTS:
                folders.clear()
                continue
            for name in (*folders, *names):
                path = at / name
                if str(path) not in _OWN:
                    yield _described(path)


def _described(path: Path) -> str:
    try:
        found = path.lstat()
        what = f"{path} {stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
        if stat.S_ISREG(found.st_mode):
            what += f" {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    except OSError as gone:
        return f"{path} ({gone.strerror})"
    return what


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        words = line.split(" ")
        yield f"{words[4]} {words[words.index('-') + 1]} {words[5]}"


def _processes() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            status = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if entry.name != "1":
            yield f"{words or '(ended, not collected)'} {status[0]}"


def _sockets() -> Iterator[str]:
    for protocol in _SOCKETS:
        try:
            _, *lines = Path(f"/proc/net/{protocol}").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            words = line.split()
            if protocol in ("packet", "unix"):
                yield f"{protocol} {' '.join(words[1:6])} {' '.join(words[7:])}"
            elif words[3] != _TIME_WAIT:
                yield f"{protocol} {words[1]} {words[2]}"


def _sysctls() -> Iterator[str]:
    for folder, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = Path(folder) / name
            if not _VOLATILE.search(str(path)):
                try:
                    yield f"{path.relative_to('/proc/sys')} = {path.read_text(encoding='utf-8').strip()}"
                except (OSError, UnicodeDecodeError):
                    continue


def _cgroups() -> Iterator[str]:
    for folder, folders, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"{folder}/{name}" for name in folders)


def _xtables() -> Iterator[str]:
    """The tables of the old iptables that the kernel has made in this namespace."""
    for name in ("ip_tables_names", "ip6_tables_names", "arp_tables_names"):
        try:
            yield from (f"{name} {line}" for line in Path(f"/proc/net/{name}").read_text("utf-8").splitlines())
        except OSError:
            continue
