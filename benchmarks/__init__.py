"""Measurements of the whole daemon, run by hand (`make bench`) and in short by `make bench-quick`."""
