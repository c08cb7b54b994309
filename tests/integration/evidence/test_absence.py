"""What was lost, is missing or cannot be read is no proof of the other mode: real labs with something taken away."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from labctl import app
from labctl.datapath import bpf
from labctl.engine.build import build, remove
from labctl.engine.events import silent
from labctl.engine.prove import prove
from labctl.engine.trace import trace
from labctl.errors import MeasureFailed
from labctl.model.evidence import ModeInForce, Silence, Standing
from labctl.model.lab import Encapsulation, HostRouting, Lab, Placement
from labctl.model.result import Completed
from labctl.names import UNDERLAY, namespace_of
from labctl.providers.base import OpenLab
from labctl.providers.netns.provider import NetnsProvider
from labctl.store.runs import MemorySinks
from labctl.system import netfilter, netns, process
from labctl.testing.labs import RECORDED, sample_lab

MISSING = [tool for tool in ("tcpdump", "nft", "ping") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it builds labs"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install {' '.join(MISSING)}"),
]
BPF, LEGACY = HostRouting.BPF, HostRouting.LEGACY
VXLAN, NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
DROP_INPUT = "add table ip x; add chain ip x i { type filter hook input priority 0; policy drop; }"
DROP_FORWARD = "add table ip x; add chain ip x f { type filter hook forward priority 0; policy drop; }"


@contextmanager
def running(name: str, host_routing: HostRouting, encapsulation: Encapsulation) -> Iterator[OpenLab]:
    lab = sample_lab(name, host_routing=host_routing, encapsulation=encapsulation)
    build(NetnsProvider(), lab, silent)
    try:
        cross = tuple(pair for pair in lab.pairs if pair.placement is Placement.CROSS_NODE)
        with NetnsProvider().open(replace(lab, pairs=cross)) as open_lab:
            yield open_lab
    finally:
        remove(NetnsProvider(), lab.name, silent)


def inside(lab: Lab, part: str, *argv: str) -> None:
    subprocess.run(netns.command(namespace_of(lab.name, part), argv), check=True, timeout=120)


def mode_of(open_lab: OpenLab) -> ModeInForce:
    return prove(app.checks(), open_lab, MemorySinks(), silent).mode


def is_not_shown(open_lab: OpenLab, *words: str) -> None:
    mode = mode_of(open_lab)
    against = [f"{piece.witness} {piece.where}: {piece.finding}" for piece in mode.evidence if piece.supports is False]
    assert not against
    assert mode.standing is Standing.NOT_SHOWN, mode.reason
    for word in words:
        assert word in mode.reason


LOST = "client → server (cross-node): the request was last seen at"


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_a_cut_wire_and_a_dead_pod_leave_the_mode_not_shown_and_are_named(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    with running(host_as_found, host_routing, encapsulation) as open_lab:
        inside(open_lab.lab, UNDERLAY, "ip", "link", "set", "port2", "down")
        is_not_shown(open_lab, f"{LOST} underlay:port1 and did not come to server:eth0; underlay:port2 is down")
        inside(open_lab.lab, UNDERLAY, "ip", "link", "set", "port2", "up")
        inside(open_lab.lab, "server", "ip", "link", "set", "eth0", "down")
        is_not_shown(open_lab, LOST, "and did not come to server:eth0; server:eth0 is down")


def test_a_drop_leaves_the_mode_not_shown_until_it_is_gone(host_as_found: str) -> None:
    with running(host_as_found, LEGACY, NATIVE) as open_lab:  # the one cell that goes through the FORWARD hook
        lab = open_lab.lab
        for part, rules, said in (
            ("server", DROP_INPUT, "the reply was not seen, not even at server:eth0"),
            ("node1", DROP_FORWARD, f"{LOST} node1:{lab.pod('client').lxc} and did not come to server:eth0"),
        ):
            inside(lab, part, "nft", rules)
            is_not_shown(open_lab, said)
            inside(lab, part, "nft", "delete", "table", "ip", "x")
        assert mode_of(open_lab).proven


def test_a_pod_that_cannot_send_leaves_the_mode_not_shown_and_its_packet_is_not_called_lost(host_as_found: str) -> None:
    with running(host_as_found, LEGACY, NATIVE) as open_lab:
        inside(open_lab.lab, "client", "ip", "link", "set", "eth0", "down")
        is_not_shown(
            open_lab,
            "not even at client:eth0; client:eth0 is down; the sender's kernel reported: Network is unreachable",
        )
        (path,) = trace(open_lab, open_lab.lab.pairs[0]).paths
    assert not path.is_sent


@pytest.mark.parametrize(("host_routing", "standing"), [(LEGACY, Standing.NOT_SHOWN), (BPF, Standing.NOT_IN_FORCE)])
def test_a_program_that_is_gone_is_named_and_only_what_the_host_then_forwards_is_evidence(
    host_as_found: str, host_routing: HostRouting, standing: Standing
) -> None:
    with running(host_as_found, host_routing, VXLAN) as open_lab:
        lxc = open_lab.lab.pod("server").lxc
        inside(open_lab.lab, "node2", "tc", "filter", "del", "dev", lxc, "ingress")
        mode = mode_of(open_lab)
    assert mode.standing is standing, mode.reason
    assert f"node2: no program is attached to {lxc}" in mode.reason


def refused(number: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(number, f"bpf(PROG_GET_FD_BY_ID): {os.strerror(number)}")

    return refuse


def without_iptables_save(argv: tuple[str, ...], **more: object) -> Completed:
    if argv[0] == "iptables-save":
        raise MeasureFailed(what="the program iptables-save is not on this host")
    return _run(argv, **more)  # type: ignore[arg-type]


_run = process.run


@pytest.mark.parametrize(("host_routing", "encapsulation"), [(BPF, VXLAN), (LEGACY, NATIVE)])
def test_witnesses_that_cannot_be_read_say_so_and_a_right_lab_is_proven_by_the_others(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a BPF token, without nfnetlink's conntrack, without a tool: each by itself, then all together."""
    with running(host_as_found, host_routing, encapsulation) as open_lab:
        changes: tuple[tuple[str, str, object, str, Callable[..., object]], ...] = (
            ("helpers", "(EPERM)", bpf, "program_descriptor", refused(errno.EPERM)),
            ("conntrack", "(EOPNOTSUPP)", netfilter, "connections", refused(errno.EOPNOTSUPP)),
            ("netfilter", "iptables-save is not", process, "run", without_iptables_save),
        )
        for witness, said, module, name, instead in changes:
            monkeypatch.setattr(module, name, instead)
            mode = mode_of(open_lab)
            unread = [piece for piece in mode.evidence if piece.witness == witness]
            assert mode.proven, mode.reason
            assert {piece.silence for piece in unread} == {Silence.UNREAD}
            assert all("could not be read: " in piece.finding and said in piece.finding for piece in unread)
        found = trace(open_lab, open_lab.lab.pairs[-1])
        assert found.wrong is None
        assert any("what the programs did could not be read: bpf(PROG_GET_FD_BY_ID)" in note for note in found.notes)


def test_a_cut_wire_with_nothing_to_read_is_still_not_the_other_mode(
    host_as_found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(host_as_found, LEGACY, NATIVE) as open_lab:
        monkeypatch.setattr(bpf, "program_descriptor", refused(errno.EPERM))
        inside(open_lab.lab, UNDERLAY, "ip", "link", "set", "port2", "down")
        is_not_shown(open_lab, "underlay:port2 is down")
