"""A wheel of the tree, installed elsewhere: train on a folder, export and serve, no checkout."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY

QUICK = (
    "--config.train.steps=4",
    "--config.data.image_size=32",
    "--config.parallel.devices=1",
    "--config.model.pretrained=",  # EfficientNet takes minutes to compile
    "--config.model.name=resnet",
    "--config.model.variant=cifar20",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder in which the wheel is installed; other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY]
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("hatchling cannot be had")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """A folder with photos: 60 images in two classes, bright and dark."""
    folder = tmp_path_factory.mktemp("away")
    random = np.random.default_rng(0)
    for name, brightest in (("bright", 255), ("dark", 60)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(30):
            image = random.integers(brightest - 50, brightest, (120, 100, 3), np.uint8)
            cv2.imwrite(str(folder / "photos" / name / f"{i}.jpg"), image)
    return folder


@pytest.fixture(scope="module")
def vision(site, away):
    """Returns a function that starts the command, as the console script does."""
    environment = os.environ | {"PYTHONPATH": str(site), "XLA_FLAGS": ""}

    def start(*words):
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vision", *map(str, words)],
            cwd=away,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finish(process):
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text
    return text


def test_it_has_the_configs_and_the_command(site, vision):
    assert {path.name for path in (REPOSITORY / "configs").glob("*.py")} == {
        path.name for path in (site / "vision" / "configs").glob("*.py")
    }
    (script,) = site.glob("bin/vision")
    assert os.access(script, os.X_OK)
    assert "configs/transfer_folder.py" in finish(vision("configs", "folder"))
    (metadata,) = site.glob("vision-*.dist-info")
    version = metadata.name.removeprefix("vision-").removesuffix(".dist-info")
    assert finish(vision("--version")) == f"vision {version}\n"


def test_it_trains_exports_and_serves(vision, away, site):
    text = finish(vision("train", "photos", "--workdir=run", *QUICK))
    assert "python -m vision evaluate --workdir run" in text
    assert str(site) not in (away / "run" / "config.py").read_text()
    text = finish(vision("train", "--config", "configs/fixmatch_folder.py:photos", "--help"))
    assert "--workdir" in text
    finish(vision("export", "--workdir=run", "--out=models/photos/1"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = vision("serve", "--models=models", f"--http-port={port}", "--grpc-port=0")
    try:
        answer = classify(f"http://127.0.0.1:{port}/classify/photos", away / "photos/dark/0.jpg")
    finally:
        server.terminate()
        server.wait(30)
    assert "dark" in json.dumps(answer) and "bright" in json.dumps(answer)


def classify(url: str, image: pathlib.Path) -> dict:
    """Returns the server's answer, once it is there."""
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(url, image.read_bytes())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
