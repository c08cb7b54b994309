"""What differs from one Kubernetes version to the next: configuration API, spelling, defaults, skew. Pure.

Source: the kubeadm API's own history (kubernetes#101129, #114540, #125029, #136016) and the version skew policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from labctl.errors import UsageError
from labctl.providers.cilium.versions import Version

OLDEST = (1, 20)
_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)?)")


def parse_version(text: str) -> Version:
    """The first version in what a program printed: `Kubernetes v1.31.4`, `1.20.2-00`. Raises ValueError."""
    found = _VERSION.search(text)
    if found is None:
        raise ValueError(f"no version in {text!r}")
    return Version.parse(found[1])


class ConfigApi(StrEnum):
    """The version of kubeadm's configuration API."""

    V1BETA2 = "kubeadm.k8s.io/v1beta2"
    V1BETA3 = "kubeadm.k8s.io/v1beta3"
    V1BETA4 = "kubeadm.k8s.io/v1beta4"


class SkipProxy(StrEnum):
    """How kube-proxy is left out: `--skip-phases` (all versions know it), the list in the file, or the switch."""

    FLAG = "--skip-phases=addon/kube-proxy"
    SKIP_PHASES = "InitConfiguration.skipPhases"
    DISABLED = "ClusterConfiguration.proxy.disabled"


def config_api(version: Version) -> ConfigApi:
    if version.series <= (1, 21):
        return ConfigApi.V1BETA2
    return ConfigApi.V1BETA3 if version.series <= (1, 30) else ConfigApi.V1BETA4


def skip_proxy(version: Version) -> SkipProxy:
    match config_api(version):
        case ConfigApi.V1BETA2:
            return SkipProxy.FLAG
        case ConfigApi.V1BETA3:
            return SkipProxy.SKIP_PHASES
        case ConfigApi.V1BETA4:
            return SkipProxy.DISABLED


def cri_socket(version: Version, path: str) -> str:
    """The socket as this kubeadm wants it: a URL since 1.24, a plain path before."""
    return f"unix://{path}" if version.series >= (1, 24) else path


def default_image_repository(version: Version) -> str:
    """The vendor's registry: k8s.gcr.io was frozen in April 2023 and these releases were the first without it."""
    last_old = {22: 17, 23: 15, 24: 9}
    if version.minor <= 21 or version.patch <= last_old.get(version.minor, -1):
        return "k8s.gcr.io"
    return "registry.k8s.io"


def refuse_unknown(version: Version) -> None:
    """Raises UsageError for a Kubernetes that labctl has no kubeadm configuration for."""
    if version.series < OLDEST:
        raise UsageError(
            what=f"Kubernetes {version} is older than labctl knows",
            cause="the configuration labctl writes is that of kubeadm 1.20 and later",
            remedy="the nearest that works: --set kubeadm.kubernetes=1.20.15",
            key="kubeadm.kubernetes",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What one machine has: versions as the programs themselves print them, None where they are not there."""

    host: str
    kubeadm: Version | None
    kubelet: Version | None
    kubectl: Version | None = None


def skew(asked: Version, installed: Installed) -> tuple[str, ...]:
    """What about these versions cannot work, one sentence each; empty when all is well.

    kubeadm builds its own minor version and the one before; the kubelet may be older than the API server by three
    minors (two before 1.28) and never newer.
    """
    problems = []
    if installed.kubeadm is not None:
        behind = installed.kubeadm.minor - asked.minor
        if behind not in (0, 1):
            problems.append(
                f"kubeadm {installed.kubeadm} builds Kubernetes {_line(installed.kubeadm, 0)} and "
                f"{_line(installed.kubeadm, -1)}, not {asked}"
            )
    if installed.kubelet is not None:
        allowed = 3 if asked.series >= (1, 28) else 2
        if installed.kubelet.series > asked.series:
            problems.append(f"kubelet {installed.kubelet} is newer than the API server {asked} would be")
        elif asked.minor - installed.kubelet.minor > allowed:
            problems.append(
                f"kubelet {installed.kubelet} is more than {allowed} minor versions older than the API server {asked}"
            )
    return tuple(problems)


def nearest(asked: Version, installed: Installed) -> Version | None:
    """The version to ask for instead: what the machine's kubeadm builds by itself."""
    return installed.kubeadm if installed.kubeadm is not None and skew(asked, installed) else None


def _line(version: Version, offset: int) -> str:
    return f"{version.major}.{version.minor + offset}"
