"""A lab on real Cilium as any provider of clusters reads it: sections, versions, values, images, record.

What kind and kubeadm have in common. Pure, but for the record of a whole lab, which is a file.
"""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import ValidationError

from labctl.errors import LabError, UsageError
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.model.section import Section
from labctl.model.sections import Cilium
from labctl.model.versions import Version
from labctl.planning.record import lab_from_json, lab_to_json
from labctl.providers.cilium.commands import LabFiles, write_private
from labctl.providers.cilium.compatibility import has_cilium, refuse_idle, refuse_impossible, refuse_proxy_mode
from labctl.providers.cilium.manifest import Manifest, manifest_of, manifest_path
from labctl.providers.cilium.rendered import argv_pull, argv_render, chart_place, refuse_wrong_values, wrong_values
from labctl.providers.cilium.values import CiliumImages, Wanted, helm_values, images_of
from labctl.system import files
from labctl.values import dataclass

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess(ABC):
    """How a lab on a cluster is reached, whoever made the cluster. `nodes` maps the scenario's nodes to Kubernetes'
    names; `control_planes` are nodes by Kubernetes' names that have an agent and need no pod of the lab."""

    lab: Lab
    files: LabFiles

    if TYPE_CHECKING:  # fields where they are decided, properties where they follow from something else

        @property
        def nodes(self) -> Mapping[str, str]: ...

        @property
        def control_planes(self) -> tuple[str, ...]: ...

    @abstractmethod
    def uplink(self, node: str) -> str:
        """The device of that node (by the scenario's name) that carries its address."""

    @abstractmethod
    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        """kubectl under the kubeconfig of this cluster, with these arguments."""

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace of the lab's pods."""
        return f"labctl-{self.lab.name}"

    @property
    def shown_version(self) -> str:
        """Cilium's version as it was asked for; empty where labctl did not install it."""
        return ""

    @property
    def user_values(self) -> Mapping[str, object]:
        """Helm values of the scenario's own; none where labctl did not install Cilium."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(ClusterAccess):
    """Everything decided about a cluster that labctl makes, with a lab on it."""

    cilium: Cilium
    kubernetes: Version
    cilium_version: Version

    @property
    def shown_version(self) -> str:
        return str(self.cilium_version) if has_cilium(self.lab) else ""

    @property
    def network_in_words(self) -> str:
        """What connects the pods, for titles and statements."""
        if has_cilium(self.lab):
            return f"Cilium {self.cilium_version}"
        said = self.lab.pod_network.manifest
        return str(self.lab.pod_network.type) if said is None else f"what {manifest_path(self.lab, said)} installs"

    @property
    def manifest(self) -> Manifest | None:
        """Of another pod network than Cilium, as its file is now. Raises UsageError."""
        return manifest_of(self.lab)

    @property
    @abstractmethod
    def tools_image(self) -> str: ...

    @property
    @abstractmethod
    def pulls_images(self) -> bool: ...

    @property
    @abstractmethod
    def api_host(self) -> str:
        """The API server as the nodes reach it."""

    @property
    @abstractmethod
    def api_port(self) -> int: ...

    @property
    @abstractmethod
    def cilium_devices(self) -> str:
        """The devices that Cilium works on, with blanks between them; empty leaves it to Cilium."""

    @property
    def mode(self) -> str:
        """The datapath in two words, for titles."""
        if not has_cilium(self.lab):
            return str(self.lab.pod_network.type)
        return f"{self.lab.datapath.host_routing}/{self.lab.datapath.encapsulation}"

    @property
    def user_values(self) -> Mapping[str, object]:
        """Helm values of the scenario's own."""
        return self.cilium.values

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            version=self.cilium_version,
            datapath=self.lab.datapath,
            pod_cidr=self.lab.network.pod_cidr,
            node_mask_size=self.lab.nodes[0].pod_cidr.prefixlen,
            api_host=self.api_host,
            api_port=self.api_port,
            devices=self.cilium_devices,
            images=self.cilium_images,
        )

    @property
    def values_text(self) -> str:
        """The values for helm, as YAML."""
        return yaml.safe_dump(helm_values(self.wanted, self.user_values), sort_keys=False)

    @property
    def cilium_images(self) -> CiliumImages:
        """`Never` where nothing may be fetched: a missing image is then an error at once."""
        policy = "IfNotPresent" if self.pulls_images else "Never"
        cilium, tag = self.cilium, f"v{self.cilium_version}"
        if cilium.image_repository:
            return CiliumImages(
                agent=f"{cilium.image_repository}/cilium:{tag}",
                operator=f"{cilium.image_repository}/operator-generic:{tag}",
                pull_policy=policy,
            )
        return CiliumImages(agent=cilium.image or "", operator=cilium.operator_image or "", pull_policy=policy)

    @property
    def images(self) -> tuple[str, ...]:
        """What any node may have to run: agent and operator, or what another network's manifest names; tools, and what
        else was asked for."""
        if not has_cilium(self.lab):
            return (*self.network_images, self.tools_image, *self.extra_images)
        agent, operator = images_of(helm_values(self.wanted, self.user_values), self.cilium_version)
        return (agent, operator, self.tools_image, *self.extra_images)

    @property
    def network_images(self) -> tuple[str, ...]:
        """Those that the manifest of another network than Cilium names. Raises UsageError."""
        manifest = self.manifest
        return () if manifest is None else manifest.images

    @property
    def extra_images(self) -> tuple[str, ...]:
        return ()

    @property
    def chart(self) -> str:
        """Where the chart is on this host when it is rendered: the local one, or where `argv_pull` puts it."""
        return chart_place(self.cilium, self.cilium_version, self.files.charts)

    @property
    def argv_pull(self) -> tuple[str, ...]:
        """helm, fetching the chart; empty when it is local."""
        return argv_pull(self.cilium, self.cilium_version, self.files.charts)

    @property
    def argv_render(self) -> tuple[str, ...]:
        return argv_render(self.cilium, self.cilium_version, self.kubernetes, self.files.charts, self.files.values)


def section_of(model: type[S], lab: Lab, name: str) -> S:
    """That section of the lab, with defaults for what is not set. Labs from scenario files are valid; for one that a
    program put together and that is not, raises UsageError."""
    content = lab.settings.get(name) or {}
    if isinstance(content, model):
        return content
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as failed:
        first = failed.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            what=f"{name}{'.' if place else ''}{place}: {first['msg']}",
            cause=f"in {lab.source}",
            remedy=f"labctl validate {shlex.quote(lab.source)}",
        ) from failed


def refuse_unfit(lab: Lab, cilium: Cilium, kubernetes: Version, kernel: Version | None = None) -> None:
    """Raises UsageError for what real Cilium does not do, for versions that cannot work together or with that kernel,
    and for values that do not take effect. The manifest of another network is not looked at: a lab that is up needs
    the file no more."""
    refuse_idle(lab)
    refuse_proxy_mode(lab, kubernetes)
    if not has_cilium(lab):
        return
    version = Version.parse(cilium.version)
    refuse_impossible(
        cilium=version, kubernetes=kubernetes, kernel=kernel, datapath=lab.datapath,
        allow_untested=cilium.allow_untested,
    )  # fmt: skip
    refuse_wrong_values(wrong_values(cilium.values, version, None), where=lab.source)


def statement_of_proxy(lab: Lab) -> str:
    """What of kube-proxy a cluster has, as the end of a sentence about it."""
    if lab.datapath.kube_proxy_replacement:
        return "kube-proxy skipped"
    return f"with kube-proxy in {lab.datapath.kube_proxy} mode"


def refuse_differing(before: Lab, after: Lab, what: Iterable[tuple[str, object, object]], remedy: str) -> None:
    """Raises UsageError that names what the two labs may not differ in when one cluster is switched between them.
    `what`: a phrase, and what it stands for on either side."""
    differing = [phrase for phrase, one, two in what if one != two]
    if differing:
        raise UsageError(
            what=f"one cluster cannot be switched from {before.scenario} to {after.scenario}",
            cause=f"they differ in: {', '.join(differing)}",
            remedy=remedy,
        )


def write_record(path: Path, lab: Lab) -> None:
    """The record of a whole lab: its resolved content. Raises StepFailed."""
    write_private(path, json.dumps(lab_to_json(lab), indent=1) + "\n")


def read_record(path: Path) -> Lab | None:
    """None when there is no record, or none that can be read: the lab then counts as half there."""
    try:
        record = parse_json(files.read_own(path))
        return lab_from_json(record) if isinstance(record, dict) else None
    except (OSError, ValueError, LabError):
        return None
