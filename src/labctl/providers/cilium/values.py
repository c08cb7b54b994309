"""Helm values for Cilium from a lab's datapath: explicit in both modes, so that only host routing differs. Pure.

`helm_values` writes them, `expected_config` says what `cilium-config` must then hold. Both read the table in
`helm_names.py`; neither runs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from labctl.model.interfaces import cilium_tunnel_port
from labctl.model.lab import Datapath, HostRouting, Masquerade
from labctl.model.versions import Version
from labctl.providers.cilium.helm_names import Setting, spell, strings_of_kube_proxy_replacement


@dataclass(frozen=True, slots=True, kw_only=True)
class CiliumImages:
    """The agent's and the operator's image: full references without digest, and when to pull them.

    `operator` is what runs, with its `-generic` suffix. Empty means the chart's own.
    """

    agent: str = ""
    operator: str = ""
    pull_policy: str = "IfNotPresent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Everything that the values depend on. `node_mask_size` is the prefix length of one node's pod range."""

    version: Version
    datapath: Datapath
    pod_cidr: IPv4Network
    node_mask_size: int
    api_host: str
    api_port: int
    devices: str = ""
    images: CiliumImages = CiliumImages()


def helm_values(wanted: Wanted, user: Mapping[str, object] | None = None) -> dict[str, object]:
    """The values as a nested mapping. `user`'s are laid over them, leaf by leaf."""
    version, datapath = wanted.version, wanted.datapath
    values: dict[str, object] = {}
    on, off = strings_of_kube_proxy_replacement(version)
    replacement: object = datapath.kube_proxy_replacement
    if version.series < (1, 14):
        replacement = on if datapath.kube_proxy_replacement else off

    def put(setting: Setting, value: object) -> None:
        path = spell(setting, version)
        if path is not None:
            put_at(values, path, value)

    put_at(values, "k8sServiceHost", wanted.api_host)
    put_at(values, "k8sServicePort", wanted.api_port)
    put(Setting.KUBE_PROXY_REPLACEMENT, replacement)
    put(Setting.HOST_LEGACY_ROUTING, datapath.host_routing is HostRouting.LEGACY)
    put_at(values, "bpf.masquerade", datapath.masquerade is Masquerade.BPF)
    put_at(values, "bpf.monitorAggregation", "none")
    put_at(values, "enableIPv4Masquerade", True)
    if datapath.encapsulation.is_tunnel:
        put(Setting.TUNNEL, str(datapath.encapsulation))
        put(Setting.ROUTING_MODE, "tunnel")
        put(Setting.TUNNEL_PROTOCOL, str(datapath.encapsulation))
        put(Setting.TUNNEL_PORT, cilium_tunnel_port(datapath.encapsulation))
        put_at(values, "autoDirectNodeRoutes", False)
    else:
        put(Setting.TUNNEL, "disabled")
        put(Setting.ROUTING_MODE, "native")
        put_at(values, "autoDirectNodeRoutes", True)
        put(Setting.NATIVE_CIDR, str(wanted.pod_cidr))
    put_at(values, "ipam.mode", "cluster-pool")
    put_at(values, "ipam.operator.clusterPoolIPv4MaskSize", wanted.node_mask_size)
    put(Setting.POD_CIDR, str(wanted.pod_cidr))
    put(Setting.POD_CIDR_LIST, [str(wanted.pod_cidr)])
    put(Setting.BANDWIDTH_MANAGER, False)
    put(Setting.ENVOY, False)
    put_at(values, "l7Proxy", False)
    put_at(values, "hubble.enabled", False)
    put_at(values, "debug.enabled", True)
    put_at(values, "debug.verbose", "datapath")
    put_at(values, "operator.replicas", 1)
    if wanted.devices:
        put_at(values, "devices", wanted.devices)
    _put_images(values, version, wanted.images)
    return merged(values, user or {})


def _put_images(values: dict[str, object], version: Version, images: CiliumImages) -> None:
    """`image.override` came with 1.12; before it a reference has to be taken apart, and the operator's repository
    is given without the suffix that the chart adds."""
    for prefix, reference in (("image", images.agent), ("operator.image", images.operator)):
        put_at(values, f"{prefix}.useDigest", False)
        put_at(values, f"{prefix}.pullPolicy", images.pull_policy)
        if not reference:
            continue
        if version.series >= (1, 12):
            put_at(values, f"{prefix}.override", reference)
            continue
        repository, tag = split_reference(reference)
        put_at(values, f"{prefix}.repository", repository.removesuffix("-generic"))
        put_at(values, f"{prefix}.tag", tag)


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag of an image reference; the tag is `latest` where none is given."""
    head, _, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return (f"{head}/{name}" if head else name, tag or "latest")


def normal(reference: str) -> str:
    """The reference in full, as containerd keeps it: `tools:1` is `docker.io/library/tools:1`."""
    first, slash, _ = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    is_host = "." in first or ":" in first or first == "localhost"
    return reference if is_host else f"docker.io/{reference}"


def images_of(values: Mapping[str, object], version: Version) -> tuple[str, str]:
    """The agent's and the operator's image that the chart makes of these values."""
    operator = values.get("operator")
    return (
        _reference(values.get("image"), "quay.io/cilium/cilium", "", version),
        _reference(
            operator.get("image") if isinstance(operator, Mapping) else None, "quay.io/cilium/operator", "-generic",
            version,
        ),
    )  # fmt: skip


def _reference(image: object, repository: str, suffix: str, version: Version) -> str:
    given = image if isinstance(image, Mapping) else {}
    if given.get("override"):
        return str(given["override"])
    reference = f"{given.get('repository') or repository}{suffix}:{given.get('tag') or f'v{version}'}"
    return f"{reference}@{given['digest']}" if given.get("useDigest") and given.get("digest") else reference


OVERRIDABLE: Mapping[str, tuple[str, ...]] = {
    "debug.enabled": ("debug",),
    "debug.verbose": ("debug-verbose",),
    "bpf.monitorAggregation": ("monitor-aggregation",),
    "l7Proxy": ("enable-l7-proxy",),
    "devices": ("devices",),
    "tunnelPort": ("tunnel-port",),
    "ipam.operator.clusterPoolIPv4MaskSize": ("cluster-pool-ipv4-mask-size",),
    "ipam.operator.clusterPoolIPv4PodCIDR": ("cluster-pool-ipv4-cidr",),
    "ipam.operator.clusterPoolIPv4PodCIDRList": ("cluster-pool-ipv4-cidr",),
    "ipam.mode": ("ipam", "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size"),
    "bpf.datapathMode": ("datapath-mode",),
    "enableIPv4Masquerade": ("enable-ipv4-masquerade",),
}
"""Values that a scenario may set otherwise than labctl does, with the keys of `cilium-config` that follow them. All
others decide which datapath is built: those are set by the scenario's `datapath` alone."""


def expected_config(wanted: Wanted, user: Mapping[str, object] | None = None) -> dict[str, str | None]:
    """What the rendered `cilium-config` must say; None means that the key must not be there. Keys that `user`'s
    values decide (`OVERRIDABLE`) are left out."""
    expected = _expected_config(wanted)
    for path, _ in leaves(user or {}):
        for key in OVERRIDABLE.get(path, ()):
            expected.pop(key, None)
    return expected


def _expected_config(wanted: Wanted) -> dict[str, str | None]:
    version, datapath = wanted.version, wanted.datapath
    on, off = strings_of_kube_proxy_replacement(version)
    is_tunnel = datapath.encapsulation.is_tunnel
    expected: dict[str, str | None] = {
        "enable-host-legacy-routing": _yes(datapath.host_routing is HostRouting.LEGACY),
        "kube-proxy-replacement": on if datapath.kube_proxy_replacement else off,
        "enable-bpf-masquerade": _yes(datapath.masquerade is Masquerade.BPF),
        "enable-ipv4-masquerade": "true",
        "auto-direct-node-routes": _yes(not is_tunnel),
        "ipam": "cluster-pool",
        "cluster-pool-ipv4-cidr": str(wanted.pod_cidr),
        "cluster-pool-ipv4-mask-size": str(wanted.node_mask_size),
        "monitor-aggregation": "none",
        "debug": "true",
        "debug-verbose": "datapath",
        "enable-l7-proxy": "false",
    }
    if version.series < (1, 14):
        expected["tunnel"] = str(datapath.encapsulation) if is_tunnel else "disabled"
    else:
        expected["routing-mode"] = "tunnel" if is_tunnel else "native"
        expected["tunnel"] = None
        if is_tunnel:
            expected["tunnel-protocol"] = str(datapath.encapsulation)
    if version.series >= (1, 11) and is_tunnel:
        expected["tunnel-port"] = str(cilium_tunnel_port(datapath.encapsulation))
    if not is_tunnel:
        native = "native-routing-cidr" if version.series < (1, 11) else "ipv4-native-routing-cidr"
        expected[native] = str(wanted.pod_cidr)
    if version.series >= (1, 16):
        expected["datapath-mode"] = "veth"
    if wanted.devices:
        expected["devices"] = wanted.devices
    return expected


def config_differences(
    config: Mapping[str, str], expected: Mapping[str, str | None]
) -> Iterator[tuple[str, str | None, str | None]]:
    """(key, what is meant, what is there) of each key of `cilium-config` that says something else. What is off may be
    absent."""
    for key, meant in expected.items():
        if config.get(key) != meant and not (meant == "false" and key not in config):
            yield key, meant, config.get(key)


def _yes(claim: bool) -> str:
    return "true" if claim else "false"


def put_at(values: dict[str, object], path: str, value: object) -> None:
    """Sets the leaf at a dotted path, making the mappings on the way."""
    *parents, last = path.split(".")
    for name in parents:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise TypeError(f"{path}: {name} already holds {inner!r}")
        values = inner
    values[last] = value


def merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """`over` laid over `base`: mappings are joined, everything else is replaced (as Helm does it)."""
    result = dict(base)
    for key, value in over.items():
        mine = result.get(key)
        result[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return result


def leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf with its dotted path. An empty mapping is a leaf."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value
