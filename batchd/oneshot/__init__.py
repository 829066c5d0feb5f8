"""One file, run without a daemon: the same engine and ledger, in a directory beside the results."""
