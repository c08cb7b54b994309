"""Faults: one table of what can be broken in a lab, what one sees of it, what finds it, and its repair. Pure."""
