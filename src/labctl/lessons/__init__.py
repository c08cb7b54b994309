"""Lessons that grade themselves against a live lab: variants, progress, tasks, and the author's test."""
