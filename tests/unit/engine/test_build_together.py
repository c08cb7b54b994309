"""Several labs built at the same time: really at once, each with its own times, and all undone when one fails."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kind_world import World, expect_rendering, lab_of
from labctl.engine.build import build, build_together
from labctl.engine.events import BuildDone, Event, StepDone, silent
from labctl.errors import StepFailed
from labctl.model.plan import Action
from labctl.providers.base import Capabilities, Completed, Tell
from labctl.providers.kind.provider import KindProvider
from labctl.testing.labs import example_lab
from labctl.testing.provider import ScriptedProvider


def test_two_kind_clusters_are_created_at_the_same_time_with_addresses_of_their_own(tmp_path: Path) -> None:
    """Planned at once, neither has written which addresses it takes."""
    world = World()
    provider = KindProvider(commands=world, root=tmp_path / "state")
    labs = [lab_of(tmp_path, "legacy", "legacy"), lab_of(tmp_path, "bpf", "bpf")]
    barrier, answered = threading.Barrier(2, timeout=60), world.run

    def run(argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if "create" in argv:
            barrier.wait()  # one after the other, this would never return
        return answered(argv, timeout_s=timeout_s, stdin=stdin)

    world.run = run  # type: ignore[method-assign]
    for lab in labs:
        provider.plan(lab)
        expect_rendering(provider, lab)
    phases = build_together([(provider, lab) for lab in labs], silent)
    assert sorted(world.clusters) == ["labctl-bpf", "labctl-legacy"]
    first, second = (provider.settings(lab).lab.network for lab in labs)
    assert not first.pod_cidr.overlaps(second.pod_cidr)
    assert not first.service_cidr.overlaps(second.service_cidr)
    assert [phase.id for phase in phases["bpf"]] == ["look", "images", "chart", "cluster", "load", "cilium", "pods"]


def test_when_one_fails_the_other_is_undone_too(tmp_path: Path) -> None:
    world = World()
    provider = KindProvider(commands=world, root=tmp_path / "state")
    patient = {"readyTimeoutS": 600.0}
    labs = [lab_of(tmp_path, name, name, kindCluster=patient) for name in ("legacy", "bpf")]
    for lab in labs:
        provider.plan(lab)
        expect_rendering(provider, lab)
    world.fail("kind load docker-image .*labctl-bpf", "write /x: no space left on device")
    # The other one waits for a pod that does not come.
    world.unready["server"] = {"phase": "Pending"}
    with pytest.raises(StepFailed) as failed:
        build_together([(provider, lab) for lab in labs], silent)
    assert "no space left" in failed.value.cause
    assert world.clusters == {}
    assert provider.discover() == ()


def test_each_step_has_its_time_and_the_acts_in_it_that_took_long() -> None:
    told: list[Tell] = []

    @contextlib.contextmanager
    def telling(tell: Tell) -> Iterator[None]:
        told.append(tell)
        yield

    class Telling(ScriptedProvider):
        def execute(self, actions: Sequence[Action]) -> None:
            ScriptedProvider.execute(self, actions)
            told[0]("images into 3 nodes", 12.0)
            told[0]("a file", 0.01)

    world = Telling(capabilities=Capabilities(telling=telling))
    events: list[Event] = []
    phases = build(world, example_lab(), events.append)
    (done,) = [event for event in events if isinstance(event, BuildDone)]
    assert done.phases == phases
    assert [phase.title for phase in phases] == [event.title for event in events if isinstance(event, StepDone)]
    assert phases[0].acts == (("images into 3 nodes", 12.0),)
    record = phases[0].record()
    assert record["acts"] == [{"what": "images into 3 nodes", "durationS": 12.0}]
    assert (record["step"], record["durationS"]) == (phases[0].id, phases[0].duration_s)
