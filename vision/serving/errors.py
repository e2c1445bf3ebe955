"""How a request fails: each kind knows its HTTP status and its gRPC code."""


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        message: one line for the client: what is wrong and what to do.
        status: of HTTP.
        code: name of the `grpc.StatusCode`.
        retry_after: seconds after which to try again; 0 = there is no use in it.
    """

    status, code = 400, "INVALID_ARGUMENT"

    def __init__(self, message, retry_after=0.0):
        super().__init__(message)
        self.message, self.retry_after = message, retry_after


class Unauthorized(Refused):
    status, code = 401, "UNAUTHENTICATED"


class NotFound(Refused):
    status, code = 404, "NOT_FOUND"


class TooSlow(Refused):
    """The client did not send its request in time."""

    status, code = 408, "DEADLINE_EXCEEDED"


class TooLarge(Refused):
    status, code = 413, "RESOURCE_EXHAUSTED"


class Unreadable(Refused):
    """What was sent is not of a kind that is known."""

    status, code = 415, "INVALID_ARGUMENT"


class TooMany(Refused):
    """The queue is full, or a key has used up its rate."""

    status, code = 429, "RESOURCE_EXHAUSTED"


class Unavailable(Refused):
    """The server drains, or the model is not loaded yet."""

    status, code = 503, "UNAVAILABLE"
