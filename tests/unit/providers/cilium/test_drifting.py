"""Labs on clusters compared with their plans through a scripted kubectl that remembers what is applied and deleted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import cluster_world
import kind_world
from kind_world import completed
from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.engine.apply import apply
from labctl.engine.mend import drifting, mend
from labctl.errors import StepFailed, UsageError
from labctl.model.drift import Drift
from labctl.model.lab import Lab, Service, ServiceProtocol, ServiceType
from labctl.planning.record import digest_of
from labctl.providers.base import Completed
from labctl.providers.cilium.commands import write_private
from labctl.providers.cilium.drifting import ClusterDrifting
from labctl.providers.cilium.settings import read_record, write_record
from labctl.providers.cluster.files import ClusterFiles
from labctl.providers.cluster.provider import ClusterProvider
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kubeadm.provider import KubeadmProvider


class Api(kind_world.World):
    """A cluster that has what was planned, by kind and name."""

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, dict[str, Any]] = {"Node": {}, "Pod": {}, "Service": {}}
        self.config: dict[str, str] = {}
        self.refused = ""

    def has(self, seam: ClusterDrifting, lab: Lab) -> None:
        planned = seam.planned(lab)
        for name in (*planned.settings.nodes.values(), *(planned.others or ())):
            self.there["Node"][name] = {"metadata": {"name": name}, "spec": {}, "status": ready()}
        for one in planned.objects:
            self.make(one, planned.settings.nodes)
        self.config = {key: value for key, value in planned.config.items() if value is not None}

    def make(self, one: Mapping[str, Any], nodes: Mapping[str, str]) -> None:
        kind, name = one["kind"], one["metadata"]["name"]
        if kind not in self.there or name in self.there[kind]:
            return
        made = json.loads(json.dumps(one))
        if kind == "Pod":
            affinity = json.dumps(made["spec"].get("affinity", ""))
            on = next((node for node in nodes.values() if f'"{node}"' in affinity), "")
            made["spec"].setdefault("nodeName", on)
            made["status"] = ready()
        self.there[kind][name] = made

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if argv[0] != "kubectl":
            return super().run(argv, timeout_s=timeout_s, stdin=stdin)
        self.said.append(" ".join(argv))
        words = [word for word in argv[1:] if not word.startswith("--")]
        if self.refused and self.refused in " ".join(argv):
            return completed(argv, err="Unable to connect to the server", code=1)
        kinds = {"nodes": "Node", "pods": "Pod", "services": "Service", "pod": "Pod", "service": "Service"}
        if "configmap" in words:
            return completed(argv, json.dumps({"data": self.config}))
        if "delete" in words:
            what, *names = words[words.index("delete") + 1 :]
            for name in names:
                self.there[kinds[what]].pop(name, None)
            return completed(argv)
        if "apply" in words:
            for one in yaml.safe_load_all(Path(words[-1]).read_text(encoding="utf-8")):
                self.make(one, {})
            return completed(argv)
        if "get" in words and (what := words[words.index("get") + 1]) in kinds:
            return completed(argv, json.dumps({"items": list(self.there[kinds[what]].values())}))
        return completed(argv, "{}")


def ready() -> dict[str, Any]:
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


WEB = "web"
Case = tuple[Any, Lab, Api]


def with_service(lab: Lab) -> Lab:
    address = lab.network.service_cidr.network_address + 11
    web = Service(
        name=WEB, address=address, port=80, target_port=5205, protocol=ServiceProtocol.TCP, backends=("server",),
        selector={"app": "server"}, type=ServiceType.CLUSTER_IP,
    )  # fmt: skip
    return changed(lab, services=(web,))


def changed(lab: Lab, **fields: Any) -> Lab:
    made = replace(lab, **fields)
    return replace(made, digest=digest_of(made))


def with_neighbour(lab: Lab) -> Lab:
    """The pods that the other labs have, with their labels."""
    client, server = (replace(pod, labels={"app": pod.name}) for pod in lab.pods)
    return with_service(
        replace(lab, pods=(client, replace(client, name="neighbour", labels={"app": "neighbour"}), server))
    )


def on_kind(folder: Path) -> Case:
    api = Api()
    provider = KindProvider(commands=api, root=folder / "state")
    return provider, with_service(kind_world.lab_of(folder)), api


def on_kubeadm(folder: Path) -> Case:
    api = Api()
    provider = KubeadmProvider(root=folder / "state")
    return provider, with_neighbour(make_lab(hosts=THREE_HOSTS)), api


def on_a_cluster(folder: Path) -> Case:
    api = Api()
    provider = ClusterProvider(commands=api, root=folder / "state")
    lab = with_service(cluster_world.lab_of())
    state = {"lab": lab.name, "context": "work", "nodes": {"node1": "worker-a", "node2": "worker-b"}}
    write_private(ClusterFiles.of(folder / "state", lab.name).state, json.dumps(state))
    return provider, lab, api


CASES = (on_kind, on_kubeadm, on_a_cluster)


def seam_of(provider: Any, lab: Lab, api: Api) -> ClusterDrifting:
    seam = drifting(provider, lab)
    assert isinstance(seam, ClusterDrifting)
    write_record(seam.files(lab.name).record, lab)
    seam = replace(seam, commands=lambda lab: contextlib.nullcontext(api))
    api.has(seam, lab)
    return seam


def named(drift: Drift) -> list[tuple[str, str, str, str, str]]:
    assert all(one.command and one.key for one in drift.differences)
    return [(str(one.change), one.part, one.name, one.wanted, one.found) for one in drift.differences]


@pytest.mark.parametrize("case", CASES)
def test_a_lab_as_it_was_built_differs_in_nothing(case: Callable[[Path], Case], tmp_path: Path) -> None:
    provider, lab, api = case(tmp_path)
    assert named(seam_of(provider, lab, api).compared(lab).drift) == []


@pytest.mark.parametrize("case", CASES)
def test_pods_and_services_that_are_gone_changed_or_added_are_named(
    case: Callable[[Path], Case], tmp_path: Path
) -> None:
    provider, lab, api = case(tmp_path)
    seam = seam_of(provider, lab, api)
    pods, services = api.there["Pod"], api.there["Service"]
    del pods["client"]
    pods["neighbour"]["metadata"]["labels"]["app"] = "other"
    pods["server"]["status"] = {"phase": "Pending"}
    pods["mine"] = {**pods["server"], "metadata": {"name": "mine", "labels": {}}}
    services[WEB]["spec"]["ports"][0]["targetPort"] = 9
    services["more"] = {"metadata": {"name": "more"}, "spec": {}}
    assert named(seam.compared(lab).drift) == [
        ("missing", "client", "pod client", "", ""),
        ("changed", "neighbour", "pod neighbour label app", "neighbour", "other"),
        ("changed", "server", "pod server state", "ready", "Pending"),
        ("extra", "mine", "pod mine", "", ""),
        ("changed", WEB, f"Service {WEB} port", "80:5205/TCP", "80:9/TCP"),
        ("extra", "more", "Service more", "", ""),
    ]
    assert [one.name for one in seam.compared(lab, parts=["client"]).drift.differences] == ["pod client"]
    with pytest.raises(UsageError, match="no part named"):
        seam.compared(lab, parts=["nobody"])


@pytest.mark.parametrize("case", CASES)
def test_a_node_that_is_gone_or_not_ready_is_named_and_no_step_makes_one(
    case: Callable[[Path], Case], tmp_path: Path
) -> None:
    provider, lab, api = case(tmp_path)
    seam = seam_of(provider, lab, api)
    one, two = list(seam.planned(lab).settings.nodes.values())[:2]
    del api.there["Node"][one]
    api.there["Node"][two]["status"] = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    compared = seam.compared(lab)
    assert named(compared.drift) == [
        ("missing", "node1", f"node {one}", "", ""),
        ("changed", "node2", f"node {two}", "Ready", "NotReady"),
    ]
    assert compared.plan.steps == ()


@pytest.mark.parametrize("case", [on_kind, on_kubeadm])
def test_a_value_of_cilium_that_says_something_else_is_named_and_cilium_is_applied_again(
    case: Callable[[Path], Case], tmp_path: Path
) -> None:
    provider, lab, api = case(tmp_path)
    seam = seam_of(provider, lab, api)
    api.config |= {"debug": "false"}
    del api.config["monitor-aggregation"]
    compared = seam.compared(lab)
    assert [one[:3] for one in named(compared.drift)] == [
        ("missing", "cluster", "cilium-config monitor-aggregation"),
        ("changed", "cluster", "cilium-config debug"),
    ]
    assert {"switch", "pods"} <= {step.id for step in compared.plan.steps}


def test_a_node_more_is_named_where_the_cluster_is_the_lab_s(tmp_path: Path) -> None:
    for case, is_named in ((on_kind, True), (on_a_cluster, False)):
        folder = tmp_path / case.__name__
        folder.mkdir()
        provider, lab, api = case(folder)
        seam = seam_of(provider, lab, api)
        api.there["Node"]["stranger"] = {"metadata": {"name": "stranger"}, "status": ready()}
        assert bool(named(seam.compared(lab).drift)) is is_named


@pytest.mark.parametrize("what", ["get pods", "get services", "configmap"])
def test_what_cannot_be_read_is_said_and_no_difference(what: str, tmp_path: Path) -> None:
    provider, lab, api = on_kind(tmp_path)
    seam = seam_of(provider, lab, api)
    api.refused = what
    drift = seam.compared(lab).drift
    assert drift.differences == ()
    assert [one.why for one in drift.unread] == ["Unable to connect to the server"]
    api.refused = "get nodes"
    with pytest.raises(StepFailed, match="its cluster does not answer"):
        seam.compared(lab)


class Mending:
    """A provider with that seam and nothing else."""

    name = "kind"

    def __init__(self, seam: ClusterDrifting) -> None:
        from labctl.providers.base import Capabilities

        self.capabilities = Capabilities(drifting=seam)


def test_reset_makes_what_is_gone_and_removes_what_is_extra(tmp_path: Path) -> None:
    provider, lab, api = on_kind(tmp_path)
    seam = seam_of(provider, lab, api)
    del api.there["Pod"]["client"]
    api.there["Pod"]["neighbour"]["metadata"]["labels"]["app"] = "other"
    api.there["Service"]["more"] = {"metadata": {"name": "more"}, "spec": {}}
    kept = api.there["Pod"]["server"]
    mended = mend(Mending(seam), lab, lambda event: None)  # type: ignore[arg-type]
    assert len(mended.before.differences) == 3
    assert seam.compared(lab).drift.is_as_wanted
    assert api.there["Pod"]["server"] is kept
    assert not [line for line in api.said if "delete pod server" in line]


def test_apply_changes_pods_and_services_and_writes_the_record(tmp_path: Path) -> None:
    provider, lab, api = on_kind(tmp_path)
    seam = seam_of(provider, lab, api)
    fewer = changed(lab, pods=lab.pods[:2], pairs=lab.pairs[:1], services=())
    assert apply(Mending(seam), lab, fewer, lambda event: None) > 0  # type: ignore[arg-type]
    assert seam.compared(fewer).drift.is_as_wanted
    assert read_record(seam.files(lab.name).record) == fewer
    assert seam.cut_off(lab.name) is None
    assert "server" not in api.there["Pod"]


def test_another_cluster_is_no_change_of_this_one(tmp_path: Path) -> None:
    provider, lab, api = on_kind(tmp_path)
    seam = seam_of(provider, lab, api)
    with pytest.raises(UsageError, match="cannot be switched"):
        seam.compared(changed(lab, nodes=lab.nodes[:2]))


def test_a_change_that_was_killed_is_known_and_that_of_somebody_s_cluster_is_refused(tmp_path: Path) -> None:
    provider, lab, api = on_kind(tmp_path)
    seam = seam_of(provider, lab, api)
    after = changed(lab, pods=lab.pods[:2], pairs=lab.pairs[:1], services=())
    seam.begin_change(after)
    assert seam.cut_off(lab.name) == after
    seam.end_change(lab)
    assert seam.cut_off(lab.name) is None
    (tmp_path / "cluster").mkdir()
    provider, lab, api = on_a_cluster(tmp_path / "cluster")
    with pytest.raises(UsageError, match="are not changed while they are up"):
        seam_of(provider, lab, api).begin_change(lab)
