"""A lab as `ip`, `bridge`, `tc`, `bpftool`, `iptables-save`, `nft`, `sysctl` and `ps` show it, without labctl's code.

What two labs of one name have in common by these, they have in common for a person. Left out is what says when
something was made or how much went by (counters, ages, ids of programs and maps), and what is learned.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NETNS = Path("/run/netns")
_FIXED = ("config", "endpoints", "ipcache", "tunnel", "services", "backends", "alive", "taps")
_SETTINGS = r"^net\.(ipv4\.(ip_forward|conf\..*\.(rp_filter|proxy_arp|forwarding|accept_local))|ipv6\.conf\.all\.dis)"
_SECTIONS = {
    "links": "ip -j -d link show",
    "addresses": "ip -j -4 address show",
    "routes": "ip -j -4 route show table all",
    "policy rules": "ip -j -4 rule show",
    "neighbours": "ip -j -4 neighbour show nud permanent",
    "tunnels": "bridge -j fdb show",
    "qdiscs": "tc -j qdisc show",
    "programs": "bpftool -j net show",
    "iptables": "iptables-save",
    "nftables": "nft -s list ruleset",
    "settings": f"sysctl -a -r '{_SETTINGS}'",
}
_LINK_FACTS = ("ifname", "ifindex", "address", "mtu", "master", "ifalias")
_KIND_FACTS = (
    "id", "external", "remote", "group", "local", "link", "port", "learning", "mode", "stp_state", "forward_delay",
    "hello_time", "max_age", "priority",
)  # fmt: skip
_ROUTE_FACTS = ("dst", "gateway", "dev", "prefsrc", "metrics", "table", "type", "flags", "scope", "protocol")
_OF_DAEMONS = ("bgp", "ospf")
_COUNTED = re.compile(r"\[\d+:\d+\]|counter packets \d+ bytes \d+")
_LINES = ("iptables", "nftables", "settings")


def shown(lab: str) -> dict[str, frozenset[str]]:
    """By `PART: section` everything that the tools say, a line each."""
    prefix = f"labctl.{lab}."
    found: dict[str, frozenset[str]] = {}
    programs: dict[str, set[int]] = {}
    for place in sorted(NETNS.glob(f"{prefix}*")):
        part = place.name.removeprefix(prefix)
        script = "\n".join(f"echo '=== {name}'; {command} 2>/dev/null" for name, command in _SECTIONS.items())
        text = _run("nsenter", f"--net={place}", "sh", "-c", script)
        sections = dict(re.findall(r"^=== (.*)\n((?:(?!=== ).*\n?)*)", text, re.MULTILINE))
        for name, said in sections.items():
            found[f"{part}: {name}"] = frozenset(_lines(said) if name in _LINES else _readers[name](_parsed(said)))
        inside = _run("sh", "-c", f"ip netns pids {place.name} | xargs -r ps -o comm= -p")
        found[f"{part}: processes"] = frozenset(inside.split())
        programs[part] = {one["id"] for entry in _parsed(sections["programs"]) for one in entry.get("tc", ())}
    for group, attached in _cgroups(lab):
        found[f"cgroup {group}"] = frozenset({"is there", *(f"{one['attach_type']} {one['name']}" for one in attached)})
        programs.setdefault(group.partition("/")[0], set()).update(one["id"] for one in attached)
    known = {one["id"]: one for one in _parsed(_run("bpftool", "-j", "prog", "show"))} if any(programs.values()) else {}
    for part, ids in programs.items():
        loaded = [known[one] for one in ids]
        found[f"{part}: tags"] = frozenset(f"{one['name']} {one['tag']}" for one in loaded)
        found |= {f"{part}: {name}": lines for name, lines in _maps(loaded)}
    return {heading: lines for heading, lines in found.items() if lines}


def _cgroups(lab: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Those of the lab, with the programs on each."""
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        for group in sorted(top.glob(f"labctl.{lab}/**/")):
            attached = _parsed(_run("bpftool", "-j", "cgroup", "show", str(group)))
            yield str(group.relative_to(top / f"labctl.{lab}")), attached


def _parsed(text: str) -> Any:
    return json.loads(text.strip() or "[]")


def differences(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> list[str]:
    """Each line that only one of them has, with its heading."""
    return [
        f"{sign} {heading}: {line}"
        for heading in sorted({*one, *other})
        for sign, has, lacks in (("-", one, other), ("+", other, one))
        for line in sorted(has.get(heading, frozenset()) - lacks.get(heading, frozenset()))
    ]


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False).stdout


def _maps(programs: list[dict[str, Any]]) -> Iterator[tuple[str, frozenset[str]]]:
    """How many maps of each name there are, and what is in those with fixed entries."""
    about = [
        _parsed(_run("bpftool", "-j", "map", "show", "id", str(number)))
        for number in sorted({number for program in programs for number in program.get("map_ids", ())})
    ]
    names = Counter(one.get("name", "") for one in about)
    yield "maps", frozenset(f"{count} {name}" for name, count in names.items())
    for one in about:
        if one.get("name") in _FIXED:
            entries = _parsed(_run("bpftool", "-j", "map", "dump", "id", str(one["id"])))
            lines = frozenset(f"{' '.join(each['key'])} = {' '.join(each['value'])}" for each in entries)
            yield f"map {one['name']}", lines


def _lines(text: str) -> Iterator[str]:
    """Rules stand in an order: each line has the place that it has in its table or chain."""
    place, number = "", 0
    for line in text.splitlines():
        said = _COUNTED.sub("", line).strip()
        if not said or said.startswith("#"):
            continue
        chain = said.split()[1] if said.startswith("-A ") else ""
        if said.startswith("*") or said.endswith("{") or (chain and chain != place):
            place, number = chain or said, 0
        number += bool(chain) or "\t\t" in line
        yield f"{place} {number}: {said}" if chain or "\t\t" in line else said


def _facts(one: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return json.dumps({name: one[name] for name in names if name in one}, sort_keys=True)


def _links(entries: list[dict[str, Any]]) -> Iterator[str]:
    for one in entries:
        kind = one.get("linkinfo", {})
        flags = sorted({"UP", "NOARP"} & set(one["flags"]))
        said = f"{kind.get('info_kind', '')} {_facts(kind.get('info_data', {}), _KIND_FACTS)}"
        yield f"{_facts(one, _LINK_FACTS)} {flags} {said} {'xdp' if 'xdp' in one else ''}"


def _addresses(entries: list[dict[str, Any]]) -> Iterator[str]:
    for one in entries:
        for address in one.get("addr_info", ()):
            yield f"{one['ifname']} {_facts(address, ('local', 'prefixlen', 'scope'))}"


def _routes(entries: list[dict[str, Any]]) -> Iterator[str]:
    for one in entries:
        if one.get("protocol") in _OF_DAEMONS:
            continue
        flags = sorted({"onlink"} & set(one.get("flags", ())))
        hops = sorted(f"{hop.get('gateway')} {hop.get('dev')}" for hop in one.get("nexthops", ()))
        yield f"{_facts({**one, 'flags': flags}, _ROUTE_FACTS)} {hops}"


def _neighbours(entries: list[dict[str, Any]]) -> Iterator[str]:
    return (_facts(one, ("dst", "dev", "lladdr")) for one in entries)


def _tunnels(entries: list[dict[str, Any]]) -> Iterator[str]:
    for one in entries:
        if one.get("state") == "permanent" and "dst" in one and "extern_learn" not in one.get("flags", ()):
            yield _facts(one, ("mac", "ifname", "dst"))


def _qdiscs(entries: list[dict[str, Any]]) -> Iterator[str]:
    for one in entries:
        if one["handle"] != "0:":
            yield _facts(one, ("kind", "dev", "root", "parent"))


def _programs(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for one in entry.get("tc", ()):
            yield _facts(one, ("devname", "kind", "name"))


def _rules(entries: list[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(one, sort_keys=True) for one in entries)


_readers = {
    "links": _links,
    "addresses": _addresses,
    "routes": _routes,
    "policy rules": _rules,
    "neighbours": _neighbours,
    "tunnels": _tunnels,
    "qdiscs": _qdiscs,
    "programs": _programs,
}
