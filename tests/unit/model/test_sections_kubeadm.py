"""What may stand under `kubeadm:` and `hosts:`, and what contradicts itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from labctl.model.sections import HOSTS, Kubeadm, PackageSource


def kubeadm(**keys: Any) -> Kubeadm:
    return Kubeadm.model_validate_json(json.dumps(keys))


def test_offline_stands_for_installed_packages_and_no_pulling() -> None:
    settings = kubeadm(offline=True)
    assert settings.package_source is PackageSource.INSTALLED
    assert not settings.pulls_images


def said(refused: ValidationError, message: str) -> bool:
    """True when the first error is of that type, which pydantic keeps, or has that in the words, which are ours."""
    (first, *_) = refused.errors()
    return first["type"] == message or (first["type"] == "value_error" and message in str(first["ctx"]["error"]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kubernetes": "1.20"}, "string_pattern_mismatch"),
        ({"kubernetes": 1.2}, "string_type"),
        ({"packages": {"source": "bundle"}}, "bundle: DIRECTORY"),
        ({"offline": True, "packages": {"source": "repository"}}, "cannot be combined"),
        ({"imageRepositry": "x"}, "extra_forbidden"),
        ({"swap": "on"}, "enum"),
        ({"devices": ["eth0; reboot"]}, "string_pattern_mismatch"),
        ({"vagrant": {"network": "10.0.0.0/30"}}, "string_pattern_mismatch"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        kubeadm(**keys)
    assert said(refused.value, message)


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ([{"address": "10.0.0.1"}, {"address": "10.0.0.1"}], "listed twice: 10.0.0.1:22"),
        ([{"address": "a", "role": "control-plane"}, {"address": "b", "role": "control-plane"}], "not 2"),
        ([{"address": "a", "node": "node1"}, {"address": "b"}], "every machine its node"),
        ([{"address": "a", "node": "node1"}, {"address": "b", "node": "node1"}], "the same node"),
        ([{"address": "-oProxyCommand=reboot"}], "string_pattern_mismatch"),
        ([{"address": "a", "user": "root; reboot"}], "string_pattern_mismatch"),
        ([{"address": "a", "password": "secret"}], "extra_forbidden"),
    ],
)
def test_machines_that_do_not_fit_together_are_refused(hosts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        HOSTS.validate_json(json.dumps(hosts))
    assert said(refused.value, message)
