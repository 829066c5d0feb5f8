"""placeholder until the inbox module is written"""


class Inbox:
    pass
