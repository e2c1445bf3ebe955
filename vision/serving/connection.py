"""HTTP connections: uvicorn's, with an end to what a client may take before a request of its is complete."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65_536  # bytes of a request's line and headers


class Connection(HttpToolsProtocol):
    """uvicorn's protocol lets a client send headers for ever, and of any size, before the application hears of it.

    Args:
        door: `vision.serving.server.Door`.
        patience: seconds that the headers may take to arrive.
        known: keywords of `HttpToolsProtocol`.
    """

    def __init__(self, *, door, patience, **known):
        super().__init__(**known)
        self._door, self._patience = door, patience
        self._head, self._timer = 0, None  # bytes of the headers that are arriving, at least; None = none are

    def connection_made(self, transport):
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc):
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data):
        pending = self._timer
        super().data_received(data)
        self._head += len(data)
        # What came with the end of another request may be that one's, and is no more than the loop reads at once.
        if pending is not None and pending is self._timer and self._head > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self):
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self):
        self._end_head()
        super().on_headers_complete()
        if self._door.closing and self.cycle is not None:
            self.cycle.keep_alive = False  # the client connects anew, to a server that stays

    def _await_head(self):
        if self._timer is None:
            self._head = 0
            self._wait()

    def _wait(self):
        self._timer = self.loop.call_later(self._patience, self._give_up)

    def _end_head(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self):
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait()  # what is behind a request is not read on before that one is answered
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status):
        self._end_head()
        if self.transport.is_closing():
            return
        if self._head:  # who has sent nothing expects nothing
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
