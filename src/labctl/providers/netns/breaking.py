"""Carries out what puts a fault into a running lab and what heals it: commands, entries of maps, an XDP program.

It stands alone because only `labctl break` and `labctl mend` load it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.datapath import bpf
from labctl.errors import LabError, StepFailed
from labctl.model.fault import Command, FaultAct, MapEntry, XdpProgram
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.planning.shell import quoted
from labctl.providers.netns.kinds.delay import is_own
from labctl.providers.netns.watch import node_maps
from labctl.system import link_state, netns, process
from labctl.system.netlink import Socket
from labctl.system.rtnetlink import one_link

_TIMEOUT_S = 30.0
_DROP_ALL = bytes.fromhex("b7000000010000009500000000000000")
"""r0 = 1 (XDP_DROP); exit."""


def carry_out(lab: Lab, acts: Sequence[FaultAct]) -> None:
    """One after the other. Raises StepFailed, MeasureFailed."""
    for act in acts:
        namespace = namespace_of(lab.name, act.part)
        match act:
            case Command():
                _run(namespace, act)
            case MapEntry():
                _write(namespace, act)
            case XdpProgram():
                _set_xdp(namespace, act)


@contextlib.contextmanager
def mended_on_failure(lab: Lab, mends: Sequence[FaultAct]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(LabError):  # what failed first is what is reported
            carry_out(lab, mends)
        raise


def _run(namespace: str, act: Command) -> None:
    done = process.run(act.argv, timeout_s=_TIMEOUT_S, namespace=netns.path_of(namespace))
    if (done.returncode or done.timed_out) and not act.may_fail:
        raise StepFailed(
            what=f"a command failed in {namespace}: {act.argv[0]}",
            cause=done.error_text.strip()[-500:] or f"it ended with status {done.returncode}",
            remedy=quoted(netns.command(namespace, act.argv)),
        )


def _write(namespace: str, act: MapEntry) -> None:
    try:
        with node_maps(namespace, act.map) as descriptors:
            for descriptor in descriptors:
                bpf.update(descriptor, ((act.key, act.value),))
    except OSError as refused:
        raise StepFailed(
            what=f"the map {act.map} of {act.part} cannot be written",
            cause=str(refused),
            remedy=quoted(netns.command(namespace, ("bpftool", "map"))),
        ) from refused


def _set_xdp(namespace: str, act: XdpProgram) -> None:
    program = None
    try:
        with netns.entered(Path(netns.path_of(namespace))), Socket() as channel:
            ids = [link_state.parse_state(body).xdp_id for body in channel.ask(one_link(act.index))]
            there = [number for number in ids if number and not is_own(number)]
            if act.is_there:
                program = bpf.load_program(bpf.XDP, _DROP_ALL, "drop")
            elif not there:
                return
            channel.send([link_state.xdp_set(act.index, program)])
    except OSError as refused:
        raise StepFailed(
            what=f"the XDP program of {act.part}:{act.device} cannot be changed",
            cause=str(refused),
            remedy=f"ip -n {namespace} link set dev {act.device} xdpgeneric off",
        ) from refused
    finally:
        if program is not None:
            bpf.close_all((program,))
