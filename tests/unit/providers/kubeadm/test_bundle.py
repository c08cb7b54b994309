"""Images and bundles of labs on machines: listed, found wherever they are, packed, and nothing of a torn one used."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import MeasureFailed, StepFailed, UsageError
from labctl.model.versions import Version
from labctl.planning.resolve import with_settings
from labctl.providers.base import Completed, Running
from labctl.providers.cilium.commands import HostCommands
from labctl.providers.cilium.images import images_in
from labctl.providers.cilium.values import normal
from labctl.providers.kubeadm import bundle
from labctl.providers.kubeadm.images import (
    TABLE,
    Doors,
    from_table,
    kubernetes_images,
    locate,
    parse_images,
    parse_list,
    rename,
    stored_as,
)
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.settings import KubeadmSettings, read_settings
from labctl.system.files import Folder

LISTED = """W0000 version.go:104] falling back to the local client version
k8s.gcr.io/kube-apiserver:v1.20.2
k8s.gcr.io/kube-controller-manager:v1.20.2
k8s.gcr.io/kube-scheduler:v1.20.2
k8s.gcr.io/kube-proxy:v1.20.2
k8s.gcr.io/pause:3.2
k8s.gcr.io/etcd:3.4.13-0
k8s.gcr.io/coredns:1.7.0
"""
"""In the form of `kubeadm config images list` of kubeadm 1.20.2, with a line of klog before it."""
KUBERNETES = tuple(line for line in LISTED.splitlines() if line.startswith("k8s.gcr.io/") and "kube-proxy" not in line)
AGENT, OPERATOR, TOOLS = "local/cilium:v1.13.12", "local/operator-generic:v1.13.12", "local/tools:1"
SHA = "sha256:" + "a" * 64


def oci(path: Path, *names: str) -> Path:
    """An archive in the form of `ctr images export`, with no layer in it."""
    described = [{"digest": SHA, "annotations": {"io.containerd.image.name": name}} for name in names]
    return tarred(path, {"blobs/sha256/aa": b"layer of " + names[0].encode(), "index.json": {"manifests": described}})


def docker_save(path: Path, *names: str) -> Path:
    return tarred(path, {"manifest.json": [{"Config": f"{'b' * 64}.json", "RepoTags": list(names)}]})


def tarred(path: Path, members: Mapping[str, Any]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def completed(argv: Sequence[str], out: str = "", code: int = 0, err: str = "") -> Completed:
    return Completed(
        argv=tuple(argv), returncode=code, stdout=out.encode(), stderr=err.encode(), duration_s=0.0, timed_out=False
    )


@dataclass
class Ended:
    """A program that ran to its end as soon as it was started."""

    done: Completed

    @property
    def argv(self) -> tuple[str, ...]:
        return self.done.argv

    def is_alive(self) -> bool:
        return False

    def wait_for_output(self, text: str, *, timeout_s: float) -> None:
        raise AssertionError("nobody waits for a line of it")

    def stop(self, *, sig: int = 15, timeout_s: float = 5.0) -> Completed:
        return self.done

    def wait(self, *, timeout_s: float) -> Completed:
        return self.done


@dataclass
class Door:
    """A machine with kubeadm and containerd, or this host with docker and helm. `said` is every command in order."""

    scratch: Path
    listed: str = LISTED
    images: dict[str, str] = field(default_factory=dict)
    docker: tuple[str, ...] = ()
    torn_at: int | None = None
    is_full: bool = False
    is_lost: bool = False
    prefix: tuple[str, ...] = ("ssh", "root@192.168.56.10")
    said: list[tuple[str, ...]] = field(default_factory=list)

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self.said.append(tuple(argv))
        if self.is_lost:
            raise MeasureFailed(what="the connection to node1 was lost", cause="no exit status came back")
        match tuple(argv):
            case ("kubeadm", "config", "images", "list", *_):
                return completed(argv, self.listed, 0 if self.listed else 127)
            case ("ctr", *_, "images", "list"):
                rows = [f"{name} application/x {digest} 9.9 MiB linux/amd64 -" for name, digest in self.images.items()]
                return completed(argv, "\n".join(["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]))
            case ("docker", "image", "inspect", name):
                there = name in self.docker
                return completed(argv, json.dumps([{"Id": SHA}]) if there else "", 0 if there else 1)
            case ("docker", "save", "--output", path, name):
                docker_save(Path(path), name)
                return completed(argv)
            case ("helm", "pull", *_, folder):
                (Path(folder) / "cilium-1.13.12.tgz").write_bytes(b"pulled chart")
                return completed(argv)
        return completed(argv, code=1, err="not scripted")

    @contextlib.contextmanager
    def _exported(self, argv: Sequence[str], output: int | None) -> Iterator[Running]:
        self.said.append(tuple(argv))
        assert tuple(argv[-3:-1]) == ("export", "-")
        assert output is not None
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if argv[-1] not in self.images:
            yield Ended(completed(argv, code=1, err=f'ctr: image "{argv[-1]}": not found'))
            return
        content = oci(self.scratch / "exported.tar", argv[-1]).read_bytes()
        os.write(output, content[: self.torn_at])
        yield Ended(completed(argv))

    def start(
        self, argv: Sequence[str], *, stdin: bytes | int = b"", output: int | None = None
    ) -> contextlib.AbstractContextManager[Running]:
        return self._exported(argv, output)


def settings_of(tmp_path: Path, **kubeadm: Any) -> KubeadmSettings:
    chart = tmp_path / "cilium-1.13.12.tgz"
    chart.write_bytes(b"chart")
    cilium = {"image": AGENT, "operatorImage": OPERATOR, "chart": str(chart)}
    section = {"toolsImage": TOOLS, **kubeadm}
    return read_settings(make_lab(hosts=THREE_HOSTS, kubeadm=section, cilium=cilium), tmp_path / "state")


@pytest.fixture
def machine(tmp_path: Path) -> Door:
    """A control plane that has everything."""
    names = (*KUBERNETES, *map(normal, (AGENT, OPERATOR, TOOLS)))
    return Door(tmp_path, images=dict.fromkeys(names, SHA))


@pytest.fixture
def here(tmp_path: Path) -> Door:
    return Door(tmp_path, prefix=())


@pytest.fixture
def doors(here: Door, machine: Door) -> Doors:
    return Doors(here=here, machines=(("node1", machine),))


def manifest_of(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        return dict(json.loads(content.read()))


def test_the_provider_offers_to_pack(tmp_path: Path) -> None:
    assert KubeadmProvider(tmp_path).capabilities.packing is not None


def test_kubeadm_on_the_control_plane_says_which_images_kubernetes_is_made_of(tmp_path: Path, doors: Doors) -> None:
    listed = kubernetes_images(settings_of(tmp_path), doors)
    assert listed.source == "kubeadm on node1"
    assert [role for role, _ in listed.images] == [
        "kube-apiserver", "kube-controller-manager", "kube-scheduler", "pause", "etcd", "coredns",
    ]  # fmt: skip
    assert tuple(reference for _, reference in listed.images) == KUBERNETES


def test_the_mirror_is_asked_for_in_kubeadms_list(tmp_path: Path, doors: Doors, machine: Door) -> None:
    kubernetes_images(settings_of(tmp_path, imageRepository="mirror.example/k8s"), doors)
    assert machine.said[-1][-4:] == ("--kubernetes-version", "v1.20.2", "--image-repository", "mirror.example/k8s")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"listed": ""}, "no kubeadm on node1 lists the images of Kubernetes 1.20.2"),
        ({"listed": "k8s.gcr.io/pause:3.2\n"}, "no kubeadm on node1 lists the images of Kubernetes 1.20.2"),
        ({"is_lost": True}, "no exit status came back"),
    ],
)
def test_a_control_plane_that_cannot_say_it_leaves_it_to_the_table(
    change: dict[str, Any], says: str, tmp_path: Path, here: Door
) -> None:
    listed = kubernetes_images(settings_of(tmp_path), Doors(here=here, machines=(("node1", Door(tmp_path, **change)),)))
    assert listed.source == f"labctl's table ({says})"
    assert tuple(reference for _, reference in listed.images) == KUBERNETES


def test_a_machine_that_does_not_answer_is_reported_with_its_reason(tmp_path: Path, here: Door) -> None:
    doors = Doors(here=here, silence={"node1": "no SSH server answers at 192.168.56.10"})
    assert "no SSH server answers" in kubernetes_images(settings_of(tmp_path), doors).source


@pytest.mark.parametrize(
    ("version", "mirror", "etcd", "coredns", "pause"),
    [
        ("1.20.5", None, "k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/coredns:1.7.0", "k8s.gcr.io/pause:3.2"),
        ("1.21.1", "m", "m/etcd:3.4.13-0", "m/coredns/coredns:v1.8.0", "m/pause:3.4.1"),
        ("1.21.2", "m", "m/etcd:3.4.13-0", "m/coredns:v1.8.0", "m/pause:3.4.1"),
        ("1.21.2", None, "k8s.gcr.io/etcd:3.4.13-0", "k8s.gcr.io/coredns/coredns:v1.8.0", "k8s.gcr.io/pause:3.4.1"),
        ("1.28.7", "m", "m/etcd:3.5.10-0", "m/coredns:v1.10.1", "m/pause:3.9"),
        ("1.28.8", "m", "m/etcd:3.5.12-0", "m/coredns:v1.10.1", "m/pause:3.9"),
        ("1.30.14", "m", "m/etcd:3.5.15-0", "m/coredns:v1.11.3", "m/pause:3.9"),
        ("1.34.1", "m", "m/etcd:3.6.4-0", "m/coredns:v1.12.1", "m/pause:3.10.1"),
        ("1.34.2", "m", "m/etcd:3.6.5-0", "m/coredns:v1.12.1", "m/pause:3.10.1"),
    ],
)
def test_the_table_is_that_of_kubeadms_releases(
    version: str, mirror: str | None, etcd: str, coredns: str, pause: str
) -> None:
    images = dict(from_table(Version.parse(version), mirror, "why").images)
    assert (images["etcd"], images["coredns"], images["pause"]) == (etcd, coredns, pause)


def test_every_version_of_the_table_has_a_tag_from_its_first_patch_on() -> None:
    assert all(tags.etcd[-1][0] == tags.coredns[-1][0] == 0 for tags in TABLE.values())
    assert sorted(TABLE) == list(range(20, max(TABLE) + 1))


def test_a_patch_that_the_table_has_not_seen_is_marked_as_a_guess() -> None:
    assert "as for 1.31.2, the last one in it" in from_table(Version.parse("1.31.9"), None, "why").source


def test_a_version_that_is_not_in_the_table_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"which etcd and CoreDNS belong to Kubernetes 1\.99\.0") as refused:
        from_table(Version.parse("1.99.0"), None, "node1 is off")
    assert "node1 is off" in refused.value.cause


def test_a_list_that_lacks_an_image_is_not_taken() -> None:
    assert parse_list(LISTED, "node1") is not None
    assert parse_list(LISTED.replace("k8s.gcr.io/etcd:3.4.13-0\n", ""), "node1") is None


def test_an_image_is_taken_from_an_archive_before_a_machine_and_from_a_machine_before_docker(
    tmp_path: Path, here: Door, machine: Door
) -> None:
    archive = docker_save(tmp_path / "tools.tar", TOOLS)
    here.docker = (AGENT, OPERATOR)
    del machine.images[normal(OPERATOR)]
    settings = settings_of(tmp_path, images={"archives": [str(archive)]})
    found = {f.part.role: f for f in locate(settings, Doors(here=here, machines=(("node1", machine),)))}
    assert (found["tools"].archive, found["tools"].part.digest) == (archive, "sha256:" + "b" * 64)
    assert found["agent"].store is not None
    assert found["agent"].store.node == "node1"
    assert found["operator"].in_engine


def test_an_image_that_only_a_worker_has_is_found_there(tmp_path: Path, here: Door, machine: Door) -> None:
    del machine.images[normal(TOOLS)]
    worker = Door(tmp_path, images={normal(TOOLS): SHA})
    doors = Doors(here=here, machines=(("node1", machine), ("node2", worker)))
    store = next(f for f in locate(settings_of(tmp_path), doors) if f.part.role == "tools").store
    assert store is not None
    assert store.node == "node2"


def test_an_image_by_digest_is_the_one_that_the_chart_asked_for() -> None:
    images = {f"quay.io/cilium/cilium@{SHA}": SHA, "quay.io/cilium/cilium@sha256:" + "c" * 64: "x"}
    rendered = f'image: "quay.io/cilium/cilium:v1.13.12@{SHA}"'
    assert stored_as("quay.io/cilium/cilium:v1.13.12", images, rendered) == f"quay.io/cilium/cilium@{SHA}"
    assert stored_as("quay.io/cilium/cilium:v1.13.12", images, "") == ""
    assert stored_as("quay.io/cilium/cilium:v1.13.1", images, rendered) == ""


def test_containerds_table_of_images_is_read() -> None:
    text = f"REF TYPE DIGEST SIZE PLATFORMS LABELS\nk8s.gcr.io/pause:3.2 application/x {SHA} 294.7 KiB linux/amd64 -\n"
    assert parse_images(text) == {"k8s.gcr.io/pause:3.2": SHA}
    assert parse_images("") == {}


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("tools:1", "docker.io/library/tools:1"),
        ("local/tools:1", "docker.io/local/tools:1"),
        ("localhost/tools:1", "localhost/tools:1"),
        ("host:5000/tools:1", "host:5000/tools:1"),
        ("quay.io/cilium/cilium:v1", "quay.io/cilium/cilium:v1"),
    ],
)
def test_a_reference_is_compared_in_full(short: str, full: str) -> None:
    assert normal(short) == full


def test_an_image_by_digest_gets_its_tag_in_the_archive(tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.tar"
    rename(oci(tmp_path / "a.tar", f"quay.io/cilium/cilium@{SHA}"), renamed, "quay.io/cilium/cilium:v1.13.12")
    assert images_in(renamed) == {"quay.io/cilium/cilium:v1.13.12": SHA}
    with tarfile.open(renamed) as tar:
        content = tar.extractfile("blobs/sha256/aa")
        assert content is not None
        assert content.read().startswith(b"layer of")


def test_a_bundle_has_every_image_and_the_chart_under_the_names_that_the_lab_asks_for(
    tmp_path: Path, doors: Doors, machine: Door
) -> None:
    parts = bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    assert [part.role for part in parts][-4:] == ["agent", "operator", "tools", "chart"]
    manifest = manifest_of(tmp_path / "lab.tar")
    assert {part["role"] for part in manifest["parts"]} == set(bundle.REQUIRED)
    assert (manifest["provider"], manifest["kubernetes"], manifest["cilium"]) == ("kubeadm", "1.20.2", "1.13.12")
    exported = [said[-1] for said in machine.said if "export" in said]
    assert exported == [*KUBERNETES, *map(normal, (AGENT, OPERATOR, TOOLS))]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("labctl-bundle-")]


def test_a_bundle_is_laid_over_a_lab_that_then_fetches_nothing(tmp_path: Path, doors: Doors) -> None:
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    other = make_lab(
        hosts=THREE_HOSTS,
        kubeadm={"kubernetes": "1.33.1", "imageRepository": "mirror.example/k8s", "images": {"archives": ["/x.tar"]}},
        cilium={"version": "1.18.1", "imageRepository": "mirror.example/cilium"},
    )
    provider = KubeadmProvider(tmp_path / "other")
    settings = provider.settings(with_settings(other, provider.unpack(tmp_path / "lab.tar")))
    assert not settings.pulls_images
    assert settings.kubeadm.offline
    assert settings.kubeadm.image_repository is None
    assert (str(settings.kubernetes), str(settings.cilium_version)) == ("1.20.2", "1.13.12")
    assert settings.images == (AGENT, OPERATOR, TOOLS)
    assert Path(settings.cilium.chart).read_bytes() == b"chart"
    held = {name for path in settings.kubeadm.images.archives for name in images_in(Path(path))}
    assert held == {*KUBERNETES, *map(normal, (AGENT, OPERATOR, TOOLS))}
    assert len({Path(path).name for path in settings.kubeadm.images.archives}) == 9


def test_packages_that_would_be_downloaded_do_not_go_with_a_bundle(tmp_path: Path, doors: Doors) -> None:
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    lab = make_lab(hosts=THREE_HOSTS, kubeadm={"packages": {"source": "repository"}})
    provider = KubeadmProvider(tmp_path / "other")
    with pytest.raises(UsageError) as refused:
        provider.settings(with_settings(lab, provider.unpack(tmp_path / "lab.tar")))
    assert "offline: true cannot be combined with packages.source: repository" in refused.value.cause


def test_an_image_by_digest_is_packed_under_its_tag(tmp_path: Path, here: Door, machine: Door) -> None:
    by_digest = f"docker.io/local/cilium@{SHA}"
    machine.images[by_digest] = machine.images.pop(normal(AGENT))
    doors = Doors(here=here, machines=(("node1", machine),), rendered=f'image: "{AGENT}@{SHA}"')
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")
    assert images_in(tmp_path / "out" / "images" / "agent.tar") == {normal(AGENT): SHA}


def test_an_archive_with_several_images_is_packed_once(tmp_path: Path, here: Door) -> None:
    archive = oci(tmp_path / "all.tar", *KUBERNETES, *map(normal, (AGENT, OPERATOR, TOOLS)))
    settings = settings_of(tmp_path, images={"archives": [str(archive)]})
    bundle.pack(settings, Doors(here=here), tmp_path / "lab.tar")
    with tarfile.open(tmp_path / "lab.tar") as tar:
        assert tar.getnames() == ["manifest.json", "chart.tgz", "images/archive-1.tar"]
    laid_over = bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")
    images = laid_over["kubeadm"]["images"]
    assert images == {"pull": False, "archives": [str(tmp_path / "out" / "images" / "archive-1.tar")]}


def test_images_of_docker_are_saved_where_no_machine_has_them(tmp_path: Path, here: Door) -> None:
    here.docker = (*KUBERNETES, AGENT, OPERATOR, TOOLS)
    bundle.pack(settings_of(tmp_path), Doors(here=here), tmp_path / "lab.tar")
    saved = [said[-1] for said in here.said if said[:2] == ("docker", "save")]
    assert saved == [*KUBERNETES, AGENT, OPERATOR, TOOLS]


def test_the_chart_is_pulled_where_it_is_not_here(tmp_path: Path, doors: Doors) -> None:
    lab = make_lab(hosts=THREE_HOSTS, kubeadm={"toolsImage": TOOLS}, cilium={"image": AGENT, "operatorImage": OPERATOR})
    bundle.pack(read_settings(lab, tmp_path / "state"), doors, tmp_path / "lab.tar")
    bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")
    assert (tmp_path / "out" / "chart.tgz").read_bytes() == b"pulled chart"


def test_every_image_that_was_not_found_is_named_with_the_places_that_were_looked_at(
    tmp_path: Path, here: Door, machine: Door
) -> None:
    del machine.images[normal(TOOLS)], machine.images["k8s.gcr.io/etcd:3.4.13-0"]
    doors = Doors(here=here, machines=(("node1", machine),), silence={"node2": "no SSH server answers"})
    with pytest.raises(UsageError) as refused:
        bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    assert refused.value.what == f"cannot pack images that were not found anywhere: k8s.gcr.io/etcd:3.4.13-0, {TOOLS}"
    assert "not in containerd of node1" in refused.value.cause
    assert "node2: no SSH server answers" in refused.value.cause
    assert not (tmp_path / "lab.tar").exists()


@pytest.mark.parametrize("torn_at", [0, 700, 1600])
def test_an_export_that_broke_off_becomes_no_bundle(torn_at: int, tmp_path: Path, doors: Doors, machine: Door) -> None:
    machine.torn_at = torn_at
    with pytest.raises(StepFailed, match="the archive that node1 exported is not a complete archive of"):
        bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    assert not (tmp_path / "lab.tar").exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, doors: Doors, machine: Door) -> None:
    machine.is_full = True
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(StepFailed, match="cannot write") as failed:
        bundle.pack(settings_of(tmp_path), doors, output / "lab.tar")
    assert "No space left on device" in failed.value.cause
    assert failed.value.remedy == f"df -h {output}"
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_disk_that_is_full_while_unpacking_is_not_blamed_on_the_bundle(
    when: str, tmp_path: Path, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    else:
        monkeypatch.setattr(Folder, "replace", full)
    with pytest.raises(StepFailed, match="cannot unpack"):
        bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")


def test_what_is_there_already_is_not_overwritten(tmp_path: Path, doors: Doors) -> None:
    (tmp_path / "lab.tar").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    assert (tmp_path / "lab.tar").read_text() == "mine"


@pytest.mark.parametrize(("content", "says"), [(None, "there is no archive"), (b"x" * 2000, "is not an image archive")])
def test_an_archive_of_lab_yaml_that_is_none_is_refused(
    content: bytes | None, says: str, tmp_path: Path, doors: Doors
) -> None:
    path = tmp_path / "a.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        bundle.pack(settings_of(tmp_path, images={"archives": [str(path)]}), doors, tmp_path / "lab.tar")


def test_a_bundle_with_a_changed_image_is_refused(tmp_path: Path, doors: Doors) -> None:
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    data = bytearray((tmp_path / "lab.tar").read_bytes())
    place = data.index(b"layer of k8s.gcr.io/etcd")
    data[place] ^= 1
    (tmp_path / "lab.tar").write_bytes(data)
    with pytest.raises(UsageError) as refused:
        bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")
    assert "images/etcd.tar has the checksum" in refused.value.cause


def test_a_bundle_that_was_cut_is_refused(tmp_path: Path, doors: Doors) -> None:
    bundle.pack(settings_of(tmp_path), doors, tmp_path / "lab.tar")
    whole = (tmp_path / "lab.tar").read_bytes()
    (tmp_path / "lab.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is not a complete bundle"):
        bundle.unpack(tmp_path / "lab.tar", tmp_path / "out")


def test_a_bundle_for_kind_is_refused(tmp_path: Path) -> None:
    roles = ("node", "agent", "operator", "tools", "chart")
    parts = [{"role": role, "reference": role, "file": f"images/{role}.tar", "sha256": ""} for role in roles]
    tarred(tmp_path / "kind.tar", {"manifest.json": {"apiVersion": "labctl/v1", "kind": "Bundle", "parts": parts}})
    with pytest.raises(UsageError) as refused:
        bundle.unpack(tmp_path / "kind.tar", tmp_path / "out")
    assert "its manifest lacks coredns, etcd, kube-apiserver" in refused.value.cause


def test_a_lab_without_machines_is_listed_by_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostCommands, "find", lambda *_: None)
    parts = KubeadmProvider(tmp_path).images(make_lab())
    assert [part.role for part in parts] == [*[role for role in bundle.REQUIRED if role != "chart"], "chart"]
    assert parts[0].source == "labctl's table (no machine to ask)"
    assert parts[0].record()["source"] == parts[0].source
    assert "source" not in parts[-1].record()


def test_a_machine_that_refuses_the_connection_does_not_stop_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostCommands, "find", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    lab = make_lab(hosts=({"address": "127.0.0.1", "port": port},), nodes=1)
    parts = KubeadmProvider(tmp_path).images(lab)
    assert parts[0].source.startswith("labctl's table (no SSH server answers at 127.0.0.1")
