"""Runs on disk: one directory for everything that one execution was asked, did and saw."""
