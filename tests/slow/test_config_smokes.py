"""The configs whose data are not at hand: their smoke runs, on a small folder of generated images instead."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from vision import cli, main

REPOSITORY = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of twenty images, each class its own color, none of them square."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir()
        for i in range(20):
            image = rng.randint(0, 128, (70, 80, 3)).astype(np.uint8)
            image[..., label] += 100
            cv2.imwrite(str(folder / name / f"{i}.jpg"), image)
    return folder


@pytest.mark.parametrize("name", ["resnet_cifar10", "vit_cifar10", "resnet_imagenet", "vit_imagenet", "resnet_folder"])
def test_a_smoke_run_ends_with_a_result(name, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    argv = ["--config", f"configs/{name}.py:smoke", f"--workdir={tmp_path / 'run'}", "--config.parallel.devices=1"]
    argv += [f"--config.data.source=folder:{photos}"] + ["--config.data.image_size=32"] * name.endswith("cifar10")
    cli.run(main.main, argv)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["ended"]) == (4, "finished") and result["classes"] == ["cat", "dog", "owl"]
    assert np.isfinite(result["loss"]) and sum(result["support"]) == result["split_sizes"]["test"]
