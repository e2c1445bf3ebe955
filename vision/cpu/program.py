"""A traced function as a flat list of operations, for what reads and rewrites it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

# Calls that only name what they consist of, and where their operations are.
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


class Value:
    """An array of a program: what computes it is unknown to it."""

    def __init__(self, aval: Any):
        self.shape = aval.shape
        self.dtype = aval.dtype


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        equation: of a jaxpr, as JAX traced it.
        inputs: a `Value` each, or the constant itself.
        outputs: a `Value` each.
    """

    equation: core.JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[Value, ...]

    @property
    def primitive(self) -> core.Primitive:
        """The primitive of JAX."""
        return self.equation.primitive

    @property
    def options(self) -> Mapping[str, Any]:
        """The primitive's parameters."""
        return self.equation.params

    def __call__(self, *arrays: jax.Array) -> Sequence[jax.Array]:
        """Returns its outputs for these inputs, constants included."""
        given = {
            variable: array
            for variable, array in zip(self.equation.invars, arrays, strict=True)
            if not isinstance(variable, core.Literal)
        }
        jaxpr = core.Jaxpr(
            (), tuple(given), self.equation.outvars, [self.equation], self.equation.effects
        )
        return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*given.values())


@dataclasses.dataclass(frozen=True)
class Program:
    """A function without its control flow.

    Attributes:
        operations: in an order in which they can be computed.
        inputs: a `Value` for each array in the arguments.
        outputs: a `Value` or a constant for each array in the result.
        tree: the structure of the result.
    """

    operations: Sequence[Operation]
    inputs: Sequence[Value]
    outputs: Sequence[Any]
    tree: Any


def trace(function: Callable, *arguments: Any) -> Program:
    """Returns a function as a program; calls within it are inlined.

    Args:
        function: traceable by JAX.
        arguments: trees of arrays, of traced ones or of `jax.ShapeDtypeStruct`.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    inputs = [Value(variable.aval) for variable in closed.jaxpr.invars]
    operations: list[Operation] = []
    outputs = _inline(closed, inputs, operations)
    return Program(operations, inputs, outputs, jax.tree.structure(shape))


def _inline(closed, inputs, operations):
    """Appends the operations of a jaxpr; returns the values or constants of its outputs."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        arrays = tuple(map(read, equation.invars))
        name = _CALLS.get(equation.primitive.name)
        if name is not None:
            outputs = _inline(equation.params[name], arrays, operations)
        else:
            outputs = tuple(Value(variable.aval) for variable in equation.outvars)
            operations.append(Operation(equation, arrays, outputs))
        values |= zip(equation.outvars, outputs, strict=True)
    return tuple(map(read, jaxpr.outvars))
