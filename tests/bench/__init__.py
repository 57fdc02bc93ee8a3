"""Loom's numbers beside those of its peers, measured in one run: see `__main__`."""
