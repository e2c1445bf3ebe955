"""Weights that leave under timm's names come back the same."""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from vision import cli, inference
from vision.config.load import load
from vision.errors import UserError
from vision.export import __main__ as export
from vision.export.safetensors import to_timm, write
from vision.models import efficientnet_lite, select_accepted, vit
from vision.models.layers.streams import Streams
from vision.models.weights import pretrained
from vision.models.weights.names import translate
from vision.run.weights import run_weights
from vision.support.modules import find, names


def test_there_and_back(tiny_run, tmp_path, capsys):
    argv = ["--workdir", str(tiny_run), "--format=safetensors", "--out", str(tmp_path / "out")]
    cli.run(export.main, argv)
    assert "20 tensors" in capsys.readouterr().out
    file = tmp_path / "out" / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    assert arrays["patch_embed.proj.weight"].shape == (32, 1, 4, 4)
    assert arrays["blocks.0.attn.qkv.weight"].shape == (96, 32)
    config, _, ours = run_weights(tiny_run)
    config.model.pretrained = str(file)
    back = pretrained.load(config.model, 10, 8, 1)
    assert back.keys() == ours.keys()
    assert all(np.array_equal(back[name], ours[name]) for name in ours)

    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["label_names"] == [str(i) for i in range(10)]
    assert written["pretrained_cfg"]["mean"] == [0.5]
    description = pretrained.describe(str(file), vit)
    assert (description.size, description.classes, description.crop) == (8, 10, 1.0)


def test_the_exported_file_predicts_as_the_run(tiny_run, tmp_path):
    argv = ["--workdir", str(tiny_run), "--format=safetensors", "--out", str(tmp_path / "out")]
    cli.run(export.main, argv)
    run = inference.from_run(tiny_run)
    config = run.config.copy_and_resolve_references()
    config.model.pretrained = str(tmp_path / "out" / "model.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    ours = inference.from_config(config)(images)[0]
    np.testing.assert_allclose(ours, run(images)[0], atol=1e-6)  # another program


NAMED = [n for n in names("vision.models") if hasattr(find("model", n, "vision.models"), "NAMES")]


@pytest.mark.parametrize(
    "name", [n for n in NAMED if "timm" in find("model", n, "vision.models").NAMES]
)
def test_every_architecture_goes_there_and_back(name):
    """The names that leave are those that come in."""
    module = find("model", name, "vision.models")
    variant = next(iter(module.VARIANTS))
    if "mu" in module.VARIANTS:
        variant = "mu"
    elif name == "vit":
        variant = "mu/4"
    size = {"vit": 8}.get(name, 224)
    offered = {"dtype": "float32", "image_size": size, "channels": 3}
    options = select_accepted(module.build, offered)
    shapes = pretrained.shapes(
        nnx.eval_shape(lambda: module.build(variant, 5, rngs=Streams(0), **options))
    )
    random = np.random.default_rng(0)
    ours = {k: random.integers(-99, 99, shape).astype(np.float32) for k, shape in shapes.items()}
    back = translate(module, shapes, to_timm(module, ours))
    assert back.keys() == ours.keys() and all(np.array_equal(back[k], ours[k]) for k in ours)


def test_a_reloaded_model_is_built_as_it_was(tmp_path):
    """Padding, norms and class names travel with the weights; no tensor's shape contains them."""
    config = load("configs/efficientnet_lite_imagenet.py")
    first = inference.from_config(config)
    write(first, tmp_path / "out")
    config.model.pretrained = str(tmp_path / "out" / "model.safetensors")
    again = inference.from_config(config)
    assert again.config.model.options.to_dict() == {"padding": "same", "norm_epsilon": 1e-3}
    assert again.classes == first.classes and again.config.data.mean == first.config.data.mean
    written = tmp_path / "out" / "config.json"
    foreign = json.loads(written.read_text())
    del foreign["vision_options"], foreign["label_names"]
    written.write_text(json.dumps(foreign))  # as timm's: the architecture's name implies the same
    description = pretrained.describe(config.model.pretrained, efficientnet_lite)
    assert foreign["architecture"] == "tf_efficientnet_lite0"
    assert description.options["padding"] == "same"
    written.write_text(json.dumps({"pretrained_cfg": None}))
    assert pretrained.describe(config.model.pretrained, efficientnet_lite) is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--out", "x"), "which model?"),
        (("--workdir", "nowhere"), "where to? Give --out"),
        (("--workdir", "nowhere", "--out", "x"), "is not a run directory"),
        (
            ("--workdir", "nowhere", "--out", "x", "--format", "onxx"),
            "'onxx' is unknown (did you mean 'onnx'?)",
        ),
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
        argv = ["--workdir", str(tiny_run), "--format=safetensors", "--out", str(tmp_path / "file")]
        cli.run(export.main, argv)
    assert error.value.code == 2 and "cannot write to --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"), [("head", "cosine"), ("positions", "sincos"), ("options.pruned", {"a": [1]})]
)
def test_what_timm_does_not_know_is_refused(key, value, tiny_run, tmp_path):
    classifier = inference.from_run(tiny_run)
    group, _, name = f"model.{key}".rpartition(".")
    classifier.config.unlock()
    classifier.config.update_from_flattened_dict({f"{group}.{name}": value})
    with pytest.raises(UserError, match="no counterpart in timm"):
        write(classifier, tmp_path / "out")
    assert not (tmp_path / "out").exists()
