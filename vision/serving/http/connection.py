"""HTTP connections: uvicorn's, with an end to what a client may send ahead, leave unfinished or
leave unread."""

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65_536  # bytes of a request's line and headers
MAX_BEHIND = 16  # requests that may wait for the answer to the one before them


class Connection(HttpToolsProtocol):
    """uvicorn's protocol lets a client send headers for ever and of any size, and requests without
    end before it has read an answer; it waits for ever until an answer is read, and for ever where
    an empty line comes after it.

    The request that is `MAX_BEHIND` behind another is the last of its connection: what comes after
    it is dropped, and the client, which sees `connection: close`, sends it again on another one.

    Args:
        door: `vision.serving.server.Door`.
        patience: seconds that the headers may take to arrive.
        timeout: seconds that a client may take to read an answer, once the system holds no more of
            it. With TLS, whose transports know of what is unsent at the next answer only, the idle
            limit and a shutdown's 30 seconds can be what ends it.
        known: keywords of `HttpToolsProtocol`.
    """

    def __init__(self, *, door, patience, timeout, **known):
        super().__init__(**known)
        self._door = door
        self._patience = patience
        self._timeout = timeout
        # bytes of the headers that are arriving, at least; None = none are
        self._head = 0
        self._timer = None
        self._unread = None  # the timer of an answer that is not read
        # the cycle whose answer is next; uvicorn's `cycle` is the one that came last
        self._answered = None
        self._full = False  # it takes no more requests

    def connection_made(self, transport):
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        # Writing is paused as soon as the system takes no more, not from 64 KB on: `pause_writing`
        # is then told of each answer that waits for its reader. 0 would not do: with TLS, asyncio
        # and uvloop would pause
        # at nothing.
        transport.set_write_buffer_limits(high=1)
        self._await_head()

    def connection_lost(self, exc):
        self._end_head()
        self._end_unread()
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True  # uvicorn tells the one that came last alone
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data):
        pending = self._timer
        idle = self.timeout_keep_alive_task
        super().data_received(data)
        self._head += len(data)
        # What came with the end of another request may be that one's, and is no more than the loop
        # reads at once.
        if pending is not None and pending is self._timer and self._head > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")
        # uvicorn takes any data for a request and ends the idle limit; the parser passes over empty
        # lines before one.
        if (
            idle is not None
            and self._timer is None
            and not self._is_asked()
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_at(
                idle.when(), self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg):
        # there are answers to come; closing on what was not even read would make the client lose
        # them
        if self._full:
            self.transport.resume_reading()
        else:
            super().send_400_response(msg)

    def on_message_begin(self):
        if self._full:
            # ends the parsing of what has been read
            raise httptools.HttpParserError("there are too many requests")
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self):
        self._end_head()
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        self._full = len(self.pipeline) >= MAX_BEHIND
        if (self._full or self._door.closing) and self.cycle is not None:
            # the client connects anew, where the door closes to a server that stays
            self.cycle.keep_alive = False

    def on_response_complete(self):
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self):
        super().pause_writing()
        self._end_unread()
        self._unread = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self):
        super().resume_writing()
        self._end_unread()

    def _is_asked(self):
        return self.cycle is not None and not self.cycle.response_complete

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

    def _end_unread(self):
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self):
        if self._is_asked():
            self._wait()  # what is behind a request is not read on before that one is answered
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status):
        self._end_head()
        if self.transport.is_closing():
            return
        if self._head:  # who has sent nothing expects nothing
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        self.transport.close()


class _Flow(FlowControl):
    """uvicorn's, which reads on at each answer, and where an application waits for its body: here
    reading stays paused while requests are queued, none of which can be what the one before them
    waits for."""

    def __init__(self, transport, pipeline):
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self):
        if not self._pipeline:
            super().resume_reading()
