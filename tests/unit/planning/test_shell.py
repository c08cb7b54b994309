"""What `plan --shell` prints is run by the shells themselves, with values in it that a shell would act on if it could.

Every program is a stand-in that writes down its words. `ssh` hands on to a second shell what it would, so that both
readings are tested. Programs get the plan's words to the letter; `pwned` is never run.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

import kubeadm_labs
from labctl.model.lab import Lab
from labctl.model.plan import Action, Plan, Step
from labctl.planning import shell
from labctl.planning.show import as_script
from labctl.providers.kind import actions as of_kind
from labctl.providers.kind.actions import HaveImage, LoadArchives, LoadImages, NodesHaveImages, WriteMirrors
from labctl.providers.kind.plan import plan_lab as plan_kind
from labctl.providers.kind.settings import read_settings as read_kind
from labctl.providers.kubeadm import by_hand
from labctl.providers.kubeadm.actions import MakeMachines, RemovePods
from labctl.providers.kubeadm.plan import plan_lab as plan_kubeadm
from labctl.providers.kubeadm.settings import KubeadmSettings, read_settings
from labctl.providers.netns.plan import plan as plan_netns

HOSTILE = (
    "x'; pwned; '\"; pwned; \"`pwned`$(pwned)${IFS}\\'; pwned #& pwned | pwned\npwned\n"
    "EOF\npwned\nRULES\nENTRIES\npwned\nON_THE_MACHINE\npwned\nEOF_\npwned\n{a,b} * ~ !! \t"
)
_FOUND = {name: shutil.which(name) for name in ("sh", "dash", "bash")}
SHELLS = tuple({Path(found).resolve(): name for name, found in _FOUND.items() if found}.values())
"""Each once: on Debian sh is dash."""
TOOLS = (
    "ssh", "helm", "kind", "kubectl", "docker", "vagrant", "mkdir", "chmod", "grep", "sleep", "curl", "kubeadm",
    "modprobe", "sysctl", "swapoff", "apt-get", "apt-mark", "containerd", "sed", "systemctl", "ip", "tc", "bpftool",
    "nsenter", "iptables-restore", "mount", "umount", "rmdir", "rm", "env", "pwned",
)  # fmt: skip
STAND_IN = r"""#!/bin/sh
printf '%s\0' "${0##*/}" "$@" >"$LABCTL_SAID/$$"
[ "${0##*/}" = ssh ] || exit 0
while [ $# -gt 0 ]; do
    case $1 in -p | -i | -o) shift 2 ;; *) break ;; esac
done
shift
exec sh -c "$*"
"""


@dataclass(frozen=True)
class Ran:
    """What the stand-ins were called with, in order, and what the script left behind."""

    commands: list[tuple[str, ...]]
    errors: str
    status: int


class Bench:
    """Runs shell text with nothing but stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        self.tools.mkdir()
        for tool in TOOLS:
            (self.tools / tool).write_text(STAND_IN)
            (self.tools / tool).chmod(0o755)
        for tool, real in (("cat", "cat"), ("sh", "sh"), ("wc", "wc")):
            (self.tools / tool).symlink_to(shutil.which(real) or "/nonexistent")
        (self.tools / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (self.tools / "sudo").chmod(0o755)
        self.count = 0

    def run(self, text: str, name: str = "sh") -> Ran:
        self.count += 1
        work = self.folder / f"work-{self.count}"
        work.mkdir()
        (work / "said").mkdir()
        (work / "script").write_text(text)
        done = subprocess.run(
            (str(shutil.which(name)), "script"), capture_output=True, cwd=work, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": str(self.tools), "LABCTL_SAID": str(work / "said"), "HOME": "/nonexistent"},
        )  # fmt: skip
        said = sorted((work / "said").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        commands = [tuple(file.read_text().split("\0")[:-1]) for file in said]
        assert not [c for c in commands if c[0] == "pwned"], (name, text)
        assert "pwned: not found" not in done.stderr.decode()
        return Ran(commands, done.stderr.decode(), done.returncode)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


T = TypeVar("T")
SHELL_TEXT = {"by_hand", "place", "machines", "engine"}
"""Fields that are text of a shell themselves (their parts are tested as such below), and the engine, which is one of
three words."""


def hostile(value: T, folder: Path) -> T:
    """The value with something hostile in every text of it, however deep."""
    match value:
        case str() if type(value) is str:
            return value + HOSTILE  # type: ignore[return-value]
        case Path():
            return folder / f"{value.name}{HOSTILE}"  # type: ignore[return-value]
        case tuple():
            return tuple(hostile(item, folder) for item in value)  # type: ignore[return-value]
        case Mapping():
            return {key: hostile(item, folder) for key, item in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and type(value).__module__.partition(".")[0] == "labctl":
        changes = {f.name: hostile(getattr(value, f.name), folder) for f in fields(value) if f.name not in SHELL_TEXT}
        return replace(value, **changes)  # type: ignore[type-var]
    return value


@pytest.mark.parametrize("name", SHELLS)
def test_a_word_is_one_word_and_a_file_is_its_text(bench: Bench, tmp_path: Path, name: str) -> None:
    texts = [
        "",
        " ",
        HOSTILE,
        "=x",
        "A=B",
        "*",
        "~",
        "a\\",
        "\\n",
        "%s",
        "\u0085é",
        "-n",
        "#",
        "!",
        "$'x'",
        *HOSTILE.split("\n"),
    ]
    text = "\n".join(shell.quoted(("kind", one)) for one in texts)
    assert sorted(bench.run(text, name).commands) == sorted(("kind", one) for one in texts)
    assert bench.run(shell.quoted(("A=B", "x")), name).status == 127
    for number, one in enumerate([HOSTILE, f"{HOSTILE}\n", "EOF\nEOF_\n", "a", "\n", ""]):
        path = tmp_path / f"{number}{HOSTILE[:40]}"
        bench.run(shell.written(path, one), name)
        assert path.read_text() == one
    assert bench.run(f"{shell.remark(HOSTILE)}\nkind", name).commands == [("kind",)]
    ran = bench.run(shell.with_environment({"A": HOSTILE}, ("sh", "-c", 'kind "$A"')), name)
    assert ran.commands == [("kind", HOSTILE)]
    ran = bench.run(shell.through("ssh -p 2 a@b", ("kubectl", HOSTILE, "*", "x")), name)
    assert [command for command in ran.commands if command[0] != "ssh"] == [("kubectl", HOSTILE, "*", "x")]


@pytest.mark.parametrize("environment", ["A B", "A;pwned", "1A", "", "A$(pwned)"])
def test_a_variables_name_is_one(environment: str) -> None:
    with pytest.raises(ValueError, match="cannot be a variable's name"):
        shell.with_environment({environment: "x"}, ("true",))


def test_sed_puts_in_what_was_said() -> None:
    for value in ("a&b", "a\\1b", "a#b", 'x"y', "registry/pause:3.9"):
        script = f"printf 'sandbox_image = old\\n' | sed -e {shell.substitute('sandbox_image', value)}"
        done = subprocess.run(("sh", "-c", script), capture_output=True, text=True, check=True)
        assert done.stdout == f"sandbox_image = {value}\n"


def own_argvs(action: Action) -> list[tuple[str, ...]]:
    """The commands that the executor would run for this action, where the action says so."""
    match action:
        case of_kind.Command() | of_kind.RenderChart() | of_kind.DeleteCluster() | of_kind.CreateCluster():
            return [action.argv]
        case of_kind.CollectLogs():
            return [argv for _, argv in action.argvs]
        case LoadImages() | MakeMachines() | of_kind.RestartAgents():
            return [action.argv]
        case LoadArchives():
            return [action.argv_load(archive, action.nodes) for archive in action.archives]
        case HaveImage():
            return [(action.engine, "image", "inspect", action.reference)]
        case WriteMirrors():
            return [action.argv(node) for node in action.nodes]
        case NodesHaveImages():
            listed = ("ctr", "--namespace", "k8s.io", "images", "ls", "-q")
            return [(action.engine, "exec", node, *listed) for node in action.nodes]
        case RemovePods():
            return [action.argv]
    return []


def kind_lab(cilium: dict[str, Any], cluster: dict[str, Any]) -> Lab:
    plain = {"image": "local/node:v1.20.2", "toolsImage": "local/tools:1"}
    return replace(
        kubeadm_labs.make_lab(),
        settings={"kindCluster": {**plain, **cluster}, "cilium": {"version": "1.13.12", **cilium}},
    )


def plans(tmp_path: Path) -> Iterator[Plan]:
    more = {
        "network": "labnet", "archives": ["/images/a.tar"], "registryMirrors": {"docker.io": "http://m"}, "pull": False,
    }  # fmt: skip
    for cilium, cluster in (({}, {}), ({"chart": "oci://registry/cilium"}, more), ({"chart": "https://charts/"}, {})):
        yield plan_kind(read_kind(kind_lab(cilium, cluster), tmp_path / "state"), "docker")
    made = kubeadm_labs.make_lab(kubeadm={"machines": "vagrant"})
    yield plan_kubeadm(read_settings(made, tmp_path / "state"))


def test_every_act_says_what_it_does_whatever_its_values_are(bench: Bench, tmp_path: Path) -> None:
    """Beyond what any scenario may say: each field of each act has a text that shells act on."""
    seen: dict[type, Action] = {}
    for plan in plans(tmp_path):
        for step in plan.steps:
            for action in (*step.actions, *step.undo):
                # Of one kind the one with the most words is tried.
                if len(str(action)) > len(str(seen.get(type(action), ""))):
                    seen[type(action)] = action
    seen[RemovePods] = RemovePods(argv=("kubectl", "delete", "pods"), place="me@machine")
    assert len(seen) >= 17
    for action in seen.values():
        evil = hostile(action, tmp_path)
        if isinstance(evil, RemovePods):
            evil = replace(evil, argv=("kubectl", *evil.argv[1:]))
        wanted = own_argvs(evil)
        if isinstance(evil, of_kind.CollectLogs):
            evil.folder.mkdir()
        for name in SHELLS:
            # A program whose own name is hostile is not found; the words after it are what is compared.
            text = evil.shell()
            for argv in wanted:
                text = text.replace(shell.word(argv[0]), shell.word(argv[0].removesuffix(HOSTILE)))
            said = bench.run(text, name).commands
            for argv in wanted:
                assert (argv[0].removesuffix(HOSTILE), *argv[1:]) in said, (type(action).__name__, name)


def hostile_settings(tmp_path: Path) -> KubeadmSettings:
    """A lab on machines of which no name, path or image is what the schema lets through."""
    lab = kubeadm_labs.make_lab(
        hosts=kubeadm_labs.THREE_HOSTS, kubeadm={"kubernetes": "1.24.2", "cgroupDriver": "systemd"},
        cilium={"version": "1.13.12"},
    )  # fmt: skip
    settings = read_settings(lab, tmp_path / "state")
    machines = tuple(
        replace(
            machine, node=f"{machine.node}{HOSTILE}", address=f"a{HOSTILE}", user=f"u{HOSTILE}", key=f"~/k{HOSTILE}",
            known_hosts=f"/h{HOSTILE}", node_address=f"10{HOSTILE}",
        )
        for machine in settings.machines
    )  # fmt: skip
    kubeadm = settings.kubeadm
    kubeadm = kubeadm.model_copy(
        update={
            "image_repository": f"r{HOSTILE}", "ignore_preflight_errors": (f"e{HOSTILE}",), "tools_image": HOSTILE,
            "packages": kubeadm.packages.model_copy(
                update={"repository": f"https://{HOSTILE}", "repository_key": f"https://{HOSTILE}"}
            ),
        }
    )  # fmt: skip
    folder = tmp_path / f"folder{HOSTILE}"
    return replace(
        settings, machines=machines, kubeadm=kubeadm, files=replace(settings.files, folder=folder, logs=folder),
        lab=replace(
            lab, name=f"l{HOSTILE}", scenario=HOSTILE, source=HOSTILE,
            nodes=tuple(replace(node, name=f"{node.name}{HOSTILE}") for node in lab.nodes),
            pods=tuple(replace(pod, name=f"{pod.name}{HOSTILE}", node=f"{pod.node}{HOSTILE}") for pod in lab.pods),
        ),
        cilium=settings.cilium.model_copy(update={"chart": f"c{HOSTILE}", "values": {"cluster": {"name": HOSTILE}}}),
    )  # fmt: skip


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_for_machines_gives_every_program_the_words_of_the_plan(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    settings = hostile_settings(tmp_path)
    (tmp_path / f"folder{HOSTILE}").mkdir()
    # Each machine's own part writes into /etc there: on this bench it may not, and a plan goes on all the same.
    script = as_script(plan_kubeadm(settings)).replace("set -eu", "set -u").replace("sh -eu", "sh -u")
    script = script.replace("> /etc/", "> ./etc-").replace("/etc/default/", "./default-")
    said = bench.run(script, name).commands
    place = f"u{HOSTILE}@a{HOSTILE}"
    assert all(place in command for command in said if command[0] == "ssh")
    init = next(command for command in said if command[:2] == ("kubeadm", "init"))
    assert init[3:5] == ("--image-repository", f"r{HOSTILE}")
    assert f"--ignore-preflight-errors=e{HOSTILE}" in init
    assert f"--node-name=node1{HOSTILE}" in init
    assert f"--apiserver-advertise-address=10{HOSTILE}" in init
    assert ("curl", "-fsSL", "-o", "/etc/apt/keyrings/labctl-kubernetes.asc", "--", f"https://{HOSTILE}") in said
    wait = next(command for command in said if command[0] == "kubectl" and "wait" in command)
    assert f"labctl-l{HOSTILE}" in wait
    assert [command[1] for command in said if command[0] == "helm"] == ["template"]
    assert {command[0] for command in said} <= set(TOOLS) - {"pwned"}


def test_what_ends_a_machines_part_is_no_line_of_it() -> None:
    machine = read_settings(kubeadm_labs.make_lab(hosts=kubeadm_labs.THREE_HOSTS), Path("/x")).machines[0]
    text = by_hand.on(machine, f"true\n{by_hand.END}\n{by_hand.END}_\nfalse")
    assert text.splitlines()[-1] == f"{by_hand.END}__"


def test_the_title_of_a_step_is_a_remark_of_one_line(bench: Bench) -> None:
    plan = Plan(lab=f"l{HOSTILE}", provider=HOSTILE, steps=(Step(id="x", title=HOSTILE, actions=()),))
    assert bench.run(as_script(plan)).commands == []


def make_netns_lab() -> Lab:
    return replace(kubeadm_labs.make_lab(), provider="netns", settings={})


def test_every_act_in_namespaces_does_so_as_well(bench: Bench, tmp_path: Path) -> None:
    plan = plan_netns(make_netns_lab())
    seen: dict[type, Action] = {}
    for step in plan.steps:
        for action in (*step.actions, *step.undo):
            seen.setdefault(type(action), action)
    assert len(seen) >= 12
    for action in seen.values():
        evil = hostile(action, tmp_path)
        plain = bench.run(action.shell()).commands
        for name in SHELLS:
            said = bench.run(evil.shell(), name).commands
            # The same programs, as often, with as many words each: nothing fell apart.
            assert sorted((c[0], len(c)) for c in said) == sorted((c[0], len(c)) for c in plain), (action, name)
