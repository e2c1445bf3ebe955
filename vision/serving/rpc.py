"""gRPC: the Open Inference Protocol V2, by the messages that Triton's client has too.

What is here of Triton's service is ServerLive, ServerReady, ModelReady, ServerMetadata,
ModelMetadata and ModelInfer; all else is UNIMPLEMENTED. Metadata that a call may carry:
`authorization: Bearer KEY` or `x-api-key`, `x-request-id`, and `x-route-key`, which a canary is
sticky by. The first two need no key.
"""

import asyncio
import functools
import math
import time
import urllib.parse

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from vision.errors import UserError
from vision.serving.errors import NotFound, Refused, TooMany, TooSlow, Unavailable
from vision.serving.http.security import BODIES, SMALL, Trace, key_of, request_id
from vision.serving.protocol import messages
from vision.serving.protocol import v2 as protocol
from vision.serving.service import Request

SERVICE = "inference.GRPCInferenceService"
OPEN = ("ServerLive", "ServerReady")  # without a key
MOST = 8  # numbers of a shape that are looked at: more than any right one has


def build(calls, settings):
    """Returns the `grpc.aio.Server`, bound and not yet started.

    Args:
        calls: `Calls`.
        settings: `vision.serving.settings.Settings`.

    Raises:
        UserError: the port is taken.
    """
    options = {
        "grpc.max_receive_message_length": settings.max_body + messages.ROOM,
        "grpc.max_send_message_length": -1,  # as long as what was asked for
        "grpc.max_concurrent_streams": 256,  # of a connection; what is more waits with the client
        "grpc.so_reuseport": 0,  # or two servers share a port, and neither says so
    }
    # Each call may hold a message of the largest size, so there is an end to them; most are refused
    # by a full queue.
    server = grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=4 * settings.max_queue
    )
    names = [*OPEN, "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
    # On the wire a stream of one message is a message; but who reads it himself knows the caller
    # before he has it all.
    handlers = {
        name: grpc.stream_unary_rpc_method_handler(functools.partial(calls.answer, name))
        for name in names
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_certificate:
            server.add_secure_port(address, _credentials(settings))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError(
            f"--grpc-port {settings.grpc_port} of {settings.host} cannot be had: is it taken?"
        ) from error
    return server


class Calls:
    """Answers calls.

    Args:
        service: `vision.serving.service.Service`.
        repository: `vision.serving.models.repository.Repository`.
        guard: `vision.serving.http.security.Guard`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.
        settings: `vision.serving.settings.Settings`.
    """

    def __init__(self, service, repository, guard, telemetry, settings):
        self._service = service
        self._repository = repository
        self._guard = guard
        self._telemetry = telemetry
        self._settings = settings
        self._held = 0  # bytes of the messages that are being answered

    async def answer(self, name, _, context):
        """Returns the bytes of the answer to the message of a call to the RPC of a name.

        The message is not asked of gRPC's iterator, the second argument, but of the context: the
        iterator would keep it until the garbage collector runs, and that is long after many others.
        """
        begun = time.perf_counter()
        pairs = [
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        ]
        metadata = dict(reversed(pairs))  # of two with one name the first
        trace = Trace(request_id(metadata), metadata, protocol="grpc")
        code = "CANCELLED"
        try:
            found, error = await self._outcome(name, trace, context)
            code = error.code if error else "OK"
            trace.sent = len(found)
            if error:
                await _abort(error, trace, context)
            else:
                context.set_trailing_metadata(_trailer(trace))
            return found
        finally:
            self._held -= trace.received
            seconds = time.perf_counter() - begun
            client = _client(context.peer())
            self._telemetry.access(trace.entry(code, seconds, client, method=name))

    async def _outcome(self, name, trace, context):
        """Returns (bytes of the answer, None), or (b"", `Refused`), which holds nothing of the
        call."""
        try:
            return await self._found(name, trace, context), None
        except TimeoutError:
            error = Unavailable(
                f"there was no answer within {self._settings.timeout:g} seconds: try again", 1.0
            )
        except Refused as refused:
            error = refused
        # the one place where that ends; the client learns nothing of it
        except Exception as unforeseen:
            self._telemetry.failed("grpc", trace.model, unforeseen)
            return b"", _Internal("internal error")
        self._telemetry.refused("grpc", trace.model, error)
        # the frames in them have the message
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return b"", error

    async def _found(self, name, trace, context):
        """Returns the bytes of the answer."""
        if name not in OPEN:
            trace.key = self._guard.check(key_of(trace.headers))
        data = await self._read(trace, context)
        async with asyncio.timeout(self._settings.timeout):
            return (await self._call(name, data, trace)).SerializeToString()

    async def _read(self, trace, context):
        """Returns a call's message."""
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                data = await context.read()
        except TimeoutError as error:
            raise TooSlow(
                f"the message did not arrive within {self._settings.body_timeout:g} seconds"
            ) from error
        if data is grpc.aio.EOF:
            raise Refused("the call has no message")
        trace.received = len(data)
        self._held += len(data)
        if self._held > BODIES * self._settings.max_body and len(data) > SMALL:
            raise TooMany("too many large requests at a time: try again later", 1.0)
        return data

    async def _call(self, name, data, trace):
        images = messages.INFER if name == "ModelInfer" else {}
        # each may be a field of its own
        messages.check(data, images, messages.FIELDS + self._settings.max_images)
        try:
            request = getattr(service_pb2, f"{name}Request").FromString(data)
        except DecodeError as error:
            raise Refused(f"the message is no {name}Request") from error
        return await getattr(self, f"_{name}")(request, trace)

    async def _ServerLive(self, request, trace):
        return service_pb2.ServerLiveResponse(live=True)

    async def _ServerReady(self, request, trace):
        return service_pb2.ServerReadyResponse(ready=self._repository.ready)

    async def _ModelReady(self, request, trace):
        try:
            self._repository.get(request.name, request.version)
        except (NotFound, Unavailable):
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    async def _ServerMetadata(self, request, trace):
        return service_pb2.ServerMetadataResponse(**protocol.server_metadata())

    async def _ModelMetadata(self, request, trace):
        version = self._repository.get(request.name, request.version)
        versions = self._repository.models()[request.name]
        return service_pb2.ModelMetadataResponse(
            **protocol.model_metadata(request.name, versions, version.bundle)
        )

    async def _ModelInfer(self, request, trace):
        trace.model = request.model_name[: protocol.MAX_ID]
        # gRPC itself would cancel what comes while it stops, without a word
        if not self._repository.ready:
            raise Unavailable("the server is not ready, or stops", 1.0)
        raw = len(request.raw_input_contents)
        # lists take longer
        inference = _inference(request) if raw else await asyncio.to_thread(_inference, request)
        asked = Request(
            request.model_name,
            inference.images,
            request.model_version,
            trace.headers.get("x-route-key", ""),
            trace.id,
            trace.protocol,
        )
        answer = await self._service.classify(asked)
        trace.answered(answer)
        return _response(answer, inference, request.id or trace.id)


class _Internal(Refused):
    """An error of ours."""

    status = 500
    code = "INTERNAL"


async def _abort(error, trace, context):
    """Ends a call with a `Refused`."""
    trailer = _trailer(trace)
    if error.retry_after:
        seconds = error.retry_after
        trailer += (
            ("retry-after", str(math.ceil(seconds))),
            ("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))),
        )
    try:
        await context.abort(grpc.StatusCode[error.code], error.message, trailer)
    except grpc.aio.AbortError as aborted:
        # gRPC has it in the call, and raises it again once the handler has returned. The frames in
        # it have the call: the two would keep each other until the garbage collector runs.
        aborted.__traceback__ = None


def _credentials(settings):
    with open(settings.tls_key, "rb") as key, open(settings.tls_certificate, "rb") as certificate:
        return grpc.ssl_server_credentials([(key.read(), certificate.read())])


def _trailer(trace):
    version = (("x-model-version", trace.version),) if trace.version else ()
    return (("x-request-id", trace.id), *version)


def _client(peer):
    """Returns the address of gRPC's "ipv4:127.0.0.1:54321" or "ipv6:%5B::1%5D:54321"."""
    return urllib.parse.unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _inference(request):
    """Returns the `vision.serving.protocol.v2.Inference` of a ModelInferRequest."""
    raws = request.raw_input_contents
    tensors = []
    if raws and len(raws) != len(request.inputs):
        raise Refused(f"raw_input_contents holds {len(raws)} tensors, inputs {len(request.inputs)}")
    for i, one in enumerate(request.inputs):
        if "shared_memory_region" in one.parameters:
            raise Refused("shared memory is not for this server: send the tensor itself")
        data = raws[i] if raws else _typed(one)
        tensors.append(protocol.Tensor(one.name, one.datatype, list(one.shape[:MOST]), data))
    parameters = _parameters(request)
    wanted = protocol.wanted([(one.name, _parameters(one)) for one in request.outputs], parameters)
    return protocol.Inference(
        protocol.images_of(tensors), wanted, protocol.top_k_of(parameters), request.id
    )


def _typed(one):
    """Returns the list of a tensor's own contents."""
    found = one.contents.bytes_contents if one.datatype == "BYTES" else one.contents.uint_contents
    return list(found)


def _parameters(message):
    """Returns the dict of a message's parameters."""
    return {
        key: getattr(one, kind)
        for key, one in message.parameters.items()
        if (kind := one.WhichOneof("parameter_choice"))
    }


def _response(answer, inference, identity):
    response = service_pb2.ModelInferResponse(
        model_name=answer.model, model_version=answer.version, id=identity
    )
    for one, datatype, shape, data in protocol.results(answer, inference):
        response.outputs.add(name=one.name, datatype=datatype, shape=shape)
        raw = (
            np.ascontiguousarray(data).tobytes()
            if datatype == "FP32"
            else protocol.pack_bytes(data)
        )
        response.raw_output_contents.append(raw)
    return response
