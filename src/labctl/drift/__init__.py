"""Observed against wanted, as values, and the least change from one to the other. Pure:

    plan ─ wanted ─► Wanted ─┐
                             ├─ compare ─► Delta, each a Difference with its repair ─ repairs ─► steps of a plan
    lab ─ (read) ─► Observed ┘

Reading a lab and carrying out steps is its provider's.
"""
