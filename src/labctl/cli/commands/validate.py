"""`labctl validate FILE…`: every problem of scenario files, without building anything."""

from __future__ import annotations

import sys

import click

from labctl.cli.options import all_overrides, as_json, provider_option, set_option, trust_option
from labctl.cli.output import emit, emit_json, tell, wrapped


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

    What the scenario's provider, or the one of --provider, cannot build is a problem too.
    """
    from labctl import app
    from labctl.loading import validate_files

    problems = validate_files(files, overrides=all_overrides(provider, overrides), refuse=app.refuse, trust=trust)
    if as_json:
        emit_json(
            {
                "apiVersion": "labctl/v1",
                "kind": "Validation",
                "valid": not problems,
                "problems": [
                    {
                        "file": p.file,
                        "line": p.line,
                        "column": p.column,
                        "path": p.path,
                        "message": p.message,
                        "allowed": p.allowed,
                        "suggestion": p.suggestion,
                    }
                    for p in problems
                ],
            }
        )
    else:
        for problem in problems:
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
