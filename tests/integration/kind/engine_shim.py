"""Stands in for `docker` and `kubectl`, so that the real kind and helm build a cluster of which no container exists.

Run under the name `docker` or `kubectl`. Every call is appended to $LABCTL_SHIM_STATE/calls as JSON (argv and standard
input); containers that kind starts are remembered from `docker run`'s own arguments. The answers are those that kind
0.27 reads: see pkg/cluster/internal/providers/docker in its source.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

STATE = Path(os.environ["LABCTL_SHIM_STATE"])
KUBERNETES = "v1.20.2"
ADMIN_CONF = """apiVersion: v1
kind: Config
clusters: [{name: kubernetes, cluster: {server: "https://x:6443", certificate-authority-data: eA==}}]
contexts: [{name: kubernetes-admin@kubernetes, context: {cluster: kubernetes, user: kubernetes-admin}}]
current-context: kubernetes-admin@kubernetes
users: [{name: kubernetes-admin, user: {client-certificate-data: eA==, client-key-data: eA==}}]
"""
INFO = {
    "ServerVersion": "28.2.2", "CgroupVersion": "1", "CgroupDriver": "cgroupfs", "SecurityOptions": [],
    "MemoryLimit": True, "PidsLimit": True, "CPUShares": True, "MemTotal": 8 * 2**30, "Architecture": "x86_64",
    "OSType": "linux",
}  # fmt: skip


def containers() -> dict[str, list[str]]:
    """`docker run`'s arguments by container name."""
    return {path.name.removeprefix("run-"): json.loads(path.read_text()) for path in sorted(STATE.glob("run-*"))}


def remember(name: str, arguments: list[str]) -> None:
    """Whole or not at all: kind starts containers at the same time, each with a docker of its own."""
    aside = STATE / f"aside-{name}"
    aside.write_text(json.dumps(arguments))
    aside.rename(STATE / f"run-{name}")


def options(arguments: list[str], name: str) -> list[str]:
    return [value for key, value in pairwise(arguments) if key == name] + [
        argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")
    ]


def label(arguments: list[str], key: str) -> str:
    return next((text.partition("=")[2] for text in options(arguments, "--label") if text.startswith(f"{key}=")), "")


def inspected(name: str, arguments: list[str]) -> dict[str, object]:
    volumes = options(arguments, "--volume") + options(arguments, "-v")
    mounts = [
        {"Source": parts[0], "Destination": parts[1], "Mode": ",".join(parts[2:])}
        for parts in (volume.split(":") for volume in volumes)
        if len(parts) > 1
    ]
    labels = dict(text.split("=", 1) for text in options(arguments, "--label"))
    return {
        "Name": f"/{name}", "Config": {"Labels": labels}, "State": {"Status": "running", "Pid": 1}, "Mounts": mounts,
    }  # fmt: skip


def docker(argv: list[str]) -> int:
    made = containers()
    if argv[0] == "info":
        print(json.dumps(INFO))
    elif argv[0] == "version":
        print("28.2.2")
    elif argv[0] == "ps":
        wanted = [text.removeprefix("label=").partition("=") for text in options(argv, "--filter")]
        for name, arguments in made.items():
            if all(label(arguments, key) and value in ("", label(arguments, key)) for key, _, value in wanted):
                print(name)
    elif argv[0] == "run":
        remember(options(argv, "--name")[0], argv)
        print("0" * 64)
    elif argv[:2] == ["network", "ls"]:
        print("1" * 64)
    elif argv[:2] == ["network", "inspect"]:
        print(json.dumps([{"Name": "kind", "Id": "1" * 64, "Containers": {}}]))
    elif argv[0] == "logs":
        print("[  OK  ] Reached target Multi-User System.", flush=True)
    elif argv[0] == "inspect" and "container" in argv:
        print(json.dumps([inspected(name, made[name]) for name in argv if name in made]))
    elif argv[0] == "inspect":
        return inspect_format(argv, made)
    elif argv[0] == "exec":
        return execute(argv)
    elif argv[0] == "image" and argv[1] == "inspect":
        digest = "sha256:" + "1" * 64
        print(digest if "-f" in argv else json.dumps([{"Id": digest}]))
    elif argv[0] == "save":
        output = (options(argv, "-o") or options(argv, "--output"))[0]
        Path(output).write_bytes(b"")
    elif argv[0] == "rm":
        for name in argv:
            (STATE / f"run-{name}").unlink(missing_ok=True)
    return 0


def inspect_format(argv: list[str], made: dict[str, list[str]]) -> int:
    text = next((word for word in argv if "{{" in word), "")
    for name in (word for word in argv if word in made):
        if "io.x-k8s.kind.role" in text:
            print(label(made[name], "io.x-k8s.kind.role"))
        elif "IPAddress" in text:
            print(f"172.30.0.{sorted(made).index(name) + 2},")
        elif "NetworkSettings.Ports" in text:
            print("127.0.0.1\t40000")
        else:
            print()
    if "RepoTags" in text or ".Id" in text:
        print("sha256:" + "1" * 64)
    return 0


def met(argv: list[str]) -> int:
    """An import goes on when that many (LABCTL_SHIM_MEETS) are under way: one after the other they would never be."""
    wanted = int(os.environ.get("LABCTL_SHIM_MEETS", "0"))
    (STATE / f"importing-{next(word for word in argv if word.startswith('labctl-'))}").touch()
    until_s = time.monotonic() + 60
    while len(list(STATE.glob("importing-*"))) < wanted:
        if time.monotonic() > until_s:
            return 1
        time.sleep(0.02)
    return 0


def execute(argv: list[str]) -> int:
    words = [word for word in argv[1:] if not word.startswith("-")]
    command = " ".join(argv)
    if "containerd config dump" in command:
        print('version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\n  snapshotter = "overlayfs"')
    elif "images import" in command:
        return met(argv)
    elif "crictl inspecti" in command:
        return 1  # not in the node yet
    elif "/kind/version" in command:
        print(KUBERNETES)
    elif "admin.conf" in command and "cat" in words:
        sys.stdout.write(ADMIN_CONF)
    elif "images ls" in command:
        images = ("cilium:v1.13.12", "operator-generic:v1.13.12", "tools:1")
        print("\n".join(f"docker.io/local/{image}" for image in images))
    elif "kind/manifests" in command and "cat" in words:
        print("apiVersion: v1\nkind: List\nitems: []")
    return 0


def kubectl(argv: list[str]) -> int:
    if "pods" in argv and "get" in argv:
        nodes = sorted(containers())
        count = {"k8s-app=cilium": len(nodes), "name=cilium-operator": 1}.get(options(argv, "-l")[0], 5)
        if "name" in argv:
            print("\n".join(f"pod/p{n}" for n in range(count)))
            return 0
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        pods = [
            {"metadata": {"name": f"p{n}", "namespace": "x"}, "spec": {"nodeName": nodes[0]}, "status": ready}
            for n in range(count)
        ]
        print(json.dumps({"items": pods}))
    return 0


def main() -> int:
    tool, argv = Path(sys.argv[0]).name, sys.argv[1:]
    takes_input = "-i" in argv or "--interactive" in argv
    told = sys.stdin.read() if takes_input else ""
    with (STATE / "calls").open("a") as file:
        file.write(json.dumps({"tool": tool, "argv": argv, "stdin": told}) + "\n")
    return docker(argv) if tool == "docker" else kubectl(argv)


if __name__ == "__main__":
    sys.exit(main())
