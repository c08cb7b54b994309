"""`labctl survey`: what every node of a cluster says, which differ, and how far apart a sample of them is."""

from __future__ import annotations

import secrets

import click

from labctl.cli.options import as_json, trust_option
from labctl.cli.output import emit_json, show, tell
from labctl.errors import Interrupted, MeasureFailed

_MOST_AT_ONCE = 64


@click.command("survey")
@click.option("--context", metavar="C", default="", help="The context of the kubeconfig (default: the current one).")
@click.option(
    "--sample",
    type=click.IntRange(0, 5000),
    default=50,
    show_default=True,
    metavar="N",
    help="Measure N random pairs of nodes, pod to pod; 0 measures none, and makes nothing in the cluster.",
)
@click.option("--seed", type=click.IntRange(0), help="Decides which pairs (default: a new one, reported).")
@click.option(
    "--parallel",
    type=click.IntRange(1, _MOST_AT_ONCE),
    default=16,
    show_default=True,
    metavar="N",
    help="Ask so many nodes at once.",
)
@click.option("--selector", metavar="L", default="", help="Only nodes with these labels, as kubectl's -l has it.")
@click.option("--image", metavar="I", default="", help="The image of the pods that measure.")
@trust_option
@as_json
def command(
    context: str,
    sample: int,
    seed: int | None,
    parallel: int,
    selector: str,
    image: str,
    trust: bool,
    as_json: bool,
) -> int:
    """Ask every node of a cluster: mode in force, masquerading, kube-proxy, kernel, versions; and name the nodes that
    differ from the rest. Then measure round trips between a random sample of node pairs.

    The pods that measure have no special rights, and are in a namespace of their own, which is removed at the end.
    Ctrl-C ends it with what was asked until then.

    Exit code 4 when a node could not be asked or a pair not measured, 130 after Ctrl-C.
    """
    from labctl import app
    from labctl.report.survey import survey_document, survey_view
    from labctl.system.signals import interruptible

    given = {"context": context, "nodeSelector": selector, "image": image}
    with interruptible():
        found = app.survey(
            {key: value for key, value in given.items() if value},
            sample=sample,
            seed=secrets.randbelow(1_000_000) if seed is None else seed,
            parallel=parallel,
            say=lambda text: tell(f"… {text}"),
            trust=trust,
        )
    if as_json:
        emit_json(survey_document(found))
    else:
        show(*survey_view(found))
    if found.interrupted:
        return Interrupted.exit_code
    return 0 if found.is_complete else MeasureFailed.exit_code
