"""Which capabilities a pod's and a node's programs keep, and how setpriv is asked to drop the others."""

from __future__ import annotations

import pytest

from labctl.system.powers import Capability, Powers, argv_limit, lost

ALL = range(41)
SYS_MODULE, SYS_RAWIO, SYS_CHROOT, SYS_PTRACE, SYS_BOOT, SYS_TIME, MKNOD, DAC_READ_SEARCH = (
    16,
    17,
    18,
    19,
    22,
    25,
    27,
    2,
)


@pytest.mark.parametrize("powers", Powers)
def test_no_process_in_a_lab_keeps_what_acts_on_the_host(powers: Powers) -> None:
    gone = lost(powers.kept, ALL)
    for number in (SYS_MODULE, SYS_RAWIO, SYS_CHROOT, SYS_PTRACE, SYS_BOOT, SYS_TIME, MKNOD, DAC_READ_SEARCH):
        assert number in gone


def test_a_pod_keeps_the_network_and_a_node_also_bpf() -> None:
    network = {Capability.NET_ADMIN, Capability.NET_RAW, Capability.NET_BIND_SERVICE}
    assert network <= Powers.POD.kept < Powers.NODE.kept
    assert {Capability.BPF, Capability.PERFMON} <= Powers.NODE.kept - Powers.POD.kept
    assert Capability.SYS_ADMIN not in Powers.POD.kept


def test_setpriv_is_asked_by_number_for_what_there_is_to_drop_and_nothing_else() -> None:
    nothing_passed_on = ("--inh-caps", "-all", "--ambient-caps", "-all")
    assert argv_limit(Powers.POD, (12, 13, 16, 21)) == (*nothing_passed_on, "--bounding-set", "-cap_16,-cap_21")
    assert argv_limit(Powers.NODE, (12, 21, 45)) == (*nothing_passed_on, "--bounding-set", "-cap_45")
    assert argv_limit(Powers.NODE, (12, 21)) == nothing_passed_on
