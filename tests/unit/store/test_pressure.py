"""How busy a machine is, read from a small recorded tree: pressure, steal, and what is the neighbours' of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labctl.engine.comparison.measure import noise_meter
from labctl.store.environment import CpuTicks, Pressure, own_cpu_s, read_pressure, ticks_per_s

STAT = "{} (ksoftirqd/{}) S 2 0 0 0 -1 69238848 0 0 0 0 {} {} 0 0 20 0 1 0 13 0 0\n"


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    put(tmp_path, "proc/pressure/cpu", "some avg10=0.00 avg60=1.00 avg300=0.00 total=5000000\nfull avg10=0 total=1\n")
    put(tmp_path, "proc/stat", "cpu  100 0 50 800 10 0 20 20 5 0\ncpu0 100 0 50 800 10 0 20 20 5 0\nintr 5\n")
    put(tmp_path, "proc/14/comm", "ksoftirqd/0\n")
    put(tmp_path, "proc/14/stat", STAT.format(14, 0, 1, 4))
    put(tmp_path, "proc/15/comm", "a (strange) name\n")
    put(tmp_path, "proc/15/stat", "15 (a (strange) name) S 2 0 0 0 -1 6 0 0 0 0 900 900 0 0 20 0 1 0 13 0 0\n")
    return tmp_path


def test_pressure_and_steal_are_shares_of_the_time_between_two_readings(machine: Path) -> None:
    earlier = read_pressure(10.0, root=machine)
    ticks = CpuTicks(tasks=150, ksoftirqd=5, steal=20, total=1000)
    assert earlier == Pressure(at_s=10.0, cpu_some_us=5_000_000, ticks=ticks)
    put(machine, "proc/pressure/cpu", "some avg10=0.00 avg60=1.00 avg300=0.00 total=5500000\n")
    put(machine, "proc/stat", "cpu  150 0 50 810 10 0 20 40 5 0\n")
    later = read_pressure(12.0, root=machine)
    assert later.cpu_pressure_share(earlier) == pytest.approx(0.25)
    assert later.steal_share(earlier) == pytest.approx(20 / 80)


def test_neighbours_are_what_neither_we_nor_the_packet_threads_used(machine: Path) -> None:
    earlier = read_pressure(10.0, own_s=1.0, root=machine)
    put(machine, "proc/stat", "cpu  150 10 90 900 10 0 40 20 5 0\n")
    put(machine, "proc/14/stat", STAT.format(14, 0, 1, 14))
    later = read_pressure(12.0, own_s=1.3, root=machine)
    # 100 more ticks of tasks in 220 of all: 30 were ours (0.3 s), 10 were ksoftirqd's.
    assert later.neighbours_share(earlier, 100) == pytest.approx(60 / 220)


def test_neighbours_are_never_less_than_nothing(machine: Path) -> None:
    earlier = read_pressure(10.0, own_s=1.0, root=machine)
    put(machine, "proc/stat", "cpu  110 0 50 890 10 0 20 20 5 0\n")
    assert read_pressure(12.0, own_s=9.0, root=machine).neighbours_share(earlier, 100) == 0.0


def test_neighbours_are_unknown_where_our_own_part_is(machine: Path) -> None:
    """A provider whose tools run in containers or on other machines has no part that could be subtracted."""
    put(machine, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2000000\n")
    put(machine, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "3000000\n")
    now = read_pressure(10.0, root=machine)
    assert now.neighbours_share(read_pressure(9.0, root=machine), 100) is None
    assert now.frequency_hz == 2.5e9


def test_shares_are_unknown_where_the_kernel_does_not_tell_or_no_time_went_by(machine: Path, tmp_path: Path) -> None:
    now = read_pressure(10.0, own_s=1.0, root=machine)
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
