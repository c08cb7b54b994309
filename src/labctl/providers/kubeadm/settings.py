"""A lab as the kubeadm provider reads it: sections validated, machines, versions and places decided. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.sections_kind import Cilium
from labctl.model.sections_kubeadm import Kubeadm
from labctl.providers.cilium.compatibility import refuse_idle, refuse_impossible
from labctl.providers.cilium.rendered import refuse_wrong_values, wrong_values
from labctl.providers.cilium.values import CiliumImages, Wanted
from labctl.providers.cilium.versions import Version
from labctl.providers.kubeadm.files import KubeadmFiles
from labctl.providers.kubeadm.kubernetes import parse_version, refuse_unknown
from labctl.providers.kubeadm.machines import Machine, machines_of, settings_of

ADMIN_CONF = "/etc/kubernetes/admin.conf"
_DIRECTORY = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeadmSettings:
    """Everything decided; `providers.cilium.cluster.Cluster` for the shared code. `uplinks` is known once the
    machines have been asked."""

    lab: Lab
    kubeadm: Kubeadm
    cilium: Cilium
    kubernetes: Version
    cilium_version: Version
    machines: tuple[Machine, ...]
    files: KubeadmFiles
    uplinks: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return f"labctl-{self.lab.name}"

    @property
    def control_plane(self) -> Machine:
        return self.machines[0]

    @property
    def nodes(self) -> Mapping[str, str]:
        """The scenario's nodes are Kubernetes nodes of the same name."""
        return {machine.node: machine.node for machine in self.machines}

    @property
    def control_planes(self) -> tuple[str, ...]:
        return (self.control_plane.node,)

    @property
    def user_values(self) -> Mapping[str, object]:
        return self.cilium.values

    @property
    def tools_image(self) -> str:
        return self.kubeadm.tools_image

    @property
    def pulls_images(self) -> bool:
        return self.kubeadm.pulls_images

    @property
    def api_host(self) -> str:
        return self.control_plane.cluster_address or self.control_plane.address

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            version=self.cilium_version,
            datapath=self.lab.datapath,
            pod_cidr=self.lab.network.pod_cidr,
            node_mask_size=self.lab.nodes[0].pod_cidr.prefixlen,
            api_host=self.api_host,
            api_port=self.kubeadm.api_port,
            devices=" ".join(self.devices),
            images=self.cilium_images,
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that Cilium works on: those asked for, else those that carry the nodes' addresses where the
        machines have several; none leaves it to Cilium."""
        if self.kubeadm.devices:
            return self.kubeadm.devices
        return tuple(dict.fromkeys(machine.interface for machine in self.machines if machine.interface))

    @property
    def cilium_images(self) -> CiliumImages:
        """`Never` where nothing may be fetched: a missing image then fails at once and says so."""
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
        """Every image of Cilium and of the pods, which any machine may have to run."""
        tag, images = f"v{self.cilium_version}", self.cilium_images
        return (
            images.agent or f"quay.io/cilium/cilium:{tag}",
            images.operator or f"quay.io/cilium/operator-generic:{tag}",
            self.tools_image,
        )

    @property
    def cni_directory(self) -> str:
        """Where Cilium puts its CNI plugin on the machines."""
        cni = self.cilium.values.get("cni")
        given = cni.get("binPath") if isinstance(cni, Mapping) else None
        return str(given or "/opt/cni/bin")

    @property
    def is_local_chart(self) -> bool:
        return bool(self.cilium.chart) and "://" not in self.cilium.chart

    def uplink(self, node: str) -> str:
        machine = next(m for m in self.machines if m.node == node)
        return self.uplinks.get(node) or machine.interface or "eth0"

    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        """kubectl as root on the control plane: the API server need not be reachable from this host."""
        return ("kubectl", "--kubeconfig", ADMIN_CONF, *arguments)


def read_settings(lab: Lab, root: Path) -> KubeadmSettings:
    """Raises UsageError for what cannot be decided, or cannot work, from the scenario alone."""
    refuse_idle(lab)
    if not lab.datapath.kube_proxy_replacement:
        raise UsageError(
            what="kubeProxyReplacement: false leaves a lab of the provider kubeadm without Services",
            cause="its clusters are made without kube-proxy",
            remedy="true (the default), or --provider kind, which then has a kube-proxy",
            key="datapath.kubeProxyReplacement",
        )
    kubeadm, cilium = settings_of(lab), cilium_of(lab)
    kubernetes, cilium_version = parse_version(kubeadm.kubernetes), Version.parse(cilium.version)
    refuse_unknown(kubernetes)
    _refuse_pair(lab, cilium, cilium_version, kubernetes)
    refuse_wrong_values(wrong_values(cilium.values, cilium_version, None), where=lab.source)
    settings = KubeadmSettings(
        lab=lab,
        kubeadm=kubeadm,
        cilium=cilium,
        kubernetes=kubernetes,
        cilium_version=cilium_version,
        machines=machines_of(lab),
        files=KubeadmFiles.of(root, lab.name),
    )
    # `down` removes from that directory of a machine what was not in it.
    if not _DIRECTORY.fullmatch(settings.cni_directory):
        raise UsageError(
            what=f"cni.binPath {settings.cni_directory!r} is no directory of its own",
            cause="Cilium puts its plugin there, and down removes what was not there before",
            remedy="cilium: {values: {cni: {binPath: /opt/cni/bin}}}",
            key="cilium.values",
        )
    return settings


def cilium_of(lab: Lab) -> Cilium:
    given = lab.settings.get("cilium")
    try:
        return given if isinstance(given, Cilium) else Cilium.model_validate_json(json.dumps(given or {}))
    except ValidationError as invalid:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in invalid.errors())
        raise UsageError(
            what="the section cilium: is not valid", cause=problems, remedy="labctl validate lab.yaml"
        ) from invalid


def _refuse_pair(
    lab: Lab, cilium: Cilium, version: Version, kubernetes: Version, kernel: Version | None = None
) -> None:
    refuse_impossible(
        cilium=version, kubernetes=kubernetes, kernel=kernel, datapath=lab.datapath,
        allow_untested=cilium.allow_untested,
    )  # fmt: skip


def refuse_kernel(settings: KubeadmSettings, kernel: Version) -> None:
    """Raises UsageError when Cilium, or the mode asked for, needs a newer kernel than a machine has."""
    _refuse_pair(settings.lab, settings.cilium, settings.cilium_version, settings.kubernetes, kernel)
