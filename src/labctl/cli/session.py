"""What a student of a class may do with labctl, which runs as root: lessons of the class, and their own labs.

Every command that is not named here is refused, and every option; a lab has to be the student's own; no file is read or
written by a path that the student gives, but a scenario for a lab that is up. What `labctl exec` runs is not root: it
is the student's user, with the capabilities for the network that a pod's programs have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from labctl.errors import UsageError
from labctl.model.lab import NETNS
from labctl.names import is_name
from labctl.system import users
from labctl.system.files import person
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.lessons.classrooms import Classrooms

_ALWAYS = frozenset({"as_json", "lang"})
_SHOWS = re.compile(r"show [A-Za-z0-9 ./:_-]{0,120}")
_WORD = re.compile(r"-?-?[A-Za-z0-9./:_-]{1,120}")
_READING = ("show", "list", "dump", "lookup")
"""Of bpftool: it writes nothing with these, but for `dump … file`."""
_MOST_NODES, _MOST_PODS = 16, 64
_SAVES = ("iptables-save", "iptables-legacy-save", "iptables-nft-save")
_TABLES = ("filter", "nat", "mangle", "raw", "security")
_PIPED = re.compile(r"(?P<shows>[A-Za-z0-9_./ -]{1,120}?)( \| grep( -[civn]{1,4})? [A-Za-z0-9_][A-Za-z0-9_:.-]{0,40})?")
_NETWORK = "-all,+net_admin,+net_raw,+net_bind_service"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSession:
    """Who asks, in which class. `folder` is where the student stands; `lessons` are those of the class; `records` is
    the folder of the class."""

    class_name: str
    student: str
    user: str
    uid: int
    gid: int
    home: str
    folder: Path
    lessons: tuple[str, ...]
    records: Path
    shared: frozenset[str] = frozenset()
    """Labs of the trainer's that lessons of the class look at."""

    @property
    def prefix(self) -> str:
        return f"{self.student}-"

    def owns(self, lab: str) -> bool:
        return is_name(lab) and lab.startswith(self.prefix)

    def as_student(self, argv: Sequence[str]) -> tuple[str, ...]:
        """A program in a pod or on a node as the student's user. What only shows something that the kernel or a
        routing daemon wants root for stays as it is."""
        if only_shows(argv):
            return tuple(argv)
        return (
            "setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups", "--no-new-privs",
            "--inh-caps", _NETWORK, "--ambient-caps", _NETWORK, "--",
            "env", f"HOME={self.home}", f"USER={self.user}", f"LOGNAME={self.user}", *argv,
        )  # fmt: skip


def session_of(ctx: click.Context | None) -> StudentSession | None:
    return None if ctx is None else ctx.find_object(StudentSession)


def current_session() -> StudentSession | None:
    """None unless a student of a class asks."""
    return session_of(click.get_current_context(silent=True))


def only_shows(argv: Sequence[str]) -> bool:
    """`vtysh -c 'show …'`, `bpftool … show|list|dump|lookup`, `iptables-save` of either kind, and the last two in `sh
    -c` before one grep for a word: nothing in them runs, reads or writes a file."""
    if list(argv[:2]) == ["sh", "-c"] and len(argv) == 3:
        line = _PIPED.fullmatch(argv[2])
        return line is not None and only_shows(line["shows"].split(" "))
    if argv and argv[0] in _SAVES:
        return list(argv[1:]) == [] or (len(argv) == 3 and argv[1] == "-t" and argv[2] in _TABLES)
    if list(argv[:1]) == ["vtysh"]:
        words = list(argv[1:])
        return bool(words) and len(words) % 2 == 0 and all(
            option == "-c" and _SHOWS.fullmatch(said) for option, said in zip(words[::2], words[1::2], strict=True)
        )  # fmt: skip
    if list(argv[:1]) == ["bpftool"]:
        words = [word for word in argv[1:] if word not in ("-j", "-p", "--json", "--pretty")]
        return (
            len(words) >= 2
            and words[0] in ("map", "prog", "net", "link")
            and words[1] in _READING
            and all(_WORD.fullmatch(word) and not word.startswith("-") for word in words)
            and not {"file", "visual"} & set(words)
        )
    return False


# ---- what may be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Of one command: the parameters that a student may give, and what must be true of their values."""

    given: frozenset[str]
    holds: Callable[[StudentSession, Mapping[str, Any]], None]


def _own_lab(session: StudentSession, given: Mapping[str, Any]) -> None:
    lab = str(given["lab"])
    if not session.owns(lab):
        raise UsageError(
            what=f"{lab[:60]} is not a lab of yours",
            cause=f"the names of your labs begin with {session.prefix}",
            remedy="labctl list",
        )


def _lab_to_look_at(session: StudentSession, given: Mapping[str, Any]) -> None:
    """One's own, or one of the trainer's that a lesson of the class looks at."""
    if str(given["lab"]) not in session.shared:
        _own_lab(session, given)


def _anything(session: StudentSession, given: Mapping[str, Any]) -> None:
    del session, given


def _own_run(session: StudentSession, given: Mapping[str, Any]) -> None:
    del session
    if "/" in str(given["run"]):
        raise UsageError(what="a run is said by its name", cause="it is one of your own", remedy="labctl runs")


def _lesson_of_the_class(session: StudentSession, given: Mapping[str, Any]) -> None:
    name = given.get("name")
    if name and name not in session.lessons:
        raise UsageError(
            what=f"{str(name)[:60]} is no lesson of this class",
            cause=f"its lessons are: {', '.join(session.lessons)}",
            remedy=f"labctl lesson start {session.lessons[0]}",
        )


def _change_of_own_lab(session: StudentSession, given: Mapping[str, Any]) -> None:
    """`labctl up FILE --name LAB --apply`, of a file of the student's own folder, in netns."""
    _own_lab(session, {"lab": given.get("name") or ""})
    if not given.get("applies") or not str(given["scenario"]).endswith(".yaml"):
        raise UsageError(
            what="labs of a class are built by its lessons",
            cause="a student brings a lab that is up to a scenario file, and builds no other",
            remedy=f"labctl up FILE.yaml --name {session.prefix}LESSON --apply",
        )


def _plan_for_own_lab(session: StudentSession, given: Mapping[str, Any]) -> None:
    """`labctl plan FILE --against LAB`: what `up --apply` would do."""
    _own_lab(session, {"lab": given.get("against") or ""})


def _check_of_own_lab(session: StudentSession, given: Mapping[str, Any]) -> None:
    _own_lab(session, {"lab": given["lab_or_scenario"]})


def _graph_of_own_lab(session: StudentSession, given: Mapping[str, Any]) -> None:
    _own_lab(session, {"lab": given["what"]})


def _on_own_lab(*given: str) -> Rule:
    return Rule(given=frozenset({"lab", *given}), holds=_own_lab)


def _looking(*given: str) -> Rule:
    return Rule(given=frozenset({"lab", *given}), holds=_lab_to_look_at)


def _in_lesson(*given: str) -> Rule:
    return Rule(given=frozenset({"name", *given}), holds=_lesson_of_the_class)


RULES: Mapping[tuple[str, ...], Rule] = MappingProxyType(
    {
        ("lesson", "list"): Rule(given=frozenset(), holds=_anything),
        ("lesson", "start"): _in_lesson(),
        ("lesson", "text"): _in_lesson(),
        ("lesson", "answer"): _in_lesson("task", "value", "reason"),
        ("lesson", "check"): _in_lesson("task"),
        ("lesson", "hint"): _in_lesson(),
        ("lesson", "reset"): _in_lesson("task"),
        ("lesson", "solve"): _in_lesson(),
        ("lesson", "stop"): _in_lesson(),
        ("list",): Rule(given=frozenset(), holds=_anything),
        ("status",): _looking("no_proof", "datapath"),
        ("diff",): _on_own_lab(),
        ("reset",): _on_own_lab("parts", "hard"),
        ("services",): _on_own_lab(),
        ("watch",): _on_own_lab("no_proof"),
        ("events",): _on_own_lab("for_s", "count"),
        ("link",): _on_own_lab("words", "every_s", "for_s"),
        ("node",): _on_own_lab("node", "act"),
        ("impair",): _on_own_lab("link", "words", "for_s", "clear"),
        ("check",): Rule(given=frozenset({"lab_or_scenario", "names"}), holds=_check_of_own_lab),
        ("trace",): _looking("client", "server", "protocol", "count", "no_run"),
        ("facts",): _looking("names", "client", "server", "role", "way", "node", "protocol"),
        ("graph",): Rule(given=frozenset({"what", "mermaid", "traced"}), holds=_graph_of_own_lab),
        ("capture",): _on_own_lab("taps", "expression", "count", "duration", "snap", "sanity", "only_list"),
        ("exec",): _on_own_lab("target", "argv"),
        ("up",): Rule(given=frozenset({"scenario", "name", "applies"}), holds=_change_of_own_lab),
        ("plan",): Rule(given=frozenset({"scenario", "against"}), holds=_plan_for_own_lab),
        ("validate",): Rule(given=frozenset({"files"}), holds=_anything),
        ("runs",): Rule(given=frozenset(), holds=_anything),
        ("report",): Rule(given=frozenset({"run"}), holds=_own_run),
    }
)
"""By the words of the command. `--student` is nobody's to give: it is the user who asks."""

STANDS_IN_OWN_FOLDER = frozenset({("exec",), ("up",), ("plan",), ("validate",)})
"""Everything else looks for lessons and lab.yaml where the trainer started the class."""


def require_allowed(session: StudentSession, words: tuple[str, ...], ctx: click.Context) -> None:
    """`ctx` is the command's, its line read and nothing done yet. Raises UsageError."""
    rule = RULES.get(words)
    name = " ".join(("labctl", *words))
    if rule is None:
        raise UsageError(
            what=f"{name} is not for students of a class",
            cause="the trainer's server is root's; a student has lessons, and the labs of these",
            remedy="labctl lesson list",
        )
    told = {
        parameter.name: parameter
        for parameter in ctx.command.params
        if parameter.name and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    }
    for key, parameter in told.items():
        if key not in rule.given | _ALWAYS:
            shown = parameter.opts[0] if parameter.opts else key
            raise UsageError(
                what=f"{name} {shown} is not for students of a class",
                cause="it reads or writes files, or reaches beyond your own labs, as root",
                remedy=f"{name}, without {shown}",
            )
    rule.holds(session, ctx.params)


# ---- as root, for a student


def enter_session(classrooms: Classrooms, ctx: click.Context, name: str, argv: Sequence[str]) -> Any:
    """Runs the command line of a student's as root, after holding it against the rules. Raises UsageError."""
    from labctl.lessons.ending import session_lock

    session = _session(classrooms, name)
    os.environ["LABCTL_STUDENT"] = session.student
    classroom = classrooms.chosen(name)
    os.environ["LABCTL_RUNS_DIR"] = str(classrooms.runs_folder(classroom, session.student))
    words, command_ctx = _read(ctx.find_root().command, session, argv)
    with command_ctx:
        require_allowed(session, words, command_ctx)
        if words in (("up",), ("plan",)):
            command_ctx.params["provider"] = NETNS
            _require_small(session, Path(command_ctx.params["scenario"]))
        if words not in STANDS_IN_OWN_FOLDER:
            os.chdir(classroom.folder)
        with session_lock(name, session.student):
            return command_ctx.command.invoke(command_ctx)


def _session(classrooms: Classrooms, name: str) -> StudentSession:
    """Who asks is known by sudo, which alone says so to a process of root's whose environment was dropped."""
    who, classroom = person(), classrooms.chosen(name)
    user = users.find(os.environ.get("SUDO_USER", ""))
    student = next((one for one in classroom.students if user is not None and one.user == user.name), None)
    if user is None or student is None or (user.uid, user.uid) != (who.uid, student.uid):
        raise UsageError(
            what="labctl class enter is for students, by their own labctl",
            cause=f"the user behind sudo is no student of class {name[:60]}",
            remedy="labctl class --help",
        )
    if classroom.stopped_at:
        raise UsageError(what=f"class {classroom.name} is over", remedy="ask the trainer")
    return StudentSession(
        class_name=classroom.name,
        student=student.name,
        user=user.name,
        uid=user.uid,
        gid=user.gid,
        home=user.home,
        folder=Path.cwd(),
        lessons=tuple(lesson.name for lesson in classroom.lessons),
        records=classrooms.folder(classroom.name),
        shared=frozenset(lesson.shared.name for lesson in classroom.lessons if lesson.shared is not None),
    )


def _read(root: click.Command, session: StudentSession, argv: Sequence[str]) -> tuple[tuple[str, ...], click.Context]:
    """The words of the command, and its context: the line read, nothing done. Groups lead on to their commands."""
    at, parent, rest, words = root, None, list(argv), list[str]()
    while True:
        ctx = at.make_context(words[-1] if words else "labctl", rest, parent=parent, obj=session)
        if not isinstance(at, click.Group):
            return tuple(words), ctx
        name, found, rest = at.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        if name is None or found is None:
            raise UsageError(what="a command is missing", remedy="labctl lesson list")
        words.append(name)
        at, parent = found, ctx


def _require_small(session: StudentSession, path: Path) -> None:
    """A scenario of the student's own: no lab that the server has no room for. Raises UsageError, ScenarioInvalid."""
    from labctl.loading import load_scenario

    scenario = load_scenario(path, overrides=(f"provider={NETNS}",), lab_name=session.student)
    if len(scenario.nodes) > _MOST_NODES or len(scenario.pods) > _MOST_PODS:
        raise UsageError(
            what=f"{path.name} is too large for a class: {len(scenario.nodes)} nodes, {len(scenario.pods)} pods",
            cause=f"a student's lab has at most {_MOST_NODES} nodes and {_MOST_PODS} pods",
            remedy="a smaller one",
        )
