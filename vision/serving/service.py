"""What every protocol calls: images in, probabilities out, by the version that traffic.json picks
for a request."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vision.bundle.directory import Bundle
from vision.data.inputs import pack
from vision.errors import UserError
from vision.reference import appearance
from vision.serving.errors import Refused, TooMany
from vision.serving.images import Decoder
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.loaded import LoadedVersion
from vision.serving.models.repository import Repository
from vision.serving.protocol.json_io import quote
from vision.serving.protocol.unsure import rule_of
from vision.serving.request import Answer, Description, Request
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import Grid

# The requests, and their images or tiles, that shadows answer at a time; they skip what exceeds
# that.
SHADOWS = 16, 64
SMALL = 16_384  # bytes of pixels in a request that the log measures


def with_cells(images: np.ndarray, cells: Mapping[str, list[Any]], bundle: Bundle) -> np.ndarray:
    """Returns a batch of images with what the model takes beside them.

    Args:
        images: uint8 (N, H, W, C), prepared.
        cells: as in `vision.serving.request.Request`.
        bundle: the model.

    Raises:
        Refused: there are others than the model takes, one for each image.
    """
    names = bundle.encoder.names if bundle.encoder else ()
    surplus = [name for name in cells if name not in names]
    if surplus:
        takes = ", ".join(names) or "only images"
        raise Refused(f"the model has no input {quote(surplus[0])}: it takes {takes}")
    missing = [name for name in names if name not in cells]
    if missing:
        raise Refused(
            f"the model takes {', '.join(names)} besides the image: input {quote(missing[0])} is "
            "missing. Send it with protocol V2, as null if it has no value"
        )
    for name, values in cells.items():
        if len(values) != len(images):
            raise Refused(
                f"input {quote(name)} has {len(values)} values, but there are {len(images)} images"
            )
    if bundle.encoder is None:
        return images
    try:
        return pack(images, bundle.encoder.encode(cells, "image {} of the request".format))
    except UserError as error:
        raise Refused(str(error)) from error


class _Prepared(NamedTuple):
    """A request's images as the model takes them.

    Attributes:
        images: the batch.
        looks: what each is like, for the prediction log; None if that is not wanted or not yet
            known.
        grid: where they are, if they are the tiles of one image.
        pixels: small images that the log is to measure.
    """

    images: np.ndarray
    looks: np.ndarray | None
    grid: Grid | None = None
    pixels: np.ndarray | None = None


class Service:
    """Classifies requests.

    Args:
        repository: the models.
        decoder: decodes and resizes images.
        telemetry: counts and logs the answers.
        describe: whether answers have a `Description`, for the prediction log.

    Attributes:
        repository: as given.
    """

    def __init__(
        self,
        repository: Repository,
        decoder: Decoder,
        telemetry: Telemetry,
        describe: bool = False,
    ):
        self.repository = repository
        self._describe = describe
        self._decoder = decoder
        self._telemetry = telemetry
        self._shadow_tasks: set[asyncio.Task] = set()
        self._shadow_images = 0  # that the tasks hold

    async def classify(self, request: Request) -> Answer:
        """Returns the `Answer`; raises `vision.serving.errors.Refused`."""
        version, shadow = self.repository.pick(request.model, request.version, request.key)
        try:
            with version.in_use():
                answer = await self._run(version, request)
        except BaseException as error:  # also if it is canceled: there was no answer in time
            self._telemetry.unanswered(version, error)
            raise
        self._telemetry.answered(request, answer)
        if shadow is not None:
            self._start_shadow(shadow, request, len(answer.probabilities))
        return answer

    async def _run(self, version: LoadedVersion, request: Request) -> Answer:
        begun = time.perf_counter()
        bundle = version.bundle
        rule = rule_of(bundle, request.unsure, is_cut=request.tiling is not None)
        images, looks, grid, pixels = await self._prepare(bundle, request)
        decoded = time.perf_counter() - begun
        prediction = await version.batcher.submit(images)
        is_finite = np.isfinite(prediction.probabilities).all()
        if not (is_finite and np.isfinite(prediction.embedding).all()):
            # which JSON cannot hold
            raise RuntimeError(
                f"version {version.name} of {version.model} returns values that are not finite"
            )
        answer = Answer(
            version.model,
            version.name,
            bundle.classes,
            prediction.probabilities,
            prediction.embedding,
            {"decode": decoded, "queue": prediction.queued, "compute": prediction.computed},
            prediction.heat,
            rule=rule,
        )
        if self._describe:
            answer.description = Description(looks, bundle.fingerprint, bundle.reference, pixels)
        if grid is not None and request.tiling is not None:
            answer.tiled = TiledPrediction(
                bundle.classes, grid, request.tiling, prediction.probabilities
            )
            answer.tiles = images if self._describe else None
        return answer

    async def _prepare(self, bundle: Bundle, request: Request) -> _Prepared:
        if request.tiling is not None:
            if request.cells:
                raise Refused("tiles are for models that take only images: send no other inputs")
            cut = await self._decoder.cut(request.images, bundle, request.tiling, self._describe)
            return _Prepared(cut.tiles, cut.looks, cut.grid)
        looks = pixels = None
        if not self._describe:
            images = await self._decoder.prepare(request.images, bundle)
        elif _is_small(request.images):
            images = await self._decoder.prepare(request.images, bundle)
            pixels = images.copy()  # a view would hold the message
        else:
            looks = np.full((len(request.images), len(appearance.NAMES)), np.nan, np.float32)
            images = await self._decoder.prepare(request.images, bundle, looks)
        if request.cells or bundle.encoder is not None:
            images = await asyncio.to_thread(with_cells, images, request.cells, bundle)
        return _Prepared(images, looks, pixels=pixels)

    def _start_shadow(self, version, request, count):
        """Starts a shadow's answer, unless too many are in progress: it must not take resources
        from the serving version."""
        max_requests, max_images = SHADOWS
        images = self._shadow_images + count
        is_busy = len(self._shadow_tasks) >= max_requests or images > max_images
        if self._shadow_tasks and is_busy:
            self._telemetry.shadow_failed(
                version, TooMany("the shadow is slower than the version that it shadows")
            )
            return
        self._shadow_images = images
        task = asyncio.create_task(self._run_shadow(version, request, count))
        self._shadow_tasks.add(task)
        task.add_done_callback(self._shadow_tasks.discard)

    async def _run_shadow(self, version, request, count):
        """Lets a version that does not serve answer too, for the log only."""
        try:
            with version.in_use():
                # which need not have the rule that the client asked for
                own = dataclasses.replace(request, unsure="")
                self._telemetry.answered(request, await self._run(version, own), shadow=True)
        except Exception as error:  # it must not affect the serving version
            self._telemetry.shadow_failed(version, error)
        finally:
            self._shadow_images -= count


def _is_small(images):
    """Returns whether images came as so few pixels that measuring each costs the server more than
    the log needs for many at a time: each call into OpenCV hands Python's lock to another thread.
    """
    return isinstance(images, np.ndarray) and images.nbytes <= SMALL
