"""The netns provider as a whole: nodes and pods are namespaces of this host, the datapath is labctl's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.providers.base import Executor, OpenLab, Probe, RunningLab
from labctl.providers.netns import discover, execute, plan, probes, rules, teardown
from labctl.providers.netns.open import open_lab


class NetnsProvider:
    """`Provider` of the provider seam. Stateless."""

    name = "netns"
    statement = (
        "The datapath is labctl's own, not Cilium: eBPF programs with Cilium's hooks and helpers, in namespaces."
    )

    def statements(self, lab: Lab) -> tuple[str, ...]:
        extra = lab.datapath.extra_iptables_rules
        return (
            self.statement,
            f"Each node carries {rules.count_of(lab)} iptables rules"
            + (f", {extra} of them extra ones that no packet matches" if extra else "")
            + ", and tracks connections; the size of a difference depends on it.",
        )

    def probes(self) -> Iterator[Probe]:
        return probes.probes()

    def plan(self, lab: Lab) -> Plan:
        return plan.plan(lab)

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        return execute.executor(lab)

    def discover(self) -> tuple[RunningLab, ...]:
        return discover.discover()

    def teardown(self, name: str) -> None:
        teardown.teardown(name)

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        return open_lab(lab)
