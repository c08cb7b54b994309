"""`python -m labctl`, which the launcher runs."""

import sys

try:
    from labctl.cli import main
except KeyboardInterrupt:
    # Ctrl-C while modules are still read in, which nothing else can answer yet.
    sys.exit(130)
main()
