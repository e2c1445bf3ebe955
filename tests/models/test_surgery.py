"""Surgery: it changes what it should, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.test_models import images, tiny
from vision.errors import UserError
from vision.models import convnext, efficientnet_lite, resnet, surgery, swin, vit
from vision.models.layers.norms import BatchNorm
from vision.models.layers.streams import Streams


def logits(model, x):
    model.eval()
    return np.array(jax.jit(lambda x: model(x))(x))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_low_rank_changes_start_as_nothing_and_merge_exactly(name):
    model = tiny(name)
    x = images()
    before = logits(model, x)
    shapes = {k: v.shape for k, v in surgery.variables(model).items()}
    total, _ = surgery.count(model)
    surgery.add_low_rank(model, "qkv|out|hidden|conv", 2, 4.0, rngs=Streams(0))
    # compiled anew, it rounds anew
    np.testing.assert_allclose(logits(model, x), before, rtol=1e-5, atol=1e-5)

    added = {k: v for k, v in surgery.variables(model).items() if ".down." in k or ".up." in k}
    learns = {k for k, v in surgery.variables(model).items() if isinstance(v, nnx.Param)}
    assert learns == {*added, "head.kernel", "head.bias"}
    assert surgery.count(model)[0] == total + sum(v.size for v in added.values())
    for i, variable in enumerate(added.values()):
        variable.set_value(jax.random.normal(jax.random.key(i), variable.shape))
    changed = logits(model, x)
    assert np.abs(changed - before).max() > 0.1

    surgery.merge_low_rank(model)
    assert {k: v.shape for k, v in surgery.variables(model).items()} == shapes
    scale = np.abs(changed).max()
    np.testing.assert_allclose(logits(model, x) / scale, changed / scale, atol=1e-5)


def test_low_rank_counts_of_a_dense_layer():
    """r (in + out) numbers a layer."""
    model = tiny("vit")
    surgery.add_low_rank(model, "qkv", 3, 3.0, rngs=Streams(0))
    assert surgery.count(model)[1] == 3 * (32 + 96) + 32 * 10 + 10


def test_low_rank_needs_a_layer():
    with pytest.raises(UserError, match=r"transfer.lora_layers = 'attn' matches no layer"):
        surgery.add_low_rank(tiny("vit"), "attn", 2, 2.0, rngs=Streams(0))


def test_freezing_takes_parameters_and_statistics():
    model = tiny("resnet")
    surgery.freeze(model, lambda name: name.startswith(("stem", "stages.0")))
    learns = {k for k, v in surgery.variables(model).items() if isinstance(v, nnx.Param)}
    assert learns and not any(k.startswith(("stem", "stages.0")) for k in learns)
    before = {k: np.array(v.get_value()) for k, v in surgery.variables(model).items()}
    model.train()
    model(images())
    for name, variable in surgery.variables(model).items():
        moved = not np.array_equal(variable.get_value(), before[name])
        assert moved == (name.startswith("stages.1") and name.endswith((".mean", ".var"))), name
    frozen = [m.frozen for _, m in nnx.iter_modules(model) if isinstance(m, BatchNorm)]
    assert 0 < sum(frozen) < len(frozen)


def test_a_new_head():
    model = tiny("vit")
    surgery.replace_head(model, 3, rngs=Streams(0))
    np.testing.assert_array_equal(logits(model, images()), np.zeros((4, 3)))


def test_inserting_after_a_submodule():
    model = tiny("resnet")
    x = images()
    before = logits(model, x)
    surgery.insert_after(model, "stages.0.0", Twice())
    surgery.insert_after(model, "head", Twice())
    after = logits(model, x)
    assert np.abs(after - 2 * before).max() > 1e-3 and after.shape == before.shape
    with pytest.raises(UserError, match=r"no submodule 'stages\.9\.0'"):
        surgery.insert_after(model, "stages.9.0", Twice())


class Twice(nnx.Module):
    def __call__(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("build", "size", "stem", "layers"),
    [
        (lambda r: vit.build("Ti/16", 10, image_size=32, rngs=r), 32, "patches.kernel", 14),
        (lambda r: resnet.build("50", 10, rngs=r), 32, "stem.conv.kernel", 18),
        (lambda r: efficientnet_lite.build("0", 10, rngs=r), 32, "stem.conv.kernel", 18),
        (lambda r: convnext.build("mu", 10, rngs=r), 32, "stem.conv.kernel", None),
        (lambda r: swin.build("mu", 10, rngs=r), 32, "", None),
    ],
)
def test_depths_rise_from_the_image_to_the_head(build, size, stem, layers):
    depths = {}
    nnx.eval_shape(lambda: depths.update(surgery.depths(build(Streams(0)))))
    last = max(depths.values())
    assert {n for n, depth in depths.items() if depth == last} == {"head.kernel", "head.bias"}
    assert set(depths.values()) == set(range(last + 1))
    assert layers is None or last + 1 == layers
    assert not stem or stem not in depths or depths[stem] == 0


def test_streams_give_nnx_keys():
    ours = Streams(3)
    theirs = Streams(3)
    for _ in range(3):
        assert jnp.array_equal(
            jax.random.key_data(ours.params()), jax.random.key_data(theirs.params())
        )
