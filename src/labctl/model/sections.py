"""The sections of lab.yaml and scenarios that belong to providers: `cilium:`, `kindCluster:`, `kubeadm:`, `hosts:`.

Owns these sections' names, types, defaults and what contradicts itself. Whether an image, a chart, a version or a
machine is usable is for the provider to find out. (`kind:` at the top of a file says what the file is, hence
`kindCluster`.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, model_validator

from labctl.model.lab import Strategy
from labctl.model.section import (
    ADDRESS_PATTERN,
    DEVICES_PATTERN,
    ENGINE_NAME_PATTERN,
    IPV4_PATTERN,
    MACHINE_ADDRESS_PATTERN,
    OPERAND_PATTERN,
    REGISTRY_PATTERN,
    USER_PATTERN,
    VERSION_PATTERN,
    VM_NETWORK_PATTERN,
    Section,
)
from labctl.names import NAME_PATTERN

Operand = Annotated[str, StringConstraints(pattern=OPERAND_PATTERN, max_length=4096)]
"""A path, a URL or a name that a tool gets as it is: it does not begin with `-`, which the tool would read as an
option, nor with a blank, and it is one line. May be empty."""


REFERENCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$"
PATH_PATTERN = r"^/[^:\x00-\x1f]*$"

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


CONTEXT_PATTERN = r"^([^\x00-\x20\x7f-][^\x00-\x1f\x7f]{0,252})?$"
SELECTOR_PATTERN = r"^([A-Za-z0-9!(][A-Za-z0-9!=,()./_ -]{0,500})?$"
KUBERNETES_NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"

NodeName = Annotated[str, StringConstraints(pattern=KUBERNETES_NAME_PATTERN)]


class HelperUse(StrEnum):
    """Whether helper pods stand on the nodes: where the cluster lets them, or never."""

    AUTO = "auto"
    NEVER = "never"


class ExistingCluster(Section):
    """How the provider cluster uses a cluster that is there."""

    context: Annotated[str, StringConstraints(pattern=CONTEXT_PATTERN)] = Field(
        "", description="The context of the kubeconfig. Without it: the current one. Also --context."
    )
    kubeconfig: Operand = Field("", description="The kubeconfig's file. Without it: KUBECONFIG, else ~/.kube/config.")
    nodes: dict[Annotated[str, StringConstraints(pattern=NAME_PATTERN)], NodeName] = Field(
        {}, description="Which node of the cluster each node of the scenario is. Without it: spread over zones."
    )
    node_selector: Annotated[str, StringConstraints(pattern=SELECTOR_PATTERN)] = Field(
        "", description="Only nodes with these labels, as kubectl's -l has it: 'pool=lab,disk!=slow'."
    )
    tolerate_taints: bool = Field(
        False, description="true: nodes with taints may be chosen too, and the pods tolerate them."
    )
    image: Reference = Field(
        DEFAULT_TOOLS_IMAGE, description="The pods' image. It must have sh, ping, iperf3, tcpdump and ip."
    )
    helper_image: Reference | None = Field(None, description="The helper pods' image. Without it: image.")
    pull: bool = Field(True, description="false: the images are on the nodes already, and nothing is fetched.")
    helpers: HelperUse = Field(
        HelperUse.AUTO,
        description="auto: a privileged pod on each node concerned, for captures, where it is allowed. never: none.",
    )
    helper_lifetime_s: Annotated[int, Ge(60), Le(86_400)] = Field(
        3600, description="Seconds after which Kubernetes ends a helper pod. The next command makes a new one."
    )
    ready_timeout_s: Annotated[float, Gt(0), Le(7200)] = Field(180.0, description="For each wait for pods.")


KUBERNETES_PATTERN = r"^v?1\.[0-9]{1,3}\.[0-9]{1,3}$"
DEVICE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,14}$"
SOCKET_PATTERN = r"^/[A-Za-z0-9/._-]+$"
WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9-]*$"

Device = Annotated[str, StringConstraints(pattern=DEVICE_PATTERN)]


class MachineSource(StrEnum):
    """Where the machines come from: `hosts:` of lab.yaml, or VMs that the Vagrantfile describes."""

    HOSTS = "hosts"
    VAGRANT = "vagrant"


class MachineRole(StrEnum):
    CONTROL_PLANE = "control-plane"
    WORKER = "worker"


class PackageSource(StrEnum):
    """Where kubeadm, kubelet, kubectl and containerd come from.

    `auto`: those that are there are used if their version is the one asked for, else `repository`.
    `installed`: they must be there; nothing is downloaded. `distribution`: apt or dnf as the machine has it set up.
    `repository`: the vendor's package repository, or the one given. `bundle`: files from this host.
    """

    AUTO = "auto"
    INSTALLED = "installed"
    DISTRIBUTION = "distribution"
    REPOSITORY = "repository"
    BUNDLE = "bundle"


class Swap(StrEnum):
    """What to do where swap is on: let the kubelet live with it, turn it off until `down`, or stop."""

    KEEP = "keep"
    OFF = "off"
    REFUSE = "refuse"


class CgroupDriver(StrEnum):
    """`auto` takes what the machine's container runtime already uses, and systemd where it says nothing."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    CGROUPFS = "cgroupfs"


class VagrantProvider(StrEnum):
    LIBVIRT = "libvirt"
    VIRTUALBOX = "virtualbox"


class Packages(Section):
    """Where kubeadm, kubelet, kubectl and containerd come from."""

    source: PackageSource = Field(
        PackageSource.AUTO,
        description="auto uses what is installed and fetches what is missing; installed downloads nothing.",
    )
    repository: Operand = Field("", description="URL of an apt or yum repository; {minor} in it becomes v1.31.")
    repository_key: Operand = Field("", description="URL of its signing key; {minor} in it becomes v1.31.")
    bundle: Operand = Field("", description="A directory on this host with the .deb or .rpm files.")

    @model_validator(mode="after")
    def _bundle_has_a_place(self) -> Self:
        if self.source is PackageSource.BUNDLE and not self.bundle:
            raise ValueError("source: bundle needs bundle: DIRECTORY, where the .deb or .rpm files are")
        return self


class Images(Section):
    """Where container images come from."""

    pull: bool = Field(True, description="false: nothing is fetched from a registry, every image must be there.")
    archives: tuple[Operand, ...] = Field(
        (), description="Image archives on this host (docker save, ctr images export) to load into every machine."
    )


class Runtime(Section):
    """The machines' container runtime, containerd."""

    socket: Annotated[str, StringConstraints(pattern=SOCKET_PATTERN)] = Field(
        "/run/containerd/containerd.sock", description="Where the kubelet reaches it."
    )
    configure: bool = Field(True, description="false leaves its configuration exactly as it is.")
    sandbox_image: Reference | None = Field(
        None, description="The pause image. Without it: from imageRepository if that is set, else as configured."
    )


class Vagrant(Section):
    """The VMs of `machines: vagrant`. Each has Vagrant's NAT interface and one on the private network."""

    box: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = Field(
        "debian/bookworm64", description="The Vagrant box."
    )
    provider: VagrantProvider = Field(VagrantProvider.LIBVIRT, description="What runs the VMs.")
    cpus: Annotated[int, Ge(2), Le(64)] = Field(2, description="CPUs of each VM; kubeadm needs two.")
    memory_mb: Annotated[int, Ge(1024), Le(1_048_576)] = Field(2048, description="Memory of a worker, in MB.")
    control_plane_memory_mb: Annotated[int, Ge(1700), Le(1_048_576)] = Field(
        2560, description="Memory of the control plane, in MB."
    )
    network: Annotated[str, StringConstraints(pattern=VM_NETWORK_PATTERN)] = Field(
        "192.168.56.0/24", description="The private network; the first VM has its tenth address."
    )
    interface: Device = Field("eth1", description="The VMs' device on the private network.")


class Host(Section):
    """One machine that is reached by SSH."""

    address: Annotated[str, StringConstraints(pattern=MACHINE_ADDRESS_PATTERN)] = Field(
        description="Where SSH goes: a name or an address. User and port have keys of their own."
    )
    user: Annotated[str, StringConstraints(pattern=USER_PATTERN)] = Field(
        "root",
        description="Who logs in: root, or a user with sudo. Without it: the one of ssh's configuration, else root.",
    )
    port: Annotated[int, Ge(1), Le(65535)] = Field(
        22, description="The port of its SSH server. Without it: the one that ssh's configuration names, else 22."
    )
    key: Operand = Field("", description="The private key's file. Without it: ssh's own defaults and the agent.")
    role: MachineRole | None = Field(None, description="Without it the first machine is the control plane.")
    node: Annotated[str, StringConstraints(pattern=NAME_PATTERN)] | None = Field(
        None, description="The scenario's node that it becomes. Without it machines are taken in order."
    )
    node_address: Annotated[str, StringConstraints(pattern=IPV4_PATTERN)] | None = Field(
        None, description="The address that the cluster uses, where it is not the one that SSH goes to."
    )
    interface: Device | None = Field(None, description="The device that has nodeAddress.")
    sudo_password_file: Operand = Field(
        "",
        description="A file in ~/.config/labctl (mode 0600, one line) with the password that sudo asks for. "
        "No other file is sent, and passwords stand nowhere else.",
    )
    known_hosts: Operand = Field(
        "", description="A file of host keys to go by: in ~/.ssh, /etc/ssh or ~/.config/labctl."
    )


def _fit_together(hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    places = [(host.address, host.port) for host in hosts]
    twice = sorted({f"{a}:{p}" for a, p in places if places.count((a, p)) > 1})
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    leaders = [host.address for host in hosts if host.role is MachineRole.CONTROL_PLANE]
    if len(leaders) > 1:
        raise ValueError(f"one machine is the control plane, not {len(leaders)} ({', '.join(leaders)})")
    nodes = [host.node for host in hosts if host.node]
    if len(set(nodes)) != len(nodes):
        raise ValueError("two machines are the same node")
    if nodes and len(nodes) != len(hosts):
        raise ValueError("give every machine its node:, or none of them")
    return hosts


Hosts = Annotated[tuple[Host, ...], Field(max_length=250), AfterValidator(_fit_together)]
"""The section `hosts:`: a list, with what must be true of all of it."""

HOSTS: TypeAdapter[tuple[Host, ...]] = TypeAdapter(Hosts)


class Kubeadm(Section):
    """Kubernetes on real machines by kubeadm."""

    kubernetes: Annotated[str, StringConstraints(pattern=KUBERNETES_PATTERN)] = Field(
        "1.34.2", description='The Kubernetes version, in quotes: "1.20.5".'
    )
    machines: MachineSource = Field(
        MachineSource.HOSTS, description="hosts: those under hosts:. vagrant: VMs that labctl makes."
    )
    offline: bool = Field(
        False, description="Download nothing: the same as packages.source: installed and images.pull: false."
    )
    image_repository: Reference | None = Field(
        None, description="A mirror of the Kubernetes images, such as registry.aliyuncs.com/google_containers."
    )
    packages: Packages = Field(Packages(), description="Where kubeadm, kubelet, kubectl and containerd come from.")
    images: Images = Field(Images(), description="Where container images come from.")
    runtime: Runtime = Field(Runtime(), description="The machines' container runtime.")
    vagrant: Vagrant = Field(Vagrant(), description="The VMs of machines: vagrant.")
    cgroup_driver: CgroupDriver = Field(
        CgroupDriver.AUTO, description="auto takes what containerd already uses, and systemd where it says nothing."
    )
    swap: Swap = Field(Swap.KEEP, description="Where swap is on: keep it, turn it off until down, or stop.")
    ignore_preflight_errors: tuple[Annotated[str, StringConstraints(pattern=WORD_PATTERN)], ...] = Field(
        ("Swap",), description="Checks of kubeadm that may fail."
    )
    tools_image: Reference = Field(
        DEFAULT_TOOLS_IMAGE, description="The pods' image. It must have sh, ping, iperf3, tcpdump and ip."
    )
    devices: tuple[Device, ...] = Field(
        (), description="The interfaces that Cilium works on. Without it: those that carry the nodes' addresses."
    )
    kubelet: dict[str, Any] = Field({}, description="Merged into the KubeletConfiguration.")
    cluster: dict[str, Any] = Field({}, description="Merged into the ClusterConfiguration.")
    init: dict[str, Any] = Field({}, description="Merged into the InitConfiguration.")
    kernel_checks: bool = Field(
        True, description="false: missing kernel options are reported, and do not stop anything."
    )
    remove_packages: bool = Field(True, description="down removes the packages that up installed.")
    api_port: Annotated[int, Ge(1), Le(65535)] = Field(6443, description="The port of the API server.")
    max_clock_offset_s: Annotated[float, Gt(0), Le(3600)] = Field(
        5.0, description="How far apart the machines' clocks may be, in seconds."
    )

    @model_validator(mode="after")
    def _offline_downloads_nothing(self) -> Self:
        if self.offline and self.packages.source in (PackageSource.DISTRIBUTION, PackageSource.REPOSITORY):
            raise ValueError(f"offline: true cannot be combined with packages.source: {self.packages.source}")
        return self

    @property
    def pulls_images(self) -> bool:
        return self.images.pull and not self.offline

    @property
    def package_source(self) -> PackageSource:
        if self.offline and self.packages.source is PackageSource.AUTO:
            return PackageSource.INSTALLED
        return self.packages.source
