"""How XLA's CPU backend computes convolutions, matrix products and the gradient of max pooling.

A program is traced as ever, so that whatever reads it (gradients of any order, vmap, counts of
operations, export, quantization) sees JAX's own operations. Only when `jax.jit` lowers it for this
process's CPU is each replaced whose form is known here: by a call of oneDNN, or by operations that
XLA is good at. Models therefore need nothing of this room, whichever layers they are made of.
"""

from vision.cpu.choice import choose, describe, uses_onednn
from vision.cpu.fusion import fused
from vision.cpu.lowering import install

__all__ = ["choose", "describe", "fused", "install", "uses_onednn"]
