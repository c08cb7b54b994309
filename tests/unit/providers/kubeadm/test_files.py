"""Whether kubeadm labs can be here is told without the provider, from what the provider itself would read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from labctl.providers.kubeadm.files import may_have_labs
from labctl.providers.kubeadm.provider import KubeadmProvider


def test_logs_of_labs_that_are_gone_are_no_lab(tmp_path: Path) -> None:
    (tmp_path / "logs" / "bpf").mkdir(parents=True)
    assert not may_have_labs(tmp_path)
    assert KubeadmProvider(root=tmp_path).discover() == ()


def test_a_lab_on_record_is_one_also_half_built(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "machines.json").write_text(json.dumps({"scenario": "bpf", "digest": "d"}))
    assert may_have_labs(tmp_path)
    assert [found.name for found in KubeadmProvider(root=tmp_path).discover()] == ["bpf"]


def test_a_home_that_this_person_may_not_enter_has_no_lab_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "home" / "kubeadm" / "bpf").mkdir(parents=True)
    (tmp_path / "home" / "kubeadm" / "bpf" / "machines.json").write_text("{}")
    assert may_have_labs(tmp_path / "home" / "kubeadm")
    (tmp_path / "home").chmod(0)
    person = os.geteuid()
    try:
        os.seteuid(person or 65534)  # nothing is closed to root
        found = may_have_labs(tmp_path / "home" / "kubeadm")
    finally:
        os.seteuid(person)
        (tmp_path / "home").chmod(0o700)
    assert not found
