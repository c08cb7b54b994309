"""`labctl support`: what it lists, what it writes, for a lab in any state, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cli.conftest import Bench
from kind_world import World, completed, expect_rendering, lab_of
from labctl import app
from labctl.engine.build import build
from labctl.engine.events import silent
from labctl.errors import StepFailed
from labctl.providers.base import Completed, Evidenced, Exhibit, RunningLab
from labctl.providers.kind.provider import KindProvider

SECRET = "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpzM2NyM3Q="


class Showing:
    """`Supporting` of a provider whose machines answer, or not."""

    def __init__(self, *, left: bool = False, fails: bool = False, unopened: StepFailed | None = None) -> None:
        self.left, self.fails, self.unopened = left, fails, unopened

    def has_left(self, name: str) -> bool:
        return self.left

    @contextlib.contextmanager
    def evidenced(self, name: str, running: RunningLab | None) -> Iterator[Evidenced]:
        def read() -> str:
            if self.fails:
                raise StepFailed("node1 does not answer")
            return "the password was right-horse"

        exhibit = Exhibit(file="nodes/node1/addresses.txt", source="ssh node1 ip address", read=read)
        yield Evidenced(exhibits=(exhibit,), secrets=("right-horse",), unopened=self.unopened)


@pytest.fixture
def there(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    bench.provider.capabilities = replace(bench.provider.capabilities, support=Showing())
    monkeypatch.setattr("labctl.cli.options.load_lab", _loading(tmp_path))
    bench.is_up("mine")
    return bench


def _loading(tmp_path: Path):  # type: ignore[no-untyped-def]
    """From the checkout, wherever this process stands now."""
    from labctl.cli import options

    original = options.load_lab

    def load(scenario: str, **more):  # type: ignore[no-untyped-def]
        with contextlib.chdir(Path(__file__).parents[4]):
            return original(scenario, **more)

    return load


def content(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {
            member.name.partition("/")[2]: file.read().decode()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


def test_it_lists_what_it_takes_then_writes_it_without_secrets(there: Bench, tmp_path: Path) -> None:
    said = there.run("support", "mine", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    assert "nodes/node1/addresses.txt" in said.out
    assert said.out.index("nodes/node1/addresses.txt") < said.out.index("s.tar.gz: ")
    found = content(tmp_path / "s.tar.gz")
    assert found["nodes/node1/addresses.txt"] == "the password was [removed: a known secret]"
    assert json.loads(found["labctl/status.json"])["lab"] == "mine"
    assert json.loads(found["index.json"])["lab"] == "mine"
    assert "right-horse" not in said.out + said.err


def test_list_reads_and_writes_nothing(there: Bench, tmp_path: Path) -> None:
    there.provider.capabilities = replace(there.provider.capabilities, support=Showing(fails=True))
    said = there.run("support", "mine", "--list")
    assert said.code == 0
    assert "ssh node1 ip address" in said.out
    assert "nothing was written" in said.out
    assert "does not answer" not in said.out + said.err
    assert list(tmp_path.glob("*.tar.gz")) == []


def test_json_is_one_document_that_names_every_part(there: Bench, tmp_path: Path) -> None:
    document = there.run("support", "mine", "--json", "-o", "s.tar.gz").document
    assert (document["kind"], document["lab"], document["file"]) == ("Support", "mine", "s.tar.gz")
    assert document["sizeByte"] == (tmp_path / "s.tar.gz").stat().st_size
    part = next(part for part in document["parts"] if part["file"] == "nodes/node1/addresses.txt")
    assert (part["secretsRemoved"], part["problem"]) == (1, "")
    listed = there.run("support", "mine", "--json", "--list").document
    assert (listed["file"], listed["sizeByte"]) == (None, None)
    assert {"file": "nodes/node1/addresses.txt", "source": "ssh node1 ip address"} in listed["parts"]


def test_what_cannot_be_read_is_said_and_exit_is_0_all_the_same(there: Bench, tmp_path: Path) -> None:
    there.provider.capabilities = replace(there.provider.capabilities, support=Showing(fails=True))
    said = there.run("support", "mine", "-o", "s.tar.gz")
    assert said.code == 0
    assert "not read: nodes/node1/addresses.txt: node1 does not answer" in said.err
    assert "node1 does not answer" in content(tmp_path / "s.tar.gz")["nodes/node1/addresses.txt"]


def test_a_lab_that_cannot_be_opened_is_not_tried_once_more_for_its_status(
    there: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone was found out before: proving the mode would wait for the same machine again."""

    def opened(provider: object, lab: object) -> None:
        raise AssertionError("it is opened")

    monkeypatch.setattr(type(there.provider), "open", opened)
    there.provider.capabilities = replace(
        there.provider.capabilities, support=Showing(unopened=StepFailed("node2: cannot be reached"))
    )
    assert there.run("support", "mine", "-o", "s.tar.gz").code == 0
    found = content(tmp_path / "s.tar.gz")
    assert "why: node2: cannot be reached" in found["labctl/status.json"]
    assert "the password was" in found["nodes/node1/addresses.txt"]


@pytest.mark.parametrize(
    "state",
    [
        {"is_whole": False, "missing": ("node node2",)},
        {"is_whole": False, "lab": None, "missing": ("its record",)},
        {"is_whole": False, "unasked": StepFailed("docker does not answer", "it is stopped")},
        {"is_whole": False, "is_being_built": True, "missing": ("pods",)},
    ],
    ids=["half there", "no record", "not asked", "being built"],
)
def test_a_lab_in_any_state_gets_one(state: dict[str, object], there: Bench, tmp_path: Path) -> None:
    there.provider.running = [replace(there.provider.running[0], **state)]  # type: ignore[arg-type]
    said = there.run("support", "mine", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    assert json.loads(content(tmp_path / "s.tar.gz")["labctl/found.json"])["whole"] is False


def test_a_lab_that_is_gone_and_has_left_files_gets_one(there: Bench, tmp_path: Path) -> None:
    there.provider.running = []
    there.provider.capabilities = replace(there.provider.capabilities, support=Showing(left=True))
    said = there.run("support", "mine", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    assert "no lab mine is up; this host has files of one" in said.err
    assert "nodes/node1/addresses.txt" in content(tmp_path / "s.tar.gz")


def test_a_name_of_nothing_is_a_usage_error(there: Bench, tmp_path: Path) -> None:
    said = there.run("support", "mime")
    assert said.code == 2
    assert "did you mean 'mine'?" in said.err
    assert list(tmp_path.glob("*.tar.gz")) == []


def test_a_file_that_is_there_is_refused_before_anything_is_read(there: Bench, tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_text("")
    said = there.run("support", "mine", "-o", "s.tar.gz")
    assert said.code == 2
    assert "s.tar.gz already exists" in said.err


def test_without_a_name_for_it_the_file_has_the_labs_name_and_the_time(there: Bench, tmp_path: Path) -> None:
    assert there.run("support", "mine").code == 0
    (made,) = tmp_path.glob("*.tar.gz")
    assert made.name.startswith("support-mine-20")


class Cluster(World):
    """A kind lab that answers what a support archive asks, secrets and all. `dead`: what does not answer."""

    dead: tuple[str, ...] = ()
    is_built = False

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if not self.is_built or not self.daemon_is_up:
            return super().run(argv, timeout_s=timeout_s, stdin=stdin)
        match tuple(argv):
            case ("docker", "exec", node, "kubectl", *rest) if node in self.dead or "api" in self.dead:
                return completed(argv, err="The connection to the server was refused", code=1, timed_out=bool(rest))
            case ("docker", "exec", node, *_) if node in self.dead:
                return completed(argv, err="", code=-9, timed_out=True)
            case ("docker", "exec", _, "kubectl", *_, "-o", "json"):
                pod = {"metadata": {"name": "cilium-x1", "namespace": "kube-system"}, "spec": {"nodeName": "n"}}
                return completed(argv, json.dumps({"items": [{**pod, "status": {}}]}))
            case ("docker", "exec", *_) | ("docker", "info" | "version" | "logs" | "inspect", *_) | ("kind", "version"):
                if tuple(argv[:4]) != ("docker", "inspect", "--type", "container"):
                    return completed(argv, f"said by {argv[-1]}\nclient-key-data: {SECRET}\n")
            case ("docker", "image", "ls") | ("docker", "ps", "--all", "--filter", "label=io.x-k8s.kind.cluster"):
                return completed(argv, "listed\n")
        return super().run(argv, timeout_s=timeout_s, stdin=stdin)


@pytest.fixture
def kind(there: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, Cluster]:
    world = Cluster()
    provider = KindProvider(commands=world, root=tmp_path / "state")
    lab = lab_of(tmp_path)
    expect_rendering(provider, lab)
    build(provider, lab, silent)
    world.is_built = True
    (tmp_path / "state" / "bpf" / "kubeconfig").write_text(
        json.dumps({"users": [{"user": {"client-key-data": SECRET, "token": "t0k3nt0k3n"}}]})
    )
    for name in ("providers", "providers_with_labs"):
        monkeypatch.setattr(app, name, lambda **_: iter((provider,)))
    return there, world


def test_a_kind_lab_shows_engine_nodes_cluster_and_agents(kind: tuple[Bench, Cluster], tmp_path: Path) -> None:
    bench, _ = kind
    said = bench.run("support", "bpf", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    found = content(tmp_path / "s.tar.gz")
    nodes = {name.split("/")[1] for name in found if name.startswith("nodes/")}
    assert nodes == {"labctl-bpf-control-plane", "labctl-bpf-worker", "labctl-bpf-worker2"}
    for name in (
        "engine/info.txt", "nodes/labctl-bpf-worker/iptables.txt", "nodes/labctl-bpf-worker/kubelet.txt",
        "cluster/events.txt", "cluster/agents.log", "agents/n/status.txt", "state/cilium-values.yaml", "state/lab.json",
    ):  # fmt: skip
        assert name in found, name
    assert not [name for name in found if "kubeconfig" in name]
    assert SECRET not in "".join(found.values())
    assert "t0k3nt0k3n" not in "".join(found.values())


def test_of_a_kind_lab_with_a_node_that_is_dead_the_rest_is_there(kind: tuple[Bench, Cluster], tmp_path: Path) -> None:
    bench, world = kind
    world.dead = ("labctl-bpf-worker2",)
    world.said.clear()
    assert bench.run("support", "bpf", "-o", "s.tar.gz").code == 0
    found = content(tmp_path / "s.tar.gz")
    assert "said by" in found["nodes/labctl-bpf-worker/addresses.txt"]
    unread = [text for name, text in found.items() if name.startswith("nodes/labctl-bpf-worker2/")]
    assert sum("it does not answer any more" in text for text in unread) > 10  # which costs no timeout for each


def test_of_a_kind_lab_whose_engine_is_gone_what_this_host_has_is_there(
    kind: tuple[Bench, Cluster], tmp_path: Path
) -> None:
    bench, world = kind
    world.daemon_is_up = False
    said = bench.run("support", "bpf", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    found = content(tmp_path / "s.tar.gz")
    assert "docker does not answer" in found["engine/nodes.txt"]
    assert "docker does not answer" in found["labctl/found.json"]
    assert "state/cilium-values.yaml" in found


def test_of_a_kind_build_that_was_undone_the_logs_are_there(kind: tuple[Bench, Cluster], tmp_path: Path) -> None:
    bench, world = kind
    logs = tmp_path / "state" / "logs" / "bpf"
    logs.mkdir(parents=True)
    (logs / "summary.txt").write_text("agents.txt: level=error msg=oops\n")
    for path in (tmp_path / "state", tmp_path / "state" / "logs", logs):
        path.chmod(0o700)
    world.clusters.clear()
    (tmp_path / "state" / "bpf" / "lab.json").unlink()
    said = bench.run("support", "bpf", "-o", "s.tar.gz")
    assert said.code == 0, said.err
    assert "oops" in content(tmp_path / "s.tar.gz")["logs/summary.txt"]
