"""`labctl facts LAB [NAME…]`: what labctl can read from a live lab, each thing by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from labctl.cli.options import as_json, find_lab
from labctl.cli.output import emit, emit_json, say, show
from labctl.errors import MeasureFailed
from labctl.model.fact import FACTS, Parameter, Reading, value_words
from labctl.model.lab import Pair
from labctl.model.signature import Role
from labctl.model.trace import ProbeProtocol, Way


@click.command("facts")
@click.argument("lab")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--client", metavar="END", help="Who sends (default: the client of the lab's first pair across nodes).")
@click.option("--server", metavar="END", help="Who answers.")
@click.option("--role", type=click.Choice([str(one) for one in Role]), metavar="ROLE", help="At this tap alone.")
@click.option("--way", type=click.Choice([str(one) for one in Way]), help="Of the request or the reply alone.")
@click.option("--node", default="", metavar="NODE", help="Of this node or router alone.")
@click.option("--protocol", type=click.Choice([str(one) for one in ProbeProtocol]), help="What is sent, as for trace.")
@as_json
def command(
    lab: str,
    names: tuple[str, ...],
    client: str | None,
    server: str | None,
    role: str | None,
    way: str | None,
    node: str,
    protocol: str | None,
    as_json: bool,
) -> int:
    """The facts NAME… of LAB, or all: each with its value, or `unmeasured` with the reason, and the command that shows
    it by hand. A fact that is asked at no certain tap, way or node is read at each.

    A value is what was seen just now: packets are sent, and tools run in pods. That nothing was seen is a value only
    where the client's own device saw the packets in the same trace. Exits with 4 when a fact that was named has no
    value.

    \b
    labctl facts bpf
    labctl facts bpf seen --role client-lxc
    labctl facts bpf helper ttl --way reply --json
    """
    from labctl import app
    from labctl.codec import plain
    from labctl.facts.readings import Readings, questions, require_fact, usual_pair
    from labctl.system.signals import interruptible

    for name in names:
        require_fact(name)
    found, provider = find_lab(lab)
    usual = usual_pair(found)
    ends = (client or usual[0], server or usual[1])
    asked = questions(
        found,
        names,
        *ends,
        role=None if role is None else Role(role),
        way=None if way is None else Way(way),
        node=node,
        protocol=None if protocol is None else ProbeProtocol(protocol),
    )
    changing = provider.capabilities.changing

    def differing(pair: Pair) -> Callable[[Sequence[str]], tuple[str, ...]]:
        def phrases(parts: Sequence[str]) -> tuple[str, ...]:
            return () if changing is None else changing.differing(found, pair, parts)

        return phrases

    with interruptible(), provider.open(found) as open_lab:
        readings = Readings(open_lab, app.checks(), differing)
        read = [readings.read(question) for question in asked]
    shown = [one for one in read if one.is_measured or not _is_elsewhere(one, role)]
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Facts",
                "lab": lab,
                "client": ends[0],
                "server": ends[1],
                "facts": [
                    {
                        **_asked(one),
                        "type": str(one.question.kind.type),
                        "unit": one.question.kind.unit or None,
                        "value": plain(one.value),
                        "unmeasured": one.unmeasured or None,
                        "command": one.command,
                    }
                    for one in shown
                ],
            }
        )
    else:
        _show(shown)
    is_lacking = bool(names) and any(not any(one.is_measured for one in _of(read, name)) for name in names)
    return MeasureFailed.exit_code if is_lacking else 0


def _of(read: Sequence[Reading], name: str) -> list[Reading]:
    return [one for one in read if one.question.fact == name]


def _is_elsewhere(one: Reading, role: str | None) -> bool:
    """A tap that this pair does not have, where nobody asked for it."""
    return role is None and Parameter.ROLE in FACTS[one.question.fact].takes


def _asked(one: Reading) -> dict[str, object]:
    question, takes = one.question, one.question.kind.takes
    return {
        "fact": question.fact,
        "role": str(question.role) if question.role is not None and Parameter.ROLE in takes else None,
        "way": str(question.way) if Parameter.WAY in takes else None,
        "node": question.node or None,
    }


def _show(read: Sequence[Reading]) -> None:
    from labctl.report.grid import Column, Grid

    rows, shown_by = [], dict[str, list[str]]()
    for one in read:
        unit = f" {one.question.kind.unit}" if one.question.kind.unit and one.is_measured else ""
        value = f"unmeasured: {one.unmeasured}" if one.value is None else value_words(one.value) + unit
        rows.append((one.question.words(), value))
        names = shown_by.setdefault(one.command, [])
        names += [one.question.fact] if one.question.fact not in names else []
    show(Grid((Column(title="fact"), Column(title="value", is_text=True)), rows))
    for command_line, names in shown_by.items():
        say(f"shown by: {', '.join(names)}")
        emit(f"  {command_line}", as_it_is=True)
