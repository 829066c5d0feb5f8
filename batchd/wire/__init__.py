"""OpenAI's JSON, both directions. Pure: no I/O, no clock.

``objects`` is what clients see, ``params`` what they ask for, ``lines`` the lines of input and
result files.
"""
