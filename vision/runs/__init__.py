"""The runs below some directories, side by side: a table, a page, a live view. Imports no JAX."""
