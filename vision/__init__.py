"""Image classification in JAX and Flax: from a folder of images to a served, monitored model."""

__version__ = "0.1.0"
