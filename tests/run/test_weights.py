"""What a run takes over from weights and from other runs."""

import json
import types

import numpy as np
import pytest

from vision.config import default
from vision.errors import UserError
from vision.run import initial
from vision.run import weights as restore
from vision.run.directory import write_data
from vision.run.initial import initial_weights
from vision.run.resolve import resolve_config


def saved(path, **data):
    """Writes a run directory as far as `read_run` reads it."""
    c = default()
    c.model.name = "efficientnet_lite"
    c.model.variant = "mu"
    c.model.gate = None
    c.model.options["padding"] = "same"
    c.data.normalize = "mean_std"
    c.data.mean = (0.1,)
    c.data.std = (0.2,)
    c.data.crop_fraction = 0.9
    path.mkdir()
    (path / "config.json").write_text(json.dumps(c.to_dict()))
    (path / "data.json").write_text(
        json.dumps({"image_size": 48, "channels": 1, "classes": ["a", "b"]} | data)
    )
    return path


def config(start):
    c = default()
    c.model.name = "efficientnet_lite"
    c.model.variant = "mu"
    c.model.pretrained = str(start)
    return c


def test_a_run_hands_on_how_its_images_and_its_model_were_made(tmp_path):
    resolved = resolve_config(config(saved(tmp_path / "run")))
    assert (resolved.data.image_size, resolved.data.channels, resolved.data.crop_fraction) == (
        48,
        1,
        0.9,
    )
    assert (resolved.data.normalize, resolved.data.mean) == ("mean_std", (0.1,))
    assert resolved.model.options.to_dict() == {"padding": "same"}


def test_what_the_config_says_itself_stays(tmp_path):
    c = config(saved(tmp_path / "run"))
    c.data.image_size = 64
    c.data.normalize = "unit"
    c.model.options["padding"] = "symmetric"
    resolved = resolve_config(c)
    assert (resolved.data.image_size, resolved.data.normalize, resolved.model.options.padding) == (
        64,
        "unit",
        "symmetric",
    )
    assert resolve_config(default()).to_dict() == default().to_dict()


def test_known_weights_bring_their_preparation():
    c = config("hf:timm/tf_efficientnet_lite0.in1k")
    resolved = resolve_config(c)
    assert (
        resolved.data.mean == (0.5,) * 3
        and resolved.data.image_size == 224
        and resolved.data.channels == 3
    )
    c.data.channels = 1
    assert resolve_config(c).data.mean == (0.5,)


def test_a_resumed_run_asks_nobody(tmp_path):
    """The weights that it began with may be gone by then."""
    workdir = saved(tmp_path / "run")
    resolved = json.loads((workdir / "config.json").read_text())
    resolved["model"]["pretrained"] = str(tmp_path / "gone")
    resolved["data"]["image_size"] = 48
    resolved["data"]["channels"] = 1
    (workdir / "config.json").write_text(json.dumps(resolved))
    resolved = resolve_config(config(tmp_path / "gone"), workdir)
    assert resolved.data.image_size == 48 and resolved.model.options.padding == "same"
    with pytest.raises(UserError, match="is not a run directory"):
        resolve_config(config(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("names", "read"),
    [((), True), (("3.orbax-checkpoint-tmp-1",), True), (("3",), False), (("3", "4.tmp"), False)],
)
def test_weights_are_read_until_a_checkpoint_is_whole(tmp_path, monkeypatch, names, read):
    """A kill inside the first save must not leave a run to begin from random weights."""
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    monkeypatch.setattr(restore.pretrained, "load", lambda *_: {"a": 1})
    data = types.SimpleNamespace(classes=("a", "b"), image_size=8, channels=3)
    assert (initial_weights(config("some.npz"), data, tmp_path) is not None) == read


@pytest.mark.parametrize("change", ["surplus", "missing", "shape"])
def test_another_run_s_model_must_fit_entirely(change):
    c = default().model
    c.name = "vit"
    c.variant = "mu/4"
    shapes = restore.pretrained.shapes(restore.abstract_model(c, 10, 8, 3))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    assert initial.fit_run_weights(c, arrays, 10, 8, 3).keys() == shapes.keys()
    assert "head.kernel" not in initial.fit_run_weights(c, arrays, 7, 8, 3)
    if change == "surplus":
        arrays["blocks.1.norm1.scale"] = np.zeros(32)
    elif change == "missing":
        del arrays["norm.bias"]
    else:
        arrays["norm.bias"] = np.zeros(5)
    with pytest.raises(
        UserError,
        match=r"is not vit mu/4 with these options|norm.bias is \(5,\) there, \(32,\) here",
    ):
        initial.fit_run_weights(c, arrays, 10, 8, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("head_groups", (0, 1, 2, 1, 3)), ("head_groups", ()), ("head_shares", (1, 1, 1, 1, 2))],
)
def test_old_classes_keep_their_outputs(key, value):
    """If they got those of others, or a new head, the run would have forgotten them in silence."""
    previous = default().model
    previous.update(name="mlp", variant="8x1", head_groups=(0, 1, 1, 2))
    previous.head_shares = (1.0, 0.5, 0.5, 1.0)
    shapes = restore.pretrained.shapes(restore.abstract_model(previous, 3, 8, 3))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    c = previous.copy_and_resolve_references()
    c.head_groups = (0, 1, 1, 2, 3)
    c.head_shares = (1.0, 0.5, 0.5, 1.0, 1.0)
    assert initial.fit_run_weights(c, arrays, 4, 8, 3, previous).keys() == shapes.keys()
    c.head_shares = ()
    c[key] = tuple(map(type(previous[key][0]), value))
    with pytest.raises(UserError, match=r"must begin with that run's, \(0, 1, 1, 2\)|has head"):
        initial.fit_run_weights(c, arrays, 4, 8, 3, previous)


def test_a_resumed_run_must_have_its_classes(tmp_path):
    def data(*classes):
        counts = np.ones(len(classes), int)
        return types.SimpleNamespace(
            classes=classes, image_size=8, channels=3, class_counts=counts, loaders={}
        )

    write_data(tmp_path, data("cat", "dog"))
    write_data(tmp_path, data("cat", "dog"))
    before = (tmp_path / "data.json").read_text()
    with pytest.raises(
        UserError,
        match=r"holds a run on other data: classes is \['cat', 'dog'\] there, \['cat', 'owl'\]",
    ):
        write_data(tmp_path, data("cat", "owl"))
    assert (tmp_path / "data.json").read_text() == before


def test_weights_that_are_not_finite_are_refused(tiny_run):
    config, data, arrays = restore.run_weights(tiny_run)
    model = restore.abstract_model(
        config.model, len(data["classes"]), data["image_size"], data["channels"]
    )
    name = next(iter(arrays))
    arrays = arrays | {name: np.full_like(arrays[name], np.nan)}
    with pytest.raises(UserError, match="the weights are NaN or infinite in 1 of .*" + name):
        restore.ready(model, arrays)
