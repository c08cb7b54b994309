"""The netfilter rules of a network's nodes, as data and as iptables-restore reads them. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address

from labctl.model.lab import Fault, Lab
from labctl.values import dataclass

_FIRST_EXTRA_SOURCE = IPv4Address("198.18.0.0")
"""RFC 2544's range for benchmarks, 131,072 addresses: no packet of a lab comes from there."""
_BUILT_IN = {"filter": ("INPUT", "FORWARD", "OUTPUT"), "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `says` is its comment, by which it is read back; `needs` names a match that a kernel may lack
    (`socket`)."""

    table: str
    chain: str
    match: str
    target: str
    says: str
    needs: str = ""

    def line(self) -> str:
        match = f" {self.match}" if self.match else ""
        return f'-A {self.chain}{match} -m comment --comment "{self.says}" -j {self.target}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """Rules in the order in which they stand. `policies` are those of built-in chains that are not ACCEPT, by table
    and chain."""

    rules: tuple[Rule, ...]
    policies: tuple[tuple[str, str, str], ...] = ()

    @property
    def count(self) -> int:
        return len(self.rules)

    def as_restore(self) -> str:
        """Every table whole, so that nothing from before stays. The table mangle is there, without rules, for the
        counter of forwarded packets that its policy has."""
        policies = {(table, chain): policy for table, chain, policy in self.policies}
        lines: list[str] = ["*mangle", ":FORWARD ACCEPT [0:0]", "COMMIT"]
        for table, built_in in _BUILT_IN.items():
            own = dict.fromkeys(rule.chain for rule in self.rules if rule.table == table and rule.chain not in built_in)
            lines.append(f"*{table}")
            lines += [f":{chain} {policies.get((table, chain), 'ACCEPT')} [0:0]" for chain in built_in]
            lines += [f":{chain} - [0:0]" for chain in own]
            lines += [rule.line() for rule in self.rules if rule.table == table]
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)


def forward_rules(lab: Lab) -> tuple[Rule, ...]:
    """What stands before every other rule of FORWARD: the fault's, and those that no packet matches."""
    pods = str(lab.network.pod_cidr)
    dropped = Rule(
        table="filter", chain="FORWARD", match=f"-s {pods} -d {pods}", target="DROP", says="pods are kept apart"
    )
    extra = (
        Rule(
            table="filter",
            chain="FORWARD",
            match=f"-s {_FIRST_EXTRA_SOURCE + number}/32",
            target="DROP",
            says=f"labctl: extra rule {number + 1}",
        )
        for number in range(lab.datapath.extra_iptables_rules)
    )
    return (*((dropped,) if Fault.NETFILTER_DROP in lab.datapath.faults else ()), *extra)
