"""Exit codes, and what can go wrong in a command as one sentence for a person.

``main`` prints the sentence and exits with the code; nothing here ends in a traceback.
"""

from batchd.errors import BatchdError

DONE, FAILED, BAD_CONFIGURATION = 0, 1, 78  # and 2, which click gives for wrong usage
NOT_ACCEPTED, NOT_FOUND = 401, 404
_SERVER_ERROR = 500
_BAD_GATEWAY, _GATEWAY_TIMEOUT = 502, 504


class CommandFailed(BatchdError):
    """The command could not do what it was asked to do."""


class Unreachable(CommandFailed):
    """There was no answer, or half of one. Worth another try while waiting for a batch."""

    passing = True


class Refused(CommandFailed):
    """The daemon answered, but not with a 200."""

    def __init__(self, message: str, *, status: int, retriable: bool = True) -> None:
        super().__init__(message)
        self.status = status
        # False: the daemon said that the same request will be refused again.
        self._retriable = retriable

    def advised(self, advice: str, status: int) -> "Refused":
        """With what to do about it, if it has this status."""
        if self.status != status:
            return self
        text = f"{str(self).rstrip('.')}: {advice}"
        return Refused(text, status=status, retriable=self._retriable)

    @property
    def is_definite(self) -> bool:
        """Whether nothing was done. A proxy that got no answer does not know."""
        return self.status not in (_BAD_GATEWAY, _GATEWAY_TIMEOUT)

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed later."""
        return self._retriable and (self.status in (408, 429) or self.status >= _SERVER_ERROR)
