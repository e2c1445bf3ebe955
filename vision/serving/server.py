"""The server: REST, gRPC, the admin's routes and the watch over new versions in one process, until
a signal ends it."""

import asyncio
import contextlib
import dataclasses
import functools
import gc
import signal
import socket
import sys

import uvicorn

from vision.errors import UserError
from vision.serving import rpc
from vision.serving.http import admin, rest
from vision.serving.http.connection import Connection
from vision.serving.images import Decoder
from vision.serving.keys import ApiKeys
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.repository import Repository
from vision.serving.service import Service
from vision.serving.settings import check

LOOPBACK = "127.0.0.1"
BACKLOG = 2048
# seconds that a connection may idle: longer than load balancers do, which then never use one that
# is closing
# of a whole number in JSON, the least that Python can be told: thousands hold up all other requests
# seconds that models have to end what they compute, once all who waited for it have gone
# seconds in which clients are told to close their connections before the server does
IDLE = 75
DIGITS = 640
CLOSING = 2.0
FAREWELL = 0.5


@dataclasses.dataclass
class Door:
    """Whether the server is about to stop: `Connection` then lets each answer be the last one of
    its connection."""

    closing: bool = False


class Http(uvicorn.Server):
    """uvicorn's server, which leaves signals to others, and can close its port without losing who
    has come.

    Args:
        app: ASGI application.
        door: `Door`.
        settings: `vision.serving.settings.Settings`.
        listener: the socket that it listens on.
    """

    def __init__(self, app, door, settings, listener):
        config = uvicorn.Config(
            app,
            http=functools.partial(
                Connection, door=door, patience=settings.body_timeout, timeout=settings.timeout
            ),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # what is no HTTP at all is a warning, and hostile clients would fill the log
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=settings.drain,
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
        )
        super().__init__(config)
        self._listener = listener
        self._spare = listener.dup()

    async def run_until_told(self):
        """Serves until `should_exit` is true, and then what has begun."""
        await self.serve([self._listener])

    async def close_port(self):
        """Takes no more connections; those that only the kernel knows of, which it would reset, are
        still served."""
        for server in self.servers:
            server.close()
        waiting = []
        with self._spare, contextlib.suppress(OSError):  # BlockingIOError: there are no more
            while True:
                waiting.append(self._spare.accept()[0])
        loop = asyncio.get_running_loop()
        make = functools.partial(
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        made = [loop.connect_accepted_socket(make, one, ssl=self.config.ssl) for one in waiting]
        await asyncio.gather(*made, return_exceptions=True)

    @contextlib.contextmanager
    def capture_signals(self):
        yield


async def serve(settings, ready=print):
    """Serves until SIGTERM or SIGINT, answers what it has taken, and returns; a second signal ends
    it at once.

    Args:
        settings: `vision.serving.settings.Settings`.
        ready: is called with one line, the addresses, as soon as requests are answered.

    Raises:
        UserError: a setting is wrong, a port is taken, or there is no model that can be served.
    """
    check(settings)
    sys.set_int_max_str_digits(DIGITS)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_listen(settings.host, settings.http_port, "--http-port"))]
        if settings.grpc_port:  # gRPC takes it itself, once the models are loaded
            _listen(settings.host, settings.grpc_port, "--grpc-port").close()
        if settings.admin_port:
            sockets.append(
                stack.enter_context(_listen(LOOPBACK, settings.admin_port, "--admin-port"))
            )
        api_keys = ApiKeys(settings)
        telemetry = Telemetry(settings)
        repository = Repository(settings, telemetry)
        stop = _signals()
        try:
            if not await _started(repository, stop):
                return
            _check_models(repository, settings)
            telemetry.follow(repository)
            await _run(settings, api_keys, telemetry, repository, sockets, ready, stop)
        finally:
            telemetry.close()  # first: a model that hangs must not cost the logs what they hold
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(repository.close(), CLOSING)


async def _started(repository, stop):
    """Loads the models; returns whether they are, False where the signal to stop has come first."""
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
    service = Service(repository, decoder, telemetry)
    calls = rpc.Calls(service, repository, api_keys, telemetry, settings)
    grpc = rpc.build(calls, settings) if settings.grpc_port else None
    door = Door()
    applications = [rest.build(service, repository, api_keys, telemetry, settings)]
    if settings.admin_port:
        applications.append(admin.build(repository, api_keys, telemetry, settings))
    # the admin's, which never leaves the machine
    plain = dataclasses.replace(settings, tls_certificate="", tls_key="")
    known = zip(applications, (settings, plain), sockets, strict=False)
    servers = [Http(app, door, of, listener) for app, of, listener in known]
    if grpc is not None:
        await grpc.start()
    tasks = [asyncio.create_task(server.run_until_told()) for server in servers]
    watch = asyncio.create_task(repository.watch())
    stopped = asyncio.create_task(stop.wait())
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()  # what is loaded by now stays; looking through it again would hold up requests
    ready(_addresses(settings, sockets))
    await asyncio.wait([*tasks, watch, stopped], return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    stopped.cancel()
    await _close(repository, door, servers, tasks, grpc, settings)
    decoder.close()
    for task in (*tasks, watch):
        if task.done() and not task.cancelled():
            task.result()  # raises what has ended it


async def _close(repository, door, servers, tasks, grpc, settings):
    """Answers what has been taken, for `settings.drain` seconds at most.

    For a moment the server still takes requests on the connections that there are, and says with
    each answer that it is the connection's last. So clients close them, and nothing is on its way
    when the server closes those that are left. Calls of gRPC are refused for that moment, since it
    has no such word.
    """
    repository.drain()
    door.closing = True
    for server in servers:
        await server.close_port()
    await asyncio.sleep(min(FAREWELL, settings.drain))
    for server in servers:
        server.should_exit = True
    await asyncio.gather(
        *tasks, *([grpc.stop(settings.drain)] if grpc else []), return_exceptions=True
    )


def _signals():
    """Returns an `asyncio.Event` that SIGTERM and SIGINT set; the next one finds the usual
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
    """Returns a socket that listens; raises `UserError` where it cannot."""
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
        raise UserError(f"{flag} {port} of {host} cannot be had: {reason}") from error
    listener.setblocking(False)
    # Connections inherit it. Without, each answer waits 40 ms for the client's acknowledgment of
    # its headers: asyncio itself sets it only where a socket names its protocol, which those of
    # `create_server` do not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _check_models(repository, settings):
    """Raises `UserError` unless a model can be served; says why the others cannot."""
    if any(repository.models().values()):
        return
    reasons = []
    for name, model in repository.states().items():
        reasons += [f"{name}: {model['reason']}"] if model["reason"] else []
        reasons += [
            f"{name} {version}: {of['reason']}"
            for version, of in model["versions"].items()
            if of["reason"]
        ]
    reasons += repository.left_out
    message = f"--models {settings.models} holds no bundle that can be served as MODEL/VERSION/"
    raise UserError("\n".join([message, *reasons[:3]]))


def _addresses(settings, sockets):
    scheme, secure = ("https", "grpcs") if settings.tls_certificate else ("http", "grpc")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    found = [f"{scheme}://{host}:{sockets[0].getsockname()[1]}"]
    if settings.grpc_port:
        found.append(f"{secure}://{host}:{settings.grpc_port}")
    if settings.admin_port:
        found.append(f"admin http://{LOOPBACK}:{sockets[1].getsockname()[1]}")
    return f"serving {settings.models} at {', '.join(found)}"
