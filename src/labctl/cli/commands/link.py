"""`labctl link LAB [A [B] down|up|flap]`: the links of a running lab, and one of them taken down or up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from labctl.cli.options import as_json, changing_of, duration_type, find_running
from labctl.cli.output import emit_json, say, show, tell
from labctl.errors import UsageError

if TYPE_CHECKING:
    from labctl.model.links import LinkEndState, LinkState

_ACTS = ("down", "up", "flap")


@click.command("link")
@click.argument("lab")
@click.argument("words", nargs=-1, metavar="[A [B] down|up|flap]")
@click.option(
    "--every", "every_s", type=duration_type, default="2s", show_default=True, help="flap: down and up again."
)
@click.option("--for", "for_s", type=duration_type, default="20s", show_default=True, help="flap: how long.")
@as_json
def command(lab: str, words: tuple[str, ...], every_s: float, for_s: float, as_json: bool) -> int:
    """The links of LAB, or one of them taken down, up, or down and up for a while.

    A node's link to the others is called as the node is, a pod's as the pod is, one between two routers by both. Taken
    down, it passes nothing and both ends lose their carrier. Up again, the routes and neighbours that the kernel forgot
    are as the plan has them. Whatever ends a flap, the link is up afterwards.

    \b
    labctl link clos-bgp                     the links, their state and counters
    labctl link clos-bgp spine1 leaf1 down
    labctl link bpf node1 flap --every 2s --for 20s
    """
    from labctl.system.signals import asked_to_stop

    found, running, provider = find_running(lab)
    changing = changing_of(provider, running)
    if not words:
        links = changing.links(found)
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "LinkList", "lab": lab, "links": [*map(_record, links)]})
        else:
            _show(links)
        return 0
    names, act = _parsed(lab, words)
    if act != "flap":
        by_hand = changing.set_link(found, names, is_up=act == "up")
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "Link", "lab": lab, "link": "-".join(names), "state": act})
        else:
            say(f"link {'-'.join(names)} of lab {lab} is {act}; by hand: {by_hand}")
        return 0
    if every_s <= 0 or for_s <= 0:
        raise UsageError(
            what="--every and --for are longer than 0", remedy=f"labctl link {lab} … flap --every 2s --for 20s"
        )
    with asked_to_stop() as stops:
        times = changing.flap(
            found,
            names,
            every_s=every_s,
            for_s=for_s,
            stopped=lambda: stops() > 0,
            tell=lambda is_up: tell(f"link {'-'.join(names)} is {'up' if is_up else 'down'}"),
        )
        is_cut = stops() > 0
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Link",
                "lab": lab,
                "link": "-".join(names),
                "state": "up",
                "downs": times,
            }
        )
    else:
        say(f"link {'-'.join(names)} of lab {lab} went down {times} times and is up")
    return 130 if is_cut else 0


def _parsed(lab: str, words: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The one or two names, and what to do."""
    *names, act = words
    if act not in _ACTS or not names or len(names) > 2:
        raise UsageError(
            what=f"'{' '.join(words)}' does not say which link and what to do with it",
            cause="one or two names, then down, up or flap",
            remedy=f"labctl link {lab} {(*names, act)[0]} down; labctl link {lab}  # lists the links",
        )
    return tuple(names), act


def _record(link: LinkState) -> dict[str, object]:
    return {
        "link": link.name,
        "state": link.state,
        "ends": [_end_record(end) for end in link.ends],
        "impairments": list(link.impairments),
    }


def _end_record(end: LinkEndState) -> dict[str, object]:
    if not end.is_there:
        return {"part": end.part, "device": end.device, "there": False}
    return {
        "part": end.part,
        "device": end.device,
        "there": True,
        "up": end.is_up,
        "carrier": end.has_carrier,
        "received": {"packets": end.rx_packets, "bytes": end.rx_bytes},
        "sent": {"packets": end.tx_packets, "bytes": end.tx_bytes},
        "errors": end.errors,
        "dropped": end.dropped,
    }


def _show(links: Sequence[LinkState]) -> None:
    from labctl.report.grid import Column, Grid

    rows = []
    for link in links:
        one, other = link.ends
        rows.append(
            (
                link.name,
                link.state,
                f"{one} — {other}",
                f"{one.tx_packets}" if one.is_there else "",
                f"{one.rx_packets}" if one.is_there else "",
                f"{one.dropped + other.dropped}",
                ", ".join(link.impairments),
            )
        )
    columns = (
        Column(title="link"),
        Column(title="state"),
        Column(title="ends"),
        Column(title="sent", is_right=True),
        Column(title="received", is_right=True),
        Column(title="dropped", is_right=True),
        Column(title="impairments", is_text=True),
    )
    show(Grid(columns, rows))
