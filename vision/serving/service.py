"""What every protocol calls: images in, probabilities out, by the version that traffic.json gives a
request."""

import asyncio
import dataclasses
import time

import numpy as np

from vision.serving.errors import TooMany

# requests, and images, that shadows answer at a time; of more than that they see a part
SHADOWS = 16, 64


@dataclasses.dataclass
class Request:
    """A request, whatever protocol it came by.

    Attributes:
        model: its name.
        images: uint8 (N, H, W, C) as the model takes them, or a list of encoded images as bytes.
        version: the version that is asked for; "" = as traffic.json says.
        key: what a canary is sticky by; "" = each request for itself.
        id: of the request, for the log.
        protocol: that it came by, "rest" or "grpc", for the metrics.
    """

    model: str
    images: np.ndarray | list
    version: str = ""
    key: str = ""
    id: str = ""
    protocol: str = "rest"


@dataclasses.dataclass
class Answer:
    """What a model says of a request's images.

    Attributes:
        model, version: which one said it.
        classes: names, in the order of the probabilities.
        probabilities: float32 (N, C).
        embedding: float32 (N, D).
        seconds: {"decode", "queue", "compute"}.
        heat: of each image where its most probable class is seen, float32 (N, h, w) in [0, 1]; None
            where the model has no heat maps.
    """

    model: str
    version: str
    classes: tuple
    probabilities: np.ndarray
    embedding: np.ndarray
    seconds: dict
    heat: np.ndarray | None = None

    def top(self, count):
        """Returns of each image [(class, probability)], `count` at most, the most probable
        first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[i], float(row[i])) for i in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]


class Service:
    """Classifies requests.

    Args:
        repository: `vision.serving.models.repository.Repository`.
        decoder: `vision.serving.images.Decoder`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.
    """

    def __init__(self, repository, decoder, telemetry):
        self.repository = repository
        self._decoder = decoder
        self._telemetry = telemetry
        # tasks; images that they hold
        self._shadows = set()
        self._shadowed = 0

    async def classify(self, request):
        """Returns the `Answer`; raises `vision.serving.errors.Refused`."""
        version, shadow = self.repository.pick(request.model, request.version, request.key)
        with version.in_use():
            answer = await self._run(version, request)
        self._telemetry.answered(request, answer)
        if shadow is not None:
            self._follow(shadow, request)
        return answer

    async def _run(self, version, request):
        begun = time.perf_counter()
        images = await self._decoder.prepare(request.images, version.bundle)
        decoded = time.perf_counter() - begun
        found = await version.batcher.submit(images)
        seconds = {"decode": decoded, "queue": found.queued, "compute": found.computed}
        if not (np.isfinite(found.probabilities).all() and np.isfinite(found.embedding).all()):
            # and no JSON
            raise RuntimeError(
                f"version {version.name} of {version.model} gives numbers that are none"
            )
        names = version.model, version.name, version.bundle.classes
        return Answer(*names, found.probabilities, found.embedding, seconds, found.heat)

    def _follow(self, version, request):
        """Starts a shadow's answer, unless those before it keep too much: it must not take the room
        of what serves."""
        requests, images = SHADOWS
        held = self._shadowed + len(request.images)
        if self._shadows and (len(self._shadows) >= requests or held > images):
            self._telemetry.shadow_failed(
                version, TooMany("the shadow is slower than what it follows")
            )
            return
        self._shadowed = held
        task = asyncio.create_task(self._shadow(version, request))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, version, request):
        """Lets a version that does not serve answer too, for the log alone."""
        try:
            with version.in_use():
                self._telemetry.answered(request, await self._run(version, request), shadow=True)
        except Exception as error:  # it must not touch what serves
            self._telemetry.shadow_failed(version, error)
        finally:
            self._shadowed -= len(request.images)
