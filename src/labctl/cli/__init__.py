"""The command line. The only code that prints or exits; one module per command, imported when it is run."""

from labctl.cli.group import main

__all__ = ["main"]
