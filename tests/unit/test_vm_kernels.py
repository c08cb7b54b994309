"""Which kernels are booted, how they are made ready, and that docs/kernels.md says what was recorded of them."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests/vm"))

import kernels  # noqa: E402
import machine  # noqa: E402
import results  # noqa: E402


def test_the_table_in_the_documentation_is_what_was_recorded() -> None:
    document = results.DOCUMENT.read_text(encoding="utf-8")
    assert results.rendered(document, json.loads(results.RECORD.read_text())) == document


def test_the_oldest_kernel_that_the_documentation_names_is_the_oldest_that_passed_and_the_one_that_labctl_wants() -> (
    None
):
    from labctl.providers.netns import kernel

    lines = json.loads(results.RECORD.read_text())
    passed = [
        kernel.parse_release(line["kernel"])
        for line in lines.values()
        if line["doctor"] and line["proven"] == line["checked"] == line["traced"] == line["down"] == line["scenarios"]
    ]
    assert min(version for version in passed if version) == kernel.MINIMUM
    assert f"**Linux {kernel.in_words(kernel.MINIMUM)} is the oldest kernel" in results.DOCUMENT.read_text()
    assert len(passed) == len(lines)


def test_the_sample_takes_every_kernel_in_its_turn() -> None:
    day = datetime.date(2026, 11, 29)
    chosen = [results.wanted_kernels("sample", day + datetime.timedelta(days=n)) for n in range(4)]
    assert [names[0] for names, _ in chosen[:2]] * 2 == [names[0] for names, _ in chosen]
    assert {names[0] for names, _ in chosen} == set(results.SAMPLE)
    assert all(len(names) == 1 and is_sample for names, is_sample in chosen)
    assert results.wanted_kernels("5.10 7.x", day) == (("5.10", "7.x"), False)
    assert results.wanted_kernels("", day) == ((), False)


def modules(folder: Path, dependencies: str, builtin: str = "") -> Path:
    (folder / "modules.dep").write_text(dependencies)
    (folder / "modules.builtin").write_text(builtin)
    return folder


DEPENDENCIES = """\
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko
kernel/drivers/char/hw_random/virtio-rng.ko:
"""


def test_modules_are_loaded_after_what_they_need_each_once(tmp_path: Path) -> None:
    found = kernels.boot_modules(modules(tmp_path, DEPENDENCIES, "kernel/fs/overlayfs/overlay.ko\n"))
    names = [path.name for path in found]
    assert names == [
        "virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "9pnet.ko", "9pnet_virtio.ko", "9p.ko", "virtio-rng.ko",
    ]  # fmt: skip


def test_a_module_that_is_neither_there_nor_built_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(kernels.CannotBoot, match="has no module overlay"):
        kernels.boot_modules(modules(tmp_path, DEPENDENCIES))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("./boot/vmlinuz-6.1.0-50-amd64", "vmlinuz"),
        ("./usr/lib/modules/7.3.4+deb13-amd64/vmlinuz", "vmlinuz"),
        ("./lib/modules/6.1.0-50-amd64/kernel/net/core/x.ko", "lib/modules/6.1.0-50-amd64/kernel/net/core/x.ko"),
        ("./usr/lib/modules/6.12.1+deb13-amd64/modules.builtin", "lib/modules/6.12.1+deb13-amd64/modules.builtin"),
        (
            "./lib/modules/6.1.0-50-amd64/kernel/drivers/net/veth.ko",
            "lib/modules/6.1.0-50-amd64/kernel/drivers/net/veth.ko",
        ),
        ("./lib/modules/6.1.0-50-amd64/kernel/drivers/gpu/drm/drm.ko", None),
        ("./lib/modules/6.1.0-50-amd64/kernel/drivers/net/ethernet/intel/e1000.ko", None),
        ("./lib/modules/6.1.0-50-amd64/kernel/net/mac80211/mac80211.ko", None),
        ("./usr/share/doc/linux-image/copyright", None),
        ("./boot/System.map-6.1.0-50-amd64", None),
    ],
)
def test_of_a_package_only_the_kernel_and_modules_that_labs_load_are_kept(name: str, place: str | None) -> None:
    assert kernels._place(name) == place


@pytest.mark.parametrize("wanted", ["latest", "6.1; rm", "6.1.0", "", "x"])
def test_what_is_no_version_is_refused(wanted: str) -> None:
    with pytest.raises(kernels.CannotBoot, match="is no version of a kernel"):
        kernels.prepared(wanted)


PRINTED = """\
'http://mirror.example/nodejs/dists/nodistro/InRelease' x 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' x 0
'http://mirror.example/debian/dists/bookworm/InRelease' x 0
'http://mirror.example/sec/dists/bookworm-security/InRelease' x 0
"""


@pytest.mark.parametrize(
    ("suite", "mirror"),
    [
        ("trixie", "http://mirror.example/debian"),
        ("trixie-backports", "http://mirror.example/debian"),
        ("bullseye-security", "http://mirror.example/sec"),
    ],
)
def test_the_mirror_is_the_one_of_this_hosts_apt(suite: str, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_said", lambda argv: PRINTED)
    assert kernels._mirror(suite) == mirror


def test_a_host_whose_apt_has_no_debian_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_said", lambda argv: PRINTED.splitlines()[0])
    with pytest.raises(kernels.CannotBoot, match="has no Debian archive"):
        kernels._mirror("trixie")


def test_the_machine_cannot_write_to_the_host_but_for_its_results(tmp_path: Path) -> None:
    kernel = kernels.Kernel(wanted="6.1", release="6.1.0", package="p", folder=tmp_path)
    argv = machine.command_line(kernel, tmp_path / "initrd", tmp_path / "o,ut", has_kvm=False)
    shared = [word for word in argv if word.startswith("local,")]
    assert [("readonly=on" in word, f"path={tmp_path}/o,,ut," in word) for word in shared] == [
        (True, False),
        (False, True),
    ]
    assert "tcg,thread=multi,tb-size=768" in argv
    assert "kvm" in machine.command_line(kernel, tmp_path / "initrd", tmp_path / "o,ut", has_kvm=True)


def command(code: int = 0, **document: Any) -> dict[str, Any]:
    return {"code": code, "stdout": json.dumps(document), "stderr": ""}


def test_a_line_of_the_table_counts_what_came_true() -> None:
    whole = {
        "up": command(),
        "status": command(modeInForce={"proven": True}),
        "check": command(),
        "trace": command(unshown=[{"mover": "conntrack", "kernel": "6.1.0", "since": "6.16"}]),
        "down": command(),
    }
    half = {"up": command(4), "down": command()}
    found = {
        "kernel": "6.1.0-50-amd64",
        "package": "p",
        "doctor": command(probes=[{"name": "nft tables with owners", "present": False}]),
        "objects": {"bpf-vxlan": "", "bpf-vxlan-lb": "error: could not be loaded"},
        "scenarios": {"a": whole, "b": half},
        "leftBehind": {"namespaces": [], "maps": ["7 x"]},
        "tests": {"stdout": "....\n=== 1 failed, 9 passed, 2 skipped in 3.21s ==="},
    }
    line = results.judged(found)
    assert (line["proven"], line["checked"], line["traced"], line["down"], line["scenarios"]) == (1, 1, 1, 2, 2)
    assert line["tests"] == {"failed": 1, "passed": 9, "skipped": 2}
    table = results.rendered(f"x{results.BEGIN}{results.END}y", {"6.1": {"date": "2026-11-29", **line}})
    assert [cell.strip() for cell in table.splitlines()[-2].strip("|").split("|")] == [
        "6.1.0-50-amd64",
        "2026-11-29",
        *["1 of 2"] * 4,
        "conntrack steps in a trace (6.16 and later have them); owners of nft tables (5.12 and later have them)",
        "2 of 2",
        "1 failed, 9 passed, 2 skipped",
    ]
