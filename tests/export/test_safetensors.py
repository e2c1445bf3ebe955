"""Weights that leave under timm's names come back the same."""

import json

import numpy as np
import pytest
import safetensors.numpy

from vision import cli, inference
from vision.export import __main__ as export
from vision.models import pretrained, vit
from vision.training.restore import run_weights


def test_there_and_back(tiny_run, tmp_path, capsys):
    cli.run(export.main, ["--workdir", str(tiny_run), "--format=safetensors", "--out", str(tmp_path / "out")])
    assert "20 tensors" in capsys.readouterr().out
    file = tmp_path / "out" / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    assert arrays["patch_embed.proj.weight"].shape == (32, 1, 4, 4) and arrays["blocks.0.attn.qkv.weight"].shape == (
        96,
        32,
    )
    config, _, ours = run_weights(tiny_run)
    config.model.pretrained = str(file)
    back = pretrained.load(config.model, 10, 8, 1)
    assert back.keys() == ours.keys() and all(np.array_equal(back[name], ours[name]) for name in ours)

    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["label_names"] == [str(i) for i in range(10)] and written["pretrained_cfg"]["mean"] == [0.5]
    known = pretrained.describe(str(file), vit)
    assert (known.size, known.classes, known.crop) == (8, 10, 1.0)


def test_the_exported_file_predicts_as_the_run(tiny_run, tmp_path):
    cli.run(export.main, ["--workdir", str(tiny_run), "--out", str(tmp_path / "out")])
    run = inference.from_run(tiny_run)
    config = run.config.copy_and_resolve_references()
    config.model.pretrained = str(tmp_path / "out" / "model.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(inference.from_config(config)(images)[0], run(images)[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--out", "x"), "which model?"),
        (("--workdir", "nowhere"), "where to? Give --out"),
        (("--workdir", "nowhere", "--out", "x"), "is no run's directory"),
        (("--workdir", "nowhere", "--out", "x", "--format", "onnx"), "--format = 'onnx' is unknown"),
        (("--workdir", "nowhere", "--out", "x", "y"), "unexpected argument 'y'"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(export.main, list(argv))
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_where_nothing_can_be_written(tiny_run, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as error:
        cli.run(export.main, ["--workdir", str(tiny_run), "--out", str(tmp_path / "file")])
    assert error.value.code == 2 and "cannot write to --out" in capsys.readouterr().err
