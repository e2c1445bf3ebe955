"""Matrix products on a CPU by oneDNN, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.cpu.test_convolutions import by_onednn  # noqa: F401  the fixture
from vision.cpu import lowering
from vision.cpu.product import recognize

# einsum, shapes, and whether oneDNN computes it
PRODUCTS = {
    "matrices": ("mk,kn->mn", (64, 200), (200, 300), True),
    "images by weights": ("bnd,df->bnf", (8, 65, 96), (96, 128), True),
    "gradient of the weights": ("bnd,bnf->df", (8, 65, 96), (8, 65, 128), True),
    "gradient of the images": ("bnf,df->bnd", (8, 65, 128), (96, 128), True),
    "scores": ("bnhd,bmhd->bhnm", (8, 65, 3, 64), (8, 65, 3, 64), True),
    "sums by scores": ("bhnm,bmhd->bhnd", (8, 3, 65, 65), (8, 65, 3, 64), True),
    "two axes of columns": ("mk,kab->mab", (64, 200), (200, 30, 10), True),
    "rows that are apart": ("akb,kn->abn", (16, 200, 32), (200, 64), False),
    "too small": ("mk,kn->mn", (8, 20), (20, 30), False),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_gradients(name, by_onednn, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lowering, "LEAST_FLOPS", 5_000_000)
    expression, *shapes, expected = PRODUCTS[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype("float32") for shape in shapes]

    def run(first, second):
        result, backward = jax.vjp(lambda *a: jnp.einsum(expression, *a), first, second)
        # Not a function of the result, whose last bits it would enlarge.
        return result, *backward(jnp.sin(jnp.arange(result.size)).reshape(result.shape))

    text = jax.jit(lambda *a: jnp.einsum(expression, *a)).lower(*arrays).as_text()
    assert ("vision_product" in text) == expected
    references = export.export(jax.jit(run))(*arrays).call(*arrays)
    for mine, reference in zip(jax.jit(run)(*arrays), references, strict=True):
        atol = 1e-5 * np.abs(reference).max()
        np.testing.assert_allclose(mine, reference, rtol=0, atol=atol)


def test_what_a_product_consists_of():
    product = recognize((8, 65, 3, 64), (8, 70, 3, 64), (((3,), (3,)), ((0, 2), (0, 2))))
    assert (product.batch, product.rows, product.depth, product.columns) == ((8, 3), 65, 64, 70)
    assert product.first == (65 * 192, 64, 192, 1) and product.second == (70 * 192, 64, 1, 192)
    assert product.flops == 2 * 24 * 65 * 64 * 70
    assert product.layouts()[2] == ((8, 3, 65, 70), (3 * 65 * 70, 65 * 70, 70, 1))
    assert recognize((4, 5, 6), (5, 2), (((1,), (0,)), ((), ()))) is None
