"""What a list of CNI plugins (`podNetwork.conflist`) must have, as the specification says it, each fault at its place.

What a plugin's own keys mean is the plugin's, which says so itself when it runs. Which of them a file may set that did
not come with labctl is said here too: a plugin is a program that runs as root on this host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from labctl.errors import Problem
from labctl.loading.messages import brief, listed, nearest, problem_at, said
from labctl.loading.tree import Block, KeyPath, Listing, Place, Scalar, Tree, child, find, items_of, place_of, text_of
from labctl.model.pod_network import PLUGIN_DIRECTORY

CONFLIST: KeyPath = ("podNetwork", "conflist")
RUNTIME: KeyPath = ("podNetwork", "runtimeConfig")
DIRECTORY: KeyPath = ("podNetwork", "pluginDirectory")
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Those that have lists of plugins. Which of them a plugin speaks, it says itself."""
SHIPPED = (
    "bandwidth", "bridge", "dhcp", "firewall", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "portmap",
    "ptp", "sbr", "static", "tap", "tuning", "vlan", "vrf",
)  # fmt: skip
"""The plugins of the CNI project's own releases."""
PLACES = ("PodCIDR", "PodGateway", "ClusterCIDR", "Uplink", "NodeName")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_PLACE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_EXAMPLE = "{cniVersion: 1.0.0, name: chain, plugins: [{type: ptp, …}]}"


def first_plugin(tree: Tree) -> str:
    """The type of the plugin that makes a pod's device; empty where none is said."""
    return text_of(find(tree, *CONFLIST, "plugins", 0, "type")) or ""


def conflist_problems(tree: Tree) -> Iterator[Problem]:
    """Every way in which the list is none, and what stands beside it and does not fit."""
    found = find(tree, *CONFLIST)
    if not isinstance(found, Block):
        at = place_of(tree, CONFLIST)
        if found is None:
            message = "is missing: with podNetwork cni it says which plugins attach a pod"
            yield problem_at(at, CONFLIST, message, _EXAMPLE)
        return
    yield from _head(found)
    plugins = find(found, "plugins")
    path = (*CONFLIST, "plugins")
    if not isinstance(plugins, Listing) or not plugins.items:
        message = "is missing" if plugins is None else f"must be a list of plugins, not {said(plugins)}"
        if isinstance(plugins, Listing):
            message = "is empty"
        yield problem_at(place_of(tree, path), path, message, "plugins: [{type: ptp, …}]")
    for number, plugin in items_of(plugins):
        yield from _plugin(plugin, (*path, number), is_first=number == 0)
    yield from _wrong_places(found, CONFLIST)
    yield from _runtime(tree)
    directory = text_of(find(tree, *DIRECTORY))
    if directory is not None and not re.fullmatch(r"/[^\x00-\x1f\x7f:]*", directory):
        message = "is no folder's absolute path"
        yield problem_at(place_of(tree, DIRECTORY), DIRECTORY, message, f"such as {PLUGIN_DIRECTORY}")


def _head(found: Block) -> Iterator[Problem]:
    version, path = find(found, "cniVersion"), (*CONFLIST, "cniVersion")
    if version is None:
        yield problem_at(found.place, path, "is missing", listed(VERSIONS))
    elif text_of(version) not in VERSIONS:
        message = f"{brief(version)} is no version of CNI that has lists of plugins"
        yield problem_at(version.place, path, message, listed(VERSIONS), nearest(_text(version), VERSIONS))
    name, path = find(found, "name"), (*CONFLIST, "name")
    if name is None or not _NAME.fullmatch(text_of(name) or ""):
        message = "is missing" if name is None else f"{brief(name)} is not a network's name"
        allowed = "letters, digits, '_', '.', '-', a letter or digit first"
        yield problem_at(found.place if name is None else name.place, path, message, allowed)
    check = find(found, "disableCheck")
    if check is not None and not (isinstance(check, Scalar) and isinstance(check.value, bool)):
        path = (*CONFLIST, "disableCheck")
        yield problem_at(check.place, path, f"must be true or false, not {said(check)}", "true, false")


def _plugin(plugin: Tree, path: KeyPath, *, is_first: bool) -> Iterator[Problem]:
    if not isinstance(plugin, Block):
        yield problem_at(plugin.place, path, f"must be a plugin's keys, not {said(plugin)}", "{type: ptp, …}")
        return
    yield from _type(plugin, path)
    ipam = find(plugin, "ipam")
    if is_first and not isinstance(ipam, Block):
        message = "the first plugin has no ipam: the pods would have no addresses"
        yield problem_at(plugin.place, (*path, "ipam"), message, 'ipam: {type: host-local, subnet: "{{.PodCIDR}}"}')
    elif isinstance(ipam, Block):
        yield from _type(ipam, (*path, "ipam"))
    for part, at in ((plugin, path), (ipam, (*path, "ipam"))):
        kept = child(part, "dataDir")
        if kept is not None:
            message = "is labctl's to say: what a plugin keeps goes into the lab's own folder, and with the lab"
            yield problem_at(kept.place, (*at, "dataDir"), message, "no such key")


def _type(part: Block, path: KeyPath) -> Iterator[Problem]:
    found, path = find(part, "type"), (*path, "type")
    if found is None:
        yield problem_at(part.place, path, "is missing: it is the name of a plugin", listed(SHIPPED))
    elif not _NAME.fullmatch(text_of(found) or ""):
        message = f"{brief(found)} is not the name of a plugin's file"
        yield problem_at(found.place, path, message, "a file's name without its folder: see pluginDirectory")


def _wrong_places(tree: Tree, path: KeyPath) -> Iterator[Problem]:
    """What stands in {{ }} and is none of the values that a node has."""
    for at, text, place in _texts(tree, path):
        for wanted in _PLACE.findall(text):
            name = wanted.removeprefix(".")
            if f"{{{{.{name}}}}}" not in text or name not in PLACES:
                choices = [f"{{{{.{one}}}}}" for one in PLACES]
                near = nearest(name, PLACES)
                meant = f"{{{{.{near}}}}}" if near else ""
                yield problem_at(place, at, f"there is no {{{{{wanted}}}}} on a node", listed(choices), meant)


def _texts(tree: Tree, path: KeyPath) -> Iterator[tuple[KeyPath, str, Place]]:
    if isinstance(tree, Block):
        for key, entry in tree.entries.items():
            yield from _texts(entry.value, (*path, key))
    elif isinstance(tree, Listing):
        for number, item in enumerate(tree.items):
            yield from _texts(item, (*path, number))
    elif isinstance(tree.value, str):
        yield path, tree.value, tree.place


def _runtime(tree: Tree) -> Iterator[Problem]:
    """By pod, and only what some plugin of the list says that it can take."""
    given = find(tree, *RUNTIME)
    if not isinstance(given, Block):
        return
    pods = [name for _, pod in items_of(find(tree, "pods")) if (name := text_of(find(pod, "name"))) is not None]
    wanted = [
        key
        for _, plugin in items_of(find(tree, *CONFLIST, "plugins"))
        for key, entry in _entries(find(plugin, "capabilities")).items()
        if isinstance(entry, Scalar) and entry.value is True
    ]
    for pod, entry in given.entries.items():
        if pod not in pods:
            message = f"there is no pod {pod}"
            yield problem_at(entry.key_place, (*RUNTIME, pod), message, listed(pods), nearest(pod, pods))
        elif not isinstance(entry.value, Block):
            message = f"must be a mapping of capabilities, not {said(entry.value)}"
            yield problem_at(entry.value.place, (*RUNTIME, pod), message, listed(wanted))
        for key, value in _entries(entry.value).items():
            if key not in wanted:
                message = f"no plugin of the list says capabilities: {{{key}: true}}, and none would get it"
                yield problem_at(value.place, (*RUNTIME, pod, key), message, listed(wanted), nearest(key, wanted))


def _entries(tree: Tree | None) -> Mapping[str, Tree]:
    return {key: entry.value for key, entry in tree.entries.items()} if isinstance(tree, Block) else {}


def _text(tree: Tree) -> str:
    return tree.text if isinstance(tree, Scalar) else ""


_CHOICES = frozenset({"mode", "type", "protocol", "backend"})
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")
_SYSCTL = re.compile(r"[0-9A-Za-z_. \t-]{1,64}")


def plugin_code(tree: Tree) -> Iterator[tuple[KeyPath, Place, str]]:
    """What of the section could be another program, or a file of this host that a program reads or writes."""
    directory = find(tree, *DIRECTORY)
    if directory is not None and text_of(directory) != PLUGIN_DIRECTORY:
        yield DIRECTORY, directory.place, f"{PLUGIN_DIRECTORY} may be"
    for number, plugin in items_of(find(tree, *CONFLIST, "plugins")):
        path = (*CONFLIST, "plugins", number)
        for part, at in ((plugin, path), (find(plugin, "ipam"), (*path, "ipam"))):
            name = text_of(child(part, "type"))
            if name is not None and name not in SHIPPED:
                yield (*at, "type"), place_of(tree, (*at, "type")), "the CNI project's own plugins may be"
    for base in (CONFLIST, RUNTIME):
        found = find(tree, *base)
        if found is not None:
            for at, text, place in _texts(found, base):
                if not _is_data(at, text):
                    yield at, place, "switches, numbers, addresses and modes may be set"


def _is_data(path: KeyPath, text: str) -> bool:
    key = str(path[-1])
    if path[-1] == "type" and (len(path) == 5 or path[-2:] == ("ipam", "type")):
        return True  # judged by its name
    if path in ((*CONFLIST, "cniVersion"), (*CONFLIST, "name")):
        return True  # one of those that there are, and a name
    return (
        text in ("", "true", "false")
        or is_address(_PLACE.sub("10.0.0.0", text) if key != "dst" else text)
        or (key in _CHOICES and _WORD.fullmatch(text) is not None)
        or ("sysctl" in path[:-1] and _SYSCTL.fullmatch(text) is not None)
        or (key in ("master", "bridge", "ifName") and re.fullmatch(r"[A-Za-z0-9_.{}-]{1,15}", text) is not None)
        or (key == "mac" and re.fullmatch(r"[0-9A-Fa-f:]{17}", text) is not None)
    )


def is_address(text: str) -> bool:
    """Whether it is an address or a range of them, and so no code."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
