"""How good a model is, from its outputs on labeled images."""
