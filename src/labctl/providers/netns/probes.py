"""What the host must have for netns labs: tools report their versions, the kernel is tried in a throwaway namespace."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from labctl.datapath import loader
from labctl.errors import HostLacks, LabError, MeasureFailed
from labctl.model.lab import Encapsulation, HostRouting
from labctl.model.tools import require_ended
from labctl.providers.base import Probe
from labctl.providers.netns import kernel
from labctl.providers.netns.kinds.link import Device
from labctl.providers.tools import Need, tool_probes
from labctl.system import netfilter, netns, process, rtnetlink
from labctl.system.netlink import Request, Socket
from labctl.system.powers import Powers
from labctl.values import dataclass

ROOT = "root"
_FILTERS = "tc eBPF"
_BUILDING = "building labs"
_EVIDENCE = "proving the mode in force"
_TIMEOUT_S = 60.0
"""The first rule of a kind loads the kernel's modules for it."""


TOOLS = (
    Need(program="ip", needed_for="inspecting labs, labctl plan --shell"),
    Need(program="tc", needed_for="inspecting labs, labctl plan --shell"),
    Need(program="sysctl", needed_for="labctl plan --shell"),
    Need(program="iptables-restore", needed_for=_BUILDING),
    Need(program="iptables-save", needed_for=_EVIDENCE),
    Need(program="nft", needed_for="inspecting netfilter"),
    Need(program="ping", needed_for="check ping"),
    Need(program="iperf3", needed_for="check iperf"),
    Need(program="sockperf", needed_for="check latency"),
    Need(program="tcpdump", needed_for=f"check tcpdump, {_EVIDENCE}"),
    Need(program="bpftool", needed_for="only labctl plan --shell, and rebuilding the eBPF objects", required=False),
    Need(program="python3", needed_for="only check connect", required=False),
    Need(program="bash", needed_for="only labctl trace --protocol tcp and udp", required=False),
    Need(program="clang", needed_for="only rebuilding the eBPF objects", required=False),
    Need(program="conntrack", needed_for="check netfilter, and the commands that evidence shows", required=False),
    Need(program="nsenter", needed_for="only the commands that labctl shows to run by hand", required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something the kernel can do. `attempt` tries it inside a throwaway namespace and raises OSError or LabError
    where it cannot; `option` is the kernel's build option, `module` what modprobe calls it (empty: no module),
    `minimum` the oldest Linux that has all of it, where numbers decide."""

    name: str
    option: str
    module: str
    needed_for: str
    attempt: Callable[[], None]
    required: bool = True
    minimum: kernel.Version | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What this process may do. `lacking` are capabilities that labs need; `is_nested` says that its user namespace is
    not the first one, whose capabilities bpf() asks for; `outside` is its user as that one's parent sees it."""

    user: int
    lacking: tuple[str, ...] = ()
    is_nested: bool = False
    outside: int | None = None
    is_filtered: bool = False
    """A seccomp filter checks its system calls."""


_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of linux/proc_ns.h


def read_rights(process_directory: Path = Path("/proc/self"), *, user_namespace: int | None = None) -> Rights:
    """Of this process; from another folder and number, of a recorded one."""
    status = dict(
        line.split(":\t", 1) for line in (process_directory / "status").read_text().splitlines() if ":\t" in line
    )
    effective = int(status["CapEff"], 16)
    inode = (process_directory / "ns" / "user").stat().st_ino if user_namespace is None else user_namespace
    mapped = (process_directory / "uid_map").read_text().split()
    user = int(status["Uid"].split()[1])
    return Rights(
        user=user,
        lacking=tuple(name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1),
        is_nested=inode != _FIRST_USER_NAMESPACE,
        outside=int(mapped[1]) if len(mapped) >= 3 and int(mapped[0]) == user else None,
        is_filtered=status.get("Seccomp", "0").strip() == "2",
    )


def probes() -> Iterator[Probe]:
    """Tools, then libbpf, then the kernel. Without root the kernel's features cannot be tried; the probes say so."""
    yield from tool_probes(TOOLS)
    yield _libbpf()
    yield kernel_probe(kernel.release())
    rights = read_rights()
    tried = [
        untried(feature.name, feature.needed_for, required=feature.required)
        if rights.user
        else tried_probe(feature, rights)
        for feature in FEATURES
    ]
    yield rights_probe(rights, may_load=any(probe.name == _FILTERS and probe.present for probe in tried))
    yield from tried
    yield untried("own /sys", _OWN_SYS, required=False) if rights.user else _own_sys()
    yield untried("own processes", _OWN_PROCESSES, required=False) if rights.user else _own_processes()


def kernel_probe(release: str) -> Probe:
    too_old = kernel.too_old(release)
    return Probe(
        name="kernel",
        present=not too_old,
        found=too_old or release,
        needed_for=_BUILDING,
        remedy=f"boot Linux {kernel.in_words(kernel.MINIMUM)} or later",
    )


def rights_probe(rights: Rights, *, may_load: bool) -> Probe:
    """Root of the first user namespace with all it needs; or of another one, where a BPF token lets it load programs
    (`may_load`). The name distinguishes a user who only needs sudo from a root without root's rights."""
    if rights.user:
        return Probe(
            name=ROOT,
            present=False,
            found=f"user {rights.user}",
            needed_for=_BUILDING,
            remedy="sudo labctl doctor",
        )
    is_enough = not rights.lacking and (may_load or not rights.is_nested)
    return Probe(
        name=ROOT if is_enough else "rights of root",
        present=is_enough,
        found=_who(rights),
        needed_for=_BUILDING,
        remedy="" if is_enough else more_rights(rights),
    )


def _who(rights: Rights) -> str:
    """This root, with the capabilities that it lacks."""
    lacking = ", ".join(rights.lacking)
    if not rights.is_nested:
        return f"root without {lacking}" if lacking else "root"
    if rights.outside is None:
        return f"root of a user namespace without {lacking}" if lacking else "root of a user namespace"
    if lacking:
        return f"root of a user namespace, user {rights.outside} outside of it, without {lacking}"
    return f"root of a user namespace, user {rights.outside} outside of it"


def more_rights(rights: Rights) -> str:
    """The remedy where the kernel does not permit something to this root."""
    if rights.is_nested:
        return "sudo labctl doctor  # outside this user namespace: bpf() asks for capabilities in the first one"
    if rights.lacking:
        words = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in rights.lacking)
        return f"docker run --privileged …  # or {words}: this root lacks them"
    if rights.is_filtered:
        return "docker run --security-opt seccomp=unconfined …  # a seccomp filter blocks bpf()"
    version = kernel.parse_release(kernel.release())
    if version is not None and version < _MEMORY_UNCOUNTED:
        return "ulimit -l unlimited  # kernels before 5.11 count eBPF maps as locked memory"
    return "cat /sys/kernel/security/lockdown /sys/kernel/security/lsm  # a security module forbids it"


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


def untried(name: str, needed_for: str, *, required: bool) -> Probe:
    """Of what only root can try."""
    return Probe(
        name=name,
        present=False,
        found="not tried: only root can",
        needed_for=needed_for,
        required=required,
        is_looked_at=False,
    )


def tried_probe(feature: Feature, rights: Rights) -> Probe:
    """The feature, tried in a throwaway namespace."""
    failure: OSError | LabError | None = None
    try:
        with netns.throwaway():
            feature.attempt()
    except MeasureFailed as ended:
        return _unknown(feature.name, ended, feature.needed_for, required=feature.required)
    except (OSError, LabError) as failed:
        failure = failed
    return Probe(
        name=feature.name,
        present=failure is None,
        found="tried, works" if failure is None else in_a_line(failure),
        needed_for=feature.needed_for,
        remedy="" if failure is None else remedy(feature, failure, rights),
        required=feature.required,
    )


def _unknown(name: str, ended: MeasureFailed, needed_for: str, *, required: bool) -> Probe:
    """A tool that was killed, or at its deadline, shows nothing of the kernel."""
    return Probe(
        name=name,
        present=False,
        found=f"could not be tried: {ended.what}: {ended.cause}",
        needed_for=needed_for,
        required=required,
        is_looked_at=False,
    )


_OWN_SYS = "exec and checks: without it a pod shows the host's /sys/class/net"


def _own_sys() -> Probe:
    """Whether a process inside a namespace sees that namespace's devices in /sys, tried with one that looks."""
    try:
        with netns.throwaway(), _here() as place:
            done = process.run(("ls", "/sys/class/net"), timeout_s=_TIMEOUT_S, namespace=place)
        require_ended(done)
        refused = process.without_own_sys()
        seen = refused is None and done.text.split() == ["lo"]  # a host may have no other device either
        found = "tried, works" if seen else str(refused or done.error_text.strip() or "it shows the host's devices")
    except MeasureFailed as ended:
        return _unknown("own /sys", ended, _OWN_SYS, required=False)
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


_OWN_PROCESSES = "exec and checks: without it a program in a pod sees the host's processes"


def _own_processes() -> Probe:
    """Whether a process in a lab sees only the lab's processes in /proc, tried with one that looks for this process."""
    try:
        with netns.throwaway(), _here() as place:
            argv = ("test", "!", "-e", f"/proc/{os.getpid()}/status")
            done = process.run(argv, timeout_s=_TIMEOUT_S, namespace=place, powers=Powers.POD)
        require_ended(done)
        refused = process.without_own_processes() or process.without_own_sys()
        alone = refused is None and done.returncode == 0
        found = "tried, works" if alone else str(refused or "it sees this process")
    except MeasureFailed as ended:
        return _unknown("own processes", ended, _OWN_PROCESSES, required=False)
    except (OSError, LabError) as failed:
        alone, found = False, str(failed)
    return Probe(
        name="own processes",
        present=alone,
        found=found,
        needed_for=_OWN_PROCESSES,
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


def in_a_line(failure: OSError | LabError) -> str:
    """The error's name, and of the output of a tool or of libbpf the last line that is specific."""
    if isinstance(failure, OSError):
        return os.strerror(failure.errno) if failure.errno else str(failure)
    lines = [line for line in (failure.cause or failure.what).splitlines() if not _NOT_SPECIFIC.search(line)]
    said = lines[-1].strip() if lines else failure.what
    refused = failure.__cause__
    name = os.strerror(refused.errno) if isinstance(refused, OSError) and refused.errno else ""
    return f"{name}: {said}" if name and name not in said else said


def errno_of(failure: OSError | LabError) -> int | None:
    """The kernel's error behind a failure: itself, as the cause of ours, or in a tool's output."""
    refused = failure if isinstance(failure, OSError) else failure.__cause__
    if isinstance(refused, OSError):
        return refused.errno
    said = failure.cause if isinstance(failure, LabError) else ""
    return next((number for number, words in _IN_WORDS.items() if re.search(words, said)), None)


def remedy(feature: Feature, failure: OSError | LabError, rights: Rights) -> str:
    """The remedy for this failure of that feature: rights, another kernel, room, or a module; a command to paste."""
    option = f"boot a kernel with {feature.option}"
    if feature.module:
        option = f"modprobe {feature.module}  # or a kernel with {feature.option}"
    if isinstance(failure, HostLacks) and failure.remedy:
        return failure.remedy
    number = errno_of(failure)
    if number in _FORBIDDEN:
        return more_rights(rights)
    if number in _UNKNOWN_TO_IT and feature.minimum is not None:
        wanted, version = kernel.in_words(feature.minimum), kernel.parse_release(kernel.release())
        if version is not None and version >= feature.minimum:
            return (
                f"boot a kernel with {feature.option}  # this is {kernel.release()}; Linux {wanted} can have them all"
            )
        return f"boot Linux {wanted} or later  # this is {kernel.release()}; {kernel.MINIMUM_BECAUSE}"
    return _ROOM.get(number or 0, option)


_FORBIDDEN = {errno.EPERM, errno.EACCES}
_UNKNOWN_TO_IT = {errno.EINVAL, errno.E2BIG, 524}
"""The errors of bpf() for helpers and maps that this kernel lacks; 524 is ENOTSUPP, which errno.h does not have."""
_ROOM = {
    errno.ENOMEM: "free -m  # the kernel has no memory left for it",
    errno.EMFILE: "ulimit -n 4096",
    errno.ENFILE: "sysctl fs.file-nr  # the host is at its limit of open files",
}
_MEMORY_UNCOUNTED: kernel.Version = (5, 11)
_NOT_SPECIFIC = re.compile(
    r"^\s*$|failed to load object|Failed to bump RLIMIT_MEMLOCK|^libbpf: prog .*-- |^processed \d+ insns|-- END"
)
_IN_WORDS = {
    errno.EPERM: r"[Pp]ermission denied|[Oo]peration not permitted|must be root",
    errno.EINVAL: r"Invalid argument",
    errno.ENOMEM: r"Cannot allocate memory|Out of memory",
}


_FIRST = Device(name="probe0", index=100, mac="02:00:00:00:00:01", mtu=1500).encoded(up=False)
_SECOND = Device(name="probe1", index=101, mac="02:00:00:00:00:02", mtu=1500).encoded(up=False)


def _send(*requests: Request) -> None:
    with Socket() as channel:
        channel.send(requests)


def _try_nothing() -> None:
    """Entering a throwaway namespace is the test."""


def _try_reading_connections() -> None:
    netfilter.connections()


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
    require_ended(done)
    if done.returncode:
        raise LabError(what="iptables-restore failed", cause=done.error_text.strip().replace("\n", "; "))


_NFT_RULES = """
table ip labctl-probe {
    chain one { reject; }
    chain two { type nat hook postrouting priority 100; numgen random mod 2 vmap { 0 : goto three, 1 : goto three }; }
    chain three { fib saddr type local return; masquerade; }
}
"""


def _try_nft() -> None:
    """As `_try_rules`, for `nft -f`."""
    with _here() as place:
        done = process.run(("nft", "-f", "-"), timeout_s=_TIMEOUT_S, namespace=place, stdin=_NFT_RULES.encode())
    require_ended(done)
    if done.returncode:
        raise LabError(what="nft failed", cause=done.error_text.strip().replace("\n", "; "))


def _try_connection_states() -> None:
    _require_version(kernel.trace_abilities().tells_connections, kernel.CONNECTION_STATE_SINCE)


def _try_table_owners() -> None:
    _require_version(kernel.trace_abilities().owns_tables, kernel.TABLE_OWNER_SINCE)


def _require_version(can: bool | None, since: kernel.Version) -> None:
    """Raises HostLacks for what this kernel lacks, with the first that has it; LabError where it could not be tried."""
    if can is None:
        raise LabError(what="it could not be tried", cause="netfilter refused the rules that would show it")
    if not can:
        wanted = kernel.in_words(since)
        raise HostLacks(
            what="not in this kernel",
            cause=f"not in {kernel.release()}: Linux {wanted} and later have it",
            remedy=f"boot Linux {wanted} or later",
        )


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
        attempt=lambda: _send(rtnetlink.external_tunnel_add(_FIRST, "vxlan", port=8472)),
    ),
    Feature(
        name=_FILTERS,
        option="CONFIG_BPF_SYSCALL, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF and CONFIG_NET_CLS_ACT",
        module="cls_bpf sch_ingress",
        needed_for=_BUILDING,
        attempt=_try_filters,
        minimum=kernel.MINIMUM,
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
        name="kube-proxy in iptables",
        option="CONFIG_NETFILTER_XT_MATCH_STATISTIC, …_XT_MATCH_ADDRTYPE, …_XT_MATCH_CONNTRACK and …_NAT",
        module="xt_statistic xt_addrtype xt_conntrack xt_nat",
        needed_for="labs with kubeProxyReplacement: false",
        attempt=lambda: _try_rules(
            "nat",
            "-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -m statistic --mode random --probability 0.5 "
            "-j DNAT --to-destination 192.0.2.1:80",
            "-A OUTPUT -m conntrack --ctstate NEW -j MARK --or-mark 0x4000",
        ),
        required=False,
    ),
    Feature(
        name="kube-proxy in nftables",
        option="CONFIG_NFT_NUMGEN, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_MASQ and CONFIG_NFT_REJECT",
        module="nft_numgen nft_fib_ipv4 nft_masq nft_reject",
        needed_for="labs with kubeProxy: nftables",
        attempt=_try_nft,
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
        name="conntrack in nft traces",
        option="CONFIG_NF_TABLES and CONFIG_NFT_CT",
        module="nf_tables nft_ct",
        needed_for="conntrack's steps in labctl trace",
        attempt=_try_connection_states,
        required=False,
    ),
    Feature(
        name="nft tables with owners",
        option="CONFIG_NF_TABLES",
        module="nf_tables",
        needed_for="cleaning up after a killed labctl trace",
        attempt=_try_table_owners,
        required=False,
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
