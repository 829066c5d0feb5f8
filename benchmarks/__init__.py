"""Measurements of the whole daemon: `make bench`, and in short `make bench-quick`."""
