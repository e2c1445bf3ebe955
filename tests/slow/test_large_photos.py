"""Photos of 50 megapixels, several at a time: they are answered as training would read them, in
bounded memory."""

import concurrent.futures
import io
import json
import pathlib
import time
import urllib.request

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.data.decode import decode

ROOM = 700  # MiB: a photo as it is decoded and turned, and the eight files
SIDES = (8192, 6144)


@pytest.fixture(scope="module")
def photo():
    """A JPEG of about 11 MB that was taken upright."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, SIDES, interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


def peak(live):
    """Returns MiB."""
    lines = pathlib.Path(f"/proc/{live.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def classify(live, data):
    with urllib.request.urlopen(f"{live.url}/classify/tiny?top_k=10", data, timeout=60) as answer:
        return {entry["class"]: entry["probability"] for entry in json.load(answer)["top"]}


def test_large_photos_at_once(photo, tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "tiny" / "1", side=28), threads=1)
    probabilities, _ = bundle.probabilities_and_embeddings(bundle.prepare(decode(photo))[None])
    small = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(small, "JPEG")
    with serve(tmp_path, grpc_port=0, decode_threads=4, timeout=120) as live:
        classify(live, small.getvalue())
        before = peak(live)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(classify, live, photo) for _ in range(8)]
            time.sleep(0.5)
            classify(live, small.getvalue())  # which waits for its turn, but is answered
            for answer in answers:
                scores = answer.result()
                expected = dict(zip(bundle.classes, probabilities[0], strict=True))
                assert all(abs(expected[name] - value) < 1e-5 for name, value in scores.items())
        grown = peak(live) - before
    print(f"{len(photo) / 2**20:.1f} MiB each, the server grew by {grown:.0f} MiB")
    assert grown < ROOM
