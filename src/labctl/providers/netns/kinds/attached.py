"""What plugins answered when they attached pods, held against the devices and addresses that are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Annotated, Any

from labctl.codec import Fits
from labctl.model.interfaces import POD_DEVICE
from labctl.model.lab import Lab
from labctl.names import is_name, split_namespace
from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import Found, Kind, NamespaceReader, ObjectKind
from labctl.providers.netns.kinds.plugin import (
    PluginsAdd,
    PluginsDelete,
    PluginsFind,
    Result,
    StateDelete,
    attachment,
    kept_of,
    object_of,
    parse_result,
    refusals,
)
from labctl.system import files, netns, rtnetlink
from labctl.system.netlink import Socket
from labctl.values import dataclass

_PART = Annotated[str, Fits(is_name, "a name: a DNS label of at most 40 characters")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A pod that plugins attached: what they answered, and what of it is not there. `device` is the node's device that
    the pod hangs on; None where none of the node's is the other end of the pod's."""

    pod: _PART
    plugins: tuple[str, ...]
    says: str
    missing: tuple[str, ...]
    checks: str
    """What plugins that were asked (CHECK) said, in words."""
    refused: tuple[str, ...]
    """What those said that refuse what they agreed to when the pod was attached."""
    device: str | None
    device_mac: str
    mac: str
    command: str


def attached(lab: str, *, ask: bool = False) -> tuple[Attached, ...]:
    """Each pod of the lab that plugins attached, as it is now; with `ask` the plugins are asked as well. Raises OSError
    where a namespace is gone."""
    return tuple(_look_at(one, ask=ask) for one in kept_of(lab))


def as_attached(lab: Lab) -> Lab:
    """With the devices that plugins gave to pods, which only they could name. As it was where there are none."""
    try:
        found = {one.pod: one for one in attached(lab.name) if one.device is not None}
    except OSError:
        return lab  # a part of it is gone, which is said where it is looked for
    if not found:
        return lab
    pods = tuple(
        replace(pod, lxc=there.device or pod.lxc, lxc_mac=there.device_mac, mac=there.mac)
        if (there := found.get(pod.name)) is not None
        else pod
        for pod in lab.pods
    )
    return replace(lab, pods=pods)


def _look_at(one: PluginsAdd, *, ask: bool) -> Attached:
    text = files.read_own(one._result()).decode("utf-8", errors="replace")
    result = parse_result(text)
    # Without what they said at first, as in a lab that was typed, nothing can be held against it.
    checks, refused = _asked(one, text) if ask and one.is_checked and one._checks().exists() else ("", ())
    on_node, in_pod = _links_of(one.namespace), _links_of(one.inside)
    addresses = _addresses_of(one.inside)
    missing = [*_missing_here(result, "", on_node), *_missing_here(result, str(netns.path_of(one.inside)), in_pod)]
    missing += [str(each) for each in result.addresses if each.ip not in addresses]
    own = in_pod.get(POD_DEVICE)
    end = next((link for link in on_node.values() if own is not None and link.index == own.peer), None)
    here = ", ".join(each.name for each in result.interfaces if not each.sandbox)
    there = ", ".join(each.name for each in result.interfaces if each.sandbox)
    with_addresses = ", ".join(map(str, result.addresses))
    return Attached(
        pod=one.pod,
        plugins=tuple(plugin.name for plugin in one.plugins),
        says=f"{here or 'no device'} on the node, {there} with {with_addresses} in the pod",
        missing=tuple(missing),
        checks=checks,
        refused=refused,
        device=None if end is None else end.name,
        device_mac="" if end is None else end.mac,
        mac="" if own is None else own.mac,
        command=f"cat {word(one._result())}",
    )


def _asked(one: PluginsAdd, result: str) -> tuple[str, tuple[str, ...]]:
    """What the plugins say now, in words, and what those refuse that agreed once."""
    at_first: dict[str, str] = {}
    with contextlib.suppress(OSError):
        at_first = {key: str(said) for key, said in (object_of(files.read_own(one._checks()).decode()) or {}).items()}
    now, agreed, words, refused = refusals({one: result})[one], [], [], []
    for number, plugin in enumerate(one.plugins):
        if (first := at_first.get(str(number))) is not None:
            words.append(f"{plugin.name} refused what it had just added itself, and is not asked ({first})")
        elif (said := now.get(str(number))) is not None:
            refused.append(f"{plugin.name} refuses: {said}")
        else:
            agreed.append(plugin.name)
    return "; ".join((*([f"CHECK agrees: {', '.join(agreed)}"] if agreed else []), *words)), tuple(refused)


def _missing_here(result: Result, sandbox: str, links: Mapping[str, rtnetlink.Link]) -> Iterator[str]:
    yield from (one.name for one in result.interfaces if one.sandbox == sandbox and one.name not in links)


def _links_of(namespace: str) -> dict[str, rtnetlink.Link]:
    with netns.entered(netns.path_of(namespace)), Socket() as channel:
        return {link.name: link for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}


def _addresses_of(namespace: str) -> set[Any]:
    with netns.entered(netns.path_of(namespace)), Socket() as channel:
        found = map(rtnetlink.parse_address, channel.ask(rtnetlink.all_addresses()))
        return {IPv4Interface(one.address).ip for one in found if one.address}


def _attachments(look: NamespaceReader) -> Iterator[Found]:
    """Of the pods of this namespace's lab whose plugins' devices and addresses here are all there."""
    if not any(thing.kind is ObjectKind.ATTACHMENT for thing in look.things):
        return  # a thousand pods would read the folder of what plugins answered each
    namespace = look.things[0].namespace
    lab = (split_namespace(namespace) or ("", ""))[0]
    names = {link.name: link for link in look.links.values()}
    here = None
    for one in kept_of(lab):
        if namespace not in (one.namespace, one.inside):
            continue
        try:
            result = parse_result(files.read_own(one._result()).decode("utf-8", errors="replace"))
        except OSError:
            continue
        is_inside = namespace == one.inside
        sandbox = str(netns.path_of(one.inside)) if is_inside else ""
        if any(_missing_here(result, sandbox, names)):
            continue
        if is_inside:
            if here is None:
                found = map(rtnetlink.parse_address, look.channel.ask(rtnetlink.all_addresses()))
                here = {IPv4Interface(each.address).ip for each in found if each.address}
            if not {each.ip for each in result.addresses} <= here:
                continue
        yield Found(attachment(one.pod))


PLUGINS = Kind(
    name=ObjectKind.ATTACHMENT,
    objects=(PluginsFind, PluginsAdd, PluginsDelete, StateDelete),
    read=_attachments,
)
