"""A model whose logits are the first numbers of its embedding, so that it has no class head."""

from flax import nnx


class Headless(nnx.Module):
    def __init__(self, num_classes, *, channels, rngs):
        self.num_classes = num_classes
        self.conv = nnx.Conv(channels, 16, (3, 3), rngs=rngs)

    def embed(self, images):
        return self.conv(images).mean((1, 2))

    def head(self, embeddings):
        return embeddings[:, : self.num_classes]

    def __call__(self, images):
        return self.head(self.embed(images))


def build(variant, num_classes, **options) -> Headless:
    return Headless(num_classes, **options)
