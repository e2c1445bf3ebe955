"""How XLA's CPU backend computes convolutions: by oneDNN, or in parts that it is good at.

A program is traced as ever, so that whatever reads it (gradients of any order, vmap, counts of
operations, export, quantization) sees JAX's own convolution. Only when `jax.jit` lowers it for this
process's CPU is each convolution replaced whose form is known here. Models therefore need nothing
of this room, whichever layers they are made of.
"""

from vision.cpu.choice import choose, describe, uses_onednn
from vision.cpu.lowering import install

__all__ = ["choose", "describe", "install", "uses_onednn"]
