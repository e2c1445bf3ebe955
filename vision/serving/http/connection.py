"""HTTP connections: uvicorn's, with limits on what a client may send ahead or leave unread.

It overrides private attributes of uvicorn, so pyproject.toml bounds its version.
"""

import asyncio
import dataclasses
import json
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 65_536  # bytes of a request's line and headers
TOO_LARGE = f"headers, trailers and chunk extensions may have at most {MAX_HEAD:,} bytes"
MAX_BEHIND = 16  # requests that may wait for the response to the one before them


@dataclasses.dataclass
class Shutdown:
    """Whether the server is stopping: each response is then the last of its connection."""

    closing: bool = False


class Connection(HttpToolsProtocol):
    """One client's connection, with limits that uvicorn's protocol lacks.

    uvicorn lets a client send headers of any size, for any time, and any number of requests before
    it reads a response. It waits forever until a response is read, and forever if an empty line
    follows the response. It drops the body of a request that offers another protocol, merges the
    trailers of a chunked body into the headers, and answers what is not HTTP before the requests
    that came before it.

    The request that is `MAX_BEHIND` behind another is the last of its connection: what comes after
    it is dropped, and the client, which sees `connection: close`, sends it again on a new one.

    Args:
        shutdown: tells whether the server is about to stop.
        patience: seconds that the headers may take to arrive.
        timeout: seconds that a client may take to read a response once the system buffers no more
            of it. With TLS, whose transports learn of unsent data only at the next response, the
            idle limit or a shutdown's 30 seconds may end it instead.
        **options: arguments of `HttpToolsProtocol`.
    """

    def __init__(self, *, shutdown: Shutdown, patience: float, timeout: float, **options: Any):
        super().__init__(**options)
        self._shutdown = shutdown
        self._patience = patience
        self._timeout = timeout
        # bytes of the headers that are arriving, at least; counted while the timer runs
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None  # None while no headers are awaited
        self._unread_timer: asyncio.TimerHandle | None = None  # None while responses are read
        # the request that is answered next; uvicorn's `cycle` is the one that came last
        self._next_cycle: RequestResponseCycle | None = None
        self._full = False  # whether no more requests are accepted
        self._in_head = False  # whether the headers of a request are being read
        # bytes that have come since the body last grew: of trailers, or of a chunk's extension
        self._bytes_beside_body = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        # Writing is paused as soon as the system takes no more, not only at 64 KB, so that
        # `pause_writing` is called for each response that waits for its reader. The limit is not
        # 0, because with TLS asyncio and uvloop would pause at nothing.
        transport.set_write_buffer_limits(high=1)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_unread()
        self.pipeline.clear()
        if self._next_cycle is not None and not self._next_cycle.response_complete:
            # uvicorn tells only the request that came last
            self._next_cycle.disconnected = True
            self._next_cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        head_timer = self._head_timer
        idle_timer = self.timeout_keep_alive_task
        self._unset_keepalive_if_required()
        self._bytes_beside_body += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("the request is not valid HTTP/1.1")
        self._head_bytes += len(data)
        # Data that came with the end of another request may belong to that one, but is no more
        # than the loop reads at once.
        same_head = head_timer is not None and head_timer is self._head_timer
        beside_body = self._bytes_beside_body if self._is_receiving() else 0
        if max(beside_body, self._head_bytes if same_head else 0) > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large", TOO_LARGE)
        # uvicorn takes any data for a request and ends the idle limit, but the parser skips empty
        # lines before a request.
        if (
            idle_timer is not None
            and self._head_timer is None
            and not self._is_answering()
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_at(
                idle_timer.when(), self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        if self._leave_rest():
            # Closing with unread data would make the client lose the responses to come.
            self.transport.resume_reading()
        else:
            self._end_head()
            self._send_error(b"400 Bad Request", msg)

    def on_message_begin(self) -> None:
        if self._full:
            # ends the parsing of what has been read
            raise httptools.HttpParserError("too many requests are waiting")
        super().on_message_begin()
        self._in_head = True
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is not a header (RFC 9110, section 6.5.1): a proxy has not looked at it.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._bytes_beside_body = 0
        self._end_head()
        self._check_head()
        super().on_headers_complete()
        if not self.pipeline:
            self._next_cycle = self.cycle
        self._full = len(self.pipeline) >= MAX_BEHIND
        if (self._full or self._shutdown.closing) and self.cycle is not None:
            # The client reconnects; on a shutdown, to a server that stays.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else the body is still to come: see `_parse`
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._next_cycle = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_unread()
        self._unread_timer = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_unread()

    def _parse(self, data):
        """Parses what has come; ignores offers of another protocol (RFC 9110, section 7.8).

        llhttp takes a request that offers one to end with its headers, although HTTP goes on with
        its body. So a new parser goes on, after a head that only says how long that body is.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                framing = [
                    b"%s: %s\r\n" % (name, value)
                    for name, value in self.headers
                    if name in (b"content-length", b"transfer-encoding")
                ]
                self.parser = httptools.HttpRequestParser(_AfterHead(self))
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(framing))

    def _check_head(self):
        """Refuses heads that a proxy may understand in another way than llhttp."""
        if self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError("CONNECT is for proxies")
        names = [name for name, _ in self.headers]
        if names.count(b"host") > 1:
            raise httptools.HttpParserError("there are several Host headers")
        codings = [
            value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"
        ]
        if codings and (codings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            raise httptools.HttpParserError("there is a transfer coding other than chunked")

    def _is_answering(self):
        return self.cycle is not None and not self.cycle.response_complete

    def _is_receiving(self):
        """Whether the body of the request that came last is still to come."""
        return not self._in_head and self._is_answering() and self.cycle.more_body

    def _leave_rest(self):
        """Drops what comes after the requests that are still to be answered.

        Returns:
            False if there are none: the client then gets an error.
        """
        if self._is_receiving():
            if not self.pipeline:
                return False
            self.pipeline.popleft()  # its body never ends
            self.cycle = self.pipeline[0][0] if self.pipeline else self._next_cycle
        if self._full or self._is_answering():
            self._full = True
            self.cycle.keep_alive = False
        return self._full

    def _await_head(self):
        if self._head_timer is None:
            self._head_bytes = 0
            self._start_head_timer()

    def _start_head_timer(self):
        self._head_timer = self.loop.call_later(self._patience, self._head_timed_out)

    def _end_head(self):
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_unread(self):
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _head_timed_out(self):
        if self._is_answering():
            # what follows a request is not read before that request is answered
            self._start_head_timer()
        else:
            reason = f"the headers did not arrive within {self._patience:g} seconds"
            self._refuse(b"408 Request Timeout", reason)

    def _refuse(self, status, reason):
        self._end_head()
        if self._leave_rest():
            return
        if self._head_bytes:
            self._send_error(status, reason)
        else:  # a client that has sent nothing expects nothing
            self.transport.close()

    def _send_error(self, status, reason):
        """Sends an error that no application knows of, and closes the connection."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": reason}).encode()
        headers = b"content-type: application/json\r\ncontent-length: %d" % len(body)
        self.transport.write(
            b"HTTP/1.1 %s\r\n%s\r\nconnection: close\r\n\r\n%s" % (status, headers, body)
        )
        self.transport.close()


class _AfterHead:
    """Passes a parser's events on to a connection, except those of the first head."""

    def __init__(self, connection):
        self._connection = connection
        self._in_first_head = True
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_message_begin(self):
        if not self._in_first_head:
            self._connection.on_message_begin()

    def on_url(self, url):
        if not self._in_first_head:
            self._connection.on_url(url)

    def on_header(self, name, value):
        if not self._in_first_head:
            self._connection.on_header(name, value)

    def on_headers_complete(self):
        if not self._in_first_head:
            self._connection.on_headers_complete()
        self._in_first_head = False


class _Flow(FlowControl):
    """Keeps reading paused while requests are queued.

    uvicorn's resumes reading at each response, and when an application waits for its body. A
    queued request cannot be what the one before it waits for.
    """

    def __init__(self, transport, pipeline):
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self):
        if not self._pipeline:
            super().resume_reading()
