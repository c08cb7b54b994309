"""Order, pairing, statistics and verdicts of comparisons. Pure."""
