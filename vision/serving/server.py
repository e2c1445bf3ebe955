"""The server: REST, gRPC, the admin routes and the watch for new versions in one process, until a
signal ends it."""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from vision.errors import UserError
from vision.serving import rpc
from vision.serving.http import admin, rest
from vision.serving.http.connection import Connection, Shutdown
from vision.serving.images import Decoder
from vision.serving.keys import ApiKeys
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models import links
from vision.serving.models.repository import Repository
from vision.serving.service import Service
from vision.serving.settings import Settings, check
from vision.support import progress

LOOPBACK = "127.0.0.1"
BACKLOG = 2048
# Digits of an integer in JSON, the smallest limit that Python accepts: thousands of digits hold up
# all other requests.
DIGITS = 640
# Seconds that models have to finish computing once all clients that waited for it have gone.
CLOSING = 2.0
# Seconds during which clients are told to close their connections before the server does.
FAREWELL = 0.5
POLL = 0.2  # seconds between looks at a link to the models that leads nowhere yet

log = logging.getLogger(__name__)


class Http(uvicorn.Server):
    """A uvicorn server that leaves signals to others and closes its port without losing clients.

    Args:
        app: ASGI application.
        shutdown: tells its connections whether the server is stopping.
        settings: the server's settings.
        listener: the socket that it listens on.
    """

    def __init__(
        self, app: Callable, shutdown: Shutdown, settings: Settings, listener: socket.socket
    ):
        protocol: Any = functools.partial(
            Connection, shutdown=shutdown, patience=settings.body_timeout, timeout=settings.timeout
        )
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # input that is not HTTP is a warning, with which hostile clients would fill the log
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.idle,  # type: ignore[arg-type]
            timeout_graceful_shutdown=settings.drain,  # type: ignore[arg-type]
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
        )
        super().__init__(config)
        self._listener = listener
        self._duplicate = listener.dup()

    async def serve_until_exit(self) -> None:
        """Serves until `should_exit` is true, then finishes what has begun."""
        await self.serve([self._listener])

    async def close_port(self) -> None:
        """Takes no more connections, but serves those that only the kernel knows of so far.

        Closing the listener would reset them.
        """
        for server in self.servers:
            server.close()
        pending = []
        with self._duplicate, contextlib.suppress(OSError):  # BlockingIOError: no more of them
            while True:
                pending.append(self._duplicate.accept()[0])
        loop = asyncio.get_running_loop()
        protocol: Any = self.config.http_protocol_class
        make_protocol = functools.partial(
            protocol, config=self.config, server_state=self.server_state, app_state={}
        )
        connecting = [
            loop.connect_accepted_socket(make_protocol, connection, ssl=self.config.ssl)
            for connection in pending
        ]
        await asyncio.gather(*connecting, return_exceptions=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, ready: Callable[[str], object] = print) -> None:
    """Serves until SIGTERM or SIGINT, answers the requests in progress, and returns.

    A second signal ends the process at once.

    Args:
        settings: the server's settings.
        ready: called with one line, the addresses, as soon as requests are answered.

    Raises:
        UserError: a setting is wrong, a port is taken, or no model can be served.
    """
    check(settings)
    sys.set_int_max_str_digits(DIGITS)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_listen(settings.host, settings.http_port, "--http-port"))]
        if settings.grpc_port:  # gRPC opens it itself, once the models are loaded
            _listen(settings.host, settings.grpc_port, "--grpc-port").close()
        if settings.admin_port:
            listener = _listen(LOOPBACK, settings.admin_port, "--admin-port")
            sockets.append(stack.enter_context(listener))
        api_keys = ApiKeys(settings)
        telemetry = Telemetry(settings)
        repository = Repository(settings, telemetry)
        stop = _stop_signal()
        try:
            if not await _wait_for_links(settings, stop):
                return
            with progress.waiting("loading and checking the models"):
                is_loaded = await _load_models(repository, stop)
            if not is_loaded:
                return
            _check_models(repository, settings)
            telemetry.follow(repository)
            with progress.quiet():  # from here on there is a log
                await _run(settings, api_keys, telemetry, repository, sockets, ready, stop)
        finally:
            telemetry.close()  # first, so that a model that hangs does not cost the logs anything
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(repository.close(), CLOSING)


async def _wait_for_links(settings, stop):
    """Waits until a link to the models leads somewhere; returns False if the signal to stop came
    first."""
    deadline = time.monotonic() + settings.start_timeout
    shown = ""
    while reason := links.awaited(settings.models):
        if time.monotonic() >= deadline:
            raise UserError(
                f"--models: {reason}, even after {settings.start_timeout:g} seconds. If another "
                "container holds the models, check that it is running, as the same user, and that "
                "the pod shares its process namespace"
            )
        if reason != shown:
            log.info("waiting for the models: %s", reason)
        shown = reason
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL)
            return False
    return True


async def _load_models(repository, stop):
    """Loads the models; returns False if the signal to stop came first."""
    starting = asyncio.create_task(repository.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stop.is_set():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return True


async def _run(settings, api_keys, telemetry, repository, sockets, ready, stop):
    """Serves the repository's models until a signal comes or a part of the server fails."""
    decoder = Decoder(settings)
    service = Service(repository, decoder, telemetry, bool(settings.prediction_log))
    calls = rpc.Calls(service, repository, api_keys, telemetry, settings)
    grpc = rpc.build(calls, settings) if settings.grpc_port else None
    shutdown = Shutdown()
    app = rest.build(service, repository, api_keys, telemetry, settings)
    servers = [Http(app, shutdown, settings, sockets[0])]
    if settings.admin_port:  # without TLS, since it never leaves the machine; not for pages
        plain = dataclasses.replace(settings, tls_certificate="", tls_key="", cors_origins="")
        app = admin.build(repository, api_keys, telemetry, plain)
        servers.append(Http(app, shutdown, plain, sockets[1]))
    if grpc is not None:
        await grpc.start()
    tasks = [asyncio.create_task(server.serve_until_exit()) for server in servers]
    watch = asyncio.create_task(repository.watch())
    stopped = asyncio.create_task(stop.wait())
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()  # what is loaded by now stays; collecting it again would hold up requests
    ready(_addresses(settings, sockets))
    await asyncio.wait([*tasks, watch, stopped], return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    stopped.cancel()
    await _close(repository, shutdown, servers, tasks, grpc, settings)
    decoder.close()
    for task in (*tasks, watch):
        if task.done() and not task.cancelled():
            task.result()  # raises what has ended it


async def _close(repository, shutdown, servers, tasks, grpc, settings):
    """Answers the requests in progress, for at most `settings.drain` seconds.

    For a moment the server still takes requests on its open connections and announces with each
    answer that the connection closes. Clients then close them, so nothing is in flight when the
    server closes the remaining ones. gRPC has no such announcement, so its calls are refused during
    that moment.
    """
    repository.drain()
    shutdown.closing = True
    for server in servers:
        await server.close_port()
    await asyncio.sleep(min(FAREWELL, settings.drain))
    for server in servers:
        server.should_exit = True
    stopping = [grpc.stop(settings.drain)] if grpc else []
    await asyncio.gather(*tasks, *stopping, return_exceptions=True)


def _stop_signal():
    """Returns an `asyncio.Event` that SIGTERM or SIGINT sets; a second signal gets the default
    handler."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return stop


def _listen(host, port, flag):
    """Returns a listening socket; raises `UserError` if there can be none."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = address[0] == "::" and socket.has_dualstack_ipv6()  # as gRPC does
        listener = socket.create_server(
            address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise UserError(f"{flag} {port} cannot be opened on {host}: {reason}") from error
    listener.setblocking(False)
    # Connections inherit it. Without it each answer waits 40 ms for the client's acknowledgment of
    # its headers: asyncio itself sets it only if a socket names its protocol, which those of
    # `create_server` do not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _check_models(repository, settings):
    """Raises `UserError` unless some model can be served; the message has the reasons."""
    if repository.models():
        return
    reasons = []
    for name, model in repository.states().items():
        if model["reason"]:
            reasons.append(f"{name}: {model['reason']}")
        for version, state in model["versions"].items():
            if state["reason"]:
                reasons.append(f"{name} {version}: {state['reason']}")
    reasons += repository.left_out
    message = f"--models {settings.models} has no bundle at MODEL/VERSION/ that can be served"
    raise UserError("\n".join([message, *reasons[:3]]))


def _addresses(settings, sockets):
    scheme, secure = ("https", "grpcs") if settings.tls_certificate else ("http", "grpc")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    addresses = [f"{scheme}://{host}:{sockets[0].getsockname()[1]}"]
    if settings.grpc_port:
        addresses.append(f"{secure}://{host}:{settings.grpc_port}")
    if settings.admin_port:
        addresses.append(f"admin http://{LOOPBACK}:{sockets[1].getsockname()[1]}")
    return f"serving {settings.models} at {', '.join(addresses)}"
