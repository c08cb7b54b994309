"""`labctl validate FILE…`: every problem of scenario files, without building anything."""

from __future__ import annotations

import sys

import click

from labctl.cli.options import all_overrides, as_json, provider_option, set_option, trust_option
from labctl.cli.output import emit, emit_json, tell, wrapped
from labctl.errors import Problem


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@provider_option
@set_option
@trust_option
@as_json
def command(
    files: tuple[str, ...], provider: str | None, overrides: tuple[str, ...], trust: bool, as_json: bool
) -> int:
    """Check scenario files (names or paths): every problem at once, with its location.

    What the scenario's provider, or the one of --provider, cannot build is a problem too. What is allowed and seldom
    meant is a warning, and the file is valid.
    """
    from labctl import app
    from labctl.loading import validate_files

    found = validate_files(files, overrides=all_overrides(provider, overrides), refuse=app.refuse, trust=trust)
    problems = tuple(problem for problem in found if not problem.is_warning)
    warnings = tuple(problem for problem in found if problem.is_warning)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Validation",
                "valid": not problems,
                "problems": [_record(problem) for problem in problems],
                "warnings": [_record(warning) for warning in warnings],
            }
        )
    else:
        for problem in found:
            tell(wrapped(str(problem), sys.stderr))
        if not problems:
            emit(f"{len(files)} files are valid" if len(files) > 1 else f"{files[0]} is valid")
        else:
            wrong = len({problem.file for problem in problems})
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            where = "1 file" if wrong == 1 else f"{wrong} files"
            said = f"{count} in {where}; docs/scenario.md explains every key"
            tell(wrapped(said, sys.stderr))
    return 2 if problems else 0


def _record(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
        "allowed": problem.allowed,
        "suggestion": problem.suggestion,
    }
