"""What Cilium has attached and what its maps hold, as its agents and bpftool list it. Parsing is pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from labctl.errors import MeasureFailed
from labctl.model.evidence import AttachedProgram, DatapathState, MapTable, NodeDatapath
from labctl.providers.base import Completed, Target
from labctl.providers.cilium.status import IN_AGENT

_ASK_S = 60.0
_NET_SHOW = ("bpftool", "net", "show")
_ATTACHED = re.compile(
    r"^(?P<device>\S+)\(\d+\) (?P<attach>clsact|tcx|netkit)/(?P<hook>\S+) (?P<name>\S+) (?:prog_)?id (?P<id>\d+)"
)
_BROAD = re.compile(r"\s{2,}")
_PAIR = re.compile(r"(\w+)=(\S+)")
_LISTS = (
    ("endpoint", "the pods of this node: where a packet for them is delivered, and with which MACs", "hash"),
    ("ipcache", "the identity of each address, and its tunnel endpoint", "LPM trie"),
    (
        "tunnel",
        "which node has which pod range; with native routing it may hold stale entries and proves nothing",
        "hash",
    ),
)


def read_state(agents: Mapping[str, Target]) -> DatapathState:
    """Asks the agent of every node. Raises MeasureFailed with the words of the first one that failed."""
    return DatapathState(nodes=tuple(_node(node, agent) for node, agent in agents.items()), counts_runs=False)


def _node(node: str, agent: Target) -> NodeDatapath:
    show = shlex.join(agent.command(_NET_SHOW))
    return NodeDatapath(
        node=node,
        programs=parse_net_show(_ask(node, agent, _NET_SHOW).text, show),
        maps=tuple(
            parse_list(
                _ask(node, agent, (*IN_AGENT, "bpf", name, "list")).text,
                name=name,
                meaning=meaning,
                kind=kind,
                command=shlex.join(agent.command(("cilium", "bpf", name, "list"))),
            )
            for name, meaning, kind in _LISTS
        ),
        commands=(show,),
    )


def _ask(node: str, agent: Target, argv: tuple[str, ...]) -> Completed:
    done = agent.run(argv, timeout_s=_ASK_S)
    if done.returncode:
        raise MeasureFailed(
            what=f"the datapath of node {node} cannot be read",
            cause=done.error_text.strip()[-300:] or f"{argv[-2]} ended with status {done.returncode}",
            remedy=shlex.join(agent.command(argv)),
        )
    return done


def parse_net_show(text: str, command: str) -> tuple[AttachedProgram, ...]:
    """From `bpftool net show`: tc filters (`clsact/ingress cil_to_host-cilium_host id 1`) and tcx links
    (`tcx/ingress cil_to_host prog_id 1 link_id 2`), as bpftool 7 prints them."""
    found = (_ATTACHED.match(line.strip()) for line in text.splitlines())
    return tuple(
        AttachedProgram(
            device=one["device"],
            hook=one["hook"],
            attach="tc clsact" if one["attach"] == "clsact" else one["attach"],
            name=one["name"].removesuffix(f"-{one['device']}"),
            program_id=int(one["id"]),
            command=command,
        )
        for one in found
        if one is not None
    )


def parse_list(text: str, *, name: str, meaning: str, kind: str, command: str) -> MapTable:
    """From `cilium bpf … list`: a header of two columns, then a line an entry; values of the form `key=value`
    become columns of their own."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise MeasureFailed(what=f"the agent's list {name} cannot be read", cause="it is empty", remedy=command)
    key, value, *_ = (*_BROAD.split(lines[0]), "value")
    entries = [(*_BROAD.split(line, maxsplit=1), "")[:2] for line in lines[1:]]
    fields = tuple(dict.fromkeys(field for _, held in entries for field, _ in _PAIR.findall(held)))
    rows = tuple((address, *_cells(held, fields)) for address, held in entries)
    return MapTable(
        name=name,
        meaning=meaning,
        kind=kind,
        columns=(key.lower(), *(fields or (value.lower(),))),
        rows=tuple(sorted(rows)),
        command=command,
        cilium_command=f"cilium bpf {name} list",
    )


def _cells(held: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    pairs = dict(_PAIR.findall(held))
    if not fields:
        return (held,)
    # An entry without pairs is a word of its own: `(localhost)`.
    return tuple(pairs.get(field, "") for field in fields) if pairs else (held, *("" for _ in fields[1:]))
