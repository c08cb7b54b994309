"""What kubectl's failures mean on a cluster that is there, in labctl's words, each with what to do next. Pure.

kubectl's own words (its wording is stable over its versions; the forms are those of client-go and of the API server's
status messages) are quoted whole; the sentence before them says what that means.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from labctl.errors import LabError, MeasureFailed, StepFailed, UsageError
from labctl.providers.base import Completed
from labctl.providers.cilium.commands import errors_in, joined
from labctl.values import dataclass

_NO_CONTEXT = re.compile(r'context "?([^"\n]*)"? does not exist|context was not found for specified context: (\S+)')
_NO_CONFIG = re.compile(
    r"stat [^\n]*: no such file or directory|error loading config file|invalid configuration: no conf"
)
_UNREACHABLE = re.compile(
    r"Unable to connect to the server|The connection to the server \S+ was refused|dial tcp|i/o timeout|no such host|"
    r"TLS handshake timeout|net/http: request canceled|connection reset by peer|http2: client connection lost|"
    r"couldn't get current server API group list"
)
_CERTIFICATE = re.compile(r"x509: |tls: failed to verify|certificate has expired")
_UNAUTHORIZED = re.compile(
    r"\(Unauthorized\)|the server has asked for the client to provide credentials|getting credentials"
)
_FORBIDDEN = re.compile(r"\(Forbidden\)|is forbidden|cannot (?:get|list|create|delete|watch|patch) resource")
_FORBIDDEN_WHAT = re.compile(r'User "([^"]*)" cannot (\w+) resource "([^"]*)"(?:[^\n]*in the namespace "([^"]*)")?')
_ADMISSION = re.compile(
    r"violates PodSecurity|unable to validate against any pod security policy|unable to admit pod|PodSecurityPolicy|"
    r"unable to validate against any security context constraint|admission webhook \S+ denied the request|"
    r"is forbidden: exceeded quota"
)
_GONE = re.compile(r"\(NotFound\)")
_KLOG = re.compile(r"^[EWIF]\d{4} ")
_MOST_CONTEXTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWords:
    """Which cluster the words are about, and the command that says more."""

    context: str
    contexts: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        return f"context {self.context}" if self.context else "the current context"


def said_by(done: Completed) -> str:
    """What kubectl complained about, whole: its error lines, or else its last line."""
    lines = [line for line in done.error_text.splitlines() if line.strip() and not _KLOG.match(line)]
    return joined(errors_in("\n".join(lines))) or (lines[-1].strip() if lines else "it printed nothing")


def is_gone(done: Completed) -> bool:
    """True where the API server answered that the object is not there."""
    return done.returncode != 0 and _GONE.search(done.error_text) is not None


def is_admission(text: str) -> bool:
    """True where the cluster's policy refused a pod for what it asks for, not a person for who it is."""
    return _ADMISSION.search(text) is not None


def is_forbidden(text: str) -> bool:
    return _FORBIDDEN.search(text) is not None


def failed_kubectl(
    done: Completed, words: ClusterWords, *, what: str, acts: bool = False, rights: str = ""
) -> LabError:
    """The error for a kubectl that failed. `what` is what could not be done; `acts`: it was part of building or
    removing (StepFailed), else of looking (MeasureFailed). `rights` is the command that prints the rights needed."""
    text, by_hand = done.error_text, shlex.join(done.argv)
    told = said_by(done)
    kind = StepFailed if acts else MeasureFailed
    if found := _NO_CONTEXT.search(text):
        asked = (found[1] or found[2] or words.context).strip()
        known = ", ".join(words.contexts[:_MOST_CONTEXTS]) or "none"
        return UsageError(
            what=f"the kubeconfig has no context {asked}", cause=f"its contexts are: {known}",
            remedy="kubectl config get-contexts  # then --context NAME; or KUBECONFIG=FILE before the command",
            key="cluster.context",
        )  # fmt: skip
    if _CERTIFICATE.search(text):
        return kind(
            what=f"{what}: the API server of {words.named} is not trusted", cause=told,
            remedy=f"{by_hand}  # by hand; date  # certificates are for a time",
        )  # fmt: skip
    if _UNAUTHORIZED.search(text):
        return kind(
            what=f"{what}: the API server of {words.named} does not accept these credentials", cause=told,
            remedy="# log in again (the kubeconfig's token or certificate has expired, or is another cluster's)\n"
            f"{by_hand}",
        )  # fmt: skip
    if _ADMISSION.search(text):
        return kind(what=f"{what}: the cluster's policy refuses it", cause=told, remedy=by_hand)
    if _FORBIDDEN.search(text):
        return kind(
            what=f"{what}: {_forbidden(text)}", cause=told,
            remedy=f"{rights}  # the rights that it takes, for an administrator" if rights else by_hand,
        )  # fmt: skip
    if _UNREACHABLE.search(text) or done.timed_out:
        cause = told if not done.timed_out else f"no answer within {done.duration_s:.0f} s"
        return kind(
            what=f"{what}: the API server of {words.named} does not answer", cause=cause,
            remedy=f"{_cluster_info(done.argv)}  # is it the right context, and is there a way to it (VPN, proxy)?",
        )  # fmt: skip
    if _NO_CONFIG.search(text):
        return UsageError(
            what="there is no kubeconfig that kubectl can read", cause=told,
            remedy="KUBECONFIG=FILE before the command; or cluster: {kubeconfig: FILE} in lab.yaml",
            key="cluster.kubeconfig",
        )  # fmt: skip
    return kind(what=what, cause=told, remedy=by_hand)


def _forbidden(text: str) -> str:
    if found := _FORBIDDEN_WHAT.search(text):
        user, verb, resource, namespace = found.groups()
        where = f" in namespace {namespace}" if namespace else ""
        return f"user {user} may not {verb} {resource}{where}"
    return "it is forbidden"


def _cluster_info(argv: Sequence[str]) -> str:
    """kubectl with its own options, asking where the cluster is."""
    options: list[str] = []
    words = list(argv)
    for name in ("--kubeconfig", "--context"):
        if name in words:
            at = words.index(name)
            options += words[at : at + 2]
    return shlex.join(("kubectl", *options, "cluster-info"))


_TERMINATING = (
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
    "NamespaceContentRemaining",
    "NamespaceFinalizersRemaining",
)


def stuck_namespace(name: str, conditions: Sequence[tuple[str, str, str]], waited_s: float, kubectl: str) -> StepFailed:
    """For a namespace that does not go. `conditions` are (type, status, message) of its status."""
    told = [message for kind in _TERMINATING for type_, status, message in conditions
            if type_ == kind and status == "True" and message]  # fmt: skip
    return StepFailed(
        what=f"namespace {name} is still Terminating after {waited_s:.0f} s",
        cause="; ".join(told) or "Kubernetes gives no reason; its nodes may not answer",
        remedy=f"{kubectl} get namespace {name} -o yaml  # what holds it: often a finalizer, or an API that is down\n"
        f"{kubectl} -n {name} get all",
    )
