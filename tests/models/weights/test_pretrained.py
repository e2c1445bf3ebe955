"""Weights from files: formats, names, what is adapted, and what is refused."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from vision import models
from vision.config import default
from vision.errors import UserError
from vision.models import resnet, vit
from vision.models.layers.streams import Streams
from vision.models.weights import files, names, pretrained
from vision.models.weights.published import IMAGENET_MEAN, imagenet_classes


def config(name="vit", variant="mu/4", path="", **keys):
    c = default().model
    c.update(name=name, variant=variant, pretrained=str(path), **keys)
    return c


def arrays_of(module, c, classes=10, size=8, channels=3):
    """Random weights of a model under timm's names."""
    model = nnx.eval_shape(lambda: models.build(c, classes, size, channels, Streams(0)))
    random = np.random.default_rng(0)
    arrays = {}
    for name, shape in pretrained.shapes(model).items():
        array = random.normal(size=shape).astype(np.float32)
        arrays[names.file_name(name, module.NAMES["timm"])] = np.ascontiguousarray(
            names.to_torch_layout(array, name.endswith("kernel"))
        )
    return arrays


@pytest.fixture(scope="module")
def vit_arrays():
    return arrays_of(vit, config())


@pytest.fixture
def vit_file(vit_arrays, tmp_path):
    safetensors.numpy.save_file(vit_arrays, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def test_a_file_fills_a_model(vit_arrays, vit_file):
    arrays = pretrained.load(config(path=vit_file), 10, 8, 3)
    model = nnx.eval_shape(lambda: models.build(config(), 10, 8, 3, Streams(0)))
    pretrained.fill(model, arrays)
    qkv = vit_arrays["blocks.0.attn.qkv.weight"]
    np.testing.assert_array_equal(model.blocks[0].attention.qkv.kernel[...], qkv.T)
    patches = vit_arrays["patch_embed.proj.weight"]
    np.testing.assert_array_equal(model.patches.kernel[...], patches.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_are_dropped(vit_arrays, tmp_path, prefix):
    path = tmp_path / "weights.npz"
    np.savez(
        path,
        **{
            prefix.replace("module._orig_mod.", "_orig_mod.module.") + k: v
            for k, v in vit_arrays.items()
        },
    )
    assert pretrained.load(config(path=path), 10, 8, 3).keys()


def test_another_class_count_leaves_the_head_out(vit_file):
    arrays = pretrained.load(config(path=vit_file), 7, 8, 3)
    assert "head.kernel" not in arrays and "blocks.0.mlp.out.kernel" in arrays


def test_positions_follow_the_image_size(vit_arrays, vit_file):
    positions = pretrained.load(config(path=vit_file), 10, 16, 3)["positions"]
    assert positions.shape == (1, 17, 32)
    np.testing.assert_allclose(positions[:, 0], vit_arrays["pos_embed"][:, 0])  # the class token's


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_first_convolution_takes_other_channels(vit_arrays, vit_file, channels):
    """Gray gives what it gave as RGB; so do several equal channels."""
    if channels == 4:
        kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 5))
        adapted = names.adapt_channels(kernel, 4)
        np.testing.assert_allclose(adapted[:, :, 3], kernel[:, :, 0] * 3 / 4)
        return
    kernel = pretrained.load(config(path=vit_file), 10, 8, channels)["patches.kernel"]
    assert kernel.shape == (4, 4, channels, 32)
    theirs = vit_arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel.sum(2), theirs.sum(2), rtol=1e-4, atol=1e-5)


def test_every_fault_is_listed(vit_arrays, tmp_path):
    wrong = dict(vit_arrays)
    wrong["blocks.0.mlp.fc1.wieght"] = wrong.pop("blocks.0.mlp.fc1.weight")
    wrong["norm.bias"] = np.zeros(5, np.float32)
    np.savez(tmp_path / "wrong.npz", **wrong)
    with pytest.raises(UserError) as error:
        pretrained.load(config(path=tmp_path / "wrong.npz"), 10, 8, 3)
    text = str(error.value)
    missing = "blocks.0.mlp.fc1.weight is missing (for blocks.0.mlp.hidden.kernel)"
    assert f"{missing}; the file has blocks.0.mlp" in text
    assert "norm.bias is (5,), but the model's norm.bias is (32,)" in text
    assert "fc1.wieght has no counterpart" in text
    assert f"model.pretrained = '{tmp_path / 'wrong.npz'}', model vit mu/4" in text


def test_weights_of_another_architecture(vit_file):
    c = config("resnet", "18", vit_file)
    message = (
        "(?s)these are not the weights of a resnet: they have 0 of its "
        ".* model.name and model.variant"
    )
    with pytest.raises(UserError, match=message):
        pretrained.load(c, 10, 32, 3)


def test_weights_of_a_larger_variant(tmp_path):
    np.savez(tmp_path / "large.npz", **arrays_of(vit, config(variant="nano/4")))
    with pytest.raises(UserError, match=r"is \(288, 96\)|has no counterpart"):
        pretrained.load(config(path=tmp_path / "large.npz"), 10, 8, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.pth", "there is no file nowhere.pth; it must be a .safetensors"),
        ("package:nowhere/a.pth", "package .nowhere. is not installed"),
        ("package:/a.pth", "package .. is not installed"),
        ("package:numpy/nowhere.pth", "there is no file .*numpy/nowhere.pth"),
        ("hf:a/b/c/d", "must be hf:OWNER/NAME"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(UserError, match=message):
        files.locate(spec)


def test_the_hub_cannot_be_reached(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match="not in the cache, and the hub cannot be reached.*\nFetch it once"
    ):
        files.locate("hf:timm/resnet50.a1_in1k")


def test_the_hub_s_cache_serves_offline(monkeypatch, tmp_path, vit_arrays):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--timm--mine" / "snapshots" / commit
    place.mkdir(parents=True)
    (tmp_path / "models--timm--mine" / "refs").mkdir()
    (tmp_path / "models--timm--mine" / "refs" / "main").write_text(commit)
    safetensors.numpy.save_file(vit_arrays, place / "model.safetensors")
    prepared = {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 8, 8], "num_classes": 10}
    (place / "config.json").write_text(json.dumps({"pretrained_cfg": prepared}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "head.kernel" in pretrained.load(config(path="hf:timm/mine"), 10, 8, 3)
    assert pretrained.describe("hf:timm/mine", vit, "mu/4").mean == (0.1,) * 3


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.npz", "cut.pth", "cut.txt"])
def test_damaged_files(vit_arrays, tmp_path, name):
    path = tmp_path / name
    safetensors.numpy.save_file(vit_arrays, tmp_path / "complete.safetensors")
    np.savez(tmp_path / "complete.npz", **vit_arrays)
    complete = tmp_path / f"complete{path.suffix}"
    path.write_bytes(complete.read_bytes()[:-100] if complete.exists() else b"x")
    with pytest.raises(UserError, match=r"is not a complete|is not a supported weights file: give"):
        files.read(path)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match="not a complete .npz file of arrays"):
        files.read(tmp_path / "a.npz")


def test_narrow_floats_become_float32(tmp_path):
    narrow = np.array([[1.5, -2.25]], ml_dtypes.bfloat16)
    head = json.dumps({"a": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + narrow.tobytes()
    )
    array = files.read(tmp_path / "a.safetensors")["a"]
    assert array.dtype == np.float32 and array.tolist() == [[1.5, -2.25]]


def test_what_is_known_of_weights(tmp_path):
    """By the hub's name, by the file's, by the config.json beside it."""
    assert pretrained.describe("hf:timm/resnet50.a1_in1k@main", resnet, "50").crop == 0.95
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "pretrained_cfg": {
                    "mean": [0.5] * 3,
                    "std": [0.2] * 3,
                    "input_size": [3, 96, 96],
                    "crop_pct": 0.8,
                }
            }
        )
    )
    (tmp_path / "mine.safetensors").touch()
    weights = pretrained.describe(str(tmp_path / "mine.safetensors"), resnet, "50")
    assert (weights.size, weights.crop, weights.mean, weights.interpolation) == (
        96,
        0.8,
        (0.5,) * 3,
        "bicubic",
    )
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "mine.safetensors").touch()
    assert pretrained.describe(str(tmp_path / "alone" / "mine.safetensors"), resnet, "50") is None


def test_what_is_published_fits_its_architecture():
    """Every entry of WEIGHTS has a variant, plausible numbers and options that `build` takes."""
    from vision.support.modules import find
    from vision.support.modules import names as architectures

    for name in architectures("vision.models"):
        module = find("model", name, "vision.models")
        for spec, w in getattr(module, "WEIGHTS", {}).items():
            assert w.variant in getattr(module, "LISTED", module.VARIANTS), spec
            assert 0 < w.crop <= 1 and 32 <= w.size <= 1024 and len(w.mean) == len(w.std) == 3, spec
            assert w.interpolation in pretrained.INTERPOLATIONS and (
                w.top1 is None or 50 < w.top1 < 92
            ), spec
            c = config(
                name,
                w.variant,
                options={k: v for k, v in w.options.items() if k not in default().model},
            )
            c.update({k: v for k, v in w.options.items() if k in c and k != "options"})
            assert set(w.options) <= {*c.keys(), *c.options.keys()}


def test_imagenet_classes():
    classes = imagenet_classes()
    assert len(classes) == len({s for s, _ in classes}) == len({n for _, n in classes}) == 1000
    assert classes[0] == ("n01440764", "tench") and classes[999][1] == "toilet tissue"
    assert jnp.allclose(jnp.array(IMAGENET_MEAN), 0.449, atol=0.05)
