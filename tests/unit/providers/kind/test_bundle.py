"""Bundles: packed with checksums, and nothing of a damaged one is used."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from kind_world import World, completed, id_of, lab_of
from labctl.errors import StepFailed, UsageError
from labctl.providers.base import Completed
from labctl.providers.kind import bundle
from labctl.providers.kind.bundle import parse_digest, parts
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kind.settings import KindSettings


class Engine(World):
    """`docker save` writes, `helm package` packs."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if argv[:2] == ("docker", "save"):
            Path(argv[3]).write_bytes(f"image {argv[4]}".encode())
            return completed(argv)
        if argv[:2] == ("helm", "package"):
            (Path(argv[-1]) / "cilium-1.13.12.tgz").write_bytes(b"chart")
            return completed(argv)
        if argv[:2] == ("docker", "load"):
            self.said.append(" ".join(argv))
            return completed(argv)
        return super().run(argv, timeout_s=timeout_s, stdin=stdin)


@pytest.fixture
def settings(tmp_path: Path) -> KindSettings:
    return KindProvider(root=tmp_path / "state").settings(lab_of(tmp_path))


@pytest.fixture
def packed(settings: KindSettings, tmp_path: Path) -> Path:
    output = tmp_path / "lab.tar"
    bundle.pack(settings, "docker", Engine(), output)
    return output


def test_every_part_of_a_lab_is_listed_with_its_digest(settings: KindSettings) -> None:
    listed = parts(settings, "docker", Engine())
    assert [(part.role, part.reference) for part in listed[:4]] == [
        ("node", "local/node:v1.20.2"),
        ("agent", "local/cilium:v1.13.12"),
        ("operator", "local/operator-generic:v1.13.12"),
        ("tools", "local/tools:1"),
    ]
    assert [part.digest for part in listed[:4]] == [id_of(part.reference) for part in listed[:4]]


def test_the_registrys_digest_goes_before_the_local_id() -> None:
    inspected = json.dumps([{"Id": "sha256:aa", "RepoDigests": ["quay.io/cilium/cilium@sha256:bb"]}])
    assert parse_digest(inspected) == "sha256:bb"
    assert parse_digest("[]") == ""


def test_a_bundle_unpacks_to_settings_that_fetch_nothing(packed: Path, tmp_path: Path) -> None:
    unpacked = bundle.unpack(packed, tmp_path / "out")
    laid_over = unpacked.settings()
    assert laid_over["kindCluster"]["pull"] is False
    assert laid_over["kindCluster"]["image"] == "local/node:v1.20.2"
    assert laid_over["cilium"]["chart"] == str(tmp_path / "out" / "chart.tgz")
    assert [path.read_text() for path in unpacked.archives] == [
        "image local/cilium:v1.13.12", "image local/operator-generic:v1.13.12", "image local/tools:1",
    ]  # fmt: skip
    engine = Engine()
    bundle.load_node_image(unpacked, "docker", engine)
    assert engine.said == [f"docker load --input {tmp_path}/out/images/node.tar"]


def test_the_manifest_comes_first_and_says_what_is_inside(packed: Path) -> None:
    with tarfile.open(packed) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO(b"{}"))
    assert names[0] == "manifest.json"
    assert {entry["file"] for entry in manifest["parts"]} == set(names[1:])
    assert (manifest["cilium"], manifest["kubernetes"], manifest["scenario"]) == ("1.13.12", "1.20.2", "bpf")


def repacked(
    source: Path, target: Path, change: dict[str, bytes | None], extra: tuple[str, bytes] | None = None
) -> Path:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            data = change.get(member.name, content.read() if content else b"")
            if data is not None:
                info = tarfile.TarInfo(member.name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
        if extra is not None:
            info = tarfile.TarInfo(extra[0])
            info.size = len(extra[1])
            new.addfile(info, io.BytesIO(extra[1]))
    return target


@pytest.mark.parametrize(
    ("change", "extra", "says"),
    [
        ({"images/agent.tar": b"another"}, None, "bytes, its manifest says"),
        ({"images/agent.tar": None}, None, "it lacks images/agent.tar"),
        ({"manifest.json": b"{"}, None, "its manifest cannot be read"),
        ({"manifest.json": b'{"apiVersion": "labctl/v1", "kind": "Lab", "parts": []}'}, None, "is not a Bundle"),
        ({}, ("../../evil", b"x"), "is not in its manifest"),
        ({"manifest.json": None}, None, "its first file is not manifest.json"),
    ],
)
def test_a_damaged_bundle_is_refused_with_what_is_wrong(
    change: dict[str, bytes | None], extra: tuple[str, bytes] | None, says: str, packed: Path, tmp_path: Path
) -> None:
    broken = repacked(packed, tmp_path / "broken.tar", change, extra)
    with pytest.raises(UsageError) as refused:
        bundle.unpack(broken, tmp_path / "out")
    assert says in refused.value.cause
    assert not (tmp_path / "evil").exists()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO(b"{}"))
    manifest["parts"][0]["file"] = "../evil"
    broken = repacked(packed, tmp_path / "b.tar", {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(UsageError) as refused:
        bundle.unpack(broken, tmp_path / "out")
    assert "lists the unexpected file '../evil'" in refused.value.cause


def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a tar")
    with pytest.raises(UsageError, match="is not a complete bundle"):
        bundle.unpack(tmp_path / "x", tmp_path / "out")


def test_an_image_that_is_not_here_cannot_be_packed(settings: KindSettings, tmp_path: Path) -> None:
    engine = Engine()
    engine.images.remove("local/tools:1")
    with pytest.raises(UsageError, match="cannot pack images that are not here: local/tools:1"):
        bundle.pack(settings, "docker", engine, tmp_path / "lab.tar")
    assert not (tmp_path / "lab.tar").exists()


def test_a_place_that_cannot_be_written_is_said(settings: KindSettings, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="cannot write"):
        bundle.pack(settings, "docker", Engine(), tmp_path / "no" / "lab.tar")
