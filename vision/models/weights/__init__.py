"""Weights from elsewhere: files, names, published tags."""
