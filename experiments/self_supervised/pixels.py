"""The pixels themselves as an embedding: what any representation has to beat."""

import jax
from flax import nnx


class Pixels(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, H W C) -> logits (B, num_classes)."""

    def __init__(self, num_classes: int, width: int, rngs: nnx.Rngs):
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the pixels, (B, H W C)."""
        return images.reshape(len(images), -1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes)."""
        return self.head(self.embed(images))


def build(variant, num_classes, *, rngs, image_size, channels):
    del variant
    return Pixels(num_classes, image_size**2 * channels, rngs)
