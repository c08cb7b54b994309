"""What the host must have for netns labs: tools tell their versions, the kernel is tried in a throwaway namespace."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labctl.datapath import loader
from labctl.errors import LabError
from labctl.model.datapath import Encapsulation, HostRouting
from labctl.providers.base import Probe
from labctl.providers.netns.actions import Device
from labctl.providers.tools import Need, tool_probes
from labctl.system import conntrack, netns, process, rtnetlink
from labctl.system.netlink import Request, Socket

_BUILDING = "building labs"
_EVIDENCE = "proving the mode in force"
_TIMEOUT_S = 10.0


TOOLS = (
    Need(program="ip", needed_for="looking at labs, labctl plan --shell"),
    Need(program="tc", needed_for="looking at labs, labctl plan --shell"),
    Need(program="sysctl", needed_for="labctl plan --shell"),
    Need(program="iptables-restore", needed_for=_BUILDING),
    Need(program="iptables-save", needed_for=_EVIDENCE),
    Need(program="nft", needed_for="looking at netfilter"),
    Need(program="ping", needed_for="check ping"),
    Need(program="iperf3", needed_for="check iperf"),
    Need(program="sockperf", needed_for="check latency"),
    Need(program="tcpdump", needed_for=f"check tcpdump, {_EVIDENCE}"),
    Need(program="bpftool", needed_for="only labctl plan --shell, and rebuilding the eBPF objects", required=False),
    Need(program="python3", needed_for="only check connect", required=False),
    Need(program="bash", needed_for="only labctl trace --protocol tcp and udp", required=False),
    Need(program="clang", needed_for="only rebuilding the eBPF objects", required=False),
    Need(program="conntrack", needed_for="check netfilter, and the commands that evidence shows", required=False),
    Need(program="nsenter", needed_for="only the commands that labctl shows for doing it by hand", required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something the kernel can do. `attempt` tries it inside a throwaway namespace and raises OSError or LabError
    where it cannot; `option` is the kernel's build option, `module` what modprobe calls it (empty: no module)."""

    name: str
    option: str
    module: str
    needed_for: str
    attempt: Callable[[], None]
    required: bool = True


def probes() -> Iterator[Probe]:
    """Tools, then libbpf, then the kernel. Without root the kernel's features cannot be tried, and that is said."""
    yield from tool_probes(TOOLS)
    yield _libbpf()
    is_root = os.geteuid() == 0
    yield Probe(
        name="root",
        present=is_root,
        found="root" if is_root else f"user {os.geteuid()}",
        needed_for=_BUILDING,
        remedy="sudo labctl doctor",
    )
    for feature in FEATURES:
        yield _try(feature) if is_root else _untried(feature.name, feature.needed_for, required=feature.required)
    yield _own_sys() if is_root else _untried("own /sys", _OWN_SYS, required=False)


def _libbpf() -> Probe:
    try:
        ctypes.CDLL(loader.LIBBPF)
        found = loader.LIBBPF
    except OSError as missing:
        found = str(missing)
    return Probe(
        name="libbpf",
        present=found == loader.LIBBPF,
        found=found,
        needed_for=_BUILDING,
        remedy="apt-get install libbpf1",
    )


def _untried(name: str, needed_for: str, *, required: bool) -> Probe:
    return Probe(
        name=name,
        present=False,
        found="not looked at: only root can try it",
        needed_for=needed_for,
        required=required,
        is_looked_at=False,
    )


def _try(feature: Feature) -> Probe:
    try:
        with netns.throwaway():
            feature.attempt()
        found = ""
    except OSError as refused:
        found = os.strerror(refused.errno) if refused.errno else str(refused)
    except LabError as failed:
        found = failed.cause or failed.what
    load = f"modprobe {feature.module}  # or " if feature.module else "boot "
    return Probe(
        name=feature.name,
        present=not found,
        found=found or "tried, works",
        needed_for=feature.needed_for,
        remedy=f"{load}a kernel with {feature.option}",
        required=feature.required,
    )


_OWN_SYS = "exec and checks: without it a pod shows the host's /sys/class/net"


def _own_sys() -> Probe:
    """Whether a process inside a namespace sees that namespace's devices in /sys, tried with one that looks."""
    try:
        with netns.throwaway(), _here() as place:
            done = process.run(("ls", "/sys/class/net"), timeout_s=_TIMEOUT_S, namespace=place)
        refused = process.without_own_sys()
        seen = done.text.split() == ["lo"]
        found = "tried, works" if seen else str(refused or done.error_text.strip() or "it shows the host's devices")
    except (OSError, LabError) as failed:
        seen, found = False, str(failed)
    return Probe(
        name="own /sys",
        present=seen,
        found=found,
        needed_for=_OWN_SYS,
        remedy="run labctl on the host itself, or in a container with: docker run --privileged --network host",
        required=False,
    )


@contextlib.contextmanager
def _here() -> Iterator[Path]:
    """A path to the network namespace that the calling thread is in."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{here}")
    finally:
        os.close(here)


_FIRST = Device(name="probe0", index=100, mac="02:00:00:00:00:01", mtu=1500).encoded(up=False)
_SECOND = Device(name="probe1", index=101, mac="02:00:00:00:00:02", mtu=1500).encoded(up=False)


def _send(*requests: Request) -> None:
    with Socket() as channel:
        channel.send(requests)


def _try_nothing() -> None:
    """Being inside a throwaway namespace is all."""


def _try_reading_connections() -> None:
    conntrack.connections()


def _try_filters() -> None:
    with loader.load(HostRouting.BPF, Encapsulation.NATIVE) as loaded:
        program = next(iter(loaded.programs.values()))
        _send(
            rtnetlink.veth_add(_FIRST, _SECOND),
            rtnetlink.clsact_add(_FIRST.index),
            rtnetlink.filter_add(_FIRST.index, rtnetlink.Hook.INGRESS, program=program, name="probe"),
        )


def _try_rules(table: str, *rules: str) -> None:
    """Has iptables-restore put the rules into the throwaway namespace, which a descriptor names."""
    text = "\n".join((f"*{table}", *rules, "COMMIT", ""))
    with _here() as place:
        done = process.run(("iptables-restore",), timeout_s=_TIMEOUT_S, namespace=place, stdin=text.encode())
    if done.returncode:
        raise LabError(what="iptables-restore failed", cause=done.error_text.strip().replace("\n", "; "))


def _try_cgroup2() -> None:
    """Anywhere, also beside cgroup v1 (/sys/fs/cgroup/unified)."""
    mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.split()[2] == "cgroup2" for line in mounts):
        raise LabError(what="no cgroup2 is mounted", cause="no cgroup2 is mounted")


FEATURES = (
    Feature(
        name="network namespaces",
        option="CONFIG_NET_NS",
        module="",
        needed_for=_BUILDING,
        attempt=_try_nothing,
    ),
    Feature(
        name="veth",
        option="CONFIG_VETH",
        module="veth",
        needed_for=_BUILDING,
        attempt=lambda: _send(rtnetlink.veth_add(_FIRST, _SECOND)),
    ),
    Feature(
        name="bridge",
        option="CONFIG_BRIDGE",
        module="bridge",
        needed_for=_BUILDING,
        attempt=lambda: _send(rtnetlink.bridge_add(_FIRST)),
    ),
    Feature(
        name="vxlan",
        option="CONFIG_VXLAN",
        module="vxlan",
        needed_for="labs with encapsulation vxlan",
        attempt=lambda: _send(rtnetlink.vxlan_add(_FIRST, port=8472)),
    ),
    Feature(
        name="tc eBPF",
        option="CONFIG_BPF_SYSCALL, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF and CONFIG_NET_CLS_ACT",
        module="cls_bpf sch_ingress",
        needed_for=_BUILDING,
        attempt=_try_filters,
    ),
    Feature(
        name="iptables",
        option="CONFIG_IP_NF_IPTABLES or CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_MATCH_COMMENT and …_XT_MARK",
        module="nft_compat xt_comment xt_mark",
        needed_for=_BUILDING,
        attempt=lambda: _try_rules("filter", "-A FORWARD -m comment --comment x -m mark --mark 0x1/0x1 -j ACCEPT"),
    ),
    Feature(
        name="iptables notrack",
        option="CONFIG_NETFILTER_XT_TARGET_CT",
        module="xt_CT",
        needed_for=_BUILDING,
        attempt=lambda: _try_rules("raw", "-A PREROUTING -m mark --mark 0x1/0x1 -j CT --notrack"),
    ),
    Feature(
        name="nat and conntrack",
        option="CONFIG_NF_CONNTRACK, CONFIG_NF_NAT and CONFIG_NETFILTER_XT_TARGET_MASQUERADE",
        module="nf_conntrack nf_nat xt_MASQUERADE",
        needed_for=_BUILDING,
        attempt=lambda: _try_rules("nat", "-A POSTROUTING -m mark --mark 0x1/0x1 -j MASQUERADE"),
    ),
    Feature(
        name="iptables socket match",
        option="CONFIG_NETFILTER_XT_MATCH_SOCKET",
        module="xt_socket",
        needed_for="one of the rules of a Cilium node; it is left out where this is missing",
        attempt=lambda: _try_rules("mangle", "-A PREROUTING -m socket --transparent -j ACCEPT"),
        required=False,
    ),
    Feature(
        name="reading conntrack",
        option="CONFIG_NF_CT_NETLINK",
        module="nf_conntrack_netlink",
        needed_for=_EVIDENCE,
        attempt=_try_reading_connections,
    ),
    Feature(
        name="cgroup2",
        option="CONFIG_CGROUPS and CONFIG_CGROUP_BPF",
        module="",
        needed_for="services",
        attempt=_try_cgroup2,
        required=False,
    ),
)
