"""`labctl impair LAB [LINK] [key=value…]`: loss, delay, a rate and the like on a link of a running lab."""

from __future__ import annotations

import time

import click

from labctl.cli.options import as_json, changing_of, duration_type, find_running
from labctl.cli.output import emit_json, say, tell
from labctl.codec import plain
from labctl.errors import UsageError

_POLL_S = 0.1


@click.command("impair")
@click.argument("lab")
@click.argument("link", required=False)
@click.argument("words", nargs=-1, metavar="[key=value…]")
@click.option("--for", "for_s", type=duration_type, metavar="T", help="Only for that long; then as it was before.")
@click.option("--clear", is_flag=True, help="Remove what is set on the link; without LINK on all links.")
@as_json
def command(lab: str, link: str | None, words: tuple[str, ...], for_s: float | None, clear: bool, as_json: bool) -> int:
    """Impair LINK of LAB (as `labctl link LAB` names it), or say what is set.

    delay=20ms jitter=2ms loss=1% duplicate=1% corrupt=0.1% reorder=1% rate=10mbit, in each direction, or in one:
    direction=to is into the part that the link is named after, direction=from out of it. What is lost follows from
    seed=N. What is given is added to what is set. Loss is at the end that receives, so that its sender is not told.
    Whether it is so: labctl check LAB impairment.

    \b
    labctl impair bpf node1 loss=1%
    labctl impair clos-bgp leaf1-spine1 rate=10mbit --for 30s
    labctl impair bpf node1 --clear
    """
    from labctl.model.impairment import impairment_of

    found, running, provider = find_running(lab)
    changing = changing_of(provider, running)
    is_set = changing.impairments(found)
    if clear:
        if words or for_s is not None:
            raise UsageError(what="--clear takes no values and no time", remedy=f"labctl impair {lab} {link} --clear")
        cleared = [changing.impair(found, (name,), None) for name in ([link] if link else is_set)]
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "Impairments", "lab": lab, "cleared": cleared})
        else:
            say(f"nothing is set on {', '.join(cleared) or 'any link'} of lab {lab}")
        return 0
    if link is None or not words:
        shown = is_set if link is None else {name: one for name, one in is_set.items() if name == link}
        if as_json:
            emit_json({"apiVersion": "labctl/v1", "kind": "Impairments", "lab": lab, "links": plain(shown)})
        elif not shown:
            say(f"nothing is set on {link or 'any link'} of lab {lab}; for example: labctl impair {lab} node1 loss=1%")
        for name, one in () if as_json else shown.items():
            say(f"{name}: {one.words()}")
        return 0
    if for_s is not None:
        asked = impairment_of(words, is_set.get(link))
        return _for_a_while(lab, link, asked.words(), for_s, lambda: changing.impaired(found, (link,), asked), as_json)
    asked = impairment_of(words, is_set.get(link))
    name = changing.impair(found, (link,), asked)
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Impairments", "lab": lab, "links": {name: plain(asked)}})
    else:
        say(f"link {name} of lab {lab}: {asked.words()}; measured by: labctl check {lab} impairment")
    return 0


def _for_a_while(lab: str, link: str, said: str, for_s: float, impaired: object, as_json: bool) -> int:
    from labctl.system.signals import asked_to_stop

    assert callable(impaired)
    end = time.monotonic() + for_s
    with asked_to_stop() as stops, impaired() as name:
        tell(f"link {name} of lab {lab}: {said}, for {for_s:g} s (Ctrl-C ends it)")
        while time.monotonic() < end and not stops():
            time.sleep(_POLL_S)
        is_cut = stops() > 0
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Impairments", "lab": lab, "cleared": [link]})
    else:
        say(f"link {name} of lab {lab} is as it was before")
    return 130 if is_cut else 0
