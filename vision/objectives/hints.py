"""Hints: a map inside the student predicts one inside the teacher.

FitNets, Romero et al. 2014 (arXiv:1412.6550), section 2.2. The paper first trains the student up to
its map on the hint alone; here the hint is one more term of the loss, from the first step to the
last.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice
from vision.models.layers.dtypes import at_least_float32

LEADING = 2  # tokens at most that stand before those of the patches: class and distillation

Shapes = dict[str, tuple[int, ...]]


class Hint(nnx.Module):
    """Half the mean squared difference between a teacher's map and what a regressor makes of ours.

    Args:
        name: of the student's map.
        teacher_name: of the teacher's map.
        width: channels of the student's map.
        teacher_width: channels of the teacher's map.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self, name: str, teacher_name: str, width: int, teacher_width: int, *, rngs: nnx.Rngs
    ):
        self.name = name
        self.teacher_name = teacher_name
        self.regressor = nnx.Linear(width, teacher_width, rngs=rngs)  # a 1x1 convolution

    def loss(
        self, maps: Mapping[str, jax.Array], teacher_maps: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Returns eq. 3 of FitNets, as the mean over the numbers of a map, float ().

        If the maps differ in height or width, the teacher's is resized to the student's: linearly
        interpolated, and averaged if it shrinks.

        Args:
            maps: the student's, {name: (B, H, W, C) or (B, N, C)}; of tokens, those of the patches
                count.
            teacher_maps: the teacher's; no gradient goes to them.
        """
        ours = as_grid(maps[self.name])
        theirs = jax.lax.stop_gradient(as_grid(teacher_maps[self.teacher_name]))
        regressed = self.regressor(ours.astype(at_least_float32(ours.dtype)))
        target = theirs.astype(at_least_float32(theirs.dtype))
        if target.shape != regressed.shape:
            target = jax.image.resize(target, regressed.shape, "linear")
        return jnp.square(target - regressed).mean() / 2


def make_hint(
    c: ConfigDict,
    model: nnx.Module,
    teacher: nnx.Module,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
) -> Hint | None:
    """Returns the hint that an objective's options ask for; None without `hint`.

    Args:
        c: the options: `hint`, and `hint_teacher`, which is the same name if it is "".
        model: the student.
        teacher: the teacher.
        image_shape: (H, W, C) of the images that both see.
        rngs: where the regressor's parameters draw from.

    Raises:
        UserError: there is no such map, or it is not a map of an image.
    """
    if not c.hint:
        if c.hint_teacher:
            raise UserError(
                f"objective.options.hint_teacher = '{c.hint_teacher}' needs objective.options.hint "
                "too, a map of the student"
            )
        return None
    teacher_name = c.hint_teacher or c.hint
    shape = _map_shape("hint", c.hint, "student", model, image_shape)
    teacher_shape = _map_shape("hint_teacher", teacher_name, "teacher", teacher, image_shape)
    return Hint(c.hint, teacher_name, shape[-1], teacher_shape[-1], rngs=rngs)


def as_grid(x: jax.Array) -> jax.Array:
    """Returns a map (B, H, W, C); of tokens (B, N, C), those of the patches, row by row."""
    if x.ndim == 4:
        return x
    batch, tokens, width = x.shape
    side = math.isqrt(tokens)
    return x[:, tokens - side**2 :].reshape(batch, side, side, width)


def _map_shape(
    option: str, name: str, who: str, model: Any, image_shape: tuple[int, int, int]
) -> tuple[int, ...]:
    """Returns the shape of a map of one image."""
    key = f"objective.options.{option}"
    if not hasattr(model, "features"):
        raise UserError(
            f"{key} = '{name}': the {who} has no features(images), so no maps: leave "
            "objective.options.hint empty, or choose another model"
        )
    shapes = _map_shapes(model, image_shape)
    check_choice(key, name, tuple(shapes), f" (maps of the {who})")
    shape = shapes[name]
    is_grid = len(shape) == 3 and shape[1] - math.isqrt(shape[1]) ** 2 <= LEADING
    if len(shape) != 4 and not is_grid:
        raise UserError(
            f"{key} = '{name}': its shape {shape[1:]} is not that of a feature map: choose "
            "another map"
        )
    return shape


def _map_shapes(model: nnx.Module, image_shape: tuple[int, int, int]) -> Shapes:
    """Returns {name: shape} of a model's maps of one image."""
    graph, state = nnx.split(model)

    def features(state: nnx.State, images: jax.Array) -> Any:
        merged: Any = nnx.merge(graph, state)
        return merged.features(images)

    images = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    return {name: tuple(x.shape) for name, x in jax.eval_shape(features, state, images).items()}
