"""The kube-proxy check: what of kube-proxy a pair's nodes have, and whether that is what the scenario asks for.

Looked for are its process, its DaemonSet where there is Kubernetes, its chains in both of iptables' back ends, and its
table in nftables. A kubelet makes chains of its own that begin with KUBE- too: those are named and left alone.

Here is also what searches a node's netfilter for one Service: its address, its node port, its name in comments, and the
names of its chains, which are made from a hash of its name. Argv, parsers and judges are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from labctl.checks.base import CheckContext
from labctl.checks.outcome import Measured, RawFiles, WithoutFigures, finding, judge_findings, measure, unknown
from labctl.errors import MeasureFailed
from labctl.model.lab import KubeProxy, Lab, Service
from labctl.model.parameters import KubeProxyParameters
from labctl.model.result import CheckResult, Finding
from labctl.model.tools import require_success
from labctl.services import iptables, nftables
from labctl.services.frontends import kubernetes_namespace
from labctl.values import dataclass

_TIMEOUT_S = 60.0
PROCESS = "kube-proxy"
DAEMON_SET = "kube-proxy"

OF_KUBELET = frozenset(
    {
        "KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "KUBE-MARK-MASQ",
        "KUBE-POSTROUTING",
    }
)  # fmt: skip
"""Chains that a kubelet makes, whether there is a kube-proxy or not (pkg/kubelet/kubelet_network_linux.go)."""

_LISTERS = ("iptables-legacy-save", "iptables-nft-save")
_KEPT_BY_IPTABLES = "ip\\ filter|ip\\ nat|ip\\ mangle|ip\\ raw|ip\\ security|ip6\\ *"
"""Tables that iptables-nft-save lists already."""
_EACH = (
    f"for list in {' '.join(_LISTERS)}; do "
    'if command -v "$list" >/dev/null 2>&1; then if said=$("$list" 2>&1); '
    'then echo "#listed-by $list"; else echo "#failed $list"; fi; printf "%s\\n" "$said"FILTER; fi; done; '
    'if command -v nft >/dev/null 2>&1; then if said=$(nft list tables 2>&1); then echo "#listed-by nft"; '
)
_RULES = _EACH.replace("FILTER", "") + (
    'printf "%s\\n" "$said" | while read -r _ family name; do [ -n "$name" ] || continue; case "$family $name" in '
    f"{_KEPT_BY_IPTABLES}) command -v iptables-nft-save >/dev/null 2>&1 && continue;; esac; "
    'nft list table "$family" "$name"; done; else echo "#failed nft"; printf "%s\\n" "$said"; fi; fi; true'
)
_CHAINS = _EACH.replace("FILTER", " | grep '^:KUBE-'") + (
    'printf "%s\\n" "$said"; else echo "#failed nft"; printf "%s\\n" "$said"; fi; fi; true'
)
_PROCESSES = (
    "own=$(readlink /proc/self/ns/net); for one in /proc/[0-9]*; do "
    'if read -r name < "$one/comm" && [ "$name" = ' + PROCESS + ' ] && [ "$(readlink "$one/ns/net")" = "$own" ]; '
    'then echo "$name"; fi; done 2>/dev/null; true'
)

_HEAD = re.compile(r"^#(listed-by|failed) (\S+)$")
_FAILED = re.compile(r"^#failed (\S+)\n(.*)", re.MULTILINE)
_CHAIN = re.compile(r"^:(KUBE-\S+) ", re.MULTILINE)
_NFT_TABLE = re.compile(rf"^table ip {re.escape(nftables.TABLE)}$", re.MULTILINE)
_LONGEST_LINE = 160
_MOST_SHOWN = 3


def argv_rules() -> tuple[str, ...]:
    """Every list of rules that the node can print, each behind a line that says what listed it."""
    return ("sh", "-c", _RULES)


def argv_chains() -> tuple[str, ...]:
    """The chains alone whose names begin with KUBE-, and nft's tables."""
    return ("sh", "-c", _CHAINS)


def argv_processes() -> tuple[str, ...]:
    """A line for each kube-proxy in the node's own network, where kube-proxy runs."""
    return ("sh", "-c", _PROCESSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a node has in netfilter: the commands that listed it, the lines that name a Service, and the commands that
    are there and failed, each with its words."""

    listed_by: tuple[str, ...]
    lines: tuple[str, ...]
    failed: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The first of the lines, for a person."""
        more = len(self.lines) - _MOST_SHOWN
        return " | ".join(self.lines[:_MOST_SHOWN]) + (f" | … {more} more" if more > 0 else "")


def marks_of(service: Service, lab: str) -> re.Pattern[str]:
    """What a rule for that Service has in it, whichever kube-proxy wrote it. Before Kubernetes 1.19 the name of a port
    without a name ended in a colon, in the hash as well."""
    name = f"{kubernetes_namespace(lab)}/{service.name}"
    hashes = {iptables.chain_name("", spelled, service.protocol) for spelled in (name, f"{name}:")}
    parts = [
        rf"(?<![0-9.]){re.escape(str(service.address))}(?![0-9.]*[0-9])",
        rf"(?<![\w-]){re.escape(name)}(?![\w-])",
        rf"-(?:{'|'.join(sorted(hashes))})\b",
    ]
    if service.node_port is not None:
        parts.append(rf"(?:dport |{service.protocol} \. ){service.node_port}\b")
    return re.compile("|".join(parts))


def parse_rules(text: str, marks: re.Pattern[str]) -> Rules:
    """The lines with those marks, out of every list of rules that the node could print, and what could not be. Of a
    long line (the elements of a map) the part around the first mark."""
    listed = tuple(found[2] for line in text.splitlines() if (found := _HEAD.match(line)) and found[1] == "listed-by")
    failed = tuple(": ".join(one) for one in _FAILED.findall(text))
    lines = tuple(
        _around(line.strip(), found.start())
        for line in text.splitlines()
        if (found := marks.search(line)) and not _HEAD.match(line)
    )
    return Rules(listed_by=listed, lines=lines, failed=failed)


def parse_lists(text: str, marks: re.Pattern[str]) -> dict[str, Rules]:
    """The same for each list by itself, by the name of what listed it, or was to."""
    parts: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if (found := _HEAD.match(line)) is not None:
            name = found[2]
        if name:
            parts.setdefault(name, []).append(line)
    return {name: parse_rules("\n".join(lines), marks) for name, lines in parts.items()}


def _around(line: str, at: int) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    start = max(0, min(at - _LONGEST_LINE // 2, len(line) - _LONGEST_LINE))
    return f"{'…' if start else ''}{line[start : start + _LONGEST_LINE]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """What of kube-proxy's and the kubelet's is in a node's netfilter. `of_proxy` and `of_kubelet` are names of chains,
    `has_table` says that nftables has the table `kube-proxy`."""

    listed_by: tuple[str, ...]
    of_proxy: tuple[str, ...]
    of_kubelet: tuple[str, ...]
    has_table: bool
    failed: tuple[str, ...] = ()


def parse_chains(text: str) -> Chains:
    listed = tuple(found[2] for line in text.splitlines() if (found := _HEAD.match(line)) and found[1] == "listed-by")
    names = sorted(set(_CHAIN.findall(text)))
    return Chains(
        listed_by=listed,
        of_proxy=tuple(name for name in names if name not in OF_KUBELET),
        of_kubelet=tuple(name for name in names if name in OF_KUBELET),
        has_table=bool(_NFT_TABLE.search(text)),
        failed=tuple(": ".join(one) for one in _FAILED.findall(text)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLook:
    """What one node showed. `processes` counts kube-proxies in its /proc. The commands show the same by hand, but for
    iptables' legacy back end, which iptables-legacy-save shows."""

    node: str
    processes: int
    chains: Chains
    processes_command: Sequence[str] = ()
    chains_command: Sequence[str] = ()


def judge_node(look: ProxyLook, wanted: KubeProxy | None) -> Iterator[Finding]:
    """`wanted` is the mode that the scenario asks for; None: no kube-proxy at all."""
    yield _process(look, wanted)
    if look.chains.failed or not look.chains.listed_by:
        yield unknown(
            f"rules-{look.node}",
            sentence=f"{look.node}: netfilter could not be listed: "
            + ("; ".join(look.chains.failed) or "no program that lists rules is there"),
            lesson="a list that cannot be read is no list without kube-proxy's chains",
            command=look.chains_command,
        )
        return
    yield _iptables(look, wanted)
    yield _nftables(look, wanted)
    if look.chains.of_kubelet:
        yield finding(
            f"kubelet-{look.node}",
            holds=True,
            sentence=f"{look.node}: the kubelet's own chains are there: {', '.join(look.chains.of_kubelet)}",
            lesson="the kubelet makes these with or without kube-proxy; no Service is in them",
            command=look.chains_command,
        )


def _process(look: ProxyLook, wanted: KubeProxy | None) -> Finding:
    count = look.processes
    if wanted is not None and not count:
        lesson = "the rules do the work and outlive the process that wrote them: a netns lab has rules and no process"
    else:
        lesson = "where eBPF replaces kube-proxy, none may run: it would write its rules beside the eBPF programs"
    return finding(
        f"process-{look.node}",
        holds=wanted is not None or not count,
        sentence=f"{look.node}: {count} processes called {PROCESS}",
        lesson=lesson,
        command=look.processes_command,
    )


def _iptables(look: ProxyLook, wanted: KubeProxy | None) -> Finding:
    names = look.chains.of_proxy
    some = ", ".join(names[:6]) + (f", … {len(names) - 6} more" if len(names) > 6 else "")
    is_wanted = wanted is KubeProxy.IPTABLES
    return finding(
        f"iptables-{look.node}",
        holds=("KUBE-SERVICES" in names) if is_wanted else not names,
        sentence=f"{look.node}: {len(names)} chains of kube-proxy in {' and '.join(_lists(look))}"
        + (f": {some}" if names else ""),
        lesson="in iptables mode a new connection walks through KUBE-SERVICES until a rule has its address"
        if is_wanted
        else "no chain of kube-proxy's in either back end of iptables: no connection walks past its rules",
        command=look.chains_command,
    )


def _lists(look: ProxyLook) -> tuple[str, ...]:
    return tuple(one for one in look.chains.listed_by if one in _LISTERS) or ("no list of iptables",)


def _nftables(look: ProxyLook, wanted: KubeProxy | None) -> Finding:
    is_wanted = wanted is KubeProxy.NFTABLES
    has = look.chains.has_table
    return finding(
        f"nftables-{look.node}",
        holds=has is is_wanted,
        sentence=f"{look.node}: nftables has the table kube-proxy"
        if has
        else f"{look.node}: nftables has no table kube-proxy",
        lesson="in nftables mode one look into a map finds a connection's Service, however many there are"
        if is_wanted
        else "kube-proxy's nftables mode keeps everything in one table of that name",
        command=look.chains_command,
    )


def judge_daemon_set(is_there: bool, wanted: KubeProxy | None) -> Finding:
    return finding(
        "daemonset",
        holds=is_there is (wanted is not None),
        sentence="kube-system has a DaemonSet kube-proxy" if is_there else "kube-system has no DaemonSet kube-proxy",
        lesson="kube-proxy comes from this DaemonSet, which `kubeadm init --skip-phases=addon/kube-proxy` leaves out",
        command=("kubectl", "-n", "kube-system", "get", "daemonset", DAEMON_SET),
    )


def wanted_of(lab: Lab) -> KubeProxy | None:
    return None if lab.in_force.kube_proxy_replacement else lab.datapath.kube_proxy


class KubeProxyCheck(WithoutFigures):
    """kube-proxy on the nodes of a pair."""

    kind = "kube-proxy"
    tools = ()

    def run(self, context: CheckContext) -> CheckResult:
        parameters = context.spec.parameters
        if not isinstance(parameters, KubeProxyParameters):
            raise TypeError(f"kube-proxy cannot run with {type(parameters).__name__}")
        lab = context.open_lab.lab
        wanted = wanted_of(lab)

        def body(raw: RawFiles) -> Measured:
            findings: list[Finding] = []
            is_there = context.open_lab.has_daemon_set(DAEMON_SET)
            if is_there is not None:
                findings.append(judge_daemon_set(is_there, wanted))
            for node in lab.nodes_of(context.pair):
                findings += judge_node(self._look(context, raw, node), wanted)
            if not findings:
                raise MeasureFailed("no node was looked at", "the pair is on none")
            return Measured(judgement=judge_findings(findings), values={}, findings=tuple(findings))

        return measure(context, self.metrics(parameters), body)

    def _look(self, context: CheckContext, raw: RawFiles, node: str) -> ProxyLook:
        target = context.open_lab.target(node)
        processes, chains = argv_processes(), argv_chains()
        ran = raw.save_completed(f"processes-{node}", target.run(processes, timeout_s=_TIMEOUT_S))
        require_success(ran, f"the processes of {node} cannot be listed")
        listed = raw.save_completed(f"chains-{node}", target.run(chains, timeout_s=_TIMEOUT_S))
        require_success(listed, f"the netfilter chains of {node} cannot be listed")
        return ProxyLook(
            node=node,
            processes=len(ran.text.split()),
            chains=parse_chains(listed.text),
            processes_command=target.command(("pgrep", "-x", PROCESS)),
            chains_command=target.command(("nft", "list", "chains")),
        )
