"""`labctl mend LAB [FAULT]`: heals a fault, or whatever fault there may be."""

from __future__ import annotations

import click

from labctl.cli.options import as_json, changing_of, find_running
from labctl.cli.output import emit_json, say


@click.command("mend")
@click.argument("lab")
@click.argument("fault", required=False)
@as_json
def command(lab: str, fault: str | None, as_json: bool) -> int:
    """Heal FAULT in LAB, wherever it was put; without FAULT all that `labctl break` can break, hidden faults too.

    What mends puts back what the lab's plan has, and can be repeated. A fault that stands in the scenario
    (`datapath.faults`) is part of the plan, and stays.
    """
    found, running, provider = find_running(lab)
    healed = changing_of(provider, running).mend(found, fault)
    if as_json:
        emit_json({"apiVersion": "labctl/v1", "kind": "Mend", "lab": lab, "healed": list(healed)})
    elif healed:
        say(f"lab {lab} is healed of: {', '.join(healed)}")
    else:
        say(f"lab {lab} is as its plan has it, as far as faults are concerned; none was recorded")
    return 0
