"""The images and the chart of a lab, and where each of them can be had: archives, machines, this host's docker.

Nothing is pulled and no machine is changed: containerd and kubeadm on the machines are asked what they have.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labctl.errors import LabError, UsageError
from labctl.providers.base import Part
from labctl.providers.cilium.bundle import engine_digest, plain_reference
from labctl.providers.cilium.commands import Commands
from labctl.providers.cilium.install import REPOSITORY, chart_place
from labctl.providers.kubeadm.archives import images_in, normal
from labctl.providers.kubeadm.inventory import sandbox_image
from labctl.providers.kubeadm.kubernetes_images import Listed, argv_list, from_table, parse_list
from labctl.providers.kubeadm.settings import Settings
from labctl.system.files import digest_of

ENGINE = "docker"
CILIUM_ROLES = ("agent", "operator", "tools")
_LOOK_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """containerd of one machine: the names that it has in the kubelet's namespace, with digests."""

    node: str
    commands: Commands
    images: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where images may be: this host, and those of the lab's machines that answer, the control plane first. `silence`
    says why machines are missing, in words; `rendered` is the lab's rendered chart, which pins digests."""

    here: Commands
    machines: Sequence[tuple[str, Commands]] = ()
    silence: Mapping[str, str] = field(default_factory=dict)
    rendered: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One image and the first place that has it: an archive, a machine (where its name may be another), or docker."""

    part: Part
    archive: Path | None = None
    store: Store | None = None
    stored_as: str = ""
    in_engine: bool = False

    @property
    def is_there(self) -> bool:
        return self.archive is not None or self.store is not None or self.in_engine


def argv_images(socket: str) -> tuple[str, ...]:
    return ("ctr", "--address", socket, "--namespace", "k8s.io", "images", "list")


def parse_images(text: str) -> dict[str, str]:
    """Names with digests, from the table of `ctr images list`."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2 and row[2].startswith("sha256:")}


def stores(settings: Settings, doors: Doors) -> tuple[Store, ...]:
    """A machine without containerd has nothing; so has one that drops the connection now."""
    found = []
    for node, commands in doors.machines:
        try:
            done = commands.run(argv_images(settings.kubeadm.runtime.socket), timeout_s=_LOOK_S)
        except LabError:
            continue
        if done.returncode == 0 and not done.timed_out:
            found.append(Store(node=node, commands=commands, images=parse_images(done.text)))
    return tuple(found)


def kubernetes_images(settings: Settings, doors: Doors) -> Listed:
    """As kubeadm on the control plane lists them, else by the table, with the reason."""
    leader = settings.control_plane.node
    mirror, why = settings.kubeadm.image_repository, doors.silence.get(leader, "no machine to ask")
    commands = dict(doors.machines).get(leader)
    if commands is not None:
        try:
            done = commands.run(argv_list(settings.kubernetes, mirror), timeout_s=_LOOK_S)
            listed = parse_list(done.text, leader) if done.returncode == 0 and not done.timed_out else None
            if listed is not None:
                return listed
            why = f"{leader} has no kubeadm that lists the images of {settings.kubernetes}"
        except LabError as failed:
            why = failed.cause or failed.what
    return from_table(settings.kubernetes, mirror, why)


def wanted(settings: Settings, doors: Doors) -> tuple[Part, ...]:
    """Every image with its role; digests are not looked for."""
    listed, sandbox = kubernetes_images(settings, doors), sandbox_image(settings.kubeadm)
    kubernetes = tuple(
        Part(role=role, reference=sandbox if role == "pause" and sandbox else reference, digest="",
             source=listed.source)
        for role, reference in listed.images
    )  # fmt: skip
    named = zip(CILIUM_ROLES, settings.images, strict=True)
    return (*kubernetes, *(Part(role=role, reference=reference, digest="") for role, reference in named))


def locate(settings: Settings, doors: Doors) -> tuple[Found, ...]:
    """Each image with the first place that has it: archives of lab.yaml, machines, docker. Raises UsageError for an
    archive that is none."""
    archives = {Path(path): archived(Path(path)) for path in settings.kubeadm.images.archives}
    there = stores(settings, doors)
    return tuple(_locate(part, archives, there, doors) for part in wanted(settings, doors))


def _locate(part: Part, archives: Mapping[Path, Mapping[str, str]], there: Iterable[Store], doors: Doors) -> Found:
    name = normal(plain_reference(part.reference))
    for path, names in archives.items():
        if name in names:
            return Found(part=_with_digest(part, names[name]), archive=path)
    for store in there:
        stored = stored_as(part.reference, store.images, doors.rendered)
        if stored:
            return Found(part=_with_digest(part, store.images[stored]), store=store, stored_as=stored)
    digest = engine_digest(part.reference, ENGINE, doors.here)
    return Found(part=_with_digest(part, digest), in_engine=bool(digest))


def stored_as(reference: str, images: Iterable[str], rendered: str) -> str:
    """The name under which containerd has the image; empty when it has not got it. What was pulled by tag and digest,
    as Cilium's chart asks for it, is kept under its digest alone: which digest, the reference or the chart says."""
    have = set(images)
    tagged = plain_reference(reference)
    if normal(tagged) in have and "@" not in reference:
        return normal(tagged)
    digests = re.findall(re.escape(tagged) + r"@(sha256:[0-9a-f]{64})", f"{reference}\n{rendered}")
    repository = normal(tagged).rpartition(":")[0] if ":" in tagged.rpartition("/")[2] else normal(tagged)
    names = [*(f"{repository}@{digest}" for digest in digests), normal(tagged)]
    return next((name for name in names if name in have), "")


def archived(path: Path) -> Mapping[str, str]:
    try:
        return images_in(path)
    except FileNotFoundError as lost:
        raise UsageError(
            what=f"there is no archive {path}", remedy="correct kubeadm.images.archives in lab.yaml"
        ) from lost
    except (OSError, tarfile.TarError, ValueError, EOFError) as failed:
        raise UsageError(
            what=f"{path} is not an image archive", cause=str(failed),
            remedy="write it anew: docker save -o FILE IMAGE, or ctr --namespace k8s.io images export FILE IMAGE",
        ) from failed  # fmt: skip


def _with_digest(part: Part, digest: str) -> Part:
    return Part(role=part.role, reference=part.reference, digest=digest, source=part.source)


def chart_part(settings: Settings) -> Part:
    chart = Path(chart_place(settings.cilium, settings.cilium_version, settings.files.charts))
    reference = settings.cilium.chart or f"cilium {settings.cilium_version} of {REPOSITORY}"
    return Part(role="chart", reference=reference, digest=f"sha256:{digest_of(chart)}" if chart.is_file() else "")
