"""What learns, from when on and how fast; and the runs that go with it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from vision import cli, main
from vision.config import default
from vision.errors import UserError
from vision.models import surgery, vit
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.run.weights import open_run, run_weights
from vision.training.optimizer import decay_mask, make_optimizer

pytestmark = pytest.mark.long


def config(**keys):
    c = default().transfer
    c.update(keys)
    return c


def learning(c):
    """Names that learn in a ViT of one block, prepared as `c` says."""
    model = vit.build("mu/4", 10, image_size=8, rngs=Streams(0))
    prepare(c, model, Streams(0))
    return {name for name, v in surgery.variables(model).items() if isinstance(v, nnx.Param)}


def test_modes():
    everything = learning(config())
    assert learning(config(mode="head")) == {"head.kernel", "head.bias"}
    last = learning(config(mode="partial", depth=1))
    assert (
        "blocks.0.mlp.out.kernel" in last and "norm.scale" in last and "patches.kernel" not in last
    )
    assert learning(config(mode="partial", trainable="norm")) == {
        *(n for n in everything if "norm" in n or n.startswith("head"))
    }
    assert all(
        ".down." in n or ".up." in n or n.startswith("head") for n in learning(config(mode="lora"))
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "heads"}, "did you mean 'head'"),
        ({"mode": "partial"}, "needs transfer.depth, the number of last layers, or"),
        ({"mode": "partial", "depth": 2, "trainable": "norm"}, "needs transfer.depth"),
        ({"mode": "partial", "depth": 9}, "there are 2 layers before the head"),
        ({"mode": "partial", "trainable": "nowhere"}, "matches no parameter; there are "),
        ({"mode": "partial", "trainable": "("}, "is not a regular expression"),
        ({"mode": "lora", "lora_layers": "nowhere"}, "matches no layer"),
        ({"mode": "lora", "lora_layers": "qkv("}, "is not a regular expression"),
        ({"mode": "full", "depth": 2}, "transfer.depth is for transfer.mode=partial, not 'full'"),
        ({"cache_embeddings": True}, "needs transfer.mode=head"),
    ],
)
def test_choices_that_cannot_be(keys, message):
    with pytest.raises(UserError, match=message):
        learning(config(**keys))


def optimizer(c, params, layers, steps=10):
    o = default().optimizer
    o.name = "adam"
    o.learning_rate = 1.0
    return make_optimizer(o, optax.constant_schedule(1.0), params, steps, c, layers)


PARAMS = {
    "model": {
        "stem": {"a": jnp.ones(3)},
        "blocks": {"0": {"b": jnp.ones(3)}},
        "head": {"c": jnp.ones(3)},
    }
}
LAYERS = {"stem.a": 0, "blocks.0.b": 1, "head.c": 2}


def test_rates_fall_from_layer_to_layer():
    o = optimizer(config(layer_decay=0.5), PARAMS, LAYERS)
    updates, _ = o.update(PARAMS, o.init(PARAMS), PARAMS)
    rates = {path[-1]: float(v[0]) for path, v in traverse_util.flatten_dict(updates).items()}
    np.testing.assert_allclose([rates["a"], rates["b"], rates["c"]], [-0.25, -0.5, -1], rtol=1e-4)


def test_layers_join_one_by_one_with_fresh_moments():
    """As an optimizer of its own that begins at the layer's step."""
    # of 10 steps: the head at 0, the block at 4, the stem at 8
    o = optimizer(config(unfreeze=0.8), PARAMS, LAYERS)
    state = o.init(PARAMS)
    params = PARAMS
    moved = {name: [] for name in "abc"}
    update = jax.jit(o.update)
    for _ in range(10):
        updates, state = update(PARAMS, state, params)
        for path, v in traverse_util.flatten_dict(updates).items():
            moved[path[-1]].append(float(v[0]))
    assert np.flatnonzero(moved["c"])[0] == 0 and np.flatnonzero(moved["b"])[0] == 4
    assert np.flatnonzero(moved["a"])[0] == 8
    np.testing.assert_allclose(moved["b"][4:], moved["c"][:6], rtol=1e-5)


def test_weight_decay_spares_tokens_but_not_a_token_s_classifier():
    model = nnx.eval_shape(
        lambda: vit.build("mu/4", 10, image_size=8, distilled=True, rngs=Streams(0))
    )
    named = {tuple(name.split(".")): v for name, v in surgery.variables(model).items()}
    mask = traverse_util.flatten_dict(decay_mask(traverse_util.unflatten_dict(named)))
    assert (
        mask[("head", "token", "kernel")]
        and not mask[("distillation_token",)]
        and not mask[("positions",)]
    )


def run(workdir, *flags, start=""):
    argv = [
        "--config",
        "configs/digits.py:smoke",
        f"--workdir={workdir}",
        "--config.parallel.devices=1",
    ]
    argv += [
        "--config.model.name=vit",
        "--config.model.variant=mu/4",
        "--config.augment.affine=False",
    ]
    argv += [
        "--config.model.batch_norm_groups=None",
        "--config.log.progress=False",
        "--config.optimizer.name=adam",
    ]
    argv += [f"--config.model.pretrained={start}", *(f"--config.{flag}" for flag in flags)]
    cli.run(main.main, argv)
    return json.loads((workdir / "result.json").read_text())


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["val/loss"] for line in lines if "val/loss" in line]


def test_a_head_learns_the_same_from_images_and_from_their_embeddings(
    tiny_run, tmp_path, monkeypatch
):
    """Also: what is frozen stays to the bit, and has neither gradient nor optimizer state."""
    monkeypatch.chdir(pathlib.Path(main.__file__).parents[1])
    results = {}
    for cached in (False, True):
        flags = ("transfer.mode=head", f"transfer.cache_embeddings={cached}")
        results[cached] = run(tmp_path / f"{cached}", *flags, start=tiny_run)
    np.testing.assert_allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=1e-5)
    assert results[True]["confusion"] == results[False]["confusion"]
    assert results[True]["parameters"]["learning"] == 330
    _, _, before = run_weights(tiny_run)
    _, _, after = run_weights(tmp_path / "True")
    assert all(np.array_equal(before[n], after[n]) != n.startswith("head") for n in before)


def test_lookahead_leaves_the_statistics_of_a_frozen_network_alone(tmp_path, monkeypatch):
    """To the bit, with the images and with their embeddings."""
    monkeypatch.chdir(pathlib.Path(main.__file__).parents[1])
    model = ("model.name=cnn", "model.variant=small", "model.stochastic_depth=None")
    run(tmp_path / "start", *model)
    _, _, before = run_weights(tmp_path / "start")
    statistics = [name for name in before if name.endswith((".mean", ".var"))]
    assert statistics
    for cached in (False, True):
        flags = ("transfer.mode=head", f"transfer.cache_embeddings={cached}")
        flags += ("optimizer.lookahead=2", "model.dropout=0.0")
        run(tmp_path / f"{cached}", *model, *flags, start=tmp_path / "start")
        _, _, after = run_weights(tmp_path / f"{cached}")
        for name in statistics:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    np.testing.assert_allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=1e-5)


def test_low_rank_run_is_an_ordinary_run_afterwards(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(main.__file__).parents[1])
    result = run(tmp_path / "lora", "transfer.mode=lora", "transfer.lora_rank=2", start=tiny_run)
    assert result["parameters"]["learning"] < result["parameters"]["all"] / 2
    _, _, model = open_run(tmp_path / "lora")
    assert {n: v.shape for n, v in surgery.variables(model).items()} == {
        n: v.shape
        for n, v in surgery.variables(
            vit.build("mu/4", 10, image_size=8, channels=1, rngs=Streams(0))
        ).items()
    }


def test_embeddings_are_not_augmented(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pathlib.Path(main.__file__).parents[1])
    with pytest.raises(SystemExit) as error:
        flags = (
            "transfer.mode=head",
            "transfer.cache_embeddings=True",
            "augment.flip_horizontal=True",
        )
        run(tmp_path / "run", *flags, start=tiny_run)
    assert error.value.code == 2 and "turn off augment.flip_horizontal" in capsys.readouterr().err
