"""Convolutions of a trained model together with what follows them, in one pass over the outputs.

oneDNN scales and shifts the channels (BatchNorm, bias), adds a residual and applies the activation
before it writes the outputs, so that they go through memory once instead of three times.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vision.cpu import program
from vision.cpu.choice import uses_onednn
from vision.cpu.geometry import FORWARD, Geometry, recognize
from vision.cpu.primitives import Convolution, Epilogue
from vision.cpu.program import Operation, Value
from vision.cpu.targets import find_target

_FUNCTIONS = {  # the activations of `primitives.ACTIVATIONS`
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
}


def fused(function: Callable, devices: int = 1) -> Callable:
    """Returns the same function, with what follows a convolution as part of it.

    For models in evaluation mode, whose results differ in the last bits. JAX can compile the
    function and map it, but not differentiate it. Where oneDNN computes nothing, it is unchanged.

    Args:
        function: traceable by JAX.
        devices: number of devices that it is compiled for.
    """

    @functools.wraps(function)
    def run(*arguments):
        if not uses_onednn(devices):
            return function(*arguments)
        traced = program.trace(function, *arguments)
        return _compute(traced, jax.tree.leaves(arguments))

    return run


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A convolution that waits for what follows it."""

    operation: Operation
    geometry: Geometry
    images: jax.Array
    kernel: jax.Array
    scale: jax.Array | None = None  # (Cout,)
    shift: jax.Array | None = None  # (Cout,)
    residual: jax.Array | None = None  # like the outputs
    activation: str = ""

    @property
    def is_open(self):
        """Whether its channels can still be scaled and shifted, or an array be added."""
        return self.residual is None and not self.activation

    def extend(self, name, vector):
        """Returns it with a vector added to its channels, subtracted or multiplied by."""
        if name == "mul":
            scale = vector if self.scale is None else self.scale * vector
            shift = None if self.shift is None else self.shift * vector
            return dataclasses.replace(self, scale=scale, shift=shift)
        vector = -vector if name == "sub" else vector
        shift = vector if self.shift is None else self.shift + vector
        return dataclasses.replace(self, shift=shift)

    def compute(self):
        """Returns its outputs."""
        operands = [a for a in (self.scale, self.shift, self.residual) if a is not None]
        epilogue = Epilogue(
            self.scale is not None,
            self.shift is not None,
            self.residual is not None,
            self.activation,
        )
        if epilogue != Epilogue():
            create = functools.partial(_create, self.geometry, epilogue)
            target = find_target("fused", (self.geometry, epilogue), create)
            if target is not None:
                result = jax.ShapeDtypeStruct(self.geometry.outputs, jnp.float32)
                return jax.ffi.ffi_call(target, result)(self.images, self.kernel, *operands)
        (outputs,) = self.operation(self.images, self.kernel)
        if self.scale is not None:
            outputs = outputs * self.scale
        if self.shift is not None:
            outputs = outputs + self.shift
        if self.residual is not None:
            outputs = outputs + self.residual
        return _FUNCTIONS[self.activation](outputs) if self.activation else outputs


def _create(geometry, epilogue, _):
    return Convolution(FORWARD, geometry, epilogue)


def _compute(traced, arrays):
    """Returns the result of a program, with its convolutions fused."""
    state = _State(traced, arrays)
    index = 0
    while index < len(traced.operations):
        count = state.take_activation(index)
        if not count:
            operation = traced.operations[index]
            count = 1
            if not state.take_sum_or_product(operation):
                state.compute(operation)
        index += count
    return jax.tree.unflatten(traced.tree, map(state.read, traced.outputs))


class _State:
    """What is computed of a program so far, and the convolutions that wait."""

    def __init__(self, traced: program.Program, arrays: Sequence[jax.Array]):
        self._operations = traced.operations
        self._arrays = dict(zip(traced.inputs, arrays, strict=True))
        self._pending: dict[Value, _Pending] = {}
        self._uses = _count_uses(traced)

    def read(self, value: Any) -> Any:
        """Returns the array of a value, computed if it still waits; a constant is itself."""
        if not isinstance(value, Value):
            return value
        if value in self._pending:
            self._arrays[value] = self._pending.pop(value).compute()
        return self._arrays[value]

    def compute(self, operation: Operation) -> None:
        """Computes an operation, or lets it wait if it is a convolution."""
        inputs = [self.read(value) for value in operation.inputs]
        geometry = _geometry(operation)
        if geometry is None:
            self._arrays |= zip(operation.outputs, operation(*inputs), strict=True)
        else:
            self._pending[operation.outputs[0]] = _Pending(operation, geometry, *inputs)

    def take_activation(self, start: int) -> int:
        """Returns how many operations from one on activate a waiting convolution; 0 for none."""
        for value in self._operations[start].inputs:
            waiting = self._pending.get(value) if isinstance(value, Value) else None
            if waiting is None or waiting.activation:
                continue
            for name, pattern in _patterns(value.shape):
                operations = self._operations[start : start + len(pattern.operations)]
                result = _match(pattern, operations, value, self._uses)
                if result is not None:
                    del self._pending[value]
                    self._pending[result] = dataclasses.replace(waiting, activation=name)
                    return len(pattern.operations)
        return 0

    def take_sum_or_product(self, operation: Operation) -> bool:
        """Returns whether an operation became part of a waiting convolution."""
        name = operation.primitive.name
        if name not in ("add", "sub", "mul"):
            return False
        for value, other in (operation.inputs, operation.inputs[::-1]):
            waiting = self._pending.get(value) if isinstance(value, Value) else None
            if waiting is None or not waiting.is_open or self._uses[value] > 1:
                continue
            if name == "sub" and value is not operation.inputs[0]:
                continue
            shape = other.shape if isinstance(other, Value) else jnp.shape(other)
            if shape in ((), (1, 1, 1, value.shape[-1])):
                array = self.read(other)
                vector = jnp.broadcast_to(jnp.ravel(array), value.shape[-1:])
                extended = waiting.extend(name, vector)
            elif name == "add" and shape == value.shape:
                extended = dataclasses.replace(waiting, residual=self.read(other))
            else:
                continue
            del self._pending[value]
            self._pending[operation.outputs[0]] = extended
            return True
        return False


def _count_uses(traced):
    """Returns {value: how often it is read}."""
    lists = [operation.inputs for operation in traced.operations]
    lists.append(traced.outputs)
    return collections.Counter(
        value for values in lists for value in values if isinstance(value, Value)
    )


def _geometry(operation):
    """Returns the geometry of a convolution that can be fused, or None."""
    if operation.primitive is not jax.lax.conv_general_dilated_p:
        return None
    arrays = (*operation.inputs, *operation.outputs)
    if any(array.dtype != jnp.float32 for array in arrays):
        return None
    form = recognize(*(array.shape for array in arrays), operation.options)
    return form[1] if form is not None and form[0] == FORWARD else None


@functools.cache
def _patterns(shape):
    """Returns [(name, program)] of the activations of an array, those of many operations first."""
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    patterns = [(name, program.trace(function, array)) for name, function in _FUNCTIONS.items()]
    return sorted(patterns, key=lambda item: -len(item[1].operations))


def _match(pattern, operations, value, uses):
    """Returns the result of operations if they are a pattern of a value, or None.

    Nothing else may read the value, or what is computed between it and the result.
    """
    if len(operations) != len(pattern.operations):
        return None
    values = {pattern.inputs[0]: value}
    for theirs, ours in zip(pattern.operations, operations, strict=True):
        if theirs.primitive is not ours.primitive or theirs.options != ours.options:
            return None
        for their_input, our_input in zip(theirs.inputs, ours.inputs, strict=True):
            expected = their_input
            if isinstance(their_input, Value):
                expected = values[their_input]
            if expected is not our_input and not _are_equal_constants(expected, our_input):
                return None
        values |= zip(theirs.outputs, ours.outputs, strict=True)
    (output,) = pattern.outputs
    their_uses = _count_uses(pattern)
    for theirs, ours in values.items():
        if theirs is not output and uses[ours] != their_uses[theirs]:
            return None
    return values[output]


def _are_equal_constants(first, second):
    if isinstance(first, Value) or isinstance(second, Value):
        return False
    return jnp.shape(first) == jnp.shape(second) == () and bool(first == second)
