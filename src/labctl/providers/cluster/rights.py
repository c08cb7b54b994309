"""Which rights a lab on a cluster takes, as the smallest Role and ClusterRole, and how to ask whether they are there.

An administrator who applies what `labctl plan SCENARIO --provider cluster --rbac` prints makes the lab's namespace too:
the right to make namespaces cannot be given for one name, and a Role has to stand in a namespace. `down` removes the
namespace and with it the Role; what is left are two objects for the whole cluster, which allow to read nodes, and this
one namespace. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from labctl.errors import UsageError
from labctl.providers.cluster.manifests import dumped, namespace_text
from labctl.providers.cluster.settings import ClusterSettings
from labctl.values import dataclass

SYSTEM = "kube-system"
CONFIG_MAP = "cilium-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a Role: what may be done (`verbs`) to which `resources`; only those of `names`, where it has any.
    `needed_for` is a phrase."""

    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    needed_for: str
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("",)

    def in_words(self) -> str:
        only = f" ({', '.join(self.names)})" if self.names else ""
        return f"{', '.join(self.verbs)} {', '.join(self.resources)}{only}: {self.needed_for}"

    def document(self) -> dict[str, Any]:
        limited = {"resourceNames": list(self.names)} if self.names else {}
        made = {"apiGroups": list(self.groups), "resources": list(self.resources), "verbs": list(self.verbs)}
        return {**made, **limited}


class SubjectKind(StrEnum):
    USER = "user"
    GROUP = "group"
    ACCOUNT = "serviceaccount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom the rights are for; `namespace` is a service account's."""

    kind: SubjectKind
    name: str
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> Subject:
        """From `user:NAME`, `group:NAME`, `serviceaccount:NAMESPACE:NAME`. Raises UsageError."""
        kind, _, name = text.partition(":")
        if kind in (SubjectKind.USER, SubjectKind.GROUP) and name:
            return cls(kind=SubjectKind(kind), name=name)
        namespace, _, account = name.partition(":")
        if kind == SubjectKind.ACCOUNT and namespace and account:
            return cls(kind=SubjectKind.ACCOUNT, name=account, namespace=namespace)
        raise UsageError(
            what=f"{text[:80]!r} is no subject of a role binding",
            remedy="--subject user:NAME, group:NAME or serviceaccount:NAMESPACE:NAME",
        )

    def document(self) -> dict[str, Any]:
        if self.kind is SubjectKind.ACCOUNT:
            return {"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}
        kind = "User" if self.kind is SubjectKind.USER else "Group"
        return {"kind": kind, "name": self.name, "apiGroup": "rbac.authorization.k8s.io"}


def in_namespace(settings: ClusterSettings) -> tuple[Rule, ...]:
    """In the lab's own namespace."""
    rules = [
        Rule(resources=("serviceaccounts",), verbs=("create",), needed_for="the pods' own account, without rights"),
        Rule(resources=("pods",), verbs=("create", "get", "list"), needed_for="the pods, and whether they are ready"),
        Rule(
            # `get` is what kubectl 1.31 and later ask for first (by websocket), `create` what all of them do.
            resources=("pods/exec",), verbs=("create", "get"), needed_for="running checks in the pods",
        ),
        Rule(resources=("events",), verbs=("list",), needed_for="why a pod does not become ready"),
        Rule(resources=("pods/log",), verbs=("get",), needed_for="what a container said that ends with an error"),
    ]  # fmt: skip
    if settings.wants_helpers:
        rules.append(
            Rule(resources=("pods",), verbs=("delete",), needed_for="a new helper pod when the time of one is over")
        )
    if settings.lab.services:
        rules.append(Rule(resources=("services",), verbs=("create", "list"), needed_for="the scenario's Services"))
    return tuple(rules)


def in_cluster(settings: ClusterSettings) -> tuple[Rule, ...]:
    """For the whole cluster."""
    return (
        Rule(resources=("nodes",), verbs=("list",), needed_for="choosing nodes"),
        Rule(
            resources=("namespaces",), verbs=("get", "delete"), names=(settings.namespace,),
            needed_for="the lab's own namespace, and no other: labctl list, labctl down",
        ),
    )  # fmt: skip


def of_agents() -> tuple[Rule, ...]:
    """In kube-system, where Cilium's agents are. Without these its mode is shown by packets alone."""
    return (
        Rule(resources=("pods",), verbs=("list",), needed_for="finding Cilium's agents"),
        Rule(
            resources=("pods/exec",), verbs=("create", "get"), needed_for="asking them: cilium status, cilium monitor"
        ),
        Rule(resources=("pods/log",), verbs=("get",), needed_for="why an agent fell back to Legacy"),
        Rule(resources=("configmaps",), verbs=("get",), names=(CONFIG_MAP,), needed_for="Cilium's configuration"),
    )


def of_cilium_nodes() -> tuple[Rule, ...]:
    return (
        Rule(
            groups=("cilium.io",), resources=("ciliumnodes",), verbs=("list",), needed_for="the nodes' pod ranges",
        ),
    )  # fmt: skip


def rbac_text(settings: ClusterSettings, subject: Subject, *, with_agents: bool = True) -> str:
    """Everything for `kubectl apply -f -` by an administrator, with what each rule is for."""
    lab, namespace = settings.lab.name, settings.namespace
    name = f"labctl-{lab}"
    own, whole = in_namespace(settings), in_cluster(settings)
    agents = of_agents() if with_agents else ()
    if agents:
        whole = (*whole, *of_cilium_nodes())
    parts = [
        _remarks(lab, own, whole, agents),
        namespace_text(settings),
        "---\n",
        dumped(
            [
                _role("Role", name, namespace, own), _binding("Role", name, namespace, subject),
                _role("ClusterRole", name, "", whole), _binding("ClusterRole", name, "", subject),
            ]
        ),
    ]  # fmt: skip
    if agents:
        parts += ["---\n", dumped([_role("Role", name, SYSTEM, agents), _binding("Role", name, SYSTEM, subject)])]
    return "".join(parts)


def _remarks(lab: str, own: Iterable[Rule], whole: Iterable[Rule], agents: Iterable[Rule]) -> str:
    lines = [
        f"# The rights that labctl needs for lab {lab}, and no more. An administrator applies this:",
        "#   labctl plan … --provider cluster --rbac --subject user:NAME | kubectl apply -f -",
        f"# labctl down {lab} removes the namespace, and the Role in it: apply this again before the next labctl up.",
    ]
    for title, rules in (("in its namespace", own), ("of the whole cluster", whole), (f"in {SYSTEM}", agents)):
        lines += [f"#   {title}: {rule.in_words()}" for rule in rules]
    if agents:
        lines += [
            f"# The rules in {SYSTEM} let their holder run commands in every pod there. Where that is too much,",
            "# leave them out (--without-agents): Cilium's mode is then shown by packets alone.",
        ]
    return "\n".join(lines) + "\n"


def _role(kind: str, name: str, namespace: str, rules: Iterable[Rule]) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
        "rules": [rule.document() for rule in rules],
    }  # fmt: skip


def _binding(kind: str, name: str, namespace: str, subject: Subject) -> dict[str, Any]:
    reference: Mapping[str, str] = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": f"{kind}Binding", "metadata": metadata,
        "subjects": [subject.document()], "roleRef": dict(reference),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One right to ask for (`kubectl auth can-i`)."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""

    def argv(self) -> tuple[str, ...]:
        """What follows kubectl's own options."""
        where = ("-n", self.namespace) if self.namespace else ()
        what = f"{self.resource}/{self.name}" if self.name else self.resource
        resource, _, sub = what.partition("/") if self.resource.count("/") else (what, "", "")
        return ("auth", "can-i", self.verb, resource, *((f"--subresource={sub}",) if sub else ()), *where)

    def words(self) -> str:
        return f"{self.verb} {self.resource}" + (f" in namespace {self.namespace}" if self.namespace else "")


def questions(settings: ClusterSettings, *, namespace_is_there: bool) -> tuple[Question, ...]:
    """What has to be allowed before anything is made, so that what is missing is told at once and in one list."""
    asked = [
        Question(verb=verb, resource=resource, namespace=settings.namespace)
        for rule in in_namespace(settings)
        if not {"events", "pods/log"} & set(rule.resources)  # they explain a failure, and no lab needs them
        for resource in rule.resources
        for verb in rule.verbs
        if (verb, resource) != ("get", "pods/exec")
    ]
    if not namespace_is_there:
        asked.append(Question(verb="create", resource="namespaces"))
    asked += [Question(verb=verb, resource="namespaces", name=settings.namespace) for verb in ("get", "delete")]
    return tuple(dict.fromkeys(asked))
