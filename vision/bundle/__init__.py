"""A bundle: a directory that a server can run without JAX."""
