"""What a kernel can do: one too old is refused by number, what it cannot show is tried, remedies fit the error."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import HostLacks, LabError, StepFailed
from labctl.model.result import Completed
from labctl.model.trace import Mover, Unshown
from labctl.providers.netns import kernel, probes
from labctl.providers.netns.kernel import TraceAbilities, parse_release, tells_connections, too_old
from labctl.providers.netns.netfilter_watch import movements_of
from labctl.providers.netns.probes import FEATURES, Rights, errno_of, in_a_line, kernel_probe, more_rights, remedy
from labctl.system import netns, process
from labctl.system.netfilter import TraceStep, parse_trace

RECORDED = Path(__file__).resolve().parents[3] / "fixtures" / "netns"
FILTERS = next(feature for feature in FEATURES if feature.name == "tc eBPF")
VETH = next(feature for feature in FEATURES if feature.name == "veth")
ROOT = Rights(user=0)


def caused(failure: LabError, number: int) -> LabError:
    failure.__cause__ = OSError(number, os.strerror(number))
    return failure


# ---- the kernel's number


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-50-amd64", (6, 1)),
        ("6.12.117+deb13-amd64", (6, 12)),
        ("5.4.0-216-generic", (5, 4)),
        ("4.18.0-553.el8_10.x86_64", (4, 18)),
        ("7.3-rc2", (7, 3)),
        ("mystery", None),
    ],
)
def test_the_version_is_the_first_two_numbers(release: str, version: tuple[int, int] | None) -> None:
    assert parse_release(release) == version


@pytest.mark.parametrize("release", ["5.4.0-216-generic", "4.18.0-553.el8_10.x86_64", "5.9.16", "3.10.0-1160.el7"])
def test_a_kernel_that_is_too_old_is_refused_by_its_number(release: str) -> None:
    said = too_old(release)
    number = ".".join(release.split(".")[:2])
    assert said.startswith(f"this kernel is {number}; labctl needs 5.10 or later (BPF ring buffers came with 5.8")
    probe = kernel_probe(release)
    assert (probe.present, probe.required, probe.found) == (False, True, said)
    assert probe.remedy == "boot Linux 5.10 or later"


@pytest.mark.parametrize("release", ["5.10.0-46-amd64", "5.15.0-1-generic", "6.1.0-50-amd64", "10.0.1", "mystery"])
def test_a_kernel_that_is_new_enough_or_has_no_number_is_not_refused(release: str) -> None:
    assert too_old(release) == ""
    assert kernel_probe(release).present


def test_up_refuses_an_old_kernel_with_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    from labctl.engine.build import require_host
    from labctl.providers.netns.provider import NetnsProvider

    monkeypatch.setattr(kernel, "release", lambda: "5.4.0-216-generic")
    with pytest.raises(HostLacks) as lacks:
        require_host(NetnsProvider())
    assert lacks.value.exit_code == 3
    assert "kernel: this kernel is 5.4; labctl needs 5.10 or later" in lacks.value.cause
    assert "boot Linux 5.10 or later" in lacks.value.remedy


# ---- what a trace can show


def recorded(name: str) -> tuple[TraceStep, ...]:
    return tuple(parse_trace((RECORDED / name).read_bytes()))


@pytest.mark.parametrize(("name", "told"), [("nftrace-try-6.18.bin", True), ("nftrace-try-6.1.bin", False)])
def test_whether_a_kernel_traces_connections_is_read_from_the_trace_of_one_datagram(name: str, told: bool) -> None:
    assert tells_connections(recorded(name)) is told


def test_a_trace_that_was_cut_short_says_nothing_of_the_kernel() -> None:
    steps = recorded("nftrace-try-6.1.bin")
    assert tells_connections(tuple(step for step in steps if step.chain != "last")) is None
    assert tells_connections(()) is None


@pytest.mark.parametrize(("name", "conntrack"), [("nftrace-node-6.18.bin", True), ("nftrace-node-6.1.bin", False)])
def test_a_node_traced_on_either_kernel_gives_the_same_netfilter_steps(name: str, conntrack: bool) -> None:
    found = list(movements_of(recorded(name), node="node1", device_names={}, rules={}))
    hooks = [one.what for one in found if one.mover is Mover.NETFILTER]
    assert hooks == ["PREROUTING", "FORWARD", "POSTROUTING"] * 2  # the request, then its reply
    assert any(one.mover is Mover.CONNTRACK for one in found) is conntrack


@pytest.mark.parametrize(
    ("told", "unshown"),
    [
        (True, ()),
        (False, (Unshown(mover=Mover.CONNTRACK, kernel="6.1.0-50-amd64", since="6.16"),)),
        (None, ()),
    ],
)
def test_only_what_was_tried_and_not_found_is_called_not_shown(told: bool | None, unshown: tuple[Unshown, ...]) -> None:
    abilities = TraceAbilities(tells_connections=told, owns_tables=True)
    assert abilities.unshown("6.1.0-50-amd64") == unshown


@pytest.mark.parametrize(
    ("attempt", "abilities", "since"),
    [
        (probes._try_connection_states, TraceAbilities(tells_connections=False, owns_tables=True), "6.16"),
        (probes._try_table_owners, TraceAbilities(tells_connections=True, owns_tables=False), "5.12"),
    ],
)
def test_doctor_names_the_version_that_has_what_this_kernel_lacks(
    attempt: Callable[[], None], abilities: TraceAbilities, since: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "trace_abilities", lambda: abilities)
    with pytest.raises(HostLacks) as lacks:
        attempt()
    assert f"Linux {since} and later have it" in lacks.value.cause
    assert remedy(VETH, lacks.value, ROOT) == f"boot Linux {since} or later"


# ---- remedies that fit the error

# libbpf 1.1.0, as it came: in a user namespace; on Linux 5.4; and with a helper that the kernel does not know.
FORBIDDEN = """\
libbpf: Failed to bump RLIMIT_MEMLOCK (err = -1), you might need to do it explicitly!
libbpf: Error in bpf_object__probe_loading():Operation not permitted(1). Couldn't load trivial BPF program. Make sure \
your kernel supports BPF (CONFIG_BPF_SYSCALL=y) and/or that RLIMIT_MEMLOCK is set to big enough value.
libbpf: failed to load object '/labctl/datapath/objects/bpf-native.o'"""


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
@pytest.mark.parametrize(
    ("rights", "words"),
    [
        (Rights(user=0, is_nested=True), ("sudo labctl doctor", "outside this user namespace")),
        (Rights(user=0, lacking=("CAP_SYS_ADMIN",)), ("docker run --privileged", "--cap-add SYS_ADMIN")),
        (Rights(user=0, is_filtered=True), ("seccomp=unconfined",)),
        (Rights(user=0), ("/sys/kernel/security/lockdown",)),
    ],
)
def test_what_is_forbidden_is_not_mended_by_a_module(number: int, rights: Rights, words: tuple[str, ...]) -> None:
    for feature in (FILTERS, VETH):
        for failure in (OSError(number, ""), caused(StepFailed("loading failed", FORBIDDEN), number)):
            said = remedy(feature, failure, rights)
            assert "modprobe" not in said
            for word in words:
                assert word in said


def test_before_5_11_maps_count_as_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "release", lambda: "5.10.0-46-amd64")
    assert more_rights(ROOT).startswith("ulimit -l unlimited")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.E2BIG, 524])
def test_programs_that_the_kernel_does_not_understand_need_a_newer_one(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "release", lambda: "5.4.0-216-generic")
    said = remedy(FILTERS, caused(StepFailed("loading failed", "libbpf: map 'events': failed"), number), ROOT)
    assert said.startswith("boot Linux 5.10 or later  # this is 5.4.0-216-generic; BPF ring buffers")
    assert "modprobe" not in said


def test_a_kernel_that_is_new_enough_and_does_not_understand_them_was_built_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "release", lambda: "6.1.0-50-amd64")
    said = remedy(FILTERS, caused(StepFailed("loading failed", "libbpf: map 'events': failed"), errno.EINVAL), ROOT)
    assert said.startswith("boot a kernel with CONFIG_BPF_SYSCALL")
    assert said.endswith("this is 6.1.0-50-amd64; Linux 5.10 can have them all")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS])
def test_a_kind_that_the_kernel_does_not_know_is_a_module_or_an_option(number: int) -> None:
    assert remedy(FILTERS, OSError(number, ""), ROOT).startswith("modprobe cls_bpf sch_ingress  # or a kernel with CON")
    assert remedy(VETH, OSError(number, ""), ROOT) == "modprobe veth  # or a kernel with CONFIG_VETH"


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOMEM, "free -m"), (errno.EMFILE, "ulimit -n"), (errno.ENFILE, "sysctl fs.file-nr")]
)
def test_what_there_is_no_room_for_is_not_mended_by_a_module(number: int, word: str) -> None:
    assert remedy(FILTERS, OSError(number, ""), ROOT).startswith(word)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        # iptables-restore 1.8.9, nf_tables and legacy
        ("iptables-restore v1.8.9 (nf_tables): Permission denied (you must be root)", errno.EPERM),
        ("iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'raw'", None),
        ("Warning: Extension CT revision 0 not supported, missing kernel module?", None),
        ("iptables-restore v1.8.9 (nf_tables): line 3: RULE_APPEND failed (Invalid argument): rule in chain PREROUTING",
         errno.EINVAL),
    ],
)  # fmt: skip
def test_a_tool_that_only_has_words_for_the_error_is_understood(said: str, number: int | None) -> None:
    assert errno_of(LabError("iptables-restore failed", said)) == number


def test_of_libbpfs_many_lines_the_one_that_says_something_is_shown() -> None:
    shown = in_a_line(caused(StepFailed("loading failed", FORBIDDEN), errno.EPERM))
    assert "\n" not in shown
    assert shown.startswith("libbpf: Error in bpf_object__probe_loading():Operation not permitted(1).")
    named = in_a_line(caused(StepFailed("loading failed", "libbpf: map 'events': failed to create"), errno.EINVAL))
    assert named == "Invalid argument: libbpf: map 'events': failed to create"


TRIED_BY_TOOLS = (
    "iptables",
    "iptables notrack",
    "nat and conntrack",
    "kube-proxy in iptables",
    "kube-proxy in nftables",
)
CUT_SHORT: dict[str, dict[str, Any]] = {
    "deadline": {"returncode": -9, "timed_out": True, "stderr": b""},
    "out of memory": {"returncode": -9, "stderr": b""},
    "crash": {"returncode": -11, "stderr": b"half a line"},
}


@pytest.mark.parametrize("end", CUT_SHORT)
def test_a_tool_that_was_killed_shows_nothing_of_the_kernel(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    def killed(argv: tuple[str, ...], **options: Any) -> Completed:
        return Completed(argv=argv, stdout=b"", duration_s=60.0, **CUT_SHORT[end])

    monkeypatch.setattr(netns, "throwaway", contextlib.nullcontext)
    monkeypatch.setattr(process, "run", killed)
    tried = [probes.tried_probe(feature, ROOT) for feature in FEATURES if feature.name in TRIED_BY_TOOLS]
    assert len(tried) == len(TRIED_BY_TOOLS)
    for probe in (*tried, probes._own_sys(), probes._own_processes()):
        assert not probe.is_looked_at  # and so nobody says that this host lacks it
        assert not probe.remedy
        ending = "did not end in time: killed after 60.0 s" if end == "deadline" else "was killed by signal"
        assert re.match(rf"could not be tried: \S+ {ending}", probe.found), probe.found


def test_a_tool_that_refuses_shows_what_the_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument\n"

    def refused(argv: tuple[str, ...], **options: Any) -> Completed:
        return Completed(argv=argv, returncode=3, stdout=b"", stderr=refusal, duration_s=0.1)

    monkeypatch.setattr(netns, "throwaway", contextlib.nullcontext)
    monkeypatch.setattr(process, "run", refused)
    probe = probes.tried_probe(next(feature for feature in FEATURES if feature.name == "iptables"), ROOT)
    assert (probe.present, probe.is_looked_at) == (False, True)
    assert probe.found == refusal.decode().strip()
    assert probe.remedy.startswith("modprobe nft_compat")


# ---- root that is none


def process_directory(folder: Path, *, capabilities: str, uid: int = 0, mapped: str = "0 0 4294967295") -> Path:
    (folder / "status").write_text(
        f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities}\nSeccomp:\t0\n"
    )
    (folder / "uid_map").write_text(f"         {mapped}\n")
    return folder


@pytest.mark.parametrize(
    ("capabilities", "namespace", "mapped", "name", "present", "found"),
    [
        ("000001ffffffffff", 0xEFFFFFFD, "0 0 4294967295", "root", True, "root"),
        ("000001ffffffffff", 4026532549, "0 1000 1", "rights of root", False,
         "root of a user namespace, user 1000 outside of it"),
        ("00000000a80425fb", 0xEFFFFFFD, "0 0 4294967295", "rights of root", False,
         "root without CAP_NET_ADMIN, CAP_SYS_ADMIN"),  # what docker gives a container
        ("000001ffffdfffff", 0xEFFFFFFD, "0 0 4294967295", "rights of root", False, "root without CAP_SYS_ADMIN"),
    ],
)  # fmt: skip
def test_root_is_what_it_may_do_in_the_first_user_namespace(
    tmp_path: Path, capabilities: str, namespace: int, mapped: str, name: str, present: bool, found: str
) -> None:
    folder = process_directory(tmp_path, capabilities=capabilities, mapped=mapped)
    rights = probes.read_rights(folder, user_namespace=namespace)
    probe = probes.rights_probe(rights, may_load=False)
    assert (probe.name, probe.present, probe.found) == (name, present, found)
    assert bool(probe.remedy) is not present


def test_a_token_makes_up_for_the_first_user_namespace() -> None:
    rights = Rights(user=0, is_nested=True, outside=1000)
    assert probes.rights_probe(rights, may_load=True).present
    assert not probes.rights_probe(rights, may_load=False).present


def test_who_is_no_root_needs_sudo(tmp_path: Path) -> None:
    folder = process_directory(tmp_path, capabilities="0000000000000000", uid=1000)
    probe = probes.rights_probe(probes.read_rights(folder, user_namespace=0xEFFFFFFD), may_load=False)
    assert (probe.name, probe.found, probe.remedy) == ("root", "user 1000", "sudo labctl doctor")
