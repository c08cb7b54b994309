"""What single scenarios need beside what every lab does: programs and kernel features, tried, and which a lab needs.

It stands alone because `probes` is about the host, whatever is built on it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from labctl.model.fabric import FabricType
from labctl.model.lab import Encapsulation, KubeProxy, Lab
from labctl.model.pod_network import Flooding, NetworkType
from labctl.providers.base import Probe
from labctl.providers.netns.kinds.daemon import LACKS, PROGRAMS
from labctl.providers.netns.kinds.link import Device, Sharing
from labctl.providers.netns.probes import Feature, read_rights, tried_probe, untried
from labctl.system import rtnetlink
from labctl.system.netlink import Request, Socket

FRR, CNI_PLUGINS = "FRR", "CNI plugins"
VXLAN, MACVLAN, IPVLAN, MULTICAST, MULTIPATH = "vxlan", "macvlan", "ipvlan", "multicast", "multipath routes"
CGROUP2 = "cgroup2"
KUBE_PROXY = {KubeProxy.IPTABLES: "kube-proxy in iptables", KubeProxy.NFTABLES: "kube-proxy in nftables"}
PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_DAEMONS, _USER = ("zebra", "bgpd", "ospfd"), "frr"
_PLUGINS = ("bridge", "host-local", "ptp")


def network_probes() -> Iterator[Probe]:
    """FRR and the CNI plugins, then what the kernel can. None is required: other labs work without."""
    yield _frr()
    yield _plugins()
    rights = read_rights()
    for feature in FEATURES:
        if rights.user:
            yield untried(feature.name, feature.needed_for, required=feature.required)
        else:
            yield tried_probe(feature, rights)


def needs(lab: Lab) -> tuple[str, ...]:
    """The names of the probes that have to be present for this lab, beside the required ones. Pure."""
    network, fabric = lab.pod_network, lab.fabric
    wanted = {
        VXLAN: lab.datapath.encapsulation is Encapsulation.VXLAN,
        MACVLAN: network.type is NetworkType.MACVLAN,
        IPVLAN: network.type is NetworkType.IPVLAN,
        MULTICAST: network.mode is Flooding.MULTICAST,
        MULTIPATH: fabric.type in (FabricType.CLOS, FabricType.CUSTOM),
        FRR: fabric.learns or network.needs_frr,
        CNI_PLUGINS: str(network.type) == "cni",
        CGROUP2: bool(lab.services) and lab.datapath.kube_proxy_replacement,
    }
    is_cilium = network.type is NetworkType.CILIUM
    by_rules = is_cilium and not lab.datapath.kube_proxy_replacement
    return (
        *(name for name, is_wanted in wanted.items() if is_wanted),
        *((KUBE_PROXY[lab.datapath.kube_proxy],) if by_rules else ()),
    )


def _frr() -> Probe:
    missing = [str(PROGRAMS / name) for name in _DAEMONS if not os.access(PROGRAMS / name, os.X_OK)]
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        missing.append(f"the user {_USER}")
    return Probe(
        name=FRR,
        present=not missing,
        found=f"not there: {', '.join(missing)}" if missing else f"{', '.join(_DAEMONS)} in {PROGRAMS}",
        needed_for="labs with BGP or OSPF",
        remedy=LACKS if missing else "",
        required=False,
    )


def _plugins() -> Probe:
    there = next((one for one in PLUGIN_FOLDERS if all(os.access(one / name, os.X_OK) for name in _PLUGINS)), None)
    return Probe(
        name=CNI_PLUGINS,
        present=there is not None,
        found=f"in {there}" if there else f"not in {' or '.join(map(str, PLUGIN_FOLDERS))}",
        needed_for="labs with podNetwork cni",
        remedy="" if there else LACKS,
        required=False,
    )


_FIRST = Device(name="probe0", index=100, mac="02:00:00:00:00:01", mtu=1500).encoded(up=False)
_SECOND = Device(name="probe1", index=101, mac="02:00:00:00:00:02", mtu=1500).encoded(up=False)
_THIRD = Device(name="probe2", index=102, mac="02:00:00:00:00:03", mtu=1500).encoded(up=False)


def _send(*requests: Request) -> None:
    with Socket() as channel:
        channel.send(requests)


def _try_shared(kind: Sharing) -> None:
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        shared = rtnetlink.shared_add(_THIRD, kind=kind, lower=_FIRST.index, namespace=here)
        _send(rtnetlink.veth_add(_FIRST, _SECOND), shared)
    finally:
        os.close(here)


def _try_multicast() -> None:
    """A vxlan device that joins a group on another device, both up."""
    tunnel = rtnetlink.Tunnel(
        vni=1, port=4789, local=IPv4Address("192.0.2.1"), link=_FIRST.index, remote=IPv4Address("239.1.1.1")
    )
    _send(
        rtnetlink.veth_add(_FIRST, _SECOND),
        rtnetlink.link_up(_SECOND.index),
        rtnetlink.link_up(_FIRST.index),
        rtnetlink.address_add(_FIRST.index, IPv4Interface("192.0.2.1/24")),
        rtnetlink.vxlan_tunnel_add(_THIRD, tunnel),
        rtnetlink.link_up(_THIRD.index),
    )


def _try_multipath() -> None:
    hops = ((_FIRST.index, IPv4Address("192.0.2.2")), (_FIRST.index, IPv4Address("192.0.2.3")))
    _send(
        rtnetlink.veth_add(_FIRST, _SECOND),
        rtnetlink.link_up(_SECOND.index),
        rtnetlink.link_up(_FIRST.index),
        rtnetlink.address_add(_FIRST.index, IPv4Interface("192.0.2.1/24")),
        rtnetlink.route_add(None, IPv4Network("198.51.100.0/24"), hops=hops),
    )


FEATURES = (
    Feature(
        name=MACVLAN,
        option="CONFIG_MACVLAN",
        module="macvlan",
        needed_for="labs with podNetwork macvlan",
        attempt=lambda: _try_shared(Sharing.MACVLAN),
        required=False,
    ),
    Feature(
        name=IPVLAN,
        option="CONFIG_IPVLAN",
        module="ipvlan",
        needed_for="labs with podNetwork ipvlan",
        attempt=lambda: _try_shared(Sharing.IPVLAN),
        required=False,
    ),
    Feature(
        name=MULTICAST,
        option="CONFIG_IP_MULTICAST",
        module="",
        needed_for="labs with podNetwork vxlan, mode multicast",
        attempt=_try_multicast,
        required=False,
    ),
    Feature(
        name=MULTIPATH,
        option="CONFIG_IP_ROUTE_MULTIPATH",
        module="",
        needed_for="fabrics with several equal ways",
        attempt=_try_multipath,
        required=False,
    ),
)
