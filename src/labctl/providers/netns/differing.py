"""What of some parts of a running lab is not as its plan has it, as far as it can lose packets or send them astray.

For `labctl trace`, which names it where a packet is lost. The lab as it would be without the faults of its scenario is
what is held against: a fault has to be found by looking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG as CONFIG_STRUCT
from labctl.datapath.layout import CONFIG_KEY, ConfigFlag, unpack_config
from labctl.errors import MeasureFailed
from labctl.fabrics import fabric_of
from labctl.json_text import parse_json
from labctl.model.lab import Lab, Pair
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks import network_of
from labctl.providers.netns.kinds.base import Object, ObjectKind, Thing
from labctl.providers.netns.kinds.delay import is_own
from labctl.providers.netns.kinds.program import MapsFill
from labctl.providers.netns.observed import Observed, missing, observe
from labctl.providers.netns.plan import plan
from labctl.providers.netns.watch import node_maps
from labctl.system import link_state, netns, process, rtnetlink
from labctl.system.netlink import Socket

CONFIG = "config"
_TIMEOUT_S = 5.0
_ADDED = "address "
"""What loses packets by being there besides, by the beginning of its name. The trace itself names rules that drop."""


def differing(lab: Lab, pair: Pair, parts: Sequence[str]) -> tuple[str, ...]:
    """Each difference as a phrase (`node1: sysctl net.ipv4.ip_forward=1 is not so`), in the order of the parts. What
    cannot be read is left out."""
    sound = replace(lab, datapath=replace(lab.datapath, faults=()))
    by_place: dict[str, list[Thing]] = {namespace_of(lab.name, part): [] for part in parts}
    configs: dict[str, bytes] = {}
    for action in (action for step in plan(sound).steps for action in step.actions):
        if isinstance(action, MapsFill) and action.map == CONFIG:
            configs[action.namespace] = action.entries[0][1]
        elif isinstance(action, Object):
            for thing in action.things():
                if thing.namespace in by_place:
                    by_place[thing.namespace].append(thing)
    found: list[str] = []
    for part in dict.fromkeys(parts):
        place = namespace_of(lab.name, part)
        seen = observe(place, by_place[place])
        if seen is None:
            found.append(f"{part}: its namespace is gone")
            continue
        lacking = tuple(missing(by_place[place], {**dict.fromkeys(_ends(by_place[place]), seen), place: seen}))
        found += (f"{part}: {_lacks(thing)}" for thing in lacking)
        found += (f"{part}: {name}, which the plan does not have" for name in _added(by_place[place], seen, lacking))
        found += (f"{part}: {what}" for what in _before_any_tap(place))
        found += (f"{part}: {what}" for what in _proxied(place))
        found += (f"{part}: {what}" for what in _configured(place, configs.get(place)))
    found += (
        f"{route.part}: {what}"
        for route in (*network_of(sound).routes(sound, pair), *fabric_of(sound).routes(sound, pair))
        if route.part in parts and (what := _misrouted(lab, route))
    )
    return tuple(dict.fromkeys(found))


def _ends(things: Sequence[Thing]) -> Iterator[str]:
    return (end for thing in things for end in thing.ends)


def _lacks(thing: Thing) -> str:
    return f"{thing.name} is not so" if thing.kind is ObjectKind.SYSCTL else f"{thing.name} is missing"


def _added(things: Sequence[Thing], seen: Observed, lacking: Sequence[Thing]) -> Iterator[str]:
    """Addresses; and what stands in place of a thing of the plan with another value."""
    planned, instead = {thing.of for thing in things}, {thing.of for thing in lacking}
    for key, found in sorted(seen.found.items()):
        is_added = key.startswith(_ADDED) and key not in planned and " 127.0.0.1 " not in f"{key} "
        if key in instead or is_added:
            yield f"{key} {found.value}".strip()


def _before_any_tap(place: str) -> Iterator[str]:
    """XDP programs: packets that they drop are seen at no tap of the device."""
    try:
        with netns.entered(netns.path_of(place)), Socket() as channel:
            states = [link_state.parse_state(body) for body in channel.ask(rtnetlink.all_links())]
    except OSError:
        return
    for state in states:
        if state.xdp_id and not is_own(state.xdp_id):
            yield f"an XDP program (id {state.xdp_id}) is on {state.name}, before any tap, which the plan does not have"


def _configured(place: str, planned: bytes | None) -> Iterator[str]:
    """What the node's programs were told otherwise, but for which packets they are to report."""
    if planned is None:
        return
    try:
        with node_maps(place, CONFIG) as maps:
            told = [value for descriptor in maps if (value := bpf.lookup(descriptor, CONFIG_KEY, CONFIG_STRUCT.size))]
    except OSError:
        return
    wanted_config = unpack_config(planned)
    for found in map(unpack_config, told):
        if found.pod_cidr != wanted_config.pod_cidr:
            yield f"the programs' native routing CIDR is {found.pod_cidr}, planned is {wanted_config.pod_cidr}"
        if (found.flags ^ wanted_config.flags) & ~ConfigFlag.TRACE:
            yield f"the programs' flags are {found.flags:#x}, planned is {wanted_config.flags:#x}"


def _proxied(place: str) -> Iterator[str]:
    for entry in _json(place, ("ip", "-j", "neigh", "show", "proxy")):
        yield f"ARP for {entry.get('dst')} is answered by proxy on {entry.get('dev')}, which the plan does not have"


def _misrouted(lab: Lab, route: ExpectedRoute) -> str:
    argv = ("ip", "-j", "-4", "route", "show", "exact", str(route.destination))
    entries = _json(namespace_of(lab.name, route.part), argv)
    hops = {str(hop["gateway"]) for entry in entries for hop in entry.get("nexthops") or (entry,) if "gateway" in hop}
    wanted_hops = {str(hop) for hop in route.next_hops}
    if not entries:
        return f"no route to {route.destination}, expected is one by {', '.join(sorted(wanted_hops))}"
    if not hops & wanted_hops:
        by = ", ".join(sorted(hops)) or "no gateway"
        return f"the route to {route.destination} is by {by}, expected is {', '.join(sorted(wanted_hops))}"
    first = str(next((hop["gateway"] for entry in entries[:1] for hop in entry.get("nexthops") or (entry,)), ""))
    if first not in wanted_hops:
        return f"the first route to {route.destination} is by {first}, expected is {', '.join(sorted(wanted_hops))}"
    return ""


def _json(place: str, argv: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        done = process.run(argv, timeout_s=_TIMEOUT_S, namespace=netns.path_of(place))
        read = parse_json(done.text or "[]")
    except (MeasureFailed, ValueError):
        return []
    return [entry for entry in read if isinstance(entry, dict)] if isinstance(read, list) else []
