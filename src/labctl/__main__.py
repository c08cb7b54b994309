"""`python -m labctl`, which the launcher runs."""

import gc
import sys

# Reading in modules makes many objects that all stay: looking for garbage every 700 of them finds none, and takes a
# tenth of a command's CPU time.
gc.set_threshold(20_000, 20, 50)

try:
    from labctl.cli import main
except KeyboardInterrupt:
    # Ctrl-C while modules are still read in, which nothing else can answer yet.
    sys.exit(130)
main()
