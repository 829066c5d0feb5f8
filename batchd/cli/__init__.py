"""The command line: one module for each family of commands.

Commands of clients talk HTTP to a daemon and never open its storage. They must start quickly, so
that only ``serve``, ``check`` and a bar on a terminal import anything heavy, inside the function.
"""
