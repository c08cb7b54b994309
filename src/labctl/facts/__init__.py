"""What labctl can read from a live lab, each thing by its name: the closed registry is `model/fact.py`."""
