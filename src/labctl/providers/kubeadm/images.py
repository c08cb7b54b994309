"""The images and the chart of a lab, and where each of them is: archives, machines, this host's docker.

Nothing is pulled and no machine is changed: containerd and kubeadm on the machines are asked what they have, all
machines at once. Archives are what `docker save` and `ctr images export` write, packed with gzip or not. Which images
Kubernetes itself is made of says kubeadm's own list, or the same from a table: kubeadm's constants
(`DefaultEtcdVersion`, `CoreDNSVersion`) of the releases, whose patch releases move etcd and sometimes CoreDNS.
kube-proxy's stands beside Cilium's images, in a lab that has one.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from pathlib import Path

from labctl.errors import LabError, UsageError
from labctl.json_text import parse_json
from labctl.model.versions import Version
from labctl.providers.base import Part
from labctl.providers.cilium.bundle import engine_digest, plain_reference
from labctl.providers.cilium.commands import Commands, HostCommands, read_state
from labctl.providers.cilium.compatibility import has_cilium
from labctl.providers.cilium.images import DOCKER, INDEX, NAMES, images_in
from labctl.providers.cilium.values import normal
from labctl.providers.kubeadm.inventory import pause_tag, sandbox_image
from labctl.providers.kubeadm.kubernetes import default_image_repository
from labctl.providers.kubeadm.settings import KubeadmSettings
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.system.archives import content_of, open_archive
from labctl.values import dataclass

ENGINE = "docker"
TOOLS_ROLE = "tools"
CILIUM_ROLES = ("agent", "operator", TOOLS_ROLE)
PROXY_ROLE = "kube-proxy"
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
class FoundImage:
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


def stores(settings: KubeadmSettings, doors: Doors) -> tuple[Store, ...]:
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


def kubernetes_images(settings: KubeadmSettings, doors: Doors) -> Listed:
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
            why = f"no kubeadm on {leader} lists the images of Kubernetes {settings.kubernetes}"
        except LabError as failed:
            why = failed.cause or failed.what
    return from_table(settings.kubernetes, mirror, why)


def wanted(settings: KubeadmSettings, doors: Doors) -> tuple[Part, ...]:
    """Every image with its role; digests are not looked for."""
    listed, sandbox = kubernetes_images(settings, doors), sandbox_image(settings.kubeadm)
    kubernetes = tuple(
        Part(role=role, reference=sandbox if role == "pause" and sandbox else reference, digest="",
             source=listed.source)
        for role, reference in listed.images
    )  # fmt: skip
    proxy = tuple(PROXY_ROLE for _ in settings.extra_images)
    roles = (*CILIUM_ROLES, *proxy)
    if not has_cilium(settings.lab):
        roles = (*(f"network{number}" for number, _ in enumerate(settings.network_images, start=1)), TOOLS_ROLE, *proxy)
    named = zip(roles, settings.images, strict=True)
    return (*kubernetes, *(Part(role=role, reference=reference, digest="") for role, reference in named))


def locate(settings: KubeadmSettings, doors: Doors) -> tuple[FoundImage, ...]:
    """Each image with the first place that has it: archives of lab.yaml, machines, docker. Raises UsageError for an
    archive that is not one."""
    archives = {Path(path): archived(Path(path)) for path in settings.kubeadm.images.archives}
    there = stores(settings, doors)
    return tuple(_locate(part, archives, there, doors) for part in wanted(settings, doors))


def _locate(part: Part, archives: Mapping[Path, Mapping[str, str]], there: Iterable[Store], doors: Doors) -> FoundImage:
    name = normal(plain_reference(part.reference))
    for path, names in archives.items():
        if name in names:
            return FoundImage(part=_with_digest(part, names[name]), archive=path)
    for store in there:
        stored = stored_as(part.reference, store.images, doors.rendered)
        if stored:
            return FoundImage(part=_with_digest(part, store.images[stored]), store=store, stored_as=stored)
    digest = engine_digest(part.reference, ENGINE, doors.here)
    return FoundImage(part=_with_digest(part, digest), in_engine=bool(digest))


def stored_as(reference: str, images: Iterable[str], rendered: str) -> str:
    """The name under which containerd has the image; empty when it does not have it. What was pulled by tag and digest,
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
            remedy="write it again: docker save -o FILE IMAGE, or ctr --namespace k8s.io images export FILE IMAGE",
        ) from failed  # fmt: skip


def _with_digest(part: Part, digest: str) -> Part:
    return Part(role=part.role, reference=part.reference, digest=digest, source=part.source)


_ASK_S = 15.0


def open_doors(settings: KubeadmSettings, fleet: Fleet) -> Doors:
    """Machines that do not answer, and why, are in `silence`."""
    commands = list(fleet)
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(commands)))) as pool:
        reasons = list(pool.map(_silence, commands))
    asked = list(zip(commands, reasons, strict=True))
    return Doors(
        here=HostCommands("kubeadm"),
        machines=tuple((one.machine.node, one) for one, why in asked if not why),
        silence={one.machine.node: why for one, why in asked if why},
        rendered=read_state(settings.files.rendered) or "",
    )


def _silence(commands: MachineCommands) -> str:
    """Why nothing can be asked there; empty when it answers as root."""
    try:
        done = commands.run(("true",), timeout_s=_ASK_S)
    except LabError as failed:
        return failed.cause or failed.what
    return "" if done.returncode == 0 and not done.timed_out else done.error_text.strip()[-200:] or "no answer"


def rename(source: Path, target: Path, name: str) -> None:
    """Writes `source`, an archive of containerd with one image, to `target` with `name` for it. What a digest alone
    names has no tag, and the tag is what manifests ask for where nothing is pulled."""
    with open_archive(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name == DOCKER:  # the same once more, for docker
                continue
            content = old.extractfile(member)
            if member.name == INDEX:
                index = parse_json(content_of(old, member))
                for described in index["manifests"]:
                    described["annotations"] = {NAMES[0]: name, NAMES[1]: name.rpartition(":")[2]}
                data = json.dumps(index).encode()
                member.size = len(data)
                content = io.BytesIO(data)
            new.addfile(member, content)


CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
ROLES = (*CONTROL_PLANE, "pause", "etcd", "coredns")


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags of one minor version: (first patch, tag), newest first. `known_to` is the last patch that was looked at."""

    known_to: int
    etcd: tuple[tuple[int, str], ...]
    coredns: tuple[tuple[int, str], ...]


def _always(tag: str) -> tuple[tuple[int, str], ...]:
    return ((0, tag),)


TABLE: dict[int, Tags] = {
    20: Tags(15, _always("3.4.13-0"), _always("1.7.0")),
    21: Tags(14, _always("3.4.13-0"), _always("v1.8.0")),
    22: Tags(17, ((17, "3.5.6-0"), (0, "3.5.0-0")), _always("v1.8.4")),
    23: Tags(17, ((15, "3.5.6-0"), (14, "3.5.5-0"), (0, "3.5.1-0")), _always("v1.8.6")),
    24: Tags(17, ((9, "3.5.6-0"), (8, "3.5.5-0"), (0, "3.5.3-0")), _always("v1.8.6")),
    25: Tags(16, ((15, "3.5.9-0"), (5, "3.5.6-0"), (4, "3.5.5-0"), (0, "3.5.4-0")), _always("v1.9.3")),
    26: Tags(15, ((13, "3.5.10-0"), (10, "3.5.9-0"), (0, "3.5.6-0")), _always("v1.9.3")),
    27: Tags(16, ((12, "3.5.12-0"), (10, "3.5.10-0"), (7, "3.5.9-0"), (0, "3.5.7-0")), _always("v1.10.1")),
    28: Tags(15, ((14, "3.5.15-0"), (8, "3.5.12-0"), (6, "3.5.10-0"), (0, "3.5.9-0")), _always("v1.10.1")),
    29: Tags(10, ((9, "3.5.15-0"), (3, "3.5.12-0"), (0, "3.5.10-0")), _always("v1.11.1")),
    30: Tags(14, ((5, "3.5.15-0"), (0, "3.5.12-0")), ((5, "v1.11.3"), (0, "v1.11.1"))),
    31: Tags(2, _always("3.5.15-0"), ((1, "v1.11.3"), (0, "v1.11.1"))),
    32: Tags(1, _always("3.5.16-0"), _always("v1.11.3")),
    33: Tags(1, _always("3.5.21-0"), _always("v1.12.0")),
    34: Tags(2, ((2, "3.6.5-0"), (0, "3.6.4-0")), _always("v1.12.1")),
    35: Tags(0, _always("3.6.6-0"), _always("v1.13.1")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Every image with its role, in the order of `ROLES`, and the source of the list, as a phrase."""

    images: tuple[tuple[str, str], ...]
    source: str


def argv_list(version: Version, mirror: str | None) -> tuple[str, ...]:
    """kubeadm's own list. With a version given it does not ask a server for one."""
    repository = ("--image-repository", mirror) if mirror else ()
    return ("kubeadm", "config", "images", "list", "--kubernetes-version", f"v{version}", *repository)


def parse_list(text: str, machine: str) -> Listed | None:
    """From what `argv_list` prints; None when it is not a whole list."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        reference = line.strip()
        role = reference.rpartition("/")[2].partition(":")[0]
        if role in ROLES and ":" in reference.rpartition("/")[2]:
            found[role] = reference
    if set(found) != set(ROLES):
        return None
    return Listed(images=tuple((role, found[role]) for role in ROLES), source=f"kubeadm on {machine}")


def from_table(version: Version, mirror: str | None, why: str) -> Listed:
    """By `TABLE`; `why` says why no machine was asked. Raises UsageError for a version that is not in it."""
    tags = TABLE.get(version.minor)
    if tags is None:
        raise UsageError(
            what=f"labctl does not know which etcd and CoreDNS belong to Kubernetes {version}",
            cause=f"its table ends with 1.{max(TABLE)}, and kubeadm on the control plane could not be asked: {why}",
            remedy=f"install kubeadm {version} on the first machine of lab.yaml, or: --set kubeadm.kubernetes="
            f"1.{max(TABLE)}.{TABLE[max(TABLE)].known_to}",
        )
    repository = mirror or default_image_repository(version)
    # From 1.21 CoreDNS has a folder of its own; from 1.21.2 only in the vendor's registry, not in mirrors.
    is_vendors = repository == default_image_repository(version)
    is_nested = version.minor >= 21 and (is_vendors or (version.minor, version.patch) < (21, 2))
    named = {
        **{role: f"{role}:v{version}" for role in CONTROL_PLANE},
        "pause": f"pause:{pause_tag(version)}",
        "etcd": f"etcd:{_tag(tags.etcd, version.patch)}",
        "coredns": f"{'coredns/' if is_nested else ''}coredns:{_tag(tags.coredns, version.patch)}",
    }
    source = f"labctl's table ({why})"
    if version.patch > tags.known_to:
        source = f"labctl's table, as for 1.{version.minor}.{tags.known_to}, the last one in it ({why})"
    return Listed(images=tuple((role, f"{repository}/{named[role]}") for role in ROLES), source=source)


def _tag(since: tuple[tuple[int, str], ...], patch: int) -> str:
    return next(tag for first, tag in since if patch >= first)
