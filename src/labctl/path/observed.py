"""What packets show where nothing is known of what their way should be: a pod network that is not labctl's own. Pure.

On a cluster that labctl did not make any CNI may connect the pods. Which taps saw a packet is then an observation and
no verdict: host routing is a choice of Cilium's, and a packet that the kernel forwarded through a bridge looks at the
pod's device as one that `bpf_redirect` put there. Whether packets crossed inside VXLAN can be seen on the wire of any.

What of this a mode in force can be judged by, and the words for it, are here.
"""

from __future__ import annotations

from labctl.model.evidence import Evidence, Silence
from labctl.model.lab import Lab
from labctl.model.result import CheckResult
from labctl.model.signature import Signature
from labctl.path.signature import Recognised, lost_on_the_way, recognise, recognise_encapsulation

CILIUM = "cilium"
"""`Lab.cni` of a Cilium whose agents may not be read: its packets show its mode all the same."""


def recognised_in(lab: Lab, signature: Signature) -> Recognised:
    """The host routing that the packets show; none where what connects the pods has no such modes."""
    if lab.cni in ("", CILIUM):
        return recognise(signature)
    return Recognised(host_routing=None, because=no_such_modes(lab), observations=())


def no_such_modes(lab: Lab) -> str:
    """Why no host routing is shown of a lab whose CNI is not Cilium."""
    return f"host routing is a choice of Cilium's, and what connects these pods is {lab.cni}"


def way_in_words(signature: Signature) -> str:
    """Which taps saw the request, and which the reply, each in the order of its way."""
    requests = [sight.tap for sight in signature.taps if sight.request is not None]
    replies = [sight.tap for sight in reversed(signature.taps) if sight.reply is not None]
    return f"the request was seen at {' → '.join(requests)}; the reply at {' → '.join(replies)}"


def observed_evidence(result: CheckResult, lab: Lab) -> Evidence:
    """What the packets of one tcpdump check testify. Only what any pod network shows is held against what was asked:
    how packets crossed from node to node; host routing too where it is a Cilium's."""
    where = f"{result.client} → {result.server} ({result.placement})"
    signature = result.signature
    if signature is None:
        return Evidence(
            witness="signature",
            where=where,
            finding=f"no signature could be taken: {result.reason}",
            supports=None,
            silence=Silence.UNREAD,
        )
    asked, found = lab.datapath.asked(), _claims(lab, signature)
    lost = lost_on_the_way(signature)
    differing = [key for key, claim in found.items() if asked.get(key, claim) != claim]
    words = [f"{key} {found[key]} (asked {asked[key]})" for key in differing]
    words += [lost] if lost else [recognised_in(lab, signature).because, way_in_words(signature)]
    return Evidence(
        witness="signature",
        where=where,
        finding="; ".join(filter(None, words)),
        supports=False if differing else True if "hostRouting" in found else None,
        command=f"labctl trace {lab.name} {result.client} {result.server}",
        found=found,
        silence=Silence.LOST if lost else None,
        remedy=as_it_is(lab) if differing else "",
    )


def as_it_is(lab: Lab) -> str:
    """The commands that build the lab again, asking nothing of it."""
    named = "" if lab.name == lab.scenario else f" --name {lab.name}"
    again = f"labctl up {lab.scenario} --provider {lab.provider}{named} --set datapath.observed=true"
    return f"labctl down {lab.name} && {again}  # with its other --set"


def _claims(lab: Lab, signature: Signature) -> dict[str, object]:
    found: dict[str, object] = {}
    if (routing := recognised_in(lab, signature).host_routing) is not None:
        found["hostRouting"] = str(routing)
    if (encapsulation := recognise_encapsulation(signature)) is not None:
        found["encapsulation"] = str(encapsulation)
    return found
