"""`images`, `bundle` and `up --bundle`, and what `up` says of the mode in force where others were asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.model.evidence import Evidence
from labctl.model.lab import Lab
from labctl.model.result import Verdict
from labctl.providers.base import Capabilities, Part
from labctl.testing.provider import ScriptedProvider, running_lab
from labctl.testing.scripted import ScriptedLab, ScriptedTarget

from .conftest import Bench

PARTS = (
    Part(role="node", reference="local/node:v1.20.2", digest="sha256:" + "1" * 64),
    Part(role="agent", reference="local/cilium:v1.13.12", digest=""),
)
FALLBACK = Evidence(
    witness="agent-status",
    where="node1",
    finding="the agent (1.13.12) says hostRouting legacy (asked bpf): endpoint routes are on",
    supports=False,
    found={"hostRouting": "legacy"},
    remedy="cilium.values: {endpointRoutes: {enabled: false}}",
)


@dataclass(slots=True, kw_only=True)
class PackingProvider(ScriptedProvider):
    """Real Cilium's ways, scripted: made from images, proven when built."""

    built: list[Lab] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(is_proven_when_built=True, packing=self)

    def images(self, lab: Lab) -> tuple[Part, ...]:
        return PARTS

    def pack(self, lab: Lab, output: Path) -> tuple[Part, ...]:
        output.write_bytes(b"x" * 2_000_000)
        return PARTS

    def unpack(self, path: Path) -> Mapping[str, Mapping[str, object]]:
        if path.read_bytes() != b"good":
            raise UsageError(what=f"{path} is not a complete bundle")
        return {"cilium": {"version": "1.13.12", "imageRepository": None}, "kindCluster": {"pull": False}}

    def finish(self, lab: Lab) -> None:
        ScriptedProvider.finish(self, lab)
        self.built.append(lab)


@pytest.fixture
def packing(bench: Bench) -> PackingProvider:
    from labctl.cli.options import load_lab

    provider = PackingProvider(name="netns")
    bench.provider = provider
    bench.opens(load_lab("bpf", provider=None, name=None, overrides=()))
    return provider


def opens(provider: PackingProvider, *evidence: Evidence) -> None:
    assert isinstance(provider.open_lab, ScriptedLab)
    lab = provider.open_lab.lab
    provider.open_lab = ScriptedLab(lab, [ScriptedTarget(pod.name) for pod in lab.pods], evidence=evidence)


def test_the_providers_with_images_are_those_that_offer_to_pack_them() -> None:
    from labctl import app

    offers = {name: app.provider(name).capabilities.packing is not None for name in app.PROVIDERS}
    assert (offers["netns"], offers["kind"], offers["kubeadm"]) == (False, True, True)


def test_images_lists_every_part_with_its_digest(bench: Bench, packing: PackingProvider) -> None:
    said = bench.run("images", "bpf")
    assert said.code == 0
    assert "local/cilium:v1.13.12" in said.out
    assert "not on this host" in said.out
    document = bench.run("images", "bpf", "--json").document
    assert document["kind"] == "Images"
    assert document["parts"][1] == {"role": "agent", "reference": "local/cilium:v1.13.12", "digest": None}


def test_images_says_who_lists_what_the_scenario_does_not(
    bench: Bench, packing: PackingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tuple(
        Part(role=role, reference=f"r/{role}:1", digest="", source="kubeadm on m") for role in ("etcd", "pause")
    )
    monkeypatch.setattr(PackingProvider, "images", lambda *_: (*PARTS, *listed))
    assert bench.run("images", "bpf").out.splitlines()[-1] == "etcd, pause: by kubeadm on m"
    assert bench.run("images", "bpf", "--json").document["parts"][-1]["source"] == "kubeadm on m"


def test_a_provider_without_images_says_that_it_needs_none(bench: Bench) -> None:
    said = bench.run("images", "bpf")
    assert (said.code, said.out.splitlines()[0]) == (0, "the provider netns needs no images: Nothing is built.")
    assert bench.run("images", "bpf", "--json").document["parts"] == []


def test_a_bundle_of_a_lab_without_images_is_a_usage_error_that_names_the_other_provider(
    bench: Bench, tmp_path: Path
) -> None:
    said = bench.run("bundle", "bpf", "-o", str(tmp_path / "b"))
    assert (said.code, said.out) == (2, "")
    assert "labs of the provider netns have no images" in said.err
    assert "--provider kind" in said.err


def test_a_bundle_is_written_and_said_with_its_size(bench: Bench, packing: PackingProvider, tmp_path: Path) -> None:
    said = bench.run("bundle", "bpf", "-o", str(tmp_path / "b.tar"))
    assert said.code == 0
    assert said.out.splitlines()[0].endswith("b.tar: 2 parts, 2.00 MB")
    document = bench.run("bundle", "bpf", "-o", str(tmp_path / "c.tar"), "--json").document
    assert (document["kind"], document["sizeByte"]) == ("Bundle", 2_000_000)


def test_a_bundle_overwrites_nothing_and_needs_a_directory(
    bench: Bench, packing: PackingProvider, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    assert bench.run("bundle", "bpf", "-o", str(there)).code == 2
    assert there.read_text() == "mine"
    said = bench.run("bundle", "bpf", "-o", str(tmp_path / "no" / "b"))
    assert said.code == 2
    assert f"mkdir -p {tmp_path / 'no'}" in said.err


def test_up_with_a_bundle_builds_from_nothing_else(bench: Bench, packing: PackingProvider, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"good")
    said = bench.run("up", "bpf", "--bundle", str(tmp_path / "b"))
    assert said.code == 0
    (built,) = packing.built
    assert built.settings["cilium"] == {"version": "1.13.12"}
    assert built.settings["kindCluster"] == {"pull": False}


@pytest.mark.parametrize(("content", "words"), [(None, "there is no bundle"), (b"bad", "is not a complete bundle")])
def test_up_with_a_bundle_that_is_none_builds_nothing(
    content: bytes | None, words: str, bench: Bench, packing: PackingProvider, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "b").write_bytes(content)
    said = bench.run("up", "bpf", "--bundle", str(tmp_path / "b"))
    assert said.code == 2
    assert words in said.err
    assert packing.log == []


def test_up_shows_the_addresses_that_the_pods_have_got(bench: Bench, packing: PackingProvider) -> None:
    from dataclasses import replace
    from ipaddress import IPv4Address

    assert isinstance(packing.open_lab, ScriptedLab)
    planned = packing.open_lab.lab
    live = tuple(replace(pod, address=IPv4Address(f"10.9.9.{n}")) for n, pod in enumerate(planned.pods, start=1))
    packing.open_lab.lab = replace(planned, pods=live)
    said = bench.run("up", "bpf")
    assert said.code == 0
    assert "ping -c 3 10.9.9." in said.out
    assert "in force, by" in said.out
    assert "hostRouting bpf" in said.out


def test_a_fallback_is_told_with_reason_and_remedy_and_the_lab_stays_up(bench: Bench, packing: PackingProvider) -> None:
    opens(packing, FALLBACK)
    said = bench.run("up", "bpf")
    assert (said.code, said.out) == (4, "")
    assert "error: lab bpf is up, and not in the mode that was asked for" in said.err
    assert "endpoint routes are on" in said.err
    assert "cilium.values: {endpointRoutes: {enabled: false}}" in said.err
    assert "the lab stays up for inspection (labctl status bpf); labctl down bpf removes it" in said.err
    assert not [line for line in packing.log if line.startswith(("remove", "teardown"))]


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.SKIP])
def test_a_lab_whose_packets_could_not_be_captured_is_not_called_proven(
    verdict: Verdict, bench: Bench, packing: PackingProvider
) -> None:
    bench.verdicts["tcpdump"] = verdict
    said = bench.run("up", "bpf")
    assert (said.code, said.out) == (4, "")
    assert "it is not shown whether it is in the mode that was asked for" in said.err


def test_a_fallback_is_told_in_json_too(bench: Bench, packing: PackingProvider) -> None:
    opens(packing, FALLBACK)
    said = bench.run("up", "bpf", "--json")
    assert said.code == 4
    assert said.document["modeInForce"]["proven"] is False


def test_the_same_lab_again_is_judged_again(bench: Bench, packing: PackingProvider) -> None:
    assert isinstance(packing.open_lab, ScriptedLab)
    lab = packing.open_lab.lab
    packing.running.append(running_lab(lab))
    assert bench.run("up", "bpf").code == 0
    opens(packing, FALLBACK)
    assert bench.run("up", "bpf").code == 4


def test_where_labctl_makes_the_datapath_itself_up_sends_no_packet(bench: Bench) -> None:
    bench.provider.open_lab = None
    said = bench.run("up", "bpf", "--json")
    assert said.code == 0
    assert said.document["modeInForce"] is None
