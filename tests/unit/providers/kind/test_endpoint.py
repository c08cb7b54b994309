"""Where the engine is: by DOCKER_HOST, by a docker context, behind a name of the user's own ssh configuration."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from kind_world import World, completed
from labctl.providers.base import Completed
from labctl.providers.kind.endpoint import EngineEndpoint, endpoint_of, engine_endpoint, resolved


class Docker(World):
    """Answers `docker context inspect` as docker 28 does, and `ssh -G` as OpenSSH does."""

    def __init__(self, contexts: dict[str, str] | None = None, hosts: dict[str, str] | None = None) -> None:
        super().__init__()
        self.contexts, self.hosts = contexts or {}, hosts or {}
        self.current = ""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        self.said.append(" ".join(argv))
        if argv[0] == "ssh":
            return completed(argv, f"user root\nhostname {self.hosts.get(argv[-1], argv[-1])}\nport 22\n")
        if self.current in self.contexts:
            return completed(argv, self.contexts[self.current] + "\n")
        return completed(argv, "\n", f'context "{self.current}": context not found', 1)


@pytest.mark.parametrize(
    ("url", "host", "address"),
    [
        ("", "", ""),
        ("unix:///var/run/docker.sock", "", ""),
        ("tcp://127.0.0.1:2375", "", ""),
        ("tcp://0.0.0.0:2375", "", ""),
        ("tcp://localhost:2375", "", ""),
        ("tcp://127.9.9.9:2375", "", ""),
        ("npipe:////./pipe/docker_engine", "", ""),
        ("not a url at all", "", ""),
        ("tcp://[half:2375", "", ""),
        ("tcp://10.0.0.5:2376", "10.0.0.5", "10.0.0.5"),
        ("ssh://root@192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("tcp://docker:2375", "docker", "172.17.0.3"),
        ("tcp://itself:2375", "", ""),
        ("tcp://nowhere:2375", "nowhere", ""),
    ],
)
def test_a_url_names_this_host_or_another_one_with_its_address(url: str, host: str, address: str) -> None:
    names = {"docker": "172.17.0.3", "itself": "127.0.1.1"}
    found = endpoint_of(url, resolve=lambda name: names.get(name, ""))
    assert (found.host, found.address, found.is_remote) == (host, address, bool(host))


def test_a_name_of_the_users_ssh_configuration_is_asked_of_ssh() -> None:
    docker = Docker(hosts={"lab": "lab.example"})
    found = endpoint_of("ssh://lab", docker, lambda name: "192.0.2.8" if name == "lab.example" else "")
    assert found == EngineEndpoint(url="ssh://lab", host="lab", address="192.0.2.8")
    assert docker.said == ["ssh -G lab"]


def test_docker_host_goes_before_every_context_and_runs_nothing() -> None:
    docker = Docker({"far": "tcp://10.0.0.5:2376"})
    environment = {"DOCKER_HOST": "unix:///run/mine.sock", "DOCKER_CONTEXT": "far"}
    assert engine_endpoint("docker", docker, environment) == EngineEndpoint(url="unix:///run/mine.sock")
    assert docker.said == []


@pytest.mark.parametrize("where", ["DOCKER_CONTEXT", "config.json"])
def test_a_context_is_asked_of_docker_wherever_it_was_chosen(where: str, tmp_path: Path) -> None:
    docker = Docker({"far": "ssh://root@10.0.0.5"})
    docker.current = "far"
    environment = {"DOCKER_CONFIG": str(tmp_path)}
    if where == "DOCKER_CONTEXT":
        environment["DOCKER_CONTEXT"] = "far"
    else:
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": "far"}))
    assert engine_endpoint("docker", docker, environment).address == "10.0.0.5"


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"currentContext": "default"}', '{"currentContext": null}'])
def test_without_a_context_of_ones_own_nothing_is_run(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    docker = Docker()
    assert engine_endpoint("docker", docker, {"DOCKER_CONFIG": str(tmp_path)}) == EngineEndpoint()
    assert docker.said == []


def test_a_context_that_is_gone_counts_as_none(tmp_path: Path) -> None:
    assert engine_endpoint("docker", Docker(), {"DOCKER_CONTEXT": "gone"}) == EngineEndpoint()


def test_other_engines_are_on_this_host() -> None:
    assert engine_endpoint("podman", Docker(), {"DOCKER_HOST": "tcp://10.0.0.5:2376"}) == EngineEndpoint()


def test_names_are_resolved_to_ipv4_first_and_to_nothing_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name != "build.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert [resolved(name) for name in ("build.example", "", "gone.example")] == ["192.0.2.1", "", ""]
