"""Faults put into a program at the calls by which it changes the machine, each in a world that nothing of it leaves."""
