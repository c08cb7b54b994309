"""A lab whose mode somebody switches while a comparison measures it: the comparison says so and gives no verdict."""

from __future__ import annotations

import dataclasses
import os

import pytest

from labctl import app
from labctl.compare.order import schedule
from labctl.datapath import bpf
from labctl.datapath.layout import CONFIG, CONFIG_KEY, ConfigFlag, pack_config, unpack_config
from labctl.engine.comparison.compare import measure_blocks
from labctl.engine.comparison.measure import Measurement
from labctl.engine.comparison.request import work_of
from labctl.engine.comparison.sides import sides_of
from labctl.engine.events import BlockStarted, Event
from labctl.errors import NotInForce
from labctl.model.comparison import Noise
from labctl.model.lab import CheckSpec, Encapsulation, HostRouting, Lab
from labctl.model.parameters import PingParameters
from labctl.names import namespace_of
from labctl.providers.netns.watch import node_maps
from labctl.store.runs import MemorySink
from labctl.testing.labs import sample_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="building namespaces needs root"),
]


class Unwritten:
    """A journal that forgets."""

    def sink(self, name: str) -> MemorySink:
        return MemorySink()

    def record(self, kind: str, content: object) -> None:
        pass

    def sync(self) -> None:
        pass


def switch_off_redirect_peer(lab: Lab) -> None:
    for node in lab.nodes:
        with node_maps(namespace_of(lab.name, node.name), "config") as (descriptor,):
            data = bpf.lookup(descriptor, CONFIG_KEY, CONFIG.size)
            assert data is not None
            config = unpack_config(data)
            changed = dataclasses.replace(config, flags=config.flags | ConfigFlag.NO_REDIRECT_PEER)
            bpf.update(descriptor, [(CONFIG_KEY, pack_config(changed))])


def test_a_mode_that_is_switched_while_it_is_measured_is_refused_at_the_end(host_as_found: str) -> None:
    labs = [
        dataclasses.replace(
            sample_lab(host_as_found, host_routing=routing, encapsulation=Encapsulation.VXLAN), scenario=host_as_found
        )
        for routing in (HostRouting.LEGACY, HostRouting.BPF)
    ]
    specs = [CheckSpec(name="ping", kind="ping", parameters=PingParameters(count=5))]
    sides = sides_of(labs, {"netns": app.provider("netns")}, host_as_found)
    plan = schedule([side.key for side in sides], work_of(specs, labs[0].pairs), 1, 7, rebuilds=0)

    def meddle(event: Event) -> None:
        if isinstance(event, BlockStarted):
            switch_off_redirect_peer(sides[1].lab)

    with Measurement(sides, specs, app.checks(), Unwritten(), meddle) as measurement:
        with pytest.raises(NotInForce, match=r"side b .*hostRouting asked bpf, found legacy"):
            measure_blocks(measurement, plan, lambda block: Noise(block=block))
        assert not measurement.measured.modes["b"].proven
        assert measurement.measured.modes["a"].proven
