"""A bundle or a chart that lies about what is in it is refused before it takes memory or disk, and nothing stays."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import resource
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.errors import LabError, UsageError
from labctl.providers.cilium import bundle
from labctl.providers.cilium.chart import read_chart

IMAGE = b"an image"
CHART = b"a chart"


def _part(file: str, content: bytes, **more: object) -> dict[str, object]:
    sha = hashlib.sha256(content).hexdigest()
    return {"role": file, "reference": file, "file": file, "sha256": sha, "byte": len(content), **more}


def _manifest(*parts: Mapping[str, object], **more: object) -> bytes:
    return json.dumps({"apiVersion": "labctl/v1", "kind": "Bundle", "parts": parts, **more}).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes, **header: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def _bundle(path: Path, fill: Callable[[tarfile.TarFile], None], manifest: bytes | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        _add(tar, "manifest.json", manifest or _manifest(_part("chart.tgz", CHART), _part("images/a.tar", IMAGE)))
        fill(tar)
    return path


def _good(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", IMAGE)


def _larger(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", IMAGE + bytes(8 << 20))


def _changed(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", IMAGE.upper())


def _twice(tar: tarfile.TarFile) -> None:
    _good(tar)
    _add(tar, "images/a.tar", IMAGE)


def _hard_link(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", b"", type=tarfile.LNKTYPE, linkname="chart.tgz")


def _link(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", b"", type=tarfile.SYMTYPE, linkname="/etc/shadow")


def _device(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    _add(tar, "images/a.tar", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)


def _long_name(tar: tarfile.TarFile) -> None:
    _good(tar)
    _add(tar, "././@LongLink", bytes(4 << 20), type=tarfile.GNUTYPE_LONGNAME)


def _long_record(tar: tarfile.TarFile) -> None:
    _good(tar)
    _add(tar, "x", bytes(4 << 20), type=tarfile.XHDTYPE)


def _chain_of_records(tar: tarfile.TarFile) -> None:
    _good(tar)
    for _ in range(3000):
        _add(tar, "x", b"12 mtime=1.5\n"[:13], type=tarfile.XHDTYPE)


def _sparse(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,8",
        "GNU.sparse.size": str(1 << 40),
    }
    _add(tar, "images/a.tar", IMAGE, pax_headers=headers)


def _huge_size(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)
    info = tarfile.TarInfo("images/a.tar")
    info.size = 1 << 40
    tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
    tar.offset += 512


def _unknown(tar: tarfile.TarFile) -> None:
    _good(tar)
    _add(tar, "images/../../x.tar", IMAGE)


def _many(tar: tarfile.TarFile) -> None:
    _good(tar)
    for number in range(2000):
        _add(tar, f"images/{number}.tar", b"")


def _missing(tar: tarfile.TarFile) -> None:
    _add(tar, "chart.tgz", CHART)


LIES = [
    _larger, _changed, _twice, _hard_link, _link, _device, _long_name, _long_record, _chain_of_records, _sparse,
    _huge_size, _unknown, _many, _missing,
]  # fmt: skip


@pytest.fixture
def little_memory() -> Iterator[None]:
    """128 MiB more than now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (128 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_good_one_is_unpacked_and_private(tmp_path: Path) -> None:
    found = bundle.read(_bundle(tmp_path / "b", _good), tmp_path / "state" / "out", ("chart.tgz",))

    assert len(found["parts"]) == 2
    assert (tmp_path / "state" / "out" / "images" / "a.tar").read_bytes() == IMAGE
    assert (tmp_path / "state" / "out" / "images" / "a.tar").stat().st_mode & 0o777 == 0o600
    bundle.read(tmp_path / "b", tmp_path / "state" / "out", ("chart.tgz",))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("fill", LIES)
def test_one_that_lies_is_refused_at_once_and_leaves_nothing(
    fill: Callable[[tarfile.TarFile], None], tmp_path: Path
) -> None:
    path = _bundle(tmp_path / "b", fill)
    begun = time.process_time()
    with pytest.raises(UsageError, match="is not a whole bundle"):
        bundle.read(path, tmp_path / "out", ("chart.tgz",))

    assert not (tmp_path / "out").exists()
    assert time.process_time() - begun < 5


MANIFESTS = {
    "a million parts": _manifest(*([{}] * 1_000_000)),
    "too many parts for its size": _manifest(*([{"role": "", "file": "", "byte": 0, "sha256": ""}] * 1500)),
    "no sizes": _manifest({"role": "chart.tgz", "file": "chart.tgz", "sha256": "0"}),
    "a size that is a text": _manifest(_part("chart.tgz", CHART, byte="7")),
    "a size below nothing": _manifest(_part("chart.tgz", CHART, byte=-1)),
    "a size that is no whole number": _manifest(_part("chart.tgz", CHART, byte=1e300)),
    "two sizes of one file": _manifest(_part("chart.tgz", CHART), _part("chart.tgz", CHART, byte=3)),
    "depth": b"[" * 100_000,
    "a list": b"[]",
    "a checksum that is none": _manifest(_part("chart.tgz", CHART, sha256=[])),
    "a file that is a list": _manifest({**_part("chart.tgz", CHART), "file": []}),
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_cannot_be_right_is_refused(manifest: bytes, tmp_path: Path) -> None:
    path = _bundle(tmp_path / "b", lambda tar: _add(tar, "chart.tgz", CHART), manifest)
    with pytest.raises(UsageError, match="is not a whole bundle"):
        bundle.read(path, tmp_path / "out", ("chart.tgz",))
    assert not (tmp_path / "out").exists()


def test_more_than_the_disk_has_is_said_before_anything_is_unpacked(tmp_path: Path) -> None:
    path = _bundle(tmp_path / "b", _good, _manifest(_part("chart.tgz", CHART, byte=1 << 60)))
    with pytest.raises(LabError) as refused:
        bundle.read(path, tmp_path / "out", ("chart.tgz",))
    assert refused.value.exit_code == 4
    assert "are free" in refused.value.cause
    assert not (tmp_path / "out").exists()


def _chart(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            _add(tar, f"cilium/{name}", content)
    return path


ABOUT = b"name: cilium\nversion: 1.16.0\n"


def test_a_chart_is_read(tmp_path: Path) -> None:
    chart = read_chart(_chart(tmp_path / "c.tgz", {"Chart.yaml": ABOUT, "values.yaml": b"a: {b: 1}\n"}))
    assert chart.knows("a.b")


def _bomb(path: Path, inside: str) -> Path:
    """200 MB of zeros in 200 kB."""
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        _add(tar, "cilium/Chart.yaml", ABOUT)
        kind = tarfile.GNUTYPE_LONGNAME if inside == "a long name" else tarfile.REGTYPE
        name = {"a template": "cilium/templates/a.yaml", "another file": "cilium/other"}.get(inside, "././@LongLink")
        info = tarfile.TarInfo(name)
        info.size, info.type = 200 << 20, kind
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            packed.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("inside", ["a template", "another file", "a long name"])
def test_a_chart_that_unpacks_to_more_than_a_chart_is_refused(
    inside: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = _bomb(tmp_path / "c.tgz", inside)
    request.getfixturevalue("little_memory")
    with pytest.raises(UsageError, match="cannot read the chart"):
        read_chart(path)


@pytest.mark.parametrize(
    "files",
    [
        {"Chart.yaml": b"[" * 5000},
        {"Chart.yaml": b"- a\n"},
        {"Chart.yaml": b"a: *b\n"},
        {"Chart.yaml": ABOUT, "values.yaml": b"!!python/object/apply:os.system [id]\n"},
        {"Chart.yaml": ABOUT, "values.yaml": b"text"},
        {"Chart.yaml": b"version: x.y\n"},
    ],
)
def test_a_chart_that_is_no_chart_is_refused_in_words(files: Mapping[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_chart(_chart(tmp_path / "c.tgz", files))


def test_aliases_that_stand_for_a_billion_keys_do_not_hang_the_search_for_a_near_one(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 12)]
    values = "\n".join(lines).encode()
    chart = read_chart(_chart(tmp_path / "c.tgz", {"Chart.yaml": ABOUT, "values.yaml": values}))
    assert chart.nearest("nothing.like.it.anywhere") == ""


NAMES = st.sampled_from(
    [
        "chart.tgz",
        "images/a.tar",
        "images/../../x",
        "/etc/passwd",
        "../x",
        "images/-rf.tar",
        "images/a.tar/",
        "",
        "x" * 300,
    ]
)


@settings(max_examples=150)
@given(
    members=st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=4),
    parts=st.lists(
        st.fixed_dictionaries(
            {"file": NAMES | st.none() | st.integers()},
            optional={
                "role": NAMES | st.none(), "byte": st.integers(-1, 50) | st.none() | NAMES, "sha256": st.none() | NAMES,
            },
        ),
        max_size=3,
    ),
    honest=st.booleans(),
)  # fmt: skip
def test_any_bundle_is_refused_or_unpacks_what_it_names_inside_its_folder(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[str, bytes]],
    parts: list[dict[str, object]],
    honest: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("bundle")

    def fill(tar: tarfile.TarFile) -> None:
        for name, content in members:
            _add(tar, name, content)

    described = [_part(name, content) for name, content in members] if honest else parts
    place = _bundle(tmp_path / "b.tar", fill, _manifest(*described))
    try:
        bundle.read(place, tmp_path / "out", ())
    except LabError:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar"]
        return
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {str(part["file"]) for part in described}
