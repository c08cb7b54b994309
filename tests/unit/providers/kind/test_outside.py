"""Hosts outside of a kind lab: containers beside the cluster, found, addressed and removed by the lab's label."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kind_world import Cluster, World, completed, expect_rendering, lab_of
from labctl.engine.build import build
from labctl.errors import MeasureFailed, StepFailed
from labctl.model.lab import Lab, Outside, Pair, Placement
from labctl.model.signature import Role
from labctl.planning.record import digest_of
from labctl.providers.base import Completed, TargetKind
from labctl.providers.kind.outside import parse_address
from labctl.providers.kind.provider import KindProvider

MAC = "02:42:ac:12:00:09"
INSPECTED = [{"NetworkSettings": {"Networks": {"kind": {"IPAddress": "172.18.0.9", "MacAddress": MAC}}}}]


def outside_lab(tmp_path: Path) -> Lab:
    world = Outside(name="world", address=IPv4Address("172.30.0.253"), mac="02:00:00:00:00:01")
    lab = replace(lab_of(tmp_path), outside=(world,))
    return replace(lab, digest=digest_of(lab))


class OutsideWorld(World):
    """With containers that are no nodes, by name: the lab of their label."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: dict[str, str] = {}

    def _docker(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        match rest:
            case ("run", "--detach", "--name", name, *more):
                if name in self.outside:
                    return completed(argv, err=f'Conflict. The container name "/{name}" is already in use', code=125)
                self.outside[name] = next(word for word in more if "labctl.outside=" in word).partition("=")[2]
                return completed(argv, "0123abcd\n")
            case ("ps", *words) if any("labctl.outside=" in word for word in words):
                lab = next(word for word in words if "labctl.outside=" in word).rpartition("=")[2]
                return completed(argv, "\n".join(name for name, of in self.outside.items() if of == lab))
            case ("rm", "--force", "--volumes", *names) if set(names) <= set(self.outside):
                self.outside = {name: of for name, of in self.outside.items() if name not in names}
                return completed(argv)
        return super()._docker(argv, rest)


@pytest.fixture
def world() -> OutsideWorld:
    return OutsideWorld()


@pytest.fixture
def provider(world: World, tmp_path: Path) -> KindProvider:
    return KindProvider(commands=world, root=tmp_path / "state")


def test_up_starts_a_container_beside_the_cluster_and_down_removes_it(
    world: OutsideWorld, provider: KindProvider, tmp_path: Path
) -> None:
    lab = outside_lab(tmp_path)
    _build(provider, lab)
    (started,) = [line for line in world.said if line.startswith("docker run")]
    assert started == (
        "docker run --detach --name labctl-bpf-world --hostname labctl-bpf-world --network kind "
        "--label labctl.outside=bpf --cap-add NET_ADMIN --cap-add NET_RAW --entrypoint sleep local/tools:1 infinity"
    )
    order = [line.split()[:2] for line in world.said]
    assert order.index(["kind", "create"]) < order.index(["docker", "run"])
    (found,) = provider.discover()
    assert found.is_whole
    world.outside.clear()
    (found,) = provider.discover()
    assert found.missing == ("host outside world",)
    world.outside = {"labctl-bpf-world": "bpf", "labctl-other-world": "other"}
    provider.teardown("bpf")
    assert world.outside == {"labctl-other-world": "other"}


def test_a_container_that_was_left_behind_is_replaced_and_a_foreign_one_is_not(
    world: OutsideWorld, provider: KindProvider, tmp_path: Path
) -> None:
    lab = outside_lab(tmp_path)
    world.outside = {"labctl-bpf-world": "bpf"}
    _build(provider, lab)
    assert world.outside == {"labctl-bpf-world": "bpf"}
    provider.teardown("bpf")
    world.outside = {"labctl-bpf-world": "somebody-else"}
    with pytest.raises(StepFailed, match="docker run"):
        _build(provider, lab)
    assert world.outside == {"labctl-bpf-world": "somebody-else"}


def test_the_script_has_the_container_too(provider: KindProvider, tmp_path: Path) -> None:
    plan = provider.plan(outside_lab(tmp_path))
    (step,) = [step for step in plan.steps if step.id == "outside"]
    assert step.actions[0].shell().startswith("docker run --detach --name labctl-bpf-world ")
    assert "xargs -r docker rm --force --volumes" in step.undo[0].shell()
    assert "outside" not in {step.id for step in provider.plan(lab_of(tmp_path)).steps}


def _build(provider: KindProvider, lab: Lab) -> None:
    expect_rendering(provider, lab)
    build(provider, lab, lambda event: None)


class OutsideCluster(Cluster):
    """A running cluster with the host outside `world`."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if tuple(argv[:2]) == ("docker", "inspect"):
            return completed(argv, json.dumps(INSPECTED))
        return super().run(argv, timeout_s=timeout_s, stdin=stdin)


def test_the_open_lab_has_the_engines_address_and_taps_for_every_kind_of_pair(tmp_path: Path) -> None:
    provider = KindProvider(commands=OutsideCluster(), root=tmp_path / "state")
    kubeconfig = tmp_path / "state" / "bpf" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text("")
    with provider.open(outside_lab(tmp_path)) as opened:
        (host,) = opened.lab.outside
        assert (str(host.address), host.mac) == ("172.18.0.9", MAC)
        assert opened.lab.is_near(host)
        target = opened.target("world")
        assert target.kind is TargetKind.OUTSIDE
        assert shlex.join(target.command(("ip", "addr"))) == "docker exec labctl-bpf-world ip addr"
        to_world = Pair(client="client", server="world", placement=Placement.OUTSIDE)
        assert [tap.name for tap in opened.taps(to_world)] == [
            "client:eth0", "node1:lxcclient", "node1:cilium_host", "node1:cilium_net", "node1:cilium_vxlan",
            "node1:eth0", "node1:lo", "world:eth0",
        ]  # fmt: skip
        assert {device.role: device.mac for device in opened.devices(to_world)}[Role.SERVER_ETH0] == MAC
        from_node = Pair(client="node1", server="server", placement=Placement.CROSS_NODE)
        assert [tap.name for tap in opened.taps(from_node)][-2:] == ["node2:lxcserver", "server:eth0"]
        assert opened.taps(from_node)[0].name == "node1:cilium_host"
        to_node = Pair(client="client", server="node1", placement=Placement.SAME_NODE)
        assert [tap.role for tap in opened.taps(to_node)][-1] is Role.CLIENT_LO


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '[{"NetworkSettings": {"Networks": {}}}]', '[{"NetworkSettings": 1}]']
)
def test_what_the_engine_does_not_say_is_an_error_of_measuring(text: str) -> None:
    with pytest.raises(MeasureFailed, match="address of a host outside"):
        parse_address(text)
