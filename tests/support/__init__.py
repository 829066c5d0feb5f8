"""What the tests lean on: a scripted model server, the real program as a process, and oracles.

Nothing here imports batchd, so that a mistake in batchd cannot hide itself in its own tests.
"""
