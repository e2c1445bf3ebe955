"""The ways in which a request fails: each has an HTTP status and a gRPC code."""


class Refused(Exception):
    """A request that is not answered.

    Args:
        message: one line for the client: what is wrong and what to do.
        retry_after: seconds after which to try again; 0 if trying again is of no use.

    Attributes:
        message, retry_after: as given.
        status: the HTTP status.
        code: the name of the `grpc.StatusCode`.
    """

    status = 400
    code = "INVALID_ARGUMENT"

    def __init__(self, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Unauthorized(Refused):
    """The request has no valid key."""

    status = 401
    code = "UNAUTHENTICATED"


class NotFound(Refused):
    """There is no such model, version or path."""

    status = 404
    code = "NOT_FOUND"


class TooSlow(Refused):
    """The client did not send its request in time."""

    status = 408
    code = "DEADLINE_EXCEEDED"


class TooLarge(Refused):
    """The request, or an image in it, is too large."""

    status = 413
    code = "RESOURCE_EXHAUSTED"


class Unreadable(Refused):
    """The request is of an unknown content type or image format."""

    status = 415
    code = "INVALID_ARGUMENT"


class TooMany(Refused):
    """The queue is full, or a key has used up its rate."""

    status = 429
    code = "RESOURCE_EXHAUSTED"


class Unavailable(Refused):
    """The server is stopping, or the model is not loaded yet."""

    status = 503
    code = "UNAVAILABLE"
