"""The command line. The only code that prints or exits; one module a command, imported when it is run."""

from labctl.cli.group import main

__all__ = ["main"]
