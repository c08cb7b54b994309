"""The `labctl` command: which subcommands there are, and how every error becomes lines and an exit code.

Subcommands are imported when they are called, so that `labctl --help` costs an interpreter and click.
"""

from __future__ import annotations

import errno
import gc
import importlib
import itertools
import resource
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence

import click

from labctl import __version__
from labctl.cli.output import speak, spoken, tell, translated, work_on, worked_on
from labctl.cli.streams import enter_utf8_mode, open_standard_streams, reader_gone
from labctl.errors import LabError, NeedsRoot, StepFailed, TimedOut
from labctl.language import Language
from labctl.text import cells, filled

# name → (module in labctl.cli.commands, the line that `labctl --help` shows)
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "Build the lab of a scenario."),
    "down": ("down", "Remove labs, and nothing else."),
    "list": ("list_labs", "The labs on this host."),
    "status": ("status", "What a lab is, and which mode is in force."),
    "diff": ("diff", "What of a lab is missing, changed or extra."),
    "reset": ("reset", "Mend that, or build the lab again."),
    "services": ("services", "The Services that a lab's nodes translate."),
    "watch": ("watch", "One live screen of a lab: nodes, links, counters, events."),
    "events": ("events", "What happens in a lab, as it happens."),
    "link": ("link", "A lab's links: list them, take one down and up again."),
    "node": ("node", "Stop a node or router, start it as the plan says."),
    "impair": ("impair", "Loss, delay, a rate and the like on a link of a lab."),
    "break": ("break_lab", "Put a fault into a lab, to look for it."),
    "mend": ("mend", "Heal what was broken."),
    "enable": ("enable", "Bring a lab back whenever this host is started."),
    "disable": ("disable", "Undo labctl enable."),
    "snapshot": ("snapshot", "A lab with its changes in one file, and the same lab from it."),
    "plan": ("plan", "What `up` would do, as text, JSON or a shell script."),
    "images": ("images", "The images and the chart that a lab is made from."),
    "bundle": ("bundle", "Pack them into one file, for hosts without a network."),
    "validate": ("validate", "Check scenario files without building anything."),
    "check": ("check", "Run a lab's checks and judge them."),
    "compare": ("compare", "Measure scenarios against each other, interleaved."),
    "trace": ("trace", "The whole path of a packet between two pods, hop by hop."),
    "facts": ("facts", "What can be read from a lab, each thing by its name."),
    "graph": ("graph", "What a lab is made of, as text or as a picture."),
    "capture": ("capture", "Capture at many taps at once, live or into one pcapng file."),
    "matrix": ("matrix", "Measure what a matrix file lists; resumes after an interruption."),
    "lesson": ("lesson", "Lessons that grade themselves against a live lab."),
    "class": ("classroom", "Lessons for many students on this host, with a board."),
    "runs": ("runs", "The runs on disk, and how they ended."),
    "report": ("report", "Show a stored run again, in any form."),
    "exec": ("exec_in", "Run a command in a pod or on a node."),
    "support": ("support", "Everything about a lab in one archive, without its secrets."),
    "survey": ("survey", "What every node of a cluster says, and which differ from the rest."),
    "doctor": ("doctor", "What this host has and lacks, with the command that fixes it."),
    "schema": ("schema", "The JSON Schema of scenario files."),
}

_LANG = "lang"
_LONGEST_S = 365 * 24 * 3600
WIDEST_HELP, LEAST_HELP = 110, 20
_NARROW_HELP = 60
"""Columns of help."""


class _HelpFormatter(click.HelpFormatter):
    """On a narrow terminal what an option does stands under it: beside it there would be room for one word per line."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        beside = col_max if self.width >= _NARROW_HELP else 8
        if spoken() is Language.ENGLISH:
            super().write_dl(rows, beside, col_spacing)
            return
        rows = tuple(rows)
        column = min(max((cells(name) for name, _ in rows), default=0), beside) + col_spacing + self.current_indent
        for name, text in rows:
            head = " " * self.current_indent + name
            if cells(head) + col_spacing > column:
                self.write(f"{head}\n")
                head = ""
            head += " " * (column - cells(head))
            self.write(filled(translated(text), self.width, indent=head, more=" " * column) + "\n")

    def write_text(self, text: str) -> None:
        if spoken() is Language.ENGLISH:
            super().write_text(text)
            return
        indent = " " * self.current_indent
        said = []
        for paragraph in text.split("\n\n"):
            first, *lines = paragraph.strip().split("\n")
            if first.strip() == "\b":  # click's sign for lines that stay as they are
                said.append("\n".join(indent + line.strip() for line in lines))
            else:
                one = translated(" ".join(paragraph.split()))
                said.append(filled(one, self.width, indent=indent, more=indent))
        self.write("\n\n".join(said) + "\n")

    def write_heading(self, heading: str) -> None:
        super().write_heading(translated(heading))

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, f"{translated('Usage:')} " if prefix is None else prefix)


class _Context(click.Context):
    formatter_class = _HelpFormatter


class LazyGroup(click.Group):
    """Subcommands by name, imported on use."""

    context_class = _Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"labctl.cli.commands.{COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            one.context_class = _Context
            if any(option.name == _LANG for option in one.params):
                continue
            if not isinstance(one, click.Group) and cmd_name not in BECOMES_ANOTHER:
                one.params.append(_timeout_option())
            one.params.append(_lang_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near:
                ctx.fail(f"there is no command '{args[0]}': did you mean '{near[0]}'?")
            ctx.fail(f"there is no command '{args[0]}'")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _lang_option() -> click.Option:
    """`speak` has read it already when a command gets it: errors in the command line are in that language too."""
    return click.Option(
        ["--lang"],
        type=click.Choice([str(language) for language in Language]),
        expose_value=False,
        help="The language of reports, messages and help (default: the locale's).",
    )


BECOMES_ANOTHER = ("exec",)
"""Commands that labctl is no longer in once they run: what bounds them is `timeout 10 labctl exec …`."""


def _timeout_option() -> click.Option:
    return click.Option(
        ["--timeout"],
        type=float,
        metavar="SECONDS",
        callback=_limit,
        expose_value=False,
        help="End the command after that time, undone as by Ctrl-C, with exit code 4 (0: every wait's own bound).",
    )


def _limit(ctx: click.Context, option: click.Parameter, limit_s: float | None) -> None:
    """From here to the end of the command. The module for signals is imported where a limit is asked for alone."""
    if not limit_s:
        return
    if not 0 <= limit_s <= _LONGEST_S:
        raise click.BadParameter("it is a number of seconds from 0 to 31536000 (a year)", ctx=ctx, param=option)
    from labctl.system.signals import TimeLimit

    def over() -> TimedOut:
        doing = worked_on()
        return TimedOut(
            what=f"{ctx.command_path} did not end within {limit_s:g} s",
            cause=f"it was at: {doing}" if doing else "",
            remedy="the same command with a longer --timeout",
        )

    ctx.with_resource(TimeLimit(limit_s, over))


def _asked_language(args: Sequence[str]) -> str | None:
    """The last `--lang` before `--`, whether or not the rest of the line can be read."""
    own = list(itertools.takewhile(lambda arg: arg != "--", args))
    asked = [after for option, after in itertools.pairwise((*own, "")) if option == "--lang"]
    asked += [arg.partition("=")[2] for arg in own if arg.startswith("--lang=")]
    return asked[-1] if asked else None


@click.command(
    cls=LazyGroup,
    params=[_lang_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST_HELP},
    epilog="Exit codes: 0 all well · 1 a check failed or a threshold was crossed · 2 usage or invalid scenario · "
    "3 the host lacks something · 4 a step failed or a check could not measure · 130 interrupted.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks with errors.")
@click.version_option(__version__, prog_name="labctl")
def labctl(verbose: bool) -> None:
    """Reproducible network labs that prove what a datapath does.

    Start with: labctl compare legacy bpf
    """
    del verbose  # main() reads it: it has to act when no command object exists yet


def main() -> None:
    """Runs the command line and ends the process with the exit code of the contract."""
    enter_utf8_mode()
    open_standard_streams()
    code = run(sys.argv[1:])
    # The interpreter looks for garbage once more before it ends, in all that modules made: 0.05 to 0.2 s, for memory
    # that goes with the process.
    gc.freeze()
    sys.exit(code)


def run(args: list[str]) -> int:
    """Runs one command line; gives the exit code. Errors go to stderr."""
    speak(_asked_language(args))
    work_on("")
    verbose = bool({"-v", "--verbose"} & set(args[:1]))
    try:
        width = max(min(shutil.get_terminal_size().columns, WIDEST_HELP) - 2, LEAST_HELP)
        code = labctl.main(args=args, prog_name="labctl", standalone_mode=False, terminal_width=width)
        return code if isinstance(code, int) else 0
    except NeedsRoot as error:
        from labctl.cli.options import as_root

        _show(NeedsRoot(error.what, error.cause, as_root()).lines(), verbose)
        return error.exit_code
    except LabError as error:
        _show((out_of_files(error) or error).lines(), verbose)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as bare:
        bare.show()
        return 2
    except click.ClickException as wrong:
        _show(_usage(wrong), verbose)
        return 2
    except (click.Abort, KeyboardInterrupt):
        _show(("interrupted",), verbose)
        return 130
    except SystemExit:
        # Nothing in labctl leaves so. click does, with 1, which means that a check failed, when the reader of its help
        # went away (`labctl --help | head`): that is its right.
        reader_gone()
        return 0
    except Exception as bug:
        full = out_of_files(bug)
        if full is not None:
            _show(full.lines(), verbose)
            return full.exit_code
        # Not the caller's fault and not a verdict: exit 4, never 1, which means that a check failed.
        tell(f"{traceback.format_exc()}error: labctl itself failed: {type(bug).__name__}: {bug}")
        return LabError.exit_code


def out_of_files(error: BaseException) -> LabError | None:
    """What to do when this process, or the whole host, has too many files open: the reason behind an error, where that
    is it. A lab's namespaces, captures and counters each take some."""
    behind: BaseException | None = error
    while behind is not None and getattr(behind, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        behind = behind.__cause__ or behind.__context__
    if not isinstance(behind, OSError):
        return None
    what = error.what if isinstance(error, LabError) else "labctl cannot open any more files"
    mine, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if behind.errno == errno.ENFILE:
        remedy = "cat /proc/sys/fs/file-nr\nsudo sysctl -w fs.file-max=1000000  # then the same command"
        return StepFailed(what, "the whole host has too many files open", remedy)
    wanted = min(max(65536, mine * 4), most) if most != resource.RLIM_INFINITY else max(65536, mine * 4)
    remedy = f"ulimit -n {wanted}  # then the same command"
    if wanted <= mine:
        remedy = f"sudo prlimit --pid $$ --nofile={mine * 4}  # then the same command"
    return StepFailed(what, f"too many files are open: this process may have {mine} (ulimit -n)", remedy)


def _usage(wrong: click.ClickException) -> tuple[str, ...]:
    """What click found wrong with the command line, in the words of every other error."""
    message, is_told = _what_is_wrong(wrong)
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    told = context is None or is_told
    return (
        f"error: {message[:1].lower()}{message[1:]}",
        *(() if told or context is None else (f"  why: usage: {context.command_path} {_pieces(context)}",)),
        f"  try: {context.command_path if context else 'labctl'} --help",
    )


def _what_is_wrong(wrong: click.ClickException) -> tuple[str, bool]:
    """The message, and whether it leads on by itself. click's own words change; these two are ours."""
    if isinstance(wrong, click.MissingParameter) and wrong.param is not None:
        return f"missing {wrong.param.param_type_name} '{wrong.param.human_readable_name}'", False
    if isinstance(wrong, click.NoSuchOption):
        if wrong.possibilities:
            return f"there is no option '{wrong.option_name}': did you mean '{sorted(wrong.possibilities)[0]}'?", True
        return f"there is no option '{wrong.option_name}'", False
    message = wrong.format_message().rstrip(".")
    return message, message.endswith("'?")  # a command's name, which resolve_command tells


def _pieces(context: click.Context) -> str:
    return " ".join(context.command.collect_usage_pieces(context))


def _show(lines: tuple[str, ...], verbose: bool) -> None:
    if verbose:
        tell(traceback.format_exc().rstrip())
    for line in lines:
        tell(line)
