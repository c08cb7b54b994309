"""A lab as the kubeadm provider reads it: sections validated, machines, versions and places decided. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from labctl.errors import UsageError
from labctl.model.lab import Lab
from labctl.model.sections import Cilium, Kubeadm
from labctl.model.versions import Version
from labctl.providers.cilium.commands import read_state
from labctl.providers.cilium.compatibility import has_cilium, refuse_idle
from labctl.providers.cilium.manifest import Manifest, manifest_of, parse_manifest
from labctl.providers.cilium.settings import Cluster, refuse_unfit, section_of
from labctl.providers.kubeadm.files import KubeadmFiles
from labctl.providers.kubeadm.kubernetes import default_image_repository, parse_version, refuse_unknown
from labctl.providers.kubeadm.machines import Machine, machines_of, settings_of
from labctl.values import dataclass

ADMIN_CONF = "/etc/kubernetes/admin.conf"
_DIRECTORY = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeadmSettings(Cluster):
    """Everything decided. The scenario's nodes are Kubernetes nodes of the same name. `uplinks` is known once the
    machines have been asked."""

    kubeadm: Kubeadm
    machines: tuple[Machine, ...]
    files: KubeadmFiles
    uplinks: Mapping[str, str] = field(default_factory=dict)

    @property
    def control_plane(self) -> Machine:
        return self.machines[0]

    @property
    def nodes(self) -> Mapping[str, str]:
        return {machine.node: machine.node for machine in self.machines}

    @property
    def control_planes(self) -> tuple[str, ...]:
        return (self.control_plane.node,)

    @property
    def tools_image(self) -> str:
        return self.kubeadm.tools_image

    @property
    def extra_images(self) -> tuple[str, ...]:
        """kube-proxy's, where the cluster has one."""
        if self.lab.datapath.kube_proxy_replacement:
            return ()
        repository = self.kubeadm.image_repository or default_image_repository(self.kubernetes)
        return (f"{repository}/kube-proxy:v{self.kubernetes}",)

    @property
    def pulls_images(self) -> bool:
        return self.kubeadm.pulls_images

    @property
    def api_host(self) -> str:
        return self.control_plane.cluster_address or self.control_plane.address

    @property
    def api_port(self) -> int:
        return self.kubeadm.api_port

    @property
    def manifest(self) -> Manifest | None:
        """As its file is now; of a lab whose file is gone, as it was applied. Raises UsageError."""
        try:
            return manifest_of(self.lab)
        except UsageError:
            applied = read_state(self.files.rendered)
            if applied is None:
                raise
            return parse_manifest(applied, self.files.rendered)

    @property
    def cilium_devices(self) -> str:
        return " ".join(self.devices)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that Cilium works on: those asked for, else those that carry the nodes' addresses where the
        machines have several; none leaves it to Cilium."""
        if self.kubeadm.devices:
            return self.kubeadm.devices
        return tuple(dict.fromkeys(machine.interface for machine in self.machines if machine.interface))

    @property
    def cni_directory(self) -> str:
        """Where the network puts its CNI plugins on the machines, or expects them; empty where its manifest names no
        such place, and the container runtime's own is right."""
        if not has_cilium(self.lab):
            manifest = self.manifest
            return "" if manifest is None else manifest.plugin_directory
        cni = self.cilium.values.get("cni")
        given = cni.get("binPath") if isinstance(cni, Mapping) else None
        return str(given or "/opt/cni/bin")

    def uplink(self, node: str) -> str:
        machine = next(m for m in self.machines if m.node == node)
        return self.uplinks.get(node) or machine.interface or "eth0"

    def kubectl(self, *arguments: str) -> tuple[str, ...]:
        """As root on the control plane: the API server need not be reachable from this host."""
        return ("kubectl", "--kubeconfig", ADMIN_CONF, *arguments)


def read_settings(lab: Lab, root: Path) -> KubeadmSettings:
    """Raises UsageError for what cannot be decided, or cannot work, from the scenario alone."""
    refuse_idle(lab)
    kubeadm, cilium = settings_of(lab), section_of(Cilium, lab, "cilium")
    kubernetes = parse_version(kubeadm.kubernetes)
    refuse_unknown(kubernetes)
    refuse_unfit(lab, cilium, kubernetes)
    settings = KubeadmSettings(
        lab=lab,
        kubeadm=kubeadm,
        cilium=cilium,
        kubernetes=kubernetes,
        cilium_version=Version.parse(cilium.version),
        machines=machines_of(lab),
        files=KubeadmFiles.of(root, lab.name),
    )
    # `down` removes from that directory of a machine what was not in it.
    if has_cilium(lab) and not _DIRECTORY.fullmatch(settings.cni_directory):
        raise UsageError(
            what=f"cni.binPath {settings.cni_directory!r} is not a directory of its own",
            cause="Cilium puts its plugin there, and down removes what was not there before",
            remedy="cilium: {values: {cni: {binPath: /opt/cni/bin}}}",
            key="cilium.values",
        )
    return settings


def refuse_kernel(settings: KubeadmSettings, kernel: Version) -> None:
    """Raises UsageError when Cilium, or the mode asked for, needs a newer kernel than a machine has."""
    refuse_unfit(settings.lab, settings.cilium, settings.kubernetes, kernel)
