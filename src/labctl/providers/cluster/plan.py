"""A lab as a plan for a cluster that is there: which steps, in which order, each with its undo. Pure.

What can be known beforehand (rights, nodes) is found before anything is made. All that is made is in one namespace, so
the undo of every step is its removal. Stands alone because every provider's plan is the module of that name.
"""

from __future__ import annotations

from labctl.model.plan import Action, Plan, Step
from labctl.planning.shell import remark
from labctl.providers.cilium.commands import WriteFile
from labctl.providers.cluster.actions import (
    CheckRights,
    CreateObjects,
    MakeHelpers,
    MakeNamespace,
    RemoveNamespace,
    WaitForPods,
)
from labctl.providers.cluster.manifests import helpers_text, namespace_text, workloads_text
from labctl.providers.cluster.rights import questions
from labctl.providers.cluster.settings import ClusterSettings, in_words


def plan_lab(settings: ClusterSettings) -> Plan:
    """`settings` has the chosen nodes."""
    kubectl, name = settings.kubectl(), settings.lab.name
    placed = in_words(settings.nodes)
    where = f"context {settings.context}" if settings.context else "the current context"
    pods = tuple(pod.name for pod in settings.lab.pods)
    asked = questions(settings, namespace_is_there=False)
    rights = CheckRights(
        questions=tuple(settings.kubectl(*one.argv()) for one in asked), rights=tuple(one.words() for one in asked)
    )
    steps = [
        Step(id="look", title=f"{where}: {placed}; the rights are there", actions=(rights,)),
        Step(
            id="namespace",
            title=f"namespace {settings.namespace}, marked as lab {name}'s",
            actions=(
                WriteFile(path=settings.files.namespace, text=namespace_text(settings)),
                MakeNamespace(
                    kubectl=kubectl, namespace=settings.namespace, lab=name, path=settings.files.namespace
                ),
            ),
            undo=(RemoveNamespace(kubectl=kubectl, namespace=settings.namespace, lab=name),),
        ),
        Step(
            id="pods",
            title=f"{len(pods)} pods with image {settings.image}",
            actions=(
                WriteFile(path=settings.files.workloads, text=workloads_text(settings)),
                CreateObjects(kubectl=kubectl, path=settings.files.workloads),
                WaitForPods(
                    kubectl=kubectl, namespace=settings.namespace, pods=pods,
                    timeout_s=settings.section.ready_timeout_s,
                ),
            ),
        ),
    ]  # fmt: skip
    if settings.wants_helpers:
        helpers: tuple[Action, ...] = (
            WriteFile(path=settings.files.helpers, text=helpers_text(settings, settings.nodes)),
            MakeHelpers(kubectl=kubectl, path=settings.files.helpers),
        )
        minutes = settings.section.helper_lifetime_s // 60
        title = f"a privileged helper pod on {', '.join(settings.nodes.values())} for {minutes} min, where allowed"
        steps.append(Step(id="helpers", title=title, actions=helpers))
    return Plan(
        lab=name,
        provider="cluster",
        steps=tuple(steps),
        preamble=(
            "# Needs: kubectl. Everything of the lab is in the namespace\n"
            + remark(f"{settings.namespace} and in {settings.files.folder}; nothing else of the cluster is changed.")
            + "\numask 077"
        ),
    )
