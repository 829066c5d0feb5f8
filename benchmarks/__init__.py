"""Measurements of the whole daemon: `make bench`, `make bench-recovery`."""
