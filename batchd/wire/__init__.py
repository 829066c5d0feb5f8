"""OpenAI's JSON, both directions, and what batchd adds to it. Pure: no I/O, no clock.

``objects`` is what clients see, ``params`` and ``wishes`` what they ask for (``checks`` says what
is wrong with it, ``requests`` describes it), ``lines`` the lines of input and result files.
"""
