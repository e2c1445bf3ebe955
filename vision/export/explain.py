"""Finds the place of an operation that a format cannot express: file, line and layer."""

import os
import re
import traceback
from collections.abc import Callable, Iterable

import jax
from jax.extend import core

from vision.errors import first_line
from vision.export.program import Program

HERE = os.path.dirname(__file__) + os.sep
# parts of the names of a traceback's files that are not a model's
LIBRARIES = ("site-packages", "dist-packages", "<", HERE)


def raised_at(error: Exception) -> tuple[str, str]:
    """Returns which operation of a model a converter's exception is about.

    Args:
        error: an exception raised by code that converts a jaxpr, with the current equation in a
            local variable `eqn`, or that traces the model.

    Returns:
        (name of the primitive, or "" if none was reached; its place, as `place` returns it).
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
    equations = [e for frame in frames if isinstance(e := frame.f_locals.get("eqn"), core.JaxprEqn)]
    if equations:
        return _primitive_and_place(equations)
    codes = [
        (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname) for frame in frames
    ]
    if not codes or codes[0][0].startswith(HERE):  # none of the model's code was running
        return "", ""
    return "", place(codes)


def explain(error: Exception, program: Program, batch: int, name: str, convert: Callable) -> str:
    """Returns an error message for an exception of a converter, with the place in the model.

    Args:
        error: the exception.
        program: the served model.
        batch: images in a batch, at least 1.
        name: what the format is called.
        convert: `convert(function, shapes)` raises an exception if the format cannot express a
            function as `refused` describes it.
    """

    def refuses(function, shapes):
        try:
            convert(function, shapes)
        except Exception:  # any kind means that it is refused
            return True
        return False

    primitive, where = refused(program, batch, refuses)
    if primitive:
        return f"{name} has no operation for JAX's '{primitive}'" + (f" ({where})" if where else "")
    return f"this model cannot be written as {name}: {first_line(error)}"


def refused(program: Program, batch: int, refuses: Callable) -> tuple[str, str]:
    """Returns the first operation of a model that a format cannot express.

    Operations on constants only, such as those on weights, are computed and not tried.

    Args:
        program: the served model.
        batch: images in a batch, at least 1.
        refuses: `refuses(function, shapes)`: whether the format cannot express a function of arrays
            of these `jax.ShapeDtypeStruct` that returns a list of arrays.

    Returns:
        (name of the primitive, its place, as `place` returns it); ("", "") if each operation can
        be expressed.
    """
    closed = jax.make_jaxpr(program.function)(*program.shapes(batch))
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    equations = _refused_equations(closed.jaxpr, constants, refuses, set())
    return _primitive_and_place(equations) if equations else ("", "")


def place(frames: Iterable[tuple[str, int, str]]) -> str:
    """Returns "file.py:12, in Layer.__call__" for the innermost frame of a model's own code.

    If that frame is not a method, the method that called it is named too. "" if all frames are of
    libraries.

    Args:
        frames: (file, line, qualified name) of each frame, the innermost first.
    """
    own = [frame for frame in frames if not any(part in frame[0] for part in LIBRARIES)]
    if not own:
        return ""
    file, line, name = own[0]
    method = next((_short(frame[2]) for frame in own if "." in _short(frame[2])), _short(name))
    caller = f" of {method}" if method != _short(name) else ""
    return f"{file}:{line}, in {_short(name)}{caller}"


def _short(name):
    return re.sub(r".*<locals>\.", "", name)


def _primitive_and_place(equations):
    """Returns (primitive, place) of the first of some equations, each nested in the next.

    The place is the first that is known: equations of a function that JAX had traced before do not
    record where it was called from.
    """
    places = []
    for equation in equations:
        trace = equation.source_info.traceback
        frames = trace.frames if trace else []
        places.append(place([(f.file_name, f.line_num, f.function_name) for f in frames]))
    return equations[0].primitive.name, next(filter(None, places), "")


def _refused_equations(jaxpr, constants, refuses, tried):
    """Returns the first equation that is refused, preceded by those nested in it that are.

    Args:
        jaxpr: the jaxpr to search.
        constants: {variable: value} of the variables with known values; added to.
        refuses: see `refused`.
        tried: keys of the equations that are not refused; added to.
    """
    for equation in jaxpr.eqns:
        inputs = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, core.Literal)))
        function, free = _isolated(equation, inputs, constants)
        if not free:
            constants.update(zip(_outputs(equation), function(), strict=True))
            continue
        key = (
            equation.primitive,
            str(equation.params),
            tuple((str(v.aval), v in constants) for v in inputs),
        )
        if key in tried:
            continue
        tried.add(key)
        if refuses(function, [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in free]):
            return [*_nested_refused(equation, constants, refuses, tried), equation]
    return []


def _isolated(equation, inputs, constants):
    """Returns (a function that computes one equation, the variables that it takes).

    It takes the inputs whose values are unknown; the others are its constants.
    """
    fixed = [v for v in inputs if v in constants]
    free = [v for v in inputs if v not in constants]
    jaxpr = core.Jaxpr(fixed, free, _outputs(equation), [equation], equation.effects)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, [constants[v] for v in fixed])), free


def _outputs(equation):
    return [v for v in equation.outvars if str(v) != "_"]  # "_" is dropped


def _nested_refused(equation, constants, refuses, tried):
    """Returns the refused equations nested in an equation; none if each can be expressed."""
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
        if not _is_jaxpr(value):
            continue
        jaxpr = getattr(value, "jaxpr", value)
        inner = dict(zip(jaxpr.constvars, getattr(value, "consts", ()), strict=False))
        # the same inputs: it is called exactly once
        if [str(v.aval) for v in jaxpr.invars] == [str(v.aval) for v in equation.invars]:
            for parameter, argument in zip(jaxpr.invars, equation.invars, strict=True):
                if isinstance(argument, core.Literal):
                    inner[parameter] = argument.val
                elif argument in constants:
                    inner[parameter] = constants[argument]
        if equations := _refused_equations(jaxpr, inner, refuses, tried):
            return equations
    return []


def _is_jaxpr(value):
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)
