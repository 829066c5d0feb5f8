"""Every error batchd raises on purpose, with the answer it gives.

An error knows its HTTP status and the ``type``, ``code`` and ``param`` of OpenAI's error envelope
(contract 1.1), but not how it is sent: ``api.middleware`` is the one translator. The message is
what people read (openai-python prints nothing else), so it names the thing and says what to do.
"""

import inspect


class BatchdError(Exception):
    """Something went wrong inside batchd."""

    http_status = 500
    error_type = "server_error"
    code: str | None = None
    # False tells both SDKs not to repeat the request (header x-should-retry).
    retriable: bool | None = None
    retry_after: int | None = None

    def __init__(
        self, message: str | None = None, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message or inspect.getdoc(type(self)))
        self.param = param
        if code is not None:
            self.code = code


class ConfigError(BatchdError):
    """The configuration is wrong. Exit code 78: systemd does not restart for it."""


class InvalidTransition(BatchdError):
    """A batch cannot take this event in its status."""


class SpoolError(BatchdError):
    """The spool is not what the database says; nothing more may be written to it."""


class InvalidRequest(BatchdError):
    """The request is not acceptable."""

    http_status = 400
    error_type = "invalid_request_error"


class Unauthorized(InvalidRequest):
    """You didn't provide an API key. You need to provide your API key in an Authorization header
    using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."""

    http_status = 401

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        one_line = " ".join((message or inspect.getdoc(type(self)) or "").split())
        super().__init__(one_line, code=code)


class Forbidden(InvalidRequest):
    """This request may not be made from there."""

    http_status = 403


class NotFound(InvalidRequest):
    """No such object."""

    http_status = 404


class MethodNotAllowed(InvalidRequest):
    """Not allowed. (HINT: Perhaps you meant to use a different HTTP method?)"""

    http_status = 405


class RequestTimeout(InvalidRequest):
    """The request's body came too slowly."""

    http_status = 408


class Conflict(InvalidRequest):
    """The object's state does not allow this."""

    http_status = 409
    retriable = False


class TooLarge(InvalidRequest):
    """The request is too large."""

    http_status = 413


class UnsupportedEncoding(InvalidRequest):
    """Send the request body as it is: Content-Encoding is not supported."""

    http_status = 415


class RangeNotSatisfiable(InvalidRequest):
    """No byte of the file lies in the range that the request asks for."""

    http_status = 416


class FileCorrupt(BatchdError):
    """The bytes of this file are damaged; `batchd fsck`, run where batchd runs, says more."""

    code = "file_corrupt"
    retriable = False


class NoRoom(BatchdError):
    """The disk of batchd's storage directory is full; free some space and try again."""

    http_status = 503
    code = "insufficient_storage"
    retriable = False


class Busy(BatchdError):
    """Too many uploads at once; try again in a moment."""

    http_status = 503
    retry_after = 2
