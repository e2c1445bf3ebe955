"""Ahead-of-time compilation: the cost of a step is known before it runs."""

from collections.abc import Mapping
from typing import Any

import jax

from vision.errors import UserError, brief
from vision.models.surgery.costs import products

MEMORY = {  # our names of XLA's numbers in `memory_analysis`
    "arguments": "argument_size_in_bytes",
    "outputs": "output_size_in_bytes",
    "aliased": "alias_size_in_bytes",
    "temporaries": "temp_size_in_bytes",
    "code": "generated_code_size_in_bytes",
}


class Program:
    """A compiled function; call it with arrays of the shapes that it was compiled for.

    Args:
        traced: the traced function, from `jax.jit(...).trace(...)`.
        compiled: the same, compiled.

    Attributes:
        flops: floating-point operations of one call's convolutions and matrix products, over all
            devices.
        bytes_accessed: bytes that one call reads and writes by XLA's count, or None.
        memory: {"arguments", "outputs", "aliased", "temporaries", "code"}: bytes on one device; {}
            if the platform hides them. Aliased: outputs that reuse a donated argument.
    """

    def __init__(self, traced: Any, compiled: Any):
        self._compiled = compiled
        self.flops = count_flops(traced)
        self.bytes_accessed = _cost(compiled.cost_analysis(), "bytes accessed")
        self.memory: dict[str, int] = {}
        analysis = compiled.memory_analysis()
        if analysis is not None:
            self.memory = {name: getattr(analysis, number) for name, number in MEMORY.items()}

    def __call__(self, *args: Any) -> Any:
        return self._compiled(*args)

    @property
    def peak_bytes(self) -> int | None:
        """Bytes on one device while it runs, except other arrays there; None if unknown."""
        if not self.memory:
            return None
        m = self.memory
        return m["arguments"] + m["outputs"] - m["aliased"] + m["temporaries"]


def compile_program(jitted: Any, *args: Any, options: str = "") -> Program:
    """Compiles a function for given arguments.

    Args:
        jitted: the function, from `jax.jit`.
        *args: arrays, or `jax.ShapeDtypeStruct` with shardings.
        options: compiler options, "NAME=VALUE NAME=VALUE".

    Raises:
        UserError: an option is unknown to XLA.
    """
    traced = jitted.trace(*args)
    return compile_lowered(traced, traced.lower(), parse_options(options))


def compile_lowered(traced: Any, lowered: Any, options: Mapping[str, bool | str]) -> Program:
    """Compiles a traced function.

    Args:
        traced: from `jax.jit(...).trace(...)`.
        lowered: from its `lower()`.
        options: from `parse_options`.

    Raises:
        UserError: an option is unknown to XLA.
    """
    try:
        return Program(traced, lowered.compile(compiler_options=dict(options) or None))
    except jax.errors.JaxRuntimeError as error:
        if options and "INVALID_ARGUMENT" in str(error):
            text = " ".join(f"{name}={value}" for name, value in options.items())
            reason = brief(error)
            raise UserError(f"parallel.xla_options = '{text}': {reason}") from error
        raise


def count_flops(traced: Any) -> int:
    """Returns `Program.flops` of a function, from `jax.jit(...).trace(...)`."""
    return sum(flops for flops, _ in products(traced.jaxpr.jaxpr))


def parse_options(text: str) -> dict[str, bool | str]:
    """Returns {name: value} of "NAME=VALUE NAME=VALUE"; true and false become bools.

    Raises:
        UserError: the text has another form.
    """
    booleans = {"true": True, "false": False}  # XLA accepts no other spelling
    options: dict[str, bool | str] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not (equals and value):
            raise UserError(f"parallel.xla_options = '{text}': expected NAME=VALUE, got '{name}'")
        options[name.lstrip("-")] = booleans.get(value.lower(), value)
    return options


def _cost(analysis: Any, name: str) -> float | None:
    if isinstance(analysis, list):  # of older JAX
        analysis = analysis[0] if analysis else None
    return float(analysis[name]) if analysis and name in analysis else None
