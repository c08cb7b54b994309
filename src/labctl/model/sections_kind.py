"""The sections `cilium:` and `kindCluster:` of lab.yaml and scenarios: which Cilium, and how kind makes its cluster.

Owns names, types, defaults and what contradicts itself. Whether an image or a chart is there is the provider's to
find out. (`kind:` at the top of a file says what the file is, hence `kindCluster`.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Le
from pydantic import Field, StringConstraints, model_validator

from labctl.model.lab import Strategy
from labctl.model.section import Operand, Section

VERSION_PATTERN = r"^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"
REFERENCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$"
PATH_PATTERN = r"^/[^:\x00-\x1f]*$"
REGISTRY_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$"
ADDRESS_PATTERN = r"^([A-Za-z0-9:][A-Za-z0-9.:-]*)?$"
ENGINE_NAME_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$"
DEVICES_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9_.+-]*( [A-Za-z0-9][A-Za-z0-9_.+-]*)*)?$"

Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
Reference = Annotated[str, StringConstraints(pattern=REFERENCE_PATTERN)]
Registry = Annotated[str, StringConstraints(pattern=REGISTRY_PATTERN)]
"""A registry's name is a folder's name on the nodes."""
FeatureGate = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+$")]

DEFAULT_CILIUM = "1.18.12"
DEFAULT_TOOLS_IMAGE = "docker.io/nicolaka/netshoot:v0.13"


class Cilium(Section):
    """Which Cilium the kind and kubeadm providers install, and Helm values beyond those that labctl sets."""

    version: Version = Field(DEFAULT_CILIUM, description='Cilium\'s version, in quotes: "1.13.12".')
    chart: Operand = Field(
        "",
        description="The Helm chart: a .tgz, a folder, an oci:// reference, or the URL of a chart repository. "
        "Without it: Cilium's own repository.",
    )
    image: Reference | None = Field(None, description="The agent's image, with its tag. Without it: the chart's.")
    operator_image: Reference | None = Field(
        None, description="The operator's image as it runs (operator-generic), with its tag."
    )
    image_repository: Reference | None = Field(
        None, description="A mirror that has cilium and operator-generic, such as registry.example/cilium."
    )
    values: dict[str, Any] = Field(
        {}, description="Helm values of your own. They are merged over what labctl derives from `datapath`."
    )
    allow_untested: bool = Field(
        False, description="true: untested pairs of Cilium and Kubernetes are a warning, not an error."
    )

    @model_validator(mode="after")
    def _images_come_from_one_place(self) -> Self:
        if self.image_repository and (self.image or self.operator_image):
            raise ValueError("give imageRepository, or image and operatorImage, not both")
        if bool(self.image) != bool(self.operator_image):
            raise ValueError("image and operatorImage go together: one alone would mix two versions")
        return self


class ControlPlane(StrEnum):
    """Which node runs Kubernetes itself. `auto`: a node of the scenario without pods if there is one, else `extra`.

    `first`: the scenario's first node, pods and all. `extra`: one more container.
    """

    AUTO = "auto"
    FIRST = "first"
    EXTRA = "extra"


class Capture(StrEnum):
    """Where tcpdump for a node's devices runs: in the node's container if it has it, or in a pod on that node."""

    AUTO = "auto"
    NODE = "node"
    POD = "pod"


class Propagation(StrEnum):
    """How mounts made later are seen on the other side, in kind's words."""

    NONE = "None"
    HOST_TO_CONTAINER = "HostToContainer"
    BIDIRECTIONAL = "Bidirectional"


class ExtraMount(Section):
    """One of kind's extraMounts: a path of the host that every node sees."""

    host_path: Annotated[Operand, StringConstraints(min_length=1)] = Field(description="The path on the engine's host.")
    container_path: Annotated[str, StringConstraints(pattern=PATH_PATTERN)] = Field(description="Where nodes see it.")
    read_only: bool = Field(False, description="Nodes may not write there.")
    propagation: Propagation = Field(Propagation.NONE, description="Mount propagation.")


class KindCluster(Section):
    """How the cluster of the kind provider is made."""

    image: Reference | None = Field(
        None, description="The node image: kindest/node:v1.32.2@sha256:…, or one of your own that the engine has."
    )
    kubernetes: Version | None = Field(
        None, description='The Kubernetes version, in quotes: "1.20.2". Needed where the image\'s tag does not show it.'
    )
    pull: bool = Field(
        True, description="false: nothing is fetched. Images must be in the engine, in archives, or in the node image."
    )
    preloaded: bool = Field(
        False, description="true: Cilium's and the tools image are inside the node image already; nothing is loaded."
    )
    archives: tuple[Operand, ...] = Field(
        (), description="Image archives (docker save) to load into the nodes, in place of the engine's images."
    )
    tools_image: Reference = Field(
        DEFAULT_TOOLS_IMAGE, description="The pods' image. It must have sh, ping, iperf3, tcpdump and ip."
    )
    extra_images: tuple[Reference, ...] = Field(
        (),
        description="More images to bring into the nodes, such as those of hubble-relay or Envoy if values ask for it.",
    )
    image_repository: Reference | None = Field(
        None, description="A mirror of the Kubernetes images, such as registry.aliyuncs.com/google_containers."
    )
    registry_mirrors: dict[Registry, Operand] = Field(
        {}, description="Mirrors by registry: {docker.io: 'http://mirror:5000'}, written to each node's certs.d."
    )
    control_plane: ControlPlane = Field(
        ControlPlane.AUTO,
        description="auto: a node of the scenario that has no pods runs Kubernetes, else one more container does.",
    )
    control_planes: Annotated[int, Ge(1), Le(5)] = Field(
        1, description="How many control-plane nodes, with controlPlane: extra: 1, 3 or 5."
    )
    api_server_address: Annotated[str, StringConstraints(pattern=ADDRESS_PATTERN)] = Field(
        "",
        description="Where the API server listens on the engine's host. Without it: that host's address if DOCKER_HOST "
        "or a docker context names another host, else 127.0.0.1.",
    )
    api_server_port: Annotated[int, Ge(0), Le(65535)] = Field(0, description="Its port; 0 takes a free one.")
    network: Annotated[str, StringConstraints(pattern=ENGINE_NAME_PATTERN)] = Field(
        "", description="The engine's network for the nodes. Without it: the one named kind."
    )
    kubeadm_config_patches: tuple[str, ...] = Field((), description="kind's kubeadmConfigPatches, passed on as is.")
    containerd_config_patches: tuple[str, ...] = Field((), description="kind's containerdConfigPatches, as is.")
    extra_mounts: tuple[ExtraMount, ...] = Field((), description="kind's extraMounts, for every node.")
    feature_gates: dict[FeatureGate, bool] = Field({}, description="kind's featureGates.")
    devices: Annotated[str, StringConstraints(pattern=DEVICES_PATTERN)] = Field(
        "eth0", description="The devices that Cilium works on. Empty: Cilium looks for itself."
    )
    capture: Capture = Field(Capture.AUTO, description="Where tcpdump for a node's devices runs.")
    strategy: Strategy = Field(
        Strategy.AUTO,
        description="compare: parallel has two clusters, switch has one; auto goes by free memory and inotify limits.",
    )
    create_timeout_s: Annotated[float, Gt(0), Le(7200)] = Field(900.0, description="For kind create cluster.")
    ready_timeout_s: Annotated[float, Gt(0), Le(7200)] = Field(600.0, description="For each wait for pods and nodes.")

    @model_validator(mode="after")
    def _control_planes_make_a_quorum(self) -> Self:
        if self.control_planes % 2 == 0:
            raise ValueError(f"controlPlanes: {self.control_planes} has no majority; take 1, 3 or 5")
        if self.control_planes > 1 and self.control_plane is not ControlPlane.EXTRA:
            raise ValueError("controlPlanes above 1 need controlPlane: extra")
        return self

    @model_validator(mode="after")
    def _images_come_from_one_place(self) -> Self:
        if self.preloaded and self.archives:
            raise ValueError("preloaded: true loads nothing, so archives would be ignored")
        return self
