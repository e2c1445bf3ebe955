"""Which convolutions can be computed otherwise, and their shapes.

JAX writes the gradients of a convolution as convolutions too, with other dimension numbers and the
strides as dilations (`_conv_general_dilated_transpose_lhs` and `_rhs` in jax/_src/lax). Here they
are recognized as what they are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS = KINDS = ("forward", "backward_data", "backward_weights")

Shape = tuple[int, ...]

# Dimension numbers of (first array, second array, result): where each has its batch or its output
# channels, its input channels, height and width.
_NHWC = (0, 3, 1, 2)
_KINDS: dict[tuple[tuple[int, ...], ...], str] = {
    (_NHWC, (3, 2, 0, 1), _NHWC): FORWARD,
    (_NHWC, (2, 3, 0, 1), _NHWC): BACKWARD_DATA,
    ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1)): BACKWARD_WEIGHTS,
}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A 2-D convolution of images with a kernel.

    Attributes:
        images: shape (B, H, W, Cin).
        kernel: shape (h, w, Cin / groups, Cout).
        outputs: shape (B, H', W', Cout).
        strides: of both axes.
        padding: before the first row and the first column; at least 0.
        dilation: of the kernel, both axes; 1 for none.
        groups: number of groups of channels that do not mix.
    """

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def padding_after(self) -> tuple[int, ...]:
        """Returns the padding behind the last row and column.

        The kernel may leave fewer than a stride of the last rows unread; then 0 is enough.
        """
        return tuple(max(rest, 0) for rest in self._unread())

    @property
    def is_plain(self) -> bool:
        """Whether the padding adds rows and columns, or none, but removes none."""
        rests = zip(self._unread(), self.strides, strict=True)
        return min(self.padding) >= 0 and all(rest > -stride for rest, stride in rests)

    def _unread(self):
        """Returns by how much the kernel's last position passes the image's end, per axis."""
        axes = zip(
            *(self.images[1:], self.outputs[1:], self.kernel),
            *(self.strides, self.padding, self.dilation),
            strict=False,
        )
        return [
            (positions - 1) * stride + (side - 1) * dilation + 1 - low - length
            for length, positions, side, stride, low, dilation in axes
        ]


def recognize(
    first: Shape, second: Shape, result: Shape, options: Mapping[str, Any]
) -> tuple[str, Geometry] | None:
    """Returns (kind, geometry) of a convolution of JAX's, None if it has none of the forms.

    The arrays are: forward, images and kernel; backward data, the gradient of the outputs and the
    kernel (h, w, Cin, Cout / groups), reversed in height and width; backward weights, images and
    the gradient of the outputs.

    Args:
        first, second, result: shapes of the arguments and of the result.
        options: the parameters of `jax.lax.conv_general_dilated_p`.
    """
    numbers = options["dimension_numbers"]
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    kind = _KINDS.get(tuple(map(tuple, specs)))
    if kind is None:
        return None
    names = ("window_strides", "lhs_dilation", "rhs_dilation")
    strides, spread, dilation = (tuple(options[name]) for name in names)
    low = tuple(pad for pad, _ in options["padding"])
    features = options["feature_group_count"]
    batches = options["batch_group_count"]
    if kind == FORWARD:
        geometry = Geometry(first, second, result, strides, low, dilation, features)
        is_known = spread == (1, 1) and batches == 1
    elif kind == BACKWARD_DATA:
        kernel, low = _of_images(second, dilation, low, features)
        geometry = Geometry(result, kernel, first, spread, low, dilation, features)
        is_known = strides == (1, 1) and batches == 1
    else:
        geometry = Geometry(first, result, second, dilation, low, strides, batches)
        is_known = spread == (1, 1) and features == 1
    return (kind, geometry) if is_known and geometry.is_plain else None


def _of_images(kernel, dilation, low, groups):
    """Returns the convolution's own kernel shape and padding from those of the images' gradient."""
    *sides, size_in, part_out = kernel
    reach = [(side - 1) * d for side, d in zip(sides, dilation, strict=True)]
    padding = tuple(r - pad for r, pad in zip(reach, low, strict=True))
    return (*sides, size_in // groups, part_out * groups), padding
