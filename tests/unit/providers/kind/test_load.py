"""Images on their way into the nodes: once for all of them, on all at the same time, and nothing that is there."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kind_world import World, expect_rendering, id_of, lab_of
from labctl.engine.build import build
from labctl.engine.events import Event, StepStarted, Waiting, Working, silent
from labctl.errors import StepFailed, UsageError
from labctl.providers.base import Completed
from labctl.providers.cilium.images import digests_in, lacking, parse_images
from labctl.providers.kind.provider import KindProvider

IMAGES = ("local/cilium:v1.13.12", "local/operator-generic:v1.13.12", "local/tools:1")
NODES = ("labctl-bpf-worker", "labctl-bpf-worker2", "labctl-bpf-control-plane")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def provider(world: World, tmp_path: Path) -> KindProvider:
    return KindProvider(commands=world, root=tmp_path / "state")


def up(provider: KindProvider, tmp_path: Path, **cluster: Any) -> None:
    lab = lab_of(tmp_path, kindCluster=cluster)
    expect_rendering(provider, lab)
    build(provider, lab, silent)


def loads(world: World) -> list[str]:
    return [line for line in world.said if line.startswith("kind load")]


def meeting(world: World, pattern: str, parties: int) -> None:
    """Commands that match only go on when that many of them are under way at the same time; one after the other they
    would wait for each other for ever, which a minute's limit makes an error."""
    barrier, answered = threading.Barrier(parties, timeout=60), world.run

    def run(argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if pattern in shlex.join(argv):
            barrier.wait()
        return answered(argv, timeout_s=timeout_s, stdin=stdin)

    world.run = run  # type: ignore[method-assign]


def test_all_images_go_in_one_archive_by_one_command(world: World, provider: KindProvider, tmp_path: Path) -> None:
    up(provider, tmp_path)
    assert loads(world) == [f"kind load docker-image {' '.join(IMAGES)} --name labctl-bpf"]
    assert all(world.in_nodes[node] == set(IMAGES) for node in NODES)


def test_nothing_is_loaded_that_every_node_has(world: World, provider: KindProvider, tmp_path: Path) -> None:
    world.preloaded = set(IMAGES)
    up(provider, tmp_path)
    assert loads(world) == []
    assert not [line for line in world.said if "docker save" in line or "import" in line]


def test_what_some_node_lacks_goes_to_that_node_alone(world: World, provider: KindProvider, tmp_path: Path) -> None:
    world.preloaded = set(IMAGES)
    made = world.make_cluster

    def one_is_behind(name: str, config: dict[str, Any], *, is_ours: bool = True) -> None:
        made(name, config, is_ours=is_ours)
        world.in_nodes["labctl-bpf-worker2"] -= {"local/tools:1"}

    world.make_cluster = one_is_behind  # type: ignore[method-assign]
    up(provider, tmp_path)
    assert loads(world) == ["kind load docker-image local/tools:1 --name labctl-bpf --nodes labctl-bpf-worker2"]


def test_a_second_up_on_the_cluster_that_is_there_loads_nothing(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    up(provider, tmp_path)
    world.said.clear()
    up(provider, tmp_path)
    assert loads(world) == []


def test_another_image_under_the_same_name_is_loaded(world: World, provider: KindProvider, tmp_path: Path) -> None:
    """It was built again in the engine, and the cluster that is there has the one before."""
    up(provider, tmp_path)
    answered = world.run

    def rebuilt(argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        done = answered(argv, timeout_s=timeout_s, stdin=stdin)
        if tuple(argv) == ("docker", "image", "inspect", "local/tools:1"):
            entry = [{"Id": "sha256:" + "2" * 64, "RepoDigests": []}]
            return Completed(
                argv=tuple(argv), returncode=0, stdout=json.dumps(entry).encode(), stderr=b"", duration_s=0.0
            )
        return done

    world.run = rebuilt  # type: ignore[method-assign]
    world.said.clear()
    up(provider, tmp_path)
    assert loads(world) == ["kind load docker-image local/tools:1 --name labctl-bpf"]


def test_all_nodes_are_asked_at_the_same_time(world: World, provider: KindProvider, tmp_path: Path) -> None:
    meeting(world, "crictl images", 3)
    up(provider, tmp_path)


def test_where_kind_cannot_the_import_runs_on_all_nodes_at_the_same_time(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("kind load docker-image", "ctr: content digest sha256:1: not found")
    meeting(world, "images import", 3)
    up(provider, tmp_path)
    assert len([line for line in world.said if line.startswith("docker save")]) == 1


def test_an_import_that_fails_on_one_node_ends_up_and_is_told(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    world.fail("kind load docker-image", "ctr: content digest sha256:1: not found")
    world.fail("exec labctl-bpf-worker2 ctr .* import", "ctr: write /x: no space left on device")
    with pytest.raises(StepFailed) as failed:
        up(provider, tmp_path)
    assert "no space left on device" in failed.value.cause
    assert world.clusters == {}


def archive(path: Path, *images: str, config: str = "") -> Path:
    """As `docker save` writes it, but for the layers."""
    entries = [
        {"Config": f"{(config or id_of(image)).removeprefix('sha256:')}.json", "RepoTags": [image]} for image in images
    ]
    data = json.dumps(entries).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return path


def test_archives_are_loaded_where_a_node_lacks_what_is_in_them(
    world: World, provider: KindProvider, tmp_path: Path
) -> None:
    first, second = archive(tmp_path / "a.tar", *IMAGES[:2]), archive(tmp_path / "b.tar", IMAGES[2])
    world.preloaded = set(IMAGES[:2])
    up(provider, tmp_path, archives=[str(first), str(second)])
    assert loads(world) == [f"kind load image-archive {second} --name labctl-bpf"]
    world.said.clear()
    up(provider, tmp_path, archives=[str(first), str(second)])
    assert loads(world) == []


def test_a_file_that_is_no_archive_is_told_as_such(world: World, provider: KindProvider, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("hello")
    with pytest.raises(UsageError, match=r"a\.tar is not an image archive"):
        up(provider, tmp_path, archives=[str(tmp_path / "a.tar")])
    with pytest.raises(UsageError, match="there is no archive"):
        up(provider, tmp_path, archives=[str(tmp_path / "none.tar")])


def test_what_is_loaded_and_waited_for_is_told(world: World, provider: KindProvider, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    expect_rendering(provider, lab)
    events: list[Event] = []
    build(provider, lab, events.append)
    told = [event.text for event in events if isinstance(event, Working) and event.duration_s is None]
    assert told == ["3 of 3 images into 3 of 3 nodes at once"]
    (booting,) = [event.wait for event in events if isinstance(event, Waiting)]
    assert (booting.what, booting.usual_s) == ("a cluster of 3 nodes", None)
    provider.teardown(lab.name)
    events.clear()
    build(provider, lab, events.append)
    (booting,) = [event.wait for event in events if isinstance(event, Waiting)]
    assert booting.usual_s is not None  # learned from the first
    assert [event.number for event in events if isinstance(event, StepStarted)] == list(range(1, 8))


@pytest.mark.parametrize(
    ("listed", "wanted", "lacks"),
    [
        ({"id": "sha256:aa", "repoTags": ["docker.io/library/tools:1"]}, {"tools:1": ("sha256:aa",)}, ()),
        ({"id": "sha256:aa", "repoTags": ["docker.io/library/tools:1"]}, {"tools:1": ("aa",)}, ()),  # podman
        ({"id": "sha256:aa", "repoTags": ["docker.io/library/tools:1"]}, {"tools:1": ("sha256:bb",)}, ("tools:1",)),
        ({"id": "sha256:aa", "repoTags": ["docker.io/library/tools:1"]}, {"tools:1": ()}, ()),
        ({"id": "sha256:aa", "repoTags": ["docker.io/library/tools:1"]}, {"tools": ()}, ("tools",)),  # latest
        (
            {"id": "sha256:aa", "repoTags": ["q.io/x/a:1"], "repoDigests": ["q.io/x/a@sha256:cc"]},
            {"q.io/x/a:1": ("sha256:cc",)}, (),
        ),
        ({"id": "sha256:aa", "repoTags": []}, {"q.io/x/a:1": ()}, ("q.io/x/a:1",)),
    ],
)  # fmt: skip
def test_an_image_is_there_by_its_name_and_any_of_its_digests(
    listed: dict[str, Any], wanted: dict[str, tuple[str, ...]], lacks: tuple[str, ...]
) -> None:
    assert lacking(wanted, parse_images(json.dumps({"images": [listed]}))) == lacks


@pytest.mark.parametrize("text", ["", "crictl: not found", "[]", '{"images": 3}', '{"images": [3]}', "{}"])
def test_a_node_that_does_not_say_what_it_has_has_nothing(text: str) -> None:
    assert parse_images(text) == {}


def test_an_archive_of_both_forms_has_both_digests(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", "tools:1", config="c" * 64)
    index = {
        "manifests": [{"digest": "sha256:d", "annotations": {"io.containerd.image.name": "docker.io/library/tools:1"}}]
    }
    with tarfile.open(path, "a") as tar:
        data = json.dumps(index).encode()
        member = tarfile.TarInfo("index.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    assert digests_in(path) == {"docker.io/library/tools:1": ("sha256:" + "c" * 64, "sha256:d")}
