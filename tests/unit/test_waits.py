"""Every wait of labctl has a bound: a rule over the source, and a table of the calls that have it elsewhere.

What is looked for: programs that are started or awaited without a time, threads and futures, sockets, locks, polls, and
loops that sleep. A new one fails here until it has a time, or stands in the table with what bounds it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src" / "labctl"

STARTS = {"subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
NEVER_WITHOUT_A_TIME = {"wait", "join", "result", "get", "acquire", "communicate", "select"}
SOCKETS = {"recv", "recvfrom", "recvmsg", "recv_into", "accept", "connect", "create_connection", "open_special"}
PROCESSES = {"os.waitpid", "os.waitid", "os.wait", "os.wait3", "subprocess.Popen", "fcntl.flock", "fcntl.lockf"}
BOUNDS = ("deadline", "monotonic", "_until_s", "until_s", "is_over", "range(")
"""What a function that sleeps in a loop has where it looks at the time."""

OF_THE_ACT = "a thread whose own waits have bounds"
DOES_NOT_WAIT = "the socket does not block"
OF_THE_HARNESS = "a try of the fault harness, which has a time of its own"
MAINTAINERS = "only who changes the C source runs it"
KNOWN: dict[str, str] = {
    "checks/captures.py: one.result": OF_THE_ACT,
    "datapath/source/rebuild.py: subprocess.run": MAINTAINERS,
    "load/source/rebuild.py: subprocess.run": MAINTAINERS,
    "engine/capture.py: ending.result": "asked when it is done",
    "engine/comparison/measure.py: running.result": OF_THE_ACT,
    "load/measure.py: line.client.connect": "a method of the load program, whose answers have a time",
    "load/program.py: self._control.recv": "the socket has a time (settimeout)",
    "providers/cilium/foreign.py: one.result": OF_THE_ACT,
    "providers/cluster/open.py: one.result": OF_THE_ACT,
    "providers/cluster/survey.py: done.result": "asked when it is done",
    "providers/kind/provider.py: self._tell.get": "a ContextVar's value",
    "providers/kubeadm/execute.py: asked.result": OF_THE_ACT,
    "providers/kubeadm/running.py: channel.recv": "asked when there is something to read",
    "providers/kubeadm/running.py: self._channel.recv": "asked when there is something to read",
    "providers/kubeadm/ssh.py: socket.create_connection": "has a time of its own",
    "providers/kubeadm/ssh.py: connect": "labctl's own function, which has a time",
    "providers/netns/kinds/daemon.py: asking.connect": "the socket has a time (settimeout)",
    "providers/netns/kinds/daemon.py: asking.recv": "the socket has a time (settimeout)",
    "providers/netns/kinds/plugin.py: one.result": OF_THE_ACT,
    "system/files.py: fcntl.flock": "of a file that was made a moment before; nobody waits holding its lock",
    "system/files.py: folder.open_special": "a named pipe that the person named: its reader is theirs to start",
    "system/netfilter.py: self._socket.recv": DOES_NOT_WAIT,
    "system/netlink.py: self._socket.recv": "the socket has a time (SO_RCVTIMEO)",
    "system/notices.py: self._socket.recv": DOES_NOT_WAIT,
    "system/pids.py: os.waitpid": "it has ended, was killed, or is the first process of a namespace and ends with it",
    "system/pids.py: os.wait": "the first process of `labctl exec` lives as long as what the person started there",
    "system/process.py: order.done.result": "the thread that starts processes, which does nothing else",
    "system/process.py: self._orders.get": "that thread's own wait for work: it ends with labctl",
    "system/process.py: subprocess.Popen": "the door: what it starts is awaited with a time, and dies with labctl",
    "testing/faults/experiment.py: os.waitpid": OF_THE_HARNESS,
    "testing/faults/experiment.py: poll.poll": OF_THE_HARNESS,
    "testing/faults/session.py: os.waitpid": OF_THE_HARNESS,
    "testing/faults/world.py: os.waitpid": OF_THE_HARNESS,
    "system/signals.py: _STOPS.get": "a ContextVar's value",
    "system/signals.py: one.result": "asked when all are done",
    "system/signals.py: wait": "they have been told to stop, and each of their waits heeds that",
}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """What may wait in that module, as the table names it, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = path.relative_to(SOURCES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and may_wait(node):
            yield f"{module}: {ast.unparse(node.func)}", node.lineno
        if isinstance(node, ast.FunctionDef) and sleeps_without_a_bound(node):
            yield f"{module}: sleep in {node.name}", node.lineno


def may_wait(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    given = {keyword.arg for keyword in call.keywords}
    if function in STARTS:
        return "timeout" not in given
    if function in PROCESSES:
        return not any(word in ast.unparse(call) for word in ("WNOHANG", "LOCK_NB"))
    if function == "select.select":
        return len(call.args) < 4
    if name in NEVER_WITHOUT_A_TIME and isinstance(call.func, ast.Attribute):
        is_text = isinstance(call.func.value, ast.Constant)
        return not call.args and not given & {"timeout", "timeout_s"} and not is_text
    if name == "poll" and isinstance(call.func, ast.Attribute) and not call.args:
        return function not in ("select.poll", "select.epoll") and not function.endswith(("process.poll", "popen.poll"))
    if function == "wait":  # of concurrent.futures
        return "timeout" not in given
    return name in SOCKETS


def sleeps_without_a_bound(function: ast.FunctionDef) -> bool:
    loops = [node for node in ast.walk(function) if isinstance(node, ast.While)]
    slept = any(
        isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep"
        for loop in loops
        for node in ast.walk(loop)
    )
    return slept and not any(bound in ast.unparse(function) for bound in BOUNDS)


FOUND = {what: f"{path}:{line}" for path in sorted(SOURCES.rglob("*.py")) for what, line in calls(path)}


def test_no_wait_is_without_a_bound() -> None:
    unknown = {what: place for what, place in FOUND.items() if what not in KNOWN}
    assert not unknown, "give it a time, or say in KNOWN what bounds it"


def test_the_table_names_nothing_that_is_gone() -> None:
    assert not set(KNOWN) - set(FOUND)


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("subprocess.run(argv)", True),
        ("subprocess.run(argv, timeout=5)", False),
        ("process.wait()", True),
        ("process.wait(timeout_s=5)", False),
        ("', '.join(x)", False),
        ("thread.join()", True),
        ("fcntl.flock(d, fcntl.LOCK_EX)", True),
        ("fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB)", False),
        ("os.waitpid(pid, 0)", True),
        ("selector.select()", True),
        ("selector.select(0.5)", False),
        ("sock.recv(10)", True),
    ],
)
def test_the_rule_sees_what_waits(source: str, is_found: bool) -> None:
    call = ast.parse(source).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert may_wait(call.value) == is_found


def test_the_rule_sees_a_loop_that_only_sleeps() -> None:
    endless = "def f():\n    while not done():\n        time.sleep(1)\n"
    bounded = "def f():\n    deadline = 1\n    while not done(deadline):\n        time.sleep(1)\n"
    for source, is_found in ((endless, True), (bounded, False)):
        function = ast.parse(source).body[0]
        assert isinstance(function, ast.FunctionDef)
        assert sleeps_without_a_bound(function) == is_found
