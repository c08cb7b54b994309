"""Which images Kubernetes itself is made of, by version: kubeadm's own list, and the same from a table. Pure.

Source of the table: kubeadm's constants (`DefaultEtcdVersion`, `CoreDNSVersion`) of the releases, whose patch releases
move etcd and sometimes CoreDNS. kube-proxy is left out, as it is of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.errors import UsageError
from labctl.providers.cilium.versions import Version
from labctl.providers.kubeadm.inventory import pause_tag
from labctl.providers.kubeadm.kubernetes import default_image_repository

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
