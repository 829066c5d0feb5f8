"""The parts that must survive a crash, on a disk and in a time that are simulated."""
