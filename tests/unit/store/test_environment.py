"""The fingerprint of a machine, and how busy it is: pressure, steal, and what is the neighbours' of it.

Read from small recorded trees and from version lines as tools print them.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from labctl.engine.comparison.measure import noise_meter
from labctl.store.environment import (
    CpuTicks,
    Pressure,
    fingerprint,
    own_cpu_s,
    read_environment,
    read_pressure,
    read_versions,
    ticks_per_s,
)

# First lines as printed on Debian 12.
SAID = {
    "ip": "ip utility, iproute2-6.1.0, libbpf 1.1.2\n",
    "ping": "ping from iputils 20221126\nlibcap: yes, IDN: yes, NLS: no\n",
    "iperf3": "iperf 3.12 (cJSON 1.7.15)\nLinux vm 6.18.44 #1 SMP\n",
    "sockperf": "sockperf, version 3.7-no.git\n   compiled 2021-08-23 12:14:23\n",
    "tcpdump": "tcpdump version 4.99.3\nlibpcap version 1.10.3 (with TPACKET_V3)\n",
    "iptables": "iptables v1.8.9 (nf_tables)\n",
    "conntrack": "conntrack v1.4.7 (conntrack-tools)\n",
}


def said(argv: Sequence[str]) -> str:
    return SAID.get(argv[0], "")


def put(root: Path, name: str, data: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    put(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-9-amd64\n")
    put(tmp_path, "proc/config.gz", gzip.compress(b"CONFIG_VXLAN=y\n"))
    cpu = "processor\t: {}\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu hypervisor sse\n\n"
    put(tmp_path, "proc/cpuinfo", cpu.format(0) + cpu.format(1))
    put(tmp_path, "proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n")
    put(tmp_path, "proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    put(tmp_path, "sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    put(tmp_path, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    put(tmp_path, "proc/pressure/cpu", "some avg10=0.00 avg60=1.00 avg300=0.00 total=5000000\nfull avg10=0 total=1\n")
    put(tmp_path, "proc/stat", "cpu  100 0 50 800 10 0 20 20 5 0\ncpu0 100 0 50 800 10 0 20 20 5 0\nintr 5\n")
    return tmp_path


def test_the_fingerprint_holds_kernel_machine_tools_and_settings(machine: Path) -> None:
    found = fingerprint(said, machine)
    assert (found.kernel, found.cpu_model, found.cpus) == ("6.1.0-9-amd64", "Some CPU @ 2.00GHz", 2)
    assert found.memory_byte == 8_000_000 * 1024
    assert found.sysctls == {"net.ipv4.tcp_rmem": "4096 131072 6291456"}
    assert found.settings == {
        "kernelConfigSha256": hashlib.sha256(b"CONFIG_VXLAN=y\n").hexdigest(),
        "governor": "performance",
        "hypervisor": "yes",
        "distribution": "Debian GNU/Linux 12 (bookworm)",
        "mitigation.spectre_v2": "Mitigation: Retpolines",
    }


def test_versions_are_read_from_what_the_tools_print() -> None:
    assert read_versions(said) == {
        "iproute2": "6.1.0",
        "libbpf": "1.1.2",
        "ping": "20221126",
        "iperf3": "3.12",
        "sockperf": "3.7-no.git",
        "tcpdump": "4.99.3",
        "libpcap": "1.10.3",
        "iptables": "1.8.9 (nf_tables)",
        "conntrack": "1.4.7",
    }


def test_tools_that_are_not_there_or_say_nonsense_are_left_out() -> None:
    assert read_versions(lambda argv: "") == {}
    assert read_versions(lambda argv: "usage: no version here\n") == {}


def test_each_program_is_asked_once() -> None:
    asked: list[tuple[str, ...]] = []

    def ask(argv: Sequence[str]) -> str:
        asked.append(tuple(argv))
        return said(argv)

    read_versions(ask)
    assert len(asked) == len(set(asked)) == len(SAID)


def test_an_empty_machine_is_recorded_as_unknown_and_not_guessed(tmp_path: Path) -> None:
    found = read_environment(tmp_path)
    assert (found.kernel, found.cpu_model, found.cpus, found.memory_byte) == ("unknown", "unknown", 0, 0)
    assert found.sysctls == found.settings == {}


def test_the_kernel_config_is_read_from_boot_where_the_kernel_does_not_show_it(machine: Path) -> None:
    (machine / "proc/config.gz").unlink()
    put(machine, "boot/config-6.1.0-9-amd64", "CONFIG_VXLAN=m\n")
    assert read_environment(machine).settings["kernelConfigSha256"] == hashlib.sha256(b"CONFIG_VXLAN=m\n").hexdigest()


def test_a_broken_kernel_config_is_left_out(machine: Path) -> None:
    put(machine, "proc/config.gz", b"not gzip")
    assert "kernelConfigSha256" not in read_environment(machine).settings


def test_an_arm_machine_is_named_by_its_part_numbers(machine: Path) -> None:
    put(machine, "proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert read_environment(machine).cpu_model == "CPU implementer 0x41 CPU part 0xd0c"


def test_this_machine_can_be_read() -> None:
    found = read_environment()
    assert found.kernel != "unknown"
    assert found.cpus >= 1
    assert found.memory_byte > 0


STAT = "{} (ksoftirqd/{}) S 2 0 0 0 -1 69238848 0 0 0 0 {} {} 0 0 20 0 1 0 13 0 0\n"


@pytest.fixture
def busy_machine(tmp_path: Path) -> Path:
    put(tmp_path, "proc/pressure/cpu", "some avg10=0.00 avg60=1.00 avg300=0.00 total=5000000\nfull avg10=0 total=1\n")
    put(tmp_path, "proc/stat", "cpu  100 0 50 800 10 0 20 20 5 0\ncpu0 100 0 50 800 10 0 20 20 5 0\nintr 5\n")
    put(tmp_path, "proc/14/comm", "ksoftirqd/0\n")
    put(tmp_path, "proc/14/stat", STAT.format(14, 0, 1, 4))
    put(tmp_path, "proc/15/comm", "a (strange) name\n")
    put(tmp_path, "proc/15/stat", "15 (a (strange) name) S 2 0 0 0 -1 6 0 0 0 0 900 900 0 0 20 0 1 0 13 0 0\n")
    return tmp_path


def test_pressure_and_steal_are_shares_of_the_time_between_two_readings(busy_machine: Path) -> None:
    earlier = read_pressure(10.0, root=busy_machine)
    ticks = CpuTicks(tasks=150, ksoftirqd=5, steal=20, total=1000)
    assert earlier == Pressure(at_s=10.0, cpu_some_us=5_000_000, ticks=ticks)
    put(busy_machine, "proc/pressure/cpu", "some avg10=0.00 avg60=1.00 avg300=0.00 total=5500000\n")
    put(busy_machine, "proc/stat", "cpu  150 0 50 810 10 0 20 40 5 0\n")
    later = read_pressure(12.0, root=busy_machine)
    assert later.cpu_pressure_share(earlier) == pytest.approx(0.25)
    assert later.steal_share(earlier) == pytest.approx(20 / 80)


def test_neighbours_are_what_neither_we_nor_the_packet_threads_used(busy_machine: Path) -> None:
    earlier = read_pressure(10.0, own_s=1.0, root=busy_machine)
    put(busy_machine, "proc/stat", "cpu  150 10 90 900 10 0 40 20 5 0\n")
    put(busy_machine, "proc/14/stat", STAT.format(14, 0, 1, 14))
    later = read_pressure(12.0, own_s=1.3, root=busy_machine)
    # 100 more ticks of tasks in 220 of all: 30 were ours (0.3 s), 10 were ksoftirqd's.
    assert later.neighbours_share(earlier, 100) == pytest.approx(60 / 220)


def test_neighbours_are_never_less_than_nothing(busy_machine: Path) -> None:
    earlier = read_pressure(10.0, own_s=1.0, root=busy_machine)
    put(busy_machine, "proc/stat", "cpu  110 0 50 890 10 0 20 20 5 0\n")
    assert read_pressure(12.0, own_s=9.0, root=busy_machine).neighbours_share(earlier, 100) == 0.0


def test_neighbours_are_unknown_where_our_own_part_is(busy_machine: Path) -> None:
    """A provider whose tools run in containers or on other machines has no part that could be subtracted."""
    put(busy_machine, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2000000\n")
    put(busy_machine, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "3000000\n")
    now = read_pressure(10.0, root=busy_machine)
    assert now.neighbours_share(read_pressure(9.0, root=busy_machine), 100) is None
    assert now.frequency_hz == 2.5e9


def test_shares_are_unknown_where_the_kernel_does_not_tell_or_no_time_went_by(
    busy_machine: Path, tmp_path: Path
) -> None:
    now = read_pressure(10.0, own_s=1.0, root=busy_machine)
    silent = read_pressure(9.0, own_s=1.0, root=tmp_path / "nowhere")
    assert silent == Pressure(at_s=9.0, cpu_some_us=None, ticks=None, own_s=1.0)
    for earlier in (silent, now):
        assert now.cpu_pressure_share(earlier) is now.steal_share(earlier) is None
        assert now.neighbours_share(earlier, 100) is None


def test_our_children_are_ours_once_they_have_ended() -> None:
    before = own_cpu_s()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert own_cpu_s() - before > 0.1


def test_this_machine_tells_shares_between_nothing_and_everything() -> None:
    since_last = noise_meter(knows_own=True)
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    found = since_last(3)
    assert found.block == 3
    for share in (found.cpu_pressure_share, found.steal_share, found.neighbours_share):
        assert share is None or 0 <= share <= 1.5
    assert noise_meter(knows_own=False)(1).neighbours_share is None
    assert ticks_per_s() >= 1
