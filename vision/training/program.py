"""Ahead-of-time compilation: what a step costs is known before it runs."""

import jax

from vision.errors import UserError


class Program:
    """A compiled function; call it as the function itself, with arrays of the shapes it was
    compiled for.

    Attributes:
        flops: floating-point operations of one call over all devices, or None. XLA's count before
            it optimizes; what a loop does is counted once.
        bytes_accessed: bytes that one call reads and writes by XLA's count, or None.
        memory: {"arguments", "outputs", "aliased", "temporaries", "code"}, bytes on one device;
            empty where the platform does not say. Aliased: outputs that reuse a donated argument.
    """

    def __init__(self, lowered, compiled):
        self._compiled = compiled
        self.flops = _cost(lowered.cost_analysis(), "flops")
        self.bytes_accessed = _cost(compiled.cost_analysis(), "bytes accessed")
        found = compiled.memory_analysis()
        names = {
            "arguments": "argument",
            "outputs": "output",
            "aliased": "alias",
            "temporaries": "temp",
        }
        names["code"] = "generated_code"
        self.memory = (
            {}
            if found is None
            else {k: getattr(found, f"{v}_size_in_bytes") for k, v in names.items()}
        )

    def __call__(self, *args):
        return self._compiled(*args)

    @property
    def peak_bytes(self):
        """Bytes on one device while it runs, without what else lives there; None where the platform
        does not say."""
        m = self.memory
        return m["arguments"] + m["outputs"] - m["aliased"] + m["temporaries"] if m else None


def compile_program(jitted, *args, options=""):
    """Compiles `jitted` for arguments like `args`.

    Args:
        jitted: from `jax.jit`.
        args: arrays, or `jax.ShapeDtypeStruct` with shardings.
        options: compiler options, "NAME=VALUE NAME=VALUE".

    Raises:
        UserError: an option that XLA does not know.
    """
    return compile_lowered(jitted.lower(*args), parse_options(options))


def compile_lowered(lowered, options):
    """Compiles what `jitted.lower(...)` returned, with options from `parse_options`; raises as
    `compile_program`."""
    try:
        return Program(lowered, lowered.compile(compiler_options=options or None))
    except jax.errors.JaxRuntimeError as error:
        if options and "INVALID_ARGUMENT" in str(error):
            text = " ".join(f"{name}={value}" for name, value in options.items())
            raise UserError(
                f"parallel.xla_options = '{text}': {str(error).splitlines()[0][:200]}"
            ) from error
        raise


def count_flops(jitted, *args):
    """Returns `Program.flops` without compiling."""
    return _cost(jitted.lower(*args).cost_analysis(), "flops")


def parse_options(text):
    """Returns {name: value} of "NAME=VALUE NAME=VALUE", true and false as bools; raises `UserError`
    for other texts."""
    pairs = [part.partition("=") for part in text.split()]
    wrong = next((name for name, equals, value in pairs if not (equals and value)), None)
    if wrong is not None:
        raise UserError(f"parallel.xla_options = '{text}': NAME=VALUE is expected at '{wrong}'")
    truth = {"true": True, "false": False}  # XLA takes no other spelling
    return {name.lstrip("-"): truth.get(value.lower(), value) for name, _, value in pairs}


def _cost(analysis, name):
    # of older JAX: a list
    analysis = analysis[0] if isinstance(analysis, list) and analysis else analysis
    return float(analysis[name]) if analysis and name in analysis else None
