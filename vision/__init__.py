"""Image classification in JAX and Flax, from a folder of images to a model that is served and
watched."""

__version__ = "0.1.0"
