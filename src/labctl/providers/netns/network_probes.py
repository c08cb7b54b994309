"""What single scenarios need beside what every lab does, tried: routing daemons, plugins, features of the kernel.

It stands alone because `probes` is about the host, whatever is built on it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from labctl.model.interfaces import GENEVE_PORT
from labctl.networks.needs import (
    FRR,
    GENEVE,
    IPVLAN,
    MACVLAN,
    MULTICAST,
    MULTIPATH,
    PLUGIN_FOLDER,
    PLUGIN_PROGRAMS,
    PLUGINS,
    PLUGINS_FOR,
)
from labctl.providers.base import Probe
from labctl.providers.netns.kinds.daemon import LACKS, PROGRAMS
from labctl.providers.netns.kinds.link import Device, Sharing
from labctl.providers.netns.probes import Feature, read_rights, tried_probe, untried
from labctl.system import rtnetlink
from labctl.system.netlink import Request, Socket

_DAEMONS, _USER = ("zebra", "bgpd", "ospfd"), "frr"


def network_probes() -> Iterator[Probe]:
    """FRR and the plugins, then what the kernel can. None is required: other labs work without."""
    yield _frr()
    yield _plugins()
    rights = read_rights()
    for feature in FEATURES:
        if rights.user:
            yield untried(feature.name, feature.needed_for, required=feature.required)
        else:
            yield tried_probe(feature, rights)


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
    missing = [name for name in PLUGIN_PROGRAMS if not os.access(Path(PLUGIN_FOLDER, name), os.X_OK)]
    return Probe(
        name=PLUGINS,
        present=not missing,
        found=f"not in {PLUGIN_FOLDER}: {', '.join(missing)}" if missing else f"in {PLUGIN_FOLDER}",
        needed_for=PLUGINS_FOR,
        remedy=LACKS if missing else "",
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


def _joined() -> tuple[Request, ...]:
    """Two devices on one wire, both up, the first with an address."""
    return (
        rtnetlink.veth_add(_FIRST, _SECOND),
        rtnetlink.link_up(_SECOND.index),
        rtnetlink.link_up(_FIRST.index),
        rtnetlink.address_add(_FIRST.index, IPv4Interface("192.0.2.1/24")),
    )


def _try_multicast() -> None:
    """A vxlan device that joins a group on another device, both up."""
    tunnel = rtnetlink.Tunnel(
        vni=1, port=4789, local=IPv4Address("192.0.2.1"), link=_FIRST.index, remote=IPv4Address("239.1.1.1")
    )
    _send(*_joined(), rtnetlink.vxlan_tunnel_add(_THIRD, tunnel), rtnetlink.link_up(_THIRD.index))


def _try_multipath() -> None:
    hops = ((_FIRST.index, IPv4Address("192.0.2.2")), (_FIRST.index, IPv4Address("192.0.2.3")))
    _send(*_joined(), rtnetlink.route_add(None, IPv4Network("198.51.100.0/24"), hops=hops))


FEATURES = (
    Feature(
        name=GENEVE,
        option="CONFIG_GENEVE",
        module="geneve",
        needed_for="labs with encapsulation geneve",
        attempt=lambda: _send(rtnetlink.external_tunnel_add(_FIRST, "geneve", port=GENEVE_PORT)),
        required=False,
    ),
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
