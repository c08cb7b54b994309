"""What a student of a class may type: lessons of the class and labs of their own, and nothing else of root's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from labctl.cli.group import COMMANDS, labctl
from labctl.cli.session import RULES, StudentSession, _read, only_shows, require_allowed
from labctl.errors import UsageError
from labctl.lessons.variation import filled
from labctl.loading.lessons import lesson_names, load_lesson, load_solution
from labctl.model.lab import NETNS

CHECKOUT = Path(__file__).resolve().parents[3]
ANNA = StudentSession(
    class_name="may",
    student="anna",
    user="lab-anna",
    uid=1001,
    gid=1001,
    home="/home/lab-anna",
    folder=Path("/home/lab-anna"),
    lessons=("which-mode", "lxc-one-way"),
    records=Path("/var/lib/labctl/classes/may"),
    shared=frozenset({"cluster"}),
)


@pytest.fixture(autouse=True)
def student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STUDENT", "anna")
    monkeypatch.setenv("LABCTL_RUNS_DIR", "/var/lib/labctl/classes/may/students/anna/runs")


def ask(line: str) -> None:
    words, ctx = _read(labctl, ANNA, shlex.split(line))
    require_allowed(ANNA, words, ctx)


@pytest.mark.parametrize(
    "line",
    [
        "lesson list",
        "lesson start which-mode --lang zh",
        "lesson text",
        "lesson answer predict-mode bpf --because 'it is so'",
        "lesson check --lesson lxc-one-way --json",
        "lesson hint",
        "lesson reset observe-mode",
        "lesson solve",
        "lesson stop",
        "list --json",
        "status anna-which-mode --datapath",
        "watch anna-which-mode",
        "diff anna-which-mode",
        "reset anna-which-mode node1",
        "reset anna-which-mode --hard",
        "check anna-which-mode ping",
        "trace anna-which-mode client server",
        "facts anna-which-mode seen --role client-lxc",
        "capture anna-which-mode client-lxc",
        "link anna-which-mode client down",
        "node anna-which-mode node1 stop",
        "impair anna-which-mode client loss=10%",
        "exec anna-which-mode node1 -- ip -d link",
        "up mine.yaml --name anna-which-mode --apply",
        "plan mine.yaml --against anna-which-mode",
        "validate mine.yaml",
        "graph anna-which-mode",
        "status cluster",
        "facts cluster mode.logged",
        "trace cluster client server",
        "report last",
    ],
)
def test_a_student_may(line: str) -> None:
    ask(line)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("lesson start leaves-by", "no lesson of this class"),
        ("lesson check --lesson ../../x", "no lesson of this class"),
        ("lesson start which-mode --student bo", "--student is not for students"),
        ("lesson text --html /etc/cron.d/x", "--html is not for students"),
        ("lesson test which-mode", "not for students"),
        ("status bo-which-mode", "not a lab of yours"),
        ("status annab-which-mode", "not a lab of yours"),
        ("status anna", "not a lab of yours"),
        ("status anna-../x", "not a lab of yours"),
        ("check legacy", "not a lab of yours"),
        ("check anna-which-mode --runs-dir /etc", "--runs-dir is not for students"),
        ("check anna-which-mode --junit /etc/x", "--junit is not for students"),
        ("trace anna-which-mode client server --html x.html", "--html is not for students"),
        ("capture anna-which-mode -w /etc/x", "is not for students"),
        ("exec --privileged anna-which-mode node1 -- id", "--privileged is not for students"),
        ("exec bo-which-mode client -- id", "not a lab of yours"),
        ("exec cluster client -- id", "not a lab of yours"),
        ("check cluster", "not a lab of yours"),
        ("diff cluster", "not a lab of yours"),
        ("reset cluster", "not a lab of yours"),
        ("capture cluster", "not a lab of yours"),
        ("up mine.yaml --name cluster --apply", "not a lab of yours"),
        ("up mine.yaml --name anna-which-mode", "built by its lessons"),
        ("up bpf --name anna-which-mode --apply", "built by its lessons"),
        ("up mine.yaml --name bo-which-mode --apply", "not a lab of yours"),
        ("up mine.yaml --apply", "not a lab of yours"),
        ("up mine.yaml --name anna-which-mode --apply --trust", "--trust is not for students"),
        ("up mine.yaml --name anna-which-mode --apply --provider kind", "--provider is not for students"),
        ("up mine.yaml --name anna-which-mode --apply --set nodes=99", "--set is not for students"),
        ("plan bpf", "not a lab of yours"),
        ("plan mine.yaml --against bo-which-mode", "not a lab of yours"),
        ("plan mine.yaml --against anna-which-mode --shell", "--shell is not for students"),
        ("validate mine.yaml --trust", "--trust is not for students"),
        ("down anna-which-mode", "not for students"),
        ("down --all", "not for students"),
        ("break anna-which-mode wrong-vtep", "not for students"),
        ("mend anna-which-mode", "not for students"),
        ("snapshot load x.yaml", "not for students"),
        ("support anna-which-mode", "not for students"),
        ("class board", "not for students"),
        ("class enter may -- list", "not for students"),
        ("class stop", "not for students"),
        ("report /var/lib/labctl/classes/may/students/bo/runs/x", "said by its name"),
        ("diff anna-which-mode other.yaml", "not for students"),
        ("diff anna-which-mode --trust", "--trust is not for students"),
    ],
)
def test_a_student_may_not(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        ask(line)


SHIPPED = [
    command
    for name in lesson_names(CHECKOUT)
    if (lesson := load_lesson(name, start=CHECKOUT)).document.provider == NETNS
    if (solution := load_solution(lesson, start=CHECKOUT)) is not None
    for solved in solution.tasks.values()
    for command in (*solved.run, *(one for case in solved.cases for one in case.run))
]


@pytest.mark.parametrize("command", sorted(set(SHIPPED)))
def test_a_student_may_type_whatever_a_shipped_solution_types(command: str) -> None:
    ask(filled(command, {"lab": "anna-which-mode"}).removeprefix("labctl "))


def test_a_new_command_is_not_for_students_until_a_rule_says_so() -> None:
    ctx = click.Context(labctl)
    for name in COMMANDS:
        command = labctl.get_command(ctx, name)
        for words in [(name, one) for one in command.commands] if isinstance(command, click.Group) else [(name,)]:
            if words not in RULES:
                with pytest.raises(UsageError, match="not for students"):
                    require_allowed(ANNA, words, click.Context(click.Command("x")))


def test_every_rule_is_of_a_command_and_of_parameters_that_there_are() -> None:
    ctx = click.Context(labctl)
    for words, rule in RULES.items():
        command = labctl.get_command(ctx, words[0])
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        assert command is not None
        assert rule.given <= {one.name for one in command.params}, words


def test_no_rule_lets_a_file_be_named_but_the_scenario_of_a_lab_that_is_up() -> None:
    ctx = click.Context(labctl)
    named = set[tuple[str, str]]()
    for words, rule in RULES.items():
        command = labctl.get_command(ctx, words[0])
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        assert command is not None
        paths = {one.name for one in command.params if isinstance(one.type, click.Path | click.File)}
        named |= {(words[0], str(name)) for name in rule.given & paths}
    assert named == set()


def test_what_exec_runs_is_the_students_user_with_the_capabilities_of_a_pod_for_the_network() -> None:
    argv = ANNA.as_student(("tcpdump", "-i", "eth0"))
    assert argv[:6] == ("setpriv", "--reuid", "1001", "--regid", "1001", "--clear-groups")
    assert "--no-new-privs" in argv
    assert argv[argv.index("--inh-caps") + 1] == "-all,+net_admin,+net_raw,+net_bind_service"
    assert argv[-3:] == ("tcpdump", "-i", "eth0")


@pytest.mark.parametrize(
    ("line", "is_so"),
    [
        ("vtysh -c 'show bgp summary'", True),
        ("vtysh -c 'show ip route' -c 'show bgp l2vpn evpn'", True),
        ("bpftool map dump pinned /sys/fs/bpf/labctl/x/cilium_lxc", True),
        ("bpftool -j prog show", True),
        ("iptables-legacy-save", True),
        ("iptables-save -t nat", True),
        ("sh -c 'iptables-legacy-save | grep -c local'", True),
        ("sh -c 'bpftool map list'", True),
        ("iptables-save -f /etc/x", False),
        ("iptables-restore", False),
        ("iptables-legacy-save -M /tmp/x", False),
        ("sh -c 'iptables-legacy-save | grep -f /etc/shadow'", False),
        ("sh -c 'iptables-legacy-save | grep x /etc/shadow'", False),
        ("sh -c 'iptables-legacy-save | sh'", False),
        ("sh -c 'iptables-legacy-save > /etc/x'", False),
        ("sh -c 'iptables-legacy-save; id'", False),
        ("sh -c 'iptables-legacy-save\nid'", False),
        ("sh -c 'iptables-legacy-save | grep -c local' id", False),
        ("sh -c id", False),
        ("vtysh", False),
        ("vtysh -c 'configure terminal'", False),
        ("vtysh -c 'show running-config | append /etc/passwd'", False),
        ("vtysh -c 'show version\nwrite'", False),
        ("vtysh -f /tmp/x", False),
        ("vtysh -c", False),
        ("bpftool prog dump xlated id 7 file /etc/cron.d/x", False),
        ("bpftool map update id 7 key 0 value 1", False),
        ("bpftool prog load x.o /sys/fs/bpf/x", False),
        ("bpftool batch file x", False),
        ("bpftool map dump id '7; rm'", False),
        ("bpftool -d map show", False),
        ("/tmp/bpftool map show", False),
        ("sh", False),
        ("ip link", False),
    ],
)
def test_as_root_runs_only_what_shows_something(line: str, is_so: bool) -> None:
    argv = tuple(shlex.split(line))
    assert only_shows(argv) is is_so
    assert (ANNA.as_student(argv) == argv) is is_so
