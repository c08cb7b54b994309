"""`labctl snapshot` on the command line: what is refused before anything is built, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.conftest import Bench
from labctl.errors import LabError
from labctl.model.changes import Changes
from labctl.model.drift import Change, Difference, Drift
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.providers.base import Capabilities, Compared
from labctl.providers.netns.kept import NetnsKeeping

EXTRA = Difference(change=Change.EXTRA, part="client", kind="address", name="address 10.9.9.9 dev eth0")


class Changing:
    """Links that are down in every lab."""

    def changes(self, lab: Lab) -> Changes:
        return Changes(links_down=("node1",))

    def settle(self, lab: Lab) -> tuple[str, ...]:
        return ()

    def restore(self, lab: Lab, changes: Changes) -> tuple[tuple[str, LabError], ...]:
        return ()


@dataclass
class Drifting:
    """What every lab has that its plan has not."""

    found: tuple[Difference, ...] = ()

    def compared(self, lab: Lab, **_: object) -> Compared:
        drift = Drift(lab=lab.name, provider="netns", differences=self.found)
        return Compared(drift=drift, plan=Plan(lab=lab.name, provider="netns", steps=()))

    def cut_off(self, name: str) -> None:
        return None

    def recorded(self, name: str) -> None:
        return None


class Keeping(NetnsKeeping):
    def extra_addresses(self, lab: Lab) -> tuple[()]:
        return ()


@pytest.fixture
def drifting(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drifting:
    made = Drifting()
    bench.provider.capabilities = Capabilities(keeping=Keeping(), changing=Changing(), drifting=made)  # type: ignore[arg-type]
    monkeypatch.setenv("LABCTL_SNAPSHOTS_DIR", str(tmp_path / "snapshots"))
    bench.is_up("mine")
    return made


def saved(bench: Bench) -> Path:
    return Path(bench.run("snapshot", "save", "mine", "--json").document["file"])


def test_it_is_saved_listed_and_loaded_under_another_name(bench: Bench, drifting: Drifting) -> None:
    path = saved(bench)
    said = bench.run("snapshot", "list")
    assert said.code == 0
    assert said.out.splitlines()[1].split() == [path.name, "mine", "bpf", "1"]
    (one,) = bench.run("snapshot", "list", "--json").document["snapshots"]
    assert (one["path"], one["lab"], one["changed"]) == (str(path), "mine", ["link node1 is down"])
    loaded = bench.run("snapshot", "load", path.name, "--name", "copy", "--json")
    assert loaded.code == 0, loaded.err
    document = loaded.document
    assert (document["lab"], document["of"], document["onlyHere"], document["onlyThere"]) == ("copy", "mine", [], [])
    assert NetnsKeeping().kept("copy")[0].lab is not None
    assert bench.run("snapshot", "load", path.name, "--name", "third").out.splitlines()[-2:] == [
        "changed as it was: link node1 is down",
        "it is as the lab that was saved",
    ]


def test_what_did_not_come_along_is_named(bench: Bench, drifting: Drifting) -> None:
    drifting.found = (EXTRA,)
    path = saved(bench)
    drifting.found = ()
    said = bench.run("snapshot", "load", str(path), "--name", "copy")
    assert said.code == 4
    assert said.out.splitlines()[-2:] == [
        "lab copy differs from the snapshot in 1 place:",
        "only in the snapshot: client: address 10.9.9.9 dev eth0 is not in the plan",
    ]
    assert bench.run("diff", "mine", "--snapshot", str(path)).code == 1


def test_two_labs_are_compared_with_each_other(bench: Bench, drifting: Drifting) -> None:
    bench.is_up("yours")
    drifting.found = (EXTRA,)
    said = bench.run("diff", "mine", "--lab", "yours")
    assert (said.code, said.out) == (0, "lab mine is as lab yours is\n")
    document = bench.run("diff", "mine", "--lab", "yours", "--json").document
    assert (document["kind"], document["comparedWith"]) == ("LabsApart", "yours")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("save",), "save needs a LAB"),
        (("load",), "load needs a FILE"),
        (("list", "mine"), "list takes no argument"),
        (("load", "x", "-o", "y"), "-o is for save"),
        (("save", "mine", "--name", "y"), "--name is for load"),
        (("load", "nowhere"), "cannot be read"),
        (("save", "yours"), "no lab named 'yours' is up"),
    ],
)
def test_what_makes_no_sense_is_refused(bench: Bench, drifting: Drifting, args: tuple[str, ...], why: str) -> None:
    said = bench.run("snapshot", *args)
    assert said.code == 2
    assert why in said.err.splitlines()[0]


def test_a_name_that_is_taken_or_none_is_refused_before_anything_is_built(bench: Bench, drifting: Drifting) -> None:
    path = saved(bench)
    bench.provider.log.clear()
    taken = bench.run("snapshot", "load", str(path))
    assert (taken.code, "a lab named mine is there already" in taken.err) == (2, True)
    assert bench.run("snapshot", "load", str(path), "--name", "../../etc").code == 2
    assert bench.provider.log == []


def test_diff_compares_with_one_thing(bench: Bench, drifting: Drifting) -> None:
    assert bench.run("diff", "mine", "bpf", "--lab", "yours").code == 2


def test_labs_of_other_providers_are_not_saved(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("snapshot", "save", "mine")
    assert said.code == 2
    assert "snapshots are of labs of the provider netns" in said.err


def test_of_none_it_says_how_to_make_one(bench: Bench, drifting: Drifting) -> None:
    assert "Make one: labctl snapshot save LAB" in bench.run("snapshot", "list").out
