"""The configs whose data are not at hand: their smoke runs, on a small folder of generated images
instead."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from vision import cli, main
from vision.continual.__main__ import main as sequence

REPOSITORY = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of twenty images, each class its own color, none of them square."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir()
        for i in range(20):
            image = rng.randint(0, 128, (70, 80, 3)).astype(np.uint8)
            image[..., label] += 100
            cv2.imwrite(str(folder / name / f"{i}.jpg"), image)
    return folder


NAMES = ["resnet_cifar10", "vit_cifar10", "resnet_imagenet", "vit_imagenet", "resnet_folder"]
NAMES += ["efficientnet_lite_imagenet", "longtail_cifar10"]
NAMES += [
    f"{name}_{data}" for name in ("simclr", "moco", "byol") for data in ("cifar10", "imagenet")
]
NAMES += ["ssl_fashion_mnist", "mae_fashion_mnist", "mae_imagenet", "wide_resnet_cifar10"]
NAMES += ["fixmatch_cifar10", "fixmatch_fashion_mnist", "clip_cifar10", "gan_fashion_mnist"]
NAMES += ["architecture_fashion_mnist"]


@pytest.mark.parametrize("mode", ["full", "head", "partial", "lora", "scratch"])
def test_every_way_of_transfer(mode, photos, tmp_path, monkeypatch):
    """From the real weights; the low-rank and the partial run learn less than the full one."""
    monkeypatch.chdir(REPOSITORY)
    argv = [
        "--config",
        f"configs/transfer_folder.py:{photos}:{mode}:smoke",
        f"--workdir={tmp_path / 'run'}",
    ]
    cli.run(main.main, [*argv, "--config.parallel.devices=1"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    share = result["parameters"]["learning"] / result["parameters"]["all"]
    assert np.isfinite(result["loss"]) and (share == 1) == (mode in ("full", "scratch"))
    assert result["config"]["data"]["normalize"] == ("auto" if mode == "scratch" else "mean_std")


@pytest.mark.parametrize("name", ["vit_mnist5k", "resnet_mnist5k", "longtail_mnist5k"])
def test_a_smoke_run_on_its_own_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    argv = [
        "--config",
        f"configs/{name}.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.parallel.devices=1",
    ]
    cli.run(main.main, argv)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["ended"]) == (4, "finished") and sum(result["support"]) == 64


def test_a_smoke_run_on_drawings(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    spec = f"configs/clip_openclipart.py:{shared_data / 'openclipart.parquet'}:siglip:smoke"
    argv = ["--config", spec, f"--workdir={tmp_path / 'run'}", "--config.parallel.devices=1"]
    cli.run(main.main, argv)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["ended"]) == (4, "finished") and len(result["classes"]) == 22
    assert np.isfinite(result["loss"])


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_ends_with_a_result(name, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    argv = [
        "--config",
        f"configs/{name}.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.parallel.devices=1",
    ]
    argv += [f"--config.data.source=folder:{photos}"] + [
        "--config.data.image_size=32"
    ] * name.endswith("cifar10")
    cli.run(main.main, argv)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["ended"]) == (4, "finished") and result["classes"] == [
        "cat",
        "dog",
        "owl",
    ]
    assert np.isfinite(result["loss"]) and sum(result["support"]) == result["split_sizes"]["test"]


DISTILLED = [f"distill_fashion_mnist:{way}" for way in ("soft", "hard", "hint", "patient")]
DISTILLED += ["distill_fashion_mnist:embedding", "deit_imagenet", "patient_imagenet"]


@pytest.fixture(scope="module")
def teachers(photos, tmp_path_factory):
    """{config: a teacher's directory}, from smoke runs on the photos."""
    workdir = tmp_path_factory.mktemp("teachers")
    specs = {
        "distill_fashion_mnist": "distill_fashion_mnist.py:teacher",
        "imagenet": "resnet_imagenet.py:18",
    }
    for name, spec in specs.items():
        _run_smoke(spec, photos, workdir / name)
    return workdir


def _run_smoke(spec, photos, workdir):
    argv = ["--config", str(REPOSITORY / f"configs/{spec}:smoke"), f"--workdir={workdir}"]
    argv += [f"--config.data.source=folder:{photos}", "--config.parallel.devices=1"]
    if spec.startswith("distill"):
        argv += ["--config.data.image_size=32"]
    cli.run(main.main, argv)
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize("name", DISTILLED)
def test_every_way_of_distillation(name, photos, teachers, tmp_path):
    config, _, way = name.partition(":")
    teacher = teachers / (config if way else "imagenet")
    spec = f"{config}.py:{way}:{teacher}" if way else f"{config}.py:{teacher}"
    result = _run_smoke(spec, photos, tmp_path / "run")
    assert (result["steps"], result["ended"]) == (4, "finished")
    assert np.isfinite(result["loss"])


@pytest.mark.parametrize(
    "spec",
    [
        "fixmatch_folder.py:{0}:{0}",
        "fixmatch_folder.py:{0}",
        "label_free_folder.py:{0}",
        "gan_folder.py:{0}",
        "gan_folder.py:{0}:64:classifier",
    ],
)
def test_a_smoke_run_on_your_own_folder(spec, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    argv = ["--config", f"configs/{spec.format(photos)}:smoke", f"--workdir={tmp_path / 'run'}"]
    cli.run(main.main, [*argv, "--config.parallel.devices=1"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 4 and np.isfinite(result["loss"])


@pytest.mark.parametrize("name", ["split_fashion_mnist", "permuted_fashion_mnist"])
def test_a_smoke_run_of_a_sequence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    flags = ["--config.data.source=digits", f"--workdir={tmp_path / 'tasks'}"]
    cli.run(sequence, [f"--config=configs/{name}.py:smoke", *flags])
    record = json.loads((tmp_path / "tasks/sequence.json").read_text())
    assert len(record["matrix"]) in (5, 10) and 0 <= record["accuracy"] <= 1


def test_a_smoke_run_with_a_new_class(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    old = f"folder:{photos}?classes=cat,dog"
    first = ["--config=configs/resnet_folder.py:smoke", f"--config.data.source={old}"]
    first.append("--config.data.image_size=32")
    cli.run(main.main, [*first, f"--workdir={tmp_path / 'first'}"])
    new = f"configs/incremental.py:{tmp_path / 'first'}:folder:{photos}?classes=owl"
    cli.run(main.main, [f"--config={new}:smoke", f"--workdir={tmp_path / 'second'}"])
    result = json.loads((tmp_path / "second/result.json").read_text())
    assert result["classes"] == ["cat", "dog", "owl"]
    assert result["continual"]["tasks"][1]["classes"] == ["owl"]
