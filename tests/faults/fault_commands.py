"""The commands of labctl that faults are put into, each in a small lab, and what a healthy one leaves until a boot."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence

import labctl as package
from labctl.cli import main
from labctl.testing.faults.experiment import Command, Tried

_SMALL = """\
apiVersion: labctl/v1
kind: Scenario
extends: bpf
nodes: 2
pods:
  - { name: client, node: node1, labels: { app: client } }
  - { name: server, node: node2, labels: { app: web } }
pairs: [{ client: client, server: server }]
services: [{ name: web, port: 80, targetPort: 5205, selector: { app: web } }]
checks: [{ check: ping, count: 2 }, { check: tcpdump, count: 1 }]
compare: { rounds: 1, durationS: 0.05, checks: [ping], ping: { count: 4, slices: 2 } }
"""
_OTHER = """\
apiVersion: labctl/v1
kind: Scenario
extends: small
pods:
  - { name: client, node: node1, labels: { app: client } }
  - { name: server, node: node2, labels: { app: web } }
  - { name: extra, node: node1, labels: { app: web } }
pairs: [{ client: client, server: server }, { client: client, server: extra }]
services:
  - { name: web, port: 80, targetPort: 5205, selector: { app: web } }
  - { name: more, port: 81, targetPort: 5205, selector: { app: web } }
"""
_PLAIN = """\
apiVersion: labctl/v1
kind: Scenario
extends: small
datapath: { hostRouting: legacy, masquerade: iptables, kubeProxyReplacement: false, kubeProxy: nftables }
"""
_ROUTED = """\
apiVersion: labctl/v1
kind: Scenario
extends: clos-bgp
nodes: 2
pods: [{ name: client, node: node1 }, { name: server, node: node2 }]
pairs: [{ client: client, server: server }]
fabric: { type: clos, routing: bgp, spines: 1, leaves: 2 }
"""
_FILES = {"small.yaml": _SMALL, "other.yaml": _OTHER, "plain.yaml": _PLAIN, "routed.yaml": _ROUTED}
_UP = ("up", "small.yaml", "--name", "lab")
_OTHER_UP = ("up", "other.yaml", "--name", "lab", "--apply")
_IN_NODE1 = ("!nsenter", "--net=/run/netns/labctl.lab.node1", "ip")
_LESSON = ("lesson", "start", "lxc-one-way")


def _command(name: str, *run: str, before: Sequence[tuple[str, ...]] = (_UP,), **more: object) -> Command:
    return Command(**{"name": name, "run": run, "before": tuple(before), "files": _FILES, "again": _UP, **more})  # type: ignore[arg-type]


COMMANDS = (
    _command("up", *_UP, before=(), most=170),
    _command(
        "up, kube-proxy's rules",
        "up",
        "plain.yaml",
        "--name",
        "lab",
        before=(),
        again=("up", "plain.yaml", "--name", "lab"),
        most=20,
    ),
    _command(
        "up, routing daemons",
        "up",
        "routed.yaml",
        "--name",
        "lab",
        before=(),
        again=("up", "routed.yaml", "--name", "lab"),
        most=24,
    ),
    _command("up --apply", *_OTHER_UP, again=_OTHER_UP, most=55),
    _command("down", "down", "lab", most=44),
    _command(
        "reset",
        "reset",
        "lab",
        before=(
            _UP,
            (*_IN_NODE1, "link", "set", "eth0", "mtu", "1400"),
            (*_IN_NODE1, "route", "flush", "proto", "static"),
            (*_IN_NODE1, "link", "delete", "cilium_vxlan"),
        ),
        most=36,
    ),
    _command("reset --hard", "reset", "lab", "--hard", most=20),
    _command("check", "check", "lab", most=34),
    _command("check, of a scenario", "check", "small.yaml", "--name", "lab", before=(), most=14),
    _command("compare", "compare", "small.yaml", "other.yaml", before=(), most=24),
    _command("capture", "capture", "lab", "-w", "seen.pcapng", "--duration", "0.2", "--sanity", most=28),
    _command("trace", "trace", "lab", "client", "server", most=30),
    _command("impair", "impair", "lab", "node1", "delay=1ms", "loss=1%", most=34),
    _command("impair --for", "impair", "lab", "node1", "delay=1ms", "--for", "0.2s", most=20),
    _command(
        "impair --clear", "impair", "lab", "--clear", before=(_UP, ("impair", "lab", "node1", "delay=1ms")), most=14
    ),
    _command("lesson start", *_LESSON, before=(), again=_LESSON, most=26),
    _command("lesson check", "lesson", "check", before=(_LESSON,), again=_LESSON, codes=(0, 1), most=8),
    _command("lesson stop", "lesson", "stop", before=(_LESSON,), again=_LESSON, most=24),
)


def labctl(args: Sequence[str]) -> int:
    sys.argv = ["labctl", *args]
    main()
    return 0


LABCTL = Tried(
    program=labctl,
    remove=("down", "--all"),
    saved=re.compile(r"^(?:raw files: )?(runs/\S+|\S+\.pcapng(?=: \d+ bytes$))", re.MULTILINE),
    read=("report",),
    stays=re.compile(
        r"^files: left: /run/(?:netns|labctl(?:/(?:locks|labs|(?:tags|rules)(?:/[0-9a-f]{64}\.json)?))?) "
        r"|^files: left: /run/desk/(?:home/\.local|seen\.pcapng)"
    ),
)


def read_in_all() -> None:
    """Every module of labctl, once: each command runs in a fork of this process, and would read them in again."""
    for module in pkgutil.walk_packages(package.__path__, "labctl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
