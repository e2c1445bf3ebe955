"""From a request's images to what a model takes, in threads; what an image costs is known before it
is decoded."""

import asyncio
import concurrent.futures
import math
import time
import warnings

import cv2
import numpy as np
from PIL import Image

from vision.data.decode import UnreadableImage, decode
from vision.serving.errors import Refused, TooLarge, TooMany
from vision.serving.headers import scans_of, size_of

WHOLE = 4  # a request's images have at most so many times the pixels that one may have
SCANS = 16  # of a JPEG that has the most pixels that an image may have
RECENT = 0.1  # weight of the last image in the average
# seconds that a request holds a thread; the others' come then, or one of many images would hold up
# all
TURN = 0.005


class Decoder:
    """Decodes and resizes images.

    Args:
        settings: `vision.serving.settings.Settings`.
    """

    def __init__(self, settings):
        self._settings = settings
        self._waiting = 0
        self._seconds = 0.0
        self._pool = concurrent.futures.ThreadPoolExecutor(settings.decode_threads, "decode")
        cv2.setNumThreads(1)  # the pool has a thread for each core that is meant to decode
        # of each broken tag; they would fill the log
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.init()  # or PIL imports its formats when the first request comes

    async def prepare(self, images, bundle):
        """Returns a request's images as a bundle's model takes them, uint8 (N, image_size,
        image_size, channels).

        Args:
            images: uint8 (N, H, W, C), which are checked, or a list of encoded images as bytes.
            bundle: the `vision.bundle.directory.Bundle`.

        Raises:
            Refused: an array has another shape, or an image is broken.
            Unreadable: what is said to be an image is of no format that is known.
            TooLarge: too many images or pixels.
            TooMany: too many images wait already.
        """
        if not 0 < len(images) <= self._settings.max_images:
            kind = TooLarge if len(images) else Refused
            raise kind(
                f"the request holds {len(images)} images: send 1 to {self._settings.max_images}"
            )
        side = bundle.image_size
        channels = bundle.channels
        if isinstance(images, np.ndarray):
            if images.shape[1:] != (side, side, channels) or images.dtype != np.uint8:
                raise Refused(
                    f"the model takes images of ({side}, {side}, {channels}), not {images.shape[1:]}"
                )
            return images
        self._admit(len(images))
        return await self._decode(list(images), bundle)

    def close(self):
        """Ends the threads; images that wait are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _admit(self, count):
        limit = self._settings.max_queue
        if self._waiting and self._waiting + count > limit:
            seconds = max(self._waiting * self._seconds / self._settings.decode_threads, 0.01)
            raise TooMany(
                f"{self._waiting} images wait for decoding, of at most {limit}: try again later",
                seconds,
            )
        self._waiting += count

    async def _decode(self, images, bundle):
        left = len(images)
        tasks = []
        rest = enumerate(images)
        found = [None] * left

        async def work():
            nonlocal left
            while left and (done := await self._in_thread(self._take_turn, rest, found, bundle)):
                left -= done
                self._waiting -= done

        try:
            if len(images) == 1:
                await work()
                return found[0][None]
            sizes = await self._in_thread(self._check_all, images, bundle)
            if sum(sizes) > WHOLE * self._settings.max_pixels:
                raise TooLarge(f"the images have {sum(sizes):,} pixels: send fewer at a time")
            tasks += [
                asyncio.create_task(work())
                for _ in range(min(self._settings.decode_threads, len(images)))
            ]
            await asyncio.gather(*tasks)
            return np.stack(found)
        finally:  # after an error, or when the client has gone, not all have been decoded
            # emptied, or its error, whose traceback has this frame, would keep what was decoded
            while tasks:
                tasks.pop().cancel()
            # of what was canceled the pool keeps the arguments until a thread is free
            images.clear()
            self._waiting -= left

    def _in_thread(self, function, *arguments):
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _check_all(self, images, bundle):
        return [self._check(data, bundle, f"image {i}: ") for i, data in enumerate(images)]

    def _take_turn(self, rest, found, bundle):
        """Decodes images of a request for TURN seconds, at least one; returns how many, 0 = none
        was left.

        Args:
            rest: iterator of (index, encoded image), which other threads use too.
            found: list that gets the images.
        """
        end = time.perf_counter() + TURN
        done = 0
        for i, data in rest:
            found[i] = self._one(data, bundle, f"image {i}: " if len(found) > 1 else "")
            done += 1
            if time.perf_counter() > end:
                break
        return done

    def _one(self, data, bundle, name):
        """Returns an image as the model takes it."""
        begun = time.perf_counter()
        self._check(data, bundle, name)
        try:
            image = bundle.prepare(decode(data))
        except UnreadableImage as error:
            raise Refused(f"{name}it cannot be decoded: {_line(error.reason)}") from error
        self._seconds += RECENT * (time.perf_counter() - begun - self._seconds)
        return image

    def _check(self, data, bundle, name):
        """Returns how many pixels an image has, by its header alone; raises `Refused` unless it may
        be decoded."""
        if not data:
            raise Refused(f"{name}the image is empty, of 0 bytes")
        try:
            width, height = size_of(data)
        except Refused as error:
            raise type(error)(f"{name}{error.message}") from error
        if width < 1 or height < 1:
            raise Refused(f"{name}it has {width} x {height} pixels")
        if (
            max(width, height) > self._settings.max_side
            or width * height > self._settings.max_pixels
        ):
            raise TooLarge(
                f"{name}it has {width} x {height} pixels: send at most {self._settings.max_side:,} a side and "
                f"{self._settings.max_pixels:,} in all"
            )
        if scans_of(data) * width * height > SCANS * self._settings.max_pixels:
            raise TooLarge(f"{name}it is a JPEG of too many scans: save it as a baseline one")
        # Its shorter side is brought to the model's size, which of a long and narrow image makes a
        # huge one.
        shorter = bundle.image_size / bundle.resize["crop_fraction"]
        if (
            math.ceil(shorter) * shorter * max(width, height) / min(width, height)
            > self._settings.max_pixels
        ):
            raise TooLarge(f"{name}it has {width} x {height} pixels: it is too long for its width")
        return width * height


def _line(reason):
    """Returns a decoder's reason as one short line."""
    return " ".join(str(reason).split())[:120]
