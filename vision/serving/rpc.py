"""gRPC: the Open Inference Protocol V2, with the messages of Triton's client.

Of Triton's service there are ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata and
ModelInfer; everything else is UNIMPLEMENTED. A call may carry the metadata `authorization: Bearer
KEY` or `x-api-key`, `x-request-id`, and `x-route-key`, which makes a canary sticky. ServerLive and
ServerReady need no key.
"""

import asyncio
import functools
import math
import time
import urllib.parse
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from vision.errors import UserError
from vision.serving.client_address import ClientAddresses
from vision.serving.errors import NotFound, Refused, TooSlow, Unavailable
from vision.serving.keys import ApiKeys, key_of
from vision.serving.limits import BodyBudget
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.repository import Repository
from vision.serving.protocol import messages, v2
from vision.serving.protocol.inference import (
    MAX_ID,
    Inference,
    output_tensors,
    requested_outputs,
    top_k_of,
)
from vision.serving.protocol.tensors import Tensor, cells_of, images_of, pack_bytes
from vision.serving.protocol.tiled import tiling_from
from vision.serving.protocol.unsure import unsure_of
from vision.serving.request import Answer, Request
from vision.serving.request_trace import RequestTrace, request_id
from vision.serving.service import Service
from vision.serving.settings import Settings

SERVICE = "inference.GRPCInferenceService"
PUBLIC = ("ServerLive", "ServerReady")  # need no key
LONGEST = 2**31 - 1  # bytes of a message: gRPC counts them in a signed 32-bit integer
# the lists of a tensor's contents by its datatype, besides uint_contents
CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
}
MAX_RANK = 8  # numbers of a shape that are read: more than any valid shape has


def build(calls: "Calls", settings: Settings) -> grpc.aio.Server:
    """Returns the gRPC server, bound but not yet started.

    Raises:
        UserError: the port is taken.
    """
    options = {
        "grpc.max_receive_message_length": min(settings.max_body + messages.ROOM, LONGEST),
        "grpc.max_send_message_length": -1,  # unlimited: as long as what was asked for
        "grpc.max_concurrent_streams": 256,  # per connection; further calls wait in the client
        "grpc.so_reuseport": 0,  # otherwise two servers could share a port without an error
    }
    # Each call may hold a message of the largest size, so their number is limited; a full queue
    # refuses most of them before.
    server = grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=4 * settings.max_queue
    )
    names = [*PUBLIC, "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
    # On the wire a stream of one message is a message. But a handler that reads the stream itself
    # knows the caller before all of the message has arrived.
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
            f"--grpc-port {settings.grpc_port} on {settings.host} is not available: is it in use?"
        ) from error
    return server


class Calls:
    """Answers calls.

    A message may have 32 megabytes, so nothing may keep it once its call has ended. gRPC and
    asyncio tie a call, its exceptions and their tracebacks into reference cycles, which Python
    frees only when the garbage collector runs, seldom and late. Three places avoid that: `answer`
    reads the message from the context, and `_outcome` and `_abort` call `_forget_frames`.

    Args:
        service: answers ModelInfer.
        repository: the models.
        api_keys: the keys that are accepted.
        telemetry: metrics and logs.
        settings: the server's settings.

    Attributes:
        budget: counts the bytes of the messages that are being answered.
    """

    def __init__(
        self,
        service: Service,
        repository: Repository,
        api_keys: ApiKeys,
        telemetry: Telemetry,
        settings: Settings,
    ):
        self._service = service
        self._repository = repository
        self._api_keys = api_keys
        self._telemetry = telemetry
        self._settings = settings
        self._addresses = ClientAddresses(settings.trusted_proxies, settings.proxy_header)
        self.budget = BodyBudget(settings.max_body)

    async def answer(self, name: str, _: Any, context: grpc.aio.ServicerContext) -> bytes:
        """Returns the response to a call, as bytes.

        Args:
            name: the RPC's name.
            _: gRPC's iterator over the messages. Unused, because it would keep the message until
                the garbage collector runs.
            context: gRPC's context of the call.
        """
        started = time.perf_counter()
        pairs = [
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        ]
        metadata = dict(reversed(pairs))  # the first of two values counts
        trace = RequestTrace(request_id(metadata), metadata, protocol="grpc")
        code = "CANCELLED"
        try:
            response, error = await self._outcome(name, trace, context)
            code = error.code if error else "OK"
            trace.sent = len(response)
            if error:
                await _abort(error, trace, context)
            else:
                context.set_trailing_metadata(_trailer(trace))
            return response
        finally:
            self.budget.release(trace.received)
            seconds = time.perf_counter() - started
            client = self._addresses.client(_peer_address(context.peer()), pairs)
            self._telemetry.access(trace.log_entry(code, seconds, client, method=name))

    async def _outcome(
        self, name: str, trace: RequestTrace, context: grpc.aio.ServicerContext
    ) -> tuple[bytes, Refused | None]:
        """Returns (response, None), or (b"", the error), which keeps nothing of the call alive."""
        try:
            return await self._respond(name, trace, context), None
        except TimeoutError:
            error: Refused = Unavailable(
                f"there was no answer within {self._settings.timeout:g} seconds: try again", 1.0
            )
        except Refused as refused:
            error = refused
        except Exception as unforeseen:  # the one place for these; clients see no details
            self._telemetry.failed("grpc", trace.model, unforeseen)
            return b"", _Internal("internal error")
        self._telemetry.refused("grpc", trace.model, error)
        _forget_frames(error)
        return b"", error

    async def _respond(
        self, name: str, trace: RequestTrace, context: grpc.aio.ServicerContext
    ) -> bytes:
        if name not in PUBLIC:
            trace.key = self._api_keys.check(key_of(trace.headers))
        data = await self._read(trace, context)
        async with asyncio.timeout(self._settings.timeout):
            return (await self._call(name, data, trace)).SerializeToString()

    async def _read(self, trace: RequestTrace, context: grpc.aio.ServicerContext) -> bytes:
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
        self.budget.add(len(data))
        self.budget.check(len(data))
        return data

    async def _call(self, name: str, data: bytes, trace: RequestTrace) -> Message:
        images = messages.INFER if name == "ModelInfer" else {}
        # Each image may be a field of its own, and each input of a model of more than images has a
        # few.
        most = messages.FIELDS + 8 * v2.MAX_INPUTS + self._settings.max_images
        messages.check(data, images, most if images else messages.FIELDS)
        try:
            request = getattr(service_pb2, f"{name}Request").FromString(data)
        except DecodeError as error:
            raise Refused(f"the message is not a valid {name}Request") from error
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
        return service_pb2.ServerMetadataResponse(**v2.server_metadata())

    async def _ModelMetadata(self, request, trace):
        version = self._repository.get(request.name, request.version)
        versions = self._repository.models()[request.name]
        return service_pb2.ModelMetadataResponse(
            **v2.model_metadata(request.name, versions, version.bundle)
        )

    async def _ModelInfer(self, request, trace):
        trace.model = request.model_name[:MAX_ID]
        # While it stops, gRPC itself would cancel new calls without a reason.
        if not self._repository.ready:
            raise Unavailable("the server is not ready or is stopping", 1.0)
        if request.raw_input_contents:
            inference = _inference(request)
        else:  # lists take longer
            inference = await asyncio.to_thread(_inference, request)
        answer = await self._service.classify(
            Request(
                request.model_name,
                inference.images,
                request.model_version,
                trace.headers.get("x-route-key", ""),
                trace.id,
                trace.protocol,
                inference.cells,
                inference.tiling,
                inference.unsure,
            )
        )
        trace.record_answer(answer)
        return _infer_response(answer, inference, request.id or trace.id)


class _Internal(Refused):
    """An error of the server's own."""

    status = 500
    code = "INTERNAL"


def _forget_frames(error: BaseException) -> None:
    """Cuts an error off from the frames it came through, whose variables hold the call's message.

    See `Calls` for why.
    """
    error.__traceback__ = None
    error.__context__ = None
    error.__cause__ = None


async def _abort(error: Refused, trace: RequestTrace, context: grpc.aio.ServicerContext) -> None:
    """Ends a call with an error."""
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
        # gRPC keeps it in the call, and raises it again once the handler has returned.
        _forget_frames(aborted)


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    with open(settings.tls_key, "rb") as key, open(settings.tls_certificate, "rb") as certificate:
        return grpc.ssl_server_credentials([(key.read(), certificate.read())])


def _trailer(trace: RequestTrace) -> tuple[tuple[str, str], ...]:
    version = (("x-model-version", trace.version),) if trace.version else ()
    return (("x-request-id", trace.id), *version)


def _peer_address(peer: str) -> str:
    """Returns the address in gRPC's "ipv4:127.0.0.1:54321" or "ipv6:%5B::1%5D:54321"."""
    return urllib.parse.unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _inference(request: Any) -> Inference:
    """Returns what a ModelInferRequest asks for."""
    raw_tensors = request.raw_input_contents
    tensors = []
    if raw_tensors and len(raw_tensors) != len(request.inputs):
        raise Refused(
            f"raw_input_contents has {len(raw_tensors)} tensors, but inputs {len(request.inputs)}"
        )
    for i, tensor in enumerate(request.inputs):
        if "shared_memory_region" in tensor.parameters:
            raise Refused("shared memory is not supported: send the tensor itself")
        data = raw_tensors[i] if raw_tensors else _typed_contents(tensor)
        shape = list(tensor.shape[:MAX_RANK])
        tensors.append(Tensor(tensor.name, tensor.datatype, shape, data))
    parameters = _parameters(request)
    outputs = [(output.name, _parameters(output)) for output in request.outputs]
    tiling = tiling_from(parameters)
    requests = requested_outputs(outputs, parameters, tiling)
    return Inference(
        images_of(tensors),
        requests,
        top_k_of(parameters),
        request.id,
        cells_of(tensors),
        tiling,
        unsure_of(parameters),
    )


def _typed_contents(tensor: Any) -> list[Any]:
    """Returns the list in a tensor's own contents."""
    return list(getattr(tensor.contents, CONTENTS.get(tensor.datatype, "uint_contents")))


def _parameters(message: Any) -> dict[str, Any]:
    """Returns the values of a message's parameters."""
    return {
        key: getattr(parameter, kind)
        for key, parameter in message.parameters.items()
        if (kind := parameter.WhichOneof("parameter_choice"))
    }


def _infer_response(answer: Answer, inference: Inference, identity: str) -> Message:
    response = service_pb2.ModelInferResponse(
        model_name=answer.model, model_version=answer.version, id=identity
    )
    for request, datatype, shape, data in output_tensors(answer, inference):
        response.outputs.add(name=request.name, datatype=datatype, shape=shape)
        if isinstance(data, list):
            raw = pack_bytes(data)
        else:
            raw = np.ascontiguousarray(data).tobytes()
        response.raw_output_contents.append(raw)
    return response
