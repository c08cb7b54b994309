"""Carries things out: applies plans with undo, runs checks, proves modes, interleaves sides.

Knows providers, checks and observers as Protocols only; never prints, never names a concrete provider.
"""
