"""The netfilter rules of a node: the kinds and the number that a Cilium node carries, as data.

Recorded on a real node (Kubernetes v1.20.2 without kube-proxy, Cilium v1.13.12, iptables-legacy): 24 rules of
Cilium's. They are there in every mode, as on a real node: BPF host routing does not remove them, it bypasses
them.

| table  | jumps from built-in chains    | Cilium's own                         | rules |
|--------|-------------------------------|--------------------------------------|-------|
| filter | INPUT FORWARD OUTPUT          | 4 forward, 1 input, 3 output         | 11    |
| raw    | PREROUTING OUTPUT             | 4 output, 1 pre                      | 7     |
| mangle | PREROUTING POSTROUTING        | 1 pre (needs the socket match)       | 3     |
| nat    | PREROUTING OUTPUT POSTROUTING | with iptables masquerade: 1, natively + 1 a node | 3 |

The kubelet's four rules for marked packets are added: their MASQUERADE is what makes a real node track connections at
all (the kernel's conntrack starts with the first rule that needs it). Not carried over: the kubelet's other
chains, and `-m set --match-set cilium_node_set_v4`, which needs ipset; one rule a node with its address stands
in for it.
"""

from __future__ import annotations

from labctl.model.lab import Encapsulation, Lab, Masquerade, Node
from labctl.networks.netfilter import Rule, forward_rules

CILIUM_RULES = 24
KUBELET_RULES = 4

_BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}
_JUMPS = (
    ("filter", "INPUT", "CILIUM_INPUT"),
    ("filter", "FORWARD", "CILIUM_FORWARD"),
    ("filter", "OUTPUT", "CILIUM_OUTPUT"),
    ("raw", "PREROUTING", "CILIUM_PRE_raw"),
    ("raw", "OUTPUT", "CILIUM_OUTPUT_raw"),
    ("mangle", "PREROUTING", "CILIUM_PRE_mangle"),
    ("mangle", "POSTROUTING", "CILIUM_POST_mangle"),
    ("nat", "PREROUTING", "CILIUM_PRE_nat"),
    ("nat", "OUTPUT", "CILIUM_OUTPUT_nat"),
    ("nat", "POSTROUTING", "CILIUM_POST_nat"),
)
_KUBELET_CHAINS = (("nat", "KUBE-POSTROUTING"),)
# The packet marks of Cilium's proxy and host (bpf/lib/common.h): what a packet belongs to on its way through the host.
_PROXY_IN = "-m mark --mark 0x200/0xf00"
_PROXY_REPLY = "-m mark --mark 0xa00/0xfffffeff"
_PROXY_UPSTREAM = "-m mark --mark 0x800/0xe00"
_NOT_MARKED_YET = " ".join(
    f"-m mark ! --mark {mark}" for mark in ("0xe00/0xf00", "0xd00/0xf00", "0xa00/0xe00", "0x800/0xe00", "0xf00/0xf00")
)
_FORWARD = (
    ("-o cilium_host", "any->cluster on cilium_host forward accept"),
    ("-i cilium_host", "cluster->any on cilium_host forward accept (nodeport)"),
    ("-i lxc+", "cluster->any on lxc+ forward accept"),
    ("-i cilium_net", "cluster->any on cilium_net forward accept (nodeport)"),
)


_KUBELET = (
    Rule(
        table="nat",
        chain="POSTROUTING",
        match="",
        target="KUBE-POSTROUTING",
        says="kubernetes postrouting rules",
    ),
    Rule(
        table="nat",
        chain="KUBE-POSTROUTING",
        match="-m mark ! --mark 0x4000/0x4000",
        target="RETURN",
        says="not marked for masquerade",
    ),
    Rule(
        table="nat",
        chain="KUBE-POSTROUTING",
        match="",
        target="MARK --set-xmark 0x4000/0x0",
        says="the mark has served",
    ),
    Rule(
        table="nat",
        chain="KUBE-POSTROUTING",
        match="",
        target="MASQUERADE",
        says="kubernetes service traffic requiring SNAT",
    ),
)


def rules_of(lab: Lab, node: Node) -> tuple[Rule, ...]:
    """Every rule of the node, in the order in which it stands in its chain."""
    return (*forward_rules(lab), *_jumps(), *_cilium(), *_masquerade(lab, node), *_KUBELET)


def count_of(lab: Lab) -> int:
    """How many rules each node carries."""
    return len(rules_of(lab, lab.nodes[0]))


def _jumps() -> tuple[Rule, ...]:
    return tuple(
        Rule(table=table, chain=chain, match="", target=own, says=f"cilium-feeder: {own}")
        for table, chain, own in _JUMPS
    )


def _cilium() -> tuple[Rule, ...]:
    def rule(table: str, chain: str, match: str, target: str, says: str, needs: str = "") -> Rule:
        return Rule(
            table=table, chain=f"CILIUM_{chain}", match=match, target=target, says=f"cilium: {says}", needs=needs
        )

    untracked = tuple(
        rule("raw", "OUTPUT_raw", f"-o {device} {mark}", "CT --notrack", f"NOTRACK for {traffic}")
        for mark, traffic in ((_PROXY_REPLY, "proxy return traffic"), (_PROXY_UPSTREAM, "L7 proxy upstream traffic"))
        for device in ("lxc+", "cilium_host")
    )
    return (
        *(rule("filter", "FORWARD", match, "ACCEPT", says) for match, says in _FORWARD),
        rule("filter", "INPUT", _PROXY_IN, "ACCEPT", "ACCEPT for proxy traffic"),
        rule("filter", "OUTPUT", _PROXY_REPLY, "ACCEPT", "ACCEPT for proxy return traffic"),
        rule("filter", "OUTPUT", _PROXY_UPSTREAM, "ACCEPT", "ACCEPT for l7 proxy upstream traffic"),
        rule("filter", "OUTPUT", _NOT_MARKED_YET, "MARK --set-xmark 0xc00/0xf00", "host->any mark as from host"),
        *untracked,
        rule("raw", "PRE_raw", _PROXY_IN, "CT --notrack", "NOTRACK for proxy traffic"),
        rule(
            "mangle",
            "PRE_mangle",
            "-m socket --transparent",
            "MARK --set-xmark 0x200/0xffffffff",
            "any->pod redirect proxied traffic to host proxy",
            needs="socket",
        ),
    )


def _masquerade(lab: Lab, node: Node) -> tuple[Rule, ...]:
    if lab.in_force.masquerade is not Masquerade.IPTABLES:
        return ()
    source = f"-s {node.pod_cidr}"
    kept = lab.datapath.ipv4_native_routing_cidr or lab.network.pod_cidr
    # With vxlan a node has no way back to another node's pod but the tunnel: then Cilium has no such exception.
    is_native = lab.datapath.encapsulation is Encapsulation.NATIVE
    to_nodes = tuple(
        Rule(
            table="nat",
            chain="CILIUM_POST_nat",
            match=f"{source} -d {other.address.ip}/32",
            target="ACCEPT",
            says="exclude traffic to cluster nodes from masquerade",
        )
        for other in lab.nodes
        if is_native
    )
    return (
        *to_nodes,
        Rule(
            table="nat",
            chain="CILIUM_POST_nat",
            match=f"{source} ! -d {kept} ! -o cilium_+",
            target="MASQUERADE",
            says="cilium masquerade non-cluster",
        ),
    )


def as_restore(rules: tuple[Rule, ...]) -> str:
    """The rules as iptables-restore reads them: every table whole, so that nothing from before stays."""
    lines: list[str] = []
    for table, chains in _BUILT_IN.items():
        lines.append(f"*{table}")
        lines += [f":{chain} ACCEPT [0:0]" for chain in chains]
        own = (*((in_table, chain) for in_table, _, chain in _JUMPS), *_KUBELET_CHAINS)
        lines += [f":{chain} - [0:0]" for in_table, chain in own if in_table == table]
        lines += [rule.line() for rule in rules if rule.table == table]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)
