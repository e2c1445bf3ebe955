"""A bundle: a directory with a trained model that can be run without JAX."""
