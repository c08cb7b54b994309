"""`python -m labctl`, which the launcher runs."""

from labctl.cli import main

main()
