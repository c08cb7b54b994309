"""How many captures behind doors end (`kubectl exec`, `docker exec`): by the doors that they came through, all at once,
and those that are left whatever becomes of one of them. Real processes behind a door that counts who passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from labctl.checks.captures import capturing
from labctl.engine.capture import Source, sources_of, streaming
from labctl.errors import MeasureFailed
from labctl.model.signature import Role
from labctl.providers.base import Tap, TargetKind
from labctl.providers.cilium.commands import HostCommands
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.testing import packets

TAPS = 4
TCPDUMP = """#!/bin/sh
trap 'printf "0 packets captured\\n0 packets received by filter\\n0 packets dropped by kernel\\n" >&2; exit 0' INT
echo $$ >> {folder}/tcpdumps
cat {folder}/header
echo "tcpdump: listening on eth0" >&2
while :; do sleep 0.05; done
"""
DOOR = """#!/bin/sh
echo opened >> {folder}/doors
PATH={folder}:$PATH exec "$@"
"""
LOST = """#!/bin/sh
echo opened >> {folder}/doors
exec 3>&1
PATH={folder}:$PATH "$@" 2>&1 >&3 | sed -u '/^labctl-times/,$d' >&2
echo "error: lost connection to pod" >&2
exit 1
"""


@dataclass(frozen=True)
class House:
    """`taps` are all behind the counting door; those of `lost` lose their connection as they end."""

    folder: Path

    def taps(self, lost: int = 0) -> list[Tap]:
        doors = ["lost"] * lost + ["door"] * (TAPS - lost)
        return [
            Tap(name=f"pod{number}:eth0", role=Role.CLIENT_ETH0, target=self._target(door, number), interface="eth0")
            for number, door in enumerate(doors)
        ]

    def sources(self, lost: int = 0) -> tuple[Source, ...]:
        return sources_of(self.taps(lost))

    def _target(self, door: str, number: int) -> DoorTarget:
        way = (str(self.folder / door),)
        return DoorTarget(
            name=f"pod{number}", kind=TargetKind.POD, door=Door(closed=way, open=way), commands=HostCommands("cluster")
        )

    @property
    def opened(self) -> int:
        return len((self.folder / "doors").read_text().split())

    def require_all_gone(self) -> None:
        numbers = (self.folder / "tcpdumps").read_text().split()
        assert len(numbers) == self.opened
        until_s = time.monotonic() + 60
        while left := [number for number in numbers if _runs(number)]:
            assert time.monotonic() < until_s, left
            time.sleep(0.05)


def _runs(number: str) -> bool:
    try:
        return "tcpdump" in Path("/proc", number, "cmdline").read_text()
    except OSError:
        return False


@pytest.fixture
def house(tmp_path: Path) -> House:
    for name, text in (("tcpdump", TCPDUMP), ("door", DOOR), ("lost", LOST)):
        (tmp_path / name).write_text(text.replace("{folder}", str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "header").write_bytes(packets.pcap_file([], nanoseconds=True))
    return House(tmp_path)


def test_captures_are_stopped_through_the_doors_that_they_came_by(house: House) -> None:
    with streaming(house.sources(), "icmp", snap_byte=96, immediate=True) as stream:
        ended, _ = stream.stop()
    assert [one.trouble for one in ended] == [""] * 2 * TAPS
    assert house.opened == 2 * TAPS
    house.require_all_gone()


def test_a_capture_that_is_lost_as_it_ends_takes_no_other_one_with_it(house: House) -> None:
    with streaming(house.sources(lost=1), "icmp", snap_byte=96, immediate=True) as stream:
        ended, _ = stream.stop()
    troubles = {one.source.tap.name: one.trouble for one in ended}
    assert "lost connection to pod" in troubles.pop("pod0:eth0")
    assert set(troubles.values()) == {""}
    assert house.opened == 2 * TAPS
    house.require_all_gone()


def _streamed(house: House) -> None:
    with streaming(house.sources(), "icmp", snap_byte=96, immediate=True):
        raise MeasureFailed(what="something else went wrong")


def _captured(house: House) -> None:
    with capturing(house.taps(), "icmp"):
        raise MeasureFailed(what="something else went wrong")


@pytest.mark.parametrize(("use", "count"), [(_streamed, 2 * TAPS), (_captured, TAPS)], ids=["stream", "check"])
def test_what_fails_beside_captures_leaves_none_of_them_and_opens_no_door(
    house: House, use: Callable[[House], None], count: int
) -> None:
    with pytest.raises(MeasureFailed, match="something else"):
        use(house)
    assert house.opened == count
    house.require_all_gone()
