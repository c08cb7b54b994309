"""What a lab's sections mean for kind: names, images, versions, the configuration file and the mark in it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from kind_world import lab_of
from labctl.errors import UsageError
from labctl.model.lab import HostRouting, KubeProxy, Lab, Masquerade
from labctl.planning.show import as_record, as_script
from labctl.providers.cilium.workloads import workloads
from labctl.providers.kind.config import (
    ContainerMark,
    kind_config,
    mark_path,
    overlapping,
    parse_mark,
    ranges_of,
    settle,
)
from labctl.providers.kind.endpoint import endpoint_of
from labctl.providers.kind.plan import plan_lab
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kind.settings import NODE_IMAGES, KindSettings, read_settings


def settings_of(tmp_path: Path, **sections: Any) -> KindSettings:
    return KindProvider(root=tmp_path / "state").settings(lab_of(tmp_path, **sections))


def config_of(tmp_path: Path, **section: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(kind_config(settings_of(tmp_path, kindCluster=section)))
    return loaded


def test_a_node_without_pods_becomes_the_control_plane(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert settings.nodes == {
        "node1": "labctl-bpf-worker", "node2": "labctl-bpf-worker2", "node3": "labctl-bpf-control-plane",
    }  # fmt: skip
    assert settings.all_nodes == ("labctl-bpf-control-plane", "labctl-bpf-worker", "labctl-bpf-worker2")


@pytest.mark.parametrize(
    ("where", "node1", "count"), [("first", "labctl-bpf-control-plane", 3), ("extra", "labctl-bpf-worker", 4)]
)
def test_the_control_plane_is_where_it_was_asked_to_be(tmp_path: Path, where: str, node1: str, count: int) -> None:
    settings = settings_of(tmp_path, kindCluster={"controlPlane": where})
    assert (settings.nodes["node1"], len(settings.all_nodes)) == (node1, count)


def test_several_control_planes_are_reached_by_the_load_balancer(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kindCluster={"controlPlane": "extra", "controlPlanes": 3})
    assert settings.api_host == "labctl-bpf-external-load-balancer"
    assert settings.control_planes[2] == "labctl-bpf-control-plane3"


def test_the_kubernetes_version_is_in_the_images_tag_or_has_to_be_said(tmp_path: Path) -> None:
    assert str(settings_of(tmp_path).kubernetes) == "1.20.2"
    assert str(settings_of(tmp_path, kindCluster={"image": "my/node:x", "kubernetes": "1.20.2"}).kubernetes) == "1.20.2"
    with pytest.raises(UsageError, match="the Kubernetes version of the node image my/node:x is not known"):
        settings_of(tmp_path, kindCluster={"image": "my/node:x"})


def test_a_known_version_has_its_image_by_digest(tmp_path: Path) -> None:
    lab_sections = {"image": None, "kubernetes": "1.30.0"}
    assert settings_of(tmp_path, kindCluster=lab_sections).node_image == NODE_IMAGES["1.30.0"]
    assert all("@sha256:" in image and f":v{version}@" in image for version, image in NODE_IMAGES.items())


def test_an_unknown_version_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"knows no node image of Kubernetes 1\.20\.5"):
        settings_of(tmp_path, kindCluster={"image": None, "kubernetes": "1.20.5"})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"kindCluster": {"colour": "red"}}, "kindCluster.colour"),
        ({"kindCluster": {"controlPlanes": 2}}, "has no majority"),
        ({"kindCluster": {"preloaded": True, "archives": ["x.tar"]}}, "archives would be ignored"),
        ({"cilium": {"operatorImage": None}}, "image and operatorImage go together"),
        ({"cilium": {"imageRepository": "m/cilium"}}, "not both"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused_by_name(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        settings_of(tmp_path, **sections)
    assert words in refused.value.what


def test_a_mirror_gives_all_of_ciliums_images(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, cilium={"image": None, "operatorImage": None, "imageRepository": "registry.example/cilium"}
    )
    assert settings.images[:2] == (
        "registry.example/cilium/cilium:v1.13.12", "registry.example/cilium/operator-generic:v1.13.12",
    )  # fmt: skip


def test_the_configuration_has_no_default_network_and_no_kube_proxy(tmp_path: Path) -> None:
    assert config_of(tmp_path)["networking"] == {
        "disableDefaultCNI": True,
        "kubeProxyMode": "none",
        "podSubnet": "10.244.0.0/16",
        "serviceSubnet": "10.96.0.0/16",
        "apiServerAddress": "127.0.0.1",
    }


def with_kube_proxy(lab: Lab, mode: KubeProxy, **datapath: Any) -> Lab:
    asked = replace(
        lab.datapath,
        host_routing=HostRouting.LEGACY,
        masquerade=Masquerade.IPTABLES,
        kube_proxy_replacement=False,
        kube_proxy=mode,
        **datapath,
    )
    return replace(lab, datapath=asked)


@pytest.mark.parametrize(
    ("mode", "kubernetes", "gates"),
    [
        (KubeProxy.IPTABLES, "1.20.2", None),
        (KubeProxy.NFTABLES, "1.30.0", {"NFTablesProxyMode": True}),
        (KubeProxy.NFTABLES, "1.32.2", None),
    ],
)
def test_a_lab_that_does_not_replace_kube_proxy_gets_it_in_the_mode_asked_for(
    tmp_path: Path, mode: KubeProxy, kubernetes: str, gates: dict[str, bool] | None
) -> None:
    section = {"kubernetes": kubernetes, "image": f"local/node:v{kubernetes}"}
    lab = with_kube_proxy(lab_of(tmp_path, kindCluster=section, cilium={"allowUntested": True}), mode)
    provider = KindProvider(root=tmp_path / "state")
    config = yaml.safe_load(kind_config(provider.settings(lab)))
    assert config["networking"]["kubeProxyMode"] == str(mode)
    assert config.get("featureGates") == gates
    assert any(f"with kube-proxy in {mode} mode" in line for line in provider.statements(lab))


def test_a_kubernetes_without_nftables_mode_is_refused(tmp_path: Path) -> None:
    section = {"kubernetes": "1.20.2", "image": "local/node:v1.20.2"}
    lab = with_kube_proxy(lab_of(tmp_path, kindCluster=section), KubeProxy.NFTABLES)
    with pytest.raises(UsageError, match="kube-proxy of Kubernetes 1.20.2 has no nftables mode"):
        KindProvider(root=tmp_path / "state").refuse(lab)


def test_extra_services_are_services_with_an_endpoint_by_hand(tmp_path: Path) -> None:
    lab = with_kube_proxy(lab_of(tmp_path), KubeProxy.IPTABLES, extra_services=3)
    made = list(yaml.safe_load_all(workloads(KindProvider(root=tmp_path / "state").settings(lab))))
    services = [one for one in made if one["kind"] == "Service"]
    slices = [one for one in made if one["kind"] == "EndpointSlice"]
    assert [one["metadata"]["name"] for one in services] == ["filler-00001", "filler-00002", "filler-00003"]
    assert [one["spec"]["clusterIP"] for one in services] == ["10.96.0.11", "10.96.0.12", "10.96.0.13"]
    assert all("selector" not in one["spec"] for one in services)
    assert [one["metadata"]["labels"]["kubernetes.io/service-name"] for one in slices] == [
        one["metadata"]["name"] for one in services
    ]
    assert slices[0]["endpoints"] == [{"addresses": ["198.19.0.0"], "conditions": {"ready": True}}]


def test_patches_and_mounts_are_passed_on_as_they_are(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        kubeadmConfigPatches=["kind: KubeletConfiguration\ncgroupDriver: cgroupfs\n"],
        containerdConfigPatches=["[plugins]"],
        extraMounts=[{"hostPath": "/d", "containerPath": "/d", "readOnly": True, "propagation": "HostToContainer"}],
        imageRepository="registry.aliyuncs.com/google_containers",
    )
    assert config["kubeadmConfigPatches"] == [
        "kind: KubeletConfiguration\ncgroupDriver: cgroupfs\n",
        "kind: ClusterConfiguration\nimageRepository: registry.aliyuncs.com/google_containers\n",
    ]
    assert config["containerdConfigPatches"] == ["[plugins]"]
    assert config["nodes"][2]["extraMounts"][1] == {
        "hostPath": "/d", "containerPath": "/d", "readOnly": True, "propagation": "HostToContainer",
    }  # fmt: skip


def test_every_node_carries_the_labs_mark(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    marks = [node["extraMounts"][0] for node in config_of(tmp_path)["nodes"]]
    assert marks == [{"hostPath": "/dev/null", "containerPath": mark_path(lab), "readOnly": True}] * 3
    assert parse_mark(mark_path(lab)) == ContainerMark(lab="bpf", scenario="bpf", digest=lab.digest[:16])


@pytest.mark.parametrize("destination", ["/var", "/labctl", "/labctl/a", "/labctl/a/b/c/d", "/other/a/b/c"])
def test_other_mounts_are_no_mark(destination: str) -> None:
    assert parse_mark(destination) is None


def test_the_plan_is_data_and_a_script(tmp_path: Path) -> None:
    plan = plan_lab(settings_of(tmp_path), "docker")
    assert [step.id for step in plan.steps] == ["look", "images", "chart", "cluster", "load", "cilium", "pods"]
    kinds = [action["kind"] for step in as_record(plan)["steps"] for action in step["actions"]]  # type: ignore[attr-defined]
    assert {"create-cluster", "verify-chart", "wait-for-pods", "write-file"} <= set(kinds)
    script = as_script(plan)
    assert "kind create cluster --name labctl-bpf" in script
    assert "grep -qE '^  enable-host-legacy-routing: \"?false\"?$'" in script


def test_ranges_move_only_where_they_overlap(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    other = (IPv4Network("10.244.0.0/16"), IPv4Network("10.112.0.0/16"))
    moved = settle(lab, [("other", other)])
    assert (str(moved.network.pod_cidr), str(moved.network.service_cidr)) == ("10.245.0.0/16", "10.96.0.0/16")
    assert settle(lab, [("other", (IPv4Network("192.168.0.0/16"),))]) is lab


def test_addresses_move_along_with_their_range(tmp_path: Path) -> None:
    moved = settle(lab_of(tmp_path), [("other", (IPv4Network("10.244.0.0/16"),))])
    assert all(pod.address in moved.network.pod_cidr for pod in moved.pods)
    assert all(node.router in node.pod_cidr and node.pod_cidr.subnet_of(moved.network.pod_cidr) for node in moved.nodes)


def test_many_labs_all_find_a_range(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    taken: list[tuple[str, tuple[IPv4Network, ...]]] = []
    for number in range(12):
        placed = settle(lab, taken)
        ranges = (placed.network.pod_cidr, placed.network.service_cidr)
        assert overlapping(ranges, taken) == ()
        taken.append((f"lab{number}", ranges))


def test_no_range_left_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no free range of the size of"):
        settle(lab_of(tmp_path), [("all", (IPv4Network("10.0.0.0/8"),))])


def test_the_ranges_of_another_lab_are_read_from_its_configuration(tmp_path: Path) -> None:
    found = ranges_of(kind_config(settings_of(tmp_path)))
    assert found == (IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16"))


@pytest.mark.parametrize(
    ("docker_host", "address", "port"),
    [
        ("", "127.0.0.1", None),
        ("unix:///run/my-docker.sock", "127.0.0.1", None),
        ("tcp://127.0.0.1:2375", "127.0.0.1", None),
        ("tcp://10.0.0.5:2376", "10.0.0.5", -1),
        ("ssh://root@192.0.2.7", "192.0.2.7", -1),
        ("tcp://[2001:db8::1]:2375", "2001:db8::1", -1),
    ],
)
def test_the_api_server_listens_where_the_engine_is_at_a_port_that_the_engine_picks(
    docker_host: str, address: str, port: int | None, tmp_path: Path
) -> None:
    settings = read_settings(lab_of(tmp_path), tmp_path, endpoint_of(docker_host))
    networking = yaml.safe_load(kind_config(settings))["networking"]
    # kind looks for a free port by listening at that address itself, which only the engine's host can.
    assert (networking["apiServerAddress"], networking.get("apiServerPort")) == (address, port)


def test_a_host_without_an_address_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    nowhere = endpoint_of("tcp://build.example:2375", resolve=lambda name: "")
    with pytest.raises(UsageError, match=r"engine is on build\.example, and that name does not resolve here"):
        plan_lab(read_settings(lab_of(tmp_path), tmp_path, nowhere), "docker")
    said = lab_of(tmp_path, kindCluster={"apiServerAddress": "192.0.2.9"})
    assert plan_lab(read_settings(said, tmp_path, nowhere), "docker").steps


def test_an_address_in_the_scenario_comes_before_that_of_the_engine(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, kindCluster={"apiServerAddress": "192.0.2.9", "apiServerPort": 6443})
    settings = read_settings(lab, tmp_path, endpoint_of("tcp://10.0.0.5:2376"))
    networking = yaml.safe_load(kind_config(settings))["networking"]
    assert (networking["apiServerAddress"], networking["apiServerPort"]) == ("192.0.2.9", 6443)


def test_old_charts_are_not_given_an_operator_image_that_they_cannot_name(tmp_path: Path) -> None:
    section = {"version": "1.11.0", "image": "local/cilium:v1.11.0", "operatorImage": "local/operator:v1.11.0"}
    with pytest.raises(UsageError, match=r"cannot use local/operator:v1\.11\.0") as refused:
        settings_of(tmp_path, cilium=section)
    assert "docker tag local/operator:v1.11.0 local/operator-generic:v1.11.0" in refused.value.remedy
    assert settings_of(tmp_path, cilium={**section, "version": "1.13.12"}).images[1] == "local/operator:v1.11.0"


def test_more_images_go_into_the_nodes_where_they_are_named(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, kindCluster={"extraImages": ["local/relay:1"]})
    script = as_script(KindProvider(root=tmp_path / "state").plan(lab))
    assert "docker image inspect local/relay:1" in script
    assert "kind load docker-image local/relay:1 --name labctl-bpf" in script
