"""Commands as a person pastes them on this host, wherever they run."""

from __future__ import annotations

from typing import Any, cast

import pytest

from labctl.providers.cilium.commands import Commands, pasted, with_kubeconfig

SSH = ("ssh", "-p", "2222", "lab@10.0.0.1", "sudo")


class Place:
    prefix = SSH


def here(prefix: tuple[str, ...] = ()) -> Commands:
    place: Any = Place()
    place.prefix = prefix
    return cast(Commands, place)


@pytest.mark.parametrize(
    ("prefix", "argv", "text"),
    [
        ((), ("kubectl", "get", "pods"), "kubectl get pods"),
        ((), ("sh", "-c", "a b"), "sh -c 'a b'"),
        (SSH, ("kubectl", "get", "pods"), "ssh -p 2222 lab@10.0.0.1 sudo kubectl get pods"),
        (SSH, ("sh", "-c", "a $b"), """ssh -p 2222 lab@10.0.0.1 sudo 'sh -c '"'"'a $b'"'"''"""),
    ],
    ids=["here", "here, quoted", "there", "there, for two shells"],
)
def test_a_command_can_be_pasted(prefix: tuple[str, ...], argv: tuple[str, ...], text: str) -> None:
    assert pasted(prefix, argv) == text


def test_a_bare_kubectl_is_told_which_cluster() -> None:
    kubectl = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf")
    assert with_kubeconfig("kubectl -n kube-system logs ds/cilium", here(SSH), kubectl) == (
        "ssh -p 2222 lab@10.0.0.1 sudo kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system logs ds/cilium"
    )
    assert with_kubeconfig("--set datapath.hostRouting=bpf", here(SSH), kubectl) == "--set datapath.hostRouting=bpf"
