"""How a request fails: each kind knows its HTTP status and its gRPC code."""


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        message: one line for the client: what is wrong and what to do.
        status: of HTTP.
        code: name of the `grpc.StatusCode`.
        retry_after: seconds after which to try again; 0 = there is no use in it.
    """

    status = 400
    code = "INVALID_ARGUMENT"

    def __init__(self, message, retry_after=0.0):
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Unauthorized(Refused):
    status = 401
    code = "UNAUTHENTICATED"


class NotFound(Refused):
    status = 404
    code = "NOT_FOUND"


class TooSlow(Refused):
    """The client did not send its request in time."""

    status = 408
    code = "DEADLINE_EXCEEDED"


class TooLarge(Refused):
    status = 413
    code = "RESOURCE_EXHAUSTED"


class Unreadable(Refused):
    """What was sent is not of a kind that is known."""

    status = 415
    code = "INVALID_ARGUMENT"


class TooMany(Refused):
    """The queue is full, or a key has used up its rate."""

    status = 429
    code = "RESOURCE_EXHAUSTED"


class Unavailable(Refused):
    """The server drains, or the model is not loaded yet."""

    status = 503
    code = "UNAVAILABLE"
