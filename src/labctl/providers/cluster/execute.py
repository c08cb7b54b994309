"""Carries out the acts of `actions.py` on a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from labctl.errors import HostLacks, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.providers.base import Tell
from labctl.providers.cilium.commands import WriteFile, write_private
from labctl.providers.cluster import helpers
from labctl.providers.cluster.access import GONE_S, Access, NamespaceFacts
from labctl.providers.cluster.actions import (
    CheckRights,
    CreateObjects,
    MakeHelpers,
    MakeNamespace,
    RemoveNamespace,
    WaitForPods,
)
from labctl.providers.cluster.manifests import namespace_text
from labctl.providers.cluster.rights import questions

_AT_ONCE = 6
_CREATE_S = 60.0


class ClusterExecutor:
    """`providers.base.Executor` for one lab. `begin` writes the state of the lab, before anything is made, and gives
    its id; `record` is called when it is whole."""

    def __init__(
        self,
        access: Access,
        *,
        begin: Callable[[], str],
        record: Callable[[Lab], None],
        made_by: str,
        tell: Tell,
    ) -> None:
        self._access, self._begin, self._record = access, begin, record
        self._made_by, self._tell = made_by, tell
        self._lab_id = ""

    def execute(self, actions: Sequence[Action]) -> None:
        """Raises StepFailed, MeasureFailed or UsageError."""
        for action in actions:
            match action:
                case WriteFile():
                    write_private(action.path, action.text)
                case CheckRights():
                    self._check_rights()
                case MakeNamespace():
                    self._make_namespace(action)
                case CreateObjects():
                    what = "the lab's pods cannot be made"
                    argv = ("create", "--validate=false", "-f", str(action.path))
                    self._access.must(*argv, what=what, timeout_s=_CREATE_S, acts=True)
                case WaitForPods():
                    self._access.wait_for(
                        action.pods, timeout_s=action.timeout_s, say=self._say, what="waiting for the pods"
                    )
                case MakeHelpers():
                    pods = self._access.pods()
                    found = helpers.ensure(self._access.placed(pods), pods, self._say)
                    if found.refused:
                        self._say(f"no helper pods: {found.refused}")
                case RemoveNamespace():
                    if self._lab_id:  # else it was refused, and what is there is not the lab's
                        self._access.remove_namespace(self._lab_id, self._say)
                case _:
                    raise TypeError(f"the cluster provider has no action {type(action).__name__}")

    def finish(self, lab: Lab) -> None:
        self._record(lab)

    def _say(self, text: str) -> None:
        self._tell(text, None)

    def _check_rights(self) -> None:
        """`auth can-i` exits with 1 for a no; anything but a no is asked again by the act itself."""
        access = self._access
        facts = access.namespace() if self._may_read_namespace() else None
        asked = questions(access.settings, namespace_is_there=facts is not None)
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="labctl-rights") as pool:
            answers = list(pool.map(lambda one: access.ask(*one.argv()), asked))
        refused = [one.words() for one, done in zip(asked, answers, strict=True) if done.text.strip().startswith("no")]
        if refused:
            lab = access.settings.lab
            source = shlex.quote(lab.source or lab.scenario)
            raise HostLacks(
                what=f"these credentials may not do what lab {lab.name} takes",
                cause=f"not allowed: {'; '.join(refused)}",
                remedy=f"labctl plan {source} --provider cluster --name {lab.name} --rbac --subject user:NAME"
                "  # for an administrator to apply",
            )

    def _may_read_namespace(self) -> bool:
        done = self._access.ask("auth", "can-i", "get", f"namespace/{self._access.settings.namespace}")
        if done.text.strip().startswith(("yes", "no")):
            return done.text.strip().startswith("yes")
        raise self._access.failed(done, "the rights cannot be asked for")

    def _make_namespace(self, action: MakeNamespace) -> None:
        access = self._access
        facts = access.namespace()
        if facts is not None and facts.is_terminating:
            self._until_gone(facts)
            facts = None
        if facts is not None:
            access.refuse_foreign(facts, "")
            self._refuse_occupied(facts)
            self._lab_id = self._begin()
            return
        self._lab_id = self._begin()
        text = namespace_text(access.settings, lab_id=self._lab_id, made_by=self._made_by)
        what = f"namespace {action.namespace} cannot be made"
        access.must("create", "--validate=false", "-f", "-", what=what, stdin=text.encode(), acts=True)

    def _until_gone(self, facts: NamespaceFacts) -> None:
        """An earlier lab of this name, made by whoever, is just being removed."""
        if facts.lab != self._access.settings.lab.name:
            self._access.refuse_foreign(facts, "")
        self._access.remove_namespace(facts.lab_id, self._say, timeout_s=GONE_S)

    def _refuse_occupied(self, facts: NamespaceFacts) -> None:
        """A namespace made in advance may hold nothing: what is in it would go with the lab."""
        there = self._access.must(
            "-n", facts.name, "get", "pods", "-o", "name", what=f"the pods of namespace {facts.name} cannot be listed"
        )
        if there.strip():
            raise UsageError(
                what=f"namespace {facts.name} is there for this lab, and has pods in it",
                cause=f"there are: {', '.join(there.split()[:6])}; labctl down would remove them with the namespace",
                remedy=f"labctl down {self._access.settings.lab.name}  # an earlier lab's? or another --name",
            )
