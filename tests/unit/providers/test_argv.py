"""No value of a scenario or lab.yaml becomes an option of a tool: every string key of the sections that name what tools
get is tried with what tools would read as options, and the argv of every act of the plans is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import kubeadm_labs
from labctl.errors import LabError
from labctl.model.plan import Plan
from labctl.model.sections import Cilium, Host, KindCluster, Kubeadm
from labctl.providers.kind.plan import plan_lab as plan_kind
from labctl.providers.kind.settings import read_settings as read_kind
from labctl.providers.kubeadm.machines import machines_of
from labctl.providers.kubeadm.plan import plan_lab as plan_kubeadm
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh_config import lab_options, reached

OPTIONS = ("--evil", "--evil=/bin/sh", "-evil", "-oevil=x", "- evil", " --evil", "\t-evil", "a\n--evil")
VALUES = (
    "evil",
    "/evil",
    "evil.tgz",
    "oci://evil/--x",
    "https://evil --x",
    "evil,--x=y",
    "evil:1",
    "evil/x:1",
    "evil=--x",
)
SECTIONS: dict[str, type[BaseModel]] = {"cilium": Cilium, "kindCluster": KindCluster, "kubeadm": Kubeadm, "host": Host}
FREE = {
    "cilium.values", "kindCluster.kubeadmConfigPatches", "kindCluster.containerdConfigPatches", "kubeadm.kubelet",
    "kubeadm.cluster", "kubeadm.init",
}  # fmt: skip
"""Keys whose values go into files and nowhere else."""


def keys(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        alias = str(field.alias or name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((alias, *rest) for rest in keys(inner))
        else:
            yield (alias,)


def shapes(text: str) -> tuple[object, ...]:
    return (
        text, [text], {"docker.io": text}, {text: "http://mirror"}, {text: True},
        [{"hostPath": text, "containerPath": "/x"}], [{"hostPath": "/x", "containerPath": text}],
    )  # fmt: skip


def valid(section: str, path: tuple[str, ...], text: str) -> Iterator[dict[str, Any]]:
    """The section with the text at that key, in each shape that the schema takes."""
    for shape in shapes(text):
        data: Any = shape
        for key in reversed(path):
            data = {key: data}
        if section == "host":
            data = {"address": "192.168.56.10"} | data
        if path == ("image",):
            data |= {"operatorImage": "x/y:1"} if section == "cilium" else {"kubernetes": "1.20.2"}
        if path == ("operatorImage",):
            data |= {"image": "x/y:1"}
        if path == ("packages", "bundle"):
            data["packages"]["source"] = "bundle"
        try:
            SECTIONS[section].model_validate_json(json.dumps(data))
        except ValidationError:
            continue
        yield data


ALL = [(section, path) for section, model in SECTIONS.items() for path in keys(model)]


def plans(section: str, data: dict[str, Any], tmp_path: Path) -> Iterator[Plan]:
    if section in ("cilium", "kindCluster"):
        plain = {"image": "local/node:v1.20.2"} if section == "cilium" or "image" not in data else {}
        settings = {
            "kindCluster": {**plain, **(data if section == "kindCluster" else {})},
            "cilium": {"version": "1.13.12", **(data if section == "cilium" else {})},
        }
        for pull in (True, False):
            settings["kindCluster"] = {"pull": pull, **settings["kindCluster"]}
            yield plan_kind(read_kind(replace(kubeadm_labs.make_lab(), settings=settings), tmp_path), "docker")
    if section in ("cilium", "kubeadm", "host"):
        lab = kubeadm_labs.make_lab(
            kubeadm=data if section == "kubeadm" else {}, cilium=data if section == "cilium" else {},
            hosts=[data] if section == "host" else kubeadm_labs.THREE_HOSTS[:1], nodes=1,
        )  # fmt: skip
        yield plan_kubeadm(read_settings(lab, tmp_path))


def argvs(value: object) -> Iterator[tuple[str, ...]]:
    """Every tuple of words in an act, and what it makes of its fields."""
    if is_dataclass(value):
        # The machines of a survey are text of a shell.
        names = {f.name for f in fields(value)} - {"machines"} | {
            name for name in dir(value) if name.startswith("argv")
        }
        for name in names:
            inner = getattr(value, name)
            if not callable(inner):
                yield from argvs(inner)
    elif isinstance(value, tuple):
        if value and all(isinstance(item, str) for item in value):
            yield value
        for item in value:
            yield from argvs(item)
    elif isinstance(value, Mapping):
        return


def is_option_by_data(word: str, argv: tuple[str, ...]) -> bool:
    """True for a word with data in it that a tool would read as an option, other than as that option's value."""
    place = argv.index(word)
    return word.startswith("-") and "evil" in word.partition("=")[0] and "--" not in argv[:place]


@pytest.mark.parametrize(("section", "path"), ALL, ids=lambda part: part if isinstance(part, str) else ".".join(part))
def test_no_value_that_the_schema_takes_is_an_option(section: str, path: tuple[str, ...], tmp_path: Path) -> None:
    name = f"{section}.{'.'.join(path)}"
    for text in (*OPTIONS, *VALUES):
        for data in valid(section, path, text):
            assert text in VALUES or name in FREE, f"{name} takes {text!r}"
            try:
                made = list(plans(section, data, tmp_path))
            except LabError:
                continue
            words = [
                argv
                for plan in made
                for step in plan.steps
                for act in (*step.actions, *step.undo)
                for argv in argvs(act)
            ]
            assert words
            assert not [argv for argv in words for word in argv if is_option_by_data(word, argv)]


def test_the_keys_that_are_tried_reach_the_tools(tmp_path: Path) -> None:
    """The test above looks at argv that have what it put in."""
    wanted = {"cilium.chart", "cilium.image", "kindCluster.archives", "kindCluster.toolsImage"}
    reached_by = set()
    for section, path in ALL:
        for text in VALUES if f"{section}.{'.'.join(path)}" in wanted else ():
            for data in valid(section, path, text):
                try:
                    made = list(plans(section, data, tmp_path))
                except LabError:
                    continue
                steps = [act for plan in made for step in plan.steps for act in (*step.actions, *step.undo)]
                if any("evil" in word for act in steps for argv in argvs(act) for word in argv):
                    reached_by.add(f"{section}.{'.'.join(path)}")
    assert reached_by == wanted


def test_ssh_gets_what_lab_yaml_says_behind_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def answer(argv: tuple[str, ...], machine: object) -> str:
        asked.append(tuple(argv))
        return ""

    monkeypatch.setattr("labctl.providers.kubeadm.ssh_config._answer", answer)
    host = {"address": "evil.example", "user": "evil", "key": "/evil -oProxyCommand=x", "knownHosts": '/evil"x'}
    machine = machines_of(kubeadm_labs.make_lab(hosts=[host], nodes=1))[0]
    reached(machine)
    assert asked[0][-2:] == ("--", "evil.example")
    words = lab_options(machine)
    assert [word for word in words if word.startswith("-")] == ["-o"] * 3
