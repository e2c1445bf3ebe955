"""Turns a request's images into the model's input, in threads.

An image's cost is known before it is decoded: see `vision.serving.headers`.
"""

import asyncio
import concurrent.futures
import math
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from vision.bundle.directory import Bundle
from vision.data.decode import UnreadableImage, decode
from vision.errors import UserError, brief
from vision.reference import appearance
from vision.serving.errors import Refused, TooLarge, TooMany
from vision.serving.headers import scans_of, size_of
from vision.serving.limits import PixelBudget
from vision.serving.settings import Settings
from vision.support.processes import cores
from vision.tiles.grid import Grid, Tiling, check_normal, grid_of

# A request's images may have this many times the pixels that one image may have.
PIXELS_PER_REQUEST = 4
SCANS = 16  # of a JPEG that has the maximum number of pixels
RECENT = 0.1  # weight of the last image in the average
# Seconds that a request keeps a thread before it is the others' turn, or one with many images would
# hold up all.
TURN = 0.005
MAX_THREADS = 4  # unless a setting says so


class Cut(NamedTuple):
    """An image that is cut into tiles.

    Attributes:
        grid: where they are.
        tiles: uint8 (N, image_size, image_size, channels), as the model takes them.
        looks: float32 (N, 7), `vision.reference.appearance.measure` of each; None if it was not
            asked for.
    """

    grid: Grid
    tiles: np.ndarray
    looks: np.ndarray | None


class Decoder:
    """Decodes and resizes images.

    Args:
        settings: the server's settings.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._threads = settings.decode_threads or min(MAX_THREADS, cores())
        self._memory = PixelBudget(settings.max_pixels)
        self._waiting = 0  # images
        self._seconds = 0.0  # per image, averaged
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "decode")
        cv2.setNumThreads(1)  # the pool has a thread for each core that is meant to decode
        # one for each broken tag; they would fill the log
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.init()  # or PIL imports its formats at the first request

    async def prepare(
        self,
        images: np.ndarray | list[bytes],
        bundle: Bundle,
        looks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns a request's images as a bundle's model takes them.

        Args:
            images: uint8 (N, H, W, C), which are only checked, or a list of encoded images.
            bundle: the bundle.
            looks: float32 (N, 7) that gets `vision.reference.appearance.measure` of each image.

        Returns:
            uint8 (N, image_size, image_size, channels).

        Raises:
            Refused: an array has another shape, or an image is broken.
            Unreadable: an image is of an unknown format.
            TooLarge: there are too many images or pixels.
            TooMany: too many images are waiting already.
        """
        if not 0 < len(images) <= self._settings.max_images:
            kind = TooLarge if len(images) else Refused
            raise kind(
                f"the request holds {len(images)} images: send 1 to {self._settings.max_images}"
            )
        shape = (bundle.image_size, bundle.image_size, bundle.channels)
        if isinstance(images, np.ndarray):
            if images.shape[1:] != shape or images.dtype != np.uint8:
                raise Refused(f"the model takes images of {shape}, not {images.shape[1:]}")
            if looks is not None:
                looks[:] = await self._in_thread(appearance.measure_all, images)
            return images
        self._admit(len(images))
        return await self._decode(list(images), bundle, looks)

    async def cut(
        self,
        images: np.ndarray | list[bytes],
        bundle: Bundle,
        tiling: Tiling,
        measured: bool = False,
    ) -> Cut:
        """Returns a request's only image as tiles, which a bundle's model takes like images.

        A thread decodes the image and prepares all of its tiles, and then frees it. The tiles take
        at most max_tiles x image_size² x channels bytes: for large models more than the image.

        Args:
            images: uint8 (1, H, W, 1 or 3), of any size, or a list of one encoded image.
            bundle: the bundle.
            tiling: how the image is cut.
            measured: whether the result has `looks`.

        Raises:
            Refused: there are several images, the image is broken, or the model has no such normal
                class or takes more than images.
            Unreadable: the image is of an unknown format.
            TooLarge: there are too many pixels or tiles.
            TooMany: too many images are waiting already.
        """
        if bundle.encoder is not None:
            names = ", ".join(bundle.encoder.names)
            raise Refused(f"tiles are for models that take only images, but this one takes {names}")
        if len(images) != 1:
            raise Refused(f"with tiles, send one image per request: this one has {len(images)}")
        try:
            check_normal(tiling, bundle.classes)
        except UserError as error:
            raise Refused(brief(error)) from error
        self._admit(1)
        waiting = list(images)
        try:
            return await self._in_thread(self._cut, waiting, bundle, tiling, measured)
        finally:
            waiting.clear()  # of a canceled call the pool keeps the arguments
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads; images that wait are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _admit(self, count):
        limit = self._settings.max_queue
        seconds = self._waiting * self._seconds / self._threads
        if self._waiting and self._waiting + count > limit:
            raise TooMany(
                f"{self._waiting} images are waiting to be decoded (at most {limit} may): try "
                "again later",
                max(seconds, 0.01),
            )
        if seconds > self._settings.timeout:
            raise TooMany(
                f"{self._waiting} images are waiting to be decoded, which takes {seconds:.0f} "
                "seconds: try again later",
                seconds - self._settings.timeout,
            )
        self._waiting += count

    async def _decode(self, encoded, bundle, looks):
        left = len(encoded)
        tasks = []
        remaining = enumerate(encoded)
        decoded = [None] * left

        async def take_turns():
            nonlocal left
            while left:
                count = await self._in_thread(self._take_turn, remaining, decoded, bundle, looks)
                if not count:
                    return
                left -= count
                self._waiting -= count

        try:
            if len(encoded) == 1:
                await take_turns()
                return decoded[0][None]
            sizes = await self._in_thread(self._check_all, encoded, bundle)
            if sum(sizes) > PIXELS_PER_REQUEST * self._settings.max_pixels:
                raise TooLarge(f"the images have {sum(sizes):,} pixels: send fewer at a time")
            count = min(self._threads, len(encoded))
            tasks += [asyncio.create_task(take_turns()) for _ in range(count)]
            await asyncio.gather(*tasks)
            return np.stack(decoded)
        finally:  # after an error, or when the client has gone, not all have been decoded
            # Emptied, or a task's error, whose traceback has this frame, would keep what was
            # decoded.
            while tasks:
                tasks.pop().cancel()
            # Of canceled calls the pool keeps the arguments until a thread is free.
            encoded.clear()
            self._waiting -= left

    def _in_thread(self, function, *arguments):
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _check_all(self, encoded, bundle):
        return [self._check(data, bundle, f"image {i}: ") for i, data in enumerate(encoded)]

    def _take_turn(
        self,
        remaining: Iterator[tuple[int, bytes]],
        decoded: list,
        bundle: Bundle,
        looks: np.ndarray | None,
    ) -> int:
        """Decodes images of a request for TURN seconds, at least one.

        Args:
            remaining: iterator of (index, encoded image), which other threads use too.
            decoded: list that gets the images.
            bundle: the bundle.
            looks: as `prepare` takes it.

        Returns:
            The number of images decoded; 0 if none was left.
        """
        end = time.perf_counter() + TURN
        count = 0
        for i, data in remaining:
            prefix = f"image {i}: " if len(decoded) > 1 else ""
            row = None if looks is None else looks[i]
            decoded[i] = self._decode_image(data, bundle, prefix, row)
            count += 1
            if time.perf_counter() > end:
                break
        return count

    def _decode_image(self, data, bundle, prefix, looks):
        """Returns an image as the model takes it; `prefix` begins the messages of errors, `looks`
        gets what the image is like."""
        begun = time.perf_counter()
        pixels = self._check(data, bundle, prefix)
        try:
            with self._memory.reserve(pixels):
                decoded = decode(data, bits=bundle.bits)
                image = bundle.prepare(decoded)
                if looks is not None:
                    looks[:] = appearance.measure(image, decoded.shape)
        except UnreadableImage as error:
            raise Refused(f"{prefix}it cannot be decoded: {_shorten(error.reason)}") from error
        self._seconds += RECENT * (time.perf_counter() - begun - self._seconds)
        return image

    def _cut(self, waiting, bundle, tiling, measured):
        """Returns the `Cut` of the only image that waits."""
        begun = time.perf_counter()
        (data,) = waiting
        if isinstance(data, np.ndarray):
            if data.ndim != 3 or data.shape[2] not in (1, 3) or data.dtype != np.uint8:
                raise Refused(f"an image has 1 or 3 channels, not the shape {data.shape}")
            height, width = data.shape[:2]
            self._check_size(width, height, "")
        else:
            width, height = self._read_size(data, "")
        # Before anything is decoded. An orientation that swaps the sides changes no number.
        tile = self._grid(width, height, tiling)[0]
        self._check_shape(tile.width, tile.height, bundle, "")
        try:
            with self._memory.reserve(0 if isinstance(data, np.ndarray) else width * height):
                if not isinstance(data, np.ndarray):
                    data = decode(data, bits=bundle.bits)
                cut = self._prepare_tiles(data, bundle, tiling, measured)
        except UnreadableImage as error:
            raise Refused(f"it cannot be decoded: {_shorten(error.reason)}") from error
        self._seconds += RECENT * (time.perf_counter() - begun - self._seconds)
        return cut

    def _prepare_tiles(self, image, bundle, tiling, measured):
        grid = self._grid(image.shape[1], image.shape[0], tiling)
        shape = (bundle.image_size, bundle.image_size, bundle.channels)
        tiles = np.empty((len(grid), *shape), np.uint8)
        looks = np.empty((len(grid), len(appearance.NAMES)), np.float32) if measured else None
        for number in range(len(grid)):
            tile = grid.cut(image, number)
            tiles[number] = bundle.prepare(tile)
            if looks is not None:
                looks[number] = appearance.measure(tiles[number], tile.shape)
        return Cut(grid, tiles, looks)

    def _grid(self, width, height, tiling):
        most = self._settings.max_tiles or self._settings.max_queue
        try:
            return grid_of(width, height, tiling, most)
        except UserError as error:
            raise TooLarge(brief(error)) from error

    def _check(self, data, bundle, prefix):
        """Returns an image's number of pixels from its header; raises `Refused` unless it may be
        decoded and prepared."""
        width, height = self._read_size(data, prefix)
        self._check_shape(width, height, bundle, prefix)
        return width * height

    def _read_size(self, data, prefix):
        """Returns an image's (width, height) from its header; raises `Refused` unless it may be
        decoded."""
        if not data:
            raise Refused(f"{prefix}the image is empty (0 bytes)")
        try:
            width, height = size_of(data)
        except Refused as error:
            raise type(error)(f"{prefix}{error.message}") from error
        if width < 1 or height < 1:
            raise Refused(f"{prefix}it has {width} x {height} pixels")
        self._check_size(width, height, prefix)
        if scans_of(data) * width * height > SCANS * self._settings.max_pixels:
            raise TooLarge(f"{prefix}it is a JPEG with too many scans: save it as baseline JPEG")
        return width, height

    def _check_size(self, width, height, prefix):
        max_side = self._settings.max_side
        max_pixels = self._settings.max_pixels
        if max(width, height) > max_side or width * height > max_pixels:
            raise TooLarge(
                f"{prefix}it has {width} x {height} pixels: send at most {max_side:,} per side and "
                f"{max_pixels:,} in all"
            )

    def _check_shape(self, width, height, bundle, prefix):
        # Its shorter side is resized to the model's size, which turns a long and narrow image into
        # a huge one.
        shorter = bundle.image_size / bundle.resize["crop_fraction"]
        pixels = math.ceil(shorter) * shorter * max(width, height) / min(width, height)
        if pixels > self._settings.max_pixels:
            raise TooLarge(f"{prefix}it has {width} x {height} pixels: it is too narrow")


def _shorten(reason):
    """Returns a decoder's reason as one short line."""
    return " ".join(str(reason).split())[:120]
