"""The netns provider as a whole: nodes and pods are namespaces of this host, the datapath is labctl's own.

Each act loads its own half when it is asked for: `labctl list` neither plans nor opens a lab.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.providers.base import Executor, OpenLab, Probe, RunningLab


class NetnsProvider:
    """`Provider` of the provider seam. Stateless."""

    name = "netns"
    statement = (
        "The datapath is labctl's own, not Cilium: eBPF programs with Cilium's hooks and helpers, in namespaces."
    )

    def statements(self, lab: Lab) -> tuple[str, ...]:
        from labctl.providers.netns.rules import count_of

        extra = lab.datapath.extra_iptables_rules
        return (
            self.statement,
            f"Each node carries {count_of(lab)} iptables rules"
            + (f", {extra} of them extra ones that no packet matches" if extra else "")
            + ", and tracks connections; the size of a difference depends on it.",
        )

    def probes(self) -> Iterator[Probe]:
        from labctl.providers.netns.probes import probes

        return probes()

    def refuse(self, lab: Lab) -> None:
        from labctl.providers.netns.plan import refuse

        refuse(lab)

    def plan(self, lab: Lab) -> Plan:
        from labctl.providers.netns.plan import plan

        return plan(lab)

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        from labctl.providers.netns.execute import executor

        return executor(lab)

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        from labctl.providers.netns.discover import discover

        return discover(name)

    def processes(self, name: str) -> tuple[str, ...]:
        from labctl.providers.netns.teardown import processes

        return processes(name)

    def teardown(self, name: str) -> None:
        from labctl.providers.netns.teardown import teardown

        teardown(name)

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        from labctl.providers.netns.open import open_lab

        return open_lab(lab)
