"""What `make test-kind` says where a real cluster cannot run, and that it looks at its own clusters only."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kind_world import World, completed, lab_of
from labctl.errors import StepFailed
from labctl.providers.base import Completed
from labctl.providers.kind.clusters import nodes_of
from labctl.providers.kind.config import MARK_FOLDER
from labctl.providers.kind.provider import KindProvider

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kind_cluster"))
from preflight import lacking
from test_real_cluster import containers_of, new_name


class Host(World):
    """A host with docker, kind, kubectl and helm."""

    def __init__(self) -> None:
        super().__init__()
        self.is_privileged = True

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        match tuple(argv):
            case ("docker", "info", *_):
                up = self.daemon_is_up
                said = json.dumps({"ServerVersion": "28.2.2", "CgroupVersion": "1", "MemTotal": 8 << 30})
                return completed(argv, said if up else "", "" if up else "Cannot connect to the Docker daemon", not up)
            case ("docker", "run", "--rm", "--privileged", *_):
                return completed(argv, err="" if self.is_privileged else "operation not permitted",
                                 code=0 if self.is_privileged else 125)  # fmt: skip
            case (tool, "version", *_):
                versions = {"kind": "kind v0.27.0", "helm": "v3.16.4"}
                return completed(argv, versions.get(tool, '{"clientVersion": {"gitVersion": "v1.32.4"}}'))
        return super().run(argv, timeout_s=timeout_s, stdin=stdin)


@pytest.fixture
def host() -> Host:
    return Host()


def said(host: Host, tmp_path: Path) -> list[str]:
    provider = KindProvider(commands=host, root=tmp_path / "state")
    return list(lacking(provider, lab_of(tmp_path), host))


def test_a_host_with_everything_lacks_nothing(host: Host, tmp_path: Path) -> None:
    assert said(host, tmp_path) == []


def test_a_silent_daemon_is_the_only_thing_that_is_reported(host: Host, tmp_path: Path) -> None:
    host.daemon_is_up = False
    (line,) = said(host, tmp_path)
    assert line.startswith("docker daemon: Cannot connect")
    assert "try: " in line


def test_each_missing_tool_is_named(host: Host, tmp_path: Path) -> None:
    host.absent_tools = {"kind", "helm"}
    assert [line.partition(":")[0] for line in said(host, tmp_path)] == ["kind", "helm"]


def test_each_missing_image_is_named_with_its_role(host: Host, tmp_path: Path) -> None:
    host.images -= {"local/cilium:v1.13.12", "local/node:v1.20.2"}
    lines = said(host, tmp_path)
    assert [line.partition(" is not in docker")[0] for line in lines] == [
        "the node image local/node:v1.20.2", "the agent image local/cilium:v1.13.12",
    ]  # fmt: skip


def test_an_engine_without_privileged_containers_is_reported_in_its_own_words(host: Host, tmp_path: Path) -> None:
    host.is_privileged = False
    assert said(host, tmp_path) == ["docker cannot run privileged containers: operation not permitted"]


class Busy(Host):
    """A host on which other clusters come and go: one that was listed is gone when it is looked at."""

    def __init__(self, going: int) -> None:
        super().__init__()
        self.going = going

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        done = super().run(argv, timeout_s=timeout_s, stdin=stdin)
        if argv[1] == "ps" and self.going:
            self.going -= 1
            name = f"somebodys-{self.going}-control-plane"
            return completed(argv, f"{done.text}\n{name}")
        return done

    def _docker(self, argv: tuple[str, ...], rest: tuple[str, ...]) -> Completed:
        gone = [word for word in rest if word.startswith("somebodys-")]
        if rest[0] == "inspect" and gone:
            return completed(argv, "[]", f"Error: No such object: {gone[0]}", 1)
        return super()._docker(argv, rest)


def made(host: Host, cluster: str, lab: str) -> None:
    host.clusters[cluster] = {
        "nodes": [f"{cluster}-control-plane", f"{cluster}-worker"],
        "mark": f"{MARK_FOLDER}/{lab}/bpf/0123456789abcdef",
    }


@pytest.mark.parametrize("going", [0, 1, 2, 4])
def test_clusters_that_come_and_go_meanwhile_are_none_of_its_business(going: int) -> None:
    host, name = Busy(going), new_name()
    assert containers_of(name, host) == set()
    made(host, "labctl-other", "other")
    host.clusters["users"] = {"nodes": ["users-control-plane"], "mark": ""}
    host.going = going
    assert containers_of(name, host) == set()
    made(host, f"labctl-{name}-a-1234", f"{name}-a-1234")
    host.going = going
    assert containers_of(name, host) == {f"labctl-{name}-a-1234-control-plane", f"labctl-{name}-a-1234-worker"}
    host.going = going
    assert len(nodes_of(host, "docker")) == 5


def test_an_engine_that_never_answers_is_still_an_error() -> None:
    host = Busy(99)
    with pytest.raises(StepFailed, match="cannot describe the kind nodes"):
        nodes_of(host, "docker")
