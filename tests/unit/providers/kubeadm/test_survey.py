"""What the machines' clocks are taken for: who is compared with whom, slow machines, and how a gap is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import MeasureFailed, StepFailed
from labctl.providers.base import ClockOffset, Completed
from labctl.providers.kubeadm import survey
from labctl.providers.kubeadm.machines import machines_of
from labctl.providers.kubeadm.preflight import judge_survey
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh import MachineCommands
from labctl.providers.kubeadm.survey import (
    ClockExchange,
    are_apart,
    in_words,
    look_at,
    measure,
    offset_of,
    parse_survey,
    parse_time,
)

SURVEY = """uid=0
kernel=6.1.0-18-amd64
family= debian
systemd=yes
python=yes
kubeadm=v1.20.2
kubelet=Kubernetes v1.20.2
containerd=containerd github.com/containerd/containerd 1.6.20
"""


def told(tmp_path: Path, *offsets_s: float) -> dict[str, str]:
    """What is said of the clocks of machines that are so far from this host's."""
    settings = read_settings(make_lab(hosts=THREE_HOSTS, kubeadm={"offline": True}), tmp_path)
    seen = [
        parse_survey(machine.node, SURVEY, ClockOffset(node=machine.node, offset_s=offset_s, error_s=0.2))
        for machine, offset_s in zip(settings.machines, offsets_s, strict=True)
    ]
    return {one.node: f"{one.cause}\n{one.remedy}" for one in judge_survey(settings, seen)}


def test_the_machine_whose_clock_is_off_is_named_with_the_gap_and_with_what_helps_offline(tmp_path: Path) -> None:
    said = told(tmp_path, 0.0, -3600.0, 0.3)
    assert list(said) == ["node2"]
    assert "the clock of node2 is 1 h 0 min behind, ± 200.0 ms" in said["node2"]
    assert 'sudo date --set="@$(date +%s)"' in said["node2"]


def test_machines_that_are_wrong_together_are_no_obstacle(tmp_path: Path) -> None:
    """Nobody but the machines reads the certificates: a laptop or a site without a time server may be off."""
    assert told(tmp_path, -256.0, -258.0, -257.0) == {}


def test_a_gap_that_the_measurement_may_have_made_is_not_taken_for_one() -> None:
    clocks = [
        ClockOffset(node="node1", offset_s=0.0, error_s=2.0),
        ClockOffset(node="node2", offset_s=6.0, error_s=2.0),
    ]
    assert not are_apart(clocks, 5.0)
    assert are_apart(clocks, 1.5)
    assert not are_apart([], 5.0)


@pytest.mark.parametrize(
    ("offset_s", "words"),
    [
        (0.5, "node1 is 500.0 ms ahead, ± 1.0 ms"),
        (-255.722, "node1 is 4 min 16 s behind, ± 1.0 ms"),
        (12.34, "node1 is 12.3 s ahead, ± 1.0 ms"),
        (86400.0, "node1 is 24 h 0 min ahead, ± 1.0 ms"),
    ],
)
def test_a_gap_is_given_in_a_unit_that_people_use(offset_s: float, words: str) -> None:
    assert in_words(ClockOffset(node="node1", offset_s=offset_s, error_s=0.001)) == words


def test_the_shortest_round_trip_decides_the_offset() -> None:
    slow = ClockExchange(sent_s=100.0, answered_s=101.0, said_s=100.9)
    fast = ClockExchange(sent_s=200.0, answered_s=200.002, said_s=200.501)
    offset = offset_of("node1", [slow, fast])
    assert offset.offset_s == pytest.approx(0.5)
    assert offset.error_s == pytest.approx(0.001)


def test_a_time_that_is_no_number_is_an_error_with_machine_and_remedy() -> None:
    assert parse_time("node2", "1700000000.123456789\n") == pytest.approx(1700000000.123456789)
    with pytest.raises(MeasureFailed, match="the time of node2 is not a number") as refused:
        parse_time("node2", "date: bad")
    assert "date: bad" in refused.value.cause
    assert refused.value.remedy


class Slow(MachineCommands):
    """A machine that lets one in, and ends nothing in time."""

    def __init__(self) -> None:
        super().__init__(machines_of(make_lab(hosts=THREE_HOSTS))[1])
        self.asked = 0

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self.asked += 1
        return Completed(
            argv=tuple(argv), returncode=-9, stdout=b"uid=0\n", stderr=b"", duration_s=timeout_s, timed_out=True
        )


def test_a_machine_that_is_too_slow_to_report_its_time_is_named_after_one_question() -> None:
    slow = Slow()
    with pytest.raises(MeasureFailed, match="node2 did not report its time within") as refused:
        measure("node2", slow)
    assert slow.asked == 1
    assert refused.value.remedy.endswith("uptime")


def test_a_machine_that_is_too_slow_to_be_looked_at_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(StepFailed, match=r"did not report within .* what is installed") as refused:
        look_at(Slow())
    assert "uptime" in refused.value.remedy


def test_a_slow_machine_is_not_asked_for_its_time_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sluggish(Slow):
        def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
            self.asked += 1
            return Completed(
                argv=tuple(argv), returncode=0, stdout=b"1700000000.5\n", stderr=b"", duration_s=1.0, timed_out=False
            )

    brisk, sluggish = Sluggish(), Sluggish()
    measure("node2", brisk)
    monkeypatch.setattr(survey, "_ENOUGH_S", -1.0)
    measure("node2", sluggish)
    assert (brisk.asked, sluggish.asked) == (5, 1)
