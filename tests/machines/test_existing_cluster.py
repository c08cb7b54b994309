"""The provider cluster on a real cluster whose CNI labctl did not install, as a person uses it from the command line.

Runs where `LABCTL_TEST_KUBECONFIG` names a kubeconfig with the rights of an administrator, and `LABCTL_TEST_IMAGE` an
image that its nodes have; else with `make test-machines` on the rig's own cluster. Everything that the tests make there
has a name of their own; what else is there is compared before and after.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from live_acts import TAPS, Live, write_scenarios
from live_results import all_tried, new_column, recorded

pytestmark = [pytest.mark.needs_cluster]

TREE = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("LABCTL_TEST_IMAGE", "docker.io/labctl-rig/tools:1")
AS_IT_IS = ("--set", "datapath.observed=true")
OURS = ("labctl-",)


@dataclass(frozen=True)
class Person:
    """Somebody with a kubeconfig and a place for labctl's own files."""

    kubeconfig: Path
    home: Path

    def labctl(self, *words: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "XDG_STATE_HOME": str(self.home / "state"),
            "LABCTL_RUNS_DIR": str(self.home / "runs"),
            "PYTHONPATH": str(TREE / "src"),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "200",
        }
        return subprocess.run(
            (sys.executable, "-m", "labctl", *words), cwd=TREE, env=environment, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def json(self, *words: str, code: int = 0) -> Any:
        done = self.labctl(*words, "--json")
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def up(self, lab: str, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.labctl(
            "up", "bpf", "--provider", "cluster", "--name", lab, "--set", f"cluster.image={IMAGE}", *more
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def down(self, lab: str) -> None:
        done = self.labctl("down", lab)
        assert done.returncode == 0, done.stderr


def kubectl(config: Path, *words: str, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run(
        ("kubectl", "--kubeconfig", str(config), *words), input=stdin, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def admin() -> Iterator[Path]:
    """The kubeconfig of an administrator: the one that is named, else that of a cluster made by the rig (tests/rig),
    which goes with the last test unless it was there before."""
    if named := os.environ.get("LABCTL_TEST_KUBECONFIG", ""):
        yield Path(named)
        return
    if os.environ.get("LABCTL_TEST_MACHINES") != "1":
        pytest.skip("needs a Kubernetes cluster to test on: LABCTL_TEST_KUBECONFIG=FILE, or make test-machines")
    place, engine, cluster = map(pytest.importorskip, ("rig_place", "rig_engine", "rig_cluster"))
    if reason := place.why_not():
        pytest.skip(reason)
    was_up = cluster.KUBECONFIG.exists() and engine.is_up()
    config = cluster.up()
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{place.CACHE / 'bin'}{os.pathsep}{path}"  # kubectl of the cluster's own version
    try:
        yield config
    finally:
        os.environ["PATH"] = path
        if not was_up and not os.environ.get("LABCTL_RIG_KEEP"):
            engine.clear()


@pytest.fixture(scope="module")
def person(admin: Path, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(kubeconfig=admin, home=tmp_path_factory.mktemp("person"))


@pytest.fixture
def lab() -> str:
    return f"t{secrets.token_hex(3)}"


def what_is_there(config: Path) -> dict[str, list[str]]:
    """Everything of the cluster that labctl could change or leave, by name; Kubernetes' own coming and going is not."""
    kinds = (
        "namespaces",
        "clusterroles",
        "clusterrolebindings",
        "customresourcedefinitions",
        "nodes",
        "persistentvolumes",
    )
    found = {kind: kubectl(config, "get", kind, "-o", "name").split() for kind in kinds}
    for kind in (
        "pods",
        "services",
        "daemonsets",
        "deployments",
        "configmaps",
        "serviceaccounts",
        "roles",
        "rolebindings",
    ):
        rows = kubectl(
            config, "get", kind, "-A", "-o", "custom-columns=N:.metadata.namespace,M:.metadata.name", "--no-headers"
        )
        found[kind] = sorted(" ".join(row.split()) for row in rows.splitlines())
    found["node labels"] = kubectl(
        config,
        "get",
        "nodes",
        "-o",
        "jsonpath={range .items[*]}{.metadata.labels}{.spec.taints}{.spec.unschedulable}{end}",
    ).split("\n")
    return found


@pytest.fixture
def cluster_as_found(admin: Path) -> Iterator[None]:
    before = what_is_there(admin)
    yield
    after = what_is_there(admin)
    assert after == before


def test_a_lab_lives_on_a_cluster_that_was_there_and_leaves_only_what_was_there(
    person: Person, lab: str, cluster_as_found: None, tmp_path: Path
) -> None:
    asked = person.up(lab, code=4)
    assert "not in the mode that was asked for" in asked.stderr
    assert "datapath.observed=true" in asked.stderr
    person.down(lab)
    person.up(lab, *AS_IT_IS)
    assert "nothing to do" in person.up(lab, *AS_IT_IS).stdout
    (listed,) = [one for one in person.json("list")["labs"] if one["lab"] == lab]
    assert (listed["provider"], listed["state"], listed["whole"]) == ("cluster", "up", True)

    status = person.json("status", lab)
    mode = status["modeInForce"]
    assert (mode["proven"], mode["asked"], mode["found"]["encapsulation"]) == (True, {}, "native")
    assert "hostRouting" not in mode["found"], "host routing is no other CNI's, and is not guessed"
    nodes = set(kubectl(person.kubeconfig, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split())
    placed = {node["name"]: node["clusterNode"] for node in status["nodes"]}
    assert len(set(placed.values())) == 2
    assert set(placed.values()) <= nodes
    pods = json.loads(kubectl(person.kubeconfig, "-n", f"labctl-{lab}", "get", "pods", "-o", "json"))["items"]
    really = {pod["metadata"]["name"]: (pod["status"]["podIP"], pod["spec"]["nodeName"]) for pod in pods}
    for pod in status["pods"]:
        assert (pod["address"], placed[pod["node"]]) == really[pod["name"]]
    helpers = [pod for pod in pods if "labctl.io/helper" in pod["metadata"]["labels"]]
    assert {pod["spec"]["nodeName"] for pod in helpers} == set(placed.values())
    assert all(pod["spec"]["activeDeadlineSeconds"] == 3600 for pod in helpers)
    assert person.labctl("status", lab, "--datapath").returncode == 0

    checked = person.json("check", lab, "ping", "iperf", "tcpdump", "netfilter")
    verdicts = {(one["check"], one["placement"]): one["verdict"] for one in checked["results"]}
    assert {verdict for (check, _), verdict in verdicts.items() if check == "netfilter"} == {"skip"}
    assert {verdict for (check, _), verdict in verdicts.items() if check != "netfilter"} == {"pass"}

    traced = person.json("trace", lab, "client", "server")
    taps = [hop["role"] for hop in traced["trace"]["paths"][0]["hops"]] if "trace" in traced else []
    taps = taps or [hop["role"] for hop in traced["paths"][0]["hops"]]
    assert (taps[0], taps[-1]) == ("client-eth0", "server-eth0")
    assert {"client-lxc", "client-node-uplink", "server-node-uplink", "server-lxc"} <= set(taps)

    server = next(pod["address"] for pod in status["pods"] if pod["name"] == "server")
    sending = subprocess.Popen(
        (sys.executable, "-m", "labctl", "exec", lab, "client", "--", "ping", "-i", "0.2", "-c", "300", server),
        cwd=TREE, stdout=subprocess.DEVNULL,
        env={**os.environ, "KUBECONFIG": str(person.kubeconfig), "PYTHONPATH": str(TREE / "src"),
             "XDG_STATE_HOME": str(person.home / "state")},
    )  # fmt: skip
    try:
        packets = tmp_path / "packets.pcapng"
        caught = person.json(
            "capture", lab, "--filter", "icmp", "--count", "24", "--duration", "30", "-w", str(packets)
        )
    finally:
        sending.kill()
        sending.wait()
    assert caught["captured"] == 24
    assert caught["lost"] == 0
    assert packets.stat().st_size > 24 * 98
    said = person.labctl("exec", lab, "server", "--", "hostname")
    assert (said.returncode, said.stdout) == (0, "server\n")
    person.down(lab)
    assert person.labctl("status", lab).returncode == 2
    assert f"namespace/labctl-{lab}" not in kubectl(person.kubeconfig, "get", "ns", "-o", "name")


def test_a_comparison_is_made_stored_and_compared_with_another_one(
    person: Person, lab: str, cluster_as_found: None
) -> None:
    """The same cluster twice, as before and after an upgrade; both sides of each run in the one mode that is there."""
    runs = []
    for _ in range(2):
        done = person.labctl(
            "compare", "bpf", "bpf", "--provider", "cluster", "--name", lab, "--rounds", "2", "--duration", "0.5",
            "--checks", "ping", "--set", f"cluster.image={IMAGE}", *AS_IT_IS, "--json", timeout_s=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        comparison = document if "modeInForce" in document else document["comparisons"][0]
        assert all(side["proven"] and side["asked"] == {} for side in comparison["modeInForce"])
        runs.append(sorted((person.home / "runs").glob(f"*-compare-{lab}-*"))[-1].name)
    stored = person.labctl("compare", *runs)
    assert stored.returncode == 0, stored.stderr
    assert "round-trip p50" in stored.stdout


def test_a_survey_asks_every_node_and_measures_a_sample(person: Person, cluster_as_found: None) -> None:
    found = person.json("survey", "--sample", "3", "--seed", "7", "--image", IMAGE)
    nodes = kubectl(person.kubeconfig, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
    assert sorted(node["name"] for node in found["nodes"]) == sorted(nodes)
    for node in found["nodes"]:
        assert node["kernel"]
        assert node["kubelet"].startswith("v1.")
        assert node["mode"] == {}
    assert (found["cni"], found["complete"]) == ("not known", True)
    assert len(found["pairs"]) == min(3, len(nodes) * (len(nodes) - 1) // 2)
    for pair in found["pairs"]:
        assert (pair["sent"], pair["received"]) == (10, 10)
        assert 0 < pair["rttMinS"] <= pair["rttP50S"] <= pair["rttMaxS"]


def test_without_helpers_what_needs_taps_is_skipped_with_the_reason(
    person: Person, lab: str, cluster_as_found: None
) -> None:
    never = ("--set", "cluster.helpers=never")
    person.up(lab, *AS_IT_IS, *never, code=4)
    checked = person.json("check", lab, "ping", "tcpdump", code=4)
    verdicts = {one["check"]: (one["verdict"], one["reason"]) for one in checked["results"]}
    assert verdicts["ping"][0] == "pass"
    assert verdicts["tcpdump"][0] == "skip"
    assert "there is no helper pod" in verdicts["tcpdump"][1]
    refused = person.labctl("capture", lab)
    assert refused.returncode == 4
    assert "there is no helper pod" in refused.stderr
    assert person.labctl("exec", lab, "client", "--", "true").returncode == 0
    person.down(lab)


# ---- rights


@pytest.fixture
def account(admin: Path, lab: str, tmp_path: Path) -> Iterator[Person]:
    """A service account that may do nothing yet, and its kubeconfig."""
    namespace = f"labctl-test-{lab}"
    kubectl(admin, "create", "namespace", namespace)
    kubectl(admin, "-n", namespace, "create", "serviceaccount", "engineer")
    config = tmp_path / "engineer.kubeconfig"
    config.write_text(yaml.safe_dump(_config_of(admin, namespace)))
    config.chmod(0o600)
    yield Person(kubeconfig=config, home=tmp_path)
    for kind in ("clusterrolebinding", "clusterrole"):
        kubectl(admin, "delete", kind, f"labctl-{lab}", "--ignore-not-found")
    for where in (f"labctl-{lab}", namespace):
        kubectl(admin, "delete", "namespace", where, "--ignore-not-found")
    for kind in ("role", "rolebinding"):
        kubectl(admin, "-n", "kube-system", "delete", kind, f"labctl-{lab}", "--ignore-not-found")


def _config_of(admin: Path, namespace: str) -> dict[str, Any]:
    whole = json.loads(kubectl(admin, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    token = ""
    for _ in range(60):
        listed = json.loads(kubectl(admin, "-n", namespace, "get", "secrets", "-o", "json"))["items"]
        own = [one for one in listed if one["metadata"]["name"].startswith("engineer-token") and "token" in one["data"]]
        if own:
            token = base64.b64decode(own[0]["data"]["token"]).decode()
            break
        token = kubectl(admin, "-n", namespace, "create", "token", "engineer", check=False).strip()  # 1.24 and later
        if token:
            break
        time.sleep(0.5)
    assert token
    context = {"cluster": "c", "user": "engineer", "namespace": "default"}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "engineer",
        "clusters": [{"name": "c", "cluster": whole["clusters"][0]["cluster"]}],
        "users": [{"name": "engineer", "user": {"token": token}}],
        "contexts": [{"name": "engineer", "context": context}],
    }  # fmt: skip


def _rights(account: Person, lab: str, *more: str) -> list[dict[str, Any]]:
    subject = f"serviceaccount:labctl-test-{lab}:engineer"
    words = ("plan", "bpf", "--provider", "cluster", "--name", lab, "--rbac", "--subject", subject, *more)
    printed = account.labctl(*words, *AS_IT_IS)
    assert printed.returncode == 0, printed.stderr
    return list(yaml.safe_load_all(printed.stdout))


def _apply(admin: Path, documents: Sequence[dict[str, Any]]) -> None:
    kubectl(admin, "apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


def test_the_rights_that_are_printed_suffice(account: Person, admin: Path, lab: str) -> None:
    _apply(admin, _rights(account, lab))
    account.up(lab, *AS_IT_IS)
    status = account.json("status", lab)
    assert status["modeInForce"]["proven"]
    checked = account.json("check", lab, "ping", "tcpdump")
    assert {one["verdict"] for one in checked["results"]} == {"pass"}
    assert account.json("trace", lab, "client", "server")
    account.down(lab)
    assert f"namespace/labctl-{lab}" not in kubectl(admin, "get", "ns", "-o", "name")


def _without(documents: Sequence[dict[str, Any]], kind: str, resource: str, verb: str) -> list[dict[str, Any]]:
    """The rights less one verb on one resource."""
    changed = json.loads(json.dumps(documents))
    hits = 0
    for document in changed:
        if document["kind"] != kind or document["metadata"].get("namespace") == "kube-system":
            continue
        for rule in document["rules"]:
            if resource in rule["resources"] and verb in rule["verbs"]:
                rule["verbs"].remove(verb)
                hits += 1
        document["rules"] = [rule for rule in document["rules"] if rule["verbs"]]
    assert hits == 1, f"{verb} {resource} is in the printed rights once"
    return list(changed)


LESS = (
    ("ClusterRole", "nodes", "list"),
    ("ClusterRole", "namespaces", "get"),
    ("ClusterRole", "namespaces", "delete"),
    ("Role", "serviceaccounts", "create"),
    ("Role", "pods", "create"),
    ("Role", "pods", "list"),
    ("Role", "pods/exec", "create"),
)


@pytest.mark.parametrize(("kind", "resource", "verb"), LESS, ids=lambda part: part)
def test_less_than_what_is_printed_does_not_suffice_and_it_is_said_what_is_missing(
    account: Person, admin: Path, lab: str, kind: str, resource: str, verb: str
) -> None:
    _apply(admin, _without(_rights(account, lab), kind, resource, verb))
    refused = account.labctl(
        "up", "bpf", "--provider", "cluster", "--name", lab, "--set", f"cluster.image={IMAGE}", *AS_IT_IS
    )
    assert refused.returncode in (3, 4)
    assert verb in refused.stderr
    assert resource.partition("/")[0] in refused.stderr
    assert "--rbac" in refused.stderr
    assert not kubectl(admin, "-n", f"labctl-{lab}", "get", "pods", "-o", "name").strip()


# ---- errors


def test_a_namespace_that_is_not_labctls_is_refused_and_stays(person: Person, admin: Path, lab: str) -> None:
    kubectl(admin, "create", "namespace", f"labctl-{lab}")
    try:
        refused = person.up(lab, *AS_IT_IS, code=2)
        assert "labctl did not make it" in refused.stderr
        assert f"namespace/labctl-{lab}" in kubectl(admin, "get", "ns", "-o", "name")
    finally:
        kubectl(admin, "delete", "namespace", f"labctl-{lab}")


def test_an_image_that_cannot_be_pulled_is_told_in_seconds(person: Person, lab: str, cluster_as_found: None) -> None:
    begun = time.monotonic()
    done = person.labctl(
        "up", "bpf", "--provider", "cluster", "--name", lab, "--set", "cluster.image=registry.invalid/none:1", *AS_IT_IS
    )
    assert done.returncode == 4
    assert "registry.invalid/none:1" in done.stderr
    assert "cluster.image" in done.stderr
    assert "ErrImagePull" in done.stderr or "ImagePullBackOff" in done.stderr
    assert time.monotonic() - begun < 170, "before the 180 s of readyTimeoutS are over, removal and all"


def test_a_context_that_is_not_there_names_those_that_are(person: Person, lab: str) -> None:
    done = person.labctl("up", "bpf", "--provider", "cluster", "--context", "nowhere", "--name", lab)
    assert done.returncode == 2
    assert "no context nowhere" in done.stderr
    assert kubectl(person.kubeconfig, "config", "current-context").strip() in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"server": "https://127.0.0.1:1"}, "does not answer"),
        ({"token": "wrong"}, "does not accept these credentials"),
    ],
    ids=["unreachable", "unauthorized"],
)
def test_an_api_server_that_cannot_be_used_is_told_as_what_it_is(
    admin: Path, lab: str, tmp_path: Path, change: dict[str, str], told: str
) -> None:
    config = json.loads(kubectl(admin, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    if "server" in change:
        config["clusters"][0]["cluster"]["server"] = change["server"]
    else:
        config["users"][0]["user"] = {"token": change["token"]}
    broken = tmp_path / "broken.kubeconfig"
    broken.write_text(yaml.safe_dump(config))
    person = Person(kubeconfig=broken, home=tmp_path)
    for words in (("up", "bpf", "--provider", "cluster", "--name", lab), ("survey", "--sample", "0")):
        done = person.labctl(*words)
        assert done.returncode == 4, done.stderr
        assert told in done.stderr


# ---- the acts of live_acts.py, recorded for docs/providers.md


_TOOLS_OF_LABCTL = re.compile(r"^\S+: (tcpdump|ping|iperf3|sockperf|socat)\b")
_ONE_MODE = "a cluster that is there stays in the mode that it is in"


def _through(config: Path, link: Any, target: Path) -> None:
    """The same cluster and credentials, by way of a link."""
    document = json.loads(kubectl(config, "config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    document["clusters"][0]["cluster"] |= {"server": f"https://127.0.0.1:{link.port}", "tls-server-name": "kubernetes"}
    target.write_text(yaml.safe_dump(document))
    target.chmod(0o600)


def _until_it_works(config: Path) -> None:
    """Every node Ready, and so every pod: after a machine came back the control plane takes its time to believe it."""
    for kind in ("nodes", "pods"):
        kubectl(config, "wait", kind, "--all", "--all-namespaces", "--for=condition=Ready", "--timeout=110s")


@contextlib.contextmanager
def _paused(machine: Any, config: Path) -> Iterator[None]:
    """A machine on which nothing runs any more, and that still is on the network."""
    import rig_engine

    rig_engine.docker("pause", machine.name)
    try:
        yield
    finally:
        rig_engine.docker("unpause", machine.name)
        time.sleep(5.0)
        _until_it_works(config)


def test_the_whole_life_of_a_lab_from_the_table_of_acts(admin: Path, tmp_path: Path) -> None:
    if os.environ.get("LABCTL_TEST_KUBECONFIG"):
        pytest.skip("machines are paused and connections cut on the rig's own cluster only")
    import rig_machines
    from rig_links import Links

    machines = rig_machines.machines()
    write_scenarios(
        tmp_path, dict.fromkeys(("here", "there"), "{ hostRouting: legacy, encapsulation: vxlan, observed: true }")
    )

    def strays() -> list[str]:
        every = [f"{one.name}: {line}" for one in machines for line in one.shell("ps -eo args=").splitlines()]
        return [line for line in every if _TOOLS_OF_LABCTL.match(line)]

    before = what_is_there(admin)
    with Links(machines[:1], port=6443) as links:
        _through(admin, links.links[0], tmp_path / "kubeconfig")
        live = Live(
            provider="cluster", name=f"t{secrets.token_hex(3)}", scenario="here", other="there", directory=tmp_path,
            options=("--set", f"cluster.image={IMAGE}"), up_s=900.0, act_s=300.0, phases=(1, 3), taps=TAPS,
            environment={
                "KUBECONFIG": str(tmp_path / "kubeconfig"), "XDG_STATE_HOME": str(tmp_path / "state"),
                "LABCTL_RUNS_DIR": str(tmp_path / "runs"), "PYTHONPATH": str(TREE / "src"),
            },
            without={"compare, by switching": _ONE_MODE},
            sever=lambda: links.cut(0), silence=lambda: _paused(machines[1], admin), slow=links.slow,
            stop_engine=lambda: links.dead(0), strays=strays,
        )  # fmt: skip
        column = new_column(
            "Kubernetes 1.20.2 by kubeadm on three systemd machines in containers, kube-proxy, Debian's CNI plugin "
            "bridge: a CNI that labctl did not install. Ctrl-C in the phases 1 and 3 of 4; the engine that is gone is "
            "the API server, behind a connection that passes nothing; the machine that is gone is a worker, paused."
        )
        try:
            failures = all_tried(live, column, lambda line: print(line, file=sys.stderr, flush=True))
        finally:
            live.run("down", live.name, timeout_s=live.up_s)
    recorded("cluster", column)
    assert not failures, "\n".join(failures)
    assert what_is_there(admin) == before
